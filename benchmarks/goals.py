"""What the figures must be at least, and what they should be: most of them in terms of a peer."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from benchmarks.figures import Row, find
from benchmarks.run import rounded

__all__ = ["GOALS", "Goal", "reached"]


@attrs.frozen(kw_only=True)
class Goal:
    """One comparison."""

    title: str
    scenario: str
    case: str
    ours: str
    against: str
    """A contestant; or the figure itself that is looked at, where there is no other."""
    floor: float
    aim: float
    less: bool = False
    """Whether less is better."""

    def verdict(self, value: float) -> str:
        if value <= self.aim if self.less else value >= self.aim:
            return "aim reached"
        return "reached" if (value <= self.floor if self.less else value >= self.floor) else "not"


def _against(peers: dict[str, tuple[float, float]], **others: str) -> list[Goal]:
    """The same comparison with several peers: floor and aim for each."""
    return [
        Goal(against=peer, floor=floor, aim=aim, **others) for peer, (floor, aim) in peers.items()
    ]


_UVLOOP, _NODE, _DOTNET = "python-socketio-uvloop", "socketio-node", "dotnet"

GOALS = [
    *_against(
        {_UVLOOP: (2, 2), _DOTNET: (0.5, 1)},
        title="echo, closed loop, embedded",
        scenario="echo",
        case="",
        ours="embedded",
    ),
    *_against(
        {_UVLOOP: (3, 3), _DOTNET: (0.5, 1.5)},
        title="echo, pipelined, embedded",
        scenario="echo-pipelined",
        case="",
        ours="embedded",
    ),
    *_against(
        {_UVLOOP: (20, 20), _NODE: (3, 3), _DOTNET: (0.7, 1.5)},
        title="broadcast to 500, 10 outstanding, embedded",
        scenario="broadcast",
        case="500 receivers, 10",
        ours="embedded",
    ),
    *_against(
        {_UVLOOP: (5, 5), _NODE: (1.3, 1.3), _DOTNET: (1, 2)},
        title="broadcast to 500, 1 outstanding, embedded",
        scenario="broadcast",
        case="500 receivers, 1 ",
        ours="embedded",
    ),
    *_against(
        {_UVLOOP: (1, 2)},
        title="echo, closed loop, service + hub server",
        scenario="echo",
        case="",
        ours="service+hub",
    ),
    *_against(
        {_UVLOOP: (15, 15), _NODE: (2, 5)},
        title="broadcast to 500, 10 outstanding, service + hub server",
        scenario="broadcast",
        case="500 receivers, 10",
        ours="service+hub",
    ),
    *_against(
        {_UVLOOP: (1.5, 3)},
        title="connect with negotiate, embedded",
        scenario="connect",
        case="with negotiate",
        ours="embedded",
    ),
    *[
        Goal(
            title="memory per idle connection, embedded",
            scenario="memory",
            case="",
            ours="embedded",
            against=peer,
            floor=0.5,
            aim=0.25,
            less=True,
        )
        for peer in (_UVLOOP, _DOTNET)
    ],
    *[
        Goal(
            title="hand-over of 10,000 clients",
            scenario="hand-over",
            case="10,000 clients, migrate",
            ours="service+hub",
            against=figure,
            floor=floor,
            aim=aim,
            less=less,
        )
        for figure, floor, aim, less in (
            ("lost", 0, 0, True),
            ("clients_per_s", 1_000, 5_000, False),
            ("pause_p99_ms", 250, 50, True),
        )
    ],
]


def reached(goal: Goal, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What was found, and whether it is enough; nothing where it was not measured."""
    mine = find(rows, goal.scenario, goal.case, goal.ours)
    if mine is None:
        return []
    if goal.against in mine.medians:
        value: float | None = mine.medians[goal.against]
        return [(rounded(value), goal.verdict(value))]
    theirs = find(rows, goal.scenario, goal.case, goal.against)
    value = None if theirs is None else mine.ratio_to(theirs)
    return [] if value is None else [(f"{rounded(value)} x", goal.verdict(value))]
