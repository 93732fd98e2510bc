"""A hub server with all the clients is stopped while some of them talk; another takes over.

Service and both hub servers share the core of the server. In mode off clients are closed, and come
back as official clients do: negotiate, WebSocket, handshake, at once.
"""

from __future__ import annotations

import socket
from typing import Any

import attrs
import trio

from benchmarks.contestants import Contestant, behind, start_hub_server, start_service
from benchmarks.load.generator import LoadFailed, LoadGenerator, open_load_generator
from benchmarks.measure import Figures, Setting, Work, plan_of
from benchmarks.processes import ServerProcess
from benchmarks.protocols import Opening

__all__ = ["hand_over"]

_PATH = "/bench"
_TALKING = 0.05
#: Messages of one talking client on their way; in order, so that one that overtakes is found.
_WINDOW = 8
_MOST_A_SECOND = 1_000.0
_EACH_A_SECOND = 10.0
_SETTLE = 0.5
_PATIENCE = 120.0
_COMING_BACK = 256


async def hand_over(
    setting: Setting, contestant: Contestant, encoding: str, *, clients: int, mode: str
) -> Figures:
    """Moves all clients from one hub server to another."""
    cores, speech = setting.cores, contestant.speech(encoding)
    count = setting.scaled(clients)
    talking = max(int(count * _TALKING), 1)
    rate = min(talking * _EACH_A_SECOND, _MOST_A_SECOND)
    port_again = _free_port()
    new_options = ("--server-id", "new", "--port", str(port_again))
    old_options = ("--server-id", "old", "--shutdown-mode", mode)
    async with (
        start_service(cores) as service,
        start_hub_server(service, cores.server, *old_options) as old,
    ):
        running = await behind(service, old)
        work = Work(connections=count, talking=talking, window=_WINDOW)
        plan = await plan_of(running, speech, work, cores)
        where = attrs.evolve(running.at(_PATH), port_again=port_again)
        plan = attrs.evolve(
            plan,
            steps=speech.opening(where, Opening(negotiate=mode == "off"), _PATH),
            reconnect=mode == "off",
            opening=_COMING_BACK,
        )
        async with open_load_generator(plan, cores.load) as load:
            # The new server comes later: all clients are to be on the old one.
            await load.open()
            async with start_hub_server(service, cores.server, *new_options):
                await load.begin(rate)
                await trio.sleep(setting.warm_up)
                await load.mark()
                await trio.sleep(setting.seconds)
                steady = await load.mark()
                moving = await _move(old, load, coming_back=count if mode == "off" else 0)
                await trio.sleep(setting.seconds)
                after = await load.mark()
                checked = await load.stop()
    return {
        **_what_came_of_it(count, mode, old.last["report"], moving),
        **_pauses(talking / rate * 1e3, steady, moving),
        "p99_ms": moving["latency"]["p99"],
        "steady_p99_ms": steady["latency"]["p99"],
        "after_p99_ms": after["latency"]["p99"],
        "load_cpu": moving["load_cpu"] / moving["seconds"],
        "checked": checked,
    }


async def _move(old: ServerProcess, load: LoadGenerator, *, coming_back: int) -> dict[str, Any]:
    """Stops the old server; the phase in which it went, and its clients came back."""
    old.terminate()
    with trio.fail_after(_PATIENCE):
        await old.ended.wait()
        if coming_back:
            await load.back(coming_back)
    if "report" not in old.last:
        raise LoadFailed(f"the old server has not ended in order: {old.last}")
    await trio.sleep(_SETTLE)
    return await load.mark()


def _what_came_of_it(
    count: int, mode: str, report: dict[str, Any], moving: dict[str, Any]
) -> Figures:
    """How many clients moved, how fast. Raises LoadFailed where some did not."""
    stage = {stage["name"]: stage["duration"] for stage in report["stages"]}
    moved, seconds = report["migrated"], stage.get("clients", 0.0)
    if mode == "off":
        moved, seconds = moving["reopened"], moving["back"]
    if moved != count:
        raise LoadFailed(f"{count - moved} of {count} clients did not move: {report}")
    return {
        "clients_per_s": count / seconds,
        "seconds": seconds,
        "disconnects": moving["disconnects"],
        "lost": moving["lost"],
        "away_p50_ms": moving["away"]["p50"],
        "away_p99_ms": moving["away"]["p99"],
    }


def _pauses(interval: float, steady: dict[str, Any], moving: dict[str, Any]) -> Figures:
    """The longest time between answers of each talking client, beyond the usual one; and what
    is left of their answers in the worst 100 ms."""
    usual = max(interval, steady["gaps"]["p50"])
    pauses = {name: max(moving["gaps"][name] - usual, 0.0) for name in ("p50", "p99", "max")}
    figures = {f"pause_{name}_ms": pause for name, pause in pauses.items()}
    span = round(0.1 / moving["tick"])
    ticks = moving["ticks"]
    windows = [sum(ticks[at : at + span]) for at in range(max(len(ticks) - span, 1))]
    expected = steady["deliveries"] / steady["seconds"] * 0.1
    return {**figures, "dip": min(windows) / expected if expected else 0.0}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
