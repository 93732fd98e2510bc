"""Serves hubs that have no hub server: to the service, the hub server's end of memory links."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from signalr_trio.background import open_background
from signalr_trio.errors import ConnectionClosed
from signalr_trio.link.link import Agreement, Link
from signalr_trio.link.memory import memory_link_pair
from signalr_trio.protocol.service_messages import (
    CloseConnection,
    ConnectionData,
    HandshakeRequest,
    OpenConnection,
    Ping,
    ServiceMessage,
    UpdateConnectionClaims,
)
from signalr_trio.upstream.client import ServerlessClient
from signalr_trio.upstream.rules import Upstream
from signalr_trio.upstream.webhook import Send

__all__ = ["ServerlessHub", "UpstreamServer", "open_upstreams"]

log = logging.getLogger("signalr_trio.upstream")

#: Seconds for what is still on its way when the service has stopped.
_FAREWELL = 5.0
_LOST = "The connection was lost."


@asynccontextmanager
async def open_upstreams(
    upstreams: Sequence[Upstream],
    *,
    keys: Sequence[str],
    send: Send,
    join: Callable[[str, Link], None],
) -> AsyncGenerator[UpstreamServer]:
    """Serves hubs during the block, each from the moment on when ``serve`` is called with its name.

    ``keys`` sign the webhooks, ``send`` posts them, and ``join`` gives the service its end of the
    link of a hub. At the end of the block, also of one that is cancelled, 5 s are left for the
    webhooks that are on their way.
    """
    async with open_background() as background:
        server = UpstreamServer(upstreams, keys, send, join, background)
        try:
            yield server
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_FAREWELL):
                await server.end()


class UpstreamServer:
    """Stands in for the hub servers of all hubs that have none."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        keys: Sequence[str],
        send: Send,
        join: Callable[[str, Link], None],
        nursery: trio.Nursery,
    ) -> None:
        self.upstreams = upstreams
        self.keys = keys
        self.send = send
        self._join = join
        self._nursery = nursery
        self._hubs: dict[str, ServerlessHub] = {}
        self._working = 0
        self._idle = trio.lowlevel.ParkingLot()

    def serve(self, hub: str) -> None:
        """Connects to the service for a hub, unless that was done before."""
        if hub not in self._hubs:
            near, far = memory_link_pair(Agreement("serverless", embedded=True, fallback=True))
            one = self._hubs[hub] = ServerlessHub(self, hub, near)
            self.start_soon(one.run)
            self._join(hub, far)

    def forget(self, hub: ServerlessHub) -> None:
        del self._hubs[hub.name]

    def start_soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """A task that ``end`` waits for."""
        self._working += 1
        self._nursery.start_soon(self._count_out, work)

    async def _count_out(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            self._working -= 1
            self._idle.unpark_all()

    async def end(self) -> None:
        """Takes up what the service has said last, and waits until nothing is on its way."""
        for hub in list(self._hubs.values()):
            await hub.link.aclose()
        while self._working:
            await self._idle.park()


class ServerlessHub:
    """A hub's link to the service, and its clients that have no hub server."""

    def __init__(self, server: UpstreamServer, name: str, link: Link) -> None:
        self.name = name
        self.link = link
        self.upstreams = server.upstreams
        self.keys = server.keys
        self.send = server.send
        self.start_soon = server.start_soon
        self.clients: dict[str, ServerlessClient] = {}
        self._server = server

    async def run(self) -> None:
        """Serves the link until it has ended; then all of its clients are gone."""
        self.link.send(HandshakeRequest(allow_stateful_reconnects=True))
        try:
            while True:
                for message in await self.link.receive():
                    self._take(message)
        except ConnectionClosed as end:
            log.debug("hub %s: %s", self.name, end)
        finally:
            self._server.forget(self)
        for client in list(self.clients.values()):
            client.gone(_LOST)

    def _take(self, message: ServiceMessage) -> None:
        if isinstance(message, ConnectionData):
            if (client := self.clients.get(message.connection_id)) is not None:
                client.receive(message.payload)
        elif isinstance(message, OpenConnection):
            self.clients[message.connection_id] = ServerlessClient(self, message)
        elif isinstance(message, CloseConnection):
            if (client := self.clients.get(message.connection_id)) is not None:
                client.gone(message.error_message or None)
        elif isinstance(message, UpdateConnectionClaims):
            if (client := self.clients.get(message.connection_id)) is not None:
                client.claims = message.claims
        elif isinstance(message, Ping):
            # Without an answer the service would give up the link.
            self.link.send(Ping())
