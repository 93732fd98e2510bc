"""The official JavaScript client: what it can do, and that it stays connected through a hand-over.

It negotiates as it would with ASP.NET Core, here with a hub server that has its own service
(embedded), there with one whose service is elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from backend import Backend, backend
from node import CallFailed, Connection, Node

from signalr_trio import GracefulShutdown, RunningService, ServiceOptions, open_service
from signalr_trio.connection_string import parse_connection_string
from signalr_trio.tokens import make_token

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    127,
    -32769,
    2**53 - 1,
    1.5,
    -1e-7,
    "",
    "Grüße, 世界 🎉",
    'line\nfeed, \x1e, \u2028 and "quotes"',
    [],
    [1, [2, ["three", None]], True],
    {},
    {"name": "Ada", "home": {"street": "St James's Sq", "number": 12}, "tags": ["x", "y"]},
]


@pytest.fixture(params=["embedded", "service"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """A hub server with a service of its own, and one with a service elsewhere."""
    async with AsyncExitStack() as stack:
        string = None
        if request.param == "service":
            running = await stack.enter_async_context(open_service(port=0))
            string = running.connection_string
        yield await stack.enter_async_context(backend(string))


# -- calls, streams, sends ------------------------------------------------------------------------


async def test_results_and_errors(javascript: Node, server: Backend, protocol: str) -> None:
    client = await javascript.connect(server.url, protocol=protocol)
    assert [await client.invoke("Echo", value) for value in VALUES] == VALUES
    assert await client.invoke("add", 2, 3) == 5
    assert await client.invoke("Void") is None
    if protocol == "messagepack":
        assert await client.invoke("Echo", bytes(range(256))) == bytes(range(256))

    with pytest.raises(CallFailed, match=r"HubException: no such luck$"):
        await client.invoke("ThrowHub", "no such luck")
    with pytest.raises(CallFailed, match="unexpected error occurred invoking 'Throw'") as failure:
        await client.invoke("Throw", "a secret of the server")
    assert "secret" not in str(failure.value)
    with pytest.raises(CallFailed, match="Method does not exist"):
        await client.invoke("NoSuchMethod")
    with pytest.raises(CallFailed, match=r"provides 1 argument\(s\) but target expects 2"):
        await client.invoke("Add", 1)
    with pytest.raises(CallFailed, match="Argument 2: expected int, not str"):
        await client.invoke("Add", 1, "2")
    assert client.lifecycle == []


async def test_streams_from_the_server(javascript: Node, server: Backend, protocol: str) -> None:
    client = await javascript.connect(server.url, protocol=protocol)
    assert await (await client.stream("Count", 100)).result() == list(range(100))
    assert await (await client.stream("Count", 0)).result() == []

    broken = await client.stream("CountThenThrow", 3)
    with pytest.raises(CallFailed, match=r"HubException: counted$"):
        await broken.result()
    assert broken.items == [0, 1, 2]

    endless = await client.stream("ForEver")
    await endless.has(1)
    await endless.cancel()
    await server.has_noted("stream ended")
    assert await client.invoke("Echo", "still here") == "still here"


async def test_streams_to_the_server(javascript: Node, server: Backend, protocol: str) -> None:
    client = await javascript.connect(server.url, protocol=protocol)
    first, second = client.upload(), client.upload()
    await client.begin("ConcatWith", first, "|", second)
    # Of the two streams of one call the second one is sent first.
    await second.item("c")
    await second.end()
    for text in "ab":
        await first.item(text)
    await first.end()
    assert await client.outcome(1) == ["ab|c"]

    failing, numbers = client.upload(), client.upload()
    await client.begin("Sum", failing)
    await client.begin("Sum", numbers)
    for number in range(50):
        await numbers.item(number)
    await numbers.end()
    assert (await client.outcome(2))[1] == sum(range(50))
    await failing.fail("out of numbers")
    assert "out of numbers" in str((await client.outcome(3))[2])

    both_ways = client.upload()
    echo = await client.stream("EchoStream", both_ways)
    for item in VALUES:
        await both_ways.item(item)
    await both_ways.end()
    assert await echo.result() == VALUES


async def test_sends_reach_whom_they_are_for(
    javascript: Node, server: Backend, protocol: str
) -> None:
    async def connect(user: str, protocol: str) -> Connection:
        return await javascript.connect(f"{server.url}?user={user}", protocol=protocol, on=["told"])

    ada = await connect("ada", protocol)
    bob = await connect("bob", "json")
    eve = await connect("eve", "messagepack")
    assert (await ada.invoke("WhoAmI"))["userId"] == "ada"

    await ada.invoke("Join", "g")
    await bob.invoke("Join", "g")
    await eve.invoke("Join", "g")
    await eve.invoke("Leave", "g")
    await ada.send("TellCaller", "caller", VALUES)
    await ada.send("TellOthers", "others")
    await ada.send("TellGroup", "g", "group")
    await ada.send("TellUser", "eve", "user")
    await ada.send("TellClient", bob.id, "client", 1, None)
    await ada.send("TellAll", "all")
    for client in (ada, bob, eve):
        await client.until(lambda client=client: ["all"] in client.sent("told"))
    assert ada.sent("told") == [["caller", VALUES], ["group"], ["all"]]
    assert bob.sent("told") == [["others"], ["group"], ["client", 1, None], ["all"]]
    assert eve.sent("told") == [["others"], ["user"], ["all"]]


async def test_client_results(javascript: Node, server: Backend, protocol: str) -> None:
    handlers = {"Echo": "echo", "Throw": "throw", "AskBack": "ask back", "Wait": "when told"}
    asked = await javascript.connect(server.url, protocol=protocol, on=["Mute"], handlers=handlers)
    asker = await javascript.connect(server.url, protocol=protocol)
    for one in (asked, asker):
        assert [await one.invoke("Ask", asked.id, "Echo", value) for value in VALUES] == VALUES
        assert await one.invoke("Ask", asked.id, "AskBack", 1) == 1
        with pytest.raises(CallFailed, match=r"HubException: Error: no such luck$"):
            await one.invoke("Ask", asked.id, "Throw", "such luck")
        for silent in ("Mute", "NoSuchHandler"):
            with pytest.raises(
                CallFailed, match=r"HubException: Client didn't provide a result\.$"
            ):
                await one.invoke("Ask", asked.id, silent, 1)
    with pytest.raises(CallFailed, match=r"HubException: Connection 'nobody' does not exist\.$"):
        await asker.invoke("Ask", "nobody", "Echo", 1)
    await asker.begin("Ask", asked.id, "Wait", 1)
    await asked.sends("Wait", 1)
    await asked.stop()
    (failed,) = await asker.outcome(1)
    assert str(failed).endswith(f"HubException: Connection '{asked.id}' is disconnected.")
    assert asker.lifecycle == []


async def test_large_messages(javascript: Node, server: Backend, protocol: str) -> None:
    client = await javascript.connect(server.url, protocol=protocol, on=["told"])
    text = "große Nachricht " * 50_000
    assert await client.invoke("Echo", text) == text
    await client.send("TellCaller", text)
    assert await client.sends("told", 1) == [[text]]

    upload = client.upload()
    echo = await client.stream("EchoStream", upload)
    for _ in range(5):
        await upload.item(text)
    await upload.end()
    assert await echo.result() == [text] * 5
    assert client.lifecycle == []


# -- the end of a connection ----------------------------------------------------------------------


async def test_hub_closes_the_client(javascript: Node, server: Backend, protocol: str) -> None:
    client = await javascript.connect(server.url, protocol=protocol, reconnect=[0])
    await client.send("Abort")
    assert await client.ended() is None
    assert client.lifecycle == [("close", None)]
    await server.has_noted("disconnected", client.id)


async def test_client_stops(javascript: Node, server: Backend, protocol: str) -> None:
    client = await javascript.connect(server.url, protocol=protocol)
    await client.stop()
    assert await client.ended() is None
    await server.has_noted("disconnected", client.id)
    assert server.noted("disconnected", client.id) == [None]


async def test_embedded_server_that_stops_says_close(javascript: Node, protocol: str) -> None:
    async with backend() as server:
        client = await javascript.connect(server.url, protocol=protocol)
        report = await server.server.shutdown()
        assert "Connect again" in (await client.ended() or "")
        assert list(report.dropped.values()) == [1]


async def test_no_server_for_a_new_client(javascript: Node, protocol: str) -> None:
    async with open_service(port=0, options=ServiceOptions(connect_wait=0.1)) as service:
        url, token = _client_access(service)
        with pytest.raises(CallFailed, match="No hub server is connected"):
            await javascript.connect(url, token=token, protocol=protocol)


async def test_last_server_stops(javascript: Node, service: RunningService, protocol: str) -> None:
    """Nobody can take the client over: it is served until the time is up, then told."""
    stop = GracefulShutdown("migrate_clients", timeout=1)
    async with backend(service.connection_string, shutdown=stop) as server:
        client = await javascript.connect(server.url, protocol=protocol)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.server.shutdown)
            await trio.testing.wait_all_tasks_blocked()
            assert await client.invoke("Echo", "served") == "served"
        assert "Connect again" in (await client.ended() or "")


async def test_reconnects_to_another_server_when_told_to(
    javascript: Node, service: RunningService, protocol: str
) -> None:
    off = GracefulShutdown("off")
    async with (
        backend(service.connection_string, name="old", shutdown=off) as old,
        backend(service.connection_string, name="new") as new,
    ):
        # Both are idle; the service takes the one that came first. Negotiate is the other's.
        client = await javascript.connect(new.url, protocol=protocol, reconnect=[0])
        assert (await client.invoke("WhoAmI"))["serverName"] == "old"
        await old.server.shutdown()
        await client.until(lambda: ("reconnected", None) in client.lifecycle)
        assert [event for event, _ in client.lifecycle] == ["reconnecting", "reconnected"]
        assert "Connect again" in (client.lifecycle[0][1] or "")
        assert (await client.invoke("WhoAmI"))["serverName"] == "new"


def _client_access(service: RunningService) -> tuple[str, str]:
    """The URL of hub ``test`` at the service, and a token for it."""
    endpoint = parse_connection_string(service.connection_string)
    audience = endpoint.client_audience("test")
    return endpoint.client_negotiate_url("test"), make_token(endpoint.access_key, audience, [])
