"""The hub of our hub servers: methods of the .NET peer's ``Test``, and some that wait for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, Protocol

import attrs
import trio

from signalr_trio import ConnectionMigrationFeature, Hub, HubError, Identity, NegotiateRequest

__all__ = ["Host", "Note", "Test", "identify", "make_hub"]

#: Seconds for the result of a client.
PATIENCE = 30


@attrs.frozen
class Note:
    """Something that happened in the hub."""

    what: str
    connection_id: str
    value: Any = None


class Host(Protocol):
    """What the hub is run by, and tells what it does without a word to its clients."""

    @property
    def name(self) -> str: ...

    @property
    def gate(self) -> trio.Event:
        """Holds up the calls that wait at it."""
        ...

    def note(self, note: Note) -> None: ...


class Test(Hub):
    __test__ = False
    host: ClassVar[Host]

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

    async def slow(self, ms: int) -> int:
        await trio.sleep(ms / 1000)
        return ms

    async def number(self, n: int) -> int:
        """Notes ``n``: what reached the hub, in which order."""
        self._note("number", n)
        return n

    async def who_am_i(self) -> dict[str, Any]:
        return {
            "connectionId": self.context.connection_id,
            "userId": self.context.user_id,
            "serverName": self.host.name,
        }

    async def abort(self) -> None:
        self.context.abort()

    # -- streams

    async def count(self, n: int, delay_ms: int) -> AsyncIterator[int]:
        produced = 0
        try:
            for produced in range(1, n + 1):
                await trio.sleep(delay_ms / 1000)
                yield produced - 1
        finally:
            self._note("stream_end", {"method": "Count", "cancelled": produced < n})

    async def count_then_throw(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise HubError(f"thrown after {n}")

    async def sum(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async def concat_with(
        self, first: AsyncIterator[str], separator: str, second: AsyncIterator[str]
    ) -> str:
        one = [text async for text in first]
        two = [text async for text in second]
        return f"{','.join(one)}{separator}{','.join(two)}"

    async def echo_stream(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    # -- sends

    async def join(self, group: str) -> None:
        await self.groups.add_to_group(self.context.connection_id, group)

    async def leave(self, group: str) -> None:
        await self.groups.remove_from_group(self.context.connection_id, group)

    async def send_to(
        self, kind: str, keys: list[str], excluded: list[str], target: str, arguments: list[Any]
    ) -> None:
        clients = self.clients
        match kind:
            case "Caller":
                audience = clients.caller
            case "Others":
                audience = clients.others
            case "All":
                audience = clients.all
            case "AllExcept":
                audience = clients.all_except(excluded)
            case "Client":
                audience = clients.client(keys[0])
            case "Group":
                audience = clients.group(keys[0])
            case "OthersInGroup":
                audience = clients.others_in_group(keys[0])
            case "User":
                audience = clients.user(keys[0])
            case _:
                raise HubError(f"unknown kind: {kind}")
        await audience.send(target, *arguments)

    async def ask_caller(self, target: str, value: Any) -> Any:
        """A client result."""
        return await self.clients.caller.invoke(target, value, timeout=PATIENCE)

    async def ask_client(self, connection_id: str, target: str, value: Any) -> Any:
        return await self.clients.client(connection_id).invoke(target, value, timeout=PATIENCE)

    # -- calls that last until the test says so

    async def wait_at_gate(self, value: Any) -> Any:
        self._note("at gate")
        await self.host.gate.wait()
        return value

    # -- helpers

    def _migration(self) -> tuple[str, str] | None:
        feature = self.context.features.get(ConnectionMigrationFeature)
        return None if feature is None else (feature.migrate_from, feature.migrate_to)

    def _note(self, what: str, value: Any = None) -> None:
        self.host.note(Note(what, self.context.connection_id, value))


def make_hub(host: Host) -> type[Test]:
    """The hub of one server: it tells that one what it does."""
    return type("Test", (Test,), {"host": host})


def identify(request: NegotiateRequest) -> Identity:
    """The user is who the query says."""
    return Identity(request.param("user"))
