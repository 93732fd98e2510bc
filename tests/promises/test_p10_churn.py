"""P10, while all goes on: what a client leaves behind when it has gone is nothing.

Real clients on real hub servers and a real service, on a network in memory. A first round of clients
makes what is made once; after the second everything has to be as it was before: each object of the
product, each task, and no name of a client, user or group anywhere in the service or a server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import orjson
import pytest
import trio
from harness.census import census, names_in
from harness.memory_network import MemoryNetwork
from trio.testing import MockClock

from signalr_trio import (
    GracefulShutdown,
    Hub,
    HubConnection,
    HubError,
    HubServer,
    open_service,
    serve,
)
from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.errors import ConnectionClosed
from signalr_trio.service.front_door import RunningService
from signalr_trio.tokens import NAME_IDENTIFIER, make_token

ENDPOINT = parse_connection_string(DEVELOPMENT)
PORT = 8888
#: In the name of each user and group, and in nothing else.
MARK = "-in-the-round-"
CLIENTS = 3
#: Seconds after which the service has given up whoever it has not heard of, and all its servers too.
LONG = 150


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """pytest keeps each record, and with its traceback all that the frames in it know."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


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


# -- a network that can fail ----------------------------------------------------------------------


class Wire(trio.abc.HalfCloseableStream):
    """A client's end of a connection. Silenced, nothing of what it does reaches the other side."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner
        self.silenced = self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.silenced:
            await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._inner.receive_some(max_bytes)
        return b"" if self.silenced else data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed = True
        if not self.silenced:
            await self._inner.aclose()


class Line:
    """One client's network."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._wires: list[Wire] = []

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        wire = Wire(await self._network.connect(host, port))
        self._wires = [one for one in self._wires if not one.closed] + [wire]
        return wire

    async def listen(self, host: str | None, port: int) -> Any:
        raise OSError("a client does not listen")

    async def cut(self) -> None:
        """Both sides notice."""
        for wire in self._wires:
            await trio.aclose_forcefully(wire)
        self._wires.clear()

    def silence(self) -> None:
        """Neither side is told, and no connection is made any more."""
        for wire in self._wires:
            wire.silenced = True
        self._wires.clear()
        self._network = MemoryNetwork()


# -- the house ------------------------------------------------------------------------------------


@attrs.define
class House:
    network: MemoryNetwork
    running: RunningService
    nursery: trio.Nursery
    servers: list[HubServer] = attrs.field(factory=list[HubServer])

    async def start_server(self) -> None:
        server = HubServer(DEVELOPMENT, shutdown=GracefulShutdown("migrate_clients", timeout=10))
        server.map(Work, "/work")
        run = partial(serve, server, port=None, signals=False, network=self.network)
        await self.nursery.start(run)
        self.servers.append(server)

    async def replace_server(self) -> None:
        await self.start_server()
        report = await self.servers.pop(0).shutdown()
        assert not report.dropped

    def names(self) -> set[str]:
        return names_in([self.running.service, *self.servers], MARK)


@asynccontextmanager
async def open_house() -> AsyncGenerator[House]:
    network = MemoryNetwork()
    async with open_service(network=network) as running, trio.open_nursery() as nursery:
        house = House(network, running, nursery)
        await house.start_server()
        yield house
        nursery.cancel_scope.cancel()


async def leaves_nothing(
    house: House, a_round: Callable[[str], Awaitable[None]], names: Collection[str] = ()
) -> None:
    """But ``names``. The first round may leave what is made once."""
    await a_round("first")
    await trio.sleep(LONG)
    before = census()
    await a_round("second")
    await trio.sleep(LONG)
    more = census() - before
    assert not more
    assert house.names() == set(names)
    assert house.running.service.held_size == 0


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
    async with open_house() as house:

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
    async with open_house() as house:
        line = Line(house.network)
        async with kind.connect(line, user) as connection:

            async def a_round(name: str) -> None:
                await do_everything(connection, user)
                await then(house, line)
                assert await connection.invoke("echo", name) == name
                await connection.invoke("part", f"staying{MARK}{user}")

            await leaves_nothing(house, a_round, names=[user])


# -- who is no client in the end ------------------------------------------------------------------


def request(method: str, query: str = "", *headers: str, length: int = 0, path: str = "") -> bytes:
    token = make_token(ENDPOINT.access_key, ENDPOINT.client_audience("work"))
    lines = [
        f"{method} /client/{path}?hub=work{query} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        f"Content-Length: {length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


UPGRADE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
EVENTS = ("Accept: text/event-stream",)
STATEFUL = "&useStatefulReconnect=true"
HELLO, LASTING = (b'{"protocol":"json","version":%d}\x1e' % version for version in (1, 2))


def frame(payload: bytes) -> bytes:
    """A masked text frame."""
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


async def negotiated(house: House, query: str = "") -> str:
    """The part of the query that names a connection which is yet to be made."""
    asked = request("POST", f"&negotiateVersion=1{query}", path="negotiate")
    stream = await house.network.connect("localhost", PORT)
    await stream.send_all(asked)
    head, _, body = bytes(await stream.receive_some()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    await trio.aclose_forcefully(stream)
    return f"&id={orjson.loads(body)['connectionToken']}"


#: What is asked for with it (None: nothing is negotiated), and what is sent, each on a connection
#: of its own, a second after the one before.
VISITS: dict[str, tuple[str | None, Callable[[str], list[bytes]]]] = {
    "nothing": (None, lambda _: [b""]),
    "no whole head": (None, lambda _: [b"GET /client/?hub"]),
    "no whole body": (None, lambda _: [request("POST", length=100, path="negotiate") + b"abc"]),
    "no HTTP": (None, lambda _: [bytes(range(256))]),
    "a request": (None, lambda _: [request("GET", path="nosuch")]),
    "negotiate": ("", lambda _: []),
    "negotiate, stateful": (STATEFUL, lambda _: []),
    "a WebSocket without a word": ("", lambda id: [request("GET", id, *UPGRADE)]),
    "half a frame": ("", lambda id: [request("GET", id, *UPGRADE) + frame(HELLO)[:9]]),
    "no frame": ("", lambda id: [request("GET", id, *UPGRADE) + b"\xff" * 50]),
    "a hello": ("", lambda id: [request("GET", id, *UPGRADE) + frame(HELLO) + PINGED]),
    "a bad hello": ("", lambda id: [request("GET", id, *UPGRADE) + frame(b"hello\x1e")]),
    "stateful": (STATEFUL, lambda id: [request("GET", id, *UPGRADE) + frame(LASTING) + PINGED]),
    "stateful, without a word": (STATEFUL, lambda id: 2 * [request("GET", id, *UPGRADE)]),
    "stateful, twice": (
        STATEFUL,
        lambda id: [
            request("GET", id, *UPGRADE) + frame(LASTING) + PINGED,
            request("GET", id, *UPGRADE),
        ],
    ),
    "events without a word": ("", lambda id: [request("GET", id, *EVENTS)]),
    "events": ("", lambda id: [request("GET", id, *EVENTS), posted(id, HELLO + PING)]),
    "events, and much behind": (
        "",
        lambda id: [request("GET", id, *EVENTS) + bytes(100_000), posted(id, HELLO + PING)],
    ),
    "a poll": ("", lambda id: [request("GET", id)]),
    "a poll and a hello": ("", lambda id: [request("GET", id), posted(id, HELLO)]),
    "polls": ("", lambda id: [request("GET", id), posted(id, HELLO), *3 * [request("GET", id)]]),
    "polls and an end": (
        "",
        lambda id: [
            *(request("GET", id), posted(id, HELLO), request("GET", id)),
            request("DELETE", id),
        ],
    ),
    "a post for nobody": ("", lambda id: [posted(id, bytes(200_000))]),
}


PING = b'{"type":6}\x1e'
PINGED = frame(PING)


def posted(id: str, data: bytes) -> bytes:
    return request("POST", id, length=len(data)) + data


@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "silent"])
@pytest.mark.parametrize("visit", VISITS)
async def test_p10_who_only_looked_in(autojump_clock: MockClock, visit: str, dropped: bool) -> None:
    """A connection that is neither used nor closed is given up in time."""
    query, sent_with = VISITS[visit]
    async with open_house() as house:

        async def a_round(name: str) -> None:
            id = "" if query is None else await negotiated(house, query)
            streams: list[trio.abc.Stream] = []
            for sent in sent_with(id):
                streams.append(await house.network.connect("localhost", PORT))
                await streams[-1].send_all(sent)
                await trio.sleep(1)
            if not dropped:
                await trio.sleep(2 * LONG)
                assert not house.running.service.client_count
                assert not house.running.service.http_connections
            for stream in streams:
                await trio.aclose_forcefully(stream)

        await leaves_nothing(house, a_round)
