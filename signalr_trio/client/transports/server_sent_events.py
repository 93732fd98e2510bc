"""The client over server-sent events: one answer that goes on, and POSTs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

from signalr_trio.client.transports.posting import PostingTransport, opening
from signalr_trio.client.transports.transport import Target
from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol.server_sent_events import EventParser

__all__ = ["ServerSentEventsTransport", "open_server_sent_events"]

_CONNECT_TIMEOUT: Final = 15.0
_MEDIA_TYPE: Final = "text/event-stream"


class ServerSentEventsTransport(PostingTransport):
    """See :class:`Transport`. It carries text only."""

    name = "ServerSentEvents"
    inherent_keep_alive = False

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._parser = EventParser(target.max_message_size)

    async def open(self) -> None:
        """Ask for the events. Raises ConnectionClosed, ProtocolError."""
        headers = [("Accept", _MEDIA_TYPE), ("Cache-Control", "no-cache"), *self._headers]
        with trio.move_on_after(_CONNECT_TIMEOUT):
            response = await self._client.start("GET", self._target.url, headers=headers)
            if response.status != 200:
                raise ConnectionClosed(f"{self!r} was refused with status {response.status}")
            kind = (response.header("content-type") or "").partition(";")[0].strip().lower()
            if kind != _MEDIA_TYPE:
                raise ConnectionClosed(f"{self!r} answered with {kind or 'nothing'}, not events")
            return
        raise ConnectionClosed(f"{self!r} did not answer in {_CONNECT_TIMEOUT:g} s")

    async def _receive(self) -> bytes:
        data = await self._client.receive_some()
        if not data:
            raise ConnectionClosed("the server has ended the stream of events")
        # A part of an event is as good a sign of life as a whole one.
        return b"".join(self._parser.feed(data))

    async def _say_end(self) -> None:
        """The end of the request says it."""


@asynccontextmanager
async def open_server_sent_events(
    target: Target,
) -> AsyncGenerator[ServerSentEventsTransport, None]:
    """Open the stream of events. Leaving the block closes it.

    Raises:
        ConfigurationError: the URL or a header is none.
        ConnectionClosed: nobody answers, or not with events.
    """
    async with opening(ServerSentEventsTransport(target)) as transport:
        yield transport
