"""Stateful reconnect of the client, against a scripted server on a clock of its own."""

from __future__ import annotations

import pytest
import trio
from scripted_hub import POLLING, SSE, URL, WEBSOCKETS, ScriptedHub
from trio.testing import wait_all_tasks_blocked

from signalr_trio.client import ConnectionState, HubConnection
from signalr_trio.errors import ConfigurationError, ConnectionClosed
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messages import (
    Ack,
    Close,
    Completion,
    Invocation,
    Ping,
    Sequence,
    StreamItem,
)

BOTH = pytest.mark.parametrize("protocol", ["json", "messagepack"])


def connecting(hub, **options):
    return HubConnection(
        URL, network=hub, **{"reconnect": None, "stateful_reconnect": True, **options}
    )


def counted(client):
    return [one for one in client.got if isinstance(one, Invocation | StreamItem | Completion)]


async def lose(hub, client):
    """Lose the WebSocket, and wait for the next one."""
    await wait_all_tasks_blocked()
    sockets = hub.sockets
    client.websocket.abort()
    client.got.clear()
    client.bodies.clear()
    while hub.sockets == sockets:
        await client._news.wait()
    await wait_all_tasks_blocked()


# --- Who has it


@pytest.mark.parametrize(
    ("asked", "offered", "transport", "version"),
    [
        (True, True, WEBSOCKETS, 2),
        (True, False, WEBSOCKETS, 1),
        (False, True, WEBSOCKETS, 1),
        (True, True, SSE, 1),
        (True, True, POLLING, 1),
    ],
)
async def test_the_version_says_whether(asked, offered, transport, version):
    hub = ScriptedHub(transport, stateful=offered)
    async with hub.serving(), connecting(hub, stateful_reconnect=asked):
        client = await hub.client()
        assert client.hello == {"protocol": "json", "version": version}
    query = "negotiateVersion=1" + ("&useStatefulReconnect=true" if asked else "")
    assert hub.requests[0].query_string == query


def test_an_encoding_without_it():
    class Old(JsonProtocol):
        version = 1

    with pytest.raises(ConfigurationError, match="stateful reconnect"):
        HubConnection(URL, protocol=Old(), stateful_reconnect=True)


async def test_without_it_a_loss_is_a_loss():
    hub = ScriptedHub(WEBSOCKETS)
    async with hub.serving(), connecting(hub) as connection:
        (await hub.client()).websocket.abort()
        with pytest.raises(ConnectionClosed, match="lost"):
            await connection.wait_closed()
    assert hub.sockets == 1


# --- A loss


@BOTH
async def test_the_connection_goes_on(protocol):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub, protocol=protocol) as connection:
        connection.on_reconnecting(pytest.fail)
        client = await hub.client()
        await connection.send("A", 1)
        await connection.send("B", 2)
        results = []

        async def invoke():
            results.append(await connection.invoke("C"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(invoke)
            await client.received(Invocation, 3)
            client.send(Ack(1))
            await lose(hub, client)
            # No handshake; the number of the first message that comes again, and all at once. The
            # ping is for a server that has not had the first one, and would not mind our silence.
            again = [Sequence(2), Invocation("B", [2]), Invocation("C", [], "1"), Ping()]
            assert client.got == again
            assert len(client.bodies) == 1
            client.send(Sequence(1), Completion("1", "done"))
        assert results == ["done"]
        assert connection.state is ConnectionState.CONNECTED
        assert connection.connection_id == "c1"
        client.send(Ack(3))
        await lose(hub, client)
        assert client.got == [Sequence(4), Ping()]
    assert [request.param("id") for request in hub.requests[1:]] == ["t1"] * 3
    assert client.got[-1] == Close()


async def test_what_is_sent_while_away_comes_later():
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        await wait_all_tasks_blocked()
        hub.unreachable = True
        client.websocket.abort()
        await wait_all_tasks_blocked()
        client.got.clear()
        await connection.send("A", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.invoke, "B")
            await wait_all_tasks_blocked()
            hub.unreachable = False
            await client.received(Invocation, 2)
            again = [Invocation("A", [1]), Invocation("B", [], "1")]
            assert client.got == [Sequence(1), *again, Ping()]
            client.send(Sequence(1), Completion("1"))


async def test_what_comes_again_is_dropped():
    notes = []
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub) as connection:
        connection.on("note", notes.append)
        client = await hub.client()
        client.send(*[Invocation("note", [number]) for number in range(3)])
        await wait_all_tasks_blocked()
        client.send_bytes(b'{"type":1,"target":"no')  # half a message ends with its socket
        await lose(hub, client)
        client.send(Sequence(2), *[Invocation("note", [number]) for number in range(1, 5)])
        await wait_all_tasks_blocked()
        client.send(Invocation("note", [5]))
        await lose(hub, client)
        client.send(Ping(), Sequence(7), Invocation("note", [6]))
        await wait_all_tasks_blocked()
    assert notes == list(range(7))


async def test_what_came_with_the_handshake_is_counted(autojump_clock):
    class Hasty(ScriptedHub):
        def _opened(self, transport, request):
            client = super()._opened(transport, request)

            def send_bytes(data):
                del client.send_bytes
                client.send_bytes(data + client.protocol.write(Invocation("note", [1])))

            client.send_bytes = send_bytes
            return client

    notes = []
    hub = Hasty(WEBSOCKETS, stateful=True)
    async with hub.serving():
        connection = connecting(hub)
        connection.on("note", notes.append)
        async with connection:
            client = await hub.client()
            assert await client.received(Ack) == Ack(1)
    assert notes == [1]


async def test_a_sequence_that_leaves_messages_out_ends_the_connection():
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        client.send(Sequence(2))
        with pytest.raises(ConnectionClosed, match="Sequence ID greater"):
            await connection.wait_closed()


# --- Acknowledgements


async def test_acknowledgements(autojump_clock):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub, keep_alive=100, server_timeout=100):
        client = await hub.client()
        await trio.sleep(5)
        assert client.got == [Ping()]
        start = trio.current_time()
        for number in range(10):
            client.send(Invocation("note", [number]), Ping())
            await trio.sleep(0.3)
        client.send(Completion("99"), StreamItem("98", 1))
        assert await client.received(Ack, 3) == Ack(12)
        acks = [message.sequence_id for message in client.got if isinstance(message, Ack)]
        assert acks == [4, 8, 12]
        assert trio.current_time() - start == pytest.approx(3.4)
        await trio.sleep(10)
        assert len(client.got) == 4


async def test_an_acknowledgement_that_was_lost_is_given_again(autojump_clock):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub):
        client = await hub.client()
        client.send(Invocation("note", [1]))
        await client.received(Ack)
        await lose(hub, client)
        client.send(Sequence(1), Invocation("note", [1]))
        assert await client.received(Ack) == Ack(1)


async def test_senders_wait_for_acknowledgements():
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    done = []
    async with hub.serving(), connecting(hub) as connection, trio.open_nursery() as nursery:
        client = await hub.client()

        async def send_all():
            for number in range(8):
                await connection.send("A", number, "x" * 30_000)
                done.append(number)

        nursery.start_soon(send_all)
        # The message that crosses 100 000 bytes is still sent.
        await client.received(Invocation, 4)
        await wait_all_tasks_blocked()
        assert (len(counted(client)), done) == (4, [0, 1, 2])
        client.send(Ack(1))
        await client.received(Invocation, 5)
        await wait_all_tasks_blocked()
        assert (len(counted(client)), done) == (5, [0, 1, 2, 3])
        # On another socket one more is sent: the acknowledgement may have been lost.
        await lose(hub, client)
        assert [call.arguments[0] for call in counted(client)] == [1, 2, 3, 4, 5]
        client.send(Sequence(1), Ack(99))
        await client.received(Invocation, 7)
        await wait_all_tasks_blocked()
        assert done == list(range(8))


@pytest.mark.parametrize("call", ["send", "invoke"])
async def test_a_sender_that_waits_is_told_of_the_end(call):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    errors = []
    async with hub.serving(), connecting(hub) as connection, trio.open_nursery() as nursery:
        client = await hub.client()

        async def wait():
            try:
                await getattr(connection, call)("A", "x" * 200_000)
            except ConnectionClosed as error:
                errors.append(error)

        nursery.start_soon(wait)
        await client.received(Invocation)
        client.send(Close())
        await connection.wait_closed()
    assert len(errors) == 1


# --- The end


@pytest.mark.parametrize("reconnects", [True, False])
@pytest.mark.parametrize(("how", "seconds"), [("unreachable", 15), ("gone", 0), ("closed", 0)])
async def test_when_the_connection_does_not_go_on(reconnects, how, seconds, autojump_clock):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    delays = [5] if reconnects else None
    async with hub.serving(), connecting(hub, reconnect=delays) as connection:
        send, told = trio.open_memory_channel(9)
        connection.on_reconnecting(lambda _: send.send_nowait("reconnecting"))
        connection.on_reconnected(send.send_nowait)
        connection.on_close(lambda _: send.send_nowait("close"))
        client = await hub.client()
        await wait_all_tasks_blocked()
        start = trio.current_time()
        hub.unreachable = how == "unreachable"
        hub.refused = {"GET": 404} if how == "gone" else {}
        if how == "closed":
            await client.websocket.aclose()
        else:
            client.websocket.abort()
        event = await told.receive()
        assert trio.current_time() - start == pytest.approx(seconds, abs=0.01)
        hub.unreachable, hub.refused = False, {}
        if reconnects:
            assert event == "reconnecting"
            assert connection.state is ConnectionState.RECONNECTING
            assert await told.receive() == "c2"
            assert (await hub.client(2)).hello["version"] == 2
        else:
            assert event == "close"
            with pytest.raises(ConnectionClosed):
                await connection.wait_closed()


async def test_attempts_go_on_within_the_window(autojump_clock):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        await wait_all_tasks_blocked()
        hub.unreachable = True
        client.websocket.abort()
        await trio.sleep(13)
        assert connection.state is ConnectionState.CONNECTED
        hub.unreachable = False
        await trio.sleep(2.5)
        assert hub.sockets == 2
        assert connection.state is ConnectionState.CONNECTED


async def test_leaving_while_away(autojump_clock):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving():
        async with connecting(hub):
            client = await hub.client()
            await wait_all_tasks_blocked()
            hub.unreachable = True
            client.websocket.abort()
            await trio.sleep(3)
            start = trio.current_time()
        assert trio.current_time() == start


async def test_a_silent_server_is_not_waited_for(autojump_clock):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub) as connection:
        await hub.client()
        with pytest.raises(ConnectionClosed, match="Server timeout"):
            await connection.wait_closed()
        assert hub.sockets == 1


async def test_a_server_that_drops_each_socket_at_once(autojump_clock):
    class Dropping(ScriptedHub):
        drops = False

        def _serve_websocket_of(self, request):
            async def drop(websocket):
                self.sockets += 1
                await websocket.drained()
                websocket.abort()

            return drop if self.drops else super()._serve_websocket_of(request)

    hub = Dropping(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        await wait_all_tasks_blocked()
        hub.drops = True
        client.websocket.abort()
        start = trio.current_time()
        with pytest.raises(ConnectionClosed):
            await connection.wait_closed()
        assert trio.current_time() - start == pytest.approx(15, abs=0.1)
        assert 10 < hub.sockets < 25


async def test_a_proxy_without_a_server_is_tried_again(autojump_clock):
    hub = ScriptedHub(WEBSOCKETS, stateful=True)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        await wait_all_tasks_blocked()
        hub.refused = {"GET": 502}
        client.websocket.abort()
        await trio.sleep(3)
        hub.refused = {}
        await trio.sleep(2)
        assert hub.sockets == 2
        assert connection.state is ConnectionState.CONNECTED
