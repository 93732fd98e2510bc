"""The HTTP client, over TCP and over streams in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from harness.one_answer import answering
from trio.testing import MockClock, memory_stream_pair

from signalr_trio.errors import ConfigurationError, ConnectionClosed, ProtocolError
from signalr_trio.transport.http import Request, Response, serve_listeners
from signalr_trio.transport.http_client import HttpClient, http_request
from signalr_trio.transport.stream import Flusher

SECRET_TARGET = "/p?access_token=secret"


@asynccontextmanager
async def tcp_server(flusher: Flusher) -> AsyncIterator[int]:
    async def handle(request: Request) -> Response:
        assert request.client == "127.0.0.1"
        assert request.header("HOST") == f"127.0.0.1:{port}"
        return Response(202, request.body, [("X-Param", request.param("ID") or "")])

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(partial(serve_listeners, handle, listeners, flusher=flusher))
        yield port
        nursery.cancel_scope.cancel()


async def test_against_our_server(flusher: Flusher) -> None:
    async with tcp_server(flusher) as port:
        url = f"http://127.0.0.1:{port}/p?id=5"
        response = await http_request("POST", url, headers=[("X-A", "b")], body=b"hello")
    assert (response.status, response.body, response.header("x-param")) == (202, b"hello", "5")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", b"ab"),
        (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
    ],
)
async def test_responses(answer: bytes, body: bytes) -> None:
    async with answering(answer) as port:
        url = f"http://127.0.0.1:{port}{SECRET_TARGET}"
        assert (await http_request("GET", url)).body == body


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"", ConnectionClosed, "unanswered"),
        (None, ConnectionClosed, "did not answer in"),
        (b"garbage\r\n\r\n", ProtocolError, "bad HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", ProtocolError, "bad HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_100_000, ProtocolError, "more than"),
    ],
)
async def test_responses_that_are_none(
    answer: bytes | None, error: type[Exception], text: str
) -> None:
    async with answering(answer) as port:
        url = f"http://127.0.0.1:{port}{SECRET_TARGET}"
        with pytest.raises(error, match=text) as caught:
            await http_request("GET", url, timeout=5 if answer is not None else 0.05)
    assert "secret" not in str(caught.value)


async def test_nobody_there() -> None:
    async with answering(b"") as port:
        url = f"http://127.0.0.1:{port}{SECRET_TARGET}"
    with pytest.raises(ConnectionClosed, match=r"cannot connect .*: Connection refused$") as caught:
        await http_request("GET", url)
    assert "secret" not in str(caught.value)


class Server:
    """A network of one server, that answers each request on any connection with the next answer.

    None: no answer, the connection stays open. An answer is sent in pieces, one for each item.
    """

    def __init__(self, *answers: list[bytes] | bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0
        self._nursery: trio.Nursery

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = memory_stream_pair()
        self.connections += 1
        self._nursery.start_soon(self._serve, server)
        return client

    async def listen(self, host: str | None, port: int) -> tuple[list[trio.abc.Listener], int]:
        raise AssertionError

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.open += 1
        async with stream:
            with suppress(trio.BrokenResourceError):
                while request := await stream.receive_some():
                    self.requests.append(bytes(request))
                    answer = self.answers.pop(0)
                    for piece in [answer] if isinstance(answer, bytes) else answer or []:
                        await stream.send_all(piece)
                    if b"close" in (answer or b""):
                        break
        self.open -= 1

    @asynccontextmanager
    async def client(self) -> AsyncIterator[HttpClient]:
        async with trio.open_nursery() as self._nursery:
            client = HttpClient(self)
            yield client
            await client.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert self.open == 0
            self._nursery.cancel_scope.cancel()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
URL = "http://host/p"


async def test_a_connection_is_kept_for_the_next_request() -> None:
    server = Server(OK, b"HTTP/1.1 204 No Content\r\n\r\n", OK)
    async with server.client() as client:
        assert (await client.request("GET", URL)).body == b"ok"
        assert (await client.request("POST", URL, body=b"x")).status == 204
        assert (await client.request("DELETE", "http://host/other")).body == b"ok"
    assert server.connections == 1
    assert server.requests[1] == b"POST /p HTTP/1.1\r\nHost: host\r\nContent-Length: 1\r\n\r\nx"


@pytest.mark.parametrize(
    ("answer", "url"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", URL),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", URL),
        (OK + b"more than that", URL),
        (OK, "http://elsewhere/p"),
        (OK, "http://host:81/p"),
    ],
)
async def test_a_connection_that_will_not_do_again(answer: bytes, url: str) -> None:
    server = Server(answer, OK)
    async with server.client() as client:
        await client.request("GET", URL)
        assert (await client.request("GET", url)).body == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(("pause", "connections"), [(1.9, 1), (2.1, 2)])
async def test_an_idle_connection_is_not_trusted(
    pause: float, connections: int, autojump_clock: MockClock
) -> None:
    server = Server(OK, OK)
    async with server.client() as client:
        await client.request("GET", URL)
        await trio.sleep(pause)
        await client.request("GET", URL)
    assert server.connections == connections


async def test_a_request_that_was_cancelled_ends_its_connection(autojump_clock: MockClock) -> None:
    server = Server(None, OK)
    async with server.client() as client:
        with pytest.raises(ConnectionClosed, match=r"did not answer in 5 s"):
            await client.request("GET", URL, timeout=5)
        assert (await client.request("GET", URL)).body == b"ok"
    assert server.connections == 2


async def test_a_body_as_it_comes() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = Server([head, b"2\r\nab\r\n", b"1\r\nc\r\n", b"0\r\n\r\n"], OK)
    async with server.client() as client:
        response = await client.start("GET", URL)
        assert (response.status, response.header("transfer-encoding")) == (200, "chunked")
        assert b"".join([await client.receive_some() for _ in range(2)]) == b"abc"
        assert await client.receive_some() == b""
        await client.request("GET", URL)
    assert server.connections == 1


async def test_a_body_that_breaks_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nab"
    async with Server(head).client() as client:
        await client.start("GET", URL)
        assert await client.receive_some() == b"ab"
        with pytest.raises(ProtocolError, match="bad HTTP"):
            await client.receive_some()
        with pytest.raises(ConnectionClosed):
            await client.receive_some()


async def test_a_body_over_the_limit() -> None:
    async with Server(OK, OK).client() as client:
        assert (await client.request("GET", URL, max_body=2)).body == b"ok"
        with pytest.raises(ProtocolError, match="more than 1 bytes"):
            await client.request("GET", URL, max_body=1)


@pytest.mark.parametrize("header", [("X", "s3cret\nline"), ("X\n", "s3cret"), ("X", "s3crét")])
async def test_a_header_that_http_does_not_have(header: tuple[str, str]) -> None:
    async with Server().client() as client:
        with pytest.raises(ConfigurationError, match="header") as caught:
            await client.request("GET", URL, headers=[header])
    assert "s3cr" not in str(caught.value)
