"""Stateful reconnect: a client whose WebSocket was lost goes on with another, as if nothing had been.

A transport that outlives its WebSockets. ``protocol/message_buffer.py`` has the rules; what ASP.NET
Core SignalR does where they leave room, this does, with two differences: a WebSocket that is
replaced while it seems to be open is dropped at once, and nobody is made to wait who sends more
than the buffer holds: what is too much stays here, and counts as buffered.
"""

from __future__ import annotations

from collections import deque

import trio

from signalr_trio.errors import ConnectionClosed, ProtocolError
from signalr_trio.protocol.framing import Splitter
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.message_buffer import COUNTED, STATEFUL_VERSION, MessageBuffer
from signalr_trio.protocol.messages import Ack, MessageType, Sequence
from signalr_trio.transport.client_transport import ClientTransport
from signalr_trio.transport.websocket import WebSocket

__all__ = ["StatefulTransport"]

_LOST = 1006
#: Stands for what is no hub message.
_UNCOUNTED = 0
#: They belong to a moment, and do not wait behind what waits.
_AT_ONCE = frozenset((MessageType.PING, MessageType.ACK, MessageType.SEQUENCE))


class StatefulTransport(ClientTransport):
    """A client on one WebSocket after the other.

    ``window``: seconds that it may be without one. A client whose handshake does not ask for
    stateful reconnect (hub protocol version 2) ends with its first.
    """

    name = "WebSockets"

    __slots__ = (
        "_away_since",
        "_buffer",
        "_incoming",
        "_is_answered",
        "_max_message_size",
        "_news",
        "_over",
        "_protocol",
        "_waiting",
        "_waiting_size",
        "_websocket",
        "_window",
        "binary",
    )

    _protocol: HubProtocol
    _incoming: Splitter

    def __init__(self, *, window: float, max_message_size: int) -> None:
        self.binary = False
        self._window = window
        self._max_message_size = max_message_size
        self._websocket: WebSocket | None = None
        self._away_since: float | None = None
        self._buffer: MessageBuffer | None = None
        self._is_answered = False
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_size = 0
        self._over = False
        self._news = trio.lowlevel.ParkingLot()

    async def carry(self, websocket: WebSocket) -> None:
        """Goes on with this WebSocket; returns when it is lost, replaced, or all is over."""
        if self._websocket is not None:
            self._websocket.abort()
        self._websocket = websocket
        self._away_since = None
        if self._buffer is not None:
            self._incoming = self._protocol.splitter(self._max_message_size)
            number, frames = self._buffer.resend()
            self._write(self._protocol.write(Sequence(number)) + b"".join(frames))
        self._news.unpark_all()
        while self._websocket is websocket and not self._over:
            await self._news.park()

    @property
    def may_go_on(self) -> bool:
        """Whether another WebSocket may take over from the last."""
        return not self._over and (self._buffer is not None or self._websocket is None)

    # -- in ---------------------------------------------------------------------------------

    def agreed(self, protocol: HubProtocol, version: int, behind: bytes) -> bytes:
        self.binary = protocol.binary
        if version < STATEFUL_VERSION:
            return behind
        self._protocol = protocol
        self._buffer = MessageBuffer()
        self._incoming = protocol.splitter(self._max_message_size)
        return self._new_of(behind, self._buffer)

    async def receive(self) -> bytes:
        while True:
            while (websocket := self._websocket) is None:
                if self._over:
                    raise ConnectionClosed("the client did not come back")
                await self._news.park()
            try:
                data = await websocket.receive(joined=True)
            except ConnectionClosed:
                if websocket is self._websocket:
                    self._lose(websocket)
                continue
            if self._buffer is not None:
                data = self._new_of(data, self._buffer)
            if data:
                return data

    def _lose(self, websocket: WebSocket) -> None:
        """Raises ConnectionClosed where it was the last."""
        is_plain = self._is_answered and self._buffer is None
        if websocket.code != _LOST or is_plain or self._over:
            raise ConnectionClosed("the client has left")
        self._leave_behind(trio.current_time())

    def _leave_behind(self, now: float) -> None:
        self._websocket = None
        self._away_since = now
        self._news.unpark_all()

    def _new_of(self, data: bytes, buffer: MessageBuffer) -> bytes:
        """The messages that have not come before, and are not about this. Raises ProtocolError."""
        new: list[bytes] = []
        for frame in self._incoming.feed(data):
            type = self._protocol.peek(frame).type
            if type in COUNTED:
                if buffer.received():
                    new.append(frame)
                continue
            message = self._protocol.parse(frame)
            if isinstance(message, Ack):
                buffer.acked(message.sequence_id)
                self._send_waiting(buffer)
            elif isinstance(message, Sequence):
                buffer.sequence(message.sequence_id)
            else:
                new.append(frame)
        return b"".join(new)

    # -- out --------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        websocket = self._websocket
        return self._waiting_size + (0 if websocket is None else websocket.buffered)

    @property
    def lost(self) -> bool:
        websocket = self._websocket if self._buffer is None else None
        return self._over or (websocket is not None and websocket.broken)

    def send(self, payload: bytes) -> None:
        if self._buffer is None or not self._is_answered:
            # The answer to the handshake is no hub message, and has no number.
            self._is_answered = True
            self._write(payload)
            return
        for frame, type in self._frames_of(payload):
            if type in _AT_ONCE:
                self._write(frame)
            elif self._waiting or self._buffer.full:
                self._waiting.append((frame, type))
                self._waiting_size += len(frame)
            else:
                self._send_one(frame, type, self._buffer)

    def _frames_of(self, payload: bytes) -> list[tuple[bytes, int]]:
        """Whole messages, each with its type. What a server says that is none goes on as it is, with
        a type that is not counted: it is the client's to judge, and no other client's to suffer for.
        """
        outgoing = self._protocol.splitter(None)
        try:
            frames = [(frame, self._protocol.peek(frame).type) for frame in outgoing.feed(payload)]
        except ProtocolError:
            return [(payload, _UNCOUNTED)]
        return [(payload, _UNCOUNTED)] if outgoing.pending else frames

    def _send_one(self, frame: bytes, type: int, buffer: MessageBuffer) -> None:
        if type in COUNTED:
            buffer.sent(frame)
        self._write(frame)

    def _send_waiting(self, buffer: MessageBuffer, *, all: bool = False) -> None:
        while self._waiting and (all or not buffer.full):
            frame, type = self._waiting.popleft()
            self._waiting_size -= len(frame)
            self._send_one(frame, type, buffer)

    def _write(self, payload: bytes) -> None:
        if self._websocket is not None:
            self._websocket.send(payload, text=not self.binary)

    # -- time and end -----------------------------------------------------------------------

    def tick(self, now: float) -> None:
        if self._buffer is not None and self._websocket is not None and self._websocket.broken:
            # While it is not read, nobody else notices.
            self._leave_behind(now)
        if self._away_since is not None and now - self._away_since > self._window:
            self._end()
        if self._buffer is not None and self._websocket is not None:
            number = self._buffer.take_ack()
            if number is not None:
                self._write(self._protocol.write(Ack(number)))

    async def aclose(self) -> None:
        if self._buffer is not None:
            self._send_waiting(self._buffer, all=True)
        self._end()
        if self._websocket is not None:
            await self._websocket.aclose()

    def abort(self) -> None:
        self._waiting.clear()
        self._waiting_size = 0
        if self._websocket is not None:
            self._websocket.abort()

    def _end(self) -> None:
        self._over = True
        self._news.unpark_all()
