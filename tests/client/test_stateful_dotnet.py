"""Stateful reconnect against the official server, over a proxy that cuts connections."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from peers import dotnet_peer, needs_dotnet_peer

from signalr_trio.client import ConnectionState, HubConnection
from signalr_trio.errors import ConnectionClosed

pytestmark = needs_dotnet_peer


class Proxy:
    """Passes TCP connections on, and cuts them.

    What it has read and not passed on is lost, as on a network that breaks. The server gets whole
    frames only: ASP.NET Core 10 puts half a message and what the next WebSocket brings together.
    """

    def __init__(self, port):
        self.target = port
        self.port = 0
        self.connections = 0
        self.refuses = False
        #: A cut comes when so many frames have gone to the server, so many bytes to the client.
        self.up = self.down = None
        self._scopes = set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/test"

    def cut(self):
        for scope in self._scopes:
            scope.cancel()

    async def serve(self, *, task_status):
        serve = partial(trio.serve_tcp, self._pass_on, 0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(serve)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    async def _pass_on(self, client):
        if self.refuses:
            await client.aclose()
            return
        self.connections += 1
        async with client, await trio.open_tcp_stream("127.0.0.1", self.target) as server:
            with trio.CancelScope() as scope, suppress(trio.BrokenResourceError):
                self._scopes.add(scope)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump_up, client, server, scope)
                    nursery.start_soon(self._pump_down, server, client, scope)
            self._scopes.discard(scope)
            # With a reset the server would lose a part of what it has been sent.
            with trio.move_on_after(1), suppress(trio.BrokenResourceError):
                await client.aclose()
                await server.send_eof()
                async for _ in server:
                    pass

    async def _pump_up(self, client, server, scope):
        buffer = b""
        upgraded = False
        async for data in client:
            buffer += data
            if not upgraded:
                head, end, buffer = buffer.rpartition(b"\r\n\r\n")
                upgraded = b"upgrade: websocket" in head.lower()
                await server.send_all(head + end)
                if not upgraded:  # a negotiate, which has no body
                    continue
            while upgraded and (size := frame_size(buffer)) <= len(buffer):
                if self.up is not None:
                    self.up -= 1
                    if self.up < 0:
                        self.up = None
                        scope.cancel()
                        return
                with trio.CancelScope(shield=True):
                    await server.send_all(buffer[:size])
                buffer = buffer[size:]
        scope.cancel()

    async def _pump_down(self, server, client, scope):
        async for data in server:
            if self.down is not None:
                self.down -= len(data)
                if self.down < 0:
                    await client.send_all(data[: self.down])
                    self.down = None
                    scope.cancel()
                    return
            await client.send_all(data)
        scope.cancel()


def frame_size(buffer):
    """Of the masked frame that begins the buffer."""
    length = buffer[1] & 0x7F if len(buffer) > 1 else 0
    width = {126: 2, 127: 8}.get(length, 0)
    if width:
        length = int.from_bytes(buffer[2 : 2 + width], "big")
    return 2 + width + 4 + length


@asynccontextmanager
async def connected(*args, protocol="json", **options):
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        peer = await stack.enter_async_context(dotnet_peer("--stateful-reconnect", *args))
        nursery = await stack.enter_async_context(trio.open_nursery())
        proxy = Proxy(peer.port)
        await nursery.start(proxy.serve)
        async with HubConnection(
            proxy.url, protocol=protocol, stateful_reconnect=True, **options
        ) as connection:
            connection.on_reconnecting(pytest.fail)
            yield proxy, connection, peer
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
@pytest.mark.parametrize(
    ("direction", "amount"), [("up", 3), ("up", 0), ("down", 150), ("down", 1)]
)
async def test_nothing_is_lost_or_doubled(protocol, direction, amount):
    """Calls, streams both ways and sends; cuts all along, whole frames or a part of one lost."""
    notes, echoes = [], []
    cuts = 0
    async with connected("--parallel", "4", protocol=protocol) as (proxy, connection, _):
        connection_id = connection.connection_id
        connection.on("note", notes.append)

        async def stream_down():
            async with connection.stream("Count", 200, 1) as items:
                assert [item async for item in items] == list(range(200))

        async def stream_both_ways():
            nonlocal cuts
            # Step by step, for ASP.NET Core 10 counts no items of uploads that have ended: when
            # they come again, it is out of step.
            room, step = trio.open_memory_channel(3)

            async def numbers():
                for number in range(100):
                    await room.send(None)
                    yield number

            got = []
            async with connection.stream("EchoStream", numbers()) as items:
                async for item in items:
                    got.append(item)
                    step.receive_nowait()
                    if item % 20 == 5 and item < 80:
                        setattr(proxy, direction, amount)
                        cuts += 1
            assert got == list(range(100))

        async def call():
            for number in range(100):
                echoes.append(await connection.invoke("Echo", number))
                await connection.send("SendTo", "Caller", [], [], "note", [number])

        async with trio.open_nursery() as nursery:
            for task in (stream_down, stream_both_ways, call):
                nursery.start_soon(task)
        # Calls are in order, so this one is behind the last send.
        await connection.invoke("Void")
        assert getattr(proxy, direction) is None
        assert proxy.connections >= 1 + 1 + cuts  # negotiate, the first one, and all others
        assert connection.state is ConnectionState.CONNECTED
        assert connection.connection_id == connection_id
    assert echoes == list(range(100))
    assert sorted(notes) == list(range(100))


async def test_what_happens_while_away_comes_later():
    async with connected() as (proxy, connection, peer):
        notes, arrive = trio.open_memory_channel(9)
        connection.on("note", notes.send)
        proxy.refuses = True
        async with trio.open_nursery() as nursery:
            results = []

            async def slow():
                results.append(await connection.invoke("SlowThenSend", 200, "note"))

            nursery.start_soon(slow)
            await peer.event("invoke_begin", method="SlowThenSend")
            proxy.cut()
            await peer.event("invoke_end", method="SlowThenSend")
            await connection.send("SendTo", "Caller", [], [], "note", ["sent while away"])
            assert connection.state is ConnectionState.CONNECTED
            proxy.refuses = False
        assert [await arrive.receive() for _ in range(2)] == [200, "sent while away"]


@pytest.mark.parametrize("reconnects", [True, False])
async def test_a_connection_that_the_server_has_dropped_is_made_anew(reconnects):
    """The other server on the port does not know the id."""
    async with dotnet_peer("--stateful-reconnect") as second, connected() as (proxy, _, _):
        connection = HubConnection(
            proxy.url, stateful_reconnect=True, reconnect=[0] if reconnects else None
        )
        again = trio.Event()
        connection.on_reconnected(lambda _: again.set())
        async with connection:
            old_id = connection.connection_id
            proxy.refuses = True
            proxy.target = second.port
            async with trio.open_nursery() as nursery:

                async def call():
                    with pytest.raises(ConnectionClosed, match="lost"):
                        await connection.invoke("Slow", 60000)

                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                proxy.refuses = False
                proxy.cut()
            if reconnects:
                await again.wait()
                assert connection.connection_id != old_id
                assert await connection.invoke("Add", 1, 2) == 3
            else:
                with pytest.raises(ConnectionClosed):
                    await connection.wait_closed()


async def test_an_abort_is_the_end():
    async with connected() as (proxy, connection, _):
        with pytest.raises(ConnectionClosed):
            await connection.invoke("Abort")
        await connection.wait_closed()
        assert proxy.connections == 2


async def test_leaving_ends_the_connection_on_the_server():
    async with connected() as (proxy, _, peer):
        async with HubConnection(proxy.url, stateful_reconnect=True) as connection:
            proxy.cut()
            assert await connection.invoke("Add", 1, 2) == 3
            gone_id = connection.connection_id
        assert (await peer.event("disconnected", id=gone_id)).get("error") is None


async def test_uploads_wait_for_acknowledgements():
    async with connected() as (_, connection, _):
        words = ["x" * 10_000] * 25

        async def items():
            for word in words:
                yield word

        async with connection.stream("EchoStream", items()) as stream:
            assert [item async for item in stream] == words


async def test_a_server_without_it():
    async with (
        dotnet_peer() as peer,
        HubConnection(f"{peer.url}/test", stateful_reconnect=True) as connection,
    ):
        assert await connection.invoke("Add", 1, 2) == 3
