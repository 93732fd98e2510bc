"""A hub server of ours in the test's own process, and what its hub notes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from signalr_trio import GracefulShutdown, HubServer, serve
from tests.interop.hub import Note, identify, make_hub

__all__ = ["Backend", "backend"]

#: Seconds for something that is waited for.
PATIENCE = 30


class Backend:
    """A hub server, and what its hub notes."""

    def __init__(self, server: HubServer) -> None:
        self.server = server
        self.name = server.server_id
        self.port = 0
        self.gate = trio.Event()
        self.notes: list[Note] = []
        self._news = trio.lowlevel.ParkingLot()
        server.map(make_hub(self), "/test")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/test"

    def note(self, note: Note) -> None:
        self.notes.append(note)
        self._news.unpark_all()

    def noted(self, what: str, connection_id: str | None = None) -> list[Any]:
        """The values of all such notes, in order."""
        return [
            note.value
            for note in self.notes
            if note.what == what and connection_id in (None, note.connection_id)
        ]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._news.park()

    async def has_noted(self, what: str, connection_id: str | None = None, count: int = 1) -> None:
        await self.until(lambda: len(self.noted(what, connection_id)) >= count)


@asynccontextmanager
async def backend(
    connection_string: str | None = None,
    *,
    name: str = "python",
    shutdown: GracefulShutdown | None = None,
) -> AsyncIterator[Backend]:
    """Runs a hub server for the block, or until its shutdown is over."""
    running = Backend(HubServer(connection_string, server_id=name, shutdown=shutdown))
    async with trio.open_nursery() as nursery:
        running.port = await nursery.start(
            partial(serve, running.server, port=0, identify=identify, signals=False)
        )
        try:
            yield running
        finally:
            nursery.cancel_scope.cancel()
