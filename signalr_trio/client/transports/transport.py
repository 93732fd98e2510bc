"""What a session needs of a transport, and what a transport is opened with."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from typing import Protocol

import attrs

from signalr_trio.transport.network import Network
from signalr_trio.transport.stream import Flusher

__all__ = ["Target", "Transport"]


class Transport(Protocol):
    """A stream of bytes to and from a hub, of whole hub messages in what is sent.

    Whoever opens a transport closes it, by leaving its block: what was sent still leaves, in
    bounded time.
    """

    @property
    def name(self) -> str:
        """As in TransportProtocols.md."""
        ...

    @property
    def inherent_keep_alive(self) -> bool:
        """The transport itself tells either side that the other lives: no pings, no time-outs."""
        ...

    @property
    def buffered(self) -> int:
        """Bytes that wait to be sent."""
        ...

    def send(self, payload: bytes, *, text: bool = False) -> None:
        """Send whole hub messages. Never waits; does nothing once the connection is lost."""
        ...

    def receive(self) -> Awaitable[bytes]:
        """What comes next; may be empty, which is a sign of life. Raises ConnectionClosed."""
        ...

    async def drained(self, limit: int = 0) -> None:
        """Wait until at most ``limit`` bytes are buffered. Raises ConnectionClosed."""
        ...

    def abort(self) -> None:
        """Give up what is buffered: closing then waits for nothing."""
        ...


@attrs.frozen
class Target:
    """Where and how to open a transport. ``url`` has the id, ``headers`` the token: secrets."""

    url: str = attrs.field(repr=False)
    headers: list[tuple[str, str]] = attrs.field(repr=False)
    binary: bool
    """Whether hub messages are binary."""
    max_message_size: int | None
    """Bytes that are received at once: a WebSocket message, an event, the answer to a poll."""
    flusher: Flusher
    network: Network
    ssl_context: ssl.SSLContext | None
