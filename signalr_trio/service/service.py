"""The service: which clients, which hub servers, and which server gets which client."""

from __future__ import annotations

import base64
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from signalr_trio.background import open_background
from signalr_trio.link.link import Agreement, Link
from signalr_trio.service.draining import drain
from signalr_trio.service.groups import Groups
from signalr_trio.service.http_connection import HttpConnection
from signalr_trio.service.options import ServiceMode, ServiceOptions
from signalr_trio.service.server_connection import Server, ServerConnection
from signalr_trio.service.session import ClientSession
from signalr_trio.service.tally import Tally
from signalr_trio.service.token_claims import Sticky
from signalr_trio.tokens import Claims
from signalr_trio.transport.client_transport import ClientTransport

__all__ = ["Service", "ServiceHub"]

log = logging.getLogger("signalr_trio.service")

_TICK = 1.0
_STOPPING = "The service is stopping. Connect again."
#: How long an id that was negotiated may wait for its connection.
_NEGOTIATED = 15.0
#: For clients and servers to be told that the service stops.
_FAREWELL = 2.0


class ServiceHub:
    """One hub: its clients and the server connections that serve it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: dict[str, ClientSession] = {}
        self.users: dict[str, dict[ClientSession, None]] = {}
        self.tokens: dict[str, ClientSession] = {}
        """Clients by the token that they connected with."""
        self.groups = Groups(self.users)
        self.connections: dict[ServerConnection, None] = {}
        self.tally = Tally()

    def clients(self, ids: Iterable[str]) -> list[ClientSession]:
        """Those of these connections that there are."""
        return [self.sessions[id] for id in ids if id in self.sessions]

    def clients_of(self, user_id: str) -> list[ClientSession]:
        return list(self.users.get(user_id, ()))

    def has_in_group(self, user_id: str, group: str) -> bool:
        return any(session.user_id == user_id for session in self.groups.members(group))


class Service:
    """The core of the service, without sockets of its own.

    ``async with service.running()`` runs it; meanwhile ``serve_server``, and the ``run`` of each
    ``new_client``, are awaited by whoever accepted the connection, so that each of them is in its
    caller's nursery. ``chance`` is the one source of randomness.
    """

    def __init__(
        self,
        options: ServiceOptions | None = None,
        *,
        mode: ServiceMode = ServiceMode.DEFAULT,
        chance: random.Random | None = None,
    ) -> None:
        self.options = options or ServiceOptions()
        self.mode = mode
        self.serve_without_server: Callable[[str], None] | None = None
        """Connects what stands in for a hub server, by the name of the hub."""
        self.slots = trio.Semaphore(self.options.slots)
        self.targets = trio.lowlevel.ParkingLot()
        """Unparked when there may be a server for a client that waits for one."""
        self.progress = trio.lowlevel.ParkingLot()
        """Unparked when a client or a hand-over has ended."""
        self.held_size = 0
        """Bytes held for all clients."""
        self.stopping = False
        self._chance = chance or random.SystemRandom()
        self._hubs: dict[str, ServiceHub] = {}
        self._servers: dict[Server, None] = {}
        self._sessions: dict[ClientSession, None] = {}
        self.http_connections: dict[str, HttpConnection] = {}
        """What was negotiated, by its token, until it is over."""
        self._nursery: trio.Nursery | None = None
        self._background: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Service]:
        """Runs the service for the block; at its end clients and servers are told, in order."""
        async with open_background() as background, trio.open_nursery() as nursery:
            self._nursery = nursery
            self._background = background
            nursery.start_soon(self._tick)
            try:
                yield self
            finally:
                await self._stop()
                nursery.cancel_scope.cancel()

    async def _stop(self) -> None:
        """Lets hand-overs end, says Close to every client, then ends the server connections."""
        self.stopping = True
        with trio.CancelScope(shield=True):
            with trio.move_on_after(self.options.stop_timeout):
                while any(session.hand_over is not None for session in self._sessions):
                    await self.progress.park()
            for session in list(self._sessions):
                session.farewell(_STOPPING)
            with trio.move_on_after(_FAREWELL):
                while self._sessions:
                    await self.progress.park()
            for session in list(self._sessions):
                session.abort()
            async with trio.open_nursery() as nursery:
                for server in self._servers:
                    for connection in server.connections:
                        nursery.start_soon(connection.link.aclose, 1001, "the service is stopping")

    async def _tick(self) -> None:
        """One timer for all sessions: keep-alives, time-outs, ids that nobody came for."""
        while True:
            await trio.sleep(_TICK)
            # In a call of its own: what is in a variable here would be kept to the next tick.
            self._look_after(trio.current_time())

    def _look_after(self, now: float) -> None:
        for session in list(self._sessions):
            session.tick(now)
        for token in [key for key, one in self.http_connections.items() if one.expires <= now]:
            self.http_connections.pop(token).expire()
        for hub in self._hubs.values():
            hub.groups.tick(now)
        # Time alone makes a late comer a target (``_is_same``).
        self._targets_changed()

    def start_soon(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """A task that ends with the service at the latest, but is not cancelled before that: a
        client that is not served by one of its requests is still to be told."""
        if self._background is not None and not self.stopping:
            self._background.start_soon(work, *arguments)

    # -- clients ----------------------------------------------------------------------------

    def serve_apart(self, session: ClientSession) -> None:
        """Runs the session of a client that outlives its requests."""
        self.start_soon(_run_apart, session)

    def hub(self, name: str) -> ServiceHub:
        """The hub of that name, which is made when it is first asked for."""
        name = name.lower()
        if name not in self._hubs:
            self._hubs[name] = ServiceHub(name)
        return self._hubs[name]

    @property
    def hubs(self) -> Collection[ServiceHub]:
        """Those that were asked for so far."""
        return self._hubs.values()

    @property
    def client_count(self) -> int:
        return len(self._sessions)

    @property
    def server_connection_count(self) -> int:
        return sum(len(server.connections) for server in self._servers)

    def negotiate(
        self, hub: str, claims: Claims, *, version: int, stateful: bool = False
    ) -> HttpConnection:
        """A new connection; its token is its id for version 0."""
        connection_id = self.new_id()
        token = self.new_id() if version > 0 else connection_id
        expires = trio.current_time() + _NEGOTIATED
        connection = HttpConnection(hub, connection_id, token, claims, expires, stateful)
        self.http_connections[token] = connection
        return connection

    async def offers_stateful_reconnect(self, hub_name: str) -> bool:
        """Whether a client of the hub that asks for it may have stateful reconnect.

        Not where a hub server forbids it (SDK: ``AllowStatefulReconnects``): any of them may be
        given the client. It keeps what it was promised, wherever it is moved; servers have no part
        in it. Where hub servers serve, and there are none, the first is waited for a little.
        """
        if not self.options.stateful_reconnect:
            return False
        connections = self.hub(hub_name).connections
        if self.mode is ServiceMode.DEFAULT:
            with trio.move_on_after(self.options.connect_wait):
                while not connections:
                    await self.targets.park()
        found = [one for one in connections if self._is_in_place(one.server, None)]
        servers = [one for one in found if not one.is_weak] or found
        if not servers:
            return self.mode is not ServiceMode.DEFAULT
        return all(one.allows_stateful_reconnect for one in servers)

    def new_id(self) -> str:
        """16 random bytes as 22 characters, as ASP.NET Core writes its ids."""
        random_bytes = self._chance.randbytes(16)
        return base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode("ascii")

    def new_client(
        self,
        hub_name: str,
        transport: ClientTransport,
        *,
        connection_id: str,
        claims: Claims,
        token: str | None = None,
        query_string: str = "",
        headers: dict[str, list[str | None]] | None = None,
    ) -> ClientSession:
        """A client that has come; await its ``run``.

        ``token`` is what it connected with; None: its id.
        """
        return ClientSession(
            self,
            self.hub(hub_name),
            transport,
            connection_id=connection_id,
            claims=claims,
            token=token,
            query_string=query_string,
            headers=headers,
        )

    def begun(self, session: ClientSession) -> None:
        """A client has come; nobody knows yet what it wants."""
        self._sessions[session] = None

    def ended(self, session: ClientSession) -> None:
        """A client and its last hand-over are over."""
        self._sessions.pop(session, None)
        self.http_connections.pop(session.token, None)
        self.progress.unpark_all()

    def admit(self, session: ClientSession) -> None:
        """A client is about to be opened on a server: from now on sends find it."""
        hub = session.hub
        hub.sessions[session.id] = session
        hub.tokens[session.token] = session
        hub.tally.opened += 1
        if session.user_id is not None:
            hub.users.setdefault(session.user_id, {})[session] = None

    def forget(self, session: ClientSession) -> None:
        """A client has gone: no send finds it any more, and it is in no group."""
        hub = session.hub
        hub.sessions.pop(session.id, None)
        hub.tokens.pop(session.token, None)
        hub.groups.leave_all(session)
        if session.user_id is not None and (of_user := hub.users.get(session.user_id)):
            of_user.pop(session, None)
            if not of_user:
                del hub.users[session.user_id]

    def give_back(self, size: int) -> None:
        """Room in the holds has become free."""
        was_full = self.held_size > self.options.hold_total
        self.held_size -= size
        if was_full and self.held_size <= self.options.hold_total:
            for session in self._sessions:
                session.resume_reading()

    # -- servers ----------------------------------------------------------------------------

    async def serve_server(self, hub_name: str, link: Link, *, server_id: str, cid: str) -> None:
        """Serves one server connection until it has ended."""
        agreement = link.agreement
        server = self._incarnation(server_id, agreement)
        connection = ServerConnection(self, self.hub(hub_name), link, server, cid)
        server.connections[connection] = None
        await connection.run()

    def _incarnation(self, id: str, agreement: Agreement | None) -> Server:
        instance = agreement.instance if agreement is not None else None
        for server in self._servers:
            same = server.id == id and server.instance == instance
            if same and (instance is not None or not server.draining):
                return server
        server = Server(
            id,
            instance,
            embedded=agreement is not None and agreement.embedded,
            fallback=agreement is not None and agreement.fallback,
        )
        self._servers[server] = None
        return server

    def connection_ready(self, connection: ServerConnection) -> None:
        """A server connection has had its handshake: it may be given clients."""
        log.info("%r is up", connection)
        connection.hub.connections[connection] = None
        self._targets_changed()

    def connection_lost(self, connection: ServerConnection) -> None:
        """A server connection has ended: what was with it is moved, or closed."""
        server = connection.server
        connection.hub.connections.pop(connection, None)
        server.connections.pop(connection, None)
        for session in list(connection.sessions.values()):
            session.server_lost()
        server.clients -= len(connection.sessions)
        connection.sessions.clear()
        for session in connection.hub.sessions.values():
            session.asker_lost(connection)
        if not server.connections:
            self._servers.pop(server, None)
        elif server.wants_migration:
            server.note_migration_asked()
        server.look_again.unpark_all()

    def _targets_changed(self) -> None:
        self.targets.unpark_all()
        for server in self._servers:
            server.look_again.unpark_all()

    def begin_draining(self, server: Server) -> None:
        """The clients of a server are to be moved to others (``fin:1``)."""
        if not server.embedded and self._nursery is not None:
            self._nursery.start_soon(drain, self, server)

    def choose_server(
        self, hub: ServiceHub, *, leaving: Server | None = None, sticky: Sticky | None = None
    ) -> ServerConnection | None:
        """The server connection for a client: of the server with the fewest clients.

        None if there is no server that may be given one. ``sticky`` names the server that a new
        client prefers, or requires. Weak connections are for sending; they are given clients where
        there are no others (SDK: a service that is somebody's secondary endpoint has no others).
        """
        wanted = None if sticky is None else sticky.server_id

        def load(connection: ServerConnection) -> tuple[bool, bool, bool, int, int]:
            server = connection.server
            another = wanted not in (None, server.id)
            own = len(connection.sessions)
            return server.fallback, another, connection.is_weak, server.load, own

        return min(self._candidates(hub, leaving, sticky), key=load, default=None)

    def has_server(self, hub: ServiceHub, *, leaving: Server) -> bool:
        """Whether there is a server that may take over a client of ``leaving``."""
        return next(self._candidates(hub, leaving), None) is not None

    def _candidates(
        self, hub: ServiceHub, leaving: Server | None, sticky: Sticky | None = None
    ) -> Iterator[ServerConnection]:
        """The server connections that may be given a client.

        Clients of ``leaving`` do not go back to it, nor to a server that has come under its id so
        lately that it may be the same process; and a client that is with a hub server stays with
        hub servers.
        """
        required = sticky.server_id if sticky is not None and sticky.required else None
        for connection in hub.connections:
            server = connection.server
            if server.draining or (leaving is not None and self._is_same(server, leaving)):
                continue
            if required in (None, server.id) and self._is_in_place(server, leaving):
                yield connection

    def _is_in_place(self, server: Server, leaving: Server | None) -> bool:
        """Upstreams take no client that was with a hub server; in serverless mode they take all."""
        if server.fallback:
            return leaving is None
        return self.mode is not ServiceMode.SERVERLESS

    def _is_same(self, server: Server, leaving: Server) -> bool:
        if server is leaving:
            return True
        nameless = server.instance is None and server.id == leaving.id
        return nameless and trio.current_time() - server.came_at < self.options.late_comer

    async def wait_for_server(
        self,
        hub: ServiceHub,
        patience: float,
        *,
        leaving: Server | None = None,
        sticky: Sticky | None = None,
    ) -> ServerConnection | None:
        """As ``choose_server``; waits so many seconds for a server to come if there is none."""
        connection = self.choose_server(hub, leaving=leaving, sticky=sticky)
        if connection is None:
            with trio.move_on_after(patience):
                while connection is None:
                    # What stands in for a hub server takes nobody who comes from one.
                    if self.serve_without_server is not None and leaving is None:
                        self.serve_without_server(hub.name)
                    await self.targets.park()
                    connection = self.choose_server(hub, leaving=leaving, sticky=sticky)
        return connection

    def servers_of(self, hub: ServiceHub) -> str:
        """The answer to a ``servers`` ping: a timestamp and the ids of all servers.

        The SDK ignores answers older than one that it has had, so the time is one that outlives
        this process.
        """
        servers = (connection.server for connection in hub.connections)
        ids = dict.fromkeys(server.id for server in servers if not server.fallback)
        return f"{time.time_ns() // 1_000_000}:{';'.join(ids)}"


async def _run_apart(session: ClientSession) -> None:
    """An error of ours ends this client; whose session is run by its request, has HTTP see to it."""
    try:
        await session.run()
    except Exception:
        log.exception("client %s of hub %s: its session has failed", session.id, session.hub.name)
