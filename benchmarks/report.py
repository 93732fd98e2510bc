"""Writes down what a run has found: JSON, Markdown, and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.figures import Row, rows_of
from benchmarks.goals import GOALS, reached
from benchmarks.plots import draw_plots
from benchmarks.run import Failure, Measurement, Run, rounded
from benchmarks.scenarios import Scenario

__all__ = ["write_report"]

#: Columns that a table has if any of its rows has the figure: figure, title.
_COLUMNS = (
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("half_p99_ms", "p99 ms at half load"),
    ("cpu_us", "CPU us each"),
    ("service_cpu_us", "service CPU us"),
    ("hub_server_cpu_us", "hub server CPU us"),
    ("connections", "clients"),
    ("pause_p50_ms", "pause p50 ms"),
    ("pause_p99_ms", "pause p99 ms"),
    ("pause_max_ms", "pause max ms"),
    ("away_p50_ms", "away p50 ms"),
    ("away_p99_ms", "away p99 ms"),
    ("dip", "worst 100 ms"),
    ("disconnects", "disconnects"),
    ("lost", "lost"),
    ("server_cpu", "server busy"),
    ("load_cpu", "load busy"),
    ("checked", "answers checked"),
)
_SHARES = {"dip", "server_cpu", "load_cpu"}


def write_report(run: Run, folder: Path) -> None:
    """``results.json``, ``results.md`` and plots, in a folder that is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(run)
    (folder / "results.json").write_bytes(orjson.dumps(_as_json(run), option=orjson.OPT_INDENT_2))
    plots = draw_plots(rows, folder)
    (folder / "results.md").write_text("\n".join(_markdown(run, rows, plots)))


def _as_json(run: Run) -> dict[str, Any]:
    return {
        "machine": run.machine,
        "python": run.python,
        "seconds": run.setting.seconds,
        "small": run.setting.small,
        "cores": [run.setting.cores.server, run.setting.cores.load, run.setting.cores.other],
        "repeats": run.repeats,
        "took": run.seconds,
        "missing": run.missing,
        "outcomes": [_outcome_as_json(one) for one in run.outcomes],
    }


def _outcome_as_json(outcome: Measurement | Failure) -> dict[str, Any]:
    turn = outcome.turn
    found = {
        "scenario": turn.scenario.name,
        "case": turn.case.title,
        "contestant": turn.contestant.name,
        "encoding": turn.encoding,
        "repeat": turn.repeat,
    }
    if isinstance(outcome, Failure):
        return {**found, "failed": outcome.why}
    return {**found, "figures": outcome.figures}


# -- Markdown -----------------------------------------------------------------------------------


def _markdown(run: Run, rows: Sequence[Row], plots: Sequence[str]) -> Iterable[str]:
    yield "# Results\n"
    yield (
        f"{run.machine}, Python {run.python}. Medians of {run.repeats} interleaved runs of "
        f"{run.setting.seconds:g} s, with the least and the greatest; {run.seconds / 60:.0f} "
        "minutes in all. A ratio is the median of the ratios of the single runs. Busy: share of "
        "one core.\n"
    )
    for name, why in run.missing.items():
        yield f"Without {name}: {why}\n"
    yield from _goals(rows)
    scenarios: dict[str, Scenario] = {row.scenario.name: row.scenario for row in rows}
    for scenario in scenarios.values():
        yield f"## {scenario.title}\n"
        if f"{scenario.name}.png" in plots:
            yield f"![{scenario.title}]({scenario.name}.png)\n"
        mine = [row for row in rows if row.scenario is scenario]
        for case in dict.fromkeys(row.case for row in mine):
            yield f"### {case}\n"
            yield from _table(scenario, [row for row in mine if row.case == case])
    failures = [one for one in run.outcomes if isinstance(one, Failure)]
    if failures:
        yield "## Failed\n"
        yield from (f"* {one.label}: {one.why.splitlines()[0]}" for one in failures)


def _table(scenario: Scenario, rows: Sequence[Row]) -> Iterable[str]:
    shown = [(name, title) for name, title in _COLUMNS if any(name in row.medians for row in rows)]
    heads = ["", "encoding", scenario.unit, "least to greatest"]
    ours = [one for one in ("embedded", "service+hub") if any(r.name == one for r in rows)]
    heads += [f"{one} / it" for one in ours] if len({row.name for row in rows}) > 1 else []
    heads += [title for name, title in shown if name != scenario.figure]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        low, high = row.spread
        cells = [row.title, row.encoding, rounded(row.median), f"{rounded(low)} to {rounded(high)}"]
        if len({one.name for one in rows}) > 1:
            cells += [_ratio(row, rows, one) for one in ours]
        cells += [_cell(row, name) for name, _ in shown if name != scenario.figure]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _ratio(row: Row, rows: Sequence[Row], ours: str) -> str:
    mine = next((one for one in rows if one.name == ours and one.encoding == row.encoding), None)
    if mine is None or mine is row:
        return ""
    ratio = mine.ratio_to(row)
    return "" if ratio is None else f"{rounded(ratio)} x"


def _cell(row: Row, name: str) -> str:
    value = row.medians.get(name)
    if value is None:
        return ""
    if name in _SHARES:
        return f"{value:.0%}"
    return f"{value:,.0f}" if name in ("checked", "connections") else rounded(value)


def _goals(rows: Sequence[Row]) -> Iterable[str]:
    lines = [
        f"| {goal.title} | {goal.against} | {found} | {goal.floor:g} | {goal.aim:g} | {verdict} |"
        for goal in GOALS
        for found, verdict in reached(goal, rows)
    ]
    if lines:
        yield "## What it must show\n"
        yield "| | against | found | at least | aim | |"
        yield "|---|---|---|---|---|---|"
        yield from lines
        yield ""
