"""Runs what was asked for: contestants take turns (A B C A B C ...), so that what the machine does
beside it meets them all."""

from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Iterator, Sequence

import attrs
import trio

from benchmarks.contestants import Contestant
from benchmarks.load.generator import LoadFailed
from benchmarks.measure import Figures, Setting
from benchmarks.processes import ServerFailed
from benchmarks.scenarios import Case, Scenario

__all__ = ["Failure", "Measurement", "Run", "Turn", "rounded", "run_all"]

#: Of a small run, whose figures say nothing anyway.
_SIDE_BY_SIDE = 4


@attrs.frozen(kw_only=True, eq=False)
class Turn:
    """One contestant's turn in one case."""

    scenario: Scenario
    case: Case
    contestant: Contestant
    encoding: str
    repeat: int

    @property
    def label(self) -> str:
        case = f"{self.scenario.name}, {self.case.title}"
        return f"{case}: {self.contestant.name} ({self.encoding})"


@attrs.frozen
class Measurement:
    """What a turn found."""

    turn: Turn
    figures: Figures


@attrs.frozen
class Failure:
    """A turn in which an answer was wrong or missing, or a server failed."""

    turn: Turn
    why: str

    @property
    def label(self) -> str:
        return self.turn.label


@attrs.define
class Run:
    """All turns."""

    setting: Setting
    repeats: int
    machine: str = attrs.field(factory=lambda: f"{platform.machine()}, {platform.system()}")
    python: str = attrs.field(factory=platform.python_version)
    missing: dict[str, str] = attrs.field(factory=dict[str, str])
    """Contestants that are not here, and why."""
    outcomes: list[Measurement | Failure] = attrs.field(factory=list["Measurement | Failure"])
    seconds: float = 0.0


async def run_all(
    run: Run,
    scenarios: Sequence[Scenario],
    contestants: Sequence[Contestant],
    encodings: Sequence[str],
) -> None:
    """Every turn, one after the other. A failure does not keep the others from theirs."""
    setting = run.setting
    here: list[Contestant] = []
    for contestant in contestants:
        why = contestant.missing()
        if why is None:
            here.append(contestant)
        else:
            run.missing[contestant.name] = why
            print(f"without {contestant.title}: {why}", flush=True)
    turns = list(_turns(scenarios, here, encodings, run.repeats, small=setting.small))
    began = time.monotonic()
    side_by_side = trio.CapacityLimiter(_SIDE_BY_SIDE if setting.small else 1)

    async def take(turn: Turn) -> None:
        async with side_by_side:
            outcome = await _take(turn, setting)
        run.outcomes.append(outcome)
        run.seconds = time.monotonic() - began
        print(f"[{len(run.outcomes)}/{len(turns)}] {turn.label} {_short(outcome)}", flush=True)

    if setting.small:
        async with trio.open_nursery() as nursery:
            for turn in turns:
                nursery.start_soon(take, turn)
        run.outcomes.sort(key=lambda outcome: turns.index(outcome.turn))
    else:
        for turn in turns:
            await take(turn)


def _turns(
    scenarios: Sequence[Scenario],
    contestants: Sequence[Contestant],
    encodings: Sequence[str],
    repeats: int,
    *,
    small: bool,
) -> Iterator[Turn]:
    """In a small run the contestants share the cases: one for each, in turn."""
    shared = itertools.count()
    for scenario in scenarios:
        for case in scenario.cases:
            for repeat, encoding in itertools.product(range(repeats), encodings):
                able = [one for one in contestants if _can(one, case, encoding)]
                if small and able:
                    able = [able[next(shared) % len(able)]]
                for contestant in able:
                    yield Turn(
                        scenario=scenario,
                        case=case,
                        contestant=contestant,
                        encoding=encoding,
                        repeat=repeat,
                    )


def _can(contestant: Contestant, case: Case, encoding: str) -> bool:
    return (
        case.needs in contestant.does
        and (not case.only or contestant.name in case.only)
        and encoding in case.encodings
        and encoding in contestant.encodings
    )


async def _take(turn: Turn, setting: Setting) -> Measurement | Failure:
    try:
        return Measurement(turn, await turn.case.run(setting, turn.contestant, turn.encoding))
    except* (LoadFailed, ServerFailed, trio.TooSlowError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    notes = "\n".join(getattr(error, "__notes__", []))
    return Failure(turn, f"{error}\n{notes}".strip())


def _short(outcome: Measurement | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"FAILED {outcome.why.splitlines()[0]}"
    scenario = outcome.turn.scenario
    return f"{rounded(outcome.figures[scenario.figure])} {scenario.unit}"


def rounded(value: float) -> str:
    """Three digits that count."""
    if value == 0 or not math.isfinite(value):
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}"
