"""The rolling restart of ``examples``: its accounts are right, and a small one keeps its promises."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner
from rich.console import Console
from trio.testing import MockClock

from examples.rolling_restart.__main__ import main
from examples.rolling_restart.fleet import ChildFailed, HubServerProcess, run_child
from examples.rolling_restart.ledger import Account, Counts, Ledger, percentile
from examples.rolling_restart.report import STAGES, as_json, broken_promises, show
from examples.rolling_restart.rollout import Options, Rollout
from examples.rolling_restart.screen import LiveScreen

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def account(ledger: Ledger) -> Account:
    account = ledger.open_account()
    account.connected(0.0)
    return account


def sent(account: Account, *numbers: int, lane: str = "call") -> None:
    for number in numbers:
        account.sent(lane, number, 0.0, 0.0)


def answered(account: Account, *numbers: int, lane: str = "call") -> None:
    for number in numbers:
        account.answered(lane, number, "a", number - 1, 0.0)


class TestAccount:
    def test_answers_in_order_are_all_right(self, account: Account) -> None:
        sent(account, 1, 2, 3)
        answered(account, 1, 2, 3)
        account.close()
        assert account.counts == Counts(sent=3, answered=3)
        assert account.faults == []

    def test_lanes_are_numbered_apart(self, account: Account) -> None:
        sent(account, 1)
        sent(account, 1, lane="stream")
        answered(account, 1, lane="stream")
        answered(account, 1)
        assert account.counts == Counts(sent=2, answered=2)

    def test_second_answer_is_a_duplicate(self, account: Account) -> None:
        sent(account, 1)
        answered(account, 1, 1)
        assert account.counts == Counts(sent=1, answered=1, duplicated=1)

    def test_answer_after_an_error_is_a_duplicate(self, account: Account) -> None:
        sent(account, 1)
        account.failed("call", 1, "no")
        answered(account, 1)
        assert account.counts == Counts(sent=1, failed=1, duplicated=1)

    def test_error_after_an_answer_is_a_duplicate(self, account: Account) -> None:
        sent(account, 1)
        answered(account, 1)
        account.failed("call", 1, "no")
        assert account.counts == Counts(sent=1, answered=1, duplicated=1)

    def test_answers_that_overtake_are_out_of_order(self, account: Account) -> None:
        sent(account, 1, 2)
        answered(account, 2, 1)
        assert account.counts == Counts(sent=2, answered=2, out_of_order=1)

    @pytest.mark.parametrize(
        "before",
        [pytest.param(0, id="state-left-behind"), pytest.param(3, id="overtaken-on-its-way")],
    )
    def test_hub_that_saw_another_order_is_out_of_order(
        self, account: Account, before: int
    ) -> None:
        sent(account, 1, 2)
        answered(account, 1)
        account.answered("call", 2, "b", before, 0.0)
        assert account.counts == Counts(sent=2, answered=2, out_of_order=1)

    def test_no_answer_at_the_end_is_lost(self, account: Account) -> None:
        sent(account, 1, 2, 3)
        answered(account, 1)
        assert account.counts.outstanding == 2
        account.close()
        assert account.counts == Counts(sent=3, answered=1, lost=2)
        assert account.counts.outstanding == 0
        assert account.faults == ["call 2 to 3: no answer at the end"]

    def test_connection_lost_takes_what_was_under_way_with_it(self, account: Account) -> None:
        sent(account, 1, 2)
        account.disconnected(1.0)
        account.connected(2.0)
        sent(account, 1)
        answered(account, 1)
        account.close()
        assert account.counts == Counts(sent=3, answered=1, lost=2, disconnects=1)

    def test_end_for_good_after_a_loss_is_one_disconnect(self, account: Account) -> None:
        account.disconnected(1.0)
        account.disconnected(2.0)
        assert account.counts == Counts(disconnects=1)

    def test_broadcast_counts_once_per_server(self, account: Account) -> None:
        for server in ("a", "b", "a"):
            account.announced(server)
        assert account.counts == Counts(broadcasts=2, duplicated=1)

    def test_missing_items_are_out_of_order(self, account: Account) -> None:
        account.misplaced("stream 1: its items were [0, 2]")
        assert account.counts == Counts(out_of_order=1)


class TestPause:
    def test_work_of_the_hub_is_no_pause(self, account: Account) -> None:
        # Both were sent at 1.0, and the hub takes one after the other: 0.2 s, then 0.3 s.
        account.sent("call", 1, 0.2, 1.0)
        account.sent("call", 2, 0.3, 1.0)
        account.answered("call", 1, "a", 0, 1.2)
        account.answered("call", 2, "a", 1, 1.5)
        assert account.steady_pause == pytest.approx(0.0)

    def test_what_comes_on_top_is(self, account: Account) -> None:
        account.sent("call", 1, 0.2, 1.0)
        account.answered("call", 1, "a", 0, 1.3)
        assert account.steady_pause == pytest.approx(0.1)
        assert account.restart_pause == 0.0

    @pytest.mark.parametrize("began_in_it", [True, False])
    def test_restart_claims_each_pause_that_touches_it(
        self, ledger: Ledger, account: Account, began_in_it: bool
    ) -> None:
        ledger.restarting = began_in_it
        account.sent("call", 1, 0.0, 1.0)
        ledger.restarting = not began_in_it
        account.answered("call", 1, "b", 0, 1.4)
        assert account.restart_pause == pytest.approx(0.4)
        assert account.steady_pause == 0.0

    def test_time_without_a_connection_is_a_pause(self, ledger: Ledger, account: Account) -> None:
        ledger.restarting = True
        account.disconnected(1.0)
        account.connected(3.5)
        assert account.restart_pause == pytest.approx(2.5)

    def test_percentiles_are_of_the_values(self) -> None:
        values = [float(value) for value in range(1, 101)]
        assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [51.0, 100.0, 100.0]
        assert percentile([], 0.5) == 0.0


def test_totals_are_of_all_accounts(ledger: Ledger) -> None:
    for _ in range(2):
        account = ledger.open_account()
        account.connected(0.0)
        sent(account, 1)
        answered(account, 1)
    ledger.accounts[0].disconnected(1.0)
    assert ledger.totals() == Counts(sent=2, answered=2, disconnects=1)
    assert ledger.connected == 1
    assert ledger.clients_per_server() == {"a": 1}


def report(**others: Any) -> dict[str, Any]:
    stages = [{"name": name, "duration": 0.1, "timed_out": False} for name in ("offline", "stop")]
    return {"stages": stages, "migrated": 1, "left": 0, "aborted": 0, "dropped": {}} | others


def finished(mode: str, tmp_path: Path) -> Rollout:
    """A rollout of one server and one client in which all went well."""
    rollout = Rollout(Options(mode=mode, servers=1), tmp_path)
    rollout.servers.append(HubServerProcess("a", exit_code=0, report=report()))
    account = rollout.ledger.open_account()
    account.connected(0.0)
    account.announced("a")
    return rollout


class TestPromises:
    @pytest.mark.parametrize("mode", ["migrate", "wait", "off"])
    def test_kept(self, mode: str, tmp_path: Path) -> None:
        assert broken_promises(finished(mode, tmp_path)) == []

    @pytest.mark.parametrize("mode", ["migrate", "wait", "off"])
    @pytest.mark.parametrize("fault", ["duplicated", "out_of_order"])
    def test_broken_in_every_mode(self, mode: str, fault: str, tmp_path: Path) -> None:
        rollout = finished(mode, tmp_path)
        setattr(rollout.ledger.accounts[0].counts, fault, 1)
        assert broken_promises(rollout) == [f"1 {fault.replace('_', ' ')}"]

    @pytest.mark.parametrize("fault", ["lost", "failed", "disconnects"])
    def test_broken_where_clients_are_handed_over(self, fault: str, tmp_path: Path) -> None:
        for mode, expected in (("migrate", [f"1 {fault}"]), ("wait", []), ("off", [])):
            rollout = finished(mode, tmp_path)
            setattr(rollout.ledger.accounts[0].counts, fault, 1)
            assert broken_promises(rollout) == expected

    def test_missing_broadcast_is_told(self, tmp_path: Path) -> None:
        rollout = finished("migrate", tmp_path)
        rollout.ledger.accounts[0].counts.broadcasts = 0
        assert broken_promises(rollout) == ["1 broadcasts of 1 are missing"]

    def test_client_that_stays_away_is_told(self, tmp_path: Path) -> None:
        rollout = finished("off", tmp_path)
        rollout.ledger.accounts[0].disconnected(1.0)
        assert broken_promises(rollout) == ["1 clients did not come back"]

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"dropped": {"the time to leave was up": 2}}, id="dropped"),
            pytest.param({"left": 1, "aborted": 1}, id="left-and-aborted"),
        ],
    )
    def test_client_that_was_not_handed_over_is_told(
        self, change: dict[str, Any], tmp_path: Path
    ) -> None:
        rollout = finished("migrate", tmp_path)
        rollout.servers[0].report = report(**change)
        assert broken_promises(rollout) == ["a did not hand over 2 clients"]

    def test_stage_that_timed_out_is_told(self, tmp_path: Path) -> None:
        rollout = finished("migrate", tmp_path)
        stages = [{"name": "clients", "duration": 30.0, "timed_out": True}]
        rollout.servers[0].report = report(stages=stages)
        assert broken_promises(rollout) == ["a: stage clients timed out"]

    def test_server_without_a_report_is_told(self, tmp_path: Path) -> None:
        rollout = finished("off", tmp_path)
        rollout.servers[0].report = None
        assert broken_promises(rollout) == ["a wrote no report"]

    def test_server_that_failed_or_hung_is_told(self, tmp_path: Path) -> None:
        rollout = finished("off", tmp_path)
        rollout.servers[0].exit_code = 1
        rollout.hung.append("a")
        assert broken_promises(rollout) == [
            "a had not ended when its time was up",
            "a ended with exit code 1",
        ]


async def test_a_terminal_of_80_columns_cuts_nothing(tmp_path: Path) -> None:
    """Neither while it runs nor at the end, however large the figures."""
    rollout = finished("wait", tmp_path)
    stages = [{"name": name, "duration": 29.123, "timed_out": True} for name in STAGES]
    rollout.servers = [
        HubServerProcess(
            f"chat-{index}.v1", exit_code=0, report=report(stages=stages, migrated=900)
        )
        for index in (1, 2, 3)
    ]
    counts = rollout.ledger.accounts[0].counts
    counts.sent = counts.answered = 1_234_567
    rollout.ledger.accounts[0].restart_pause = 12.345
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    show(console, as_json(rollout))
    screen = LiveScreen(console, rollout)
    screen.says("5 s of load before the restarts")
    with trio.CancelScope() as scope:
        async with screen.shown():
            await trio.lowlevel.checkpoint()
            scope.cancel()
    shown = console.file.getvalue()
    assert "Rolling restart" in shown
    assert "1,234,567" in shown
    assert "…" not in shown


def test_a_result_that_could_not_be_written_is_told_before_the_run() -> None:
    done = CliRunner().invoke(main, ["--json", "no/such/result.json"])
    assert done.exit_code == 2
    assert "there is no folder 'no/such'" in done.output


class TestChildren:
    async def test_cancelled_the_process_is_no_more(self, tmp_path: Path) -> None:
        async with trio.open_nursery() as nursery:
            command = [sys.executable, "-c", "import time; time.sleep(1000)"]
            child = await nursery.start(run_child, "sleeper", command, print, tmp_path)
            nursery.cancel_scope.cancel()
        assert child.process.returncode is not None

    async def test_process_that_ignores_sigterm_is_killed(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        ignoring = trio.Event()
        program = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "print('deaf', flush=True); time.sleep(1000)"
        )

        def take_line(_: str) -> None:
            ignoring.set()

        async with trio.open_nursery() as nursery:
            command = [sys.executable, "-c", program]
            child = await nursery.start(run_child, "deaf", command, take_line, tmp_path)
            await ignoring.wait()
            nursery.cancel_scope.cancel()
        assert child.process.returncode == -9

    async def test_unexpected_end_is_an_error_with_the_log(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", "import sys; sys.exit('out of luck')"]
        with pytest.raises(ChildFailed, match=r"^unlucky ended with exit code 1\.\nout of luck$"):
            await run_child("unlucky", command, print, tmp_path)


async def run_example(tmp_path: Path, *options: str) -> dict[str, Any]:
    """Runs the example without JavaScript clients; its result."""
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "examples.rolling_restart", "--no-js", "--clients", "20"]
    with trio.fail_after(120):
        done = await trio.run_process(
            [*command, "--json", str(result), *options],
            cwd=ROOT,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert done.returncode == 0, done.stdout.decode()
    return json.loads(result.read_bytes())


async def test_no_client_notices_a_rolling_restart(tmp_path: Path) -> None:
    result = await run_example(tmp_path, "--servers", "2", "--seconds", "0.5")
    messages = result["messages"]
    assert result["promises_kept"]
    assert messages["sent"] == messages["answered"] > 100
    nothing = {"lost": 0, "failed": 0, "duplicated": 0, "out_of_order": 0, "disconnects": 0}
    assert messages | nothing == messages
    assert messages["broadcasts"] == 2 * 20
    # Half of the clients were on each server, and the replacement of the first is one of two.
    assert [server["report"]["migrated"] for server in result["servers"]] == [10, 10]


async def test_accounts_show_what_a_restart_without_hand_over_costs(tmp_path: Path) -> None:
    result = await run_example(
        tmp_path, "--servers", "1", "--seconds", "0.5", "--mode", "off", "--large-every", "0"
    )
    messages = result["messages"]
    assert messages["disconnects"] == 20
    assert messages["lost"] + messages["failed"] > 0
    assert messages["sent"] == sum(messages[what] for what in ("answered", "lost", "failed"))
    (server,) = result["servers"]
    assert sum(server["report"]["dropped"].values()) == 20
