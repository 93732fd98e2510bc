"""The simulation as a test: a new range of seeds each day, and the same trace everywhere."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.__main__ import run_in_processes
from tests.simulation.scenario import draw
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
    assert failed == [], "replay with: python -m tests.simulation --seed N --trace"


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    """Byte for byte, whatever Python hashes strings with."""
    seeds = [str(seed) for seed in range(25)]
    traces = {
        subprocess.run(
            [sys.executable, "-c", _DIGESTS, *seeds],
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
    assert len(digests) == len(seeds)
    # And it is a trace of what happened: other seeds, other traces.
    assert len(set(digests)) == len(seeds)


def test_the_trace_tells_a_whole_run() -> None:
    outcome = run(draw(0))
    assert outcome.violation is None
    assert len(outcome.trace) > 10
    assert outcome.seconds > 0
