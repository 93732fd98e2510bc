"""P8: what the service holds is bounded; beyond that it stops reading, and drops nothing."""

from __future__ import annotations

import tracemalloc

import pytest
import trio
from harness.clients import JSON, Client
from harness.cluster import open_cluster, settle
from harness.servers import ScriptedServer

from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import Invocation, StreamItem
from signalr_trio.service.hold import Hold
from signalr_trio.service.options import ServiceOptions

SMALL = ServiceOptions(hold_limit=4000, hold_total=10_000, link_high_water=2000)
BESIDE = 256
"""What a held message counts for beside its own bytes."""


def frames(count: int) -> list[bytes]:
    return [JSON.write(Invocation("f", [number, "x" * 60])) for number in range(count)]


async def flood(client: Client, count: int) -> list[bytes]:
    said = frames(count)
    for frame in said:
        client.transport.put(frame)
    await settle()
    return said


async def test_p8_what_is_held_for_one_client_is_bounded_and_then_it_is_not_read(
    autojump_clock,
) -> None:
    async with open_cluster(SMALL) as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        said = await flood(client, 50)
        size = BESIDE + len(said[-1])
        assert SMALL.hold_limit < cluster.service.held_size <= SMALL.hold_limit + size
        unread = client.transport.unread
        assert unread > 30
        await trio.sleep(25)
        assert client.transport.unread == unread
        a.connections[0].release("c")
        await settle()
        assert client.transport.unread == 0
        assert b.data_of("c") == said
        assert cluster.service.held_size == 0


@pytest.mark.parametrize("protocol", [JsonProtocol(), MessagePackProtocol()])
def test_p8_small_messages_count_for_the_memory_that_they_take(protocol: HubProtocol) -> None:
    hold = Hold()
    tracemalloc.start()
    try:
        for number in range(10_000):
            kind = (Invocation("f", []), Invocation("f", [], str(number)), StreamItem("up", number))
            frame = protocol.write(kind[number % 3])
            hold.put(frame, protocol.peek(frame), 0.0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 1.5 < hold.size < taken * 1.5


async def test_p8_what_is_held_for_all_clients_is_bounded(autojump_clock) -> None:
    async with open_cluster(SMALL) as cluster:
        a = await cluster.scripted("A")
        clients = [await cluster.client(f"c{number}") for number in range(10)]
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        said = [await flood(client, 9) for client in clients]
        # Each is below its own limit, so only the common one stops them.
        size = BESIDE + len(said[0][0])
        assert SMALL.hold_total < cluster.service.held_size <= SMALL.hold_total + 10 * size
        assert sum(client.transport.unread for client in clients) > 0
        for client in clients:
            a.connections[0].release(client.id)
            await settle()
        for client, frames in zip(clients, said, strict=True):
            assert b.data_of(client.id) == frames
            assert client.close is None
        assert cluster.service.held_size == 0


async def test_p8_a_client_is_read_no_faster_than_its_server_takes(autojump_clock) -> None:
    """Above the high-water mark of a server connection its clients are not read."""
    async with open_cluster(SMALL) as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        a.connections[0].stop_reading()
        await settle()
        said = await flood(client, 60)
        size = len(said[-1])
        (connection,) = cluster.service.hub("chat").connections
        assert connection.link.buffered <= SMALL.link_high_water + 2 * size
        assert client.transport.unread > 0
        a.connections[0].reads.set()
        await settle()
        assert a.data_of("c") == said


async def test_p8_the_room_of_a_client_that_leaves_is_given_back(autojump_clock) -> None:
    async with open_cluster(SMALL) as cluster:
        a = await cluster.scripted("A")
        b = await cluster.scripted("B", hub="other")
        clients = [await cluster.client(f"c{number}") for number in range(4)]
        b2 = await cluster.scripted("B2")
        a.fin()
        await settle()
        for client in clients:
            await flood(client, 5)
        assert cluster.service.held_size > 0
        for client in clients:
            client.leave()
        await settle()
        for client in clients:
            a.connections[0].release(client.id)
        await settle()
        assert cluster.service.held_size == 0
        assert b.opened == {}
        assert len(b2.opened) == 4


async def test_p8_the_room_is_given_back_when_there_is_nobody_to_take_over(autojump_clock) -> None:
    """Told with a Close, as nothing is dropped without a word."""
    async with open_cluster(SMALL) as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        await flood(client, 5)
        await b.connections[0].lose()
        a.connections[0].release("c")
        await settle()
        assert cluster.service.held_size > 0
        await trio.sleep(31)
        assert cluster.service.held_size == 0
        assert client.close is not None


async def test_p8_early_sends_are_bounded(autojump_clock) -> None:
    """What is sent to a client before its handshake response: over the limit it is closed."""
    async with open_cluster(SMALL) as cluster:
        a = await cluster.scripted("A")
        a.answers = False
        client = await cluster.client()
        for _ in range(60):
            a.connections[0].send_to(["c"], "f", "x" * 60)
        await settle()
        assert client.over.is_set()
        assert client.response is not None
        assert "Too much" in client.response["error"]


async def test_p8_a_client_that_does_not_read_is_closed_at_a_bound(autojump_clock) -> None:
    async with open_cluster(ServiceOptions(client_buffer=1000)) as cluster:
        a = await cluster.scripted("A")
        slow = await cluster.client("slow")
        other = await cluster.client("other")
        slow.transport.reads = False
        for number in range(30):
            a.connections[0].send_to(["slow", "other"], "f", number, "x" * 60)
        await settle()
        assert slow.over.is_set()
        assert slow.transport.aborted
        assert 1000 < slow.transport.buffered < 1200
        assert len(other.calls) == 30
        assert a.connections[0].closes_of("slow")


async def test_p8_a_full_hold_hurries_the_old_server(autojump_clock) -> None:
    """A call there may wait for input that is behind the full hold (rule 13)."""
    async with open_cluster(SMALL) as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        await cluster.scripted("B")
        a.fin()
        await settle()
        await flood(client, 50)
        await trio.sleep(1.5)
        assert closes(a) == 1
        await trio.sleep(2)
        assert closes(a) == 2
        await trio.sleep(20)
        assert closes(a) == 2


def closes(server: ScriptedServer) -> int:
    return len(server.connections[0].migrating_closes_of("c"))
