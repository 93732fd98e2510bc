"""Stateful reconnect: a transport that outlives its WebSockets.

A WebSocket that is lost without a close frame is replaced by another one with the same id. What
the loss has swallowed is sent once more, and what comes twice is dropped, so the session on top
does not notice. Source: HubProtocol.md of dotnet/aspnetcore; ``protocol/message_buffer.py`` has
the rules.

The official clients try once. We go on for as long as ASP.NET Core keeps the connection.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Final, TypeAlias

import trio

from signalr_trio.client.transports.websocket import WebSocketTransport
from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.message_buffer import ACK_INTERVAL, COUNTED, MessageBuffer
from signalr_trio.protocol.messages import Ack, Ping, Sequence
from signalr_trio.transport.websocket import UpgradeRefused

__all__ = ["WINDOW", "StatefulTransport", "stateful"]

#: Seconds after a loss in which the server still has the connection.
WINDOW: Final = 15.0
_DELAYS: Final = (0.0, 0.1, 0.5, 1.0)
_logger = logging.getLogger("signalr_trio.client")

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[WebSocketTransport]]


class StatefulTransport:
    """See :class:`Transport`. A payload that is sent is one hub message. ``url``: for the log."""

    name = "WebSockets"
    inherent_keep_alive = False

    def __init__(
        self,
        socket: WebSocketTransport,
        open_socket: Opener,
        protocol: HubProtocol,
        *,
        max_size: int | None,
        received: bytes,
        url: str,
    ) -> None:
        self._url = url
        self._socket = socket
        self._open_socket = open_socket
        self._protocol = protocol
        self._max_size = max_size
        self._splitter = protocol.splitter(max_size)
        self._buffer = MessageBuffer()
        self._early = received
        self._ack_at = math.inf
        self._room = trio.Event()
        self._over = False
        # From a loss until something comes by another socket: that one may be lost as well.
        self._give_up_at = math.inf
        self._delays: Iterator[float] = iter(())
        self._later_sockets = AsyncExitStack()

    @property
    def buffered(self) -> int:
        return self._buffer.unacked_bytes if self._buffer.full else self._socket.buffered

    def send(self, payload: bytes, *, text: bool = False) -> None:
        if self._protocol.peek(payload).type in COUNTED:
            self._buffer.sent(payload)
        # What is not counted is of no use later; a lost socket takes it, and does nothing.
        self._socket.send(payload, text=text)

    async def receive(self) -> bytes:
        if self._early:
            data, self._early = self._early, b""
            return self._take(data)
        try:
            data = await self._receive()
        except ConnectionClosed as error:
            await self._resume(error)
            return b""
        self._give_up_at = math.inf
        return self._take(data)

    async def drained(self, limit: int = 0) -> None:
        while self._buffer.full and not self._over:
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()
        # What a lost socket had is in the buffer, and will be sent again.
        with suppress(ConnectionClosed):
            await self._socket.drained(limit)
        if self._over:
            raise ConnectionClosed("the connection has ended")

    def abort(self) -> None:
        self._end()
        self._socket.abort()

    async def aclose(self) -> None:
        """Close the sockets but the first one, which is closed by who has opened it."""
        self._end()
        await self._later_sockets.aclose()

    def _end(self) -> None:
        self._over = True
        self._room.set()

    async def _receive(self) -> bytes:
        while True:
            with trio.move_on_at(self._ack_at):
                return await self._socket.receive()
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._ack_at = math.inf
        number = self._buffer.take_ack()
        if number is not None:
            frame = self._protocol.write(Ack(number))
            self._socket.send(frame, text=not self._protocol.binary)

    def _take(self, data: bytes) -> bytes:
        """The messages in ``data`` that are for the session. Raises ProtocolError."""
        return b"".join(frame for frame in self._splitter.feed(data) if self._is_new(frame))

    def _is_new(self, frame: bytes) -> bool:
        kind = self._protocol.peek(frame).type
        if kind in COUNTED:
            if self._ack_at == math.inf:
                self._ack_at = trio.current_time() + ACK_INTERVAL
            return self._buffer.received()
        message = self._protocol.parse(frame)
        if isinstance(message, Ack):
            self._buffer.acked(message.sequence_id)
            self._room.set()
        elif isinstance(message, Sequence):
            self._buffer.sequence(message.sequence_id)
        return True  # the session ignores what means nothing to it

    async def _resume(self, error: ConnectionClosed) -> None:
        """Go on with another socket; raises ``error`` where that cannot be."""
        if self._over or not self._socket.lost:
            self._end()
            raise error
        # Dropped, not closed: a close frame would end the connection for good.
        self._socket.abort()
        _logger.info("%s: the WebSocket was lost; the connection goes on with another", self._url)
        if self._give_up_at == math.inf:
            self._give_up_at = trio.current_time() + WINDOW
            self._delays = itertools.chain(_DELAYS, itertools.repeat(_DELAYS[-1]))
        with trio.move_on_at(self._give_up_at):
            for delay in self._delays:
                await trio.sleep(delay)
                try:
                    await self._replace_socket()
                    return
                except UpgradeRefused as refused:
                    _logger.info("%s: the connection is gone: %s", self._url, refused)
                    if refused.status < 500:
                        break
                except ConnectionClosed as failed:
                    _logger.debug("%s: no other WebSocket yet: %s", self._url, failed)
        self._end()
        raise error

    async def _replace_socket(self) -> None:
        await self._later_sockets.aclose()
        self._socket = await self._later_sockets.enter_async_context(self._open_socket())
        self._splitter = self._protocol.splitter(self._max_size)
        number, frames = self._buffer.resend()
        self._room.set()
        # Without a ping the server does not mind our silence, and the first may have been lost.
        again = [self._protocol.write(Sequence(number)), *frames, self._protocol.write(Ping())]
        self._socket.send(b"".join(again), text=not self._protocol.binary)


@asynccontextmanager
async def stateful(transport: StatefulTransport) -> AsyncGenerator[StatefulTransport, None]:
    """``transport`` for a block, which closes it. Shielded and bounded, as WebSockets are."""
    try:
        yield transport
    finally:
        await transport.aclose()
