"""Messages of servers and clients that the service cannot use: a Close, or the end of that one
server connection, and nobody else notices. (Requests: ``test_bad_requests``.)"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import attrs
import msgpack
import pytest
from harness.clients import HELLO, JSON, Client
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedServer
from test_service_front_door import (
    Door,
    WireServer,
    client_token,
    open_door,
    server_token,
    wire_server,
)

from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol.framing import prefixed
from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.messages import Invocation
from signalr_trio.service.options import ServiceOptions

# -- service messages, as bytes ---------------------------------------------------------------

#: Of each type, without its elements; of ping there are none that must be there.
TYPES = [*range(1, 3), *range(4, 44)]
PAYLOADS = {"json": JSON.write(Invocation("hi", []))}
TWICE = b"\x82\xa1a\xc4\x00\xa1a\xc4\x00"
BODIES = {
    "ping with a number": msgpack.packb([3, 1]),
    "group twice": b"\x97\x0d\xa1g\x90" + TWICE + b"\x80\x90\xc0",
    "header twice": b"\x96\x04\xa1c\x80\x82\xa1h\x90\xa1H\x90\xa0\x80",
    "id that is nil": msgpack.packb([6, None, b"x", {}]),
    "payload that is text": msgpack.packb([6, "c", "x", {}]),
    "list that is text": msgpack.packb([7, "c", {}, {}]),
    "ack id over 32 bits": msgpack.packb([18, "c", "g", 1 << 31, {}]),
    "ack id that is true": msgpack.packb([18, "c", "g", True, {}]),
    "flow control of nothing": msgpack.packb([39, "c", 1, 5]),
    "query with a text for a number": msgpack.packb([40, {}, "g", 1, "2", None, None]),
    "claims that are nil": msgpack.packb([41, "t", None, msgpack.Timestamp(1), 1, {}]),
    "time that is a number": msgpack.packb([41, "t", {}, 1, 1, {}]),
    "extension that is text": msgpack.packb([6, "c", b"x", {6: "yes"}]),
    "extensions that are a list": msgpack.packb([6, "c", b"x", []]),
    "a map": msgpack.packb({1: 2}),
    "a type that is text": msgpack.packb(["6"]),
    "nothing": b"",
    "half a body": msgpack.packb([6, "c", b"xxxx", {}])[:-3],
    "an array as deep as it is long": b"\x91" * 3000,
    "an array of four thousand million": b"\xdd\xff\xff\xff\xff",
} | {f"type {number} alone": msgpack.packb([number]) for number in TYPES}


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as door:
        yield door


async def test_a_bad_message_ends_that_server_connection_with_a_reason(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """One server connection after the other; another one, and its client, outlive them all."""
    caplog.set_level(logging.WARNING, "signalr_trio")
    async with (
        wire_server(door) as good,
        door.websocket("/client/?hub=chat", client_token()) as client,
    ):
        client.send(HELLO, text=True)
        opened = await good.next()
        assert isinstance(opened, m.OpenConnection)
        await good.next()
        for name, body in BODIES.items():
            caplog.clear()
            await _send_bad(door, name, prefixed(body))
            (line,) = caplog.messages
            assert line.startswith(f"<server connection {name} of B, hub chat> is ended: ")
        good.send(m.ConnectionData(opened.connection_id, b"{}\x1e", 1))
        assert await client.receive() == b"{}\x1e"


async def _send_bad(door: Door, name: str, data: bytes) -> None:
    path = f"/server/?hub=chat&cid={name.replace(' ', '%20')}"
    async with door.websocket(path, server_token(), X_ASRS_Server_Id="B") as websocket:
        server = WireServer(websocket)
        server.send(m.HandshakeRequest())
        assert isinstance(await server.next(), m.HandshakeResponse)
        websocket.send(data)
        with pytest.raises(ConnectionClosed, match=r"1002: \S"):
            await server.next()


# -- service messages that say something odd --------------------------------------------------


@attrs.frozen
class Scene:
    """Clients c and c2 with server A; d with server B."""

    cluster: Cluster
    a: ScriptedServer
    c: Client
    c2: Client
    b: ScriptedServer
    d: Client

    async def all_go_on(self) -> None:
        """Every connection is as it was."""
        for server, client in ((self.a, self.c), (self.a, self.c2), (self.b, self.d)):
            before = len(server.data_of(client.id))
            client.send("f")
            await settle()
            assert client.close is None
            assert len(server.data_of(client.id)) == before + 1
            assert not server.connections[0].ended


@pytest.fixture
async def scene(autojump_clock) -> AsyncIterator[Scene]:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        c, c2 = await cluster.client("c"), await cluster.client("c2")
        b = await cluster.scripted("B", own=False)
        d = await cluster.client("d")
        yield Scene(cluster, a, c, c2, b, d)


CLIENT_KIND = m.FlowControlConnectionType.CLIENT
ODD: list[m.ServiceMessage] = [
    m.HandshakeRequest(),
    m.OpenConnection("c"),
    m.OpenConnection("new"),
    m.ConnectionData("", b"x"),
    m.ConnectionData("nobody", b"x", is_partial=True),
    m.CloseConnection(""),
    m.MultiConnectionData([], PAYLOADS),
    m.MultiConnectionData(["c"], {}),
    m.MultiConnectionData(["c"], {"no such protocol": b"x"}),
    m.UserData("", PAYLOADS),
    m.GroupBroadcastData("", ["c"] * 1000, PAYLOADS, ["u"] * 1000, "u"),
    m.JoinGroup("c", ""),
    m.UserJoinGroup("", "", ttl=-5),
    m.LeaveGroup("c", "never joined"),
    m.UserLeaveGroup("nobody", None),
    m.Ack(0, 99),
    m.ServiceEvent(9, None, 9, None),
    m.AccessKeyResponse(),
    m.HandshakeResponse("no"),
    m.ServiceMapping("", "", ""),
    m.ConnectionReconnect("c"),
    m.ClientCompletion("nobody asked", "c", "A", "json", b"x"),
    m.ErrorCompletion("nobody asked", "c", "A", "no"),
    m.ConnectionFlowControl("c", CLIENT_KIND, m.FlowControlOperation.PAUSE),
    m.ConnectionFlowControl("c", CLIENT_KIND, m.FlowControlOperation.OFFLINE),
    m.UpdateConnectionClaims("c", [("a", "b")]),
    m.Ping(("status",)),
    m.Ping(("status", None)),
    m.Ping((None, "status")),
    m.Ping(("offline", "")),
    m.Ping(("target", "x")),
    m.Ping(("shutdown", "finack")),
    m.Ping(("shutdown", "")),
    m.Ping(("shutdown", "FIN:1")),
]


@pytest.mark.parametrize("message", ODD, ids=lambda one: type(one).__name__)
async def test_an_odd_message_changes_nothing(
    autojump_clock, scene: Scene, message: m.ServiceMessage
) -> None:
    connection = scene.a.connections[0]
    before = len(connection.received)
    connection.send(message)
    await settle()
    assert connection.received[before:] == []
    await scene.all_go_on()
    assert scene.c.received == []


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (m.JoinGroupWithAck("nobody", "g", -1), m.AckStatus.NOT_FOUND),
        (m.JoinGroupWithAck("c", "", 0), m.AckStatus.OK),
        (m.UserJoinGroupWithAck("", "", 1, ttl=-(2**31)), m.AckStatus.OK),
        (m.UserLeaveGroupWithAck("nobody", None, 1), m.AckStatus.OK),
        (m.CheckUserInGroupWithAck("", "", 1), m.AckStatus.NOT_FOUND),
        (m.CheckGroupExistenceWithAck("", 1), m.AckStatus.NOT_FOUND),
        (m.CheckConnectionExistenceWithAck("", 1), m.AckStatus.NOT_FOUND),
        (m.CheckUserExistenceWithAck("", 1), m.AckStatus.NOT_FOUND),
        (m.CloseConnectionWithAck("nobody", None, 1), m.AckStatus.NOT_FOUND),
        (m.CloseUserConnectionsWithAck("nobody", None, 1), m.AckStatus.OK),
        (m.CloseGroupConnectionsWithAck("nobody", "why", 1), m.AckStatus.OK),
        (m.CloseConnectionsWithAck(None, 1, ["c", "c2", "d"]), m.AckStatus.OK),
        (m.GroupMemberQuery("g", 1, top=0), m.AckStatus.INTERNAL_SERVER_ERROR),
        (m.GroupMemberQuery("g", 1, max_page_size=-1), m.AckStatus.INTERNAL_SERVER_ERROR),
        (m.GroupMemberQuery("g", 1, continuation_token="\uffff"), m.AckStatus.OK),
        (m.RefreshAuth("nobody", [], m.NO_EXPIRY, 1), m.AckStatus.NOT_FOUND),
        (m.GetConnectionClaims("", 1), m.AckStatus.NOT_FOUND),
    ],
    ids=lambda one: type(one).__name__,
)
async def test_an_odd_question_has_its_answer(
    autojump_clock, scene: Scene, message: m.ServiceMessage, status: int
) -> None:
    """Asked twice under one id, it is answered twice."""
    connection = scene.a.connections[0]
    for _ in range(2):
        connection.send(message)
    await settle()
    acks = connection.of(m.Ack)
    assert [(ack.ack_id, ack.status) for ack in acks] == [(message.ack_id, status)] * 2  # type: ignore[attr-defined]
    await scene.all_go_on()


async def test_a_client_that_is_named_twice_hears_it_once(autojump_clock, scene: Scene) -> None:
    scene.a.connections[0].send(m.MultiConnectionData(["c", "d", "c"], PAYLOADS))
    await settle()
    assert [len(one.calls) for one in (scene.c, scene.c2, scene.d)] == [1, 0, 1]


@pytest.mark.parametrize(
    "message",
    [
        m.MultiConnectionData(["c"], PAYLOADS, filter="userId is null"),
        m.BroadcastData([], PAYLOADS, filter="true or user eq 'ann'"),
        m.UserData("ann", PAYLOADS, filter="true; true"),
        m.MultiUserData(["ann"], PAYLOADS, filter="true and"),
        m.GroupBroadcastData("g", [], PAYLOADS, filter="groups"),
        m.MultiGroupBroadcastData(["g"], PAYLOADS, filter=""),
    ],
    ids=lambda one: type(one).__name__,
)
async def test_a_send_with_a_filter_that_is_none_reaches_nobody(
    autojump_clock, scene: Scene, caplog: pytest.LogCaptureFixture, message: m.ServiceMessage
) -> None:
    """Rather than somebody whom the filter keeps out."""
    scene.a.connections[0].send(m.JoinGroup("c", "g"))
    scene.a.connections[0].send(message)
    await settle()
    assert scene.c.calls == []
    said = "<server connection A-0 of A, hub chat>: a send reaches nobody: 'filter' cannot be read"
    assert said in caplog.text
    await scene.all_go_on()


# -- messages in parts ------------------------------------------------------------------------


async def test_a_message_in_parts_reaches_its_client_whole(autojump_clock, scene: Scene) -> None:
    """What others send meanwhile comes before it, not between its parts."""
    connection = scene.a.connections[0]
    call = JSON.write(Invocation("in parts", [1]))
    for part in (call[:5], b"", call[5:20]):
        connection.send(m.ConnectionData("c", part, is_partial=True))
    scene.b.connections[0].send_to(["c", "c2"], "meanwhile")
    await settle()
    connection.say("c2", Invocation("another's", []))
    await settle()
    assert scene.c.transport.sent[1:] == [JSON.write(Invocation("meanwhile", []))]
    connection.send(m.ConnectionData("c", call[20:], m.DataMessageType.INVOCATION))
    connection.send(m.ConnectionData("c", call))
    await settle()
    assert [target for target, _ in scene.c.calls] == ["meanwhile", "in parts", "in parts"]
    assert scene.c.transport.sent[2:] == [call, call]
    assert [target for target, _ in scene.c2.calls] == ["meanwhile", "another's"]


async def test_a_message_that_does_not_end_ends_its_client(autojump_clock) -> None:
    async with open_cluster(ServiceOptions(client_buffer=1000)) as cluster:
        a = await cluster.scripted("A", own=False)
        c, other = await cluster.client("c"), await cluster.client("other")
        for _ in range(11):
            a.connections[0].send(m.ConnectionData("c", b"x" * 100, is_partial=True))
        await settle()
        assert c.close is not None
        assert "does not end" in (c.close.error or "")
        assert len(a.connections[0].closes_of("c")) == 1
        assert other.close is None
        assert not a.connections[0].ended


async def test_parts_of_a_client_that_has_gone_are_forgotten(autojump_clock, scene: Scene) -> None:
    """The id may come again."""
    connection = scene.a.connections[0]
    connection.send(m.ConnectionData("c", b"half of", is_partial=True))
    await settle()
    scene.c.leave()
    await settle()
    again = await scene.cluster.client("c")
    with_again = scene.cluster.service.hub("chat").sessions["c"].connection
    assert with_again is not None
    assert with_again.server.id == "A"
    assert again.response == {}
    connection.say("c", Invocation("whole", []))
    await settle()
    assert [target for target, _ in again.calls] == ["whole"]


# -- hub messages -----------------------------------------------------------------------------

MESSAGEPACK = write_request(HandshakeRequest("messagepack", 1))
HUB_MESSAGES = {
    "no JSON": (HELLO, b"GET / HTTP/1.1\x1e"),
    "a list": (HELLO, b"[1]\x1e"),
    "half an object": (HELLO, b'{"type":1\x1e'),
    "no type": (HELLO, b"{}\x1e"),
    "a type that is text": (HELLO, b'{"type":"1"}\x1e'),
    "an id that is a number": (HELLO, b'{"type":1,"invocationId":1,"target":"f"}\x1e'),
    "bad UTF-8": (HELLO, b'{"type":1,"target":"\xff\xfe"}\x1e'),
    "nothing": (HELLO, b"\x1e"),
    "as deep as it is long": (HELLO, b"[" * 2000 + b"\x1e"),
    "too large": (HELLO, b"x" * 3000),
    "no array": (MESSAGEPACK, prefixed(b"\x01")),
    "an empty array": (MESSAGEPACK, prefixed(b"\x90")),
    "a type that is nil": (MESSAGEPACK, prefixed(b"\x91\xc0")),
    "no MessagePack": (MESSAGEPACK, prefixed(b"\xc1")),
    "a prefix of six bytes": (MESSAGEPACK, b"\xff" * 6),
    "a length of 2 GB": (MESSAGEPACK, b"\xff\xff\xff\xff\x07"),
    "an array of four thousand million": (MESSAGEPACK, prefixed(b"\xdd\xff\xff\xff\xff")),
}


@pytest.mark.parametrize("name", HUB_MESSAGES)
async def test_a_bad_hub_message_closes_that_client(
    autojump_clock, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """It does not reach an SDK server, which some of them would make deaf to that client; what
    came before it does."""
    caplog.set_level(logging.WARNING, "signalr_trio")
    hello, data = HUB_MESSAGES[name]
    async with open_cluster(ServiceOptions(max_message_size=2500)) as cluster:
        a = await cluster.scripted("A", own=False)
        bad, good = await cluster.client("bad", hello=hello), await cluster.client("good")
        before = len(a.connections[0].payloads_of("bad"))
        bad.transport.put(data)
        bad.transport.put(data)
        await settle()
        assert bad.over.is_set()
        assert b"Connection closed with an error." in bad.transport.sent[-1]
        assert len(a.connections[0].payloads_of("bad")) == before
        assert len(a.connections[0].closes_of("bad")) == 1
        assert "client bad of hub chat: " in caplog.text
        good.send("f")
        await settle()
        assert len(a.data_of("good")) == 1
        assert good.close is None


@pytest.mark.parametrize("kind", [0, 99, -1])
async def test_a_hub_message_of_an_unknown_type_is_passed_over(autojump_clock, kind: int) -> None:
    """An SDK server would read nothing of that client behind it (0 and 99 were seen to do so)."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        client = await cluster.client()
        client.transport.put(b'{"type":%d}\x1e' % kind)
        client.send("f")
        await settle()
        assert a.data_of("c") == [JSON.write(Invocation("f", []))]
        assert client.close is None
