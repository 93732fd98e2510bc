"""One client of a hub server, from its opening to its release or its end.

What arrives is sorted at once, in the step in which it came: calls wait in the inbox, in order;
items, completions and cancels go straight to the call that they belong to, so that they never
wait behind a call that waits for them.

The end has one order, whatever the reason: calls that began end, then ``on_disconnected``, then
the service is told. If this server is stopping its calls are cancelled instead, each with an error
completion, and ``on_disconnected`` has what is left of the last stage.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

import trio

from signalr_trio.errors import HubError, ProtocolError
from signalr_trio.hub import (
    ConnectionMigrationFeature,
    GroupManager,
    HubCallerClients,
    HubCallerContext,
)
from signalr_trio.link.release import release, state_in
from signalr_trio.protocol import handshake
from signalr_trio.protocol.framing import Splitter
from signalr_trio.protocol.handshake import HandshakeResponse
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.messages import (
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    StreamInvocation,
    StreamItem,
)
from signalr_trio.protocol.service_messages import (
    MIGRATE_FROM,
    MIGRATE_TO,
    CloseConnection,
    ConnectionData,
    ConnectionFlowControl,
    DataMessageType,
    FlowControlConnectionType,
    FlowControlOperation,
    OpenConnection,
    header,
)
from signalr_trio.server.application import split_errors
from signalr_trio.server.calls import Calls
from signalr_trio.server.identity import user_claims
from signalr_trio.server.withheld import Withheld
from signalr_trio.tokens import Claims, user_id_of

if TYPE_CHECKING:
    from signalr_trio.server.served_hub import ServedHub
    from signalr_trio.server.service_connection import ServiceConnection

__all__ = ["ClientConnection", "End"]

log = logging.getLogger("signalr_trio.server")

_HURRY = "The client is moving to another server, which this call did not let happen in time."
_GONE = "The client has gone."
_ERROR = "Connection closed with an error."
_STOPPED = "The hub server has stopped. Connect again."
CANNOT_MOVE = "The hub server is shutting down. Connect again."


class End(enum.Enum):
    """How a client connection ended on this server."""

    MIGRATED = "migrated"
    LEFT = "left"
    ABORTED = "aborted"
    DROPPED = "dropped"


class ClientConnection:
    """A client that was opened on this server. What is not its task never waits."""

    __slots__ = (
        "_answered",
        "_arrival",
        "_calls",
        "_connected",
        "_departure",
        "_disconnecting",
        "_error",
        "_handshake",
        "_splitter",
        "_withheld",
        "at_work",
        "connection",
        "context",
        "drop_reason",
        "end",
        "hub",
        "id",
        "is_bound",
        "last_scope",
        "pauses_asked",
        "protocol",
        "ways",
    )

    def __init__(
        self, hub: ServedHub, connection: ServiceConnection, message: OpenConnection
    ) -> None:
        self.hub = hub
        self.id = message.connection_id
        self.connection = connection
        """The server connection that the client is with."""
        self.end: End | None = None
        self.drop_reason = ""
        self.is_bound = ("asrs.s.ssticky", "Required") in message.claims
        """Whether the client cannot move (sticky mode Required)."""
        self.context = HubCallerContext(
            connection_id=self.id,
            user_id=user_id_of(message.claims),
            claims=user_claims(message.claims),
            query_string=message.query_string or "",
            headers=message.headers,
            abort=self.abort,
        )
        self.protocol: HubProtocol | None = hub.protocols.get((message.protocol or "").lower())
        self.at_work = False
        """Whether it has a task that works for it; kept by ``ClientTasks``."""
        self.last_scope: trio.CancelScope | None = None
        """Around ``on_disconnected``; the last stage sets its deadline."""
        self.ways: tuple[HubCallerClients, GroupManager] | None = None
        """By which hub objects made for it send; they hold no state."""
        self._arrival = _migrated_in(message, hub.server_id)
        self._departure: ConnectionMigrationFeature | None = None
        self._calls = Calls(self)
        self._splitter: Splitter | None = None
        self._handshake: bytes | None = b""
        """What has come of its handshake request; None when that was whole."""
        self._connected = False
        """Whether ``on_connected`` has returned."""
        self._answered = self._arrival is not None
        """Whether the client has had a handshake response: before it there is no Close."""
        self._disconnecting = False
        self._error: Exception | None = None
        self._withheld: Withheld | None = None
        """What is not sent while the service has paused the client; None while it has not."""
        self.pauses_asked = 0
        """How much the service was asked to hold of what the client sends."""

    def __repr__(self) -> str:
        return f"<client {self.id} of hub {self.hub.name}>"

    # -- the task ---------------------------------------------------------------------------

    def wake(self) -> bool:
        """There is something to do. False if the client's task is at work already."""
        return self.hub.tasks.wake(self)

    async def run(self) -> None:
        """The client's task: serves it until it is at rest, or to its end."""
        try:
            if await self._serve():
                return
        except BaseException:
            # Calls beside this task are cancelled as soon as the nursery knows, so it cannot wait.
            self.hub.tasks.start(self._end)
            raise
        await self._end()

    async def _serve(self) -> bool:
        """Whether the client is at rest now; else it is over."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._connected and (self._calls.over or not await self._connect()):
            return False
        return await self._calls.run()

    async def _end(self) -> None:
        """The end in its order; a cancelled client has it too."""
        await self._calls.end()
        with trio.CancelScope(shield=True, deadline=self.hub.last_deadline) as self.last_scope:
            if self._connected:
                await self._disconnect()
        self._say_goodbye(timed_out=self.last_scope.cancelled_caught)
        self.hub.client_ended(self)

    def rest(self) -> None:
        """The client has no task any more, and keeps nothing that it does not need."""
        self._calls.rest()
        self.ways = None
        if self._splitter is not None and not self._splitter.pending:
            self._splitter = None

    # -- the handshake ----------------------------------------------------------------------

    def handshake_timed_out(self) -> None:
        self._close_with("Handshake was canceled.", End.ABORTED)

    def _shake_hands(self, request: bytes) -> None:
        self.hub.unshaken.pop(self, None)
        if self._calls.over:
            return
        error = self._handshake_error(request)
        if error is not None:
            self._close_with(error, End.ABORTED)
            return
        if self._arrival is None:
            self._respond(None)
        if self.hub.greets:
            self.wake()
        else:
            self._is_connected()

    def _handshake_error(self, frame: bytes) -> str | None:
        try:
            request = handshake.parse_request(frame)
        except ProtocolError:
            return "An unexpected error occurred during connection handshake."
        if self.protocol is None:
            return f"The protocol '{request.protocol}' is not supported."
        if request.version > self.protocol.version:
            return (
                f"The server does not support version {request.version} of the "
                f"'{request.protocol}' protocol."
            )
        return None

    def _respond(self, error: str | None) -> None:
        self._answered = True
        response = handshake.write_response(HandshakeResponse(error))
        self.connection.send(ConnectionData(self.id, response, DataMessageType.HANDSHAKE))

    async def _connect(self) -> bool:
        """Runs ``on_connected``; False if that closed the client."""
        if self._arrival is not None:
            self.context.features.set(self._arrival)
        try:
            await self.hub.make(self).on_connected()
        except BaseException as raised:
            error, rest = split_errors(raised)
            if error is not None:
                self._log_failure("on_connected", error)
            if rest is not None:
                self.drop_reason = "on_connected did not end in time"
                self._close_with(_STOPPED, End.DROPPED, allow_reconnect=True)
                raise rest from None
            if error is not None:
                self._close_with(self.hub.error_text(_ERROR, error), End.ABORTED)
            return False
        finally:
            if self._arrival is not None:
                self.context.features.remove(ConnectionMigrationFeature)
        self._is_connected()
        return True

    def _is_connected(self) -> None:
        self._connected = True
        if self._arrival is not None and self.connection.agreed and self.end is None:
            self._respond(None)
        self._calls.begin()

    async def _disconnect(self) -> None:
        self._disconnecting = True
        if self._departure is not None and self.end is None:
            self.context.features.set(self._departure)
        error = self._error
        try:
            await self.hub.make(self).on_disconnected(error)
        except BaseException as raised:
            failure, rest = split_errors(raised)
            if failure is not None:
                self._log_failure("on_disconnected", failure)
            if rest is not None:
                raise rest from None
        finally:
            if self._departure is not None:
                self.context.features.remove(ConnectionMigrationFeature)

    def _log_failure(self, method: str, error: Exception) -> None:
        log.error("%r: %s failed", self, method, exc_info=error, extra={"connection_id": self.id})

    def _say_goodbye(self, *, timed_out: bool) -> None:
        """Tells the service, last of all, unless it knows."""
        if timed_out and self._departure is not None and self.end is None:
            self.drop_reason = "on_disconnected did not end in time"
            self._close_with(_STOPPED, End.DROPPED, allow_reconnect=True)
        elif self._departure is not None and self.end is None:
            self.end = End.MIGRATED
            if self.connection.agreed:
                self.connection.send(release(self.id, self._departure.packed_state))
        elif self.end is None:
            self.drop_reason = self.drop_reason or "the time to leave was up"
            self._close_with(_STOPPED, End.DROPPED, allow_reconnect=True)

    # -- what comes in ----------------------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        """Bytes of the client (message 6)."""
        try:
            if self._handshake is not None:
                self._handshake += payload
                split = handshake.split_handshake(self._handshake)
                if split is None:
                    return
                self._handshake = None
                request, payload = split
                self._shake_hands(request)
            if self.protocol is None or self.end is not None or not payload:
                return
            if self._splitter is None:
                self._splitter = self.protocol.splitter(None)
            for frame in self._splitter.feed(payload):
                message = self.protocol.parse(frame)
                if message is not None:
                    self._take(message, len(frame))
        except ProtocolError as fault:
            log.warning("%r: %s", self, fault, extra={"connection_id": self.id})
            self._error = fault
            self._close_with(self.hub.error_text(_ERROR, fault), End.ABORTED, allow_reconnect=True)

    def _take(self, message: HubMessage, size: int) -> None:
        if isinstance(message, (Invocation, StreamInvocation)):
            self._calls.arrived(message, size)
            self.inbox_changed()
        elif isinstance(message, StreamItem):
            self._calls.item(message, size)
            self.inbox_changed()
        elif isinstance(message, Completion):
            if not self.hub.results.answered_here(self, message):
                self._calls.upload_ended(message)
        elif isinstance(message, CancelInvocation):
            self._calls.cancel(message.invocation_id)
        elif isinstance(message, Close):
            self._error = HubError(message.error) if message.error else None
            self.end_input()
            self._input_lost()
            self.end = End.LEFT
            self.context.aborted.set()
            self._send_close(None, allow_reconnect=False)

    def inbox_changed(self) -> None:
        """Asks the service to hold what the client sends while too much is waiting here.

        Asked once it holds what begins a call; asked twice, the items of uploads too.
        """
        waiting, options = self._calls.waiting_size, self.hub.options
        if self.connection.agreed and waiting > options.inbox_pause:
            wanted = 2 if self._calls.unread_size > options.inbox_pause else 1
            while self.pauses_asked < wanted:
                self.pauses_asked += 1
                self._ask(FlowControlOperation.PAUSE)
        elif self.pauses_asked and waiting <= options.inbox_pause // 2:
            self.pauses_asked = 0
            self._ask(FlowControlOperation.RESUME)
        if waiting > options.inbox_limit and self.end is None:
            log.warning("%r: %d bytes wait for its calls: closed", self, waiting)
            self._close_with("Too much is waiting for earlier calls to end.", End.ABORTED)

    def _ask(self, operation: FlowControlOperation) -> None:
        self.connection.send(
            ConnectionFlowControl(self.id, FlowControlConnectionType.CLIENT, operation)
        )

    def close(self, message: CloseConnection) -> None:
        """The service closes the client (message 5): it has gone, or is to move."""
        target = header(message.headers, MIGRATE_TO)
        if target is None:
            self.gone()
        elif self._departure is None:
            # Too late once ``on_disconnected`` was told that the client does not move.
            if not self._disconnecting:
                self._departure = ConnectionMigrationFeature(self.hub.server_id, target)
                self.end_input()
        else:
            # Sent again, it means hurry: what waits for the client's own input waits in vain.
            log.info("%r: hurried to move", self)
            self._calls.hurry(_HURRY)

    def update_claims(self, claims: Claims) -> None:
        """The client has logged in anew (message 43)."""
        self.context.claims = user_claims(claims)
        self.context.user_id = user_id_of(claims)

    def gone(self, error: Exception | None = None) -> None:
        """The client has left, or the server connection it was with is lost."""
        if self._departure is None and self.end is None:
            self.end = End.LEFT
            self._error = error
        self.context.aborted.set()
        self.end_input()
        self._input_lost()

    def connection_lost(self) -> None:
        """The server connection has ended; nothing can be said to the client any more."""
        self.end = self.end or End.LEFT
        self.gone()

    def stop(self, deadline: float) -> None:
        """The server stops: calls are about to be cancelled, and this is how long there is."""
        if self.last_scope is not None:
            self.last_scope.deadline = deadline
        self.context.aborted.set()
        self.wake()

    def _input_lost(self) -> None:
        """Nothing more comes from the client: no items, no results."""
        self._calls.input_lost(_GONE)
        self.hub.results.client_gone(self.id)

    def end_input(self) -> None:
        self._calls.over = True
        self.wake()

    # -- what goes out ----------------------------------------------------------------------

    def abort(self) -> None:
        """The hub closes the client."""
        self._close_with(None, End.ABORTED)

    def drop(self, reason: str) -> None:
        """Begins nothing more; when what began has ended, the client is closed and may come
        again."""
        if self.end is None and self._departure is None:
            self.drop_reason = reason
            self._calls.fail_waiting()
            self.end_input()

    def _close_with(self, error: str | None, end: End, *, allow_reconnect: bool = False) -> None:
        """Closes the client now; its calls still run to their end."""
        if self.end is not None:
            return
        self.end = end
        self.context.aborted.set()
        self._calls.discard_waiting()
        self.end_input()
        self._input_lost()
        self._send_close(error, allow_reconnect=allow_reconnect)

    def _send_close(self, error: str | None, *, allow_reconnect: bool) -> None:
        if not self._answered:
            self._respond(error or _STOPPED)
        elif self.protocol is not None:
            payload = self.protocol.write(Close(error, allow_reconnect))
            self.connection.send(ConnectionData(self.id, payload, DataMessageType.CLOSE))
        self.connection.send(CloseConnection(self.id, ""))

    def send(self, message: HubMessage) -> None:
        """A completion or an item, to this client."""
        if self.protocol is None or self.end is not None:
            return
        payload = self.protocol.write(message)
        if self._withheld is not None:
            self._withheld.put(payload)
        else:
            self._send_data(payload)

    def _send_data(self, payload: bytes) -> None:
        self.connection.send(ConnectionData(self.id, payload, DataMessageType.INVOCATION))

    def ping(self) -> None:
        if not self._answered or self._withheld is not None or self.end is not None:
            return
        if self.protocol is not None:
            payload = self.protocol.write(Ping())
            self.connection.send(ConnectionData(self.id, payload, DataMessageType.OTHER))

    async def writable(self) -> None:
        """Waits while the line to the service is full, or much is withheld.

        Others get their turn in any case: a line that takes no more is never full, and a stream may
        wait for nothing else.
        """
        await trio.lowlevel.checkpoint()
        if self._withheld is not None:
            await self._withheld.room(self.hub.options.link_high_water)
        await self.connection.drained()

    def pause(self) -> None:
        """The service wants nothing more of this client on this server connection."""
        if self._withheld is None:
            self._withheld = Withheld()
            self._ask(FlowControlOperation.PAUSE_ACK)

    def resume(self, connection: ServiceConnection) -> None:
        """The client is with ``connection`` now; what was withheld goes there."""
        self.connection = connection
        withheld, self._withheld = self._withheld, None
        for payload in () if withheld is None else withheld.end():
            self._send_data(payload)


def _migrated_in(message: OpenConnection, server_id: str) -> ConnectionMigrationFeature | None:
    migrate_from = header(message.headers, MIGRATE_FROM)
    if migrate_from is None:
        return None
    return ConnectionMigrationFeature(migrate_from, server_id, state_in(message.headers))
