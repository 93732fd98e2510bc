"""What server-sent events and long polling share: they send by POST, one request at a time.

What is sent while a POST is under way goes into the next one together, so order is kept and a
burst costs few requests. Receiving is up to each of them, and is done by whoever receives.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import ClassVar, Final, TypeVar

import trio

from signalr_trio.client.transports.transport import Target
from signalr_trio.errors import ConnectionClosed, ProtocolError, SignalRError
from signalr_trio.transport.endpoint import without_token
from signalr_trio.transport.http import Response
from signalr_trio.transport.http_client import HttpClient

__all__ = ["CLOSE_TIMEOUT", "REQUEST_TIMEOUT", "PostingTransport", "opening"]

#: Seconds for the answer to a request, as in the official clients; the server may take its time.
REQUEST_TIMEOUT: Final = 100.0
#: Seconds for all that is still to be said when the transport is closed.
CLOSE_TIMEOUT: Final = 5.0
#: Seconds for what the server has said, when it does not take what is sent any more.
_LAST_WORDS: Final = 1.0
#: Messages are joined up to so many bytes; servers limit the body of a request.
_JOINED_LIMIT: Final = 64 * 1024
_logger = logging.getLogger("signalr_trio.client")
T = TypeVar("T", bound="PostingTransport")


class PostingTransport(ABC):
    """A transport over HTTP requests; see :class:`Transport`.

    The POSTs are made by a task of the flusher, which outlives the session: its last words are
    sent while all else is cancelled. Where one fails, or is answered with another status than
    2xx, the connection has ended; but first what is on its way from the server is received, for
    it may be the Close that says why.
    """

    name: ClassVar[str]
    inherent_keep_alive: ClassVar[bool]

    def __init__(self, target: Target) -> None:
        self._target = target
        self._headers = [("X-Requested-With", "XMLHttpRequest"), *target.headers]
        #: For what is received; POSTs have a connection of their own.
        self._client = self._new_client()
        self._poster = self._new_client()
        self._line: deque[bytes] = deque()
        self._buffered = 0
        self._error: ConnectionClosed | None = None
        self._news = trio.Event()  # there is something in line
        self._progress = trio.Event()
        self._receiving = trio.CancelScope()
        self._posting = trio.CancelScope()
        self._begun = False
        self._ended = trio.Event()
        self._failed = trio.Event()

    def __repr__(self) -> str:
        url, _, _ = without_token(self._target.url).partition("?")
        return f"<{self.name} {url}>"

    @abstractmethod
    async def open(self) -> None:
        """The first request. Raises ConnectionClosed, ProtocolError."""

    @abstractmethod
    async def _receive(self) -> bytes:
        """What comes next. Raises ConnectionClosed, ProtocolError."""

    @abstractmethod
    async def _say_end(self) -> None:
        """Tell the server that the connection ends, where the transport has a way to."""

    @property
    def buffered(self) -> int:
        return self._buffered

    def send(self, payload: bytes, *, text: bool = False) -> None:
        if self._error is None:
            self._line.append(payload)
            self._buffered += len(payload)
            self._news.set()

    async def receive(self) -> bytes:
        if self._error is None:
            with trio.CancelScope() as self._receiving:
                try:
                    return await self._receive()
                except (ConnectionClosed, ProtocolError) as error:
                    self._fail(ConnectionClosed(str(error)))
        raise self._closed_error()

    async def drained(self, limit: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        while self._error is None and self._buffered > limit:
            if self._progress.is_set():
                self._progress = trio.Event()
            await self._progress.wait()
        if self._error is not None:
            raise self._closed_error()

    def abort(self) -> None:
        self._fail(ConnectionClosed("the connection was given up"))

    def start(self) -> None:
        """Have what is sent go out from now on."""
        if not self._target.flusher.start_soon(self._post_all):
            self._end_posting()

    async def aclose(self) -> None:
        """Send what is in line, say that this is the end, close. Shielded and bounded."""
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(SignalRError):
            await self.drained()
            await self._say_end()
        self._fail(ConnectionClosed("the connection was closed"))
        self._posting.cancel()
        if not self._begun:
            self._end_posting()  # where the flusher does not run, it will never begin
        with trio.CancelScope(shield=True):
            await self._ended.wait()
            await self._client.aclose()
            await self._poster.aclose()

    async def _request(
        self, client: HttpClient, method: str, *, body: bytes = b"", timeout: float
    ) -> Response:
        kind = "application/octet-stream" if self._target.binary else "text/plain;charset=UTF-8"
        headers = [("Content-Type", kind), *self._headers] if body else self._headers
        return await client.request(
            method,
            self._target.url,
            headers=headers,
            body=body,
            timeout=timeout,
            max_body=self._target.max_message_size,
        )

    def _new_client(self) -> HttpClient:
        return HttpClient(self._target.network, self._target.ssl_context)

    async def _post_all(self) -> None:
        self._begun = True
        try:
            with self._posting:
                try:
                    while True:
                        if not self._line:
                            self._news = trio.Event()
                            await self._news.wait()
                        await self._post(self._take())
                except Exception as error:  # the flusher, and all others that it serves, live on
                    with trio.move_on_after(_LAST_WORDS):
                        await self._failed.wait()
                    self._fail(ConnectionClosed(f"what was sent has not arrived: {error}"))
        finally:
            self._end_posting()

    def _take(self) -> bytes:
        """What goes into the next request."""
        taken = [self._line.popleft()]
        size = len(taken[0])
        while self._line and size + len(self._line[0]) <= _JOINED_LIMIT:
            taken.append(self._line.popleft())
            size += len(taken[-1])
        return b"".join(taken)

    async def _post(self, body: bytes) -> None:
        response = await self._request(self._poster, "POST", body=body, timeout=REQUEST_TIMEOUT)
        if response.status // 100 != 2:
            raise ConnectionClosed(f"{self!r} answered a POST with status {response.status}")
        self._buffered -= len(body)
        self._progress.set()

    def _end_posting(self) -> None:
        self._ended.set()
        # Where the flusher was cancelled before us, nobody else says so.
        self._fail(ConnectionClosed("the connection was closed"))

    def _fail(self, error: ConnectionClosed) -> None:
        """The connection has ended so, if it has not ended before."""
        if self._error is None:
            _logger.debug("%r has ended: %s", self, error)
            self._error = error
            self._line.clear()
            self._buffered = 0
            self._progress.set()
            self._receiving.cancel()
            self._failed.set()

    def _closed_error(self) -> ConnectionClosed:
        # One of its own for each, for it grows a traceback.
        return ConnectionClosed(str(self._error))


@asynccontextmanager
async def opening(transport: T) -> AsyncGenerator[T, None]:
    """Open ``transport`` for a block, and close it. Raises ConnectionClosed."""
    try:
        try:
            await transport.open()
        except BaseException as error:
            transport.abort()  # there is nobody to say an end to
            if not isinstance(error, ProtocolError):
                raise
            raise ConnectionClosed(str(error)) from error
        transport.start()
        yield transport
    finally:
        await transport.aclose()
