"""Long polling: the client asks again and again what there is for it, and posts what it sends.

TransportProtocols.md, "Long Polling (Server -> Client Only)"; where that leaves room, or ASP.NET Core
SignalR does otherwise, as ASP.NET Core SignalR.
"""

from __future__ import annotations

from collections.abc import Awaitable
from enum import Enum

import trio

from signalr_trio.transport.client_transport import ClientTransport
from signalr_trio.transport.posted import Posted

__all__ = ["LongPollingTransport", "Nothing"]

#: Without a poll for so long, a client is gone.
_UNPOLLED = 15.0
#: For the client to come for the last messages, and once more to be told of the end.
_CLOSE_TIMEOUT = 5.0


class Nothing(Enum):
    """Why a poll brings no messages."""

    IN_TIME = "there were none in time"
    ENDED = "there will be none any more"
    SUPERSEDED = "a later poll gets them"


class LongPollingTransport(ClientTransport):
    """A client that polls."""

    name = "LongPolling"
    inherent_keep_alive = True

    __slots__ = (
        "_ended",
        "_hurries",
        "_latest",
        "_news",
        "_outbox",
        "_over",
        "_patience",
        "_posted",
        "_since",
        "binary",
    )

    def __init__(self, posted: Posted, patience: float | None = None) -> None:
        """``patience``: a client that does not poll for so many seconds is gone (15)."""
        self.binary = False
        self._posted = posted
        self._patience = patience or _UNPOLLED
        self._outbox = bytearray()
        self._ended = False
        self._hurries = False
        self._over = trio.Event()
        self._news = trio.lowlevel.ParkingLot()
        self._latest = 0
        self._since: float | None = trio.current_time()
        """Since when nobody polls; None while a poll waits."""

    @property
    def buffered(self) -> int:
        return len(self._outbox)

    @property
    def lost(self) -> bool:
        return self._posted.ended

    def send(self, payload: bytes) -> None:
        if not self._ended:
            self._outbox += payload
            self._news.unpark_all()

    def receive(self) -> Awaitable[bytes]:
        return self._posted.receive()

    async def poll(self, timeout: float) -> bytes | Nothing:
        """All messages that there are; waits for the first, but no longer than ``timeout`` seconds.

        Being cancelled loses nothing.
        """
        self._latest = number = self._latest + 1
        self._since = None
        self._news.unpark_all()
        try:
            with trio.move_on_after(timeout):
                while not self._outbox and not self._ended and number == self._latest:
                    await self._news.park()
            return self._taken() if number == self._latest else Nothing.SUPERSEDED
        finally:
            if number == self._latest:
                self._since = trio.current_time()

    def _taken(self) -> bytes | Nothing:
        if self._outbox:
            messages = bytes(self._outbox)
            self._outbox.clear()
            self._look_whether_over()
            return messages
        if not self._ended:
            return Nothing.IN_TIME
        self._over.set()
        return Nothing.ENDED

    def tick(self, now: float) -> None:
        if self._since is not None and now - self._since > self._patience:
            self._posted.end("the client polls no more")
            self._over.set()

    async def aclose(self) -> None:
        self._ended = True
        self._posted.end("the connection was closed")
        self._news.unpark_all()
        self._look_whether_over()
        with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            await self._over.wait()

    def hurry(self) -> None:
        self._hurries = True
        self._look_whether_over()

    def deleted(self) -> None:
        """Nobody polls any more, but for a poll that waits."""
        if self._since is None:
            self.hurry()
        else:
            self.abort()

    def _look_whether_over(self) -> None:
        """Who may come for another poll is told there that all is over, if there is time."""
        if self._ended and self._hurries and not self._outbox:
            self._over.set()

    def abort(self) -> None:
        self._outbox.clear()
        self._over.set()
