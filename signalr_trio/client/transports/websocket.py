"""The client over a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from signalr_trio.client.transports.transport import Target
from signalr_trio.transport.websocket import WebSocket, connect_websocket

__all__ = ["WebSocketTransport", "open_websocket"]

_LOST: Final = 1006


class WebSocketTransport:
    """See :class:`Transport`."""

    name = "WebSockets"
    inherent_keep_alive = False

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    @property
    def buffered(self) -> int:
        return self._websocket.buffered

    @property
    def lost(self) -> bool:
        """The connection ended without a close frame."""
        return self._websocket.code == _LOST

    def send(self, payload: bytes, *, text: bool = False) -> None:
        self._websocket.send(payload, text=text)

    def receive(self) -> Awaitable[bytes]:
        return self._websocket.receive()

    async def drained(self, limit: int = 0) -> None:
        await self._websocket.drained(limit)

    def abort(self) -> None:
        self._websocket.abort()


@asynccontextmanager
async def open_websocket(target: Target) -> AsyncGenerator[WebSocketTransport, None]:
    """Open a WebSocket. Leaving the block closes it. Raises as ``connect_websocket``."""
    async with connect_websocket(
        target.url,
        flusher=target.flusher,
        headers=target.headers,
        max_message_size=target.max_message_size,
        network=target.network,
        ssl_context=target.ssl_context,
    ) as websocket:
        yield WebSocketTransport(websocket)
