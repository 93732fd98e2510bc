"""P6: a server that sent FIN is given no client, on whichever of its connections."""

from __future__ import annotations

import pytest
import trio
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from signalr_trio import Hub
from signalr_trio.protocol.service_messages import OpenConnection, Ping


@pytest.mark.parametrize("value", ["fin:0", "fin:1", "fin:2"])
async def test_p6_from_its_first_fin_on_no_connection_of_a_server_gets_a_client(
    autojump_clock, value: str
) -> None:
    """FIN came on one of its two connections only."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", connections=2)
        b = await cluster.scripted("B")
        a.connections[0].fin(value)
        await settle()
        for number in range(6):
            await cluster.client(f"c{number}")
        assert a.opened == {}
        assert len(b.opened) == 6


async def test_p6_a_connection_that_comes_after_the_fin_is_offline_too(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.connections[0].fin("fin:2")
        await settle()
        late = a.connect()
        await settle()
        assert late.is_up
        client = await cluster.client()
        await trio.sleep(6)
        assert a.opened == {}
        assert client.response is not None
        assert "No hub server" in client.response["error"]


async def test_p6_holds_for_all_hubs_of_the_server(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.connect("news")
        await settle()
        a.connections[0].fin("fin:2")
        await settle()
        await cluster.client("n", hub="news")
        assert a.opened == {}


async def test_p6_no_client_is_handed_over_to_a_server_that_goes(autojump_clock) -> None:
    """The target was chosen at the close; it goes before the release."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client()
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        assert a.connections[0].migrating_closes_of("c") == ["B"]
        b.fin()
        c = await cluster.scripted("C")
        a.connections[0].release("c")
        await settle()
        assert b.opened == {}
        assert "c" in c.opened


async def test_p6_finack_stands_behind_every_open(autojump_clock) -> None:
    """A client that was routed here in the very step before the FIN is opened before FINACK."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        connection = a.connections[0]
        connection.stop_reading()
        for number in range(3):
            await cluster.client(f"c{number}")
        connection.fin("fin:2")
        await settle()
        connection.reads.set()
        await settle()
        kinds = [type(one) for one in connection.received if isinstance(one, OpenConnection | Ping)]
        assert kinds == [OpenConnection] * 3 + [Ping]


def opened_after_finack(server: ScriptedServer) -> list[str]:
    """Clients that came on any connection after the last FINACK of its server."""
    late: list[str] = []
    for connection in server.connections:
        for number, message in enumerate(connection.received):
            if isinstance(message, Ping) and message.get("shutdown") == "finack":
                rest = connection.received[number:]
                late += [one.connection_id for one in rest if isinstance(one, OpenConnection)]
    return late


@given(
    steps=st.lists(
        st.sampled_from(["client", "client", "fin a0", "fin a1", "fin b0", "again", "settle", "x"]),
        max_size=30,
    )
)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_p6_holds_for_any_order_of_clients_and_fins(steps: list[str]) -> None:
    """Clients come and servers go in one step; ``x`` adds a connection to the server that goes."""

    async def play(cluster: Cluster, servers: list[ScriptedServer], steps: list[str]) -> None:
        for number, step in enumerate(steps):
            if step == "client":
                cluster.nursery.start_soon(cluster.client, f"c{number}")
            elif step.startswith("fin"):
                server = servers["ab".index(step[4])]
                server.connections[int(step[5])].fin("fin:1")
            elif step == "again":
                servers[0].fin("fin:1")
            elif step == "x":
                servers[0].connect()
            else:
                await settle()
        for server in servers:
            server.fin("fin:1")
        await settle()

    async def scenario() -> None:
        async with open_cluster() as cluster:
            a = await cluster.scripted("A", connections=2)
            b = await cluster.scripted("B", connections=2)
            await cluster.scripted("C")
            for server in (a, b):
                server.auto_release = True
            await play(cluster, [a, b], steps)
            # The last FINACK of a server: after it nothing on any of its connections.
            assert opened_after_finack(a) == opened_after_finack(b) == []

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


async def test_p6_with_real_servers(autojump_clock) -> None:
    """Clients come all the time; while the hooks run, and later, none of them comes here."""
    came: list[str] = []
    offline = trio.Event()

    class Chat(Hub):
        pass

    class Watched(Chat):
        async def on_connected(self) -> None:
            assert not offline.is_set()
            came.append(self.context.connection_id)

    Watched.__name__ = "Chat"

    async with open_cluster() as cluster:
        a = await cluster.serve(Watched, id="A", connections=3)

        @a.on_shutdown(Watched)
        async def hook(_: object) -> None:
            offline.set()
            await trio.sleep(5)

        await cluster.client("first")
        await cluster.serve(Chat, id="B", connections=3)
        a.request_shutdown()
        for number in range(10):
            await cluster.client(f"c{number}")
            await trio.sleep(1)
        assert (await a.shutdown()).migrated == 1
        assert came == ["first"]
