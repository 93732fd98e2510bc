"""How SignalR is deployed: the processes of each way, and how its hub server is replaced."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.interop.client_process import ClientProcess
from tests.peers import Peer, dotnet_peer, run_peer

__all__ = ["DEPLOYMENTS", "PATIENCE", "Deployment", "Kind", "deployed"]

#: Seconds for something that is waited for.
PATIENCE = 60
ROOT = Path(__file__).parent.parent.parent

#: Runs a hub server that is given its name and a connection string.
Server = Callable[[str, str | None], AbstractAsyncContextManager[Peer]]


@attrs.frozen
class Kind:
    """One way to deploy."""

    title: str
    """As a heading of the table."""
    old: Server
    new: Server | None = None
    """What takes over from the old server; None: there is no other, and no hand-over."""
    service: bool = True
    """Whether clients connect to a service of its own process."""
    needs_dotnet: bool = False
    undisturbed: bool = True
    """Whether features run without a hand-over as well."""
    replaces: bool = True
    """Whether the server is stopped in the middle of features at all."""


class Deployment:
    """The running servers of a deployment: one, and later the one that replaces it."""

    def __init__(self, kind: Kind, connection_string: str | None, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.servers: list[Peer] = []
        self._connection_string = connection_string
        self._nursery = nursery

    @property
    def url(self) -> str:
        """Where new clients negotiate: at the server that came last."""
        return f"{self.servers[-1].url}/test"

    @property
    def survivor(self) -> str:
        """The name of the server that has the clients when the old one has stopped."""
        return "old" if self.kind.new is None else "new"

    async def start_old(self) -> None:
        await self._start(self.kind.old, "old")

    async def start_new(self, clients: ClientProcess) -> None:
        """Starts the server that is to take over, and waits until the service sends it clients."""
        if self.kind.new is None:
            return
        await self._start(self.kind.new, "new")
        with trio.fail_after(PATIENCE):
            while True:
                probe = await clients.connect(self.url)
                found = (await probe.invoke("WhoAmI"))["serverName"]
                await probe.stop()
                if found == "new":
                    return
                await trio.sleep(0.1)

    async def stop_old(self, witness_ids: Sequence[str]) -> None:
        """Begins the shutdown of the old server; when this returns, one of these idle clients has
        just been handed over, or (embedded) the server is offline."""
        self.servers[0].terminate()
        if self.kind.new is None:
            await self.servers[0].event("shutdown_begin")
        else:
            await _first(self.servers[-1].event("connected", id=id) for id in witness_ids)

    async def old_has_ended(self) -> None:
        """The old server ends in order: nobody was dropped, and no stage ran out of time."""
        old = self.servers[0]
        assert await old.wait() == 0
        end = await old.event("shutdown_end")
        assert not end.get("dropped"), end["text"]
        assert "timed out" not in end.get("text", ""), end["text"]

    async def event(self, ev: str, **fields: object) -> None:
        """Waits until one of the servers has told so."""
        await _first(server.event(ev, **fields) for server in self.servers)

    def told_of(self, connection_id: str) -> str:
        """What the servers have told of a client, as far as it is not about its calls."""
        return "; ".join(
            " ".join(f"{key}={value}" for key, value in event.items() if key not in ("hub", "id"))
            for server in self.servers
            for event in server.events
            if event.get("id") == connection_id and not event["ev"].startswith("invoke")
        )

    async def _start(self, server: Server, name: str) -> None:
        async def run(*, task_status: trio.TaskStatus[Peer]) -> None:
            async with server(name, self._connection_string) as peer:
                task_status.started(peer)
                await trio.sleep_forever()

        self.servers.append(await self._nursery.start(run))


async def _first(events: Iterable[Awaitable[object]]) -> None:
    """Waits until one of them has come."""
    async with trio.open_nursery() as nursery:

        async def wait(event: Awaitable[object]) -> None:
            await event
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


@asynccontextmanager
async def deployed(kind: Kind) -> AsyncIterator[Deployment]:
    """The deployment with its first server."""
    async with trio.open_nursery() as nursery:
        string = await nursery.start(_run_service) if kind.service else None
        deployment = Deployment(kind, string, nursery)
        await deployment.start_old()
        yield deployment
        nursery.cancel_scope.cancel()


def _ours(*arguments: str) -> AbstractAsyncContextManager[Peer]:
    return run_peer(Peer, [sys.executable, "-m", "tests.interop.server", *arguments], cwd=ROOT)


async def _run_service(*, task_status: trio.TaskStatus[str]) -> None:
    async with _ours("service") as service:
        task_status.started(service.started["connection_string"])
        await trio.sleep_forever()


def _hub_server(name: str, connection_string: str | None) -> AbstractAsyncContextManager[Peer]:
    assert connection_string is not None
    return _ours("hub", "--name", name, "--connection-string", connection_string)


def _embedded(name: str, _: str | None) -> AbstractAsyncContextManager[Peer]:
    return _ours("hub", "--name", name, "--mode", "wait_for_clients_close")


def _dotnet(name: str, connection_string: str | None) -> AbstractAsyncContextManager[Any]:
    given = {"--hubs": "test", "--server-name": name, "--log": "critical"}
    given["--max-message-size"] = str(1 << 20)
    if connection_string is not None:
        given |= {
            "--mode": "azure",
            "--server-connections": "2",
            "--shutdown-mode": "migrate",
            "--shutdown-timeout": "60",
            "--connection-string": connection_string,
        }
    return dotnet_peer(*itertools.chain(*given.items()), "--stateful-reconnect")


DEPLOYMENTS = {
    "fleet": Kind("Service and hub servers", _hub_server, _hub_server),
    "embedded": Kind("A hub server with the service in it", _embedded, service=False),
    "dotnet": Kind("Service and .NET hub servers", _dotnet, _dotnet, needs_dotnet=True),
    "dotnet-to-ours": Kind(
        "A .NET hub server, replaced by ours",
        _dotnet,
        _hub_server,
        needs_dotnet=True,
        undisturbed=False,
    ),
    "ours-to-dotnet": Kind(
        "A hub server of ours, replaced by a .NET one",
        _hub_server,
        _dotnet,
        needs_dotnet=True,
        undisturbed=False,
    ),
    "aspnetcore": Kind(
        "ASP.NET Core SignalR alone, for reference",
        _dotnet,
        service=False,
        needs_dotnet=True,
        replaces=False,
    ),
}
