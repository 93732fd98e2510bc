"""Who gets what a server sends: every kind of send, and whom it leaves out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from harness.clients import JSON, Client, claims_for
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedServer

from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import Invocation
from signalr_trio.service.options import ServiceOptions

MSGPACK = MessagePackProtocol()
HI = Invocation("hi", [])
PAYLOADS = {"json": JSON.write(HI), "messagepack": MSGPACK.write(HI)}


@attrs.frozen
class Room:
    """Four clients: two of ann, one of bob, one of nobody; groups g (1, 3) and h (3, 4)."""

    cluster: Cluster
    a: ScriptedServer
    b: ScriptedServer
    clients: list[Client]

    async def heard(self, message: m.ServiceMessage) -> str:
        """Which clients hear a send of B, as digits."""
        before = [len(client.calls) for client in self.clients]
        self.b.connections[0].send(message)
        await settle()
        counts = zip(before, self.clients, strict=True)
        news = {client.id: len(client.calls) - count for count, client in counts}
        assert set(news.values()) <= {0, 1}
        return "".join(id for id, count in news.items() if count)


@pytest.fixture
async def room(autojump_clock) -> AsyncIterator[Room]:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        users = ["ann", "ann", "bob", None]
        clients = [
            await cluster.client(str(number), claims=claims_for(user) if user else [])
            for number, user in enumerate(users, 1)
        ]
        await cluster.client("elsewhere", hub="other")
        b = await cluster.scripted("B")
        for id, group in [("1", "g"), ("3", "g"), ("3", "h"), ("4", "h")]:
            b.connections[0].send(m.JoinGroup(id, group))
        await settle()
        yield Room(cluster, a, b, clients)


SENDS = [
    (m.BroadcastData([], PAYLOADS), "1234"),
    (m.BroadcastData(["2", "4", "nobody"], PAYLOADS), "13"),
    (m.MultiConnectionData(["4", "1", "nobody"], PAYLOADS), "14"),
    (m.MultiConnectionData(["elsewhere"], PAYLOADS), ""),
    (m.UserData("ann", PAYLOADS), "12"),
    (m.UserData("nobody", PAYLOADS), ""),
    (m.MultiUserData(["bob", "ann", "bob"], PAYLOADS), "123"),
    (m.GroupBroadcastData("g", [], PAYLOADS), "13"),
    (m.GroupBroadcastData("g", ["3"], PAYLOADS), "1"),
    (m.GroupBroadcastData("g", [], PAYLOADS, ["ann"]), "3"),
    (m.GroupBroadcastData("nobody", [], PAYLOADS), ""),
    (m.MultiGroupBroadcastData(["g", "h", "nobody"], PAYLOADS), "134"),
]


@pytest.mark.parametrize(("message", "expected"), SENDS)
async def test_a_send_reaches_its_clients_once_and_nobody_else(
    autojump_clock, room: Room, message: m.ServiceMessage, expected: str
) -> None:
    assert await room.heard(message) == expected


@pytest.mark.parametrize(("message", "expected"), SENDS)
async def test_a_send_reaches_clients_that_are_being_handed_over(
    autojump_clock, room: Room, message: m.ServiceMessage, expected: str
) -> None:
    """Rule 19: sends from elsewhere reach a client at once, in a hand-over too."""
    room.a.fin()
    await settle()
    assert room.a.connections[0].migrating_closes_of("1")
    assert await room.heard(message) == expected
    for client in room.clients:
        room.a.connections[0].release(client.id)
    room.b.answers = False
    await settle()
    assert await room.heard(message) == expected


FILTERED = [
    (m.BroadcastData([], PAYLOADS, filter="userId eq 'ann'"), "12"),
    (m.BroadcastData(["1"], PAYLOADS, filter="startswith(userId, 'a')"), "2"),
    (m.BroadcastData([], PAYLOADS, filter="userId eq null"), "4"),
    (m.BroadcastData([], PAYLOADS, filter="'g' in groups and not ('h' in groups)"), "1"),
    (m.BroadcastData([], PAYLOADS, filter="false"), ""),
    (m.MultiConnectionData(["4", "1"], PAYLOADS, filter="connectionId ne '4'"), "1"),
    (m.UserData("ann", PAYLOADS, filter="'g' in groups"), "1"),
    (m.MultiUserData(["bob", "ann"], PAYLOADS, filter="length(groups) eq 0"), "2"),
    (m.GroupBroadcastData("g", [], PAYLOADS, filter="userId in ('bob', 'nobody')"), "3"),
    (m.GroupBroadcastData("g", ["3"], PAYLOADS, filter="'h' in groups"), ""),
    (m.MultiGroupBroadcastData(["g", "h"], PAYLOADS, filter="userId ne 'bob'"), "14"),
]


@pytest.mark.parametrize(("message", "expected"), FILTERED)
async def test_a_filter_leaves_out_whom_it_does_not_let_by(
    autojump_clock, room: Room, message: m.ServiceMessage, expected: str
) -> None:
    assert await room.heard(message) == expected


async def test_a_filter_sees_the_groups_of_users_too(autojump_clock, room: Room) -> None:
    room.b.connections[0].send(m.UserJoinGroup("ann", "k"))
    room.b.connections[0].send(m.UserJoinGroup("bob", "k", ttl=5))
    members = m.BroadcastData([], PAYLOADS, filter="'k' in groups")
    assert await room.heard(members) == "123"
    assert await room.heard(attrs.evolve(members, filter="length(groups) eq 3")) == "3"
    await trio.sleep(5)
    assert await room.heard(members) == "12"
    room.b.connections[0].send(m.UserLeaveGroup("ann", "k"))
    assert await room.heard(members) == ""


async def test_each_client_gets_the_payload_of_its_hub_protocol(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        text = await cluster.client("text")
        hello = write_request(HandshakeRequest("messagepack", 1))
        binary = await cluster.client("binary", hello=hello)
        a.connections[0].send(m.BroadcastData([], PAYLOADS))
        a.connections[0].send(m.BroadcastData([], {"json": PAYLOADS["json"]}))
        await settle()
        assert text.transport.sent[1:] == [PAYLOADS["json"]] * 2
        assert binary.transport.sent[1:] == [PAYLOADS["messagepack"]]


async def test_sends_of_one_connection_keep_their_order(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client(claims=claims_for("ann"))
        connection = a.connections[0]
        connection.send(m.JoinGroup("c", "g"))
        for number in range(40):
            payloads = {"json": JSON.write(Invocation("f", [number]))}
            connection.send(
                [
                    m.BroadcastData([], payloads),
                    m.MultiConnectionData(["c"], payloads),
                    m.UserData("ann", payloads),
                    m.GroupBroadcastData("g", [], payloads),
                ][number % 4]
            )
        await settle()
        assert [arguments[0] for _, arguments in client.calls] == list(range(40))


async def test_what_is_sent_before_the_handshake_response_waits_for_it(autojump_clock) -> None:
    """The send of an OnConnected overtakes the response of its own server, as a rule."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", connections=2)
        a.answers = False
        client = await cluster.client(claims=claims_for("ann"))
        a.connections[0].send_to(["c"], "first")
        a.connections[0].send(m.UserData("ann", PAYLOADS))
        await settle()
        assert client.transport.sent == []
        a.one_with("c").answer("c")
        await settle()
        assert client.response == {}
        assert [target for target, _ in client.calls] == ["first", "hi"]
        a.connections[0].send_to(["c"], "later")
        await settle()
        assert [target for target, _ in client.calls] == ["first", "hi", "later"]


async def test_a_client_that_waits_for_a_server_misses_no_send(autojump_clock) -> None:
    """It has no server yet; what is sent to all is for it too, but for what came before it."""
    async with open_cluster(ServiceOptions(connect_wait=60)) as cluster:
        other = await cluster.scripted("A", hub="other")
        client = await cluster.client(hub="chat")
        unknown = await cluster.client("unknown", hub="chat", hello=b"")
        assert other.opened == {}
        a = await cluster.scripted("A", hub="chat")
        a.connections[0].send(m.BroadcastData([], PAYLOADS))
        await settle()
        assert [target for target, _ in client.calls] == ["hi"]
        assert unknown.transport.sent == []
