"""A WebSocket: trio-websocket where it is good, a short way where it is slow.

trio-websocket makes connections and ends them: the upgrade, control frames, fragments, the
close handshake, the refusal of what RFC 6455 forbids. Plain data frames go past it, both ways.
What is sent is encoded by ``frames`` and put straight into the buffered stream, because
``send_message`` costs a lock, several scheduler yields and a system call per message. What is
received is looked through for plain frames before trio-websocket sees it, because its reader
task, parser and channel cost a scheduler tick and some 40 us for each message; only the other
frames go on to it.

So it is ``receive`` that reads the socket. While nobody receives, nothing is read: pings stay
unanswered, and the other side's close or loss unnoticed (but by ``broken``, when one sends).
That is also how a WebSocket pushes back.
"""

from __future__ import annotations

import logging
import math
import re
import ssl
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import cast

import trio
import trio_websocket

from signalr_trio.errors import ConnectionClosed
from signalr_trio.transport.endpoint import connect, parse_url
from signalr_trio.transport.frames import (
    BINARY,
    CLOSE,
    TEXT,
    FrameScanner,
    Kind,
    Message,
    Passed,
    encode_frame,
)
from signalr_trio.transport.network import TCP, Network
from signalr_trio.transport.stream import BufferedStream, Flusher

__all__ = [
    "CLOSE_TIMEOUT",
    "MAX_MESSAGE_SIZE",
    "UpgradeRefused",
    "WebSocket",
    "accept_websocket",
    "connect_websocket",
]

#: How long ``aclose`` waits for the other side's close frame, in seconds.
CLOSE_TIMEOUT = 5.0
#: What is received at the most in one message by default, in bytes.
MAX_MESSAGE_SIZE = 1024 * 1024

_LOST = 1006
_PROTOCOL_ERROR = 1002
_BAD_PAYLOAD = 1007
_TOO_BIG = 1009
# A close frame answered by nobody: the other side reads it, if its data do not make us reset.
_LINGER_TIMEOUT = 1.0
_MAX_HEAD = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_logger = logging.getLogger("signalr_trio.websocket")

Headers = Iterable[tuple[str, str]]


class UpgradeRefused(ConnectionClosed):
    """The server answered the upgrade with another status than 101."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class WebSocket:
    """One open WebSocket, of either side. Made by ``connect_websocket``, ``accept_websocket``.

    One task receives; any task sends, without waiting.
    """

    __slots__ = (
        "_close_code",
        "_close_reason",
        "_closing",
        "_connection",
        "_done",
        "_mask",
        "_owed",
        "_queue",
        "_reading",
        "_scanner",
        "_stream",
        "_turn",
        "_wire",
        "response_headers",
        "text_received",
    )

    def __init__(
        self,
        connection: trio_websocket.WebSocketConnection,
        wire: _Wire,
        max_message_size: int | None,
    ) -> None:
        self._connection = connection
        self._wire = wire
        self._stream = wire.stream
        self._mask = connection.is_client
        self._scanner = FrameScanner(
            from_client=connection.is_server, max_message_size=max_message_size
        )
        self._queue: deque[Message | Passed] = deque()
        self._owed = 0  # messages that trio-websocket has yet to put together
        self._reading = False
        self._turn: trio.Event | None = None
        self._closing = False
        self._done: trio.Event | None = None
        self._close_code: int | None = None
        self._close_reason = ""
        #: Whether the last message received was text.
        self.text_received = False
        #: Clients: the headers of the 101 answer, names in lower case.
        self.response_headers: list[tuple[str, str]] = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in connection.handshake_headers
        ]
        if wire.early:
            self._queue.extend(self._scanner.feed(wire.early))

    @property
    def buffered(self) -> int:
        """Bytes that were sent here and that the kernel has not been given yet."""
        return self._stream.buffered

    @property
    def broken(self) -> bool:
        """The connection is known to be lost; what is sent goes nowhere."""
        return self._stream.broken

    @property
    def code(self) -> int | None:
        """The close code, of the side that closed first; 1006: lost. None while open."""
        if self._close_code is not None:
            return self._close_code
        closed = self._connection.closed
        if closed is not None:
            return int(closed.code)
        return _LOST if self._wire.closed else None

    @property
    def reason(self) -> str:
        """The reason in the close frame."""
        if self._close_code is not None:
            return self._close_reason
        closed = self._connection.closed
        return (closed.reason or "") if closed is not None else ""

    def send(self, payload: bytes, *, text: bool = False) -> None:
        """Send one message. Never waits; does nothing once the WebSocket is closed or lost.

        ``payload`` of a text message is UTF-8.
        """
        if not self._wire.close_sent:
            self._stream.write(encode_frame(TEXT if text else BINARY, payload, mask=self._mask))

    def write_frame(self, frame: bytes) -> None:
        """Send what ``frames.encode_frame`` made, unmasked: servers only. Else as ``send``."""
        if not self._wire.close_sent:
            self._stream.write(frame)

    async def drained(self, limit: int = 0) -> None:
        """Wait until at most ``limit`` bytes are buffered.

        Raises:
            ConnectionClosed: the WebSocket is closed or lost.
        """
        try:
            await self._stream.drained(limit)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._closed_error() from None

    async def receive(self) -> bytes:
        """The payload of the next message; ``text_received`` then says whether it was text.

        Returns without a checkpoint while messages of the same read are left (64 KiB at most).
        Being cancelled loses nothing.

        Raises:
            ConnectionClosed: the WebSocket is closed or lost, here (``aclose``) or there.
                What came before the other side's close is received first.
        """
        queue = self._queue
        while not self._closing:
            if self._owed:
                return await self._receive_assembled()
            if queue:
                item = queue.popleft()
                if isinstance(item, Passed):
                    await self._pass_on(item)
                else:
                    payload, self.text_received = item
                    return payload
            elif self._ended:
                self._refuse()
                break
            else:
                await self._read()
        raise self._closed_error()

    async def aclose(
        self, code: int = 1000, reason: str = "", *, timeout: float = CLOSE_TIMEOUT
    ) -> None:
        """Send what is buffered and a close frame, wait for the other side's, close.

        Shielded from cancellation, and bounded: after ``timeout`` the connection is reset.
        Messages that still arrive are dropped. Later calls wait for the first one.
        """
        if self._done is not None:
            await self._done.wait()
            return
        self._done = trio.Event()
        self._closing = self._wire.keep_open = True
        try:
            with trio.move_on_after(timeout, shield=True) as handshake:
                if self._ended:
                    self._refuse()
                    await self._linger()
                else:
                    self._close_code, self._close_reason = code, reason
                    await self._close_handshake(code, reason)
            if handshake.cancelled_caught:
                self._stream.abort()
            await self._stream.aclose()
        finally:
            self._wire.end()
            self._done.set()

    def abort(self) -> None:
        """Reset the connection; what is buffered is given up, ``receive`` raises."""
        self._stream.abort()

    @property
    def _ended(self) -> bool:
        return self._wire.closed or self._wire.close_sent or self._connection.closed is not None

    async def _receive_assembled(self) -> bytes:
        try:
            message = await self._connection.get_message()
        except trio_websocket.ConnectionClosed:
            self._owed = 0
            self._refuse()
            raise self._closed_error() from None
        self._owed -= 1
        self.text_received = isinstance(message, str)
        return message.encode() if isinstance(message, str) else message

    async def _read(self) -> None:
        """Read the socket once; what came is in the queue."""
        if self._reading:
            # ``aclose`` takes over from a task that receives, once that lets go.
            if self._turn is None:
                self._turn = trio.Event()
            await self._turn.wait()
            return
        self._reading = True
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        finally:
            self._reading = False
            if self._turn is not None:
                self._turn.set()
                self._turn = None
        if data:
            self._queue.extend(self._scanner.feed(data))
        else:
            self._queue.append(Passed(b"", Kind.REST))

    async def _pass_on(self, item: Passed) -> None:
        """Let trio-websocket have its bytes, and wait until it has dealt with them."""
        if item.kind is Kind.TOO_BIG:
            self._fail(_TOO_BIG, "message too big")
            return
        if item.kind is Kind.LAST_PART and not self._closing:
            self._owed += 1
        self._wire.put(item.data)
        await self._wire.settled()
        if self._ended:
            # What comes behind a close frame is not to be read.
            self._queue.clear()
        elif item.kind is Kind.REST:
            # The scanner has found a fault that trio-websocket has not.
            self._fail(_PROTOCOL_ERROR, "")

    def _refuse(self) -> None:
        """Say why, where trio-websocket has found a fault: it ends without a close frame."""
        closed = self._connection.closed
        if closed is not None and closed.code in (_PROTOCOL_ERROR, _BAD_PAYLOAD):
            self._fail(int(closed.code), "")

    def _fail(self, code: int, reason: str) -> None:
        # RFC 6455, 7.1.7: no answer is waited for.
        if self._wire.close_sent:
            return
        self._close_code, self._close_reason = code, reason
        payload = code.to_bytes(2, "big") + reason.encode()
        self._stream.write(encode_frame(CLOSE, payload, mask=self._mask))
        self._wire.close_sent = True

    async def _close_handshake(self, code: int, reason: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discard, nursery.cancel_scope)
            await self._connection.aclose(code, reason)
            nursery.cancel_scope.cancel()

    async def _discard(self, handshake: trio.CancelScope) -> None:
        """Receive for the close handshake alone, and end it when the connection has ended."""
        while not self._wire.closed:
            if not self._queue:
                await self._read()
                continue
            item = self._queue.popleft()
            if isinstance(item, Passed):
                await self._pass_on(item)
        handshake.cancel()

    async def _linger(self) -> None:
        """After a failure: let the close frame be read before unread data make a reset of it."""
        failed = self._close_code is not None
        if failed and not self._stream.broken:
            with (
                trio.move_on_after(_LINGER_TIMEOUT),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                if await self._stream.send_eof() and not self._reading:
                    while await self._stream.receive_some():
                        pass

    def _closed_error(self) -> ConnectionClosed:
        code = self.code
        if code is None or code == _LOST:
            return ConnectionClosed("the WebSocket was lost, without a close frame (code 1006)")
        reason = f": {self.reason}" if self.reason else ""
        return ConnectionClosed(f"the WebSocket was closed with code {code}{reason}")


class _Wire(trio.abc.Stream):
    """What trio-websocket takes for its connection.

    What it sends goes into the buffered stream. What it receives is the handshake, and then
    only what ``put`` gives it.
    """

    __slots__ = (
        "_eof",
        "_head",
        "_inbox",
        "_settled",
        "_wanted",
        "close_sent",
        "closed",
        "early",
        "keep_open",
        "status",
        "stream",
    )

    def __init__(self, stream: BufferedStream, request: bytes | None) -> None:
        self.stream = stream
        #: trio-websocket has ended the connection, or its reader has ended.
        self.closed = False
        #: A close frame is buffered: nothing may follow it.
        self.close_sent = False
        #: The owner closes the stream, not trio-websocket.
        self.keep_open = False
        #: Clients: the status of the answer to the upgrade.
        self.status: int | None = None
        #: What came behind the head of the answer, in the same read.
        self.early = b""
        self._inbox = request or b""
        self._head: bytearray | None = bytearray() if request is None else None
        self._eof = False
        self._wanted: trio.Event | None = None
        self._settled: trio.Event | None = None

    def put(self, data: bytes) -> None:
        """Let trio-websocket receive ``data``; empty: the end of the stream."""
        self._inbox += data
        self._eof = self._eof or not data
        if self._wanted is not None:
            self._wanted.set()
            self._wanted = None

    async def settled(self) -> None:
        """Wait until trio-websocket has dealt with all it was given."""
        while self._wanted is None and not self.closed:
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()

    def end(self) -> None:
        """trio-websocket has done, or is to end."""
        self.closed = True
        for event in (self._wanted, self._settled):
            if event is not None:
                event.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head is not None:
            return await self._receive_head(self._head)
        while not self._inbox:
            if self._eof:
                await trio.lowlevel.checkpoint()
                return b""
            if self.closed:
                raise trio.ClosedResourceError
            self._wanted = trio.Event()
            if self._settled is not None:
                self._settled.set()
                self._settled = None
            await self._wanted.wait()
        data, self._inbox = self._inbox, b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # Besides the handshake only control frames come here, each by itself.
        self.close_sent = self.close_sent or data[:1] == bytes((0x80 | CLOSE,))
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        # Without a close frame a fault has yet to be named: see WebSocket._refuse.
        if self.close_sent and not self.keep_open:
            await self.stream.aclose()
        self.end()

    async def _receive_head(self, head: bytearray) -> bytes:
        """Pass on the answer to the upgrade; behind a 101 begin the frames."""
        data = await self.stream.receive_some()
        before = len(head)
        head += data
        end = _HEAD_END.search(head)
        if end is None:
            return bytes(data) if len(head) <= _MAX_HEAD else b""
        status = _STATUS.match(head)
        self.status = int(status[1]) if status else None
        if self.status != 101:
            return b""  # all is known; whatever there is of a body is not of interest
        self._head = None
        self.early = bytes(head[end.end() :])
        return bytes(head[before : end.end()])


class _Reader:
    """Stands in for the nursery of trio-websocket's reader task.

    An error in that task (it has no guard against a ping behind its own close frame, say) is to
    end this one WebSocket, not everything that runs in the caller's nursery.
    """

    def __init__(self, nursery: trio.Nursery, wire: _Wire) -> None:
        self._nursery = nursery
        self._wire = wire
        #: Cancelled when the reader ends: trio-websocket would wait for ever in an upgrade.
        self.upgrade = trio.CancelScope()

    def start_soon(self, reader: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._run, reader)

    async def _run(self, reader: Callable[[], Awaitable[None]]) -> None:
        try:
            await reader()
        except Exception:
            _logger.debug("the reader task of a WebSocket has failed", exc_info=True)
        finally:
            self._wire.end()
            self.upgrade.cancel()


def accept_websocket(
    stream: BufferedStream,
    key: str,
    *,
    headers: Headers = (),
    max_message_size: int | None = MAX_MESSAGE_SIZE,
) -> AbstractAsyncContextManager[WebSocket]:
    """Answer an upgrade request that was read from ``stream``, and run the WebSocket.

    ``key`` is the request's Sec-WebSocket-Key. What came behind the request's head is to be
    received from ``stream``. No subprotocol and no extension is agreed. Leaving the block closes
    the WebSocket with 1000.
    """
    # The request that trio-websocket reads is made up: whoever calls has read the real one.
    request = (
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    wire = _Wire(stream, request.encode("ascii"))

    async def accept(nursery: trio.Nursery) -> trio_websocket.WebSocketConnection:
        upgrade = await trio_websocket.wrap_server_stream(
            nursery, wire, message_queue_size=sys.maxsize, max_message_size=sys.maxsize
        )
        return await upgrade.accept(extra_headers=_encoded(headers))

    def failed(_: _Wire) -> ConnectionClosed:
        return ConnectionClosed("the client left amid the upgrade to WebSocket")

    return _running(wire, accept, failed, max_message_size)


@asynccontextmanager
async def connect_websocket(
    url: str,
    *,
    flusher: Flusher,
    headers: Headers = (),
    connect_timeout: float = 15.0,
    max_message_size: int | None = MAX_MESSAGE_SIZE,
    network: Network = TCP,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[WebSocket, None]:
    """Connect to a ws, wss, http or https URL. Leaving the block closes the WebSocket with 1000.

    Raises:
        ConfigurationError: ``url`` is not such a URL.
        UpgradeRefused: the server answered with another status than 101.
        ConnectionClosed: nobody answers, not in ``connect_timeout`` seconds, or not in HTTP.
    """
    endpoint = parse_url(url)
    stream: BufferedStream | None = None

    async def upgrade(nursery: trio.Nursery) -> trio_websocket.WebSocketConnection:
        # trio-websocket's annotation is narrower than what it needs, which is any stream.
        return await trio_websocket.wrap_client_stream(
            nursery,
            cast(trio.SocketStream, wire),
            endpoint.authority,
            endpoint.target,
            extra_headers=_encoded(headers),
            message_queue_size=sys.maxsize,
            max_message_size=sys.maxsize,
        )

    def failed(wire: _Wire) -> ConnectionClosed:
        if wire.status in (None, 101):
            return ConnectionClosed(f"{endpoint.url} ended the connection amid the upgrade")
        return UpgradeRefused(
            f"{endpoint.url} refused the upgrade to WebSocket with status {wire.status}",
            status=wire.status,
        )

    try:
        with trio.move_on_after(connect_timeout) as connecting:
            stream = BufferedStream(await connect(endpoint, network, ssl_context), flusher)
            wire = _Wire(stream, None)
            async with _running(wire, upgrade, failed, max_message_size) as websocket:
                connecting.deadline = math.inf
                if connecting.cancel_called:
                    await trio.lowlevel.checkpoint()
                yield websocket
    finally:
        if stream is not None:
            await stream.aclose()
    if connecting.cancelled_caught:
        raise ConnectionClosed(
            f"{endpoint.url} did not answer the upgrade to WebSocket in {connect_timeout} s"
        )


@asynccontextmanager
async def _running(
    wire: _Wire,
    upgrade: Callable[[trio.Nursery], Awaitable[trio_websocket.WebSocketConnection]],
    failed: Callable[[_Wire], ConnectionClosed],
    max_message_size: int | None,
) -> AsyncGenerator[WebSocket, None]:
    """Run what ``upgrade`` opens; ``failed`` makes the error where it opens nothing."""
    failure: BaseException | None = None
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            reader = _Reader(nursery, wire)
            connection: trio_websocket.WebSocketConnection | None = None
            with reader.upgrade:
                connection = await upgrade(cast(trio.Nursery, reader))
            if connection is None:
                raise failed(wire)
            websocket = WebSocket(connection, wire, max_message_size)
            try:
                yield websocket
            finally:
                await websocket.aclose()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = _plain(group)
    if failure is not None:
        raise failure


def _plain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error in what the nursery raised: its reader task raises nothing but Cancelled."""
    errors = [error for error in group.exceptions if not isinstance(error, trio.Cancelled)]
    if not errors:
        return group.exceptions[0]
    return errors[0] if len(errors) == 1 else group


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
