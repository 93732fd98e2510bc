"""Time between the service and its clients and servers (rules 11 and 32)."""

from __future__ import annotations

import trio
from harness.cluster import open_cluster, settle

from signalr_trio.protocol.service_messages import Ping
from signalr_trio.service.options import ServiceOptions


async def test_a_client_that_is_sent_nothing_is_pinged(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        await trio.sleep(14)
        assert client.pings == 0
        a.connections[0].send_to(["c"], "f")
        await trio.sleep(14)
        assert client.pings == 0
        await trio.sleep(3)
        assert client.pings == 1


async def test_pings_of_the_client_reach_no_server(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        await cluster.scripted("B")
        for step in (lambda: None, a.fin):
            step()
            client.ping()
            client.transport.put(b'{"type": 6}\x1e')
            await settle()
        assert len(a.connections[0].payloads_of("c")) == 1
        assert cluster.service.held_size == 0


async def test_a_client_that_pings_and_then_is_silent_is_closed(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client, quiet = await cluster.client(), await cluster.client("quiet")
        client.ping()
        await trio.sleep(29)
        assert client.close is None
        await trio.sleep(3)
        assert client.close is not None
        assert client.close.allow_reconnect
        assert a.connections[0].closes_of("c")
        # Who never pinged may be a client that does not.
        assert quiet.close is None


async def test_in_a_hand_over_the_service_answers_for_the_old_server(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        await cluster.scripted("B")
        a.fin()
        await trio.sleep(40)
        assert client.pings == 2
        assert client.close is None


async def test_the_time_out_stands_still_while_a_full_hold_is_not_read(autojump_clock) -> None:
    async with open_cluster(ServiceOptions(hold_limit=100)) as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        client.ping()
        a.fin()
        await settle()
        for number in range(10):
            client.send("f", number)
            client.ping()
        await trio.sleep(100)
        assert client.close is None
        a.connections[0].release("c")
        await settle()
        assert len(b.data_of("c")) == 10
        await trio.sleep(25)
        assert client.close is None
        await trio.sleep(8)
        assert client.close is not None


async def test_the_time_out_stands_still_while_a_server_does_not_keep_up(autojump_clock) -> None:
    async with open_cluster(ServiceOptions(link_high_water=100, server_timeout=1000)) as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        client.ping()
        a.connections[0].stop_reading()
        await settle()
        for number in range(10):
            client.send("f", number)
            client.ping()
        await trio.sleep(100)
        assert client.close is None
        a.connections[0].reads.set()
        await settle()
        assert len(a.data_of("c")) == 10


async def test_servers_are_pinged_first_and_often(autojump_clock) -> None:
    """Rule 32: the official SDK pings only when it hears something."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        await trio.sleep(31)
        assert len([one for one in a.connections[0].of(Ping) if not one.values]) == 6


async def test_a_silent_server_connection_is_given_up_and_its_clients_are_told(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        a.pings = False
        await trio.sleep(29)
        assert client.close is None
        await trio.sleep(7)
        assert client.close is not None
        assert client.close.allow_reconnect
        assert not cluster.service.hub("chat").connections
