"""A service with real hub servers, joined by memory links as by WebSockets: not embedded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

from signalr_trio.hub import Hub
from signalr_trio.link.link import Agreement, Link
from signalr_trio.link.memory import memory_link_pair
from signalr_trio.server import GracefulShutdown, HubOptions, HubServer
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.service import Service
from signalr_trio.tokens import Claims

from .clients import HELLO, Client
from .servers import Journal, ScriptedServer

__all__ = ["Cluster", "open_cluster", "settle"]

settle = wait_all_tasks_blocked
"""All that can happen without time passing has happened."""


class Cluster:
    """A service, and whatever servers and clients a test adds to it."""

    def __init__(self, service: Service, nursery: trio.Nursery) -> None:
        self.service = service
        self.nursery = nursery
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self.journal: Journal = []
        """What happened on all scripted servers, in order."""

    async def scripted(
        self,
        id: str,
        *,
        own: bool = True,
        connections: int = 1,
        hub: str = "chat",
        instance: str | None = None,
        level: int = 1,
        answers: bool = True,
    ) -> ScriptedServer:
        """A hub server that does what the test says; its connections are up."""
        server = ScriptedServer(
            self.service,
            self.nursery,
            id,
            own=own,
            instance=instance,
            level=level,
            journal=self.journal,
        )
        server.answers = answers
        for _ in range(connections):
            server.connect(hub)
        await settle()
        assert all(connection.is_up for connection in server.connections)
        return server

    async def serve(
        self,
        *hubs: type[Hub],
        id: str,
        own: bool = True,
        connections: int = 2,
        shutdown: GracefulShutdown | None = None,
        options: HubOptions | None = None,
    ) -> HubServer:
        """A real hub server that is up. ``own`` False: no agreement, as if the ends were not ours."""
        server = HubServer("unused", server_id=id, shutdown=shutdown, options=options)
        for hub in hubs:
            server.map(hub, f"/{hub.__name__}")
        await self.start(server, own=own, connections=connections)
        return server

    async def start(self, server: HubServer, *, own: bool = True, connections: int = 2) -> None:
        """Runs a hub server; returns when its server connections are up."""
        agreement = Agreement(server.instance) if own else None

        @asynccontextmanager
        async def connect(hub: str, cid: str, target: str | None) -> AsyncGenerator[Link]:
            near, far = memory_link_pair(agreement)
            self.nursery.start_soon(
                partial(self.service.serve_server, hub, far, server_id=server.server_id, cid=cid)
            )
            try:
                yield near
            finally:
                await near.aclose()

        await self.nursery.start(partial(server.run, connect, connections=connections))

    async def client(
        self,
        id: str = "c",
        *,
        hub: str = "chat",
        claims: Claims | None = None,
        query: str = "",
        hello: bytes = HELLO,
    ) -> Client:
        """A client that has sent its handshake request, and had its answer if there is one."""
        client = Client(id, claims=claims, query=query)
        self.nursery.start_soon(client.serve, self.service, hub)
        client.transport.put(hello)
        await settle()
        return client

    async def stop(self) -> None:
        """Stops the service, as the end of its ``running`` block does."""
        self._stopping.set()
        await self._stopped.wait()

    async def run_service(self) -> None:
        async with self.service.running():
            await self._stopping.wait()
        self._stopped.set()


@asynccontextmanager
async def open_cluster(options: ServiceOptions | None = None) -> AsyncGenerator[Cluster]:
    """Runs a service for the block, and then cancels what is left of everything."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(Service(options), nursery)
        nursery.start_soon(cluster.run_service)
        await settle()
        yield cluster
        nursery.cancel_scope.cancel()
