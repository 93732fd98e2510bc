"""The HTTP/1.1 front door (h11): requests, streamed responses and upgrades."""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs
import h11
import trio

from signalr_trio.errors import ConnectionClosed, ProtocolError
from signalr_trio.transport.endpoint import without_token
from signalr_trio.transport.stream import BufferedStream, Flusher
from signalr_trio.transport.websocket import (
    MAX_MESSAGE_SIZE,
    Headers,
    WebSocket,
    accept_websocket,
)

__all__ = [
    "Answer",
    "Handler",
    "Pending",
    "Request",
    "Response",
    "ResponseBody",
    "Streaming",
    "Upgrade",
    "serve_http",
    "serve_listeners",
]

#: Bytes of a request that are read at the most, unless a server says otherwise.
MAX_BODY = 1024 * 1024
MAX_HEAD = 32 * 1024
#: Seconds for the head of a request, and between two pieces of its body.
HEADER_TIMEOUT = 15.0
#: Bytes of a body that must come each second, or it takes HEADER_TIMEOUT in all: Kestrel's default.
_LEAST_RATE = 240.0
#: Seconds that a connection is kept without a request, and for an answer to be taken.
IDLE_TIMEOUT = 120.0

#: So many bytes the kernel takes at once, unless the client does not read at all.
_HARDLY_ANY = 16 * 1024

_logger = logging.getLogger("signalr_trio.http")


@attrs.define
class Response:
    """An HTTP response. Date and Content-Length are added when it is sent."""

    status: int
    body: bytes = b""
    headers: Headers = ()

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case of letters."""
        return _first(self.headers, name)


@attrs.define(eq=False)
class Request:
    """An HTTP request that was read whole."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    raw_path: str
    """As it was sent: a name in it may hold an encoded slash."""
    query_string: str
    """As it was sent, without the question mark."""
    headers: list[tuple[str, str]]
    """Names in lower case."""
    body: bytes
    client: str | None
    """The address of the other side; None where it is not a socket."""
    http_version: str

    @property
    def query(self) -> list[tuple[str, str]]:
        """The decoded parameters, in order, empty ones too."""
        return parse_qsl(self.query_string, keep_blank_values=True)

    def param(self, name: str) -> str | None:
        """The first query parameter of that name, in any case of letters."""
        return _first(self.query, name)

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case of letters."""
        wanted = name.lower()
        for key, value in self.headers:
            if key == wanted:
                return value
        return None

    @property
    def wants_websocket(self) -> bool:
        """It can be answered with an ``Upgrade`` (RFC 6455, 4.2.1)."""
        connection = ",".join(value for name, value in self.headers if name == "connection")
        return (
            self.method == "GET"
            and self.http_version == "1.1"
            and (self.header("upgrade") or "").lower() == "websocket"
            and "upgrade" in [token.strip() for token in connection.lower().split(",")]
            and self.header("sec-websocket-version") == "13"
            and _is_websocket_key(self.header("sec-websocket-key") or "")
        )


@attrs.define
class Upgrade:
    """The answer to a request that wants a WebSocket: open one, and serve it."""

    serve: Callable[[WebSocket], Awaitable[None]]
    """Its end closes the WebSocket with 1000."""
    headers: Headers = ()
    """Go into the 101 answer."""
    max_message_size: int | None = MAX_MESSAGE_SIZE
    """In bytes; a larger one ends the WebSocket with 1009."""


@attrs.define
class Pending:
    """The answer comes later: ``respond`` is awaited, and cancelled if the client leaves."""

    respond: Callable[[], Awaitable[Response]]


class ResponseBody:
    """The body of a response, which is written piece by piece without waiting."""

    __slots__ = ("_ended", "_stream", "_write")

    def __init__(self, stream: BufferedStream, write: Callable[[h11.Event], None]) -> None:
        self._stream = stream
        self._write = write
        self._ended = False

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not been given yet."""
        return self._stream.buffered

    @property
    def broken(self) -> bool:
        """The client is known to have left: what is written goes nowhere."""
        return self._stream.broken

    def write(self, data: bytes) -> None:
        """Does nothing behind the end, and once the client has left."""
        if not self._ended and not self._stream.broken:
            self._write(h11.Data(data=data))

    def end(self) -> None:
        """There is no more; said again it changes nothing."""
        if not self._ended:
            self._ended = True
            self._write(h11.EndOfMessage())

    def abort(self) -> None:
        """Give up what is buffered; the connection is reset."""
        self._stream.abort()


@attrs.define
class Streaming:
    """A response with status 200 whose body ends when ``serve`` does, or says so."""

    serve: Callable[[ResponseBody], Awaitable[None]]
    left: Callable[[], None]
    """Called if the client leaves meanwhile; ``serve`` should then come to its end."""
    headers: Headers = ()


Answer = Response | Upgrade | Pending | Streaming
Handler = Callable[[Request], Awaitable[Answer]]


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    flusher: Flusher,
    max_body: int = MAX_BODY,
) -> NoReturn:
    """Serve the connections that ``listeners`` accept, until cancelled."""
    serve = partial(serve_http, handler=handler, flusher=flusher, max_body=max_body)
    await trio.serve_listeners(serve, list(listeners))


async def serve_http(
    stream: trio.abc.Stream,
    handler: Handler,
    *,
    flusher: Flusher,
    max_body: int = MAX_BODY,
    header_timeout: float = HEADER_TIMEOUT,
) -> None:
    """Serve the requests of one connection, one after the other, and close it.

    What ``handler`` raises is logged and answered with 500. No error is raised, since it would end
    the listener and with it all other connections.
    """
    buffered = BufferedStream(stream, flusher)
    try:
        # Nothing of HTTP is kept behind an upgrade: most connections are idle WebSockets.
        upgraded = await _HttpConnection(buffered, max_body, header_timeout).serve(handler)
        if upgraded is not None:
            websocket, serve, path = upgraded
            serving = serve(websocket)
            del upgraded, serve
            try:
                await serving
            except ConnectionClosed:
                pass  # the client has left; nothing to wonder about
            except Exception:
                _logger.exception("the WebSocket at %s: the handler has failed", path)
            finally:
                await websocket.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client is gone
    except Exception:
        _logger.exception("an HTTP connection has failed")
    finally:
        await buffered.aclose()


_ResultT = TypeVar("_ResultT")

#: An open WebSocket, what is to serve it, and the path it was asked for with.
_Upgraded = tuple[WebSocket, Callable[[WebSocket], Awaitable[None]], str]


class _Refused(Exception):
    """A request that is answered before any handler sees it; the connection ends."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _HttpConnection:
    """The server's side of one HTTP connection."""

    def __init__(self, stream: BufferedStream, max_body: int, header_timeout: float) -> None:
        self._stream = stream
        self._client = _remote_address(stream.inner)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._max_body = max_body
        self._header_timeout = header_timeout
        self._served = False

    async def serve(self, handler: Handler) -> _Upgraded | None:
        """Serve requests until there are no more, or one was answered with an upgrade."""
        try:
            while (head := await self._read_head()) is not None:
                request = self._request(head, await self._read_body(head))
                answer = await self._answer(request, handler)
                if isinstance(answer, Upgrade):
                    return self._upgrade(request, answer)
                if answer is None or not await self._respond(request, answer):
                    return None
                self._h11.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
        except _Refused as refused:
            await self._refuse(refused.status)
        return None

    def _upgrade(self, request: Request, upgrade: Upgrade) -> _Upgraded:
        received, _ = self._h11.trailing_data
        self._stream.unread(received)
        websocket = accept_websocket(
            self._stream,
            request.header("sec-websocket-key") or "",
            headers=[("Date", _now()), *upgrade.headers],
            max_message_size=upgrade.max_message_size,
        )
        return websocket, upgrade.serve, request.raw_path

    async def _answer(
        self, request: Request, handler: Handler
    ) -> Response | Streaming | Upgrade | None:
        """None: the client has left before it was known."""
        try:
            answer = await handler(request)
            if isinstance(answer, Upgrade) and not request.wants_websocket:
                raise ProtocolError(f"{request.path} was not asked for with an upgrade")
            if isinstance(answer, Pending):
                with trio.CancelScope() as scope:
                    return await self._watched(answer.respond(), left=scope.cancel)
                return None
        except Exception:
            self._log_failure(request)
            return Response(500)
        return answer

    async def _respond(self, request: Request, response: Response | Streaming) -> bool:
        """Whether another request may follow."""
        try:
            if isinstance(response, Streaming):
                await self._stream_body(request, response)
            else:
                await self._send(response, head_only=request.method == "HEAD")
        except (h11.LocalProtocolError, UnicodeError):
            self._log_failure(request)  # headers that HTTP does not have
            return False
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    async def _stream_body(self, request: Request, response: Streaming) -> None:
        self._write_head(200, response.headers)
        body = ResponseBody(self._stream, self._write)
        try:
            await self._watched(response.serve(body), left=response.left)
        except Exception:
            self._log_failure(request)
            body.abort()  # else it would seem to be whole
        body.end()
        await self._taken()

    async def _watched(self, work: Awaitable[_ResultT], *, left: Callable[[], None]) -> _ResultT:
        """Awaits ``work``; calls ``left`` if the client leaves meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, left)
            result = await work
            # What was found has been taken from somewhere: cancelled now, it would be lost.
            nursery.cancel_scope.shield = True
            nursery.cancel_scope.cancel()
        return result

    async def _watch(self, left: Callable[[], None]) -> None:
        """What comes is kept for the next request, as far as that is no more than a head."""
        try:
            while len(self._h11.trailing_data[0]) < MAX_HEAD:
                data = await self._stream.receive_some()
                if not data:
                    break
                self._h11.receive_data(bytes(data))
            else:
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        left()

    def _log_failure(self, request: Request) -> None:
        # As it was sent: decoded, it could hold line breaks.
        target = without_token(f"{request.raw_path}?{request.query_string}")
        _logger.exception("%s %s: the handler has failed", request.method, target)

    async def _read_head(self) -> h11.Request | None:
        """The next request; None when there is none."""
        event = self._h11.next_event()
        if event is h11.NEED_DATA and self._served and not self._h11.trailing_data[0]:
            with trio.move_on_after(IDLE_TIMEOUT) as idle:
                await self._receive()
            if idle.cancelled_caught:
                return None
            event = self._h11.next_event()
        if event is h11.NEED_DATA:
            with trio.move_on_after(self._header_timeout):
                while event is h11.NEED_DATA:
                    await self._receive()
                    event = self._h11.next_event()
        self._served = True
        if isinstance(event, h11.Request):
            # h11 bounds heads that come in pieces only.
            if len(event.target) + sum(len(n) + len(v) for n, v in event.headers) > MAX_HEAD:
                raise _Refused(431)
            _check_framing(event)
            return event
        if event is h11.NEED_DATA and self._h11.trailing_data[0]:
            raise _Refused(408)
        return None

    async def _read_body(self, head: h11.Request) -> bytes:
        declared = [int(value) for name, value in head.headers if name == b"content-length"]
        if declared and declared[0] > self._max_body:
            raise _Refused(413)
        if self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        begun = trio.current_time()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                latest = begun + len(body) / _LEAST_RATE
                latest = min(latest, trio.current_time()) + self._header_timeout
                with trio.move_on_at(latest) as waiting:
                    await self._receive()
                if waiting.cancelled_caught:
                    raise _Refused(408)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._max_body:
                    raise _Refused(413)
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)

    async def _receive(self) -> None:
        self._h11.receive_data(bytes(await self._stream.receive_some()))

    def _request(self, head: h11.Request, body: bytes) -> Request:
        target = head.target.decode("latin-1")
        path, _, query = target.partition("?")
        if not path.startswith("/"):
            # Absolute form, meant for proxies: servers must take it too (RFC 9112, 3.2.2).
            try:
                path = urlsplit(path).path or "/"
            except ValueError:  # half an IPv6 address
                raise _Refused(400) from None
        return Request(
            method=head.method.decode("ascii"),
            path=unquote(path),
            raw_path=path,
            query_string=query,
            headers=[
                (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers
            ],
            body=body,
            client=self._client,
            http_version=head.http_version.decode("ascii"),
        )

    async def _refuse(self, status: int) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(Response(status, headers=[("Connection", "close")]), head_only=False)
            # What the client still sends would turn into a reset, and the answer be lost.
            with trio.move_on_after(1.0):
                if await self._stream.send_eof():
                    while await self._stream.receive_some():
                        pass

    async def _send(self, response: Response, *, head_only: bool) -> None:
        has_body = response.status not in (204, 304)
        length = [("Content-Length", str(len(response.body)))] if has_body else []
        self._write_head(response.status, [*response.headers, *length])
        if response.body and has_body and not head_only:
            self._write(h11.Data(data=response.body))
        self._write(h11.EndOfMessage())
        await self._taken()

    def _write_head(self, status: int, headers: Headers) -> None:
        self._write(
            h11.Response(
                status_code=status,
                headers=[
                    (name.encode("ascii"), value.encode("latin-1"))
                    for name, value in (("Date", _now()), *headers)
                ],
                reason=_reason(status),
            )
        )

    async def _taken(self) -> None:
        """Waits, not for ever, while much of what was written has not left."""
        if self._stream.buffered <= _HARDLY_ANY:
            return
        with trio.move_on_after(IDLE_TIMEOUT) as sending:
            await self._stream.drained()
        if sending.cancelled_caught:
            self._stream.abort()

    def _write(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            self._stream.write(data)


def _first(pairs: Headers, name: str) -> str | None:
    wanted = name.lower()
    return next((value for key, value in pairs if key.lower() == wanted), None)


def _check_framing(head: h11.Request) -> None:
    """Refuses what a proxy before us may cut elsewhere than h11 does (RFC 9112, 6.1)."""
    names = {name for name, _ in head.headers}
    if b"transfer-encoding" in names and (
        b"content-length" in names or head.http_version != b"1.1"
    ):
        raise _Refused(400)


def _is_websocket_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _remote_address(stream: trio.abc.Stream) -> str | None:
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return None  # gone already


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def _now() -> str:
    return _date(int(time.time()))


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
