"""The scenarios: what is measured, and with whom.

A scenario has cases; a case is measured with each contestant that can do it, in each encoding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs

from benchmarks.contestants import Contestant
from benchmarks.measure import Figures, Setting, Work, measure
from benchmarks.scenarios_connections import connect_rate, memory
from benchmarks.scenarios_hand_over import hand_over
from benchmarks.scenarios_units import UNITS, units

__all__ = ["SCENARIOS", "Case", "Scenario"]

Run = Callable[[Setting, Contestant, str], Awaitable[Figures]]
CURVE = (1, 10, 100, 1_000, 10_000)


@attrs.frozen(kw_only=True)
class Case:
    """One thing that is measured."""

    title: str
    run: Run
    needs: str = "echo"
    """What a contestant must be able to do."""
    only: tuple[str, ...] = ()
    """The contestants that it makes sense with; none: all."""
    encodings: tuple[str, ...] = ("json", "messagepack")


@attrs.frozen(kw_only=True)
class Scenario:
    """A group of cases that have the same figure."""

    name: str
    title: str
    figure: str
    """The one that is compared."""
    unit: str
    less_is_better: bool = False
    cases: tuple[Case, ...]


def _load(work: Work, *, half_load: bool = False) -> Run:
    async def run(setting: Setting, contestant: Contestant, encoding: str) -> Figures:
        sized = attrs.evolve(work, connections=setting.scaled(work.connections))
        if work.kind == "group":
            sized = attrs.evolve(sized, groups=setting.scaled(work.groups))
        return await measure(setting, contestant, encoding, sized, half_load=half_load)

    return run


def _broadcast(connections: int, window: int) -> Case:
    work = Work(kind="broadcast", connections=connections, window=window)
    title = f"{connections:,} receivers, {window} outstanding"
    return Case(title=title, needs="broadcast", run=_load(work))


def _curve(clients: int) -> Case:
    return Case(
        title=f"{clients:,} clients",
        run=_load(Work(connections=clients)),
        only=("embedded", "service+hub", "dotnet"),
        encodings=("json",),
    )


def _hub_servers(count: int) -> Case:
    async def run(setting: Setting, contestant: Contestant, encoding: str) -> Figures:
        wanted = attrs.evolve(contestant, start=partial(contestant.start, hub_servers=count))
        work = Work(connections=setting.scaled(100))
        return await measure(setting, wanted, encoding, work)

    plural = "s" if count > 1 else ""
    title = f"{count} hub server{plural}"
    return Case(title=title, run=run, only=("service",), encodings=("json",))


def _hand_over(clients: int, mode: str) -> Case:
    return Case(
        title=f"{clients:,} clients, {mode}",
        needs="hand-over",
        run=partial(hand_over, clients=clients, mode=mode),
        encodings=("json",),
    )


_echo = Work(connections=100)
_pipelined = Work(connections=20, window=50)
_groups = Work(kind="group", connections=5_000, groups=100)
_user = Work(kind="user", connections=100)
_connection = Work(kind="connection", connections=100)

SCENARIOS = (
    Scenario(
        name="echo",
        title="Echo, closed loop",
        figure="rate",
        unit="echoes/s",
        cases=(Case(title="100 clients", run=_load(_echo, half_load=True)),),
    ),
    Scenario(
        name="echo-pipelined",
        title="Echo, pipelined",
        figure="rate",
        unit="echoes/s",
        cases=(Case(title="20 clients, 50 outstanding each", run=_load(_pipelined)),),
    ),
    Scenario(
        name="broadcast",
        title="Broadcast",
        figure="rate",
        unit="deliveries/s",
        cases=(_broadcast(500, 1), _broadcast(500, 10), _broadcast(5_000, 1)),
    ),
    Scenario(
        name="groups",
        title="Groups",
        figure="rate",
        unit="deliveries/s",
        cases=(Case(title="100 groups of 50", needs="groups", run=_load(_groups)),),
    ),
    Scenario(
        name="targets",
        title="Users and connections",
        figure="rate",
        unit="deliveries/s",
        cases=(
            Case(title="to a user, 100 clients", needs="targets", run=_load(_user)),
            Case(title="to a connection, 100 clients", needs="targets", run=_load(_connection)),
        ),
    ),
    Scenario(
        name="connect",
        title="Connect",
        figure="rate",
        unit="connections/s",
        cases=(
            Case(title="with negotiate", needs="negotiate", run=partial(connect_rate, how=True)),
            Case(title="without", needs="connect", run=partial(connect_rate, how=False)),
        ),
    ),
    Scenario(
        name="memory",
        title="Memory per idle connection",
        figure="kb",
        unit="KB",
        less_is_better=True,
        cases=(Case(title="10,000 connections", needs="connect", run=memory, encodings=("json",)),),
    ),
    Scenario(
        name="hand-over",
        title="Hand-over, 5 % of the clients talk",
        figure="clients_per_s",
        unit="clients/s",
        cases=tuple(
            _hand_over(clients, mode)
            for clients in (1_000, 10_000)
            for mode in ("migrate_clients", "off")
        ),
    ),
    Scenario(
        name="units",
        title="Azure's units on one core, p99 under 100 ms",
        figure="units",
        unit="units",
        cases=tuple(
            Case(
                title=unit.title,
                needs="units",
                run=partial(units, unit=unit),
                encodings=("json",),
            )
            for unit in UNITS
        ),
    ),
    Scenario(
        name="curves",
        title="Cost as work grows (echo, closed loop)",
        figure="cpu_us",
        unit="us of CPU per echo",
        less_is_better=True,
        cases=(*map(_curve, CURVE), *map(_hub_servers, (1, 2, 4, 8))),
    ),
)
