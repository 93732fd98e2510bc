"""The simulation as a test: a new range of seeds each day, and the same trace everywhere."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import plan as plans
from tests.simulation.__main__ import run_in_processes
from tests.simulation.plan import Scenario, ServerPlan
from tests.simulation.scenario import draw
from tests.simulation.shrink import as_python, shrink
from tests.simulation.world import run

ROOT = Path(__file__).parent.parent.parent
#: SIMULATION_SEEDS=10000 looks further; 0..10000 in place of a number says where.
SEEDS = os.environ.get("SIMULATION_SEEDS", "2000")
_DIGESTS = """
import sys
from tests.simulation.scenario import draw
from tests.simulation.world import run
print(*[run(draw(int(seed))).digest for seed in sys.argv[1:]])
"""


def seeds_of_today() -> range:
    first, separator, last = SEEDS.partition("..")
    if separator:
        return range(int(first), int(last))
    begin = datetime.datetime.now(datetime.UTC).date().toordinal() * 100_000
    return range(begin, begin + int(SEEDS))


def test_no_seed_of_today_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = seeds_of_today()
    with capsys.disabled():
        print(f"\nsimulation: seeds {seeds.start}..{seeds.stop}")
    failed = [one for _, found in run_in_processes(seeds, os.cpu_count() or 1) for one in found]
    if failed:
        seed, violation = failed[0]
        smallest = as_python(shrink(draw(seed)))
        pytest.fail(f"{len(failed)} seeds; {seed}: {violation}\n{smallest}", pytrace=False)


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    """Byte for byte, whatever Python hashes strings with, and whatever ran before."""
    themes = (
        lambda s: s.full and not s.embedded,
        lambda s: s.embedded,
        lambda s: len(s.hubs) > 1,
        lambda s: "'ask'" in as_python(s),
        lambda s: any(client.stateful for client in s.clients),
        lambda s: any(client.transport == "ServerSentEvents" for client in s.clients),
        lambda s: any(client.transport == "LongPolling" for client in s.clients),
    )
    rare = [next(seed for seed in range(25, 1000) if theme(draw(seed))) for theme in themes]
    seeds = [*range(25), *rare]
    traces = {
        subprocess.run(
            [sys.executable, "-c", _DIGESTS, *map(str, seeds)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "random")
    }
    assert len(traces) == 1
    digests = traces.pop().split()
    assert digests[::-1] == [run(draw(seed)).digest for seed in reversed(seeds)]
    # And it is a trace of what happened: other seeds, other traces.
    assert len(set(digests)) == len(set(seeds))


def test_the_trace_tells_a_whole_run() -> None:
    outcome = run(draw(0))
    assert outcome.violation is None
    assert len(outcome.trace) > 10
    assert outcome.seconds > 0


def test_a_scenario_that_is_written_down_is_the_same() -> None:
    for seed in range(20):
        assert eval(as_python(draw(seed)), vars(plans)) == draw(seed)


def test_a_scenario_that_fails_is_made_smaller() -> None:
    """The one server that cannot even be made is what is left."""
    scenario = draw(0)
    wrong = ServerPlan("wrong", "wrong", timeout=-1.0)
    broken = Scenario(0, servers=(*scenario.servers, wrong), clients=scenario.clients)
    smallest = shrink(broken)
    assert [one.name for one in smallest.servers] == ["wrong"]
    assert len(smallest.clients) == 1
    assert smallest.clients[0].calls == ()
