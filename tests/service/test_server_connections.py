"""Server connections: handshake, pings, bad input that touches nobody else, and the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from harness.clients import Client
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedServer

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol import service_messages as m
from signalr_trio.service.options import ServiceOptions


@attrs.frozen
class Scene:
    """Client c with server A, client d with server B."""

    cluster: Cluster
    a: ScriptedServer
    b: ScriptedServer
    c: Client
    d: Client

    async def other_server_and_client_are_untouched(self) -> None:
        self.d.send("f")
        await settle()
        assert len(self.b.data_of("d")) == 1
        self.b.connections[0].send_to(["d"], "f")
        await settle()
        assert len(self.d.calls) == 1
        assert not self.b.connections[0].ended


@pytest.fixture
async def scene(autojump_clock) -> AsyncIterator[Scene]:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        c = await cluster.client("c")
        b = await cluster.scripted("B")
        d = await cluster.client("d")
        yield Scene(cluster, a, b, c, d)


# -- handshake --------------------------------------------------------------------------------


async def test_the_response_names_the_connection(autojump_clock, scene: Scene) -> None:
    (response,) = scene.a.connections[0].of(m.HandshakeResponse)
    assert (response.error_message, response.connection_id) == (None, "A-0")


async def test_another_version_is_refused_with_a_text(autojump_clock, scene: Scene) -> None:
    connection = scene.a.connect(shake=False)
    connection.send(m.HandshakeRequest(version=2))
    await settle()
    (response,) = connection.of(m.HandshakeResponse)
    assert response.error_message == "Version 2 is not supported; 1 is."
    assert connection not in scene.cluster.service.hub("chat").connections


async def test_nothing_is_said_or_opened_before_the_handshake(autojump_clock, scene: Scene) -> None:
    connection = scene.a.connect(shake=False)
    await trio.sleep(ServiceOptions().handshake_timeout - 1)
    for number in range(4):
        await scene.cluster.client(f"more-{number}")
    assert connection.received == []
    await trio.sleep(2)
    connection.send(m.HandshakeRequest())
    await settle()
    assert connection.received == []


async def test_a_first_message_that_is_no_handshake_ends_the_connection(
    autojump_clock, scene: Scene
) -> None:
    connection = scene.a.connect(shake=False)
    connection.send(m.BroadcastData([], {"json": b"{}\x1e"}))
    await settle()
    assert scene.c.received == []
    connection.send(m.HandshakeRequest())
    await settle()
    assert connection.received == []
    await scene.other_server_and_client_are_untouched()


async def test_what_comes_in_one_go_with_the_handshake_counts(autojump_clock, scene: Scene) -> None:
    connection = scene.a.connect()
    connection.send(m.Ping.of("echo", "x"))
    connection.send_to(["d"], "hi")
    await settle()
    assert connection.of(m.Ping) == [m.Ping.of("echo", "x")]
    assert len(scene.d.calls) == 1


async def test_a_migration_level_of_the_future_is_no_error(autojump_clock, scene: Scene) -> None:
    connection = scene.a.connect(shake=False)
    connection.send(m.HandshakeRequest(migration_level=9))
    await settle()
    assert connection.is_up


# -- pings ------------------------------------------------------------------------------------


async def test_pings_that_ask(autojump_clock, scene: Scene) -> None:
    connection = scene.a.connections[0]
    for ping in [m.Ping.of("echo", "7"), m.Ping.of("status", "1"), m.Ping.of("servers", "")]:
        connection.send(ping)
    connection.send(m.Ping())
    connection.send(m.Ping.of("shutdown", "what?"))
    connection.send(m.Ping.of("#client", "3"))
    await settle()
    echo, status, servers = connection.of(m.Ping)
    assert echo == m.Ping.of("echo", "7")
    assert status == m.Ping.of("status", "1", "clientcount", "2", "servercount", "2")
    _, _, ids = (servers.get("servers") or "").partition(":")
    assert ids == "A;B"


async def test_the_status_of_a_hub_without_clients(autojump_clock, scene: Scene) -> None:
    other = scene.a.connect("other")
    other.send(m.Ping.of("status", "1"))
    await settle()
    assert [ping.get("status") for ping in other.of(m.Ping)] == ["0"]


# -- what cannot be done ----------------------------------------------------------------------


async def test_an_access_key_request_is_answered_with_what_to_do(
    autojump_clock, scene: Scene
) -> None:
    connection = scene.a.connections[0]
    connection.send(m.AccessKeyRequest("token", "kid"))
    await settle()
    (response,) = connection.of(m.AccessKeyResponse)
    assert (response.kid, response.access_key) == ("kid", None)
    assert "AccessKey" in (response.error_message or "")


@pytest.mark.parametrize(
    "message",
    [
        m.OpenConnection("d"),
        m.HandshakeRequest(),
        m.HandshakeResponse("no"),
        m.Ack(7, 1),
        m.ServiceError("trouble"),
        m.ConnectionData("nobody", b"x"),
        m.ConnectionData("d", b"not mine"),
        m.CloseConnection("d", "not mine"),
        m.CloseConnection("nobody"),
        m.ConnectionFlowControl("d", m.FlowControlConnectionType.CLIENT, 1),  # type: ignore[arg-type]
        m.LeaveGroup("nobody", None),
        m.Ping(("shutdown",)),
        m.Ping(("shutdown", None)),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_a_message_out_of_place_touches_nobody(
    autojump_clock, scene: Scene, message: m.ServiceMessage
) -> None:
    scene.a.connections[0].send(message)
    await settle()
    await scene.other_server_and_client_are_untouched()
    scene.c.send("f")
    await settle()
    assert len(scene.a.data_of("c")) == 1


async def test_bad_input_ends_that_connection_and_no_other(autojump_clock) -> None:
    """Its clients are told; the server's other connection and theirs go on."""

    class Faulty:
        """A link on which something came that cannot be read."""

        def __init__(self, link) -> None:
            self._link = link
            self.fault = False
            self.agreement, self.aclose = link.agreement, link.aclose
            self.send, self.drained = link.send, link.drained

        @property
        def buffered(self) -> int:
            return self._link.buffered

        async def receive(self):
            messages = await self._link.receive()
            if self.fault:
                raise ProtocolError("impossible bytes")
            return messages

    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        c = await cluster.client("c")
        (connection,) = cluster.service.hub("chat").connections
        connection.link = faulty = Faulty(connection.link)  # type: ignore[assignment]
        b = await cluster.scripted("B")
        d = await cluster.client("d")
        a.connections[0].send(m.Ping())
        await settle()
        faulty.fault = True
        a.connections[0].send(m.Ping())
        await settle()
        assert c.close is not None
        assert c.close.allow_reconnect
        await Scene(cluster, a, b, c, d).other_server_and_client_are_untouched()


# -- the end ----------------------------------------------------------------------------------


async def test_a_lost_connection_closes_its_clients_and_no_others(
    autojump_clock, scene: Scene
) -> None:
    second = scene.a.connect()
    await settle()
    for number in range(4):
        await scene.cluster.client(f"more-{number}")
    with_second = set(second.opened)
    assert with_second
    await second.lose()
    await settle()
    assert set(scene.cluster.service.hub("chat").sessions) == (
        {"c", "d", *(f"more-{number}" for number in range(4))} - with_second
    )
    await scene.other_server_and_client_are_untouched()


async def test_a_new_client_goes_to_the_server_and_connection_with_the_fewest(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", connections=3)
        b = await cluster.scripted("B")
        for number in range(12):
            await cluster.client(f"c{number}")
        assert [len(one.opened) for one in a.connections] == [2, 2, 2]
        assert len(b.opened) == 6


async def test_a_client_that_leaves_is_closed_on_its_server(autojump_clock, scene: Scene) -> None:
    scene.c.send("f")
    scene.c.leave()
    await settle()
    (close,) = scene.a.connections[0].closes_of("c")
    assert (close.error_message, close.headers) == ("", {})
    assert len(scene.a.data_of("c")) == 1
    assert isinstance(scene.a.connections[0].received[-1], m.CloseConnection)


# -- the service stops (rule 40) --------------------------------------------------------------


async def test_a_service_that_stops_says_close_to_all_and_then_ends_the_connections(
    autojump_clock, scene: Scene
) -> None:
    began = trio.current_time()
    await scene.cluster.stop()
    assert trio.current_time() == began
    for client in (scene.c, scene.d):
        assert client.close is not None
        assert client.close.allow_reconnect
        assert client.over.is_set()
    await settle()
    assert scene.a.connections[0].ended
    # In this order: the server hears of its client's end before the connection ends.
    assert len(scene.a.connections[0].closes_of("c")) == 1


async def test_a_service_that_stops_lets_hand_overs_end(autojump_clock, scene: Scene) -> None:
    scene.a.fin()
    await settle()
    scene.c.send("f")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.cluster.stop)
        await trio.sleep(3)
        assert scene.c.close is None
        scene.a.connections[0].release("c")
    assert len(scene.b.data_of("c")) == 1
    assert scene.c.close is not None


async def test_a_service_that_stops_waits_no_longer_than_its_limit(
    autojump_clock, scene: Scene
) -> None:
    scene.a.fin()
    await settle()
    began = trio.current_time()
    await scene.cluster.stop()
    waited = trio.current_time() - began
    assert waited <= ServiceOptions().stop_timeout + 2
    assert scene.c.close is not None
    assert scene.c.close.allow_reconnect
