"""WebSocket: against plain trio-websocket over TCP, and against a raw peer frame by frame."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio_websocket
from harness.one_answer import answering
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Pong

from signalr_trio.errors import ConfigurationError, ConnectionClosed
from signalr_trio.transport.endpoint import connect, parse_url, without_token
from signalr_trio.transport.frames import BINARY, TEXT, FrameScanner, Passed, encode_frame
from signalr_trio.transport.http import Request, Response, Upgrade, serve_listeners
from signalr_trio.transport.http_client import http_request
from signalr_trio.transport.network import TCP
from signalr_trio.transport.stream import BufferedStream, Flusher
from signalr_trio.transport.websocket import (
    UpgradeRefused,
    WebSocket,
    accept_websocket,
    connect_websocket,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MEGABYTE = 1024 * 1024


async def echo(websocket: WebSocket) -> None:
    with suppress(ConnectionClosed):
        while True:
            payload = await websocket.receive()
            websocket.send(payload, text=websocket.text_received)


@asynccontextmanager
async def server(
    flusher: Flusher,
    serve: Callable[[WebSocket], Awaitable[None]] = echo,
    max_message_size: int = 4 * MEGABYTE,
) -> AsyncIterator[str]:
    """Our server; yields its URL."""

    async def handle(request: Request) -> Response | Upgrade:
        if not request.wants_websocket:
            return Response(418)
        return Upgrade(serve, [("X-Answer", "yes")], max_message_size)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(partial(serve_listeners, handle, listeners, flusher=flusher))
        yield f"ws://127.0.0.1:{port}/chat?id=1"
        nursery.cancel_scope.cancel()


class Peer:
    """The other end of an accepted WebSocket, in wsproto, over a memory stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = Connection(ConnectionType.CLIENT)
        self.events: list[Event] = []

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    def feed(self, data: bytes) -> None:
        self.connection.receive_data(data)
        self.events += list(self.connection.events())

    async def read_events(self) -> list[Event]:
        """All that comes until the stream ends."""
        with suppress(trio.BrokenResourceError):
            while data := await self.stream.receive_some():
                self.feed(bytes(data))
        return self.events

    async def close_code(self) -> int:
        """The code of the close frame that comes, with nothing behind it."""
        *_, last = await self.read_events()
        assert isinstance(last, CloseConnection)
        return int(last.code)


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    made = bytearray(encode_frame(opcode, payload, mask=True))
    made[0] = (0x80 if final else 0) | opcode
    return bytes(made)


def close_frame(code: int | None, reason: bytes = b"") -> bytes:
    return frame(0x8, b"" if code is None else code.to_bytes(2, "big") + reason)


@asynccontextmanager
async def accepted(
    flusher: Flusher, *, max_message_size: int | None = None
) -> AsyncIterator[tuple[WebSocket, Peer]]:
    ours, theirs = memory_stream_pair()
    stream = BufferedStream(ours, flusher)
    websocket = accept_websocket(stream, KEY, max_message_size=max_message_size)
    async with aclosing(websocket):
        await stream.drained()
        head = bytes(await theirs.receive_some())
        assert head.startswith(b"HTTP/1.1 101")
        assert head.endswith(b"\r\n\r\n")
        yield websocket, Peer(theirs)


async def receive_all(websocket: WebSocket) -> tuple[list[tuple[bytes, bool]], ConnectionClosed]:
    messages: list[tuple[bytes, bool]] = []
    while True:
        try:
            messages.append((await websocket.receive(), websocket.text_received))
        except ConnectionClosed as error:
            return messages, error


# --- against plain trio-websocket -----------------------------------------------------------

MESSAGES = [
    "",
    b"",
    "text",
    "größer €",
    b"\x00\xff",
    b"x" * 125,
    "x" * 126,
    b"x" * 65535,
    b"x" * 65536,
    b"x" * MEGABYTE,
    "é" * (MEGABYTE // 2),
]


async def test_a_plain_client_and_our_server(flusher: Flusher) -> None:
    connect_plainly = partial(trio_websocket.open_websocket_url, max_message_size=4 * MEGABYTE)
    async with server(flusher) as url, connect_plainly(url) as client:
        for message in MESSAGES:
            await client.send_message(message)
            assert await client.get_message() == message


@asynccontextmanager
async def plain_echo_server() -> AsyncIterator[str]:
    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        headers = [(b"X-Path", request.path.encode())]
        websocket = await request.accept(extra_headers=headers)
        with suppress(trio_websocket.ConnectionClosed):
            while True:
                await websocket.send_message(await websocket.get_message())

    async with trio.open_nursery() as nursery:
        serve = partial(
            trio_websocket.serve_websocket,
            handle,
            "127.0.0.1",
            0,
            None,
            max_message_size=4 * MEGABYTE,
        )
        plain = await nursery.start(serve)
        yield f"http://127.0.0.1:{plain.port}/a?b=c"
        nursery.cancel_scope.cancel()


async def test_our_client_and_a_plain_server(flusher: Flusher) -> None:
    async with (
        plain_echo_server() as url,
        connect_websocket(url, flusher=flusher, max_message_size=None) as client,
    ):
        assert ("x-path", "/a?b=c") in client.response_headers
        for message in MESSAGES:
            text = isinstance(message, str)
            payload = message.encode() if isinstance(message, str) else message
            client.send(payload, text=text)
            assert await client.receive() == payload
            assert client.text_received is text


async def test_ours_and_ours_with_many_messages_at_once(flusher: Flusher) -> None:
    payloads = [str(i).encode() * (i % 50) for i in range(5000)]
    async with server(flusher) as url, connect_websocket(url, flusher=flusher) as client:
        assert ("x-answer", "yes") in client.response_headers
        for payload in payloads:
            client.send(payload)
        assert [await client.receive() for _ in payloads] == payloads


async def test_a_frame_made_once_for_many(flusher: Flusher) -> None:
    made = encode_frame(TEXT, b"to all", mask=False)

    async def serve(websocket: WebSocket) -> None:
        websocket.write_frame(made)
        await echo(websocket)

    async with server(flusher, serve) as url, AsyncExitStack() as stack:
        for _ in range(5):
            client = await stack.enter_async_context(connect_websocket(url, flusher=flusher))
            assert await client.receive() == b"to all"


async def test_a_slow_reader_is_seen_and_waited_for(flusher: Flusher) -> None:
    held_up = trio.Event()
    done = trio.Event()

    async def serve(websocket: WebSocket) -> None:
        for _ in range(32):
            websocket.send(b"x" * MEGABYTE)
        await wait_all_tasks_blocked()
        assert websocket.buffered > MEGABYTE
        held_up.set()
        await websocket.drained()
        assert websocket.buffered == 0
        done.set()
        await echo(websocket)

    async with server(flusher, serve) as url, connect_websocket(url, flusher=flusher) as client:
        await held_up.wait()
        for _ in range(32):
            assert len(await client.receive()) == MEGABYTE
        await done.wait()


async def test_a_client_lost_amid_sending(flusher: Flusher) -> None:
    ended: list[Exception] = []

    async def serve(websocket: WebSocket) -> None:
        try:
            while True:
                websocket.send(b"x" * MEGABYTE)
                await websocket.drained()
        except ConnectionClosed as error:
            ended.append(error)
            assert websocket.broken
            websocket.send(b"nobody hears")

    async with server(flusher, serve) as url:
        async with connect_websocket(url, flusher=flusher) as client:
            await client.receive()
            client.abort()
            with pytest.raises(ConnectionClosed, match="1006"):
                await client.receive()
        while not ended:
            await wait_all_tasks_blocked()
    assert "1006" in str(ended[0])


# --- fragments, control frames, order -------------------------------------------------------


async def test_fragments_keep_their_place_in_the_order(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer):
        await peer.send(
            frame(BINARY, b"1"),
            frame(TEXT, b"2 \xc3", final=False),
            frame(0x9, b"ping"),
            frame(0x0, b"\xa9", final=True),
            frame(TEXT, b"3"),
            frame(BINARY, b"4", final=False),
            frame(0x0, b"", final=False),
            frame(0x0, b"4", final=True),
            frame(0xA, b"nobody asked"),
            frame(BINARY, b""),
            close_frame(1000),
        )
        messages, _ = await receive_all(websocket)
        assert messages == [
            (b"1", False),
            ("2 é".encode(), True),
            (b"3", True),
            (b"44", False),
            (b"", False),
        ]
        assert Pong(payload=b"ping") in await peer.read_events()


async def test_being_cancelled_in_receive_loses_nothing(flusher: Flusher) -> None:
    data = b"".join(
        frame(BINARY, str(i).encode())
        + frame(TEXT, b"a", final=False)
        + frame(0x9, b"p")
        + frame(0x0, b"b")
        for i in range(5)
    )
    messages: list[bytes] = []
    async with accepted(flusher) as (websocket, peer):

        async def receive() -> None:
            while True:
                messages.append(await websocket.receive())

        for at in range(0, len(data), 3):
            await peer.send(data[at : at + 3])
            for ticks in range(8):  # a different await is cancelled each time
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    for _ in range(ticks):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
        assert messages == [x for i in range(5) for x in (str(i).encode(), b"ab")]
        await peer.send(close_frame(1000))
        assert (await receive_all(websocket))[0] == []


# --- how it ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code", "answer"),
    [
        (close_frame(1000), 1000, 1000),
        (close_frame(1001, b"gone"), 1001, 1001),
        (close_frame(4999), 4999, 4999),
        (close_frame(None), 1005, 1005),
        (close_frame(999), 1002, 1002),
        (frame(0x8, b"x"), 1002, 1002),
        (frame(0x3, b"x"), 1002, 1002),
        (encode_frame(BINARY, b"unmasked", mask=False), 1002, 1002),
        (frame(TEXT, b"\xff"), 1007, 1007),
        (frame(TEXT, b"\xff", final=False) + frame(0x0, b"x"), 1007, 1007),
        (frame(BINARY, b"x" * 101), 1009, 1009),
        (frame(BINARY, b"x" * 99, final=False) + frame(0x0, b"xx"), 1009, 1009),
    ],
)
async def test_the_other_side_ends_it(
    flusher: Flusher, autojump_clock: MockClock, sent: bytes, code: int, answer: int
) -> None:
    async with (
        accepted(flusher, max_message_size=100) as (websocket, peer),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(peer.send, frame(BINARY, b"first") + sent + frame(BINARY, b"late"))
        messages, error = await receive_all(websocket)
        assert messages == [(b"first", False)]
        assert str(code) in str(error)
        assert websocket.code == code
        with pytest.raises(ConnectionClosed):
            await websocket.receive()
        websocket.send(b"nothing follows a close frame")
        nursery.start_soon(websocket.aclose)
        assert await peer.close_code() == answer


async def test_the_reason_is_told(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer):
        await peer.send(close_frame(1001, b"going away"))
        with pytest.raises(ConnectionClosed, match="code 1001: going away"):
            await websocket.receive()
        assert websocket.reason == "going away"


async def test_the_end_follows_the_close_frame_at_once(flusher: Flusher) -> None:
    """The client waits for it, and the handler may take its time."""
    async with accepted(flusher) as (websocket, peer):
        await peer.send(close_frame(1000))
        with pytest.raises(ConnectionClosed):
            await websocket.receive()
        assert await peer.close_code() == 1000  # reads to the end


@pytest.mark.parametrize("half", [b"", frame(BINARY, b"x" * 50)[:10]])
async def test_a_connection_that_is_lost(flusher: Flusher, half: bytes) -> None:
    async with accepted(flusher) as (websocket, peer):
        await peer.send(frame(BINARY, b"first") + half)
        await peer.stream.aclose()
        messages, error = await receive_all(websocket)
        assert messages == [(b"first", False)]
        assert websocket.code == 1006
        assert error.allow_reconnect


async def test_aclose_by_us(flusher: Flusher) -> None:
    """What is buffered goes before the close frame; what still comes is dropped."""
    async with accepted(flusher) as (websocket, peer), trio.open_nursery() as nursery:
        websocket.send(b"last words")
        nursery.start_soon(websocket.aclose, 1001, "bye")
        await wait_all_tasks_blocked()
        await peer.send(frame(BINARY, b"late"), frame(0x9, b"late ping"), close_frame(1001))
        events = await peer.read_events()
        assert [type(event).__name__ for event in events] == ["BytesMessage", "CloseConnection"]
        assert events[1] == CloseConnection(code=1001, reason="bye")
        with pytest.raises(ConnectionClosed, match="1001: bye"):
            await websocket.receive()


async def test_aclose_while_another_task_receives(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer), trio.open_nursery() as nursery:
        ends: list[ConnectionClosed] = []

        async def receive() -> None:
            messages, error = await receive_all(websocket)
            assert messages == []
            ends.append(error)

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        nursery.start_soon(websocket.aclose)
        nursery.start_soon(websocket.aclose)
        await wait_all_tasks_blocked()
        await peer.send(frame(BINARY, b"late") + close_frame(1000))
        assert await peer.close_code() == 1000
        await wait_all_tasks_blocked()
        assert len(ends) == 1


async def test_aclose_takes_over_from_a_cancelled_receiver(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer), trio.open_nursery() as nursery:
        async with trio.open_nursery() as receiver:
            receiver.start_soon(websocket.receive)
            await wait_all_tasks_blocked()
            nursery.start_soon(websocket.aclose)
            await wait_all_tasks_blocked()
            receiver.cancel_scope.cancel()
        await peer.send(close_frame(1000))
        assert await peer.close_code() == 1000


@pytest.mark.parametrize("ticks", range(12))
async def test_aclose_is_shielded_at_every_await(flusher: Flusher, ticks: int) -> None:
    async with accepted(flusher) as (websocket, peer), trio.open_nursery() as nursery:
        websocket.send(b"last words")
        await peer.send(close_frame(1000))

        async def close() -> None:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel, scope)
                await websocket.aclose(1001)

        async def cancel(scope: trio.CancelScope) -> None:
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        nursery.start_soon(close)
        events = await peer.read_events()
        assert events[-1] == CloseConnection(code=1001, reason="")
        assert len(events) == 2


async def test_aclose_unanswered_is_bounded(flusher: Flusher, autojump_clock: MockClock) -> None:
    async with accepted(flusher) as (websocket, peer):
        begin = trio.current_time()
        await websocket.aclose()
        assert trio.current_time() - begin == pytest.approx(5, abs=2)
        assert await peer.close_code() == 1000


async def test_aclose_with_a_peer_that_reads_nothing(
    flusher: Flusher, autojump_clock: MockClock
) -> None:
    """The close frame stays behind what cannot be sent."""

    class StuckStream(trio.abc.Stream):
        stuck = False

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if self.stuck:
                await trio.sleep_forever()

        async def wait_send_all_might_not_block(self) -> None: ...

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep_forever()
            return b""

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    inner = StuckStream()
    async with aclosing(accept_websocket(BufferedStream(inner, flusher), KEY)) as websocket:
        inner.stuck = True
        websocket.send(b"x" * MEGABYTE)
        begin = trio.current_time()
        await websocket.aclose()
        assert 4 < trio.current_time() - begin < 8
        assert websocket.broken


async def test_leaving_the_block_closes_with_1000(flusher: Flusher) -> None:
    ours, theirs = memory_stream_pair()
    peer = Peer(theirs)

    async def serve() -> None:
        async with aclosing(accept_websocket(BufferedStream(ours, flusher), KEY)) as websocket:
            websocket.send(b"hello")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        head = bytes(await theirs.receive_some())
        peer.feed(head.partition(b"\r\n\r\n")[2])
        await peer.send(close_frame(1000))
        assert await peer.close_code() == 1000


@pytest.mark.parametrize(
    "error", [ValueError("x"), ExceptionGroup("users own", [ValueError(), KeyError()])]
)
async def test_errors_of_the_block_come_out_as_they_are(flusher: Flusher, error: Exception) -> None:
    async with server(flusher) as url:
        with pytest.raises(type(error)) as caught:
            async with connect_websocket(url, flusher=flusher):
                raise error
    # trio may copy groups on their way, so they are compared by what is in them.
    assert repr(caught.value) == repr(error)


async def test_being_cancelled_in_the_block(flusher: Flusher) -> None:
    codes: list[int | None] = []

    async def serve(websocket: WebSocket) -> None:
        await echo(websocket)
        codes.append(websocket.code)

    async with server(flusher, serve) as url:
        with trio.CancelScope() as scope:
            async with connect_websocket(url, flusher=flusher):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        while not codes:
            await wait_all_tasks_blocked()
    assert codes == [1000]


# --- connecting -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nbad",
        b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\nuntil the end",
    ],
)
async def test_a_refused_upgrade(flusher: Flusher, answer: bytes) -> None:
    async with answering(answer) as port:
        url = f"ws://127.0.0.1:{port}/hub?access_token=secret&hub=1"
        with pytest.raises(UpgradeRefused, match="status 401") as caught:
            async with connect_websocket(url, flusher=flusher):
                pass
    assert caught.value.status == 401
    assert "secret" not in str(caught.value)
    assert "hub=1" in str(caught.value)


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 101 Swit", b"HTTP/1.1 101 X\r\n\r\n"]
)
async def test_an_upgrade_that_comes_to_nothing(flusher: Flusher, answer: bytes) -> None:
    async with answering(answer) as port:
        with pytest.raises(ConnectionClosed, match="amid the upgrade"):
            async with connect_websocket(f"ws://127.0.0.1:{port}/", flusher=flusher):
                pass


async def test_a_server_that_does_not_answer(flusher: Flusher) -> None:
    async with answering(None) as port:
        url = f"ws://127.0.0.1:{port}/?access_token=secret"
        with pytest.raises(ConnectionClosed, match="did not answer") as caught:
            async with connect_websocket(url, flusher=flusher, connect_timeout=0.05):
                pass
    assert "secret" not in str(caught.value)


async def test_nobody_there(flusher: Flusher) -> None:
    async with answering(b"") as port:
        pass
    with pytest.raises(ConnectionClosed, match="cannot connect"):
        async with connect_websocket(f"ws://127.0.0.1:{port}/", flusher=flusher):
            pass


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://x/", "/hub", "ws://", "ws://x:99999/", "ws://x/a b", ""),
        *("ws://a..b/", "wss://.b/", f"ws://{'a' * 64}.b/"),  # hosts that DNS cannot have
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://h/p?id=1&access_token=s&x=2", "ws://h/p?x=2"),
        ("ws://h/p?hub=chat&ID=1", "ws://h/p?hub=chat"),
        ("ws://h/p?Access%5Ftoken=s", "ws://h/p"),
        ("https://user:pass@h:1/p", "https://h:1/p"),
        ("/p?access_token=s&a", "/p?a"),
        ("/p", "/p"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert without_token(url) == shown


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("ws://h", "h", "/"),
        ("wss://h:443/a?b=c", "h", "/a?b=c"),
        ("http://h:8080/", "h:8080", "/"),
        ("http://[::1]:81/", "[::1]:81", "/"),
    ],
)
def test_parts_of_urls(url: str, authority: str, target: str) -> None:
    endpoint = parse_url(url)
    assert (endpoint.authority, endpoint.target) == (authority, target)


async def test_frames_right_behind_the_upgrade(flusher: Flusher) -> None:
    """The answer and the first frames come in one read, on both sides."""
    async with server(flusher) as url:
        endpoint = parse_url(url)
        stream = await connect(endpoint, TCP)
        request = (
            f"GET {endpoint.target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        )
        await stream.send_all(request.encode() + frame(BINARY, b"early") + close_frame(1000))
        peer = Peer(stream)
        data = b""
        while b"\r\n\r\n" not in data:
            data += bytes(await stream.receive_some())
        peer.feed(data.partition(b"\r\n\r\n")[2])
        assert await peer.close_code() == 1000
        assert len(peer.events) == 2
        await stream.aclose()

    made = encode_frame(TEXT, b"early", mask=False) * 3

    async def serve(websocket: WebSocket) -> None:
        websocket.write_frame(made)
        await echo(websocket)

    async with server(flusher, serve) as url, connect_websocket(url, flusher=flusher) as client:
        assert [await client.receive() for _ in range(3)] == [b"early"] * 3


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    names = ["subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", f"{path}.key", "-out", f"{path}"]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return path


async def test_tls(flusher: Flusher, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, f"{certificate}.key")
    trusting = ssl.create_default_context(cafile=str(certificate))

    async def handle(stream: trio.abc.Stream) -> None:
        from signalr_trio.transport.http import serve_http

        async def answer(request: Request) -> Response | Upgrade:
            return Upgrade(echo) if request.wants_websocket else Response(200, request.body)

        await serve_http(stream, answer, flusher=flusher)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(
            0, context, host="127.0.0.1", https_compatible=True
        )
        await nursery.start(trio.serve_listeners, handle, listeners)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        url = f"https://127.0.0.1:{port}/"
        answer = await http_request("POST", url, body=b"sent", ssl_context=trusting)
        assert answer.body == b"sent"
        async with connect_websocket(url, flusher=flusher, ssl_context=trusting) as client:
            for size in (5, MEGABYTE):
                client.send(b"x" * size)
                assert len(await client.receive()) == size
        with pytest.raises(ConnectionClosed, match="no TLS"):
            await http_request("GET", url)
        nursery.cancel_scope.cancel()


# --- messages that are made of parts --------------------------------------------------------


async def test_parts_of_one_tick_are_one_message(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer):
        for part in (b"a", b"b", b"c"):
            websocket.send_joined(part)
        assert websocket.buffered == 3
        await websocket.drained()
        websocket.send_joined(b"d")
        await websocket.drained()
        peer.feed(bytes(await peer.stream.receive_some()))
        assert [event.data for event in peer.events if isinstance(event, BytesMessage)] == [
            b"abc",
            b"d",
        ]
        await peer.stream.aclose()


async def test_parts_leave_by_themselves(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer):
        websocket.send_joined(b"alone")
        await wait_all_tasks_blocked()
        assert websocket.buffered == 0
        peer.feed(bytes(await peer.stream.receive_some()))
        assert [event.data for event in peer.events if isinstance(event, BytesMessage)] == [
            b"alone"
        ]
        await peer.stream.aclose()


async def test_a_joined_message_has_its_bounds(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer):
        for _ in range(5):
            websocket.send_joined(b"x" * 40_000)
        await websocket.drained()
        websocket.abort()
        received = bytearray()
        with suppress(trio.BrokenResourceError):
            while data := await peer.stream.receive_some():
                received += data
        found = FrameScanner(from_client=False, max_message_size=None).feed(received)
        sizes = [len(item[0]) for item in found if not isinstance(item, Passed)]
        assert sizes == [80_000, 80_000, 40_000]


async def test_messages_that_have_come_are_received_as_one(flusher: Flusher) -> None:
    async with accepted(flusher) as (websocket, peer):
        await peer.send(
            frame(BINARY, b"a"), frame(BINARY, b"b"), frame(TEXT, b"c"), frame(TEXT, b"d")
        )
        assert await websocket.receive(joined=True) == b"ab"
        assert not websocket.text_received
        assert await websocket.receive() == b"c"
        await peer.send(frame(TEXT, b"e"))
        assert await websocket.receive(joined=True) == b"d"
        assert await websocket.receive(joined=True) == b"e"
        await peer.stream.aclose()
