"""A hub server that does what a test tells it, on one end of memory links.

There are two kinds: *own* servers have an instance id, agree on releasing and answer the handshake
of a client that was handed over; *SDK* servers have none, and do what the official SDK does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.link.link import Agreement
from signalr_trio.link.memory import memory_link_pair
from signalr_trio.link.release import release
from signalr_trio.protocol.handshake import HandshakeResponse, write_response
from signalr_trio.protocol.messages import Completion, HubMessage, Invocation
from signalr_trio.protocol.service_messages import (
    FINACK,
    MIGRATE_FROM,
    MIGRATE_TO,
    SHUTDOWN,
    CloseConnection,
    ConnectionData,
    DataMessageType,
    HandshakeRequest,
    MigrationLevel,
    MultiConnectionData,
    OpenConnection,
    Ping,
    ServiceMessage,
    header,
)
from signalr_trio.protocol.service_messages import (
    HandshakeResponse as ServiceHandshakeResponse,
)
from signalr_trio.service.service import Service

from .clients import JSON

__all__ = ["Journal", "ScriptedConnection", "ScriptedServer"]

MessageT = TypeVar("MessageT", bound=ServiceMessage)

#: What happened on all servers, in order: (server id, what, connection id, bytes or header).
Journal = list[tuple[str, str, str, Any]]


class ScriptedServer:
    """A hub server with any number of server connections.

    What ``answers`` and ``auto_release`` stand for is done in the step in which a message is taken.
    """

    def __init__(
        self,
        service: Service,
        nursery: trio.Nursery,
        id: str,
        *,
        own: bool = True,
        instance: str | None = None,
        level: int = MigrationLevel.SHUTDOWN_ONLY,
        journal: Journal | None = None,
    ) -> None:
        self.id = id
        self.own = own
        self.instance = (instance or f"instance-of-{id}") if own else None
        self.level = level
        self.answers = True
        """Answers handshake requests: an SDK server not those of clients that are handed over."""
        self.auto_release = False
        """Own servers: releases a client as soon as it is told to."""
        self.pings = True
        """Answers pings with pings, as the SDK does; without that the service gives it up."""
        self.on_open: Callable[[ScriptedConnection, str], None] | None = None
        """Called in the step in which a client is opened."""
        self.journal: Journal = [] if journal is None else journal
        self.connections: list[ScriptedConnection] = []
        self._service = service
        self._nursery = nursery

    def connect(self, hub: str = "chat", *, shake: bool = True) -> ScriptedConnection:
        """One more server connection; it is up when the service has had its turn."""
        agreement = Agreement(self.instance) if self.instance is not None else None
        near, far = memory_link_pair(agreement)
        cid = f"{self.id}-{len(self.connections)}"
        connection = ScriptedConnection(self, near, cid)
        self.connections.append(connection)
        serve = partial(self._service.serve_server, hub, far, server_id=self.id, cid=cid)
        self._nursery.start_soon(serve)
        self._nursery.start_soon(connection.run)
        if shake:
            connection.send(HandshakeRequest(migration_level=self.level))
        return connection

    def fin(self, value: str = "fin:1") -> None:
        """FIN on each connection."""
        for connection in self.connections:
            connection.fin(value)

    def one_with(self, client_id: str) -> ScriptedConnection:
        """The connection on which that client was opened."""
        return next(one for one in self.connections if client_id in one.opened)

    @property
    def opened(self) -> dict[str, OpenConnection]:
        return {id: opened for one in self.connections for id, opened in one.opened.items()}

    def data_of(self, client_id: str) -> list[bytes]:
        """The hub messages of a client, without its handshake requests."""
        return [frame for one in self.connections for frame in one.data_of(client_id)]


class ScriptedConnection:
    """The server's end of one server connection."""

    def __init__(self, server: ScriptedServer, link: Any, id: str) -> None:
        self.server = server
        self.link = link
        self.id = id
        self.received: list[ServiceMessage] = []
        self.ended = False
        self.reads = trio.Event()
        """Cleared by ``stop_reading``."""
        self.reads.set()
        self._unshaken: set[str] = set()

    async def run(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                await self.reads.wait()
                for message in await self.link.receive():
                    self.received.append(message)
                    self._react(message)
        self.ended = True

    def _react(self, message: ServiceMessage) -> None:
        server = self.server
        if isinstance(message, OpenConnection):
            self._note("open", message.connection_id, header(message.headers, MIGRATE_FROM))
            self._unshaken.add(message.connection_id)
            if server.on_open is not None:
                server.on_open(self, message.connection_id)
        elif isinstance(message, ConnectionData):
            if message.connection_id in self._unshaken:
                self._unshaken.discard(message.connection_id)
                if server.answers and (server.own or not self._moved_in(message.connection_id)):
                    self.answer(message.connection_id)
            else:
                self._note("data", message.connection_id, message.payload)
        elif isinstance(message, CloseConnection):
            target = header(message.headers, MIGRATE_TO)
            self._note("close", message.connection_id, target)
            if target is not None and server.auto_release:
                self.release(message.connection_id)
        elif isinstance(message, Ping) and not message.values and server.pings:
            self.send(Ping())

    def _note(self, what: str, client_id: str, detail: Any) -> None:
        self.server.journal.append((self.server.id, what, client_id, detail))

    def _moved_in(self, client_id: str) -> bool:
        return header(self.opened[client_id].headers, MIGRATE_FROM) is not None

    # -- what came --------------------------------------------------------------------------

    def of(self, kind: type[MessageT]) -> list[MessageT]:
        return [message for message in self.received if isinstance(message, kind)]

    @property
    def is_up(self) -> bool:
        return any(not one.error_message for one in self.of(ServiceHandshakeResponse))

    @property
    def opened(self) -> dict[str, OpenConnection]:
        return {message.connection_id: message for message in self.of(OpenConnection)}

    @property
    def finacks(self) -> int:
        return sum(message.get(SHUTDOWN) == FINACK for message in self.of(Ping))

    def payloads_of(self, client_id: str) -> list[bytes]:
        """Of all messages 6 of a client, its handshake request included."""
        return [one.payload for one in self.of(ConnectionData) if one.connection_id == client_id]

    def data_of(self, client_id: str) -> list[bytes]:
        """The hub messages of a client, without its handshake request."""
        return JSON.splitter(None).feed(b"".join(self.payloads_of(client_id)[1:]))

    def closes_of(self, client_id: str) -> list[CloseConnection]:
        return [one for one in self.of(CloseConnection) if one.connection_id == client_id]

    def migrating_closes_of(self, client_id: str) -> list[str]:
        targets = [header(one.headers, MIGRATE_TO) for one in self.closes_of(client_id)]
        return [target for target in targets if target is not None]

    # -- what is said -----------------------------------------------------------------------

    def send(self, message: ServiceMessage) -> None:
        self.link.send(message)

    def fin(self, value: str = "fin:1") -> None:
        self.send(Ping.of(SHUTDOWN, value))

    def answer(self, client_id: str, error: str | None = None) -> None:
        """The answer to a client's handshake request."""
        payload = write_response(HandshakeResponse(error))
        self.send(ConnectionData(client_id, payload, DataMessageType.HANDSHAKE))

    def say(self, client_id: str, *messages: HubMessage) -> None:
        """Hub messages of the client's own calls (message 6)."""
        for message in messages:
            payload = JSON.write(message)
            self.send(ConnectionData(client_id, payload, DataMessageType.INVOCATION))

    def complete(self, client_id: str, invocation_id: str, result: Any = None) -> None:
        self.say(client_id, Completion(invocation_id, result))

    def send_to(self, client_ids: Iterable[str], target: str, *arguments: Any) -> None:
        """A send by connection id (message 7)."""
        payload = JSON.write(Invocation(target, arguments))
        self.send(MultiConnectionData(list(client_ids), {"json": payload}))

    def release(self, client_id: str, state: bytes | None = None) -> None:
        self._note("release", client_id, state)
        self.send(release(client_id, state))

    def stop_reading(self) -> None:
        self.reads = trio.Event()

    async def lose(self) -> None:
        """The connection ends."""
        await self.link.aclose()
