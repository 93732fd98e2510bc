"""P10, while all goes on: what a client leaves behind when it has gone is nothing.

Real clients on real hub servers and a real service, on a network in memory. A first round of clients
makes what is made once; after the second everything has to be as it was before: each object of the
product, each task, and no name of a client, user or group anywhere in the service or a server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from harness.house import ENDPOINT, LONG, MARK, PORT, House, Line, leaves_nothing, open_house
from trio.testing import MockClock

from signalr_trio import Hub, HubConnection, HubError
from signalr_trio.errors import ConnectionClosed
from signalr_trio.tokens import NAME_IDENTIFIER, make_token

CLIENTS = 3


class Work(Hub):
    async def on_connected(self) -> None:
        self.context.items["here"] = True

    async def echo(self, value: Any) -> Any:
        return value

    async def fail(self) -> None:
        raise ValueError

    async def until_gone(self) -> None:
        await self.context.aborted.wait()

    async def join(self, *groups: str) -> None:
        for group in groups:
            await self.groups.add_to_group(self.context.connection_id, group)

    async def part(self, group: str) -> None:
        await self.groups.remove_from_group(self.context.connection_id, group)

    async def tell(self, group: str) -> None:
        await self.clients.group(group).send("news", group)
        await self.clients.user(self.context.user_id or "").send("news", group)

    async def ask(self, target: str, timeout: float) -> Any:
        return await self.clients.caller.invoke(target, timeout=timeout)

    async def count(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            yield number
            await trio.sleep(0.01)

    async def sum(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async def abort(self) -> None:
        self.context.abort()


# -- clients --------------------------------------------------------------------------------------


@attrs.frozen
class Kind:
    """What a client is like."""

    transport: str
    protocol: str
    stateful: bool = False

    def __str__(self) -> str:
        return f"{self.transport}-{self.protocol}{'-stateful' if self.stateful else ''}"

    def connect(self, line: Line, user: str) -> HubConnection:
        audience = ENDPOINT.client_audience("work")
        connection = HubConnection(
            f"http://localhost:{PORT}/client/?hub=work",
            protocol=self.protocol,
            access_token=make_token(ENDPOINT.access_key, audience, [(NAME_IDENTIFIER, user)]),
            reconnect=None,
            transports=(self.transport,),
            stateful_reconnect=self.stateful,
            network=line,
        )
        connection.on("answer", lambda: "done")
        connection.on("late", partial(trio.sleep, LONG / 2))
        connection.on("news", lambda group: None)
        return connection


KINDS = [
    Kind("WebSockets", "json"),
    Kind("WebSockets", "messagepack"),
    Kind("WebSockets", "json", stateful=True),
    Kind("WebSockets", "messagepack", stateful=True),
    Kind("ServerSentEvents", "json"),
    Kind("LongPolling", "json"),
    Kind("LongPolling", "messagepack"),
]


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number
        await trio.sleep(0.01)


async def do_everything(connection: HubConnection, user: str) -> None:
    """Some of it comes to its end, some does not."""
    assert await connection.invoke("echo", "x") == "x"
    for target in ("fail", "nosuch"):
        with pytest.raises(HubError):
            await connection.invoke(target)
    await connection.invoke("join", f"passing{MARK}{user}", f"staying{MARK}{user}")
    await connection.invoke("part", f"passing{MARK}{user}")
    await connection.invoke("tell", f"staying{MARK}{user}")
    async with connection.stream("count", 5) as items:
        assert [item async for item in items] == list(range(5))
    async with connection.stream("count", 100_000) as items:
        async for item in items:
            if item > 3:
                break
    assert await connection.invoke("sum", numbers(4)) == 6
    with trio.move_on_after(0.1):
        await connection.invoke("sum", numbers(100_000))
    assert await connection.invoke("ask", "answer", 5) == "done"
    with pytest.raises(HubError):
        await connection.invoke("ask", "late", 0.5)


async def politely(house: House, connection: HubConnection, line: Line) -> None:
    pass


async def with_a_call_running(house: House, connection: HubConnection, line: Line) -> None:
    await connection.send("until_gone")
    await connection.send("echo", "behind it")


async def asked(house: House, connection: HubConnection, line: Line) -> None:
    await connection.send("ask", "late", LONG)
    await trio.sleep(0.1)


async def cut_off(house: House, connection: HubConnection, line: Line) -> None:
    await connection.send("until_gone")
    await line.cut()
    line.silence()


async def cut_off_while_not_read(house: House, connection: HubConnection, line: Line) -> None:
    """What the hub and the service keep for it is full, and the call in front waits for its end."""
    await connection.send("until_gone")
    with trio.move_on_after(10):
        for _ in range(50):
            await connection.send("echo", "x" * 100_000)
    await line.cut()
    line.silence()


async def silent(house: House, connection: HubConnection, line: Line) -> None:
    await connection.send("until_gone")
    await trio.sleep(1)
    line.silence()


async def thrown_out(house: House, connection: HubConnection, line: Line) -> None:
    with pytest.raises(ConnectionClosed):
        await connection.invoke("abort")


async def moved(house: House, connection: HubConnection, line: Line) -> None:
    await trio.sleep(20)
    assert await connection.invoke("echo", "there") == "there"


async def moved_while_it_leaves(house: House, connection: HubConnection, line: Line) -> None:
    await trio.sleep_until(house_moves_at(trio.current_time()))
    await connection.send("until_gone")


async def lost_again_and_again(house: House, connection: HubConnection, line: Line) -> None:
    for _ in range(3):
        with suppress(ConnectionClosed):
            await connection.invoke("echo", "x")
        await line.cut()
        await trio.sleep(1)


def house_moves_at(now: float) -> float:
    return 10 * (now // 10 + 1)


ENDS = [
    politely,
    with_a_call_running,
    asked,
    cut_off,
    cut_off_while_not_read,
    silent,
    thrown_out,
    moved,
    moved_while_it_leaves,
    lost_again_and_again,
]


async def live(house: House, kind: Kind, end: Any, user: str) -> None:
    """A client, from its coming to its end."""
    line = Line(house.network)
    async with kind.connect(line, user) as connection:
        await do_everything(connection, user)
        await end(house, connection, line)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_p10_clients_that_have_gone(autojump_clock: MockClock, kind: Kind, end: Any) -> None:
    async with open_house(Work) as house:

        async def a_round(name: str) -> None:
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(live, house, kind, end, f"{name}{MARK}{number}")
                if end in (moved, moved_while_it_leaves):
                    await trio.sleep_until(house_moves_at(trio.current_time()))
                    await house.replace_server()

        await leaves_nothing(house, a_round)


async def all_at_rest(house: House, line: Line) -> None:
    pass


async def a_new_server(house: House, line: Line) -> None:
    await house.replace_server()


async def a_new_socket(house: House, line: Line) -> None:
    await line.cut()


STAYING = [
    (kind, then)
    for kind in KINDS
    for then in (all_at_rest, a_new_server, a_new_socket)
    if kind.stateful or then is not a_new_socket
]


@pytest.mark.parametrize(
    ("kind", "then"), STAYING, ids=[f"{kind}-{then.__name__}" for kind, then in STAYING]
)
async def test_p10_a_client_that_stays(
    autojump_clock: MockClock, kind: Kind, then: Callable[[House, Line], Awaitable[None]]
) -> None:
    """What it did before takes no room."""
    user = f"one{MARK}"
    async with open_house(Work) as house:
        line = Line(house.network)
        async with kind.connect(line, user) as connection:

            async def a_round(name: str) -> None:
                await do_everything(connection, user)
                await then(house, line)
                assert await connection.invoke("echo", name) == name
                await connection.invoke("part", f"staying{MARK}{user}")

            await leaves_nothing(house, a_round, names=[user])
