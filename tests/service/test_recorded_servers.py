"""What the official SDK (1.34) says on its server connections, and what the service does with it.

``tests/data/transcripts/frames.json`` has every distinct body that it was seen to send, by the
scenario it was first seen in; here each of them is said to the service.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio
from harness.clients import JSON, Client, claims_for
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedConnection, ScriptedServer

from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol.messages import Close, Completion, Invocation
from signalr_trio.protocol.service_protocol import parse

MessageT = TypeVar("MessageT", bound=m.ServiceMessage)

_DATA = Path(__file__).parent.parent / "data" / "transcripts"


def _parsed(body: str) -> m.ServiceMessage:
    message = parse(base64.b64decode(body))
    assert message is not None
    return message


RECORDED: dict[str, list[m.ServiceMessage]] = {
    scenario: [_parsed(body) for body in bodies]
    for scenario, bodies in json.loads((_DATA / "frames.json").read_text()).items()
}


ALL = [message for messages in RECORDED.values() for message in messages]


def said(kind: type[MessageT], fits: Callable[[MessageT], object] = lambda _: True) -> MessageT:
    """The first such message of all."""
    return next(one for one in ALL if isinstance(one, kind) and fits(one))


@attrs.frozen
class Scene:
    """Clients a (user u1), b (u2) and c (nobody) with the SDK server A; d with the server B."""

    cluster: Cluster
    a: ScriptedServer
    b: ScriptedServer
    clients: dict[str, Client]

    @property
    def sdk(self) -> ScriptedConnection:
        return self.a.connections[0]

    async def answers(self, message: m.ServiceMessage) -> list[m.ServiceMessage]:
        """What the service says on that connection, but for what it says of clients."""
        before = len(self.sdk.received)
        self.sdk.send(message)
        await settle()
        return [
            one
            for one in self.sdk.received[before:]
            if not isinstance(one, m.CloseConnection | m.ConnectionData) and one != m.Ping()
        ]

    async def others_are_untouched(self) -> None:
        before = len(self.clients["d"].calls)
        self.b.connections[0].send_to(["d"], "hi")
        await settle()
        assert len(self.clients["d"].calls) == before + 1
        assert self.clients["d"].close is None


@pytest.fixture
async def scene(autojump_clock) -> AsyncIterator[Scene]:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        clients = {
            "a": await cluster.client("a", claims=claims_for("u1")),
            "b": await cluster.client("b", claims=claims_for("u2")),
            "c": await cluster.client("c"),
        }
        b = await cluster.scripted("B", hub="other")
        clients["d"] = await cluster.client("d", hub="other")
        yield Scene(cluster, a, b, clients)


# -- everything, in a row ---------------------------------------------------------------------


@pytest.mark.parametrize("scenario", RECORDED)
async def test_all_that_an_sdk_server_says_is_taken(autojump_clock, scenario: str) -> None:
    """Each question has its answer, the connection lives, and nobody else notices anything."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        for id in _clients_in(RECORDED[scenario]):
            await cluster.client(id)
        b = await cluster.scripted("B", hub="other")
        d = await cluster.client("d", hub="other")
        connection = a.connections[0]
        for message in RECORDED[scenario]:
            connection.send(message)
        await trio.sleep(1)
        assert not connection.ended
        assert _questions(RECORDED[scenario]) == _answered(connection)
        await Scene(cluster, a, b, {"d": d}).others_are_untouched()


def _clients_in(messages: list[m.ServiceMessage]) -> dict[str, None]:
    return dict.fromkeys(
        one.connection_id
        for one in messages
        if isinstance(one, m.ConnectionData | m.CloseConnection)
    )


def _questions(messages: list[m.ServiceMessage]) -> list[Any]:
    """What is to be answered, in order: acks by id, client results by id, pings by kind."""
    questions: list[Any] = []
    for one in messages:
        if hasattr(one, "ack_id"):
            questions.append(one.ack_id)  # type: ignore[attr-defined]
        elif isinstance(one, m.Ping) and one.values and not str(one.values[0]).startswith("#"):
            questions.append(one.values[0])
    return questions


def _answered(connection: ScriptedConnection) -> list[Any]:
    return [
        one.ack_id if isinstance(one, m.Ack) else one.values[0]
        for one in connection.received
        if isinstance(one, m.Ack) or (isinstance(one, m.Ping) and one.values)
    ]


# -- handshakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hello",
    [
        m.HandshakeRequest(target=""),
        m.HandshakeRequest(connection_type=m.ConnectionType.ON_DEMAND, target=""),
        m.HandshakeRequest(connection_type=m.ConnectionType.WEAK, target=""),
        m.HandshakeRequest(target="", migration_level=m.MigrationLevel.SHUTDOWN_ONLY),
        m.HandshakeRequest(target="", allow_stateful_reconnects=True),
    ],
    ids=["default", "on demand", "weak", "migrates", "stateful"],
)
async def test_each_kind_of_server_connection_comes_up_and_serves_a_client(
    autojump_clock, hello: m.HandshakeRequest
) -> None:
    assert hello in ALL
    async with open_cluster() as cluster:
        a = ScriptedServer(cluster.service, cluster.nursery, "A", own=False)
        connection = a.connect(shake=False)
        connection.send(hello)
        await settle()
        assert connection.of(m.HandshakeResponse) == [m.HandshakeResponse(None, connection.id)]
        client = await cluster.client()
        assert client.response == {}
        assert list(connection.opened) == ["c"]


async def test_a_weak_connection_is_given_clients_last(autojump_clock) -> None:
    weak = said(m.HandshakeRequest, lambda one: one.connection_type == m.ConnectionType.WEAK)
    async with open_cluster() as cluster:
        sending = ScriptedServer(cluster.service, cluster.nursery, "sending", own=False)
        sending.connect(shake=False).send(weak)
        serving = await cluster.scripted("serving", own=False)
        for number in range(4):
            await cluster.client(str(number))
        assert len(serving.opened) == 4
        assert sending.opened == {}
        listener = await cluster.client("listener")
        sending.connections[0].send(said(m.BroadcastData, _says_msg))
        await settle()
        assert [target for target, _ in listener.calls] == ["msg"]


def _says_msg(one: m.BroadcastData) -> bool:
    return b'"target":"msg"' in one.payloads["json"] and not one.excluded_list


# -- pings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        (["#clientInHub", "0", "#client", "0"], None),
        (["status", "1"], ["status", "1", "clientcount", "4", "servercount", "2"]),
        (["echo", "e-1"], ["echo", "e-1"]),
        (
            ["status", "1", "echo", "e-2"],
            ["status", "1", "clientcount", "4", "servercount", "2"],
        ),
        (["shutdown", "fin:0"], ["shutdown", "finack"]),
        (["shutdown", "fin:1"], ["shutdown", "finack"]),
        (["shutdown", "fin:2"], ["shutdown", "finack"]),
    ],
)
async def test_a_ping_and_its_answer(
    autojump_clock, scene: Scene, values: list[str], answer: list[str] | None
) -> None:
    assert m.Ping.of(*values) in ALL
    expected = [] if answer is None else [m.Ping.of(*answer)]
    assert await scene.answers(m.Ping.of(*values)) == expected


async def test_the_servers_of_a_hub(autojump_clock, scene: Scene) -> None:
    """The SDK takes no answer that is older than one it has had, before a restart of the service
    too."""
    await scene.cluster.scripted("A2")
    asked = said(m.Ping, lambda one: one.get("servers") is not None)
    times: list[int] = []
    for _ in range(2):
        (answer,) = await scene.answers(asked)
        assert isinstance(answer, m.Ping)
        time, _, names = (answer.get("servers") or "").partition(":")
        assert names == "A;A2"
        times.append(int(time))
    assert sorted(times) == times
    assert times[0] > 1_700_000_000_000


@pytest.mark.parametrize("fin", ["fin:0", "fin:1", "fin:2"])
async def test_behind_a_fin_there_come_no_new_clients(
    autojump_clock, scene: Scene, fin: str
) -> None:
    await scene.answers(said(m.Ping, lambda one: one.get("shutdown") == fin))
    newcomer = await scene.cluster.client("new")
    await trio.sleep(30)
    assert "new" not in scene.a.opened
    assert newcomer.response is not None
    assert "No hub server is connected" in newcomer.response["error"]
    assert scene.clients["a"].close is None


# -- clients ----------------------------------------------------------------------------------


async def test_the_close_of_a_hub_is_the_last_that_a_client_hears(
    autojump_clock, scene: Scene
) -> None:
    """Data type 4; what its methods still send comes behind it and goes nowhere."""
    closes = m.DataMessageType.CLOSE
    close = said(m.ConnectionData, lambda one: one.data_type == closes and one.connection_id == "a")
    scene.sdk.send(close)
    scene.sdk.complete("a", "1", "late")
    scene.sdk.send_to(["a"], "late")
    await settle()
    assert scene.clients["a"].received == [Close(None, True)]


async def test_an_abort_of_the_hub_is_no_reason_to_reconnect(autojump_clock, scene: Scene) -> None:
    """The hub's own Close comes first, then message 5."""
    messages = [
        one for one in RECORDED["client_close"] if getattr(one, "connection_id", "") == "abort"
    ]
    assert [type(one).__name__ for one in messages] == [
        "ConnectionData",
        "ConnectionData",
        "CloseConnection",
    ]
    scene.a.answers = False
    client = await scene.cluster.client("abort")
    for message in messages:
        scene.sdk.send(message)
    await settle()
    assert client.close == Close(None, False)
    assert client.over.is_set()
    assert scene.sdk.closes_of("abort") == []


async def test_a_pause_that_nobody_asked_for_is_passed_over(autojump_clock, scene: Scene) -> None:
    """Of servers that are not ours the service pauses no client."""
    ack = attrs.evolve(said(m.ConnectionFlowControl), connection_id="a")
    assert ack.operation == m.FlowControlOperation.PAUSE_ACK
    assert await scene.answers(ack) == []
    scene.clients["a"].send("f")
    await settle()
    assert len(scene.a.data_of("a")) == 1


# -- sends ------------------------------------------------------------------------------------

SENDS = [
    (m.BroadcastData, "All", [], "abc"),
    (m.BroadcastData, "AllExcept", ["b", "c"], "a"),
    (m.MultiConnectionData, "Client", ["b"], "b"),
    (m.MultiConnectionData, "Clients", ["a", "b"], "ab"),
    (m.UserData, "User", "u1", "a"),
    (m.MultiUserData, "Users", ["u1", "u2"], "ab"),
    (m.GroupBroadcastData, "Group", "g1", "ab"),
    (m.GroupBroadcastData, "GroupExcept", "g1", ""),
    (m.MultiGroupBroadcastData, "Groups", ["g1", "g2"], "abc"),
]


@pytest.mark.parametrize(
    ("kind", "name", "to", "heard_by"), SENDS, ids=[name for _, name, _, _ in SENDS]
)
async def test_every_kind_of_send(
    autojump_clock, scene: Scene, kind: type[Any], name: str, to: Any, heard_by: str
) -> None:
    """As ``name`` in the recordings, to (or to all but) ``to``."""
    for id, group in [("a", "g1"), ("b", "g1"), ("c", "g2")]:
        scene.sdk.send(m.JoinGroup(id, group))
    ends = json.dumps([name]).encode() + b"}\x1e"
    message = said(
        kind,
        lambda one: attrs.astuple(one)[0] == to and one.payloads["json"].endswith(ends),
    )
    assert await scene.answers(message) == []
    heard = {id: [args for _, args in client.calls] for id, client in scene.clients.items()}
    assert heard == {id: [[name]] if id in heard_by else [] for id in "abcd"}


async def test_a_traced_send_and_join(autojump_clock, scene: Scene) -> None:
    """With tracing on (ping ``d-m``), or from a diagnostic client's call."""
    join = said(m.JoinGroupWithAck, lambda one: one.tracing_id)
    assert await scene.answers(join) == [m.Ack(join.ack_id, m.AckStatus.OK)]
    send = said(m.BroadcastData, lambda one: one.tracing_id)
    assert await scene.answers(send) == []
    assert len(scene.clients["c"].calls) == 1


@pytest.mark.parametrize("kind", [m.JoinGroupWithAck, m.LeaveGroupWithAck])
async def test_groups(autojump_clock, scene: Scene, kind: type[Any]) -> None:
    message = said(kind)
    assert await scene.answers(message) == [m.Ack(message.ack_id, m.AckStatus.OK)]
    scene.clients["a"].leave()
    await settle()
    assert await scene.answers(message) == [m.Ack(message.ack_id, m.AckStatus.NOT_FOUND)]


# -- client results ---------------------------------------------------------------------------


async def test_a_client_that_is_nowhere_is_asked(autojump_clock, scene: Scene) -> None:
    asked = said(m.ClientInvocation, lambda one: one.connection_id == "far-away")
    scene.sdk.send(asked)
    await trio.sleep(1)
    (answer,) = scene.sdk.of(m.ErrorCompletion)
    assert (answer.invocation_id, answer.connection_id) == (asked.invocation_id, "far-away")
    assert "does not exist" in (answer.error or "")


async def test_its_own_client_is_asked_and_the_question_settled(
    autojump_clock, scene: Scene
) -> None:
    """The answer stays in the line; what the SDK then says (35, empty) is to be forgotten."""
    asked = said(m.ClientInvocation, lambda one: one.connection_id == "conn-a")
    settled = said(m.ClientCompletion, lambda one: one.invocation_id == asked.invocation_id)
    assert settled.payload == b""
    client = await scene.cluster.client("conn-a")
    scene.sdk.send(asked)
    await settle()
    (call,) = client.received
    client.say(Completion(call.invocation_id, "answer"))  # type: ignore[union-attr]
    await trio.sleep(1)
    assert len(scene.a.data_of("conn-a")) == 1
    scene.sdk.send(settled)
    client.leave()
    await trio.sleep(1)
    assert scene.sdk.of(m.ErrorCompletion) == []
    assert scene.sdk.of(m.ClientCompletion) == []


async def test_a_tracing_id_comes_back_with_the_answer(autojump_clock, scene: Scene) -> None:
    """From the service itself, and from the client."""
    payloads = {"json": JSON.write(Invocation("f", [], "2"))}
    for invocation_id, client in (("1", "nobody"), ("2", "d")):
        asked = m.ClientInvocation(invocation_id, client, "B", payloads, tracing_id=7)
        scene.b.connections[0].send(asked)
    await settle()
    scene.clients["d"].say(Completion("2", "answer"))
    await settle()
    (error,) = scene.b.connections[0].of(m.ErrorCompletion)
    (result,) = scene.b.connections[0].of(m.ClientCompletion)
    assert (error.invocation_id, error.tracing_id) == ("1", 7)
    assert (result.invocation_id, result.tracing_id) == ("2", 7)
