"""A measurement: a contestant that runs, connections to it, a reply that was learned, and load."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from benchmarks.contestants import Contestant, Running
from benchmarks.load.generator import LoadFailed, LoadGenerator, open_load_generator
from benchmarks.load.plan import CHANNEL, ID, Channel, Plan, first_id
from benchmarks.processes import Cores
from benchmarks.protocols import Exchange, Opening, Speech

__all__ = [
    "Figures",
    "Setting",
    "Work",
    "figures_of",
    "measure",
    "open_load",
    "plan_of",
    "warm_phase",
]

#: What a measurement found: name -> figure.
Figures = dict[str, float]

_OWN_ID = 1
_PATIENCE = 20


@attrs.frozen
class Setting:
    """How long and how large measurements are."""

    cores: Cores
    seconds: float
    warm_up: float
    small: bool
    """For a test of the harness: a tenth of the connections."""

    def scaled(self, connections: int) -> int:
        return max(connections // 10, 1) if self.small else connections


@attrs.frozen(kw_only=True)
class Work:
    """What the connections do."""

    kind: str = "echo"
    """echo, broadcast, group, user or connection: whom a message is for."""
    connections: int
    window: int = 1
    """Messages of a channel that are on their way at a time."""
    size: int = 100
    """Characters of the text."""
    groups: int = 1
    rate: float | None = None
    """Messages a second in all; None: as fast as the answers come."""
    talking: int | None = None
    """How many of the connections talk; None: all. For echo."""

    def opening(self) -> Opening:
        return Opening(
            users=self.kind == "user",
            join=self.kind == "group",
            slots=self.kind == "connection",
        )

    def exchange(self, speech: Speech, id_length: int) -> Exchange:
        if self.kind == "connection":
            return speech.to_connection(self.size, id_length)
        makers: dict[str, Callable[[int], Exchange]] = {
            "echo": speech.echo,
            "broadcast": speech.broadcast,
            "group": speech.to_group,
            "user": speech.to_user,
        }
        return makers[self.kind](self.size)

    def channels(self) -> list[Channel]:
        count = self.connections
        if self.kind == "echo":
            talking = count if self.talking is None else self.talking
            return [Channel(one, one, [one]) for one in range(talking)]
        if self.kind == "broadcast":
            return [Channel(0, 0, range(count))]
        if self.kind == "group":
            groups = self.groups
            return [Channel(one, one, range(one, count, groups)) for one in range(groups)]
        partners = [(one + 1) % count for one in range(count)]
        return [Channel(one, partner, [partner]) for one, partner in enumerate(partners)]


async def plan_of(running: Running, speech: Speech, work: Work, cores: Cores) -> Plan:
    """The plan of a work, with the reply that was learned from one real request.

    Raises LoadFailed if the reply does not mean what it should.
    """
    opening = work.opening()
    path = work.exchange(speech, 4).path
    plan = Plan(
        connections=1,
        steps=speech.opening(running.at(path), opening, path),
        window=1,
        split=speech.split,
        opcode=speech.opcode,
        ping=speech.ping,
        pong=speech.pong,
        noop=speech.noop,
        goodbye=speech.goodbye,
        refusal=speech.refusal,
    )
    id_length = 4
    if opening.slots:
        async with open_load_generator(plan, cores.load) as load:
            id_length = (await load.open())["slots"][_OWN_ID]
    exchange = work.exchange(speech, id_length)
    alone = attrs.evolve(plan, channels=[Channel(0, 0, [0])], request=exchange.request)
    async with open_load_generator(alone, cores.load) as load:
        await load.open()
        reply = learned_reply(await load.ask(), exchange, first_id())
    return attrs.evolve(
        plan,
        connections=work.connections,
        channels=work.channels(),
        request=exchange.request,
        reply=reply,
        window=work.window,
        pids=running.pids,
    )


def learned_reply(reply: bytes, exchange: Exchange, number: str) -> bytes:
    """A reply with fields in it. Raises LoadFailed if it does not mean what it should."""
    try:
        right = exchange.is_right(reply, number)
    except (ValueError, LookupError, TypeError):
        right = False
    if not right:
        raise LoadFailed(f"the reply to {exchange.request!r} is {reply!r}")
    return reply.replace(number.encode(), ID.encode()).replace(b"g00000", f"g{CHANNEL}".encode())


@asynccontextmanager
async def open_load(
    running: Running, contestant: Contestant, encoding: str, work: Work, cores: Cores
) -> AsyncGenerator[LoadGenerator]:
    """A load generator with all its connections open, that knows what to say."""
    plan = await plan_of(running, contestant.speech(encoding), work, cores)
    async with open_load_generator(plan, cores.load) as load:
        await load.open()
        yield load


def figures_of(phase: dict[str, Any], running: Running, checked: int) -> Figures:
    """What a phase of the load shows."""
    seconds, deliveries = phase["seconds"], max(phase["deliveries"], 1)
    figures: Figures = {
        "rate": phase["deliveries"] / seconds,
        "p50_ms": phase["latency"]["p50"],
        "p99_ms": phase["latency"]["p99"],
        "max_ms": phase["latency"]["max"],
        "load_cpu": phase["load_cpu"] / seconds,
        "server_cpu": sum(phase["server_cpu"]) / seconds,
        "cpu_us": sum(phase["server_cpu"]) / deliveries * 1e6,
        "checked": checked,
    }
    if len(running.processes) > 1:
        service, *hub_servers = phase["server_cpu"]
        figures["service_cpu_us"] = service / deliveries * 1e6
        figures["hub_server_cpu_us"] = sum(hub_servers) / deliveries * 1e6
    return figures


async def phase_of(load: LoadGenerator, seconds: float) -> dict[str, Any]:
    """The load for so long; on a machine that is busy, until something has come back.

    Raises LoadFailed if nothing does.
    """
    for _ in range(_PATIENCE):
        await trio.sleep(seconds)
        phase = await load.mark()
        if phase["deliveries"]:
            return phase
    raise LoadFailed("nothing came back")


async def warm_phase(
    load: LoadGenerator, setting: Setting, rate: float | None, seconds: float
) -> dict[str, Any]:
    """Begins to load (``rate``: a second; None: as fast as answers come), warms up, and measures.

    Raises LoadFailed if nothing comes back.
    """
    await load.begin(rate)
    await trio.sleep(setting.warm_up)
    await load.mark()
    return await phase_of(load, seconds)


async def measure(
    setting: Setting,
    contestant: Contestant,
    encoding: str,
    work: Work,
    *,
    half_load: bool = False,
) -> Figures:
    """Starts the contestant, warms it up, and measures. Raises LoadFailed.

    ``half_load``: the latency at half of the rate that was found is measured too.
    """
    cores = setting.cores
    async with (
        contestant.start(cores) as running,
        open_load(running, contestant, encoding, work, cores) as load,
    ):
        phase = await warm_phase(load, setting, work.rate, setting.seconds)
        half: Figures = {}
        if half_load:
            rate = phase["completed"] / phase["seconds"] / 2
            latency = (await warm_phase(load, setting, rate, setting.seconds / 2))["latency"]
            half = {"half_p50_ms": latency["p50"], "half_p99_ms": latency["p99"]}
        checked = await load.stop()
    return {**figures_of(phase, running, checked), "skipped": phase["skipped"], **half}
