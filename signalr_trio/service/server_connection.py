"""The service's end of a server connection, and the hub server behind it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from signalr_trio.errors import ConnectionClosed, ProtocolError
from signalr_trio.link.link import Link
from signalr_trio.link.release import state_header
from signalr_trio.protocol.service_messages import (
    DIAGNOSTIC_CLIENT,
    FINACK,
    MIGRATE_FROM,
    PROTOCOL_VERSION,
    SHUTDOWN,
    CloseConnection,
    ConnectionData,
    ConnectionType,
    HandshakeRequest,
    HandshakeResponse,
    Headers,
    MigrationLevel,
    OpenConnection,
    Ping,
    ServiceMessage,
)
from signalr_trio.service.open_calls import OpenCalls
from signalr_trio.service.options import ServiceMode
from signalr_trio.service.parts import Parts
from signalr_trio.service.routing import HANDLERS
from signalr_trio.service.token_claims import is_diagnostic

if TYPE_CHECKING:
    from signalr_trio.service.service import Service, ServiceHub
    from signalr_trio.service.session import ClientSession

__all__ = ["Server", "ServerConnection"]

log = logging.getLogger("signalr_trio.service")

_NO_HUB_SERVERS = "The service is in serverless mode, which has no hub servers."
#: WebSocket close codes: what came makes no sense; nothing came. And the bytes of a reason.
_PROTOCOL_ERROR = 1002
_LONGEST_REASON = 120


class Server:
    """One incarnation of a hub server: its connections, of all its hubs, until its first FIN.

    That FIN takes all of them offline. Connections that come later under the same id are another
    incarnation: a restart under a fixed name.
    """

    def __init__(
        self,
        id: str,
        instance: str | None,
        *,
        embedded: bool = False,
        fallback: bool = False,
    ) -> None:
        self.id = id
        self.instance = instance
        self.embedded = embedded
        self.fallback = fallback
        """Whether it stands in for a hub server, in serverless and classic mode."""
        self.connections: dict[ServerConnection, None] = {}
        self.clients = 0
        """Clients that are with one of its connections."""
        self.incoming = 0
        """Clients that are on their way here."""
        self.came_at = trio.current_time()
        self.fin_at: float | None = None
        """When the first FIN came: since then the server is draining."""
        self.finack_at = 0.0
        self.asked_at: float | None = None
        """When it first awaited a result from a client."""
        self.wants_migration = False
        self.look_again = trio.lowlevel.ParkingLot()
        """Unparked when a client that could not be moved may be able to."""
        self.moving = 0
        """Hand-overs of its clients that are under way."""
        self.all_asked = trio.Event()
        """Set when ``fin:1`` has come on every live connection."""

    @property
    def releases(self) -> bool:
        """Whether the server answers a migrating close when it is done with the client."""
        return self.instance is not None

    @property
    def draining(self) -> bool:
        return self.fin_at is not None

    @property
    def load(self) -> int:
        return self.incoming + self.clients

    def note_migration_asked(self) -> None:
        if all(one.migration_asked for one in self.connections):
            self.all_asked.set()


class ServerConnection:
    """One server connection: in order both ways, and the clients that are with it."""

    def __init__(
        self, service: Service, hub: ServiceHub, link: Link, server: Server, cid: str
    ) -> None:
        self.service = service
        self.hub = hub
        self.link = link
        self.server = server
        self.id = cid
        self.sessions: dict[str, ClientSession] = {}
        """The clients whose messages 5 and 6 are taken from here; of others they are dropped."""
        self.is_weak = False
        self.migration_level: int = MigrationLevel.OFF
        self.migration_asked = False
        self.allows_stateful_reconnect = False
        self.dropped = 0
        """Messages about clients that are not, or no longer, with this connection."""
        self._parts = Parts()
        self._heard_at = trio.current_time()

    def __repr__(self) -> str:
        return f"<server connection {self.id} of {self.server.id}, hub {self.hub.name}>"

    # -- to the server ----------------------------------------------------------------------

    @property
    def counts(self) -> bool:
        """Whether the service keeps count of the calls that are open on this connection."""
        return not self.server.releases or self.migration_level == MigrationLevel.ANY

    @property
    def moves_when_lost(self) -> bool:
        """Whether the clients of a connection that is lost are moved, and not closed."""
        return self.counts and (
            self.server.wants_migration or self.migration_level == MigrationLevel.ANY
        )

    def open(
        self,
        session: ClientSession,
        *,
        migrate_from: str | None = None,
        state: bytes | None = None,
    ) -> None:
        """Opens a client here: message 4, then its handshake request."""
        headers: Headers = session.headers
        if migrate_from is not None:
            headers = {**headers, MIGRATE_FROM: [migrate_from]}
        if state is not None and self.server.releases:
            headers = {**headers, **state_header(state)}
        if is_diagnostic(session.claims):
            headers = {**headers, DIAGNOSTIC_CLIENT: ["true"]}
        self.sessions[session.id] = session
        self.server.clients += 1
        session.connection = self
        session.last_server = self.server.id
        session.calls = OpenCalls() if self.counts else None
        self.link.send(
            OpenConnection(
                session.id,
                claims=session.claims,
                headers=headers,
                query_string=session.query_string,
                protocol=session.protocol.name,
            )
        )
        self.send_data(session.id, session.handshake_frame)

    def send_data(self, connection_id: str, payload: bytes) -> None:
        self.link.send(ConnectionData(connection_id, payload))

    def close(self, session: ClientSession) -> None:
        """Tells the server that the client has gone."""
        if session.id in self.sessions:
            self.link.send(CloseConnection(session.id))
        self.detach(session)
        if not self.server.moving:
            self.server.look_again.unpark_all()

    def detach(self, session: ClientSession) -> None:
        """The client is no longer with this connection, which knows it already."""
        if self.sessions.pop(session.id, None) is not None:
            self.server.clients -= 1
        self._parts.forget(session.id)
        session.connection = None

    # -- from the server --------------------------------------------------------------------

    async def run(self) -> None:
        """Serves the connection until it ends, for whatever reason.

        Its clients are dealt with in the same step in which the end is noticed. A server whose
        messages make no sense is told why in the close.
        """
        fault: ProtocolError | None = None
        try:
            rest = await self._shake_hands()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_alive, nursery.cancel_scope)
                await self._receive(rest)
        except* ConnectionClosed as group:
            for error in group.exceptions:
                log.info("%r has ended: %s", self, error)
        except* ProtocolError as group:
            for error in group.exceptions:
                log.warning("%r is ended: %s", self, error)
                fault = error if isinstance(error, ProtocolError) else fault
        finally:
            self.service.connection_lost(self)
        if fault is not None:
            reason = str(fault).encode()[:_LONGEST_REASON].decode(errors="ignore")
            await self.link.aclose(_PROTOCOL_ERROR, reason)

    async def _receive(self, messages: Sequence[ServiceMessage]) -> None:
        while True:
            self._heard_at = trio.current_time()
            for message in messages:
                handler = HANDLERS.get(type(message))
                if handler is None:
                    log.debug("%r: no use for %s", self, type(message).__name__)
                else:
                    handler(self, message)
            messages = await self.link.receive()

    async def _shake_hands(self) -> Sequence[ServiceMessage]:
        """What came behind the handshake request."""
        messages: Sequence[ServiceMessage] = ()
        with trio.move_on_after(self.service.options.handshake_timeout):
            messages = await self.link.receive()
        if not messages or not isinstance(messages[0], HandshakeRequest):
            found = type(messages[0]).__name__ if messages else "nothing"
            raise ProtocolError(f"{self.server.id} sent {found} where its handshake belongs")
        request = messages[0]
        if request.version != PROTOCOL_VERSION:
            self.link.send(HandshakeResponse(f"Version {request.version} is not supported; 1 is."))
            raise ProtocolError(f"{self.server.id} speaks version {request.version}")
        if self._is_out_of_place(request):
            log.warning("%r: refused. %s", self, _NO_HUB_SERVERS)
            self.link.send(HandshakeResponse(_NO_HUB_SERVERS))
            raise ProtocolError(f"{self.server.id} wants to serve clients")
        self.is_weak = request.connection_type == ConnectionType.WEAK
        self.migration_level = request.migration_level
        self.allows_stateful_reconnect = request.allow_stateful_reconnects
        self.link.send(HandshakeResponse(connection_id=self.id))
        self.service.connection_ready(self)
        return messages[1:]

    def _is_out_of_place(self, request: HandshakeRequest) -> bool:
        """In serverless mode there are no hub servers, but weak connections, which only send: the
        Management SDK has them."""
        serverless = self.service.mode is ServiceMode.SERVERLESS and not self.server.fallback
        return serverless and request.connection_type != ConnectionType.WEAK

    async def _keep_alive(self, scope: trio.CancelScope) -> None:
        """Pings first, since .NET servers ping only when they hear something."""
        options = self.service.options
        while trio.current_time() - self._heard_at <= options.server_timeout:
            await trio.sleep(options.server_ping)
            self.link.send(Ping())
        log.warning("%r was silent for %.0f s: given up", self, options.server_timeout)
        scope.cancel()

    def take_data(self, message: ConnectionData) -> None:
        session = self.sessions.get(message.connection_id)
        if session is None:
            self.dropped += 1
        elif (whole := self._parts.join(message)) is not None:
            session.server_data(whole)
        elif self._parts.size_of(message.connection_id) > self.service.options.client_buffer:
            session.close("The hub server sent a message that does not end.")

    def take_fin(self, value: str) -> None:
        """A FIN: the whole server goes offline, and FINACK follows all that went before it."""
        server = self.server
        if server.fin_at is None:
            log.info("server %s goes offline (%s)", server.id, value)
            server.fin_at = trio.current_time()
        self.link.send(Ping.of(SHUTDOWN, FINACK))
        server.finack_at = trio.current_time()
        if value == "fin:1":
            self.migration_asked = True
            if not server.wants_migration:
                server.wants_migration = True
                self.service.begin_draining(server)
            server.note_migration_asked()
