"""Connections that come, and connections that are just there."""

from __future__ import annotations

import attrs
import trio

from benchmarks.contestants import Contestant, Running
from benchmarks.load.generator import open_load_generator
from benchmarks.load.plan import Plan
from benchmarks.measure import Figures, Setting
from benchmarks.processes import memory_of
from benchmarks.protocols import Opening, Speech

__all__ = ["connect_rate", "memory"]

_PATH = "/bench"
_SIDE_BY_SIDE = 32
_WARM_UP = 50


def _plan(running: Running, speech: Speech, connections: int, how: Opening) -> Plan:
    return Plan(
        connections=connections,
        steps=speech.opening(running.at(_PATH), how, _PATH),
        opening=_SIDE_BY_SIDE,
        split=speech.split,
        opcode=speech.opcode,
        ping=speech.ping,
        pong=speech.pong,
        noop=speech.noop,
        pids=running.pids,
    )


async def connect_rate(
    setting: Setting, contestant: Contestant, encoding: str, *, how: bool
) -> Figures:
    """Clients come, 32 at a time, until the hub handshake is over; they stay.

    ``how``: with negotiate. Warmed up with some that come and go.
    """
    count = max(int(setting.seconds * 500), _WARM_UP)
    cores = setting.cores
    async with contestant.start(cores) as running:
        plan = _plan(running, contestant.speech(encoding), _WARM_UP, Opening(negotiate=how))
        async with open_load_generator(plan, cores.load) as load:
            await load.open()
        plan = attrs.evolve(plan, connections=count)
        async with open_load_generator(plan, cores.load) as load:
            await load.begin()
            opened = await load.open()
            phase = await load.mark()
            checked = await load.stop()
    return {
        "rate": count / opened["seconds"],
        "p50_ms": opened["opening"]["p50"],
        "p99_ms": opened["opening"]["p99"],
        "max_ms": opened["opening"]["max"],
        "load_cpu": phase["load_cpu"] / phase["seconds"],
        "server_cpu": sum(phase["server_cpu"]) / phase["seconds"],
        "cpu_us": sum(phase["server_cpu"]) / count * 1e6,
        "checked": count + checked,
    }


async def memory(setting: Setting, contestant: Contestant, encoding: str) -> Figures:
    """How much more memory the server has when the connections are there, idle."""
    cores, count = setting.cores, setting.scaled(10_000)
    async with contestant.start(cores) as running:
        plan = _plan(running, contestant.speech(encoding), _WARM_UP, Opening())
        async with open_load_generator(plan, cores.load) as load:
            await load.open()
        before = memory_of(running.pids)
        plan = attrs.evolve(plan, connections=count)
        async with open_load_generator(plan, cores.load) as load:
            await load.open()
            await trio.sleep(setting.warm_up)
            after = memory_of(running.pids)
            checked = await load.stop()
    return {
        "kb": (after - before) / count / 1024,
        "before_mb": before / 2**20,
        "checked": count + checked,
    }
