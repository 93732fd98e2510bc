"""A link inside one process: message objects, no bytes, no copies."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.link.link import Agreement
from signalr_trio.protocol.service_messages import ConnectionData, ServiceMessage

__all__ = ["MemoryLink", "memory_link_pair"]

_OVERHEAD = 40


class MemoryLink:
    """One end; what it sends waits in the other end's ``_inbox``."""

    def __init__(self, agreement: Agreement | None) -> None:
        self.agreement = agreement
        self._inbox: deque[ServiceMessage] = deque()
        self._inbox_size = 0
        self._arrived = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()
        self._ended = False
        self._peer: MemoryLink = self

    @property
    def buffered(self) -> int:
        return self._peer._inbox_size

    def send(self, message: ServiceMessage) -> None:
        peer = self._peer
        if not peer._ended:
            peer._inbox.append(message)
            peer._inbox_size += _size(message)
            if peer._arrived:
                peer._arrived.unpark_all()

    async def receive(self) -> Sequence[ServiceMessage]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._inbox:
            if self._ended:
                raise ConnectionClosed("the in-memory server connection was closed")
            await self._arrived.park()
        messages = list(self._inbox)
        self._inbox.clear()
        self._inbox_size = 0
        self._taken.unpark_all()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return messages

    async def drained(self, limit: int = 0) -> None:
        while self.buffered > limit and not self._ended:
            await self._peer._taken.park()

    async def aclose(self, code: int = 1000, reason: str = "", *, timeout: float = 5.0) -> None:
        # What was sent before stays readable at the other end, as on a socket.
        for end in (self, self._peer):
            end._ended = True
            end._arrived.unpark_all()
            end._taken.unpark_all()
        await trio.lowlevel.checkpoint_if_cancelled()


def _size(message: ServiceMessage) -> int:
    """About as many bytes as it would have on a wire: it is what pushes back."""
    if isinstance(message, ConnectionData):
        return len(message.payload) + _OVERHEAD
    payloads: dict[str, bytes] | None = getattr(message, "payloads", None)
    return _OVERHEAD + (sum(map(len, payloads.values())) if payloads else 0)


def memory_link_pair(agreement: Agreement | None) -> tuple[MemoryLink, MemoryLink]:
    """Two ends of one link."""
    one, other = MemoryLink(agreement), MemoryLink(agreement)
    one._peer, other._peer = other, one  # pyright: ignore[reportPrivateUsage]
    return one, other
