"""The hubs of the .NET peer, in Python: the same names, the same answers."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import attrs
import trio

from signalr_trio import Hub, HubError

__all__ = ["Authorized", "Other", "Test"]


class Color(enum.Enum):
    Red = 0
    Green = 1
    Blue = 2


@attrs.define
class Address:
    street: str
    number: int


@attrs.define
class Person:
    name: str
    age: int
    height: float | None
    favourite: Color
    home: Address | None
    tags: list[str]


class Test(Hub):
    """/test"""

    __test__ = False
    background: ClassVar[trio.Nursery]

    # -- values

    async def echo(self, value: Any) -> Any:
        return value

    async def echo_string(self, value: str) -> str:
        return value

    async def echo_bytes(self, value: bytes) -> bytes:
        return value

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def void(self) -> None:
        pass

    async def large(self, length: int) -> str:
        return "x" * length

    async def date_echo(self, value: datetime.datetime) -> datetime.datetime:
        return value

    async def date_offset_echo(self, value: datetime.datetime) -> datetime.datetime:
        return value

    async def enum_echo(self, value: Color) -> Color:
        return value

    async def record_echo(self, value: Person) -> Person:
        return value

    async def guid_echo(self, value: uuid.UUID) -> uuid.UUID:
        return value

    async def double_echo(self, value: float) -> float:
        return value

    async def long_echo(self, value: int) -> int:
        return value

    async def bool_echo(self, value: bool) -> bool:
        return value

    async def default_argument(self, a: str, b: str = "default") -> str:
        return f"{a},{b}"

    async def renamed(self) -> str:
        return "renamed"

    # -- errors and time

    async def throw_hub(self, message: str) -> None:
        raise HubError(message)

    async def throw(self, message: str) -> None:
        raise ValueError(message)

    async def slow(self, ms: int) -> int:
        await trio.sleep(ms / 1000)
        return ms

    async def slow_then_send(self, ms: int, target: str) -> None:
        await trio.sleep(ms / 1000)
        await self.clients.caller.send(target, ms)

    # -- the connection

    async def abort(self) -> None:
        self.context.abort()

    async def abort_later(self, ms: int) -> None:
        self.background.start_soon(self._abort_after, ms / 1000)

    async def _abort_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.context.abort()

    async def user_only(self) -> str | None:
        if self.context.user_id is None:
            raise HubError("not a user")
        return self.context.user_id

    # -- streams to the client

    async def count(self, n: int, delay: int) -> AsyncIterator[int]:
        state = self._begin("Count")
        try:
            for i in range(n):
                if delay:
                    await trio.sleep(delay / 1000)
                state["produced"] += 1
                yield i
        except BaseException:
            state["cancelled"] = True
            raise
        finally:
            state["ended"] = True

    def _begin(self, method: str) -> dict[str, Any]:
        state = {"method": method, "produced": 0, "ended": False, "cancelled": False}
        self.context.items["stream"] = state
        return state

    async def count_then_throw(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise HubError(f"thrown after {n}")

    async def cancelled(self) -> dict[str, Any]:
        return self.context.items["stream"]

    # -- streams from the client

    async def sum(self, values: AsyncIterator[int]) -> int:
        return sum([value async for value in values])

    async def echo_stream(self, values: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for value in values:
            yield value

    async def concat(self, first: AsyncIterator[str], second: AsyncIterator[str]) -> str:
        return f"{await _collected(first)}|{await _collected(second)}"

    # -- client results and sends

    async def ask_caller(self, method: str, argument: Any) -> Any:
        return await self.clients.caller.invoke(method, argument)

    async def send_to(
        self, kind: str, keys: list[str], excludes: list[str] | None, target: str, args: list[Any]
    ) -> None:
        assert (kind, keys, excludes) == ("Caller", [], None)
        await self.clients.caller.send(target, *args)


async def _collected(values: AsyncIterator[str]) -> str:
    return ",".join([value async for value in values])


class Other(Hub):
    """/other"""

    async def ping(self) -> str:
        return "other"


class Authorized(Hub):
    """/authorized: a user is required, see ``servers.identify``."""
