"""What a client posts, where the way back to it is another: a stream of bytes, with back-pressure."""

from __future__ import annotations

import trio

from signalr_trio.errors import ConnectionClosed

__all__ = ["Posted"]

#: A post is answered when no more than so many bytes wait to be received.
_LIMIT = 64 * 1024


class Posted:
    """Posts go in one after the other; one task receives."""

    __slots__ = ("_arrived", "_data", "_ended", "_posting", "_received")

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended: str | None = None
        self._posting = trio.Lock()
        self._arrived = trio.lowlevel.ParkingLot()
        self._received = trio.lowlevel.ParkingLot()

    def has_room(self, size: int) -> bool:
        """Whether ``post`` of so many bytes returns without waiting."""
        return not self._posting.locked() and len(self._data) + size <= _LIMIT

    @property
    def ended(self) -> bool:
        return self._ended is not None

    async def post(self, data: bytes) -> None:
        """Returns when there is room for more; behind the end nothing is kept."""
        async with self._posting:
            if self._ended is not None:
                return
            self._data += data
            self._arrived.unpark_all()
            while len(self._data) > _LIMIT and self._ended is None:
                await self._received.park()

    async def receive(self) -> bytes:
        """All that has come. Raises ConnectionClosed behind the last, when it was ended."""
        while not self._data:
            if self._ended is not None:
                raise ConnectionClosed(self._ended)
            await self._arrived.park()
        data = bytes(self._data)
        self._data.clear()
        self._received.unpark_all()
        return data

    def end(self, reason: str) -> None:
        """Nothing comes any more, for this reason; said again it changes nothing."""
        if self._ended is None:
            self._ended = reason
        self._arrived.unpark_all()
        self._received.unpark_all()
