"""What the repeats of a measurement say together: median, spread, ratios."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import attrs

from benchmarks.measure import Figures
from benchmarks.run import Measurement, Run
from benchmarks.scenarios import Scenario

__all__ = ["Row", "find", "rows_of"]


@attrs.define(eq=False)
class Row:
    """All repeats of one contestant in one case and encoding."""

    scenario: Scenario
    case: str
    name: str
    title: str
    encoding: str
    repeats: dict[int, Figures] = attrs.field(factory=dict[int, Figures])

    @property
    def medians(self) -> Figures:
        names = {name for figures in self.repeats.values() for name in figures}
        return {
            name: median(each[name] for each in self.repeats.values() if name in each)
            for name in names
        }

    @property
    def median(self) -> float:
        return self.medians[self.scenario.figure]

    @property
    def spread(self) -> tuple[float, float]:
        values = [figures[self.scenario.figure] for figures in self.repeats.values()]
        return min(values), max(values)

    def ratio_to(self, other: Row) -> float | None:
        """This one's figure in terms of the other's: the median over the repeats of both."""
        figure = self.scenario.figure
        ratios = [
            self.repeats[repeat][figure] / other.repeats[repeat][figure]
            for repeat in self.repeats.keys() & other.repeats.keys()
            if other.repeats[repeat][figure]
        ]
        return median(ratios) if ratios else None


def rows_of(run: Run) -> list[Row]:
    """In the order of the measurements."""
    rows: dict[tuple[str, str, str, str], Row] = {}
    for outcome in run.outcomes:
        if not isinstance(outcome, Measurement):
            continue
        turn = outcome.turn
        who = turn.contestant
        key = (turn.scenario.name, turn.case.title, who.name, turn.encoding)
        if key not in rows:
            rows[key] = Row(turn.scenario, turn.case.title, who.name, who.title, turn.encoding)
        rows[key].repeats[turn.repeat] = outcome.figures
    return list(rows.values())


def find(
    rows: Sequence[Row], scenario: str, case: str, name: str, encoding: str = "json"
) -> Row | None:
    """The row, if it was measured; ``case`` is the beginning of its title."""
    for row in rows:
        right = row.scenario.name == scenario and row.case.startswith(case)
        if right and (row.name, row.encoding) == (name, encoding):
            return row
    return None
