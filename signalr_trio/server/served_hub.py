"""One hub as this server serves it: its class, its server connections, its clients."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from signalr_trio.errors import HubError
from signalr_trio.hub import GroupManager, Hub, HubCallerClients, HubContext
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import HubMessage
from signalr_trio.protocol.service_messages import CloseConnection, OpenConnection
from signalr_trio.server.binding import hub_methods, make_converter
from signalr_trio.server.client_connection import ClientConnection
from signalr_trio.server.client_results import ClientResults
from signalr_trio.server.client_tasks import ClientTasks
from signalr_trio.server.options import HubOptions
from signalr_trio.server.sending import GroupAcks, HubSender
from signalr_trio.texts import error_text

if TYPE_CHECKING:
    from signalr_trio.server.service_connection import ServiceConnection

__all__ = ["ServedHub"]

log = logging.getLogger("signalr_trio.server")


class ServedHub:
    """A hub class under a name, and who is connected to it here."""

    def __init__(self, hub_class: type[Hub], *, path: str, name: str, options: HubOptions) -> None:
        self.hub_class = hub_class
        self.path = path
        self.name = name
        """The name that the service knows: lower case."""
        self.server_id = ""
        """Known when the server runs, as are the functions below."""
        self.instance = ""
        self.options = options
        self.greets = hub_class.on_connected is not Hub.on_connected
        """Whether there is anything to do when a client comes."""
        converter = make_converter()
        self.methods = hub_methods(hub_class, converter)
        self.protocols: dict[str, HubProtocol] = {
            "json": JsonProtocol(converter.unstructure),
            "messagepack": MessagePackProtocol(converter.unstructure),
        }
        self.connections: list[ServiceConnection] = []
        self.clients: dict[str, ClientConnection] = {}
        self.acks = GroupAcks(options.ack_timeout)
        self.results = ClientResults(self)
        self.context = HubContext(HubSender(self))
        self.refusing = False
        self.last_deadline = math.inf
        """The point in time until which clients may end in order."""
        self.start_connection: Callable[[ServedHub, str | None], None] = _not_running
        self.tasks: ClientTasks
        """What the clients do."""
        self.unshaken: dict[ClientConnection, float] = {}
        """Whose handshake request has not come, in order, and when it must have."""
        self.on_client: Callable[[ClientConnection], None] = _not_running
        self.on_client_ended: Callable[[ClientConnection], None] = _not_running

    def make(self, client: ClientConnection) -> Hub:
        """A hub object for one call of a client; what it sends goes the client's own way."""
        hub = self.hub_class()
        hub.context = client.context
        if client.ways is None:
            sender = HubSender(self, client)
            client.ways = HubCallerClients(sender, client.id), GroupManager(sender)
        hub.clients, hub.groups = client.ways
        return hub

    def error_text(self, text: str, error: Exception) -> str:
        """What a client is told: the text of a HubError, of others only with detailed errors."""
        if isinstance(error, HubError):
            return f"{text} HubException: {error_text(error)}"
        if self.options.detailed_errors:
            return f"{text} {type(error).__name__}: {error_text(error)}"
        return text

    def open(self, connection: ServiceConnection, message: OpenConnection) -> None:
        """The service has a client for this server."""
        if self.refusing:
            connection.send(CloseConnection(message.connection_id))
            return
        client = ClientConnection(self, connection, message)
        before = self.clients.get(client.id)
        if before is not None:
            # The service has lost the connection that it came on, and noticed it first.
            before.connection_lost()
        self.clients[client.id] = client
        self.unshaken[client] = trio.current_time() + self.options.handshake_timeout
        self.on_client(client)

    def open_on_demand(self, target: str) -> None:
        """The service wants one more server connection, to one of its instances."""
        if len(self.connections) < self.options.max_server_connections:
            self.start_connection(self, target)

    def client_ended(self, client: ClientConnection) -> None:
        if self.clients.get(client.id) is client:
            del self.clients[client.id]
            self.results.client_ended(client.id)
        self.unshaken.pop(client, None)
        self.on_client_ended(client)

    async def end_handshakes(self) -> None:
        """The task that closes clients whose handshake request does not come in time."""
        while True:
            # One that comes while none is here is not in the first one's way: all have equal time.
            first = next(iter(self.unshaken.values()), math.inf)
            await trio.sleep_until(min(first, trio.current_time() + self.options.handshake_timeout))
            self._end_late_handshakes()

    def _end_late_handshakes(self) -> None:
        now = trio.current_time()
        for client, deadline in list(self.unshaken.items()):
            if deadline > now:
                break
            del self.unshaken[client]
            client.handshake_timed_out()

    def encode_for(self, names: Sequence[str], message: HubMessage) -> dict[str, bytes]:
        """As ``encode``, but a single client of this server needs its own protocol only."""
        client = self.clients.get(names[0]) if len(names) == 1 else None
        if client is None or client.protocol is None:
            return self.encode(message)
        return {client.protocol.name: client.protocol.write(message)}

    def encode(self, message: Any) -> dict[str, bytes]:
        """A message in every hub protocol, each encoded once for however many clients."""
        return {name: protocol.write(message) for name, protocol in self.protocols.items()}


def _not_running(*_: object) -> None:
    raise RuntimeError("the hub server is not running")
