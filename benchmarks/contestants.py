"""Who is measured: how each is started, and what it can do."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import orjson
import trio

from benchmarks.node import NodeMissing, install_socketio
from benchmarks.processes import ROOT, Cores, ServerProcess, run_server
from benchmarks.protocols import Bare, SignalR, SocketIO, Speech, Where

__all__ = [
    "ALL",
    "Contestant",
    "Running",
    "behind",
    "select",
    "start_hub_server",
    "start_service",
]

SERVERS = ROOT / "benchmarks" / "servers"
HUBS = ("bench", "other", "test")
DOTNET_PEER = os.environ.get("SIGNALR_DOTNET_PEER")


@attrs.frozen
class Running:
    """A contestant that is up."""

    where: Where
    processes: dict[str, ServerProcess]
    """By their names in the report: ``server``, or ``service`` and ``hub server``."""
    tokens: dict[str, str] = attrs.field(factory=dict[str, str])
    """By hub."""

    @property
    def pids(self) -> list[int]:
        return [server.pid for server in self.processes.values()]

    def at(self, path: str) -> Where:
        """Where clients of a hub go."""
        return attrs.evolve(self.where, token=self.tokens.get(path.strip("/"), ""))


Start = Callable[..., AbstractAsyncContextManager[Running]]
#: Takes the cores.


@attrs.frozen(kw_only=True)
class Contestant:
    """One that is measured."""

    name: str
    title: str
    family: str
    """What ``--peers`` can name besides the name itself."""
    start: Start
    speech: Callable[[str], Speech]
    encodings: tuple[str, ...] = ("json",)
    does: frozenset[str] = frozenset()
    """Kinds of work: echo, broadcast, groups, targets, connect, hand-over."""
    missing: Callable[[], str | None] = lambda: None
    """Why it cannot be measured here."""

    @property
    def ours(self) -> bool:
        return self.family == "ours"


# -- how they are started -----------------------------------------------------------------------


def _program(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.servers.{name}"]


@asynccontextmanager
async def _one(
    cores: Cores, *, command: Sequence[str] | Callable[[], list[str]]
) -> AsyncGenerator[Running]:
    line = command() if callable(command) else command
    async with run_server(line, cores.server) as server:
        yield Running(Where(server.port), {"server": server})


@asynccontextmanager
async def _ours_behind(
    cores: Cores, *, apart: bool = False, hub_servers: int = 1
) -> AsyncGenerator[Running]:
    core = cores.other if apart else cores.server
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(start_service(cores))
        servers = [
            await stack.enter_async_context(start_hub_server(service, core))
            for _ in range(hub_servers)
        ]
        running = await behind(service, servers[0])
        for number, server in enumerate(servers[1:], 2):
            running.processes[f"hub server {number}"] = server
        yield running


def start_service(cores: Cores) -> AbstractAsyncContextManager[ServerProcess]:
    """The service alone."""
    return run_server(_program("service"), cores.server)


def start_hub_server(
    service: ServerProcess, core: int | None, *options: str
) -> AbstractAsyncContextManager[ServerProcess]:
    """A hub server of ours at a service."""
    command = [*_program("hub_server"), service.started["connection_string"], *options]
    return run_server(command, core)


@asynccontextmanager
async def _dotnet_behind(cores: Cores) -> AsyncGenerator[Running]:
    async with start_service(cores) as service:
        string = service.started["connection_string"]
        command = [*_dotnet(), "--mode", "azure", "--connection-string", string]
        async with run_server(command, cores.server) as hub_server:
            yield await behind(service, hub_server)


async def behind(service: ServerProcess, hub_server: ServerProcess) -> Running:
    """Asks for a token for each hub; with the .NET server, until it is connected."""
    answers = {hub: await _negotiate(hub_server.port, hub) for hub in HUBS}
    where = Where(
        hub_server.port,
        service=service.port,
        versioned="negotiateVersion" in answers[HUBS[0]]["url"],
    )
    tokens = {hub: answer["accessToken"] for hub, answer in answers.items()}
    return Running(where, {"service": service, "hub server": hub_server}, tokens)


async def _negotiate(port: int, hub: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/{hub}/negotiate?negotiateVersion=1"

    def ask() -> dict[str, Any]:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST")) as answer:
            return orjson.loads(answer.read())

    with trio.fail_after(30):
        while True:
            try:
                return await trio.to_thread.run_sync(ask)
            except OSError:
                await trio.sleep(0.05)  # it says that it is up before its service knows it


def _dotnet() -> list[str]:
    assert DOTNET_PEER is not None
    return [DOTNET_PEER, "--quiet", "--hubs", ",".join(HUBS)]


def _no_dotnet() -> str | None:
    return None if DOTNET_PEER else "SIGNALR_DOTNET_PEER does not name a signalr-peer"


def _socketio_node() -> list[str]:
    return [*install_socketio(), str(SERVERS / "node" / "socketio.mjs")]


def _no_node() -> str | None:
    try:
        install_socketio()
    except NodeMissing as error:
        return str(error)
    return None


# -- the table ----------------------------------------------------------------------------------

_BOTH = ("json", "messagepack")
_HUB = frozenset({"echo", "broadcast", "groups", "targets", "connect", "negotiate"})
_BARE = frozenset({"echo", "broadcast", "connect"})


def _ours(name: str, title: str, start: Start, does: frozenset[str]) -> Contestant:
    return Contestant(
        name=name,
        title=title,
        family="ours",
        start=start,
        speech=SignalR,
        encodings=_BOTH,
        does=does,
    )


def _peer(name: str, title: str, family: str, start: Start, **others: Any) -> Contestant:
    others = {"speech": lambda _: SocketIO(), "does": _HUB, **others}
    return Contestant(name=name, title=title, family=family, start=start, **others)


def _uvicorn(loop: str) -> Start:
    return partial(_one, command=[*_program("socketio_uvicorn"), loop])


ALL = [
    _ours("embedded", "ours, embedded", partial(_one, command=_program("embedded")), _HUB),
    _ours(
        "service+hub",
        "ours, service + hub server on one core",
        _ours_behind,
        _HUB | {"hand-over", "units"},
    ),
    _ours(
        "service",
        "ours, the service alone (hub server on another core)",
        partial(_ours_behind, apart=True),
        frozenset({"echo", "broadcast", "units"}),
    ),
    _peer(
        "dotnet",
        "ASP.NET Core SignalR",
        "dotnet",
        partial(_one, command=_dotnet),
        speech=SignalR,
        encodings=_BOTH,
        missing=_no_dotnet,
    ),
    _peer(
        "service+dotnet",
        "our service + .NET hub server on one core",
        "dotnet",
        _dotnet_behind,
        speech=SignalR,
        encodings=_BOTH,
        missing=_no_dotnet,
    ),
    _peer("python-socketio", "python-socketio, uvicorn", "socketio", _uvicorn("asyncio")),
    _peer(
        "python-socketio-uvloop",
        "python-socketio, uvicorn + uvloop",
        "socketio",
        _uvicorn("uvloop"),
    ),
    _peer(
        "socketio-node",
        "Socket.IO on Node",
        "socketio",
        partial(_one, command=_socketio_node),
        missing=_no_node,
    ),
    _peer(
        "trio-websocket",
        "trio-websocket, no hub",
        "bare",
        partial(_one, command=_program("trio_websocket_bare")),
        speech=lambda _: Bare(),
        does=_BARE,
    ),
    _peer(
        "aiohttp",
        "aiohttp, no hub",
        "bare",
        partial(_one, command=_program("aiohttp_bare")),
        speech=lambda _: Bare(),
        does=_BARE,
    ),
]


def select(names: Sequence[str]) -> list[Contestant]:
    """Those with these names, or of these families. Raises ValueError for one that is unknown."""
    known = {one.name for one in ALL} | {one.family for one in ALL}
    if unknown := set(names) - known:
        raise ValueError(f"no peer is called {', '.join(sorted(unknown))}")
    return [one for one in ALL if not names or {one.name, one.family} & set(names)]
