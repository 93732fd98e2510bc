"""What a client is not sent while its service has paused it (message 39)."""

from __future__ import annotations

import trio

__all__ = ["Withheld"]


class Withheld:
    """Payloads in order. Calls that have an end may put in what they like; streams wait for room."""

    __slots__ = ("_over", "_payloads", "_size")

    def __init__(self) -> None:
        self._payloads: list[bytes] = []
        self._size = 0
        self._over = trio.Event()

    def put(self, payload: bytes) -> None:
        self._payloads.append(payload)
        self._size += len(payload)

    async def room(self, limit: int) -> None:
        """Waits for the end of the pause where more than ``limit`` bytes are in it."""
        if self._size > limit:
            await self._over.wait()

    def end(self) -> list[bytes]:
        """The pause is over: what is to be sent now."""
        self._over.set()
        return self._payloads
