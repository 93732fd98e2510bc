"""The streams that a call uploads: async iterables among its arguments."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Protocol, cast

import trio

from signalr_trio.protocol.messages import Completion, HubMessage, StreamItem
from signalr_trio.texts import error_text

__all__ = ["Sender", "Uploads", "split_streams"]

# The texts of the official .NET client.
_CANCELED = "Stream canceled by client."
_ERRORED = "Stream errored by client: '{}'"


class Sender(Protocol):
    """Where the items go."""

    def write(self, message: HubMessage) -> None:
        """Send without waiting. Raises TypeError or ValueError for a value that cannot be sent."""
        ...

    async def pace(self) -> None:
        """Wait while too much is buffered. Raises ConnectionClosed."""
        ...


def split_streams(
    arguments: Sequence[object], next_id: Callable[[], str]
) -> tuple[Sequence[object], dict[str, AsyncIterable[object]]]:
    """The plain arguments, and the async iterables among them by a new id each."""
    if not any(hasattr(argument, "__aiter__") for argument in arguments):
        return arguments, {}
    plain: list[object] = []
    streams: dict[str, AsyncIterable[object]] = {}
    for argument in arguments:
        if hasattr(argument, "__aiter__"):
            streams[next_id()] = cast("AsyncIterable[object]", argument)
        else:
            plain.append(argument)
    return plain, streams


class Uploads:
    """Uploads the streams of one call, each in a task of its own.

    Where an iterable raises, or gives an item that cannot be sent, the server is told that its
    stream has failed, the call's other streams are cancelled, and ``on_error`` gets the error.
    """

    def __init__(
        self,
        sender: Sender,
        streams: Mapping[str, AsyncIterable[object]],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._sender = sender
        self._streams = streams
        self._on_error = on_error
        self._scope = trio.CancelScope()

    def cancel(self) -> None:
        """The call is over: streams that have not ended are cancelled, and the server is told."""
        self._scope.cancel()

    async def run(self) -> None:
        """Upload until all streams have ended. Raises nothing but Cancelled."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for stream_id, items in self._streams.items():
                    nursery.start_soon(self._upload, stream_id, items)

    async def _upload(self, stream_id: str, items: AsyncIterable[object]) -> None:
        end = Completion(stream_id, error=_CANCELED)
        try:
            await self._send_items(stream_id, items)
            end = Completion(stream_id)
        except Exception as error:
            end = Completion(stream_id, error=_ERRORED.format(error_text(error)))
            self._on_error(error)
            self._scope.cancel()
        finally:
            self._sender.write(end)

    async def _send_items(self, stream_id: str, items: AsyncIterable[object]) -> None:
        try:
            async for item in items:
                self._sender.write(StreamItem(stream_id, item))
                await self._sender.pace()
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                # A generator left as it stands would be finished at some time, by the collector.
                await close()
