"""The calls of one client: what waits, what runs, and how each of them ends.

Plain invocations run one after the other (or as many side by side as the options say); streams
and methods that take an upload run beside them. Every invocation with an id gets exactly one
completion. Texts are those of ASP.NET Core SignalR, which clients know.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import trio

from signalr_trio.errors import HubError
from signalr_trio.protocol.messages import (
    Completion,
    Invocation,
    StreamInvocation,
    StreamItem,
)
from signalr_trio.server.application import split_errors
from signalr_trio.server.binding import BindingError, HubMethod, wire_name

if TYPE_CHECKING:
    from signalr_trio.server.client_connection import ClientConnection

__all__ = ["IN_CALL", "Calls", "give_up_place"]

log = logging.getLogger("signalr_trio.server")

#: Whether the current task is inside a method of a hub, or a shutdown hook.
IN_CALL: ContextVar[bool] = ContextVar("signalr_trio_in_call", default=False)

#: The plain call that the current task runs, or was started by; None in streams.
_CURRENT_CALL: ContextVar[Call | None] = ContextVar("signalr_trio_current_call", default=None)

_TIME_IS_UP = "The hub server is shutting down and this call did not end in time."


class Upload(AsyncIterator[Any]):
    """A stream from the client, as the hub method iterates over it."""

    def __init__(self, convert: Callable[[Any], Any], taken: Callable[[int], None]) -> None:
        self._convert = convert
        self._taken = taken
        self._items: deque[tuple[Any, int]] = deque()
        self._ended = False
        self._error: str | None = None
        self._news = trio.lowlevel.ParkingLot()

    def put(self, item: Any, size: int) -> None:
        if self._ended:
            self._taken(size)
            return
        self._items.append((item, size))
        self._news.unpark_all()

    def end(self, error: str | None = None) -> None:
        """No more items; with an error, the iteration raises it after those that have come."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._news.unpark_all()

    def discard(self) -> None:
        """The method is over: what it did not take counts no longer."""
        self._ended = True
        while self._items:
            self._taken(self._items.popleft()[1])

    async def __anext__(self) -> Any:
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise HubError(self._error)
                raise StopAsyncIteration
            await self._news.park()
        item, size = self._items.popleft()
        self._taken(size)
        try:
            return self._convert(item)
        except Exception as error:
            raise HubError("Failed to bind Stream message.") from error


_NO_UPLOADS: Mapping[str, Upload] = MappingProxyType({})


@attrs.define(eq=False)
class Call:
    """An invocation that was bound to its method."""

    target: str
    invocation_id: str | None
    method: HubMethod
    arguments: list[Any]
    uploads: Mapping[str, Upload]
    size: int
    is_free: bool
    """Whether it runs beside the plain invocations."""
    holder: Calls | None = None
    """Where it has a place among the plain invocations that run; None when it has none."""


@attrs.define(eq=False)
class Stream(Call):
    """A call of a method that streams to the client."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    cut: str | None = None
    """Why it was cut short, if the client is to be told."""


def give_up_place() -> None:
    """The current call is about to wait for a client: the next of its client may begin.

    As in ASP.NET Core: else a handler that calls the hub before it answers would wait for ever. A
    call gives up its place once, and goes on without one.
    """
    call = _CURRENT_CALL.get()
    if call is not None and call.holder is not None:
        holder, call.holder = call.holder, None
        holder.place_given_up()


class Calls:
    """The calls of one client."""

    __slots__ = (
        "_all_ended",
        "_beside",
        "_client",
        "_may_begin",
        "_places",
        "_relief",
        "_starting",
        "_streams",
        "_uploads",
        "_waiting",
        "_workers",
        "over",
        "unread_size",
        "waiting_size",
    )

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._waiting: deque[Call] | None = None
        self._may_begin = False
        self._places = client.hub.options.max_parallel_invocations - 1
        self._workers = 0
        """Tasks beside the client's own that run plain calls."""
        self._starting = 0
        """Those of them that have not looked for a call yet."""
        self._relief: trio.Event | None = None
        """Set when one of them ends or gives up its place, where the client's own task waits."""
        self._beside = 0
        """All tasks beside the client's own."""
        self._all_ended: trio.Event | None = None
        self._uploads: dict[str, Upload] = {}
        self._streams: dict[str, Stream] = {}
        self.over = False
        """Whether nothing comes after what is in line."""
        self.waiting_size = 0
        """Bytes of calls that wait, and of items that their methods have not taken."""
        self.unread_size = 0
        """Bytes of these items alone."""

    # -- the tasks --------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on calls may run."""
        self._may_begin = True
        self._begin_free()

    async def run(self) -> bool:
        """Runs plain calls in the client's own task. False when no more can come and the last has
        ended, but for those beside it; True when there is nothing to do, and maybe was not for a
        while: the task is to end, and the client is at rest."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._waiting and not self.over:
            self._client.at_work = False
            self._client.rest()
            return True
        await self._work()
        while not self.over:
            if not await self._client.hub.tasks.linger(self._client):
                return True
            await self._work()
        return False

    async def _work(self) -> None:
        """Runs what waits, in order, until nothing does."""
        while self._waiting:
            if self._workers > self._places:
                # A call that had given up its place is over: who took the place has it still.
                self._relief = trio.Event()
                await self._relief.wait()
            else:
                await self._work_once()

    async def _work_once(self) -> None:
        call = self._next()
        self._begin_free()
        if self._workers < self._places:
            self._begin_workers()
        call.holder = self
        _CURRENT_CALL.set(call)
        await self._invoke(call)
        self._leave_place(call)

    def _leave_place(self, call: Call) -> None:
        """The call is over; if it had given up its place, that is one too many now."""
        if call.holder is None:
            self._places -= 1
        call.holder = None

    def place_given_up(self) -> None:
        """One more plain call may run until the one that waits is over."""
        self._places += 1
        if self._relief is not None:
            self._relieve()
        else:
            self._begin_workers()

    def _relieve(self) -> None:
        """The client's own task may look again whether there is a place for it."""
        if self._relief is not None:
            self._relief.set()
            self._relief = None

    def _next(self) -> Call:
        assert self._waiting is not None
        call = self._waiting.popleft()
        self._shrink(call.size)
        return call

    def _begin_free(self) -> None:
        """Starts what has come to the head of the line and need not wait for a place."""
        while self._waiting and self._waiting[0].is_free:
            call = self._next()
            if isinstance(call, Stream):
                self._start_beside(self._stream, call)
            else:
                self._start_beside(self._invoke, call)

    def _begin_workers(self) -> None:
        """As many as may run plain calls beside the client's own task, and have one to run."""
        while (
            self._waiting and self._workers < self._places and self._starting < len(self._waiting)
        ):
            self._workers += 1
            self._starting += 1
            self._start_beside(self._work_beside)

    async def _work_beside(self) -> None:
        self._starting -= 1
        try:
            while self._waiting and self._workers <= self._places:
                await self._work_once()
        finally:
            self._workers -= 1
            self._relieve()

    def _start_beside(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        self._beside += 1
        self._client.hub.tasks.start(self._run_beside, work, *arguments)

    async def _run_beside(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            await work(*arguments)
        finally:
            self._beside -= 1
            if not self._beside and self._all_ended is not None:
                self._all_ended.set()

    async def end(self) -> None:
        """No call begins any more; returns when those that began have ended.

        Each that waited gets an error completion.
        """
        self.over = True
        self._may_begin = False
        self.fail_waiting()
        if self._beside:
            self._all_ended = trio.Event()
            with trio.CancelScope(shield=True):
                await self._all_ended.wait()

    async def _invoke(self, call: Call) -> None:
        try:
            hub = self._client.hub.make(self._client)
            result = await call.method.function(hub, *call.arguments)
            if call.invocation_id:
                self._client.send(Completion(call.invocation_id, result))
        except BaseException as raised:
            text = f"An unexpected error occurred invoking '{call.target}' on the server."
            self._raised(call, text, raised)
        finally:
            self._forget(call)

    async def _stream(self, call: Stream) -> None:
        try:
            hub = self._client.hub.make(self._client)
            with call.scope:
                async with aclosing(call.method.function(hub, *call.arguments)) as items:
                    async for item in items:
                        self._client.send(StreamItem(call.invocation_id or "", item))
                        await self._client.writable()
        except BaseException as raised:
            text = "An error occurred on the server while streaming results."
            self._raised(call, text, raised)
        else:
            if call.cut is not None:
                self._fail(call, call.cut)
            elif call.invocation_id is not None:
                self._client.send(Completion(call.invocation_id))
        finally:
            self._forget(call)

    # -- what arrives -----------------------------------------------------------------------

    def arrived(self, message: Invocation | StreamInvocation, size: int) -> None:
        """Binds an invocation and puts it in line; a call that cannot be is answered at once."""
        if self.over:
            if message.invocation_id:
                self._client.send(Completion(message.invocation_id, error=_TIME_IS_UP))
            return
        try:
            call = self._bind(message, size)
        except HubError as error:
            if message.invocation_id:
                self._client.send(Completion(message.invocation_id, error=str(error)))
            return
        if isinstance(call, Stream) and call.invocation_id is not None:
            self._streams[call.invocation_id] = call
        if call.uploads:
            self._uploads |= call.uploads
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(call)
        self.waiting_size += size
        if self._may_begin:
            self._begin_free()
            if self._waiting and not self._client.wake():
                self._begin_workers()

    def _bind(self, message: Invocation | StreamInvocation, size: int) -> Call:
        """Raises HubError with the text for the client."""
        target = message.target
        method = self._client.hub.methods.get(wire_name(target))
        if method is None:
            raise HubError(f"{_failed(target)} HubException: Method does not exist.")
        is_stream = isinstance(message, StreamInvocation)
        if method.streams and not is_stream:
            raise HubError(
                f"The client attempted to invoke the streaming '{target}' method with a "
                "non-streaming invocation."
            )
        if is_stream and not method.streams:
            raise HubError(
                f"The client attempted to invoke the non-streaming '{target}' method with a "
                "streaming invocation."
            )
        if is_stream and message.invocation_id in self._streams:
            raise HubError(f"Invocation ID '{message.invocation_id}' is already in use.")
        uploads = _NO_UPLOADS
        if method.uploads or message.stream_ids:
            uploads = self._open_uploads(method, message)
        try:
            arguments = method.bind(message.arguments, tuple(uploads.values()))
        except BindingError as error:
            # What is wrong with a call is the caller's to know; it tells nothing of the server.
            raise HubError(f"{_failed(target)} {error}") from error
        kind = Stream if method.streams else Call
        is_free = method.streams or bool(uploads)
        return kind(target, message.invocation_id, method, arguments, uploads, size, is_free)

    def _open_uploads(
        self, method: HubMethod, message: Invocation | StreamInvocation
    ) -> dict[str, Upload]:
        expected = method.uploads
        if len(message.stream_ids) != len(expected):
            raise HubError(
                f"An unexpected error occurred invoking '{message.target}' on the server. "
                f"HubException: Client sent {len(message.stream_ids)} stream(s), "
                f"Hub method expects {len(expected)}."
            )
        if len(set(message.stream_ids)) < len(expected):
            raise HubError(
                f"An unexpected error occurred invoking '{message.target}' on the server. "
                "HubException: Client sent the same stream id twice."
            )
        pairs = zip(message.stream_ids, expected, strict=True)
        return {id: Upload(parameter.convert, self._item_taken) for id, parameter in pairs}

    def item(self, message: StreamItem, size: int) -> None:
        """An item of an upload; one that belongs to no call is ignored."""
        upload = self._uploads.get(message.invocation_id)
        if upload is not None:
            self.waiting_size += size
            self.unread_size += size
            upload.put(message.item, size)

    def upload_ended(self, message: Completion) -> None:
        upload = self._uploads.pop(message.invocation_id, None)
        if upload is not None:
            upload.end(message.error)

    def cancel(self, invocation_id: str) -> None:
        """The client wants no more of a stream."""
        call = self._streams.get(invocation_id)
        if call is not None:
            call.scope.cancel()

    # -- the end ----------------------------------------------------------------------------

    def rest(self) -> None:
        """Nothing waits, and an empty line is half a kilobyte."""
        self._waiting = None

    def input_lost(self, reason: str) -> None:
        """The client has gone: its uploads end, and nobody reads its streams."""
        for upload in self._uploads.values():
            upload.end(reason)
        for call in self._streams.values():
            call.scope.cancel()

    def hurry(self, reason: str) -> None:
        """Ends what waits for the client, or has no end of its own, with an error."""
        for call in self._streams.values():
            call.cut = reason
        self.input_lost(reason)
        self._client.hub.results.hurry(self._client, reason)

    def discard_waiting(self) -> None:
        """What has not begun never will, and nobody waits for it."""
        while self._waiting:
            self._drop(self._waiting.popleft())

    def fail_waiting(self) -> None:
        """What has not begun never will: each gets an error completion."""
        while self._waiting:
            call = self._waiting.popleft()
            self._fail(call, _TIME_IS_UP)
            self._drop(call)

    # -- helpers ----------------------------------------------------------------------------

    def _drop(self, call: Call) -> None:
        self._shrink(call.size)
        self._forget(call)

    def _forget(self, call: Call) -> None:
        if call.invocation_id is not None and self._streams.get(call.invocation_id) is call:
            del self._streams[call.invocation_id]
        if call.uploads:
            self._forget_uploads(call)

    def _forget_uploads(self, call: Call) -> None:
        for stream_id, upload in call.uploads.items():
            upload.discard()
            if self._uploads.get(stream_id) is upload:
                del self._uploads[stream_id]

    def _item_taken(self, size: int) -> None:
        self.unread_size -= size
        self._shrink(size)

    def _shrink(self, size: int) -> None:
        self.waiting_size -= size
        if self._client.pauses_asked:
            self._client.inbox_changed()

    def _raised(self, call: Call, text: str, raised: BaseException) -> None:
        """Completes a call that raised, and raises what is more than an error of its own."""
        error, rest = split_errors(raised)
        if error is not None:
            text = self._error_text(call, text, error)
        self._fail(call, text if rest is None else _TIME_IS_UP)
        if rest is not None:
            raise rest from None

    def _error_text(self, call: Call, text: str, error: Exception) -> str:
        if not isinstance(error, HubError):
            log.error(
                "%r: %s failed",
                self._client,
                call.target,
                exc_info=error,
                extra={"connection_id": self._client.id, "hub_method": call.target},
            )
        return self._client.hub.error_text(text, error)

    def _fail(self, call: Call, text: str) -> None:
        if call.invocation_id:
            self._client.send(Completion(call.invocation_id, error=text))


def _failed(target: str) -> str:
    return f"Failed to invoke '{target}' due to an error on the server."
