"""A client with nothing between it and the bytes: HTTP/1.1, WebSocket frames, server-sent events."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import h11
import trio

from .items import hub_messages

__all__ = ["Events", "Exchange", "Inbox", "WebSocket", "drop"]

Headers = Sequence[Sequence[str]]

_OPS = {"cont": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}


class Inbox:
    """What came on a connection and was not looked at yet."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.over = False
        self._news = trio.lowlevel.ParkingLot()

    def put(self, *items: str) -> None:
        self.items += items
        self._news.unpark_all()

    def end(self) -> None:
        self.over = True
        self.put("end")

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition() and not self.over:
            await self._news.park()


async def drop(stream: trio.abc.Stream, how: str) -> None:
    """``fin``: nothing more will be sent; ``close``: nor read; ``reset``: a reset."""
    if how == "fin":
        await stream.send_eof()  # type: ignore[attr-defined]
        return
    if how == "reset" and isinstance(stream, trio.SocketStream):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


class Exchange:
    """A request on a connection of its own, and its answer."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)
        self.rest = b""
        """What came behind the head of an answer with status 101."""

    async def send(
        self, request: str, headers: Headers, pieces: Sequence[bytes], *, version: str = "1.1"
    ) -> None:
        """``request`` is method and target; a body that goes on has no Content-Length."""
        method, target = request.split(" ", 1)
        listed = [("Host", "localhost"), *((name, value) for name, value in headers)]
        event = h11.Request(method=method, target=target, headers=listed)
        head = self._h11.send(event) or b""
        await self.stream.send_all(head.replace(b" HTTP/1.1\r\n", f" HTTP/{version}\r\n".encode()))
        for piece in pieces:
            await self.send_more(piece)

    async def send_more(self, piece: bytes) -> None:
        await self.stream.send_all(self._h11.send(h11.Data(data=piece)) or b"")

    async def end_request(self) -> None:
        await self.stream.send_all(self._h11.send(h11.EndOfMessage()) or b"")

    async def head(self) -> h11.Response | h11.InformationalResponse:
        event = await self._next()
        assert isinstance(event, (h11.Response, h11.InformationalResponse))
        if event.status_code == 101:
            self.rest = self._h11.trailing_data[0]
        return event

    async def piece(self) -> bytes | None:
        """What comes next of the body; None at its end."""
        event = await self._next()
        if isinstance(event, h11.EndOfMessage):
            return None
        assert isinstance(event, h11.Data)
        return bytes(event.data)

    async def body(self) -> bytes:
        pieces = b""
        while (piece := await self.piece()) is not None:
            pieces += piece
        return pieces

    async def _next(self) -> h11.Event:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(bytes(await self.stream.receive_some(1 << 16)))
        assert isinstance(event, h11.Event)
        return event


@attrs.define(eq=False)
class WebSocket:
    """A WebSocket that puts what comes into its inbox. ``answers``: close frames, as one should."""

    stream: trio.abc.Stream
    buffer: bytes
    answers: bool = True
    inbox: Inbox = attrs.field(factory=Inbox)
    _sending: trio.Lock = attrs.field(factory=trio.Lock)
    _message: bytes = b""
    _binary: bool = False
    _closing: bool = False

    async def send(self, frame: dict[str, Any], payload: bytes) -> None:
        op = _OPS.get(frame["op"], frame["op"])
        first = (frame.get("fin", 1) << 7) | (frame.get("rsv", 0) << 4) | op
        masked = frame.get("mask", 1)
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", first, masked << 7 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", first, masked << 7 | 126, size)
        else:
            head = struct.pack("!BBQ", first, masked << 7 | 127, size)
        # A mask of zeros is as good as any for a test.
        async with self._sending:
            await self.stream.send_all(head + (bytes(4) if masked else b"") + payload)
        self._closing |= op == _OPS["close"]

    async def read(self) -> None:
        """Until the connection has ended."""
        try:
            while True:
                op, final, payload = await self._frame()
                await self._take(op, final, payload)
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.inbox.end()

    async def _take(self, op: int, final: bool, payload: bytes) -> None:
        if op == _OPS["close"]:
            code = f" {int.from_bytes(payload[:2], 'big')}" if payload else ""
            self.inbox.put(f"close{code} {payload[2:].decode()}".rstrip())
            if self.answers and not self._closing:
                await self.send({"op": "close"}, payload)
        elif op in (_OPS["ping"], _OPS["pong"]):
            self.inbox.put(f"{'ping' if op == _OPS['ping'] else 'pong'} {payload.decode()}")
        else:
            if op:
                self._binary = op == _OPS["binary"]
            self._message += payload
            if final:
                # Each WebSocket message ends with a whole hub message, or there is a "part".
                self.inbox.put(*hub_messages(self._message, binary=self._binary))
                self._message = b""

    async def _frame(self) -> tuple[int, bool, bytes]:
        first, second = await self._bytes(2)
        assert not second & 0x80, "servers do not mask"
        size = second
        if size == 126:
            size = int.from_bytes(await self._bytes(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._bytes(8), "big")
        return first & 15, bool(first & 128), await self._bytes(size)

    async def _bytes(self, count: int) -> bytes:
        while len(self.buffer) < count:
            more = await self.stream.receive_some(max(count - len(self.buffer), 1 << 16))
            if not more:
                raise EOFError
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken


@attrs.define(eq=False)
class Events:
    """A stream of server-sent events that puts what comes into its inbox."""

    exchange: Exchange
    inbox: Inbox = attrs.field(factory=Inbox)

    @property
    def stream(self) -> trio.abc.Stream:
        return self.exchange.stream

    async def read(self) -> None:
        """Until the answer has ended."""
        buffer = b""
        try:
            while (piece := await self.exchange.piece()) is not None:
                buffer += piece
                while b"\r\n" in buffer:
                    line, _, buffer = buffer.partition(b"\r\n")
                    self._take(line)
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.inbox.put("cut off")
        self.inbox.end()

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data: "):
            self.inbox.put(*hub_messages(line[6:], binary=False))
        elif line:
            self.inbox.put(f"line {line.decode()}")
