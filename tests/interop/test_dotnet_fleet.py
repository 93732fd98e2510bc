"""Hub servers on the official Azure SignalR SDK, unmodified, behind our service.

They do not say when they have released a client, so the service is polite to them: it waits until
nothing of the client is running before it moves it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio

from signalr_trio import RunningService
from tests.interop.backend import Backend
from tests.interop.client_process import ClientProcess, Connection
from tests.peers import DotnetPeer, needs_dotnet_peer

pytestmark = needs_dotnet_peer

Start = Callable[..., Awaitable[DotnetPeer]]


async def test_rolling_restart_under_load(
    javascript: ClientProcess, service: RunningService, start_dotnet: Start
) -> None:
    """Two servers are replaced, one after the other: no numbered message is lost, doubled or out
    of order, and every client keeps its connection."""
    names = ["one", "two", "three", "four"]
    peers = {name: await start_dotnet(name, hubs="test,chat") for name in names[:2]}
    callers, chatters = await _clients(javascript, list(peers.values()))
    counts: dict[Connection, int] = {}
    enough = trio.Event()

    async def load(client: Connection, talk: Callable[[Connection, int], Awaitable[None]]) -> None:
        counts[client] = 0
        while not enough.is_set():
            await talk(client, counts[client])
            counts[client] += 1
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for client in callers:
            nursery.start_soon(load, client, _invoke)
        for client in chatters:
            nursery.start_soon(load, client, _chat)
        for old, new in (("one", "three"), ("two", "four")):
            peers[new] = await start_dotnet(new, hubs="test,chat")
            await _stop(peers[old])
        enough.set()

    for client in callers:
        assert await client.outcome(counts[client]) == list(range(counts[client]))
    for client in chatters:
        await client.sends("broadcastMessage", sum(counts[chatter] for chatter in chatters))
        for sender in chatters:
            heard = [n for name, n in client.sent("broadcastMessage") if name == sender.name]
            assert heard == [str(n) for n in range(counts[sender])]
        assert client.sent("echo") == [
            [client.name, f"{n} (echo from server)"] for n in range(counts[client])
        ]
    for client in (*callers, *chatters):
        assert client.lifecycle == []
        await client.stop()

    # Now the events are complete.
    for name in names[2:]:
        await _stop(peers[name])
    for client in callers:
        assert _begun(peers, client, "Echo") == counts[client]
    for client in chatters:
        assert _begun(peers, client, "Echo") == counts[client]
        assert _begun(peers, client, "BroadcastMessage") == counts[client]
    for client in (*callers, *chatters):
        assert _moves(peers, client)


async def test_backlog_without_ids(javascript: ClientProcess, start_dotnet: Start) -> None:
    """Nothing tells when messages without an id have been run, and the SDK throws away what it has
    not: it is asked something of which the answer comes behind them."""
    old = await start_dotnet("old")
    client = await javascript.connect(f"{old.url}/test", on=["told"])
    new = await start_dotnet("new")
    await client.send("Slow", 2500)
    # More than the SDK takes in while a method is busy.
    for n in range(100):
        await client.send("SendTo", "Caller", [], [], "told", [n, "x" * 2048])
    await old.event("invoke_begin", method="Slow")
    old.terminate()
    await old.wait()
    await new.event("connected", id=client.id, migrate_from="old", migrate_to="new")
    assert [n for n, _ in await client.sends("told", 100)] == list(range(100))
    assert client.lifecycle == []


async def test_server_that_does_not_release_in_time(
    javascript: ClientProcess, service: RunningService, start_dotnet: Start
) -> None:
    """It waits for its clients to leave, and closes without a word: the service has one."""
    wait = ("--shutdown-mode", "wait", "--shutdown-timeout", "3")
    old = await start_dotnet("old", *wait)
    new = await start_dotnet("new")
    # The service takes the server that came first; negotiate is served by the other one.
    lasting = await javascript.connect(f"{new.url}/test", reconnect=[0])
    assert (await lasting.invoke("WhoAmI"))["serverName"] == "old"
    await javascript.connect(f"{new.url}/test")
    ending = await javascript.connect(f"{new.url}/test", protocol="messagepack")
    assert (await ending.invoke("WhoAmI"))["serverName"] == "old"
    await javascript.connect(f"{new.url}/test")

    # Each has two clients: the next one would be for the old server again.
    old.terminate()
    await _goes_offline(service, "old")
    assert (await lasting.invoke("WhoAmI"))["serverName"] == "old"
    newcomer = await javascript.connect(f"{new.url}/test")
    assert (await newcomer.invoke("WhoAmI"))["serverName"] == "new"

    text = "Server returned an error on close: The connection to the hub server was lost."
    assert await ending.ended() == text
    await lasting.until(lambda: len(lasting.lifecycle) == 2)
    assert lasting.lifecycle == [("reconnecting", text), ("reconnected", None)]
    assert (await lasting.invoke("WhoAmI"))["serverName"] == "new"


@pytest.mark.slow
async def test_idle_connections_last(
    javascript: ClientProcess,
    service: RunningService,
    start: Callable[..., Awaitable[Backend]],
    start_dotnet: Start,
) -> None:
    """The SDK, our server and the client give up when they hear nothing for 30 s (the SDK looks
    every 5 s): they always hear something."""
    python, dotnet = await start("python"), await start_dotnet("dotnet", hubs="chat")
    urls = [python.url, f"{dotnet.url}/chat"]
    clients = [
        await javascript.connect(url, protocol=protocol, on=["told", "echo"])
        for url in urls
        for protocol in ("json", "messagepack")
    ]
    hubs = [service.service.hub(name) for name in ("test", "chat")]
    before = [list(hub.connections) for hub in hubs]
    await trio.sleep(40)
    assert [list(hub.connections) for hub in hubs] == before
    for client in clients[:2]:
        await client.send("SendTo", "Caller", [], [], "told", ["still here"])
        assert await client.sends("told", 1) == [["still here"]]
    for client in clients[2:]:
        await client.send("Echo", "still", "here")
        assert await client.sends("echo", 1) == [["still", "here (echo from server)"]]
    assert all(client.lifecycle == [] for client in clients)


async def _clients(
    javascript: ClientProcess, peers: Sequence[DotnetPeer]
) -> tuple[list[Connection], list[Connection]]:
    """Of hub ``test`` and of hub ``chat``, in both encodings, that negotiated with each server."""
    callers, chatters = [], []
    for peer in peers:
        for protocol in ("json", "messagepack"):
            callers.append(await javascript.connect(f"{peer.url}/test", protocol=protocol))
            chatters.append(
                await javascript.connect(
                    f"{peer.url}/chat", protocol=protocol, on=["echo", "broadcastMessage"]
                )
            )
    return callers, chatters


async def _invoke(client: Connection, n: int) -> None:
    await client.begin("Echo", n)


async def _chat(client: Connection, n: int) -> None:
    """Without completions: the service cannot see when these have been run."""
    await client.send("Echo", client.name, str(n))
    await client.send("BroadcastMessage", client.name, str(n))


async def _goes_offline(service: RunningService, name: str) -> None:
    """Waits until the service routes no new client to a server."""
    connections = service.service.hub("test").connections
    with trio.fail_after(30):
        while not all(one.server.draining for one in connections if one.server.id == name):
            await service.service.targets.park()


async def _stop(peer: DotnetPeer) -> None:
    """Shuts a server down, and waits for its last event."""
    peer.terminate()
    assert await peer.wait() == 0
    await peer.event("shutdown_end")


def _events(peer: DotnetPeer, ev: str, client: Connection) -> list[dict[str, Any]]:
    return [event for event in peer.events if event["ev"] == ev and event.get("id") == client.id]


def _begun(peers: dict[str, DotnetPeer], client: Connection, method: str) -> int:
    """How often a client's method was begun, on all servers together."""
    events = [event for peer in peers.values() for event in _events(peer, "invoke_begin", client)]
    return sum(event["method"] == method for event in events)


def _moves(peers: dict[str, DotnetPeer], client: Connection) -> list[tuple[str, str]]:
    """From where to where a client was moved, as its hubs were told.

    Each server that it left was told that it moves, and each that it came to whence it comes.
    """
    came: list[tuple[str | None, str]] = []
    left: list[tuple[str, str]] = []
    for name, peer in peers.items():
        for event in _events(peer, "connected", client):
            came.append((event.get("migrate_from"), name))
            assert event.get("migrate_to") in (None, name)
        # When the client itself says Close the SDK still shows whence it once came.
        left += [
            (name, event["migrate_to"])
            for event in _events(peer, "disconnected", client)
            if event.get("migrate_from") == name
        ]
    moves = [(origin, name) for origin, name in came if origin is not None]
    assert len(moves) == len(came) - 1
    assert sorted(moves) == sorted(left)
    return moves
