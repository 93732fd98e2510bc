"""A hub server of ours, with a hub that has methods of the .NET peer's ``Test`` (``peers``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import attrs
import trio

from signalr_trio import (
    ConnectionMigrationFeature,
    GracefulShutdown,
    Hub,
    HubError,
    HubServer,
    Identity,
    NegotiateRequest,
    serve,
)

__all__ = ["Backend", "Note", "backend"]

#: Seconds for something that is waited for.
PATIENCE = 30


@attrs.frozen
class Note:
    """Something that happened in the hub."""

    what: str
    connection_id: str
    value: Any = None


class Test(Hub):
    """What it does without a word, it notes in its backend."""

    __test__ = False
    backend: ClassVar[Backend]

    async def on_connected(self) -> None:
        self._note("connected", self._migration())

    async def on_disconnected(self, error: Exception | None) -> None:
        self._note("disconnected", self._migration())

    async def echo(self, value: Any) -> Any:
        return value

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def void(self) -> None:
        pass

    async def throw_hub(self, text: str) -> None:
        raise HubError(text)

    async def throw(self, text: str) -> None:
        raise ValueError(text)

    async def number(self, n: int) -> int:
        """Notes ``n``: what reached the hub, in which order."""
        self._note("number", n)
        return n

    async def who_am_i(self) -> dict[str, Any]:
        return {
            "connectionId": self.context.connection_id,
            "userId": self.context.user_id,
            "serverName": self.backend.name,
        }

    async def abort(self) -> None:
        self.context.abort()

    # -- streams

    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def count_then_throw(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise HubError("counted")

    async def for_ever(self) -> AsyncIterator[int]:
        try:
            yield 0
            await trio.sleep_forever()
        finally:
            self._note("stream ended")

    async def sum(self, items: AsyncIterator[int]) -> int:
        self._note("sum")
        return sum([item async for item in items])

    async def concat_with(
        self, first: AsyncIterator[str], separator: str, second: AsyncIterator[str]
    ) -> str:
        texts = [one async for one in first] + [separator] + [two async for two in second]
        return "".join(texts)

    async def echo_stream(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    # -- sends

    async def join(self, group: str) -> None:
        await self.groups.add_to_group(self.context.connection_id, group)

    async def leave(self, group: str) -> None:
        await self.groups.remove_from_group(self.context.connection_id, group)

    async def tell_caller(self, *args: Any) -> None:
        await self.clients.caller.send("told", *args)

    async def tell_others(self, *args: Any) -> None:
        await self.clients.others.send("told", *args)

    async def tell_all(self, *args: Any) -> None:
        await self.clients.all.send("told", *args)

    async def tell_group(self, group: str, *args: Any) -> None:
        await self.clients.group(group).send("told", *args)

    async def tell_user(self, user: str, *args: Any) -> None:
        await self.clients.user(user).send("told", *args)

    async def tell_client(self, connection_id: str, *args: Any) -> None:
        await self.clients.client(connection_id).send("told", *args)

    async def ask(self, connection_id: str, target: str, value: Any) -> Any:
        """A client result."""
        return await self.clients.client(connection_id).invoke(target, value, timeout=PATIENCE)

    # -- calls that last until the test says so

    async def wait_at_gate(self, value: Any) -> Any:
        self._note("at gate")
        await self.backend.gate.wait()
        await self.clients.caller.send("told", "through")
        return value

    async def count_with_gate(self, n: int) -> AsyncIterator[int]:
        """From 0 to n-1; the gate is in the middle."""
        for i in range(n):
            if i == n // 2:
                self._note("at gate")
                await self.backend.gate.wait()
            yield i

    # -- helpers

    def _migration(self) -> tuple[str, str] | None:
        feature = self.context.features.get(ConnectionMigrationFeature)
        return None if feature is None else (feature.migrate_from, feature.migrate_to)

    def _note(self, what: str, value: Any = None) -> None:
        self.backend.note(Note(what, self.context.connection_id, value))


class Backend:
    """A hub server, and what its hub notes."""

    def __init__(self, server: HubServer) -> None:
        self.server = server
        self.name = server.server_id
        self.port = 0
        self.gate = trio.Event()
        """Holds up the calls that wait at it."""
        self.notes: list[Note] = []
        self._news = trio.lowlevel.ParkingLot()
        server.map(type("Test", (Test,), {"backend": self}), "/test")

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


def _identify(request: NegotiateRequest) -> Identity:
    return Identity(request.param("user"))


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
            partial(serve, running.server, port=0, identify=_identify, signals=False)
        )
        try:
            yield running
        finally:
            nursery.cancel_scope.cancel()
