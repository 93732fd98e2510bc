"""BufferedStream and Flusher: gathered, never waiting for one another, bounded at the end."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from signalr_trio.transport.stream import SEND_LIMIT, BufferedStream, Flusher

MEGABYTE = b"m" * 1024 * 1024


class RecordingStream(trio.abc.Stream):
    """Remembers what was sent with each call."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        return b""

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:
        accepted: list[trio.SocketStream] = []

        async def accept() -> None:
            accepted.append(await listener.accept())

        nursery.start_soon(accept)
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await wait_all_tasks_blocked()
        async with client, accepted[0]:
            yield client, accepted[0]


async def read_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await stream.receive_some(65536)
        assert more, "the stream ended early"
        data += more
    return bytes(data)


async def test_what_is_written_in_one_tick_is_sent_in_one_call(flusher: Flusher) -> None:
    inner = RecordingStream()
    stream = BufferedStream(inner, flusher)
    for piece in (b"a", b"b", b"c"):
        stream.write(piece)
    assert stream.buffered == 3
    await stream.drained()
    stream.write(b"d")
    await stream.drained()
    assert inner.sent == [b"abc", b"d"]
    assert stream.buffered == 0


async def test_order_is_kept_under_pressure(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        pieces = [bytes([i % 256]) * (i * 37 % 5000) for i in range(2000)]
        for piece in pieces:
            stream.write(piece)
            if len(piece) % 7 == 0:
                await trio.lowlevel.checkpoint()
        expected = b"".join(pieces)
        assert await read_exactly(theirs, len(expected)) == expected


async def test_a_slow_reader_holds_up_no_one_else(flusher: Flusher) -> None:
    async with tcp_pair() as (slow, slow_peer), tcp_pair() as (quick, quick_peer):
        slow_stream, quick_stream = BufferedStream(slow, flusher), BufferedStream(quick, flusher)
        for _ in range(16):
            slow_stream.write(MEGABYTE)
        for _ in range(3):
            quick_stream.write(b"hello")
            assert await read_exactly(quick_peer, 5) == b"hello"
        await wait_all_tasks_blocked()
        stuck = slow_stream.buffered
        assert stuck > SEND_LIMIT
        slow_stream.write(MEGABYTE)
        assert slow_stream.buffered == stuck + len(MEGABYTE)
        assert await read_exactly(slow_peer, 17 * len(MEGABYTE)) == 17 * MEGABYTE
        await slow_stream.drained()
        assert slow_stream.buffered == 0


async def test_drained_waits_for_its_limit(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        for _ in range(16):
            stream.write(MEGABYTE)
        left: list[int] = []

        async def wait() -> None:
            await stream.drained(5 * len(MEGABYTE))
            left.append(stream.buffered)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert left == []
            await read_exactly(theirs, 12 * len(MEGABYTE))
        assert left[0] <= 5 * len(MEGABYTE)


@pytest.mark.parametrize("leave", ["reset", "close"])
async def test_a_peer_that_is_gone(flusher: Flusher, leave: str) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        if leave == "reset":
            BufferedStream(theirs, flusher).abort()
        else:
            await theirs.aclose()
        with suppress(trio.BrokenResourceError):
            while True:
                stream.write(MEGABYTE)
                await stream.drained()
        assert stream.broken
        assert stream.buffered == 0
        stream.write(b"nobody hears")
        assert stream.buffered == 0


async def test_a_waiter_hears_that_the_peer_is_gone(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        for _ in range(16):
            stream.write(MEGABYTE)

        async def wait() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await stream.drained()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            BufferedStream(theirs, flusher).abort()


async def test_a_generic_stream_that_breaks(flusher: Flusher) -> None:
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    stream = BufferedStream(ours, flusher)
    stream.write(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await stream.drained()


async def test_what_was_read_before_comes_first(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        stream.unread(b"early")
        await theirs.send_all(b"late")
        assert [await stream.receive_some(3), await stream.receive_some()] == [b"ear", b"ly"]
        assert await stream.receive_some() == b"late"


async def test_receiving_ends_as_with_any_stream(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, MEGABYTE)
            assert await read_exactly(stream, len(MEGABYTE)) == MEGABYTE
        await theirs.send_eof()
        assert await stream.receive_some() == b""
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await stream.drained()


async def test_a_reset_is_a_broken_stream(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        BufferedStream(theirs, flusher).abort()
        with pytest.raises(trio.BrokenResourceError):
            await BufferedStream(ours, flusher).receive_some()


async def test_aclose_sends_the_rest(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        stream.write(b"goodbye")
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.aclose()
        stream.write(b" and more")
        assert await theirs.receive_some() == b"goodbye"
        assert await theirs.receive_some() == b""


@pytest.mark.parametrize("pair", [memory_stream_pair, None])
async def test_aclose_sends_the_rest_without_a_flusher(
    pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] | None,
) -> None:
    flusher = Flusher()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert flusher.stopped
    async with tcp_pair() as tcp:
        ours, theirs = tcp if pair is None else pair()
        stream = BufferedStream(ours, flusher)
        stream.write(b"goodbye")
        await stream.aclose()
        assert await theirs.receive_some() == b"goodbye"


@pytest.mark.parametrize("pair", [memory_stream_pair, None])
async def test_aclose_sends_the_rest_when_the_flusher_stops_meanwhile(
    autojump_clock: MockClock,
    pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] | None,
) -> None:
    """As where both are cancelled at once, which is how a server ends."""
    flusher = Flusher()
    async with tcp_pair() as tcp, trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        await wait_all_tasks_blocked()
        ours, theirs = tcp if pair is None else pair()
        stream = BufferedStream(ours, flusher)
        nursery.cancel_scope.cancel()
        stream.write(b"goodbye")
        begin = trio.current_time()
        await stream.aclose()
        assert trio.current_time() == begin
        with trio.CancelScope(shield=True):
            assert await theirs.receive_some() == b"goodbye"


async def test_drained_does_not_wait_for_a_flusher_that_has_stopped() -> None:
    flusher = Flusher()
    stream = BufferedStream(RecordingStream(), flusher)
    stream.write(b"x")

    async def wait() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await stream.drained()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await flusher.run()


async def test_aclose_is_bounded(flusher: Flusher, autojump_clock: MockClock) -> None:
    class StuckStream(RecordingStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep(math.inf)

    inner = StuckStream()
    stream = BufferedStream(inner, flusher)
    stream.write(b"x")
    begin = trio.current_time()
    await stream.aclose()
    assert trio.current_time() - begin <= 2
    assert inner.closed
    assert stream.broken


async def test_abort_wakes_who_receives(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            stream.abort()
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some()
        await stream.aclose()


async def test_abort_closes_a_generic_stream(flusher: Flusher) -> None:
    inner = RecordingStream()
    stream = BufferedStream(inner, flusher)
    await wait_all_tasks_blocked()  # the flusher runs
    stream.abort()
    await wait_all_tasks_blocked()
    assert inner.closed


async def test_being_cancelled_in_send_all_tears_nothing(flusher: Flusher) -> None:
    async with tcp_pair() as (ours, theirs):
        stream = BufferedStream(ours, flusher)
        big = 16 * MEGABYTE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, big)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        stream.write(b"end")
        assert await read_exactly(theirs, len(big) + 3) == big + b"end"


async def test_a_flusher_stopped_amid_a_message_breaks_its_stream() -> None:
    flusher = Flusher()
    async with tcp_pair() as (ours, _theirs), trio.open_nursery() as nursery:
        stream = BufferedStream(ours, flusher)
        nursery.start_soon(flusher.run)
        stream.write(16 * MEGABYTE)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        assert stream.broken
