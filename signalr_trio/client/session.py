"""One physical connection: from the hub handshake to its end."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from signalr_trio.client.calls import ItemStream, PendingCall, PendingResult
from signalr_trio.client.handlers import Handlers, Mailbox
from signalr_trio.client.transports.transport import Transport
from signalr_trio.client.uploads import Uploads, split_streams
from signalr_trio.errors import (
    ConnectionClosed,
    HandshakeError,
    ProtocolError,
    ServerTimeoutError,
)
from signalr_trio.protocol.handshake import (
    HandshakeRequest,
    parse_response,
    split_handshake,
    write_request,
)
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
from signalr_trio.texts import error_text
from signalr_trio.transport.stream import SEND_LIMIT

__all__ = ["Session", "SessionEnd", "Timing", "shake_hands"]

T = TypeVar("T")

_CANCELED: Final = "Invocation canceled due to the underlying connection being closed."
_logger = logging.getLogger("signalr_trio.client")


@attrs.frozen
class Timing:
    """Seconds."""

    keep_alive: float
    """A ping is sent when nothing has been sent for so long."""
    server_timeout: float
    """The connection ends when nothing has come for so long."""


@attrs.frozen
class SessionEnd:
    """How a session ended. ``error`` is None where the server has said Close without an error."""

    error: ConnectionClosed | None
    allow_reconnect: bool


async def shake_hands(
    transport: Transport,
    protocol: HubProtocol,
    *,
    version: int = 1,
    timeout: float,
    max_size: int | None,
) -> bytes:
    """Agree on the hub protocol; returns what came behind the response.

    Version 2 of the hub protocols is for stateful reconnect only.

    Raises:
        HandshakeError: the server refused, answered something else, or not in ``timeout`` s.
        ConnectionClosed: the connection ended meanwhile.
    """
    transport.send(write_request(HandshakeRequest(protocol.name, version)), text=True)
    buffer = b""
    with trio.move_on_after(timeout):
        while (parts := split_handshake(buffer)) is None:
            if max_size is not None and len(buffer) > max_size:
                raise HandshakeError(f"the handshake response has more than {max_size} bytes")
            buffer += await transport.receive()
        record, rest = parts
        try:
            response = parse_response(record)
        except ProtocolError as error:
            raise HandshakeError(str(error)) from error
        if response.error is not None:
            raise HandshakeError(response.error)
        return rest
    raise HandshakeError(f"the server did not answer the handshake in {timeout:g} s")


class Session:
    """The hub protocol on one connection, after the handshake.

    ``run`` reads and keeps time; calls are made by other tasks while it runs. Completions and
    items go straight to who waits for them. Invocations go into ``invocations``, which outlives
    the session; those that want a result run in tasks of the session.
    """

    def __init__(
        self,
        transport: Transport,
        protocol: HubProtocol,
        *,
        handlers: Handlers,
        invocations: Mailbox[Invocation],
        timing: Timing,
        max_size: int | None = None,
    ) -> None:
        self._transport = transport
        self._protocol = protocol
        self._splitter = protocol.splitter(max_size)
        self._text = not protocol.binary
        self._handlers = handlers
        self._invocations = invocations
        self._timing = timing
        self._ids = itertools.count(1)
        self._pending: dict[str, PendingCall] = {}
        self._nursery: trio.Nursery | None = None
        self._last_sent = self._last_received = trio.current_time()
        self._end: SessionEnd | None = None

    async def run(self, received: bytes = b"") -> SessionEnd:
        """Serve until the connection ends; ``received`` came behind the handshake response.

        When cancelled, it says Close. Closing the transport is the caller's.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                if not self._transport.inherent_keep_alive:
                    # Like the JavaScript client: only after a ping the server minds our silence.
                    self.write(Ping())
                    self._nursery.start_soon(self._keep_time)
                await self._read(received)
        finally:
            end = self._end or self._say_close()
        return end

    def write(self, message: HubMessage) -> None:
        """Send without waiting; nothing happens when the session has ended.

        Raises TypeError or ValueError for a value that the encoding cannot hold.
        """
        frame = self._protocol.write(message)
        if self._end is None:
            self._transport.send(frame, text=self._text)
            self._last_sent = trio.current_time()

    async def pace(self) -> None:
        """Wait while more than SEND_LIMIT bytes are buffered; always a checkpoint."""
        await self._transport.drained(SEND_LIMIT)

    async def invoke(self, target: str, arguments: Sequence[object]) -> object:
        """See :meth:`HubConnection.invoke`."""
        pending = PendingResult()
        with self._calling(pending, target, arguments, streaming=False):
            # Whoever waits for the answer is paced by that, and need not wait for room as well.
            return await pending.wait()

    async def send(self, target: str, arguments: Sequence[object]) -> None:
        """See :meth:`HubConnection.send`."""
        values, streams = split_streams(arguments, self._next_id)
        self._require_open()
        self.write(Invocation(target, values, None, tuple(streams)))
        if not streams:
            await self.pace()
            return
        # Pending like a call, under an id that only we know; complete when its uploads are.
        pending, call_id = PendingResult(), self._next_id()
        self._pending[call_id] = pending
        try:
            on_end = partial(pending.complete, Completion(call_id))
            with self._uploading(streams, pending.fail, on_end):
                await pending.wait()
        finally:
            self._pending.pop(call_id, None)

    @asynccontextmanager
    async def stream(
        self, target: str, arguments: Sequence[object], convert: Callable[[object], T]
    ) -> AsyncGenerator[ItemStream[T], None]:
        """See :meth:`HubConnection.stream`."""
        items = ItemStream(convert)
        with self._calling(items, target, arguments, streaming=True) as call_id:
            try:
                await trio.lowlevel.checkpoint()
                yield items
            finally:
                if not items.ended:
                    self.write(CancelInvocation(call_id))
                items.close()

    @contextmanager
    def _calling(
        self, pending: PendingCall, target: str, arguments: Sequence[object], *, streaming: bool
    ) -> Generator[str, None, None]:
        """Make a call that ``pending`` waits for; yields its id."""
        self._require_open()
        call_id = self._next_id()
        values, streams = split_streams(arguments, self._next_id)
        ids = tuple(streams)
        if streaming:
            self.write(StreamInvocation(call_id, target, values, ids))
        else:
            self.write(Invocation(target, values, call_id, ids))
        self._pending[call_id] = pending
        try:
            if streams:
                with self._uploading(streams, pending.fail):
                    yield call_id
            else:
                yield call_id
        finally:
            # A completion that comes now finds nobody, and is ignored.
            self._pending.pop(call_id, None)

    @contextmanager
    def _uploading(
        self,
        streams: dict[str, AsyncIterable[object]],
        on_error: Callable[[Exception], None],
        on_end: Callable[[], None] | None = None,
    ) -> Generator[None, None, None]:
        assert self._nursery is not None, "calls are made while the session runs"
        uploads = Uploads(self, streams, on_error)

        async def upload() -> None:
            await uploads.run()
            if on_end is not None:
                on_end()

        self._nursery.start_soon(upload, name=f"uploads {', '.join(streams)}")
        try:
            yield
        finally:
            uploads.cancel()

    def _next_id(self) -> str:
        return str(next(self._ids))

    def _require_open(self) -> None:
        if self._end is not None:
            raise _lost(self._end.error)

    async def _read(self, received: bytes) -> None:
        """Read until the session ends."""
        feed, parse = self._splitter.feed, self._protocol.parse
        try:
            while True:
                for frame in feed(received):
                    message = parse(frame)
                    if message is not None:
                        self._dispatch(message)
                        if self._end is not None:
                            return
                received = await self._transport.receive()
                self._last_received = trio.current_time()
        except ConnectionClosed as error:
            self._finish(error, allow_reconnect=True)
        except ProtocolError as error:
            closed = ConnectionClosed(f"the server sent what is no hub message: {error}")
            closed.__cause__ = error
            self._finish(closed, allow_reconnect=True)

    def _dispatch(self, message: HubMessage) -> None:
        kind = type(message)
        if kind is Completion:
            assert isinstance(message, Completion)
            pending = self._pending.pop(message.invocation_id, None)
            if pending is not None:
                pending.complete(message)
        elif kind is StreamItem:
            assert isinstance(message, StreamItem)
            pending = self._pending.get(message.invocation_id)
            if pending is not None:
                pending.add_item(message.item)
        elif isinstance(message, Invocation):
            if message.invocation_id is None:
                self._invocations.put(message)
            elif self._nursery is not None:
                self._nursery.start_soon(self._answer, message)
        elif isinstance(message, Close):
            self._finish(_close_error(message), allow_reconnect=message.allow_reconnect)
        # Pings have done their work by coming; servers stream to clients only what was asked for.

    async def _answer(self, invocation: Invocation) -> None:
        completion = await self._handlers.answer(invocation)
        try:
            self.write(completion)
        except Exception as error:  # an application's own encoding may raise anything
            _logger.exception("the result for %r cannot be sent", invocation.target)
            text = f"The client's result cannot be sent: {error_text(error)}"
            self.write(Completion(completion.invocation_id, error=text))

    async def _keep_time(self) -> None:
        keep_alive, server_timeout = self._timing.keep_alive, self._timing.server_timeout
        while True:
            now = trio.current_time()
            if now >= self._last_received + server_timeout:
                self._time_out()
                return
            if now >= self._last_sent + keep_alive:
                self.write(Ping())
            await trio.sleep_until(
                min(self._last_sent + keep_alive, self._last_received + server_timeout)
            )

    def _time_out(self) -> None:
        seconds = self._timing.server_timeout
        text = (
            f"Server timeout ({seconds:g} s) elapsed without receiving a message from the server."
        )
        self._finish(ServerTimeoutError(text), allow_reconnect=True)
        # A close handshake would only wait for the same silence once more.
        self._transport.abort()

    def _say_close(self) -> SessionEnd:
        self.write(Close())
        return self._finish(None, allow_reconnect=False)

    def _finish(self, error: ConnectionClosed | None, *, allow_reconnect: bool) -> SessionEnd:
        """The session ends so, if it has not ended before."""
        if self._end is None:
            self._end = SessionEnd(error, allow_reconnect)
            pending, self._pending = self._pending, {}
            for one in pending.values():
                one.fail(_lost(error))
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
        return self._end


def _close_error(message: Close) -> ConnectionClosed | None:
    if message.error is None:
        return None
    text = f"Server returned an error on close: {message.error}"
    return ConnectionClosed(text, allow_reconnect=message.allow_reconnect)


def _lost(error: ConnectionClosed | None) -> ConnectionClosed:
    """The error for one who waits; each gets one of its own, for it grows a traceback."""
    if isinstance(error, ServerTimeoutError):
        return ServerTimeoutError(str(error), allow_reconnect=error.allow_reconnect)
    if error is None:
        return ConnectionClosed(_CANCELED, allow_reconnect=False)
    return ConnectionClosed(str(error), allow_reconnect=error.allow_reconnect)
