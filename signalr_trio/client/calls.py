"""What waits for answers from the server: a result, or the items of a stream.

The session hands over what arrives, without waiting; the caller's task takes it from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import trio

from signalr_trio.errors import HubError
from signalr_trio.protocol.messages import NO_RESULT, Completion

__all__ = ["ItemStream", "PendingCall", "PendingResult"]

T = TypeVar("T")


class PendingCall(Protocol):
    """A call that the server has yet to complete."""

    def add_item(self, item: object) -> None: ...

    def complete(self, completion: Completion) -> None: ...

    def fail(self, error: Exception) -> None:
        """No completion will come, or it is of no interest any more."""
        ...


class PendingResult:
    """The result of an invocation."""

    __slots__ = ("_done", "_error", "_result")

    def __init__(self) -> None:
        self._done = trio.Event()
        self._error: Exception | None = None
        self._result: object = None

    def add_item(self, item: object) -> None:
        """Items belong to streams; the official clients ignore them here."""

    def complete(self, completion: Completion) -> None:
        if completion.error is not None:
            self._error = HubError(completion.error)
        elif completion.result is not NO_RESULT:
            self._result = completion.result
        self._done.set()

    def fail(self, error: Exception) -> None:
        if not self._done.is_set():
            self._error = error
            self._done.set()

    async def wait(self) -> object:
        """The result, None for a method without one. Raises HubError, or what ``fail`` was given."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class ItemStream(Generic[T]):
    """The items of a stream from the server, an async iterator.

    Iterating raises HubError where the stream has ended with an error, ConnectionClosed where
    the connection has, and ProtocolError for an item that cannot become what was asked for.
    What has arrived before is given out first.

    The queue has no bound, as in the official clients: to stop reading for its sake would hold
    up the completions that the task which iterates may be waiting for.
    """

    __slots__ = ("_convert", "_end", "_items", "_wake")

    def __init__(self, convert: Callable[[object], T]) -> None:
        self._convert = convert
        self._items: deque[object] = deque()
        self._end: Exception | type[StopAsyncIteration] | None = None
        self._wake: trio.Event | None = None

    @property
    def ended(self) -> bool:
        """The server has completed the stream, or it has failed."""
        return self._end is not None

    def add_item(self, item: object) -> None:
        self._items.append(item)
        self._wake_up()

    def complete(self, completion: Completion) -> None:
        error = completion.error
        self._finish(StopAsyncIteration if error is None else HubError(error))

    def fail(self, error: Exception) -> None:
        self._finish(error)

    def close(self) -> None:
        """Whoever still iterates gets trio.ClosedResourceError."""
        self._items.clear()
        self._end = trio.ClosedResourceError("the stream's block has been left")
        self._wake_up()

    def __aiter__(self) -> ItemStream[T]:
        return self

    async def __anext__(self) -> T:
        # Not a full checkpoint: what is queued is finite, and nothing comes in meanwhile.
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._items:
            if self._end is not None:
                raise self._end
            if self._wake is None:
                self._wake = trio.Event()
            await self._wake.wait()
        return self._convert(self._items.popleft())

    def _finish(self, end: Exception | type[StopAsyncIteration]) -> None:
        if self._end is None:
            self._end = end
            self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()
            self._wake = None
