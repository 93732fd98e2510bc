"""What the simulation found in the service: the scenario of each, by itself."""

from __future__ import annotations

import trio
from harness.cluster import open_cluster, settle

from signalr_trio.protocol.messages import Close
from signalr_trio.protocol.service_messages import ConnectionData, DataMessageType
from signalr_trio.service.options import ServiceOptions

from harness.clients import JSON  # isort: skip


async def test_a_client_that_stays_is_told_no_error_for_a_late_call(autojump_clock) -> None:
    """P3: the budget is over, but there is no target any more; the server will answer yet."""
    async with open_cluster(ServiceOptions(polite_budget=5)) as cluster:
        a = await cluster.scripted("A", own=False)
        client = await cluster.client()
        other = await cluster.client("other")
        b = await cluster.scripted("B")
        client.invoke("1", "slow")
        other.invoke("1", "slow")
        await settle()
        a.fin()
        await trio.sleep(2)
        await b.connections[0].lose()
        await trio.sleep(10)
        for one in ("c", "other"):
            a.connections[0].complete(one, "1", "done")
        await settle()
        assert client.completions["1"].error is None
        assert client.completions["1"].result == "done"
        assert other.completions["1"].result == "done"


async def test_nothing_follows_a_close_of_the_hub(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        close = JSON.write(Close())
        a.connections[0].send(ConnectionData("c", close, DataMessageType.CLOSE))
        a.connections[0].send_to(["c"], "late")
        a.connections[0].complete("c", "1", "late")
        await settle()
        assert client.received == [Close()]


async def test_a_client_that_its_hub_has_closed_is_not_moved_when_the_server_is_lost(
    autojump_clock,
) -> None:
    """The Close has passed; the message that ends the client was lost with the connection."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        client = await cluster.client()
        b = await cluster.scripted("B", own=False)
        client.invoke("1", "slow")
        await settle()
        a.fin()
        a.connections[0].send(ConnectionData("c", JSON.write(Close()), DataMessageType.CLOSE))
        await settle()
        await a.connections[0].lose()
        await trio.sleep(30)
        assert client.received == [Close()]
        assert client.over.is_set()
        assert not b.connections[0].opened
