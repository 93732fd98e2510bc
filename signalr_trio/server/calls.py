"""The calls of one client: what waits, what runs, and how each of them ends.

Plain invocations run one after the other (or as many side by side as the options say); streams
and methods that take an upload run beside them. Every invocation with an id gets exactly one
completion. Texts are those of ASP.NET Core SignalR, which clients know.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from contextvars import ContextVar
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

__all__ = ["IN_CALL", "Calls"]

log = logging.getLogger("signalr_trio.server")

#: Whether the current task is inside a method of a hub, or a shutdown hook.
IN_CALL: ContextVar[bool] = ContextVar("signalr_trio_in_call", default=False)

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


@attrs.define(eq=False)
class Call:
    """An invocation that was bound to its method."""

    target: str
    invocation_id: str | None
    method: HubMethod
    arguments: list[Any]
    uploads: dict[str, Upload]
    size: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    cut: str | None = None
    """Why a stream was cut short, if the client is to be told."""

    @property
    def is_free(self) -> bool:
        """Whether it runs beside the plain invocations."""
        return self.method.streams or bool(self.uploads)


class Calls:
    """The calls of one client. Only ``run`` waits."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._waiting: deque[Call] = deque()
        self._news = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._uploads: dict[str, Upload] = {}
        self._streams: dict[str, Call] = {}
        self._over = False
        self.waiting_size = 0
        """Bytes of calls that wait, and of items that their methods have not taken."""
        self.unread_size = 0
        """Bytes of these items alone."""

    # -- the tasks --------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs calls until there are no more, and those that began have ended.

        Cancelled, each call that has not ended gets an error completion.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    for _ in range(self._client.hub.options.max_parallel_invocations - 1):
                        nursery.start_soon(self._work)
                    await self._work()
                finally:
                    # Cancelled: no call begins in a nursery that may be closed by then.
                    self._over = True
        finally:
            self._nursery = None
            self.fail_waiting()

    async def _work(self) -> None:
        """Takes up calls in order; as many of these run as plain invocations may."""
        while True:
            self._start_free_calls()
            if self._waiting:
                call = self._next()
                self._start_free_calls()
                await self._invoke(call)
            elif self._over:
                return
            else:
                await self._news.park()

    def _next(self) -> Call:
        call = self._waiting.popleft()
        self._shrink(call.size)
        return call

    def _start_free_calls(self) -> None:
        """What has come to the head of the line and need not wait for a place."""
        while self._nursery is not None and self._waiting and self._waiting[0].is_free:
            self._nursery.start_soon(self._run_free, self._next())

    async def _run_free(self, call: Call) -> None:
        IN_CALL.set(True)
        await (self._stream(call) if call.method.streams else self._invoke(call))

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

    async def _stream(self, call: Call) -> None:
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
        if self._over:
            if message.invocation_id:
                self._client.send(Completion(message.invocation_id, error=_TIME_IS_UP))
            return
        try:
            call = self._bind(message, size)
        except HubError as error:
            if message.invocation_id:
                self._client.send(Completion(message.invocation_id, error=str(error)))
            return
        if call.method.streams and call.invocation_id is not None:
            self._streams[call.invocation_id] = call
        self._uploads |= call.uploads
        if self._nursery is not None and call.is_free and not self._waiting:
            self._nursery.start_soon(self._run_free, call)
            return
        self._waiting.append(call)
        self.waiting_size += size
        self._news.unpark()

    def _bind(self, message: Invocation | StreamInvocation, size: int) -> Call:
        """Raises HubError with the text for the client."""
        target = message.target
        failed = f"Failed to invoke '{target}' due to an error on the server."
        method = self._client.hub.methods.get(wire_name(target))
        if method is None:
            raise HubError(f"{failed} HubException: Method does not exist.")
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
        uploads = self._open_uploads(method, message)
        try:
            arguments = method.bind(message.arguments, list(uploads.values()))
        except BindingError as error:
            # What is wrong with a call is the caller's to know; it tells nothing of the server.
            raise HubError(f"{failed} {error}") from error
        return Call(target, message.invocation_id, method, arguments, uploads, size)

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

    def end_input(self) -> None:
        """Nothing comes after what is in line."""
        self._over = True
        self._news.unpark_all()

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
        for stream_id, upload in call.uploads.items():
            upload.discard()
            if self._uploads.get(stream_id) is upload:
                del self._uploads[stream_id]

    def _item_taken(self, size: int) -> None:
        self.unread_size -= size
        self._shrink(size)

    def _shrink(self, size: int) -> None:
        self.waiting_size -= size
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
