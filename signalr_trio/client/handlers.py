"""The handlers that an application registers, and how they are run.

A handler is any callable; where it gives back an awaitable, that is awaited. One that raises is
logged and does no harm to the connection or to the other handlers.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

import attrs
import trio

from signalr_trio.client.conversion import ValueConverter
from signalr_trio.protocol.messages import Completion, Invocation
from signalr_trio.texts import error_text

__all__ = ["Handler", "Handlers", "Mailbox", "Subscription", "call"]

Handler: TypeAlias = Callable[..., Any]
T = TypeVar("T")

_logger = logging.getLogger("signalr_trio.client")

# The texts of the official JavaScript client.
_NO_RESULT = "Client didn't provide a result."
_SEVERAL_RESULTS = "Client provided multiple results."


async def call(handler: Handler, *arguments: object) -> object:
    """Call a handler, and await what it gives back if that can be awaited."""
    result = handler(*arguments)
    if result is not None and inspect.isawaitable(result):
        return cast("object", await result)
    return result


@attrs.define(eq=False)
class Subscription:
    """One handler's registration."""

    _remove: Callable[[], None] = attrs.field(alias="remove")

    def remove(self) -> None:
        """Take the handler out again; more than once is fine."""
        remove, self._remove = self._remove, _nothing
        remove()


def _nothing() -> None:
    pass


@attrs.frozen(eq=False)
class _Registered:
    handler: Handler
    convert: tuple[Callable[[object], object], ...]

    async def __call__(self, arguments: Sequence[object]) -> object:
        if self.convert:
            given = [to(value) for to, value in zip(self.convert, arguments, strict=False)]
            return await call(self.handler, *given, *arguments[len(self.convert) :])
        return await call(self.handler, *arguments)


class Handlers:
    """Handlers by target; names match without regard to case, as in the official clients."""

    def __init__(self, converter: ValueConverter) -> None:
        self._converter = converter
        # Tuples, replaced at each change: a handler may remove itself while they are gone through.
        self._by_target: dict[str, tuple[_Registered, ...]] = {}

    def add(self, target: str, handler: Handler, types: Sequence[type[Any]]) -> Subscription:
        """Register ``handler``; its arguments are converted to ``types``, one by one."""
        key = target.lower()
        registered = _Registered(handler, tuple(self._converter.to(kind) for kind in types))
        self._by_target[key] = (*self._by_target.get(key, ()), registered)

        def remove() -> None:
            others = tuple(one for one in self._by_target[key] if one is not registered)
            if others:
                self._by_target[key] = others
            else:
                del self._by_target[key]

        return Subscription(remove)

    async def handle(self, invocation: Invocation) -> None:
        """Run the handlers of an invocation that wants no answer, one after the other."""
        handlers = self._by_target.get(invocation.target.lower(), ())
        if not handlers:
            _logger.debug("no handler for %r", invocation.target)
        for handler in handlers:
            try:
                await handler(invocation.arguments)
            except Exception:
                _logger.exception("a handler of %r has failed", invocation.target)

    async def answer(self, invocation: Invocation) -> Completion:
        """Run the handlers of an invocation that wants a result.

        The result is that of the one handler that gives back something else than None; if there
        is none it is None. The last handler counts where it raises.
        """
        handlers = self._by_target.get(invocation.target.lower(), ())
        error = None if handlers else _NO_RESULT
        results: list[object] = []
        for handler in handlers:
            error = None
            try:
                result = await handler(invocation.arguments)
            except Exception as raised:
                _logger.exception("a handler of %r has failed", invocation.target)
                error = error_text(raised) or type(raised).__name__
            else:
                if result is not None:
                    results.append(result)
        call_id = cast("str", invocation.invocation_id)
        if len(results) > 1:
            return Completion(call_id, error=_SEVERAL_RESULTS)
        if error is not None:
            return Completion(call_id, error=error)
        return Completion(call_id, results[0] if results else None)


class Mailbox(Generic[T]):
    """A queue, without bound, in front of one task.

    Without bound, because the reader that fills it must not wait for a handler: that handler may
    wait for what the reader reads next.
    """

    __slots__ = ("_closed", "_consume", "_items", "_wake")

    def __init__(self, consume: Callable[[T], Awaitable[None]]) -> None:
        self._consume = consume
        self._items: deque[T] = deque()
        self._wake = trio.Event()
        self._closed = False

    def put(self, item: T) -> None:
        self._items.append(item)
        self._wake.set()

    def close(self) -> None:
        """Nothing more will be put in."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Consume, in order, until closed and empty."""
        while True:
            while self._items:
                await self._consume(self._items.popleft())
            if self._closed:
                return
            self._wake = trio.Event()
            await self._wake.wait()
