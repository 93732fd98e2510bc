"""The official JavaScript client stays connected while the hub server behind it is replaced.

Each test has a client in the middle of something on the old server, and replaces that server: the
client sees nothing of it, which here means no ``onclose`` and no ``onreconnecting``, and neither
does what it was in the middle of.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from backend import Backend
from node import CallFailed, Connection, Node

from signalr_trio import GracefulShutdown, ShutdownReport

Start = Callable[..., Awaitable[Backend]]


@pytest.fixture
async def old(start: Start) -> Backend:
    return await start("old")


@asynccontextmanager
async def replaced(
    old: Backend, start: Start, javascript: Node, *, name: str = "new"
) -> AsyncIterator[Backend]:
    """Replaces a server. The block has the new one, and begins when the hand-over is under way:
    an idle client has just come over. After the block all of them have."""
    idle = await javascript.connect(old.url)
    new = await start(name)
    clients = len(old.noted("connected")) - len(old.noted("disconnected"))
    reports: list[ShutdownReport] = []

    async def shut_down() -> None:
        reports.append(await old.server.shutdown())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shut_down)
        await new.has_noted("connected", idle.id)
        yield new
    assert reports[0].migrated == reports[0].clients == clients
    assert not any(stage.timed_out for stage in reports[0].stages)
    assert idle.lifecycle == []
    await idle.stop()
    await new.has_noted("disconnected", idle.id)


async def test_idle_client(javascript: Node, start: Start, old: Backend, protocol: str) -> None:
    url = f"{old.url}?user=ada"
    client = await javascript.connect(url, protocol=protocol, on=["told"])
    await client.invoke("Join", "g")
    before = await client.invoke("WhoAmI")
    async with replaced(old, start, javascript) as new:
        await new.has_noted("connected", client.id)
        assert await client.invoke("WhoAmI") == {**before, "serverName": "new"}
        await client.send("TellGroup", "g", "group")
        await client.send("TellUser", "ada", "user")
        assert await client.sends("told", 2) == [["group"], ["user"]]
    assert old.noted("disconnected", client.id) == [("old", "new")]
    assert new.noted("connected", client.id) == [("old", "new")]
    assert client.lifecycle == []


async def test_client_results_are_awaited(
    javascript: Node, start: Start, old: Backend, protocol: str
) -> None:
    """By calls on the old server: of this very client, and of one that moves meanwhile."""
    handlers = {"Wait": "when told"}
    asked = await javascript.connect(old.url, protocol=protocol, handlers=handlers)
    other = await javascript.connect(old.url, protocol=protocol)
    await asked.begin("Ask", asked.id, "Wait", "itself")
    await other.begin("Ask", asked.id, "Wait", "of another")
    await asked.sends("Wait", 2)
    async with replaced(old, start, javascript) as new:
        await asked.begin("Number", 1)
        teller = await javascript.connect(new.url)
        await teller.invoke("TellClient", asked.id)
        assert await asked.outcome(2) == ["itself", 1]
        assert await other.outcome(1) == ["of another"]
    assert new.noted("number", asked.id) == [1]
    assert asked.lifecycle == other.lifecycle == []


async def test_invocation_is_running(
    javascript: Node, start: Start, old: Backend, protocol: str
) -> None:
    client = await javascript.connect(old.url, protocol=protocol, on=["told"])
    await client.begin("WaitAtGate", "from the old server")
    await old.has_noted("at gate")
    async with replaced(old, start, javascript) as new:
        for n in range(20):
            await client.begin("Number", n)
        await client.send("TellCaller", "from the new server")
        # What others send does not wait for the client's own call.
        other = await javascript.connect(new.url)
        await other.send("TellClient", client.id, "meanwhile")
        assert await client.sends("told", 1) == [["meanwhile"]]
        assert client.results == []

        old.gate.set()
        assert await client.outcome(21) == ["from the old server", *range(20)]
        await client.sends("told", 3)
        await other.stop()
    assert client.sent("told") == [["meanwhile"], ["through"], ["from the new server"]]
    assert (old.noted("number"), new.noted("number")) == ([], list(range(20)))
    assert client.lifecycle == []


async def test_stream_to_the_client_is_running(
    javascript: Node, start: Start, old: Backend, protocol: str
) -> None:
    client = await javascript.connect(old.url, protocol=protocol)
    stream = await client.stream("CountWithGate", 100)
    await stream.has(50)
    await old.has_noted("at gate")
    async with replaced(old, start, javascript) as new:
        await client.begin("Number", 1)
        old.gate.set()
        assert await stream.result() == list(range(100))
        assert await client.outcome(1) == [1]
    assert new.noted("number") == [1]
    assert client.lifecycle == []


async def test_stream_is_cancelled_meanwhile(
    javascript: Node, start: Start, old: Backend, protocol: str
) -> None:
    """A cancel belongs to a call of the old server, and reaches it past what is held."""
    client = await javascript.connect(old.url, protocol=protocol)
    stream = await client.stream("ForEver")
    await stream.has(1)
    async with replaced(old, start, javascript) as new:
        await client.begin("Number", 1)
        await stream.cancel()
        assert await client.outcome(1) == [1]
    assert len(old.noted("stream ended")) == 1
    assert new.noted("number") == [1]
    assert client.lifecycle == []


async def test_upload_is_open(javascript: Node, start: Start, old: Backend, protocol: str) -> None:
    """Items of a call that began on the old server go there; those of a held call go with it."""
    client = await javascript.connect(old.url, protocol=protocol)
    first = client.upload()
    await client.begin("Sum", first)
    for number in range(10):
        await first.item(number)
    await old.has_noted("sum")
    async with replaced(old, start, javascript) as new:
        second = client.upload()
        await client.begin("Sum", second)
        for number in range(10):
            await first.item(number)
            await second.item(100 * number)
        await second.end()
        await first.end()
        assert await client.outcome(2) == [2 * sum(range(10)), 100 * sum(range(10))]
    assert (len(old.noted("sum")), len(new.noted("sum"))) == (1, 1)
    assert client.lifecycle == []


async def test_call_that_outlasts_the_shutdown(
    javascript: Node, start: Start, protocol: str
) -> None:
    """It ends with an error that says so; the client migrates all the same."""
    hasty = GracefulShutdown("migrate_clients", timeout=1)
    old = await start("old", hasty)
    client = await javascript.connect(old.url, protocol=protocol)
    stream = await client.stream("ForEver")
    await stream.has(1)
    await client.begin("WaitAtGate", 0)
    await old.has_noted("at gate")
    await start("new")
    report = await old.server.shutdown()
    assert "did not end in time" in str((await client.outcome(1))[0])
    with pytest.raises(CallFailed, match="did not end in time"):
        await stream.result()
    assert report.migrated == report.clients == 1
    assert (await client.invoke("WhoAmI"))["serverName"] == "new"
    assert client.lifecycle == []


async def test_numbered_messages_through_many_hand_overs(
    javascript: Node, start: Start, old: Backend
) -> None:
    """None is lost, doubled or out of order, in either direction, whatever carries it."""
    clients = [
        await javascript.connect(old.url, protocol=protocol, on=["told"])
        for protocol in ("json", "messagepack", "json", "messagepack")
    ]
    servers = [old]
    counts = dict.fromkeys(clients, 0)
    enough = trio.Event()

    async def talk(client: Connection) -> None:
        while not enough.is_set():
            n = counts[client]
            # One with a completion, and one without; not more at a time than a pipe takes in.
            await client.begin("Number", n)
            await client.send("Number", n + 1)
            await client.send("TellCaller", n)
            counts[client] = n + 2
            await client.outcome(n // 2 - 20)

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(talk, client)
        for name in ("first", "second", "third"):
            async with replaced(servers[-1], start, javascript, name=name) as new:
                servers.append(new)
                for client in clients:
                    await new.has_noted("number", client.id, count=20)
        enough.set()

    for client in clients:
        sent = list(range(counts[client]))
        await client.outcome(len(sent) // 2)
        await client.sends("told", len(sent) // 2)
        assert [n for server in servers for n in server.noted("number", client.id)] == sent
        assert client.results == sent[::2]
        assert client.sent("told") == [[n] for n in sent[::2]]
        assert client.lifecycle == []
