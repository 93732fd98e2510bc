"""Seeds, and that a seed is all there is to a run.

``SIMULATION_SEEDS`` is how many seeds a run of the tests plays; each day begins at another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.__main__ import run_in_processes
from tests.simulation.scenario import Scenario, ServerPlan, draw
from tests.simulation.shrink import as_python, shrink
from tests.simulation.world import run

ROOT = Path(__file__).parent.parent.parent
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))


def test_every_promise_is_kept_in_the_seeds_of_the_day(capsys: pytest.CaptureFixture[str]) -> None:
    first = int(time.time() // 86400) * 1_000_000
    with capsys.disabled():
        print(f"\nseeds {first}..{first + SEEDS}", end=" ", flush=True)
    failed: list[tuple[int, str]] = []
    for _, found in run_in_processes(range(first, first + SEEDS), os.cpu_count() or 1):
        failed += found
    if failed:
        seed, violation = failed[0]
        smallest = as_python(shrink(draw(seed)))
        pytest.fail(f"{len(failed)} seeds; {seed}: {violation}\n{smallest}", pytrace=False)


@pytest.mark.parametrize("seed", [3, 58, 127, next(n for n in range(100) if draw(n).full)])
def test_a_seed_gives_the_same_trace_in_any_process(seed: int) -> None:
    """Whatever the order of hashes, the addresses of objects, and what ran before."""
    code = (
        "from tests.simulation.scenario import draw; from tests.simulation.world import run; "
        f"print(run(draw({seed})).digest)"
    )
    digests = {run(draw(seed)).digest}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_seeds_differ() -> None:
    assert len({run(draw(seed)).digest for seed in range(20)}) == 20


def test_a_scenario_that_is_written_down_is_the_same() -> None:
    for seed in range(20):
        assert eval(as_python(draw(seed)), _NAMES) == draw(seed)


def test_a_scenario_that_fails_is_made_smaller() -> None:
    """A client that is closed for no reason that the ledger knows: here it is told of none."""
    scenario = draw(0)
    server = ServerPlan("wrong", "wrong", timeout=-1.0)
    broken = Scenario(0, servers=(*scenario.servers, server), clients=scenario.clients)
    smallest = shrink(broken)
    assert [one.name for one in smallest.servers] == ["wrong"]
    assert len(smallest.clients) == 1
    assert smallest.clients[0].calls == ()


_NAMES = vars(sys.modules["tests.simulation.scenario"])
