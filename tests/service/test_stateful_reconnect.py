"""Stateful reconnect, the service's side: sockets are lost, and no message with them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
from harness.clients import JSON
from harness.cluster import Cluster, settle
from harness.memory_network import MemoryNetwork
from harness.raw_http import RawHttp
from harness.servers import ScriptedServer

from signalr_trio import ConnectionMigrationFeature, GracefulShutdown, Hub, HubOptions, HubServer
from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.message_buffer import BUFFER_LIMIT
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import (
    Ack,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
)
from signalr_trio.service.front_door import open_service
from signalr_trio.service.options import ServiceOptions
from signalr_trio.tokens import make_token
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import UpgradeRefused, WebSocket, connect_websocket

ENDPOINT = parse_connection_string(DEVELOPMENT)
MSGPACK = MessagePackProtocol()
PORT = 8888
WINDOW = 15


class Chat(Hub):
    came: list[tuple[str, str | None]]
    left: list[tuple[str, str | None]]

    def other_server(self, which: str) -> str | None:
        feature = self.context.features.get(ConnectionMigrationFeature)
        return getattr(feature, which) if feature is not None else None

    async def on_connected(self) -> None:
        self.came.append((self.context.connection_id, self.other_server("migrate_from")))

    async def on_disconnected(self, error: Exception | None) -> None:
        self.left.append((self.context.connection_id, self.other_server("migrate_to")))

    async def echo(self, value: Any) -> Any:
        return value

    async def slow(self, value: Any) -> Any:
        await trio.sleep(1)
        await self.clients.caller.send("done", value)
        return value

    async def count(self, size: int) -> AsyncIterator[str]:
        for n in range(size):
            yield f"{n:0100}"

    async def go(self) -> None:
        self.context.abort()


class CutNetwork(MemoryNetwork):
    """Where connections can be cut, and hidden from the other side."""

    def __init__(self) -> None:
        super().__init__()
        self.last: trio.abc.Stream | None = None

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        self.last = await super().connect(host, port)
        return self.last

    async def cut(self) -> None:
        assert self.last is not None
        await trio.aclose_forcefully(self.last)
        await settle()


def headers() -> list[tuple[str, str]]:
    token = make_token(ENDPOINT.access_key, ENDPOINT.client_audience("chat"))
    return [("Authorization", f"Bearer {token}")]


async def negotiate(
    network: MemoryNetwork, query: str = "&useStatefulReconnect=true"
) -> dict[str, Any]:
    wire = await RawHttp.connect(network, PORT)
    path = f"/client/negotiate?hub=chat&negotiateVersion=1{query}"
    return json.loads((await wire.ask("POST", path, headers=dict(headers()))).body)


@attrs.define
class House:
    network: CutNetwork
    cluster: Cluster
    hub: type[Chat]
    a: HubServer
    flusher: Flusher
    sockets: AsyncExitStack

    async def negotiate(self, query: str = "&useStatefulReconnect=true") -> dict[str, Any]:
        return await negotiate(self.network, query)

    async def client(self, *, protocol: HubProtocol = JSON, version: int = 2) -> Stateful:
        """Its handshake is through."""
        client = Stateful(self, (await self.negotiate())["connectionToken"], protocol)
        await client.open()
        await client.shake_hands(version)
        return client


class Stateful:
    """A client that is told what to say, acknowledgements too."""

    def __init__(self, house: House, token: str, protocol: HubProtocol) -> None:
        self.house = house
        self.path = f"/client/?hub=chat&id={token}"
        self.protocol = protocol
        self.socket: WebSocket

    async def open(self) -> None:
        house = self.house
        connecting = connect_websocket(
            f"http://localhost:{PORT}{self.path}",
            flusher=house.flusher,
            headers=headers(),
            network=house.network,
        )
        self.splitter = self.protocol.splitter(None)
        self.socket = await house.sockets.enter_async_context(connecting)

    async def shake_hands(self, version: int = 2) -> None:
        self.socket.send(write_request(HandshakeRequest(self.protocol.name, version)), text=True)
        assert await self.socket.receive() == b"{}\x1e"
        await settle()

    def say(self, *messages: HubMessage) -> None:
        data = b"".join(self.protocol.write(message) for message in messages)
        self.socket.send(data, text=not self.protocol.binary)

    async def hear(self, count: int) -> list[HubMessage]:
        """The next messages, but pings."""
        found: list[HubMessage] = []
        while len(found) < count:
            frames = self.splitter.feed(await self.socket.receive())
            parsed = [self.protocol.parse(frame) for frame in frames]
            found += [one for one in parsed if one is not None and not isinstance(one, Ping)]
        return found

    async def refusal(self) -> int:
        with pytest.raises(UpgradeRefused) as refused:
            await self.open()
        return refused.value.status


@pytest.fixture
async def house(autojump_clock) -> AsyncIterator[House]:
    network = CutNetwork()
    hub = type("Chat", (Chat,), {"came": [], "left": []})
    flusher = Flusher()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        async with open_service(network=network) as running, AsyncExitStack() as sockets:
            cluster = Cluster(running.service, nursery)
            shutdown = GracefulShutdown("migrate_clients", timeout=20)
            a = await cluster.serve(hub, id="A", shutdown=shutdown)
            yield House(network, cluster, hub, a, flusher, sockets)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", [JSON, MSGPACK], ids=["json", "messagepack"])
async def test_what_was_lost_comes_again(
    autojump_clock, house: House, protocol: HubProtocol
) -> None:
    client = await house.client(protocol=protocol)
    client.say(Invocation("Echo", [1], "1"), Invocation("Slow", [2], "2"))
    assert await client.hear(1) == [Completion("1", 1)]
    await house.network.cut()
    await trio.sleep(5)
    await client.open()
    assert await client.hear(4) == [
        # Nothing was acknowledged: all of it comes, numbered from the first.
        Sequence(1),
        Completion("1", 1),
        Invocation("done", [2]),
        Completion("2", 2),
    ]
    client.say(Ack(2))
    await house.network.cut()
    await client.open()
    # The acknowledgement was lost, or was not; it says so.
    first = (await client.hear(1))[0]
    assert isinstance(first, Sequence)
    assert first.sequence_id in (1, 3)
    assert house.hub.left == []
    assert len(house.hub.came) == 1


async def test_what_is_acknowledged_does_not_come_again(autojump_clock, house: House) -> None:
    client = await house.client()
    client.say(Invocation("Echo", [1], "1"), Invocation("Echo", [2], "2"))
    await client.hear(2)
    client.say(Ack(1))
    await settle()
    await house.network.cut()
    await client.open()
    assert await client.hear(2) == [Sequence(2), Completion("2", 2)]
    client.say(Ack(2))
    await settle()
    await house.network.cut()
    await client.open()
    assert await client.hear(1) == [Sequence(3)]


async def test_what_the_client_says_twice_is_heard_once(autojump_clock, house: House) -> None:
    client = await house.client()
    client.say(Invocation("Echo", [1], "1"), Invocation("Echo", [2], "2"))
    await client.hear(2)
    client.say(Ack(2))
    await settle()
    await house.network.cut()
    await client.open()
    await client.hear(1)
    again = [Invocation("Echo", [n], str(n)) for n in (2, 3)]
    client.say(Ping(), Sequence(2), *again)
    assert await client.hear(1) == [Completion("3", 3)]
    assert await client.hear(1) == [Ack(3)]


async def test_acknowledgements_come_once_a_second(autojump_clock, house: House) -> None:
    client = await house.client()
    for n in range(1, 4):
        client.say(*(Invocation("Echo", [n]) for _ in range(5)))
        assert await client.hear(1) == [Ack(5 * n)]
    heard = trio.current_time()
    client.say(Ping())
    with trio.move_on_after(10):
        await client.hear(1)
    assert trio.current_time() - heard == 10


async def test_the_window(autojump_clock, house: House) -> None:
    client = await house.client()
    await house.network.cut()
    await trio.sleep(WINDOW - 1)
    assert house.hub.left == []
    await client.open()
    assert await client.hear(1) == [Sequence(1)]
    await house.network.cut()
    await trio.sleep(WINDOW + 2)
    assert len(house.hub.left) == 1
    assert await client.refusal() == 404
    assert house.cluster.service.client_count == 0


@pytest.mark.parametrize("how", ["close frame", "Close", "abort", "version 1"])
async def test_what_ends_it(autojump_clock, house: House, how: str) -> None:
    client = await house.client(version=1 if how == "version 1" else 2)
    if how == "close frame":
        await client.socket.aclose()
    elif how == "Close":
        client.say(Close())
        await client.hear(1)
    elif how == "abort":
        client.say(Invocation("Go", []))
        await client.hear(1)
    else:
        await house.network.cut()
    await trio.sleep(1)
    assert len(house.hub.left) == 1
    assert await client.refusal() == 404


async def test_messages_wait_for_room(autojump_clock, house: House) -> None:
    """What is over the limit stays here, and goes out as the client acknowledges."""
    client = await house.client()
    client.say(StreamInvocation("1", "Count", [3000]))
    items: list[HubMessage] = []
    with trio.move_on_after(5):
        while True:
            items += await client.hear(1)
    size = sum(len(JSON.write(item)) for item in items if isinstance(item, StreamItem))
    assert BUFFER_LIMIT < size < BUFFER_LIMIT + 200
    while not isinstance(items[-1], Completion):
        client.say(Ack(len(items)))
        items += [one for one in await client.hear(1) if not isinstance(one, Ack)]
    values = [int(item.item) for item in items if isinstance(item, StreamItem)]
    assert values == list(range(3000))


async def test_a_sequence_that_leaves_something_out(autojump_clock, house: House) -> None:
    client = await house.client()
    client.say(Sequence(2))
    (close,) = await client.hear(1)
    assert isinstance(close, Close)
    assert close.error is not None
    assert "Sequence ID greater" in close.error


@pytest.mark.parametrize(
    ("protocol", "nonsense"),
    [(JSON, b"no JSON\x1e"), (JSON, b'{"type":1'), (MSGPACK, b"\xff" * 5), (MSGPACK, b"\x05\x91")],
)
async def test_nonsense_of_a_server_goes_to_the_client_as_it_is(
    autojump_clock, house: House, protocol: HubProtocol, nonsense: bytes
) -> None:
    """As it would without stateful reconnect; and the server is not ended for it."""
    client = await house.client(protocol=protocol)
    b = await house.cluster.scripted("B")
    hello = Invocation("hello", [])
    for payload in (nonsense, protocol.write(hello)):
        b.connections[0].send(m.BroadcastData([], {protocol.name: payload}))
    assert await client.socket.receive() == nonsense
    assert await client.hear(1) == [hello]
    b.connections[0].send(m.CheckUserExistenceWithAck("ann", 7))
    await settle()
    assert [ack.ack_id for ack in b.connections[0].of(m.Ack)] == [7]


async def test_a_socket_that_seems_open_is_replaced(autojump_clock, house: House) -> None:
    client = await house.client()
    old = client.socket
    client.say(Invocation("Echo", [1], "1"))
    await client.hear(1)
    await client.open()
    assert await client.hear(2) == [Sequence(1), Completion("1", 1)]
    with pytest.raises(ConnectionClosed):
        await old.receive()
    client.say(Invocation("Echo", [2], "2"))
    assert await client.hear(1) == [Completion("2", 2)]
    assert len(house.hub.came) == 1


async def test_a_socket_that_is_lost_before_the_handshake(autojump_clock, house: House) -> None:
    client = Stateful(house, (await house.negotiate())["connectionToken"], JSON)
    await client.open()
    await house.network.cut()
    await client.open()
    await client.shake_hands()
    client.say(Invocation("Echo", [1], "1"))
    assert await client.hear(1) == [Completion("1", 1)]


async def test_messages_behind_the_handshake_count(autojump_clock, house: House) -> None:
    client = Stateful(house, (await house.negotiate())["connectionToken"], JSON)
    await client.open()
    hello = write_request(HandshakeRequest("json", 2))
    client.socket.send(hello + JSON.write(Invocation("Echo", [1], "1")), text=True)
    assert (await client.socket.receive()).startswith(b"{}\x1e")
    await trio.sleep(2)
    await house.network.cut()
    await client.open()
    await client.hear(1)
    client.say(Sequence(1), Invocation("Echo", [1], "1"), Invocation("Echo", [2], "2"))
    await trio.sleep(2)
    await house.network.cut()
    await client.open()
    heard = await client.hear(3)
    assert heard == [Sequence(1), Completion("1", 1), Completion("2", 2)]


# -- in a hand-over ---------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["before", "while", "after"])
async def test_a_hand_over_of_a_client_that_is_away(autojump_clock, house: House, cut: str) -> None:
    """A call runs on A, the socket is lost, and the client goes to B."""
    client = await house.client()
    await house.cluster.serve(house.hub, id="B")
    client.say(Invocation("Slow", ["on A"], "1"), Invocation("Echo", ["held?"], "2"))
    await settle()
    if cut == "before":
        await house.network.cut()
    house.a.request_shutdown()
    await trio.sleep(0.5)
    if cut == "while":
        await house.network.cut()
    report = await house.a.shutdown()
    assert report.migrated == 1
    if cut == "after":
        await house.network.cut()
    await client.open()
    assert await client.hear(4) == [
        Sequence(1),
        Invocation("done", ["on A"]),
        Completion("1", "on A"),
        Completion("2", "held?"),
    ]
    client.say(Sequence(3), Invocation("Echo", ["on B"], "3"))
    heard = [one for one in await client.hear(2) if not isinstance(one, Ack)]
    assert heard == [Completion("3", "on B")]
    id = house.hub.came[0][0]
    assert house.hub.came == [(id, None), (id, "A")]
    assert house.hub.left == [(id, "B")]


# -- HTTP -------------------------------------------------------------------------------------


async def test_negotiate_says_so_first(autojump_clock, house: House) -> None:
    for value in ("true", "TRUE"):
        answer = await house.negotiate(f"&useStatefulReconnect={value}")
        assert next(iter(answer.items())) == ("useStatefulReconnect", True)
    for query in ("", "&useStatefulReconnect=1", "&useStatefulReconnect=false"):
        assert "useStatefulReconnect" not in await house.negotiate(query)


async def test_a_service_may_not_offer_it(autojump_clock) -> None:
    network = CutNetwork()
    options = ServiceOptions(stateful_reconnect=False)
    async with open_service(network=network, options=options) as running, trio.open_nursery() as n:
        cluster = Cluster(running.service, n)
        a = await cluster.serve(Chat, id="A")
        house = House(network, cluster, Chat, a, Flusher(), AsyncExitStack())
        assert "useStatefulReconnect" not in await house.negotiate()
        n.cancel_scope.cancel()


def server(*, allows: bool, kind: int = m.ConnectionType.DEFAULT) -> m.HandshakeRequest:
    return m.HandshakeRequest(connection_type=kind, allow_stateful_reconnects=allows)


WEAK = m.ConnectionType.WEAK


@pytest.mark.parametrize(
    ("mode", "servers", "offered"),
    [
        ("default", [], False),
        ("default", [m.HandshakeRequest()], False),
        ("default", [server(allows=True)], True),
        ("default", [server(allows=True), server(allows=False)], False),
        ("default", [server(allows=False), server(allows=True)], False),
        # The Management SDK's, which have no part in it where there is another.
        ("default", [server(allows=True), server(allows=False, kind=WEAK)], True),
        ("default", [server(allows=False), server(allows=True, kind=WEAK)], False),
        ("default", [server(allows=True, kind=WEAK)], True),
        ("default", [server(allows=False, kind=WEAK)], False),
        ("serverless", [], True),
        ("serverless", [server(allows=False, kind=WEAK)], True),
        ("classic", [], True),
        ("classic", [server(allows=False)], False),
        ("classic", [server(allows=True)], True),
    ],
)
async def test_hub_servers_have_a_say(
    autojump_clock, mode: str, servers: list[m.HandshakeRequest], offered: bool
) -> None:
    network = CutNetwork()
    async with (
        open_service(network=network, mode=mode) as running,
        trio.open_nursery() as nursery,
    ):
        for number, hello in enumerate(servers):
            one = ScriptedServer(running.service, nursery, f"server {number}", own=False)
            one.connect(shake=False).send(hello)
        await settle()
        answer = await negotiate(network)
        assert answer.get("useStatefulReconnect", False) is offered
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("query", "comes", "allows", "seconds"),
    [
        ("&useStatefulReconnect=true", 4, True, 4),
        ("&useStatefulReconnect=true", 4, False, 4),
        ("&useStatefulReconnect=true", 6, True, 5),
        ("", 4, True, 0),
    ],
)
async def test_who_asks_for_it_waits_for_a_first_server(
    autojump_clock, query: str, comes: float, allows: bool, seconds: float
) -> None:
    """As the handshake does, and for the same time."""
    network = CutNetwork()
    async with open_service(network=network) as running, trio.open_nursery() as nursery:

        async def come_later() -> None:
            await trio.sleep(comes)
            one = ScriptedServer(running.service, nursery, "A", own=False)
            one.connect(shake=False).send(server(allows=allows))

        nursery.start_soon(come_later)
        began = trio.current_time()
        answer = await negotiate(network, query)
        assert trio.current_time() - began == seconds
        assert ("useStatefulReconnect" in answer) is (allows and seconds == comes)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("allows", [False, True])
async def test_a_hub_server_of_ours_may_forbid_it(autojump_clock, allows: bool) -> None:
    """A client that asks for it in its handshake all the same has an ordinary connection."""
    network, flusher = CutNetwork(), Flusher()
    hub = type("Chat", (Chat,), {"came": [], "left": []})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        async with open_service(network=network) as running, AsyncExitStack() as sockets:
            cluster = Cluster(running.service, nursery)
            options = HubOptions(allow_stateful_reconnects=allows)
            a = await cluster.serve(hub, id="A", options=options)
            house = House(network, cluster, hub, a, flusher, sockets)
            answer = await house.negotiate()
            assert answer.get("useStatefulReconnect", False) is allows
            client = Stateful(house, answer["connectionToken"], JSON)
            await client.open()
            await client.shake_hands(2)
            client.say(Invocation("Echo", [1], "1"))
            assert await client.hear(1) == [Completion("1", 1)]
            await network.cut()
            assert len(hub.left) == (0 if allows else 1)
            nursery.cancel_scope.cancel()


async def test_who_has_it_keeps_it(autojump_clock, house: House) -> None:
    """A server that does not allow it and comes, or takes over, later is none of its business."""
    client = await house.client()
    b = await house.cluster.scripted("B")
    assert "useStatefulReconnect" not in await house.negotiate()
    house.a.request_shutdown()
    await trio.sleep(5)
    id = house.hub.came[0][0]
    assert list(b.opened) == [id]
    await house.network.cut()
    await trio.sleep(5)
    await client.open()
    assert await client.hear(1) == [Sequence(1)]
    assert house.cluster.service.client_count == 1


async def test_other_requests_on_its_path(autojump_clock, house: House) -> None:
    client = await house.client()
    sent = dict(headers())
    wire = await RawHttp.connect(house.network, PORT)
    assert (await wire.ask("POST", client.path, headers=sent)).status == 405
    assert (await wire.ask("GET", client.path, headers=sent)).status == 400
    assert (await wire.ask("DELETE", client.path, headers=sent)).status == 400
    client.say(Invocation("Echo", [1], "1"))
    assert await client.hear(1) == [Completion("1", 1)]
