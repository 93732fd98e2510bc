"""``python -m tests.simulation --seeds 0..100000 --jobs 2``, or ``--seed 4711 --trace``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.scenario import draw
from tests.simulation.shrink import as_python, shrink
from tests.simulation.world import run

__all__ = ["main", "run_seeds"]

_BATCH = 50


def run_seeds(seeds: range) -> list[tuple[int, str]]:
    """The seeds that break a promise, and which."""
    found: list[tuple[int, str]] = []
    for seed in seeds:
        violation = run(draw(seed)).violation
        if violation is not None:
            found.append((seed, violation))
    return found


def run_in_processes(seeds: range, jobs: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """How many seeds a batch had, and which of them failed."""
    batches = [seeds[i : i + _BATCH] for i in range(0, len(seeds), _BATCH)]
    if jobs == 1:
        # In this very process, where debuggers and coverage can see it.
        for batch in batches:
            yield len(batch), run_seeds(batch)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for batch, found in zip(batches, pool.map(run_seeds, batches), strict=True):
            yield len(batch), found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0..1000", help="from..to, the second not included")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, help="replays one seed")
    parser.add_argument("--trace", action="store_true", help="prints what happened")
    parser.add_argument("--whole", action="store_true", help="does not make scenarios smaller")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, trace=options.trace)
    first, _, last = options.seeds.partition("..")
    return _search(range(int(first), int(last)), options.jobs, shrinks=not options.whole)


def _replay(seed: int, *, trace: bool) -> int:
    outcome = run(draw(seed))
    if trace:
        for line in outcome.trace:
            print(*line)
    print(f"seed {seed}: {outcome.violation or 'every promise kept'}; trace {outcome.digest[:16]}")
    return outcome.violation is not None


def _search(seeds: range, jobs: int, *, shrinks: bool) -> int:
    began = time.monotonic()
    done = 0
    failed: list[tuple[int, str]] = []
    for count, found in run_in_processes(seeds, jobs):
        done += count
        failed += found
        for seed, violation in found:
            print(f"\nseed {seed}: {violation}", flush=True)
        rate = done / (time.monotonic() - began) * 60
        sys.stderr.write(f"\r{done} of {len(seeds)} seeds, {len(failed)} failed, {rate:.0f}/min ")
    print(f"\nseeds {seeds.start}..{seeds.stop}: {len(failed)} of {done} broke a promise")
    if failed and shrinks:
        print(as_python(shrink(draw(failed[0][0]))))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
