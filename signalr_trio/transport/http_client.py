"""A small HTTP/1.1 client (h11): one request at a time, on a connection that may be kept.

It is what SignalR's transports ask for: requests one after the other, and answers whose body comes
as it is made. Redirects, cookies and compression are not its business.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import h11
import trio

from signalr_trio.errors import ConfigurationError, ConnectionClosed, ProtocolError
from signalr_trio.transport.endpoint import Endpoint, connect, parse_url
from signalr_trio.transport.http import MAX_BODY, MAX_HEAD, Response
from signalr_trio.transport.network import TCP, Network
from signalr_trio.transport.websocket import Headers

__all__ = ["HttpClient", "http_request"]

#: Seconds that a connection is kept for another request. Servers close idle ones after 5 s and
#: more; a POST that meets that must not be sent twice (RFC 9110, 9.2.2), so we are well ahead.
IDLE_LIMIT: Final = 2.0
_RECEIVE_SIZE: Final = 64 * 1024
_DONE: Final = (h11.DONE, h11.DONE)


async def http_request(
    method: str,
    url: str,
    *,
    headers: Headers = (),
    body: bytes = b"",
    timeout: float = 15.0,
    network: Network = TCP,
    ssl_context: ssl.SSLContext | None = None,
) -> Response:
    """One request on a connection of its own. Raises what :meth:`HttpClient.request` does."""
    client = HttpClient(network, ssl_context)
    try:
        return await client.request(
            method, url, headers=[("Connection", "close"), *headers], body=body, timeout=timeout
        )
    finally:
        await client.aclose()


class HttpClient:
    """Makes requests one after the other, on one connection for as long as the server keeps it.

    For one task at a time. A request that is cancelled, or fails, ends its connection; the next
    one opens another. Nothing is ever sent twice.
    """

    def __init__(self, network: Network = TCP, ssl_context: ssl.SSLContext | None = None) -> None:
        self._network = network
        self._ssl_context = ssl_context
        self._connection: _Connection | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        timeout: float = 15.0,
        max_body: int | None = MAX_BODY,
    ) -> Response:
        """The answer, read whole.

        Raises:
            ConfigurationError: ``url`` is not an http or https URL, or a header is none.
            ConnectionClosed: nobody answers, or not in ``timeout`` seconds.
            ProtocolError: the answer is not HTTP, or its body has over ``max_body`` bytes.
        """
        endpoint = parse_url(url)
        with trio.move_on_after(timeout):
            response = await self.start(method, url, headers=headers, body=body)
            parts: list[bytes] = []
            size = 0
            while part := await self.receive_some():
                parts.append(part)
                size += len(part)
                if size > (math.inf if max_body is None else max_body):
                    await self.aclose()
                    raise ProtocolError(f"{endpoint.url} answered with more than {max_body} bytes")
            response.body = b"".join(parts)
            return response
        raise ConnectionClosed(f"{endpoint.url} did not answer in {timeout} s")

    async def start(
        self, method: str, url: str, *, headers: Headers = (), body: bytes = b""
    ) -> Response:
        """The head of the answer; ``receive_some`` then gives the body. Not bounded in time.

        Raises as :meth:`request`.
        """
        endpoint = parse_url(url)
        head = _request(method, endpoint, headers, body)
        connection = await self._take(endpoint)
        try:
            with _told(endpoint):
                await connection.send(head, body)
                response = await connection.receive_head()
        except BaseException:
            await connection.aclose()
            raise
        self._connection = connection
        return response

    async def receive_some(self) -> bytes:
        """The next piece of the body, empty at its end. Raises ConnectionClosed, ProtocolError."""
        connection = self._connection
        if connection is None:
            raise ConnectionClosed("there is no answer to be received")
        try:
            with _told(connection.endpoint):
                data = await connection.receive_some()
        except BaseException:
            await self.aclose()
            raise
        if not data and not connection.reusable:
            await self.aclose()
        return data

    async def aclose(self) -> None:
        """Close the connection, with whatever is going on on it. Waits for nobody."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _take(self, endpoint: Endpoint) -> _Connection:
        """The connection that was kept, if it will do, or a new one."""
        kept = self._connection
        if kept is not None and kept.begin(endpoint):
            self._connection = None
            return kept
        await self.aclose()
        stream = await connect(endpoint, self._network, self._ssl_context)
        return _Connection(stream, endpoint)


class _Connection:
    """The client's side of one HTTP connection."""

    def __init__(self, stream: trio.abc.Stream, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._last_used = trio.current_time()

    @property
    def reusable(self) -> bool:
        """The answer was read to its end, and another request may follow."""
        states = (self._h11.our_state, self._h11.their_state)
        return states == _DONE and self._h11.trailing_data == (b"", False)

    def begin(self, endpoint: Endpoint) -> bool:
        """Whether the next request can be sent here."""
        mine = self.endpoint
        same = (mine.host, mine.port, mine.tls) == (endpoint.host, endpoint.port, endpoint.tls)
        idle = trio.current_time() - self._last_used
        if not self.reusable or not same or idle > IDLE_LIMIT:
            return False
        self.endpoint = endpoint
        self._h11.start_next_cycle()
        return True

    async def send(self, head: h11.Request, body: bytes) -> None:
        events = [head, h11.Data(data=body), h11.EndOfMessage()]
        await self._stream.send_all(b"".join(self._h11.send(event) or b"" for event in events))

    async def receive_head(self) -> Response:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):  # one with 1xx is none
                headers = [
                    (name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers
                ]
                return Response(event.status_code, headers=headers)

    async def receive_some(self) -> bytes:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                self._last_used = trio.current_time()
                return b""
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def _next_event(self) -> object:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            data = await self._stream.receive_some(_RECEIVE_SIZE)
            if not data and self._h11.their_state is h11.SEND_RESPONSE:
                raise trio.BrokenResourceError
            self._h11.receive_data(bytes(data))
        return event


def _request(method: str, endpoint: Endpoint, headers: Headers, body: bytes) -> h11.Request:
    own = [("Host", endpoint.authority), ("Content-Length", str(len(body)))]
    try:
        return h11.Request(method=method, target=endpoint.target, headers=[*own, *headers])
    except (h11.LocalProtocolError, ValueError):
        # h11's text has the value, which may be a token.
        raise ConfigurationError(f"a header for {endpoint.url} is none that HTTP has") from None


@contextmanager
def _told(endpoint: Endpoint) -> Generator[None, None, None]:
    """Errors of trio and h11 as our own."""
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ConnectionClosed(f"{endpoint.url} ended the connection unanswered") from error
    except h11.RemoteProtocolError as error:
        raise ProtocolError(f"{endpoint.url} answered with bad HTTP: {error}") from error
