"""One client of the service, from its transport to the server connection it is with.

A session is with at most one server connection at a time. While a hand-over is under way, or its
server asked for a pause, what the client sends is held. All changes of state are synchronous: a
message that came in is dealt with, wherever it goes, before anything else happens.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
from msgpack import Timestamp  # pyright: ignore[reportMissingTypeStubs]

from signalr_trio.errors import ConnectionClosed, ProtocolError
from signalr_trio.protocol import handshake
from signalr_trio.protocol.encodings import hub_protocol
from signalr_trio.protocol.framing import Splitter
from signalr_trio.protocol.handshake import HandshakeRequest, HandshakeResponse
from signalr_trio.protocol.hub_protocol import HubProtocol, Peek
from signalr_trio.protocol.messages import Close, MessageType, Ping
from signalr_trio.protocol.service_messages import (
    NO_EXPIRY,
    ConnectionData,
    DataMessageType,
    UpdateConnectionClaims,
)
from signalr_trio.service.client_results import AwaitedResults, Question
from signalr_trio.service.hand_over import HandOver, Slot
from signalr_trio.service.hold import Hold
from signalr_trio.service.open_calls import OpenCalls
from signalr_trio.service.token_claims import expires_in, handshake_timeout, sticky
from signalr_trio.tokens import Claims, user_id_of
from signalr_trio.transport.client_transport import ClientTransport, SharedPayload

if TYPE_CHECKING:
    from signalr_trio.service.server_connection import Server, ServerConnection
    from signalr_trio.service.service import Service, ServiceHub

__all__ = ["ClientSession"]

log = logging.getLogger("signalr_trio.service")

_KNOWN_TYPES = frozenset(MessageType)
_LARGEST_VERSION = 2
#: The claim that says when a login ends, in seconds since 1970.
_EXPIRES_AT = "asrs.s.aeo"
_NOT_A_HANDSHAKE = "An unexpected error occurred during connection handshake."
_TIMED_OUT = "Handshake was canceled."
_TEXT_ONLY = (
    "Cannot use the '{}' protocol on the current transport. "
    "The transport does not support 'Binary' transfer format."
)
_SERVER_LOST = "The connection to the hub server was lost."
_SERVER_AWAY = (
    "The hub server that this client is bound to is not connected to the service. Negotiate again."
)
_NO_SERVER = "No hub server is connected to the service for this hub. Try again later."


class ClientSession:
    """A client: its transport, its identity, and where its messages go.

    ``run`` owns the nursery of the session; a hand-over under way lives in it too, so that it is
    carried through when the client leaves meanwhile.
    """

    __slots__ = (
        "_close_passed",
        "_early",
        "_early_size",
        "_expires_at",
        "_heard_at",
        "_hold",
        "_paused",
        "_pings",
        "_reading",
        "_resumed",
        "_sends",
        "_sent_at",
        "_splitter",
        "_stalled",
        "_transport",
        "answered",
        "awaited",
        "calls",
        "claims",
        "connection",
        "gone",
        "hand_over",
        "handshake_frame",
        "headers",
        "hub",
        "id",
        "joined",
        "last_server",
        "nursery",
        "protocol",
        "query_string",
        "service",
        "token",
        "user_id",
    )

    nursery: trio.Nursery
    protocol: HubProtocol

    def __init__(
        self,
        service: Service,
        hub: ServiceHub,
        transport: ClientTransport,
        *,
        connection_id: str,
        claims: Claims,
        token: str | None = None,
        query_string: str = "",
        headers: dict[str, list[str | None]] | None = None,
    ) -> None:
        self.service = service
        self.hub = hub
        self.id = connection_id
        self.token = token or connection_id
        """The connection token, by which its servers ask for its claims (messages 41 and 42)."""
        self.claims = claims
        self.user_id = user_id_of(claims)
        self.query_string = query_string
        self.headers = headers or {}
        self.joined: dict[str, None] = {}
        """The groups that it was added to itself, not by its user."""
        self.handshake_frame = b""

        self.connection: ServerConnection | None = None
        """The server connection that the client is with; only it may send its messages 5 and 6."""
        self.last_server = ""
        """The id of the server that the client was last with."""
        self.hand_over: HandOver | None = None
        self.calls: OpenCalls | None = None
        self.awaited: AwaitedResults | None = None
        """What servers asked the client and it has not answered; None without any."""
        self.answered = False
        """Whether the handshake response has passed: before it the client is sent nothing."""
        self.gone = False
        """Whether the client has left or was closed."""

        self._transport = transport
        self._splitter: Splitter | None = None
        self._reading = trio.CancelScope()
        self._hold: Hold | None = None
        self._paused = False
        self._resumed: trio.Event | None = None
        self._early: list[bytes] | None = None
        self._early_size = 0
        self._close_passed = False
        self._pings = False
        self._stalled = False
        now = trio.current_time()
        self._heard_at = now
        self._sent_at = now
        self._sends = False
        """Whether something was sent since the last tick."""
        self._expires_at = _deadline(expires_in(claims))
        """When the client's login ends, and its connection with it."""

    # -- the client's side ------------------------------------------------------------------

    async def run(self) -> None:
        """Serves the client until it has left and its last hand-over is over."""
        self.service.begun(self)
        try:
            async with trio.open_nursery() as self.nursery:
                try:
                    with self._reading:
                        await self._converse()
                finally:
                    self._leave()
                    await self._transport.aclose()
        finally:
            self.service.ended(self)

    async def _converse(self) -> None:
        try:
            rest = await self._shake_hands()
            if rest is None:
                return
            self._pass_on(self._messages_in(rest))
            while True:
                await self._may_read()
                messages = self._messages_in(await self._transport.receive())
                if self.awaited is not None:
                    await self.awaited.noted(messages)
                self._pass_on(messages)
                del messages  # not kept while the client says nothing
        except ConnectionClosed as end:
            log.debug("client %s has left: %r", self.id, str(end))
        except ProtocolError as fault:
            log.warning("client %s of hub %s: %s", self.id, self.hub.name, fault)
            self.close(f"Connection closed with an error. {fault}", allow_reconnect=True)

    async def _shake_hands(self) -> bytes | None:
        """Reads the handshake request and opens the client on a server.

        What follows the request; None if the client is refused.
        """
        options = self.service.options
        buffer = b""
        with trio.move_on_after(handshake_timeout(self.claims) or options.handshake_timeout):
            while (split := handshake.split_handshake(buffer)) is None:
                buffer += await self._transport.receive()
                if len(buffer) > options.max_message_size:
                    break
            else:
                self.handshake_frame, behind = split
                request = await self._open()
                if request is None:
                    return None
                return self._transport.agreed(self.protocol, request.version, behind)
        self._refuse(_TIMED_OUT)
        return None

    async def _open(self) -> HandshakeRequest | None:
        """None if the client is refused."""
        try:
            request = handshake.parse_request(self.handshake_frame)
        except ProtocolError as fault:
            log.info("client %s: bad handshake: %s", self.id, fault)
            self._refuse(_NOT_A_HANDSHAKE)
            return None
        protocol = hub_protocol(request.protocol)
        if protocol is None or request.version > _LARGEST_VERSION:
            self._refuse(_unsupported(request, known=protocol is not None))
            return None
        if protocol.binary and self._transport.text_only:
            self._refuse(_TEXT_ONLY.format(protocol.name))
            return None
        self.protocol = protocol
        self._splitter = protocol.splitter(self.service.options.max_message_size)
        wanted, patience = sticky(self.claims), self.service.options.connect_wait
        connection = await self.service.wait_for_server(self.hub, patience, sticky=wanted)
        if self.gone:
            return None  # closed in the very step in which this task was to go on
        if connection is None:
            log.warning("client %s: no server for hub %s", self.id, self.hub.name)
            self._refuse(_SERVER_AWAY if self.is_bound else _NO_SERVER)
            return None
        self.service.admit(self)
        connection.open(self)
        return request

    def _refuse(self, error: str) -> None:
        log.info("client %s of hub %s is refused: %r", self.id, self.hub.name, error)
        self._transport.binary = False
        self._transport.send(handshake.write_response(HandshakeResponse(error)))
        self._close_passed = True

    def _messages_in(self, data: bytes) -> list[bytes]:
        """Every whole hub message of what the client sent, but pings."""
        assert self._splitter is not None
        frames = self._splitter.feed(data)
        if not frames:
            return frames
        self._heard_at = trio.current_time()
        is_ping = self.protocol.is_ping
        messages = [frame for frame in frames if not is_ping(frame)]
        if len(messages) < len(frames):
            self._pings = True
        return messages

    def _pass_on(self, messages: list[bytes]) -> None:
        """To wherever they belong."""
        if not messages:
            return
        plain = self._hold is None and self.calls is None and self.awaited is None
        if plain and self.connection is not None:
            self.connection.send_data(self.id, b"".join(messages))
            return
        for message in messages:
            self._pass_on_or_hold(message)

    def _pass_on_or_hold(self, message: bytes) -> None:
        peek = self.protocol.peek(message)
        if peek.type not in _KNOWN_TYPES:
            # A .NET server would not read on behind it; ours skips it just the same.
            log.debug("client %s: message type %d is unknown", self.id, peek.type)
            return
        if self.awaited is not None and self._is_awaited(self.awaited, message, peek):
            return
        if self._hold is not None and not self._hold.passes(peek):
            before = self._hold.size
            self._hold.put(message, peek, trio.current_time())
            self.service.held_size += self._hold.size - before
        else:
            self._forward(message, peek)

    def _is_awaited(self, awaited: AwaitedResults, message: bytes, peek: Peek) -> bool:
        """Whether a message was an answer to a server, which it is sent to."""
        taken = awaited.take(message, peek)
        self.awaited = awaited or None
        return taken

    def _forward(self, message: bytes, peek: Peek | None = None) -> None:
        if self.connection is None:
            return
        if self.calls is not None:
            self.calls.client_sent(peek or self.protocol.peek(message))
            self._notice_quiet(self.calls)
        self.connection.send_data(self.id, message)

    def _notice_quiet(self, calls: OpenCalls) -> None:
        """Either side may have ended the last open call, the client that of an upload."""
        if self.hand_over is not None and calls.quiet:
            self.hand_over.calls_ended()

    async def _may_read(self) -> None:
        """Waits while what the client sends would pile up: TCP then pushes back."""
        connection, high_water = self.connection, self.service.options.link_high_water
        if connection is not None and connection.link.buffered > high_water:
            with self._unread():
                await connection.link.drained(high_water)
        while self._hold is not None and self._is_full(self._hold):
            if self._hold.full_since is None:
                self._hold.full_since = trio.current_time()
            if self._resumed is None:
                self._resumed = trio.Event()
            with self._unread():
                await self._resumed.wait()
        if self._hold is not None:
            self._hold.full_since = None

    @contextmanager
    def _unread(self) -> Generator[None]:
        """The client's time-out stands still while it is not read."""
        self._stalled = True
        try:
            yield
        finally:
            self._stalled = False
            self._heard_at = trio.current_time()

    def _is_full(self, hold: Hold) -> bool:
        options = self.service.options
        return hold.size > options.hold_limit or self.service.held_size > options.hold_total

    def resume_reading(self) -> None:
        """Looks again whether the client may be read."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def _leave(self) -> None:
        """The client has left, or was closed: once, whatever the reason."""
        if self.gone:
            return
        self.gone = True
        self.service.forget(self)
        if self.awaited is not None:
            self.awaited.fail(f"Connection '{self.id}' is disconnected.")
        carried_through = self.hand_over is not None and self.hand_over.client_left()
        if not carried_through and self.connection is not None:
            self.end_hold()
            self.connection.close(self)
        self.drop_hold_if_orphaned()

    def drop_hold_if_orphaned(self) -> None:
        """Gives back the room of a hold that goes nowhere any more."""
        if self.gone and self.hand_over is None and self._hold is not None:
            self._take_hold()

    # -- time -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: keep-alive towards the client, its time-out, and the end of its login."""
        options = self.service.options
        self._transport.tick(now)
        if self._stalled and self._transport.lost:
            # Nobody reads it, and what it waits for may wait for its end.
            log.info("client %s has left while it was not read", self.id)
            self._end()
        if not self.answered or self.gone:
            return
        if self._sends:
            # Looked at once a second: asking for the time with each message would cost more.
            self._sends = False
            self._sent_at = now
        elif now - self._sent_at >= options.keep_alive and not self._transport.inherent_keep_alive:
            self._send(self.protocol.write(Ping()))
        silent = now - self._heard_at
        if self._pings and not self._stalled and silent > options.client_timeout:
            log.info("client %s was silent for %.0f s", self.id, silent)
            self.close("Connection closed with an error.", allow_reconnect=True)
        if now >= self._expires_at:
            log.info("client %s: its login has expired", self.id)
            self.close()
        if self.hand_over is not None and self._hold is not None:
            self.hand_over.hurry_if_due(self._hold, now)

    # -- the server's side ------------------------------------------------------------------

    def server_data(self, message: ConnectionData) -> None:
        """A message 6 of the server connection that the client is with."""
        if self.hand_over is not None and self.hand_over.takes_answer(message):
            return
        if not self.answered:
            self._answer(message)
            return
        if self._close_passed:
            return
        if message.data_type == DataMessageType.CLOSE:
            self._close_passed = True
        if self.calls is not None and not self._count(message.payload):
            return
        self._send(message.payload)

    def _answer(self, message: ConnectionData) -> None:
        """The first that comes is the handshake response; then what was sent meanwhile."""
        self.answered = True
        self._send(message.payload)
        if _is_refusal(message):
            self._close_passed = True
            self._early = None
        early, self._early = self._early, None
        for payload in early or ():
            self._send(payload)
        if self.connection is not None:
            self.connection.server.look_again.unpark_all()

    def _count(self, payload: bytes) -> bool:
        assert self.calls is not None
        try:
            for_client = self.calls.server_sent(self.protocol.peek(payload))
        except ProtocolError:
            # Not ours to judge what a server says to its client.
            return True
        self._notice_quiet(self.calls)
        return for_client

    def deliver(self, shared: SharedPayload) -> None:
        """A send (messages 7 to 13), from whichever server."""
        if self.gone or self._close_passed:
            return
        if not self.answered:
            self._early = self._early or []
            self._early.append(shared.payload)
            self._early_size += len(shared.payload)
            if self._early_size > self.service.options.hold_limit:
                self.close("Too much was sent to a client before its handshake was through.")
            return
        self._sends = True
        if self._transport.send_shared(shared) > self.service.options.client_buffer:
            self._too_slow()

    def ask(self, question: Question, payloads: Mapping[str, bytes]) -> None:
        """Invokes a method of the client, whose result is awaited.

        ``payloads`` is the invocation in each hub protocol that the client may have.
        """
        payload = payloads.get(self.protocol.name)
        if payload is None:
            question.fail(f"There is no payload for protocol {self.protocol.name}.")
            return
        if self.awaited is None:
            self.awaited = AwaitedResults(self)
        if question.id in self.awaited:
            question.fail(f"Invocation ID '{question.id}' is already in use.")
            return
        self.awaited.add(question)
        self.deliver(SharedPayload(payload, binary=self.protocol.binary))

    def update_claims(self, claims: Claims, expires: Timestamp) -> None:
        """The client has logged in anew (message 41); its server is told (43), as is each later.

        What the service itself has put in, and the login does not name anew, stays.
        """
        new = [(name, value) for name, value in claims if name != _EXPIRES_AT]
        self._expires_at = math.inf
        if expires != NO_EXPIRY:
            new.append((_EXPIRES_AT, str(expires.seconds)))
            self._expires_at = _deadline(expires.seconds - time.time())
        named = {_EXPIRES_AT} | {name for name, _ in new}
        kept = [one for one in self.claims if one[0].startswith("asrs.s.") and one[0] not in named]
        self.claims = new + kept
        if self.connection is not None:
            self.connection.link.send(UpdateConnectionClaims(self.id, self.claims))

    @property
    def groups(self) -> Collection[str]:
        """All groups that the client is in."""
        return self.hub.groups.of(self)

    def asks_no_more(self, server: Server | None, invocation_id: str) -> None:
        """Who asked has had the client's result, or does not want it any more."""
        if self.awaited is None:
            return
        self.awaited.forget(server, invocation_id)
        self.awaited = self.awaited or None
        if self.calls is not None:
            self.calls.asks_no_more(invocation_id)
            self._notice_quiet(self.calls)

    def asker_lost(self, connection: ServerConnection) -> None:
        """A server connection of the hub has ended, and may have asked the client something."""
        if self.awaited is not None:
            self.awaited.asker_lost(connection)
            self.awaited = self.awaited or None

    def _send(self, payload: bytes) -> None:
        if self.gone:
            return
        self._sends = True
        self._transport.send(payload)
        if self._transport.buffered > self.service.options.client_buffer:
            self._too_slow()

    def _too_slow(self) -> None:
        log.warning("client %s leaves %d bytes unread: closed", self.id, self._transport.buffered)
        self.abort()

    def server_closed(self, error: str | None) -> None:
        """The server closed this client (message 5): pass on why, unless it did so itself."""
        if not self._close_passed:
            self.close(error or None, allow_reconnect=False)
        self._end()

    def server_lost(self) -> None:
        """The server connection that the client is with has ended."""
        connection = self.connection
        if connection is None:
            return
        if self._close_passed:
            # The hub has closed the client, and was lost before it could say so to us.
            if self.hand_over is not None:
                self.hand_over.server_closed()
            self._end()
        elif self.hand_over is not None:
            self.hand_over.connection_lost()
        elif connection.moves_when_lost and self.may_move and not self.is_bound:
            hand_over = HandOver(self, Slot())
            hand_over.source_lost()
            self.nursery.start_soon(hand_over.run)
        else:
            self.drop(_SERVER_LOST)

    def drop(self, error: str) -> None:
        """Closes a client that no server could, or would, take over."""
        if not self.gone:
            self.hub.tally.dropped += 1
            self.close(error)

    def close(self, error: str | None = None, *, allow_reconnect: bool = True) -> None:
        """Says Close to the client, in the service's own name, and ends the session."""
        if self.gone:
            return
        if not self._close_passed:
            self._close_passed = True
            if self.answered:
                self._send(self.protocol.write(Close(error, allow_reconnect)))
            elif error is not None:
                self._refuse(error)
        self._end()

    def farewell(self, error: str) -> None:
        """The service stops: the client is told, unless it was, and need not come again."""
        self.close(error)
        self._transport.hurry()

    def abort(self) -> None:
        """Ends the session without waiting for what the client has not taken."""
        self._transport.abort()
        self._end()

    def _end(self) -> None:
        self._leave()
        self._reading.cancel()

    # -- holding ----------------------------------------------------------------------------

    @property
    def may_move(self) -> bool:
        """Whether a hand-over may begin now (there being a target)."""
        return self.answered and not self.gone and self.hand_over is None

    @property
    def is_bound(self) -> bool:
        """Whether the client is bound to its server (sticky mode Required)."""
        return ("asrs.s.ssticky", "Required") in self.claims

    def begin_hold(self) -> Hold:
        """From now on what the client begins is held; what belongs to its calls passes."""
        if self._hold is None:
            self._hold = Hold()
        elif not self._hold.passing:
            before = self._hold.size
            self._hold.passing = True
            frames = self._hold.take_parts_of_older_calls()
            self.service.give_back(before - self._hold.size)
            for frame in frames:
                self._forward(frame)
            self.resume_reading()
        return self._hold

    def hold_all(self) -> None:
        """From now on everything is held: the client is with no server that could take it."""
        if self._hold is None:
            self._hold = Hold()
        self._hold.passing = False

    def end_hold(self) -> None:
        """Forwards what is held, in order, and goes on without a hold: one step."""
        for frame in self._take_hold():
            self._forward(frame)

    def _take_hold(self) -> list[bytes]:
        hold, self._hold = self._hold, None
        if hold is None:
            return []
        self.service.give_back(hold.size)
        self.resume_reading()
        return hold.take()

    def attached(self) -> None:
        """A hand-over is over: the client is with its new server, which may be going as well."""
        self._paused = False
        self.end_hold()
        if self.connection is not None:
            self.connection.server.look_again.unpark_all()

    def fail_calls(self, error: str) -> int:
        """Completes every open call with an error; how many there were."""
        assert self.calls is not None
        completions = self.calls.fail(self.protocol, error)
        for completion in completions:
            self._send(completion)
        return len(completions)

    def pause(self) -> None:
        """The server has more queued for this client than it wants to (message 39, Pause).

        Said again, it wants no items of uploads either.
        """
        if not self.gone:
            again, self._paused = self._paused, True
            if self.hand_over is None:
                self.begin_hold().passing = not again

    def resume(self) -> None:
        self._paused = False
        if self.hand_over is None:
            self.end_hold()

    def stays(self) -> None:
        """A hand-over did not begin after all."""
        if not self._paused and not self.gone:
            self.end_hold()


def _deadline(seconds: float | None) -> float:
    """On trio's clock."""
    return math.inf if seconds is None else trio.current_time() + seconds


def _is_refusal(message: ConnectionData) -> bool:
    """Whether a handshake response is an error, behind which nothing may follow."""
    if message.data_type != DataMessageType.HANDSHAKE:
        return False
    try:
        return handshake.parse_response(message.payload).error is not None
    except ProtocolError:
        return False


def _unsupported(request: HandshakeRequest, *, known: bool) -> str:
    if known:
        return (
            f"The server does not support version {request.version} "
            f"of the '{request.protocol}' protocol."
        )
    return f"The protocol '{request.protocol}' is not supported."
