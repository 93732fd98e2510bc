"""Streams that are written to without waiting, and the one task that sends for all of them.

A sender appends bytes to its stream and goes on; at the next scheduler tick the flusher hands
all that has gathered to the kernel in one system call per stream. One flusher for many streams,
because a task for each costs a fifth of the throughput, and memory on idle connections.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio

__all__ = ["SEND_LIMIT", "BufferedStream", "Flusher"]

#: ``send_all`` returns once no more than this many bytes are buffered.
SEND_LIMIT = 64 * 1024
#: How long ``aclose`` goes on sending what is buffered, in seconds.
FLUSH_TIMEOUT = 1.0
_RECEIVE_SIZE = 64 * 1024
# l_onoff and l_linger: close() resets the connection and frees what the kernel still holds.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Flusher:
    """Sends what its streams have buffered.

    ``run`` belongs in a nursery that outlives every stream made with this flusher: a stream
    that is closed after its flusher has stopped still sends its rest by itself, other streams
    are stuck.
    """

    __slots__ = ("_dirty", "_early", "_nursery", "_sleeper", "stopped")

    def __init__(self) -> None:
        self._dirty: list[BufferedStream] = []
        self._sleeper: trio.lowlevel.Task | None = None
        self._nursery: trio.Nursery | None = None
        self._early: list[Callable[[], Awaitable[object]]] = []  # tasks to be, before ``run``
        #: ``run`` has ended.
        self.stopped = False

    async def run(self) -> None:
        """Send until cancelled. One call at a time."""
        if self._nursery is not None or self.stopped:
            raise RuntimeError("this flusher runs, or has run, already")
        try:
            async with trio.open_nursery() as self._nursery:
                for function in self._early:
                    self._nursery.start_soon(function)
                self._early.clear()
                while True:
                    if not self._dirty:
                        await self._sleep()
                    # In a call of its own: a variable here would keep the last stream while idle.
                    self._flush_dirty(self._nursery)
        finally:
            self.stopped = True
            self._nursery = None
            for stream in self._dirty:
                stream._wake()  # pyright: ignore[reportPrivateUsage]
            self._dirty.clear()

    def _flush_dirty(self, nursery: trio.Nursery) -> None:
        dirty, self._dirty = self._dirty, []
        for stream in dirty:
            stream._flush(nursery)  # pyright: ignore[reportPrivateUsage]

    def add(self, stream: BufferedStream) -> None:
        """Called by a stream that has something to send and is not on the list yet."""
        if self.stopped:
            return
        self._dirty.append(stream)
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> bool:
        """Run a task of one of the streams beside ``run``; False once that has ended."""
        if self._nursery is not None:
            self._nursery.start_soon(function)
        elif not self.stopped:
            self._early.append(function)
        return not self.stopped

    async def _sleep(self) -> None:
        self._sleeper = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class BufferedStream(trio.abc.Stream):
    """A stream that is written to without waiting.

    Sockets are read and written by system calls of our own, any other stream by its methods. The
    inner stream is closed here only: else its file number might by then be another connection's.
    """

    __slots__ = (
        "_chunks",
        "_closed",
        "_fileno",
        "_may_have_more",
        "_progress",
        "_queued",
        "_received",
        "_socket",
        "before_flush",
        "broken",
        "buffered",
        "flusher",
        "inner",
    )

    def __init__(self, inner: trio.abc.Stream, flusher: Flusher) -> None:
        self.inner = inner
        #: Bytes that the kernel (or the inner stream) has not been given yet.
        self.buffered = 0
        #: The other side is gone, or ``abort`` was called: what is written goes nowhere.
        self.broken = False
        self.flusher = flusher
        #: Called when what is buffered is about to leave, and ``wake`` was; may write more.
        self.before_flush: Callable[[], None] | None = None
        self._received = b""
        self._socket = _socket_of(inner)
        self._fileno = -1 if self._socket is None else self._socket.fileno()  # until closed
        self._chunks: list[bytes] = []
        self._queued = False  # the flusher knows of us
        self._closed = False
        self._progress: trio.Event | None = None
        self._may_have_more = False

    def unread(self, data: bytes) -> None:
        """Receive ``data`` (again) before what comes next."""
        self._received = data

    def write(self, data: bytes) -> int:
        """Buffer ``data``; it leaves at the next scheduler tick. Never blocks, never raises.

        Returns ``buffered``.
        """
        if self.broken or self._closed:
            return 0
        self._chunks.append(data)
        self.buffered += len(data)
        if not self._queued:
            self._queued = True
            self.flusher.add(self)
        return self.buffered

    def wake(self) -> None:
        """Have the flusher come by at the next scheduler tick."""
        if not self._queued:
            self._queued = True
            self.flusher.add(self)

    async def drained(self, limit: int = 0) -> None:
        """Wait until at most ``limit`` bytes are buffered. Always a checkpoint.

        Raises:
            trio.BrokenResourceError: the other side is gone, or nobody sends any more.
            trio.ClosedResourceError: this side closed the stream.
        """
        await trio.lowlevel.checkpoint()
        while self.buffered > limit and not self.broken:
            if self.flusher.stopped:
                raise trio.BrokenResourceError("the flusher of this stream has stopped")
            if self._progress is None:
                self._progress = trio.Event()
            await self._progress.wait()
        if self.broken:
            raise trio.BrokenResourceError("the other side is gone")
        if self._closed:
            raise trio.ClosedResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Buffer ``data`` and wait until at most SEND_LIMIT bytes are left.

        Unlike with other streams, being cancelled does not tear it: all of ``data`` goes out.
        """
        self.write(bytes(data))
        await self.drained(SEND_LIMIT)

    async def wait_send_all_might_not_block(self) -> None:
        await self.drained(SEND_LIMIT)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._received:
            await trio.lowlevel.checkpoint()
            size = len(self._received) if max_bytes is None else max_bytes
            data, self._received = self._received[:size], self._received[size:]
            return data
        if self._socket is None:
            return await self.inner.receive_some(max_bytes)
        size = max_bytes or _RECEIVE_SIZE
        # After a read that did not fill its buffer there is hardly ever more at once, so we
        # wait first: that saves the system call that would have said so.
        wait_first = not self._may_have_more
        if not wait_first:
            await trio.lowlevel.checkpoint()
        while True:
            # Looked at before waiting: trio's wait_readable takes -1 amiss.
            if self._fileno == -1:
                raise trio.ClosedResourceError
            if wait_first:
                await trio.lowlevel.wait_readable(self._fileno)
            try:
                data = os.read(self._fileno, size)
            except BlockingIOError:
                wait_first = True
            except OSError as error:
                raise trio.BrokenResourceError(f"the connection is lost: {error}") from error
            else:
                self._may_have_more = len(data) == size
                return data

    async def send_eof(self) -> bool:
        """Send what is buffered, then an end of file. False if ``inner`` cannot do that.

        Raises:
            trio.BrokenResourceError: the other side is gone.
        """
        await self.drained()
        if not isinstance(self.inner, trio.abc.HalfCloseableStream):
            return False
        await self.inner.send_eof()
        return True

    async def aclose(self) -> None:
        """Send what is buffered, for FLUSH_TIMEOUT seconds at the most, and close."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        # Said before the first await: from here on nothing can be written behind the end.
        self._closed = True
        if self.buffered:
            with trio.move_on_after(FLUSH_TIMEOUT, shield=True):
                await self._flush_rest()
            if self.buffered:
                self.abort()
        if self._socket is not None:
            self._close_socket(self._socket)
        else:
            with trio.move_on_after(FLUSH_TIMEOUT, shield=True):
                await self.inner.aclose()
        self._wake()

    def abort(self) -> None:
        """Give up what is buffered and close the connection at once; TCP sends a reset."""
        self._break()
        if self._socket is None:
            # It has no way to be closed without waiting.
            self.flusher.start_soon(partial(trio.aclose_forcefully, self.inner))
        elif self._fileno != -1:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._close_socket(self._socket)

    def _close_socket(self, sink: trio.socket.SocketType) -> None:
        self._fileno = -1
        sink.close()

    def _flush(self, nursery: trio.Nursery) -> None:
        data = self._take()
        if not data:
            self._queued = False
        elif self._socket is None:
            nursery.start_soon(self._send_by_inner, data)
        elif rest := self._write_some(data):
            nursery.start_soon(self._send_when_writable, rest)
        else:
            self._queued = False

    def _take(self) -> bytes:
        """All that is to leave now; empty: nothing."""
        if self.before_flush is not None:
            self.before_flush()
        chunks = self._chunks
        if len(chunks) == 1:
            return chunks.pop()
        data = b"".join(chunks)
        chunks.clear()
        return data

    def _write_some(self, data: bytes) -> bytes | None:
        """Hand ``data`` to the kernel; returns what it did not take."""
        try:
            sent = os.write(self._fileno, data)
        except BlockingIOError:
            return data
        except OSError:
            self._break()
            return None
        self.buffered -= sent
        if self._progress is not None:
            self._wake()
        return data[sent:] if sent < len(data) else None

    async def _send_when_writable(self, rest: bytes) -> None:
        try:
            left: bytes | None = rest
            while left and self._fileno != -1:
                await trio.lowlevel.wait_writable(self._fileno)
                left = self._write_some(left) or self._take()
        except (trio.ClosedResourceError, OSError):
            self._break()
        finally:
            self._end_of_task()

    async def _send_by_inner(self, data: bytes) -> None:
        try:
            while data:
                await self.inner.send_all(data)
                # A break meanwhile has set it to 0 already.
                self.buffered = max(0, self.buffered - len(data))
                self._wake()
                data = self._take()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self._break()
        finally:
            self._end_of_task()

    def _end_of_task(self) -> None:
        self._queued = False
        if self.buffered:
            # Cancelled amid the bytes of some frame; what could follow would make no sense.
            self._break()

    async def _flush_rest(self) -> None:
        while self.buffered and not self.broken and not self.flusher.stopped:
            if self._progress is None:
                self._progress = trio.Event()
            await self._progress.wait()
        # Left over by a flusher that has stopped, also while we waited for it.
        if data := self._take():
            await self._send_by_inner(data)

    def _break(self) -> None:
        self.broken = True
        self._chunks = []
        self.buffered = 0
        self._wake()

    def _wake(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None


def _socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    # Elsewhere than on POSIX, sockets are not files that os.read and os.write know.
    if isinstance(stream, trio.SocketStream) and sys.platform != "win32":
        return stream.socket
    return None
