"""Plots of a run, where matplotlib is there: a PNG for each scenario."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Row

__all__ = ["draw_plots"]

_OURS, _THEIRS = "#1f6fb4", "#b0b0b0"


def draw_plots(rows: Sequence[Row], folder: Path) -> list[str]:
    """Draws them; the names of their files."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no plots: pip install 'signalr-trio[bench]' brings matplotlib")
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn: list[str] = []
    for scenario in dict.fromkeys(row.scenario for row in rows):
        mine = [row for row in rows if row.scenario is scenario and row.encoding == "json"]
        if not mine:
            continue
        name = f"{scenario.name}.png"
        figure = _curves(pyplot, mine) if scenario.name == "curves" else _bars(pyplot, mine)
        figure.suptitle(scenario.title)
        figure.tight_layout()
        figure.savefig(folder / name, dpi=110)
        pyplot.close(figure)
        drawn.append(name)
    return drawn


def _bars(pyplot: Any, rows: Sequence[Row]) -> Any:
    """A panel for each case, a bar for each contestant with its spread."""
    cases = list(dict.fromkeys(row.case for row in rows))
    heights = [1 + sum(row.case == case for row in rows) * 0.35 for case in cases]
    figure, axes = pyplot.subplots(
        len(cases), 1, figsize=(9, sum(heights) + 0.6), squeeze=False, height_ratios=heights
    )
    for axis, case in zip(axes[:, 0], cases, strict=True):
        mine = [row for row in rows if row.case == case][::-1]
        medians = [row.median for row in mine]
        below = [row.median - row.spread[0] for row in mine]
        above = [row.spread[1] - row.median for row in mine]
        colours = [_OURS if row.title.startswith("ours") else _THEIRS for row in mine]
        axis.barh([row.title for row in mine], medians, xerr=[below, above], color=colours)
        axis.set_title(case, fontsize=10)
        axis.set_xlabel(mine[0].scenario.unit)
    return figure


def _curves(pyplot: Any, rows: Sequence[Row]) -> Any:
    """CPU per echo over clients, and over hub servers."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axis, thing in zip(axes, ("client", "hub server"), strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            found = re.match(rf"([\d,]+) {thing}s?$", row.case)
            if found:
                point = (int(found[1].replace(",", "")), row.median)
                lines.setdefault(row.title, []).append(point)
        for title, points in lines.items():
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=title)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(f"{thing}s")
        axis.set_ylabel(rows[0].scenario.unit)
        if lines:
            axis.legend(fontsize=8)
    return figure
