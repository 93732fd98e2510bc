"""The client and the package's own hub server, over each transport, and over sockets that break."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from ways import WAYS

from signalr_trio import Hub, HubServer, serve
from signalr_trio.client import ConnectionState, HubConnection
from signalr_trio.errors import ConnectionClosed
from signalr_trio.transport.network import TCP


class Bench(Hub):
    async def echo(self, value):
        return value

    async def add_all(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    async def count(self, n):
        for number in range(n):
            yield number

    async def echo_stream(self, items: AsyncIterator[int]):
        async for item in items:
            yield item

    async def note(self, value):
        await self.clients.caller.send("note", value)

    async def leave(self):
        self.context.abort()


@pytest.fixture
async def url(nursery):
    server = HubServer(None)
    server.map(Bench, "/bench")
    with trio.fail_after(60):
        port = await nursery.start(partial(serve, server, port=0, signals=False))
        yield f"http://127.0.0.1:{port}/bench"


@pytest.mark.parametrize(("transport", "protocol"), WAYS)
async def test_each_transport(url, transport, protocol):
    notes, noted = trio.open_memory_channel(9)
    options = {"transports": [transport], "protocol": protocol, "reconnect": None}
    async with HubConnection(url, **options) as connection:
        connection.on("note", notes.send)
        for value in (1, "ü😀", None, [1, {"a": 2}], "x" * 200_000):
            assert await connection.invoke("echo", value) == value
        async with connection.stream("count", 500) as items:
            assert [item async for item in items] == list(range(500))
        assert await connection.invoke("add_all", numbers(500)) == sum(range(500))
        await connection.send("note", 7)
        assert await noted.receive() == 7
        with pytest.raises(ConnectionClosed):
            await connection.invoke("leave")
        await connection.wait_closed()


async def numbers(n):
    for number in range(n):
        yield number


class Breaking:
    """TCP, on which the client's connections can be broken: what is under way is lost, both ways."""

    listen = staticmethod(TCP.listen)

    def __init__(self):
        self.streams = []

    async def connect(self, host, port):
        stream = await TCP.connect(host, port)
        self.streams.append(stream)
        return stream

    def break_all(self):
        for stream in self.streams:
            # At once: what has come and was not read, and what was not sent, goes with it.
            if stream.socket.fileno() != -1:
                stream.socket.shutdown(trio.socket.SHUT_RDWR)
        self.streams.clear()


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_stateful_reconnect(url, protocol):
    network = Breaking()
    results, notes = [], []
    breaks = 0
    async with HubConnection(
        url, protocol=protocol, network=network, stateful_reconnect=True, reconnect=None
    ) as connection:
        connection.on("note", notes.append)
        connection_id = connection.connection_id

        async def break_now_and_then(number):
            nonlocal breaks
            if number % 40 == 20:
                network.break_all()
                breaks += 1

        async def call():
            for number in range(200):
                results.append(await connection.invoke("echo", number))
                await connection.send("note", number)
                await break_now_and_then(number)

        async def stream():
            async with connection.stream("echo_stream", numbers(1000)) as items:
                assert [item async for item in items] == list(range(1000))

        async def upload():
            assert await connection.invoke("add_all", numbers(1000)) == sum(range(1000))

        async with trio.open_nursery() as nursery:
            for task in (call, stream, upload):
                nursery.start_soon(task)
        await connection.invoke("echo", None)
        assert connection.state is ConnectionState.CONNECTED
        assert connection.connection_id == connection_id
    assert breaks == 5
    assert results == list(range(200))
    assert sorted(notes) == list(range(200))
