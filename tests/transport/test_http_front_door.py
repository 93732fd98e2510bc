"""serve_http, byte for byte over memory streams; serve_listeners over TCP."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from signalr_trio.errors import ConnectionClosed
from signalr_trio.transport.http import (
    Pending,
    Request,
    Response,
    Upgrade,
    serve_http,
)
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import WebSocket


async def describe(request: Request) -> Response | Upgrade:
    """Answers with what it was asked."""
    if request.path == "/raise":
        raise ValueError("broken handler")
    if request.path == "/upgrade":
        return Upgrade(WebSocket.aclose)
    if request.path == "/empty":
        return Response(204)
    if request.path == "/bad-header":
        return Response(200, headers=[("X", "line\nbreak")])
    body = f"{request.method} {request.path} {request.query} ".encode() + request.body
    return Response(200, body, [("Content-Type", "text/plain")])


async def exchange(
    flusher: Flusher, sent: bytes, *, eof: bool = True, max_body: int = 1000
) -> bytes:
    """All that is answered to ``sent``."""
    ours, theirs = memory_stream_pair()
    answered = bytearray()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_http, ours, describe, flusher=flusher, max_body=max_body)
        nursery.start_soon(serve)
        await theirs.send_all(sent)
        if eof:
            await theirs.send_eof()
        while data := await theirs.receive_some():
            answered += data
        await theirs.aclose()
    return bytes(answered)


def statuses(answered: bytes) -> list[int]:
    return [int(part[:3]) for part in answered.split(b"HTTP/1.1 ")[1:]]


async def test_a_request_and_its_response(flusher: Flusher) -> None:
    sent = b"POST /a%20b?x=1&y=%C3%A9&x=&z HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
    answered = await exchange(flusher, sent)
    head, _, body = answered.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    names = [line.partition(b":")[0].lower() for line in lines[1:]]
    assert names == [b"date", b"content-type", b"content-length"]
    query = [("x", "1"), ("y", "é"), ("x", ""), ("z", "")]
    assert body.decode() == f"POST /a b {query} body"


async def test_a_chunked_body(flusher: Flusher) -> None:
    sent = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    assert (await exchange(flusher, sent)).endswith(b"abcde")


ONE = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_pipelined_requests_are_answered_in_order(flusher: Flusher) -> None:
    answered = await exchange(flusher, b"".join(ONE % i for i in range(5)))
    assert statuses(answered) == [200] * 5
    places = [answered.index(b"GET /%d" % i) for i in range(5)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ],
)
async def test_connections_that_are_not_kept(flusher: Flusher, sent: bytes) -> None:
    answered = await exchange(flusher, sent + sent, eof=False)
    assert statuses(answered) == [200]
    assert b"connection: close" in answered.lower()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: h\r\nbad header\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", 413),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"200\r\n"
            + b"x" * 0x200
            + b"\r\n200\r\n"
            + b"x" * 0x200,
            413,
        ),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET http://[::1/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        # Where a body ends must be beyond doubt, for a proxy before us as well.
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n" + ONE % 1,
            400,
        ),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ONE % 1, 400),
    ],
)
async def test_requests_that_are_refused(flusher: Flusher, sent: bytes, status: int) -> None:
    answered = await exchange(flusher, sent)
    assert statuses(answered) == [status]
    assert b"connection: close" in answered.lower()


POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "seconds"),
    [
        # What is announced is not waited for.
        (POST + b"Content-Length: 1001\r\n\r\n", 413, 0),
        (POST + b"Content-Length: 99999999999999999\r\n\r\nx", 413, 0),
        (POST + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n", 413, 0),
        # Nor the end of what has none yet.
        (CHUNKED + b"1000000\r\n" + b"x" * 1001, 413, 0),
        (CHUNKED + b"1\r\nx\r\n" * 1001, 413, 0),
        (CHUNKED + b"1;" + b"x" * 40_000, 431, 0),
        (CHUNKED + b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 10_000, 431, 0),
        # Within the limit, the rest may still come.
        (CHUNKED + b"1\r\nx\r\n" * 1000, 408, 15),
        (POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 999, 408, 15),
    ],
)
async def test_a_body_is_refused_as_soon_as_it_is_too_large(
    flusher: Flusher, autojump_clock: MockClock, sent: bytes, status: int, seconds: float
) -> None:
    begin = trio.current_time()
    answered = await exchange(flusher, sent, eof=False)
    assert statuses(answered) == [status]
    assert trio.current_time() - begin == seconds


async def test_a_body_of_the_very_limit(flusher: Flusher) -> None:
    sent = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    assert (await exchange(flusher, sent)).endswith(b"x" * 1000)


async def test_head_has_the_length_and_no_body(flusher: Flusher) -> None:
    answered = await exchange(flusher, b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" + ONE % 1)
    assert statuses(answered) == [200, 200]
    first = answered.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len("HEAD / [] ") in first[0].lower()
    assert first[2].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("stops", [False, True])
async def test_an_answer_that_there_is_goes_out(stops: bool) -> None:
    """Though all is cancelled in the step in which it was found."""
    ours, theirs = memory_stream_pair()
    found = trio.Event()

    async def respond() -> Response:
        await found.wait()
        if stops:
            scope.cancel()
        return Response(200, b"found")

    async def handler(_: Request) -> Pending:
        return Pending(respond)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            flusher = Flusher()
            nursery.start_soon(flusher.run)
            nursery.start_soon(partial(serve_http, ours, handler, flusher=flusher))
            await theirs.send_all(ONE % 1)
            await wait_all_tasks_blocked()
            found.set()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert bytes(await theirs.receive_some()).endswith(b"\r\n\r\nfound")


async def test_no_content_has_no_length(flusher: Flusher) -> None:
    answered = await exchange(flusher, b"GET /empty HTTP/1.1\r\nHost: h\r\n\r\n" + ONE % 1)
    assert statuses(answered) == [204, 200]
    assert b"content-length" not in answered.partition(b"\r\n\r\n")[0].lower()


async def test_absolute_targets(flusher: Flusher) -> None:
    answered = await exchange(flusher, b"GET http://h/a?b=c HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"GET /a [('b', 'c')]" in answered


async def test_expect_100_continue(flusher: Flusher) -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_http, ours, describe, flusher=flusher))
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        await theirs.send_all(head)
        assert bytes(await theirs.receive_some()).startswith(b"HTTP/1.1 100")
        await theirs.send_all(b"body")
        assert bytes(await theirs.receive_some()).endswith(b"body")
        await theirs.aclose()


@pytest.mark.parametrize("path", [b"/raise", b"/upgrade"])
async def test_a_handler_that_fails(
    flusher: Flusher, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    """Also by an upgrade that nobody asked for."""
    sent = b"GET " + path + b"?access_token=secret&id=secret&hub=7 HTTP/1.1\r\nHost: h\r\n\r\n"
    with caplog.at_level(logging.ERROR, "signalr_trio.http"):
        answered = await exchange(flusher, sent + ONE % 1)
    assert statuses(answered) == [500, 200]
    assert "hub=7" in caplog.text
    assert "Traceback" in caplog.text
    assert "secret" not in caplog.text
    assert b"broken" not in answered


async def test_a_log_line_is_one_line(flusher: Flusher, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is encoded in the path."""

    async def fail(_: Request) -> Response:
        raise ValueError("bug")

    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_http, ours, fail, flusher=flusher))
        await theirs.send_all(b"GET /a%0aWARNING%0db HTTP/1.1\r\nHost: h\r\n\r\n")
        await theirs.receive_some()
        await theirs.aclose()
    assert [record.getMessage().splitlines() for record in caplog.records] == [
        ["GET /a%0aWARNING%0db: the handler has failed"]
    ]


async def test_an_error_of_our_own_ends_one_connection(
    flusher: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    """And not the listener, with all others."""
    ours, _ = memory_stream_pair()

    async def fail() -> None:
        raise RuntimeError("a bug of ours")

    ours.receive_stream.receive_some_hook = fail
    await serve_http(ours, describe, flusher=flusher)
    assert "a bug of ours" in caplog.text


async def test_a_handler_with_impossible_headers(
    flusher: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    answered = await exchange(flusher, b"GET /bad-header HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answered == b""
    assert "LocalProtocolError" in caplog.text


@pytest.mark.parametrize(
    ("sent", "seconds", "answer"),
    [
        (b"", 15, []),
        (b"GET / HT", 15, [408]),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nb", 15, [408]),
        (ONE % 1, 120, [200]),
        (ONE % 1 + b"GET", 15, [200, 408]),
    ],
)
async def test_clients_that_are_slow(
    flusher: Flusher, autojump_clock: MockClock, sent: bytes, seconds: float, answer: list[int]
) -> None:
    begin = trio.current_time()
    answered = await exchange(flusher, sent, eof=False)
    assert statuses(answered) == answer
    assert trio.current_time() - begin == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize(
    ("piece", "every", "status", "seconds"),
    [(1, 10, 408, 15), (200, 1, 408, 85), (250, 1, 200, 120), (15_000, 14, 200, 28)],
)
async def test_a_body_that_drips(
    flusher: Flusher,
    autojump_clock: MockClock,
    piece: int,
    every: float,
    status: int,
    seconds: float,
) -> None:
    """A byte now and then keeps no request open for hours; what is merely slow is waited for."""
    ours, theirs = memory_stream_pair()
    begin = trio.current_time()
    serve = partial(serve_http, ours, describe, flusher=flusher, max_body=30_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)

        async def drip() -> None:
            for _ in range(30_000 // piece):
                await trio.sleep(every)
                await theirs.send_all(b"x" * piece)

        await theirs.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 30000\r\n\r\n")
        nursery.start_soon(drip)
        answer = bytes(await theirs.receive_some())
        nursery.cancel_scope.cancel()
    assert statuses(answer) == [status]
    assert trio.current_time() - begin == pytest.approx(seconds, abs=2)


UPGRADE = {
    "Host": "h",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "WebSocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("method", "version", "changes", "wanted"),
    [
        ("GET", "1.1", {}, True),
        ("GET", "1.1", {"Sec-WebSocket-Extensions": "permessage-deflate"}, True),
        ("GET", "1.1", {"Sec-WebSocket-Protocol": "chat"}, True),
        ("GET", "1.1", {"Host": "\xff..bad host"}, True),
        ("GET", "1.1", {"Sec-WebSocket-Version": "8"}, False),
        ("GET", "1.1", {"Sec-WebSocket-Key": "short"}, False),
        ("GET", "1.1", {"Sec-WebSocket-Key": ""}, False),
        ("GET", "1.1", {"Connection": "close"}, False),
        ("GET", "1.1", {"Upgrade": "h2c"}, False),
        ("POST", "1.1", {}, False),
        ("GET", "1.0", {}, False),
    ],
)
async def test_which_requests_want_a_websocket(
    flusher: Flusher, method: str, version: str, changes: dict[str, str], wanted: bool
) -> None:
    lines = [f"{name}: {value}\r\n" for name, value in {**UPGRADE, **changes}.items()]
    sent = f"{method} /chat HTTP/{version}\r\n{''.join(lines)}\r\n".encode("latin-1")
    seen: list[bool] = []

    async def serve(websocket: WebSocket) -> None:
        await websocket.drained()
        websocket.abort()

    async def handle(request: Request) -> Upgrade:
        seen.append(request.wants_websocket)
        return Upgrade(serve)

    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_http, ours, handle, flusher=flusher))
        await theirs.send_all(sent)
        with suppress(trio.BrokenResourceError):
            head = bytes(await theirs.receive_some()).lower()
            assert b"date: " in head
            assert b"sec-websocket-protocol" not in head
            assert b"sec-websocket-extensions" not in head
        await theirs.aclose()
    assert seen == [wanted]


@pytest.mark.parametrize("error", [ConnectionClosed("left"), ValueError("bug")])
async def test_a_handler_that_fails_after_the_upgrade(
    flusher: Flusher, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def fail(websocket: WebSocket) -> None:
        raise error

    async def handle(request: Request) -> Upgrade:
        return Upgrade(fail)

    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_http, ours, handle, flusher=flusher))
        lines = [f"{name}: {value}\r\n" for name, value in UPGRADE.items()]
        await theirs.send_all(f"GET / HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
        await theirs.receive_some()
        await theirs.aclose()
    assert ("bug" in caplog.text) is isinstance(error, ValueError)


async def test_a_client_that_leaves_amid_a_response(flusher: Flusher) -> None:
    ours, theirs = memory_stream_pair()
    waiting = trio.Event()

    async def handle(request: Request) -> Response:
        waiting.set()
        await wait_all_tasks_blocked()
        return Response(200, b"x" * 100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_http, ours, handle, flusher=flusher))
        await theirs.send_all(ONE % 1)
        await waiting.wait()
        await theirs.aclose()


# --- over TCP -------------------------------------------------------------------------------
