"""A WebSocket: trio-websocket where it is good, a short way where it is slow.

Fragments, control frames, the close handshake, the refusal of what RFC 6455 forbids, and a
client's upgrade are trio-websocket's. Plain data frames go past it, both ways. What is sent is
encoded by ``frames`` and put straight into the buffered stream, because ``send_message`` costs a
lock, several scheduler yields and a system call per message. What is received is looked through
for plain frames before trio-websocket sees it, because its reader task, parser and channel cost a
scheduler tick and some 40 us for each message; only the other frames go on to it.

A server needs none of it until such a frame comes, or the WebSocket is closed: most never see one
before, and a reader task with its parser takes 10 KB and 300 us for each client. So there it is
let in when it is first needed, with a handshake that nobody sees.

It is ``receive`` that reads the socket. While nobody receives, nothing is read: pings stay
unanswered, and the other side's close or loss unnoticed (but by ``broken``, when one sends).
That is also how a WebSocket pushes back.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import cast

import trio
import trio_websocket

from signalr_trio.errors import ConnectionClosed
from signalr_trio.transport.endpoint import Endpoint, connect, parse_url
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

_JOINED_LIMIT = 64 * 1024
_LOST = 1006
_PROTOCOL_ERROR = 1002
_BAD_PAYLOAD = 1007
_TOO_BIG = 1009
# A close frame answered by nobody: the other side reads it, if its data do not make us reset.
_LINGER_TIMEOUT = 1.0
_MAX_HEAD = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
#: RFC 6455, 1.3.
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# What trio-websocket reads as a client's request: the real one has been answered.
_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
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
        "_done",
        "_mask",
        "_owed",
        "_parts",
        "_parts_size",
        "_peer",
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
        self, wire: _Wire, peer: _TrioWebSocket | None, max_message_size: int | None
    ) -> None:
        self._wire = wire
        self._peer = peer
        self._stream = wire.stream
        self._mask = wire.is_client
        self._scanner = FrameScanner(
            from_client=not wire.is_client, max_message_size=max_message_size
        )
        self._queue: list[Message | Passed] = []  # the next one is the last
        self._owed = 0  # messages that trio-websocket has yet to put together
        self._parts: list[bytes] | None = None  # of the message that is yet to be framed
        self._parts_size = 0
        self._reading = False
        self._turn: trio.Event | None = None
        self._closing = False
        self._done: trio.Event | None = None
        self._close_code: int | None = None
        self._close_reason = ""
        #: Whether the last message received was text.
        self.text_received = False
        #: Clients: the headers of the 101 answer, names in lower case.
        self.response_headers: Sequence[tuple[str, str]] = ()
        if wire.early:
            self._scan(wire.early)

    @property
    def buffered(self) -> int:
        """Bytes that were sent here and that the kernel has not been given yet."""
        return self._stream.buffered + self._parts_size

    @property
    def broken(self) -> bool:
        """The connection is known to be lost; what is sent goes nowhere."""
        return self._stream.broken

    @property
    def code(self) -> int | None:
        """The close code, of the side that closed first; 1006: lost. None while open."""
        if self._close_code is not None:
            return self._close_code
        closed = self._found
        if closed is not None:
            return int(closed.code)
        return _LOST if self._wire.closed else None

    @property
    def reason(self) -> str:
        """The reason in the close frame."""
        if self._close_code is not None:
            return self._close_reason
        closed = self._found
        return (closed.reason or "") if closed is not None else ""

    def send(self, payload: bytes, *, text: bool = False) -> None:
        """Send one message. Never waits; does nothing once the WebSocket is closed or lost.

        ``payload`` of a text message is UTF-8.
        """
        if not self._wire.close_sent:
            self._stream.write(encode_frame(TEXT if text else BINARY, payload, mask=self._mask))

    def send_joined(self, part: bytes) -> None:
        """Send a part of a binary message, of what belongs together for nobody.

        All parts of one scheduler tick are one message, as far as _JOINED_LIMIT allows: under load
        a frame is worth it for many, and when idle nothing waits. Not to be mixed with ``send``.
        """
        if self._wire.close_sent or self._stream.broken:
            return
        self._parts_size += len(part)
        if self._parts is None:
            self._parts = [part]
            self._stream.before_flush = self._frame_parts
            self._stream.wake()
        else:
            self._parts.append(part)
        if self._parts_size > _JOINED_LIMIT:
            self._frame_parts()

    def _frame_parts(self) -> None:
        if self._parts is not None:
            payload = b"".join(self._parts)
            self._parts = None
            self._parts_size = 0
            self.send(payload)

    def write_frame(self, frame: bytes) -> int:
        """Send what ``frames.encode_frame`` made, unmasked: servers only. Else as ``send``.

        Returns ``buffered``.
        """
        return 0 if self._wire.close_sent else self._stream.write(frame)

    async def drained(self, limit: int = 0) -> None:
        """Wait until at most ``limit`` bytes are buffered.

        Raises:
            ConnectionClosed: the WebSocket is closed or lost.
        """
        self._frame_parts()
        try:
            await self._stream.drained(limit)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._closed_error() from None

    async def receive(self, *, joined: bool = False) -> bytes:
        """The payload of the next message; ``text_received`` then says whether it was text.

        ``joined``: of all messages of one kind that have come, for who reads a stream of bytes.

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
                item = queue[-1]
                if isinstance(item, Passed):
                    await self._pass_on(item)
                else:
                    queue.pop()
                    payload, self.text_received = item
                    if joined and queue:
                        payload += self._take_messages()
                    return payload
            elif self._ended:
                self._refuse()
                break
            else:
                await self._read()
        raise self._closed_error()

    def _take_messages(self) -> bytes:
        payloads: list[bytes] = []
        while self._queue and not isinstance(item := self._queue[-1], Passed):
            if item[1] is not self.text_received:
                break
            payloads.append(item[0])
            self._queue.pop()
        return b"".join(payloads)

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
        self._frame_parts()
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
            if self._peer is not None:
                await self._peer.aclose()
            self._done.set()

    def abort(self) -> None:
        """Reset the connection; what is buffered is given up, ``receive`` raises."""
        self._stream.abort()

    @property
    def _found(self) -> trio_websocket.CloseReason | None:
        """How the WebSocket was closed, as trio-websocket sees it."""
        connection = self._peer and self._peer.connection
        return connection.closed if connection else None

    @property
    def _ended(self) -> bool:
        return self._wire.closed or self._wire.close_sent or self._found is not None

    async def _let_in(self) -> trio_websocket.WebSocketConnection | None:
        """trio-websocket on this WebSocket; None if that has been lost meanwhile."""
        if self._peer is None:
            self._peer = _TrioWebSocket(self._wire, _accept)
            self._peer.start()
        await self._peer.opened.wait()
        return self._peer.connection

    async def _receive_assembled(self) -> bytes:
        connection = await self._let_in()
        if connection is None:
            raise self._closed_error()
        try:
            message = await connection.get_message()
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
            self._scan(data)
        elif self._peer is None:
            self._wire.end()  # lost, and trio-websocket knows of nothing that it could add
        else:
            self._queue.insert(0, Passed(b"", Kind.REST))

    def _scan(self, data: bytes | bytearray) -> None:
        found = self._scanner.feed(data)
        if len(found) > 1:
            found.reverse()
        self._queue[:0] = found

    async def _pass_on(self, item: Passed) -> None:
        """Let trio-websocket have the next item, and wait until it has dealt with that."""
        if item.kind is Kind.TOO_BIG:
            self._queue.pop()
            self._fail(_TOO_BIG, "message too big")
            return
        await self._let_in()
        if not self._queue or self._queue[-1] is not item:
            return  # ``aclose`` has come between, and passed it on
        self._queue.pop()
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
        closed = self._found
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
        connection = await self._let_in()
        if connection is not None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._discard, nursery.cancel_scope)
                await connection.aclose(code, reason)
                nursery.cancel_scope.cancel()

    async def _discard(self, handshake: trio.CancelScope) -> None:
        """Receive for the close handshake alone, and end it when the connection has ended."""
        while not self._wire.closed:
            if not self._queue:
                await self._read()
                continue
            item = self._queue[-1]
            if isinstance(item, Passed):
                await self._pass_on(item)
            else:
                self._queue.pop()
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
        "is_client",
        "keep_open",
        "status",
        "stream",
        "upgraded",
    )

    def __init__(self, stream: BufferedStream, *, is_client: bool) -> None:
        self.stream = stream
        self.is_client = is_client
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
        #: Servers: what trio-websocket answers to the request has been sent long since.
        self.upgraded = is_client
        self._inbox = b"" if is_client else _REQUEST
        self._head: bytearray | None = bytearray() if is_client else None
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
        if not self.upgraded:
            self.upgraded = True
            return
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


class _TrioWebSocket:
    """trio-websocket on a wire: its connection, and the task that its reader lives in.

    The task is one of the flusher's. An error in it (it has no guard against a ping behind its
    own close frame, say) ends this one WebSocket, and nothing else.
    """

    _nursery: trio.Nursery

    __slots__ = (
        "_begun",
        "_ended",
        "_nursery",
        "_scope",
        "_upgrade",
        "_upgrading",
        "_wire",
        "connection",
        "opened",
    )

    def __init__(self, wire: _Wire, upgrade: _Upgrade) -> None:
        self._wire = wire
        self._upgrade = upgrade
        self._scope = trio.CancelScope()
        self._upgrading = trio.CancelScope()
        self._ended = trio.Event()
        self._begun = False
        #: The upgrade is over, one way or another.
        self.opened = trio.Event()
        #: None: not yet open, or the upgrade has failed.
        self.connection: trio_websocket.WebSocketConnection | None = None

    def start(self) -> None:
        if not self._wire.stream.flusher.start_soon(self._run):
            self._end()

    async def aclose(self) -> None:
        """Wait until the task has ended. Shielded: nothing in it waits for the other side."""
        self._scope.cancel()
        if not self._begun:
            self._end()  # where the flusher does not run, it will never begin
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    def start_soon(self, reader: Callable[[], Awaitable[None]]) -> None:
        """Called by trio-websocket."""
        self._nursery.start_soon(self._read, reader)

    async def _read(self, reader: Callable[[], Awaitable[None]]) -> None:
        try:
            await reader()
        finally:
            self._wire.end()
            # trio-websocket would wait for ever in an upgrade.
            self._upgrading.cancel()

    async def _run(self) -> None:
        self._begun = True
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    with self._upgrading:
                        # All that it asks of a nursery is to start its reader.
                        self.connection = await self._upgrade(cast(trio.Nursery, self), self._wire)
                    self.opened.set()
        except Exception:
            _logger.debug("the reader task of a WebSocket has failed", exc_info=True)
        finally:
            self._end()

    def _end(self) -> None:
        self._wire.end()
        self.opened.set()
        self._ended.set()


#: Opens trio-websocket on a wire; its reader runs in the nursery.
_Upgrade = Callable[[trio.Nursery, _Wire], Awaitable[trio_websocket.WebSocketConnection]]


async def _accept(nursery: trio.Nursery, wire: _Wire) -> trio_websocket.WebSocketConnection:
    request = await trio_websocket.wrap_server_stream(
        nursery, wire, message_queue_size=sys.maxsize, max_message_size=sys.maxsize
    )
    return await request.accept()


def accept_websocket(
    stream: BufferedStream,
    key: str,
    *,
    headers: Headers = (),
    max_message_size: int | None = MAX_MESSAGE_SIZE,
) -> WebSocket:
    """Answer an upgrade request that was read from ``stream``; ``key``: its Sec-WebSocket-Key.

    What came behind the request's head is to be received from ``stream``. No subprotocol and no
    extension is agreed. The caller closes the WebSocket.
    """
    accepted = base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode("ascii")).digest())
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accepted.decode('ascii')}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    stream.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    return WebSocket(_Wire(stream, is_client=False), None, max_message_size)


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

    async def upgrade(nursery: trio.Nursery, wire: _Wire) -> trio_websocket.WebSocketConnection:
        # trio-websocket's annotation is narrower than what it needs, which is any stream.
        return await trio_websocket.wrap_client_stream(
            nursery,
            cast(trio.SocketStream, wire),
            endpoint.authority,
            endpoint.target,
            extra_headers=[
                (name.encode("ascii"), value.encode("latin-1")) for name, value in headers
            ],
            message_queue_size=sys.maxsize,
            max_message_size=sys.maxsize,
        )

    async with AsyncExitStack() as stack:
        websocket: WebSocket | None = None
        with trio.move_on_after(connect_timeout):
            stream = BufferedStream(await connect(endpoint, network, ssl_context), flusher)
            stack.push_async_callback(stream.aclose)
            wire = _Wire(stream, is_client=True)
            peer = _TrioWebSocket(wire, upgrade)
            stack.push_async_callback(peer.aclose)
            peer.start()
            await peer.opened.wait()
            if peer.connection is None:
                raise _refused(endpoint, wire.status)
            websocket = WebSocket(wire, peer, max_message_size)
            websocket.response_headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in peer.connection.handshake_headers
            ]
        if websocket is None:
            raise ConnectionClosed(
                f"{endpoint.url} did not answer the upgrade to WebSocket in {connect_timeout} s"
            )
        stack.push_async_callback(websocket.aclose)
        yield websocket


def _refused(endpoint: Endpoint, status: int | None) -> ConnectionClosed:
    if status in (None, 101):
        return ConnectionClosed(f"{endpoint.url} ended the connection amid the upgrade")
    return UpgradeRefused(
        f"{endpoint.url} refused the upgrade to WebSocket with status {status}", status=status
    )
