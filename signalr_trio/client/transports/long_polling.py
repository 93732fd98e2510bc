"""The client over long polling: GETs that wait for messages, and POSTs."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

from signalr_trio.client.transports.posting import (
    CLOSE_TIMEOUT,
    REQUEST_TIMEOUT,
    PostingTransport,
    opening,
)
from signalr_trio.client.transports.transport import Target
from signalr_trio.errors import ConnectionClosed
from signalr_trio.transport.http import Response

__all__ = ["LongPollingTransport", "open_long_polling"]

_CONNECT_TIMEOUT: Final = 15.0


class LongPollingTransport(PostingTransport):
    """See :class:`Transport`. It is ``receive`` that polls; the server minds who does not."""

    name = "LongPolling"
    inherent_keep_alive = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._early = b""

    async def open(self) -> None:
        """The first poll, which is answered at once. Raises ConnectionClosed, ProtocolError."""
        response = await self._poll(_CONNECT_TIMEOUT)
        if response.status != 200:
            raise ConnectionClosed(f"{self!r} was refused with status {response.status}")
        self._early = response.body

    async def _receive(self) -> bytes:
        data, self._early = self._early, b""
        while not data:
            data = await self._poll_once()
        return data

    async def _poll_once(self) -> bytes:
        # A poll that a proxy has forgotten is made anew, as the official clients do.
        with trio.move_on_after(REQUEST_TIMEOUT):
            response = await self._poll(math.inf)
            if response.status == 200:
                return response.body
            if response.status == 204:
                raise ConnectionClosed("the server has ended the connection")
            raise ConnectionClosed(f"{self!r} answered a poll with status {response.status}")
        return b""

    async def _poll(self, timeout: float) -> Response:
        return await self._request(self._client, "GET", timeout=timeout)

    async def _say_end(self) -> None:
        await self._request(self._poster, "DELETE", timeout=CLOSE_TIMEOUT)


@asynccontextmanager
async def open_long_polling(target: Target) -> AsyncGenerator[LongPollingTransport, None]:
    """Poll for the first time. Leaving the block ends the connection on the server.

    Raises:
        ConfigurationError: the URL or a header is none.
        ConnectionClosed: nobody answers, or not with 200.
    """
    async with opening(LongPollingTransport(target)) as transport:
        yield transport
