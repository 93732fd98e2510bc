"""P9: where no server takes a client, the service tells it so: Close, allow reconnect, a text."""

from __future__ import annotations

import pytest
import trio
from harness.clients import Client
from harness.cluster import open_cluster, settle

from signalr_trio import Hub
from signalr_trio.service.options import ServiceOptions


def assert_told(client: Client) -> str:
    """It was told why, and that it may come again; then the connection was closed."""
    assert client.close is not None
    assert client.close.allow_reconnect
    assert client.close.error
    assert client.transport.closed
    return client.close.error


async def test_p9_a_new_client_without_any_server(autojump_clock) -> None:
    async with open_cluster() as cluster:
        began = trio.current_time()
        client = await cluster.client()
        await client.over.wait()
        assert client.response is not None
        assert "No hub server" in client.response["error"]
        assert trio.current_time() - began == ServiceOptions().connect_wait


async def test_p9_a_new_client_waits_a_little_for_a_first_server(autojump_clock) -> None:
    async with open_cluster() as cluster:
        client = await cluster.client()
        await trio.sleep(3)
        a = await cluster.scripted("A")
        assert "c" in a.opened
        assert client.response == {}


@pytest.mark.parametrize("own", [True, False], ids=["own", "SDK"])
async def test_p9_a_server_that_is_lost_without_a_word(autojump_clock, own: bool) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=own)
        client = await cluster.client()
        await cluster.scripted("B")
        await a.connections[0].lose()
        await settle()
        assert "was lost" in assert_told(client)


async def test_p9_a_server_is_lost_before_the_handshake_was_answered(autojump_clock) -> None:
    """There is no Close before the handshake response; the response says it."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.answers = False
        client = await cluster.client()
        await a.connections[0].lose()
        await settle()
        assert client.response is not None
        assert "was lost" in client.response["error"]
        assert client.over.is_set()


async def test_p9_an_sdk_server_closes_without_a_word_at_its_timeout(autojump_clock) -> None:
    """After FIN its clients are moved where that is possible; here there is nobody."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        client = await cluster.client()
        client.invoke("1", "f")
        a.fin()
        await trio.sleep(5)
        assert client.received == []
        await a.connections[0].lose()
        await settle()
        assert client.completions["1"].error
        await trio.sleep(29)
        assert client.close is None
        await trio.sleep(2)
        assert "no other can take over" in assert_told(client)


async def test_p9_the_last_server_goes_after_the_release(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        await b.connections[0].lose()
        a.connections[0].release("c")
        await trio.sleep(29)
        assert client.close is None
        await trio.sleep(2)
        assert_told(client)


async def test_p9_a_server_that_comes_in_time_takes_the_client(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        await b.connections[0].lose()
        a.connections[0].release("c")
        client.send("f", 1)
        await trio.sleep(29)
        c = await cluster.scripted("C")
        await settle()
        assert len(c.data_of("c")) == 1
        assert client.close is None


async def test_p9_the_old_server_is_lost_before_its_release(autojump_clock) -> None:
    """What ran there is not known to the service, so the client is closed and not moved."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        await a.connections[0].lose()
        await settle()
        assert "was lost" in assert_told(client)
        assert b.opened == {}


async def test_p9_the_service_stops(autojump_clock) -> None:
    async with open_cluster() as cluster:
        await cluster.scripted("A")
        client = await cluster.client()
        await cluster.stop()
        assert "stopping" in assert_told(client)


async def test_p9_with_a_real_server_that_is_the_last(autojump_clock) -> None:
    """It serves its clients to the end of its time, and they are told when it goes."""

    class Chat(Hub):
        async def now(self) -> float:
            return trio.current_time()

    async with open_cluster() as cluster:
        a = await cluster.serve(Chat, id="A")
        client = await cluster.client()
        a.request_shutdown()
        await trio.sleep(20)
        client.invoke("1", "now")
        await settle()
        assert client.completions["1"].result == trio.current_time()
        report = await a.shutdown()
        assert sum(report.dropped.values()) == 1
        assert_told(client)
