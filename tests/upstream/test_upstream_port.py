"""Serverless mode over loopback TCP: the service's own port, and upstreams that misbehave."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from harness.upstreams import Application, application, result

from signalr_trio import (
    ConfigurationError,
    Hub,
    HubConnection,
    HubError,
    HubServer,
    RunningService,
    ServiceOptions,
    Upstream,
    open_service,
    serve,
)
from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.tokens import NAME_IDENTIFIER, make_token
from signalr_trio.transport.http import Request, Response
from signalr_trio.transport.http_client import http_request
from signalr_trio.upstream.sender import open_sender
from signalr_trio.upstream.webhook import UpstreamFailed, Webhook

ENDPOINT = parse_connection_string(DEVELOPMENT)
PATIENCE = 20


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[RunningService, Application]]:
    with trio.fail_after(PATIENCE):
        async with application() as app:
            upstreams = [Upstream(f"http://127.0.0.1:{app.port}/{{event}}?code=secret")]
            async with open_service(port=0, mode="serverless", upstreams=upstreams) as running:
                yield running, app


def client(running: RunningService, protocol: str = "json") -> HubConnection:
    token = make_token(
        ENDPOINT.access_key, ENDPOINT.client_audience("chat"), [(NAME_IDENTIFIER, "ann")]
    )
    url = f"http://127.0.0.1:{running.port}/client/?hub=chat"
    return HubConnection(url, access_token=token, protocol=protocol, reconnect=None)


async def add(request: Request) -> Response:
    return result(request, 5)


async def test_a_client_calls_the_application(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with stage() as (running, app):
        app.answers["add"] = add
        async with client(running) as connection:
            for _ in range(3):
                assert await connection.invoke("add", 2, 3) == 5
            app.answers["add"] = partial(_status, 500)
            with pytest.raises(HubError, match="Invocation failed, status code 500"):
                await connection.invoke("add", 2, 3)
        await app.until("disconnected")
    assert app.events == ["connected", "add", "add", "add", "add", "disconnected"]
    assert {one.query_string for one in app.requests} == {"code=secret"}
    assert {one.header("x-asrs-user-id") for one in app.requests} == {"ann"}
    assert "/add: answered with status 500" in caplog.text
    assert "secret" not in caplog.text


async def _status(status: int, request: Request) -> Response:
    return Response(status)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_service_that_ends_says_who_has_gone(cancelled: bool) -> None:
    with trio.fail_after(PATIENCE):
        async with application() as app:
            upstreams = [Upstream(f"http://127.0.0.1:{app.port}/")]
            with trio.CancelScope() as scope:
                async with (
                    open_service(port=0, mode="serverless", upstreams=upstreams) as running,
                    trio.open_nursery() as nursery,
                ):
                    connected = trio.Event()
                    nursery.start_soon(_stay, running, connected)
                    await connected.wait()
                    await app.until("connected")
                    if cancelled:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
            assert app.events == ["connected", "disconnected"]


async def _stay(running: RunningService, connected: trio.Event) -> None:
    async with client(running):
        connected.set()
        await trio.sleep_forever()


async def test_sends_over_rest_reach_clients() -> None:
    async with stage() as (running, _), client(running) as connection:
        news = trio.Event()
        connection.on("news", news.set)
        await connection.invoke("hello")
        url = f"http://127.0.0.1:{running.port}/api/v1/hubs/chat"
        headers = [("Authorization", f"Bearer {make_token(ENDPOINT.access_key, url)}")]
        body = b'{"target":"news","arguments":[]}'
        answer = await http_request("POST", url, headers=headers, body=body)
        assert answer.status == 202
        await news.wait()


class Chat(Hub):
    pass


class Heard(logging.Handler):
    """Sets an event when a text is logged."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.event = trio.Event()
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.event.set()


async def test_a_hub_server_hears_why_it_cannot_connect() -> None:
    heard = Heard("the service refused the handshake: The service is in serverless mode")
    logger = logging.getLogger("signalr_trio.server")
    logger.addHandler(heard)
    try:
        async with stage() as (running, _), trio.open_nursery() as nursery:
            server = HubServer(running.connection_string)
            server.map(Chat, "/chat")
            nursery.start_soon(partial(serve, server, port=None, signals=False))
            await heard.event.wait()
            nursery.cancel_scope.cancel()
    finally:
        logger.removeHandler(heard)


# -- upstreams that misbehave ----------------------------------------------------------------------


Behaviour = Callable[[trio.SocketStream], Awaitable[None]]


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.aclose()


async def no_http(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    await stream.aclose()


async def half_an_answer(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
    await stream.aclose()


async def endless(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n")
    try:
        while True:
            await stream.send_all(b"x" * 65536)
    except trio.BrokenResourceError:
        pass


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, behaviour, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (hang_up, "the upstream ended the connection, or its answer is not HTTP"),
        (no_http, "the upstream ended the connection, or its answer is not HTTP"),
        (half_an_answer, "the upstream ended the connection, or its answer is not HTTP"),
        (endless, "response too large"),
    ],
)
async def test_what_is_no_answer(behaviour: Behaviour, said: str) -> None:
    with trio.fail_after(PATIENCE):
        async with listening(behaviour) as url, open_sender(timeout=60, connections=1) as send:
            # Twice: what one left behind is in nobody's way, with one connection only.
            for _ in range(2):
                with pytest.raises(UpstreamFailed) as failure:
                    await send(Webhook(url, [], b"{}"))
                assert str(failure.value) == said


async def test_no_answer() -> None:
    with trio.fail_after(PATIENCE):
        async with listening(silent) as url, open_sender(timeout=0.2, connections=1) as send:
            for _ in range(2):
                with pytest.raises(UpstreamFailed, match=r"did not answer in 0\.2 s"):
                    await send(Webhook(url, [], b"{}"))


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid", "x" * 70])
async def test_nobody_there(host: str) -> None:
    with trio.fail_after(PATIENCE), socket.socket() as bound:
        # A port that is taken, on which nobody listens.
        bound.bind(("127.0.0.1", 0))
        url = f"http://{host}/".replace("{port}", str(bound.getsockname()[1]))
        async with open_sender(timeout=10, connections=1) as send:
            with pytest.raises(UpstreamFailed, match="cannot be reached"):
                await send(Webhook(url, [], b"{}"))


async def test_a_kept_connection_that_the_upstream_has_closed_is_not_used_again() -> None:
    closed = trio.Event()

    async def once(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        await stream.aclose()
        closed.set()

    with trio.fail_after(PATIENCE):
        async with listening(once) as url, open_sender(timeout=10, connections=1) as send:
            for _ in range(3):
                assert (await send(Webhook(url, [], b"{}"))).status == 204
                await closed.wait()
                closed = trio.Event()


# -- the extra -------------------------------------------------------------------------------------


async def test_without_httpcore_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpcore", None)
    monkeypatch.delitem(sys.modules, "signalr_trio.upstream.sender")
    upstreams = [Upstream("http://app/")]
    with pytest.raises(
        ConfigurationError, match=r"httpcore: pip install 'signalr-trio\[serverless\]"
    ):
        async with open_service(port=0, mode="serverless", upstreams=upstreams):
            pass


async def test_without_upstreams_nothing_more_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpcore", None)
    options = ServiceOptions(upstream_timeout=1.0)
    with trio.fail_after(PATIENCE):
        async with (
            open_service(port=0, mode="serverless", options=options) as running,
            client(running) as connection,
        ):
            with pytest.raises(HubError, match="no upstream is set for it"):
                await connection.invoke("add", 1, 2)
