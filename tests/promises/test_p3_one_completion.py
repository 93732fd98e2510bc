"""P3: each invocation that reached a server runs to its end there, and exactly one completion
reaches its client: the result or, when the time is up, an error that says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import attrs
import pytest
import trio
from harness.scripted_service import ScriptedClient, ScriptedService, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import GracefulShutdown, Hub, HubError, HubOptions
from signalr_trio.protocol.messages import Completion
from signalr_trio.protocol.service_messages import CloseConnection, MultiConnectionData

TIME_IS_UP = "The hub server is shutting down and this call did not end in time."
GONE = "The client has gone."
HURRY = "The client is moving to another server, which this call did not let happen in time."


class Ledger:
    """A hub that writes down which calls began and ended."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.disconnected_at = 0.0
        ledger = self

        class Work(Hub):
            async def on_disconnected(self, error: Exception | None) -> None:
                ledger.disconnected_at = trio.current_time()
                await self.clients.caller.send("goodbye")

            async def plain(self, number: int, seconds: float) -> int:
                ledger.begun.append(number)
                await trio.sleep(seconds)
                ledger.ended.append(number)
                return number

            async def fail(self, number: int, seconds: float) -> None:
                ledger.begun.append(number)
                await trio.sleep(seconds)
                ledger.ended.append(number)
                raise HubError("as planned")

            async def stream(self, number: int, seconds: float) -> AsyncIterator[int]:
                ledger.begun.append(number)
                for item in range(3):
                    await trio.sleep(seconds / 3)
                    yield item
                ledger.ended.append(number)

            async def upload(
                self, number: int, seconds: float, items: AsyncIterator[int]
            ) -> list[int]:
                ledger.begun.append(number)
                await trio.sleep(seconds)
                found = [item async for item in items]
                ledger.ended.append(number)
                return found

        self.hub = Work


# -- the hand-over --------------------------------------------------------------------------


async def test_p3_a_running_and_a_queued_invocation_end_before_the_release(
    autojump_clock: MockClock,
) -> None:
    ledger = Ledger()
    async with serving(ledger.hub) as served:
        client = await served.service.connected()
        ids = [client.invoke("plain", number, 2) for number in range(3)]
        await wait_all_tasks_blocked()
        client.move()
        release = await client.released()
        assert [await client.result(id) for id in ids] == [0, 1, 2]
        assert client.all[-1] is release
        assert trio.current_time() == ledger.disconnected_at == 6


async def test_p3_a_stream_runs_to_its_end(autojump_clock: MockClock) -> None:
    ledger = Ledger()
    async with serving(ledger.hub) as served:
        client = await served.service.connected()
        id = client.stream("stream", 0, 6)
        await wait_all_tasks_blocked()
        client.move()
        await client.released()
        assert client.items(id) == [0, 1, 2]
        assert client.completions(id) == [Completion(id)]


async def test_p3_an_upload_is_read_to_its_end(autojump_clock: MockClock) -> None:
    """What belongs to a call that began here still comes here."""
    ledger = Ledger()
    async with serving(ledger.hub) as served:
        client = await served.service.connected()
        id = client.invoke("upload", 0, 1, streams=["u"])
        client.item("u", 1)
        client.move()
        await trio.sleep(3)
        assert not client.releases
        client.item("u", 2)
        client.end_upload("u")
        await client.released()
        assert await client.result(id) == [1, 2]


async def test_p3_sends_of_calls_and_of_on_disconnected_stand_before_the_release(
    autojump_clock: MockClock,
) -> None:
    """P2's part of it: the release is the last thing, on the client's connection."""
    ledger = Ledger()
    async with serving(ledger.hub, connections=3) as served:
        client = served.service.open(connection=served.service.connections[1])
        await served.service.until(lambda: client.responses)
        client.move()
        release = await client.released()
        (send,) = served.service.connections[1].received(MultiConnectionData)
        said = [one.message for one in served.service.log]
        assert said.index(send) < said.index(release)


async def test_p3_a_cancel_still_reaches_a_stream(autojump_clock: MockClock) -> None:
    ledger = Ledger()
    async with serving(ledger.hub) as served:
        client = await served.service.connected()
        id = client.stream("stream", 0, 60)
        await wait_all_tasks_blocked()
        client.move()
        await wait_all_tasks_blocked()
        client.cancel(id)
        await client.released()
        assert client.completions(id) == [Completion(id)]


@pytest.mark.parametrize("agreed", [True, False])
async def test_p3_results_are_not_thrown_away_by_a_close_of_any_service(
    autojump_clock: MockClock, agreed: bool
) -> None:
    """As the official SDK does once it is told to migrate."""
    ledger = Ledger()
    async with serving(ledger.hub, service=ScriptedService(agreed=agreed)) as served:
        client = await served.service.connected()
        id = client.invoke("plain", 0, 2)
        await wait_all_tasks_blocked()
        client.move()
        assert await client.result(id) == 0


async def test_p3_a_client_that_leaves_meanwhile_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    """Rule 16: the hand-over is carried through."""
    ledger = Ledger()
    async with serving(ledger.hub) as served:
        client = await served.service.connected()
        ids = [client.invoke("plain", number, 2) for number in range(2)]
        await wait_all_tasks_blocked()
        client.move()
        client.leave()
        await client.released()
        assert [await client.result(id) for id in ids] == [0, 1]


# -- hurry (rule 13) ------------------------------------------------------------------------


async def test_p3_hurried_what_waits_for_the_client_ends_with_an_error_and_the_rest_goes_on(
    autojump_clock: MockClock,
) -> None:
    ledger = Ledger()
    async with serving(ledger.hub) as served:
        client = await served.service.connected()
        upload = client.invoke("upload", 0, 1, streams=["u"])
        stream = client.stream("stream", 1, 60)
        plain = client.invoke("plain", 2, 8)
        client.item("u", 1)
        await wait_all_tasks_blocked()
        client.move()
        await trio.sleep(5)
        client.move()
        await client.released()
        assert (await client.error(upload)).endswith(f"HubException: {HURRY}")
        assert await client.error(stream) == HURRY
        assert await client.result(plain) == 2
        assert trio.current_time() == 8


async def test_p3_hurried_a_busy_upload_takes_no_more_items(autojump_clock: MockClock) -> None:
    """Else a client that never stops sending would hold up its own hand-over."""
    taken: list[int] = []

    class Slow(Hub):
        async def collect(self, items: AsyncIterator[int]) -> None:
            async for item in items:
                taken.append(item)
                await trio.sleep(1)

    async with serving(Slow) as served:
        client = await served.service.connected()
        id = client.invoke("collect", streams=["u"])
        client.item("u", 0)
        await wait_all_tasks_blocked()
        client.move()
        client.move()
        for number in range(1, 100):
            client.item("u", number)
        assert (await client.error(id)).endswith(HURRY)
        assert taken == [0]


# -- when the time is up --------------------------------------------------------------------


async def test_p3_when_time_is_up_every_call_is_told(autojump_clock: MockClock) -> None:
    """Plain, queued, streams, uploads: and the client migrates all the same (rule 29)."""
    ledger = Ledger()
    async with serving(ledger.hub) as served:
        served.service.migrates_to = "B"
        client = await served.service.connected()
        ids = [
            client.invoke("plain", 0, 100),
            client.stream("stream", 1, 100),
            client.invoke("upload", 2, 1, streams=["u"]),
            client.invoke("plain", 3, 1),
            client.stream("stream", 4, 1),
        ]
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert [await client.error(id) for id in ids] == [TIME_IS_UP] * 5
        assert [len(client.completions(id)) for id in ids] == [1] * 5
        assert client.all[-1] is client.releases[0]
        assert report.migrated == 1
        assert sorted(ledger.begun) == [0, 1, 2]


async def test_p3_a_call_that_fails_while_it_is_cancelled_is_told_that_time_is_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its nursery raises the cancellation and the error at once; the server goes on."""

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("oops")

    class Work(Hub):
        async def work(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_at_the_end)
                await trio.sleep_forever()

        async def on_disconnected(self, error: Exception | None) -> None:
            await self.work()

    async with serving(Work, shutdown=GracefulShutdown("off")) as served:
        client = await served.service.connected()
        id = client.invoke("work")
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert await client.error(id) == TIME_IS_UP
        assert client.ends
        assert report.clients == 1
    assert caplog.text.count("ValueError: oops") == 2


# -- whatever is called, however it ends ----------------------------------------------------


@attrs.frozen
class PlannedCall:
    after: float
    """Seconds after the call before it."""
    kind: str
    seconds: float


@attrs.frozen
class Plan:
    calls: list[PlannedCall]
    parallel: int
    agreed: bool
    mode: str
    """How it ends: ``move``, or a mode of shutdown."""
    hurries: bool
    leaves: bool

    @property
    def number(self) -> int:
        return len(self.calls)


kinds = st.sampled_from(["plain", "fail", "stream", "upload", "open upload", "wrong", "no method"])
seconds = st.sampled_from([0.0, 0.5, 1.0, 7.0, 100.0])
planned_calls = st.builds(PlannedCall, st.sampled_from([0.0, 0.0, 0.3, 2.0]), kinds, seconds)
plans = st.builds(
    Plan,
    st.lists(planned_calls, min_size=1, max_size=7),
    st.sampled_from([1, 1, 2, 5]),
    st.booleans(),
    st.sampled_from(["move", "migrate_clients", "migrate_clients", "off", "stop_now"]),
    st.booleans(),
    st.booleans(),
)


def begin(client: ScriptedClient, number: int, call: PlannedCall) -> str:
    if call.kind == "stream":
        return client.stream("stream", number, call.seconds)
    if call.kind == "no method":
        return client.invoke("nosuch")
    if call.kind == "wrong":
        return client.invoke("plain", "no number")
    if "upload" not in call.kind:
        return client.invoke(call.kind, number, call.seconds)
    id = client.invoke("upload", number, call.seconds, streams=[f"u{number}"])
    client.item(f"u{number}", number)
    if call.kind == "upload":
        client.end_upload(f"u{number}")
    return id


async def carry_out(plan: Plan) -> None:
    ledger = Ledger()
    shutdown = GracefulShutdown(plan.mode if plan.mode == "off" else "migrate_clients")
    options = HubOptions(max_parallel_invocations=plan.parallel)
    service = ScriptedService(agreed=plan.agreed)
    async with serving(ledger.hub, service=service, shutdown=shutdown, options=options) as served:
        client = await service.connected()
        ids: list[str] = []
        for number, call in enumerate(plan.calls):
            await trio.sleep(call.after)
            ids.append(begin(client, number, call))
        if plan.mode == "migrate_clients":
            service.migrates_to = "B"
        if plan.mode == "move":
            client.move()
        elif plan.mode == "stop_now":
            served.server.stop_now()
        else:
            served.server.request_shutdown()
        await wait_all_tasks_blocked()
        if plan.hurries and client.asked_to_move:
            await trio.sleep(3)
            client.move()
        if plan.leaves and client.asked_to_move:
            client.leave()
        if plan.mode == "move":
            # A call that is never completed ends with the server.
            await trio.sleep(1000)
            served.server.stop_now()
        await served.end()
        check(plan, client, ledger, ids)


def check(plan: Plan, client: ScriptedClient, ledger: Ledger, ids: list[str]) -> None:
    assert [len(client.completions(id)) for id in ids] == [1] * plan.number
    last = [one for one in client.all if isinstance(one, CloseConnection)]
    if plan.agreed or not client.asked_to_move:
        assert last == [client.all[-1]], "nothing comes after the last word"
    assert len(set(ledger.begun)) == len(ledger.begun), "no call runs twice"
    plain = [n for n in ledger.begun if plan.calls[n].kind in ("plain", "fail")]
    assert plain == sorted(plain), "plain calls begin in order"
    for number, (id, call) in enumerate(zip(ids, plan.calls, strict=True)):
        (completion,) = client.completions(id)
        if completion.error in (TIME_IS_UP, HURRY) or call.kind in ("wrong", "no method"):
            assert number not in ledger.ended
        elif completion.error is not None and (
            HURRY in completion.error or GONE in completion.error
        ):
            assert call.kind == "open upload"
        elif not (plan.leaves and call.kind == "stream"):  # nobody reads it any more
            assert number in ledger.ended
            assert (completion.error is not None) == (call.kind == "fail")


@settings(max_examples=200)
@given(plans)
def test_p3_exactly_one_completion_whatever_is_called_and_however_it_ends(plan: Plan) -> None:
    trio.run(partial(carry_out, plan), clock=MockClock(autojump_threshold=0))
