"""``python -m benchmarks``: measures this library and its peers, and writes down what it found."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from benchmarks.contestants import ALL, select
from benchmarks.load.generator import LoadFailed, compile_load_generator
from benchmarks.measure import Setting
from benchmarks.processes import Cores
from benchmarks.report import write_report
from benchmarks.run import Failure, Run, run_all
from benchmarks.scenarios import SCENARIOS


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.list:
        _list()
        return 0
    try:
        contestants = select(arguments.peers or [])
        scenarios = [one for one in SCENARIOS if one.name in (arguments.scenario or [one.name])]
        compile_load_generator()
    except (ValueError, LoadFailed) as error:
        print(error, file=sys.stderr)
        return 2
    # A run that is too short to say anything is for the harness itself: it is small, too.
    small = arguments.seconds < 2
    setting = Setting(
        cores=Cores(None, None, None) if small else Cores.choose(),
        seconds=arguments.seconds / 3 if small else arguments.seconds,
        warm_up=arguments.seconds / 10 if small else 1.0,
        small=small,
    )
    encodings = arguments.encoding or ["json", "messagepack"]
    run = Run(setting, arguments.repeat)
    interrupted = trio.run(
        _until_interrupted, partial(run_all, run, scenarios, contestants, encodings)
    )
    write_report(run, arguments.out)
    failures = [one for one in run.outcomes if isinstance(one, Failure)]
    for failure in failures:
        print(f"FAILED {failure.label}: {failure.why}", file=sys.stderr)
    print(f"{len(run.outcomes)} measurements, {len(failures)} failed; see {arguments.out}")
    return 130 if interrupted else 1 if failures else 0


async def _until_interrupted(measure: Callable[[], Awaitable[None]]) -> bool:
    """Whether SIGINT or SIGTERM ended it; either way no process of a contestant is left."""
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope

        async def watch(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for _ in signals:
                    scope.cancel()

        await nursery.start(watch)
        await measure()
        scope.cancel()
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="may be repeated")
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME",
        help="contestants or families of them (ours, dotnet, socketio, bare); default: all",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of each measurement (default: 5); small below 2"
    )
    parser.add_argument("--repeat", type=int, default=5, help="runs (default: 5)")
    parser.add_argument("--encoding", action="append", choices=["json", "messagepack"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="scenarios and contestants")
    return parser


def _list() -> None:
    for scenario in SCENARIOS:
        print(f"{scenario.name:16} {scenario.title}")
        for case in scenario.cases:
            print(f"{'':18}{case.title}")
    print()
    for one in ALL:
        why = one.missing()
        print(f"{one.name:24} {one.family:10} {one.title}{f' (missing: {why})' if why else ''}")


if __name__ == "__main__":
    sys.exit(main())
