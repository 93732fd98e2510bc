"""Azure's units: the load that its performance guide says each unit takes.

From "Performance guide for Azure SignalR Service" (Default mode, messages of 2,048 bytes). The
guide's latency limit is 1 s for 99 % of the messages; here it is 100 ms.
"""

from __future__ import annotations

import attrs

from benchmarks.contestants import Contestant
from benchmarks.load.generator import LoadFailed
from benchmarks.measure import Figures, Setting, Work, figures_of, open_load, warm_phase

__all__ = ["UNITS", "Unit", "units"]

_MESSAGE = 2_048
_LIMIT_MS = 100.0
_MOST = 16
_FEWEST = 10


@attrs.frozen(kw_only=True)
class Unit:
    """What one unit takes; two take twice as much, by having twice the clients."""

    title: str
    kind: str
    inbound: int
    """Messages a second, at one unit."""
    grows: bool
    """Whether there are more of them with more units."""
    group_size: int | None = None
    """Clients in a group; None: ten groups, which grow."""

    def work(self, count: int, clients: int, least: float) -> Work:
        """``clients`` are those of one unit; ``least`` the least rate that can be measured."""
        connections = count * clients
        groups = 10 if self.group_size is None else connections // self.group_size
        rate = max(self.inbound * clients / 1_000 * (count if self.grows else 1), least)
        return Work(
            kind=self.kind,
            connections=connections,
            groups=max(groups, 1),
            size=_MESSAGE,
            window=16,
            rate=rate,
        )


UNITS = (
    Unit(title="echo: 1,000 clients, 1 message/s each", kind="echo", inbound=1_000, grows=True),
    Unit(title="broadcast: 2/s to 1,000 clients", kind="broadcast", inbound=2, grows=False),
    Unit(
        title="small groups: 200/s to 100 groups of 10",
        kind="group",
        inbound=200,
        grows=True,
        group_size=10,
    ),
    Unit(title="big groups: 20/s to 10 groups of 100", kind="group", inbound=20, grows=False),
)


async def units(setting: Setting, contestant: Contestant, encoding: str, *, unit: Unit) -> Figures:
    """The most units whose load is taken with a p99 under 100 ms: doubled until one is too much,
    then halved in between."""
    clients = setting.scaled(1_000)
    least = _FEWEST / setting.seconds
    good, bad = 0, _MOST + 1
    best: Figures = {"units": 0.0}
    wanted = 1
    while bad - good > 1:
        found = await _try(setting, contestant, encoding, unit.work(wanted, clients, least))
        if found is None:
            bad = wanted
        else:
            good = wanted
            best = {"units": float(good), "connections": float(wanted * clients), **found}
        if setting.small:
            break
        wanted = min(good * 2, _MOST) if bad > _MOST else (good + bad) // 2
    return best


async def _try(
    setting: Setting, contestant: Contestant, encoding: str, work: Work
) -> Figures | None:
    """The figures, or None if it is too much."""
    cores = setting.cores
    async with (
        contestant.start(cores) as running,
        open_load(running, contestant, encoding, work, cores) as load,
    ):
        phase = await warm_phase(load, setting, work.rate, setting.seconds)
        late = phase["skipped"] or phase["latency"]["p99"] > _LIMIT_MS
        if late and not setting.small:
            return None
        try:
            checked = await load.stop()
        except LoadFailed:
            return None
    return figures_of(phase, running, checked)
