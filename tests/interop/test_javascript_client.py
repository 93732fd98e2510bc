"""The official JavaScript client where no server takes it over, and through many hand-overs.

What it can do, undisturbed and in the middle of one hand-over, is the business of ``test_matrix``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from signalr_trio import GracefulShutdown, RunningService, ServiceOptions, open_service
from signalr_trio.connection_string import parse_connection_string
from signalr_trio.tokens import make_token
from tests.interop.backend import Backend, backend
from tests.interop.client_process import CallFailed, ClientProcess, Connection

Start = Callable[..., Awaitable[Backend]]


async def connect_both(javascript: ClientProcess, url: str, **options: Any) -> list[Connection]:
    """A client in JSON and one in MessagePack."""
    return [
        await javascript.connect(url, protocol=protocol, **options)
        for protocol in ("json", "messagepack")
    ]


async def test_embedded_server_that_stops_says_close(javascript: ClientProcess) -> None:
    async with backend() as server:
        clients = await connect_both(javascript, server.url)
        report = await server.server.shutdown()
        for client in clients:
            assert "Connect again" in (await client.ended() or "")
        assert list(report.dropped.values()) == [2]


async def test_no_server_for_a_new_client(javascript: ClientProcess, protocol: str) -> None:
    async with open_service(port=0, options=ServiceOptions(connect_wait=0.1)) as service:
        url, token = _client_access(service)
        with pytest.raises(CallFailed, match="No hub server is connected"):
            await javascript.connect(url, token=token, protocol=protocol)


async def test_last_server_stops(javascript: ClientProcess, service: RunningService) -> None:
    """Nobody can take the clients over: they are served until the time is up, then told."""
    stop = GracefulShutdown("migrate_clients", timeout=1)
    async with backend(service.connection_string, shutdown=stop) as server:
        clients = await connect_both(javascript, server.url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.server.shutdown)
            await trio.testing.wait_all_tasks_blocked()
            for client in clients:
                assert await client.invoke("Echo", "served") == "served"
        for client in clients:
            assert "Connect again" in (await client.ended() or "")


async def test_reconnects_to_another_server_when_told_to(
    javascript: ClientProcess, start: Start, protocol: str
) -> None:
    old = await start("old", GracefulShutdown("off"))
    new = await start("new")
    # Both are idle; the service takes the one that came first. Negotiate is the other's.
    client = await javascript.connect(new.url, protocol=protocol, reconnect=[0])
    assert (await client.invoke("WhoAmI"))["serverName"] == "old"
    await old.server.shutdown()
    await client.until(lambda: ("reconnected", None) in client.lifecycle)
    assert [event for event, _ in client.lifecycle] == ["reconnecting", "reconnected"]
    assert "Connect again" in (client.lifecycle[0][1] or "")
    assert (await client.invoke("WhoAmI"))["serverName"] == "new"


async def test_call_that_outlasts_the_shutdown(javascript: ClientProcess, start: Start) -> None:
    """It ends with an error that says so; the client migrates all the same."""
    old = await start("old", GracefulShutdown("migrate_clients", timeout=1))
    clients = await connect_both(javascript, old.url)
    streams = [await client.stream("Count", 1_000_000, 20) for client in clients]
    for client, stream in zip(clients, streams, strict=True):
        await stream.has(1)
        await client.begin("WaitAtGate", 0)
        await old.has_noted("at gate", client.id)
    await start("new")
    report = await old.server.shutdown()
    for client, stream in zip(clients, streams, strict=True):
        assert "did not end in time" in str((await client.outcome(1))[0])
        with pytest.raises(CallFailed, match="did not end in time"):
            await stream.result()
        assert (await client.invoke("WhoAmI"))["serverName"] == "new"
        assert client.lifecycle == []
    assert report.migrated == report.clients == 2


async def test_numbered_messages_through_many_hand_overs(
    javascript: ClientProcess, start: Start
) -> None:
    """None is lost, doubled or out of order, in either direction, whatever carries it."""
    servers = [await start("old")]
    clients = [
        client
        for _ in range(2)
        for client in await connect_both(javascript, servers[0].url, on=["told"])
    ]
    counts = dict.fromkeys(clients, 0)
    enough = trio.Event()

    async def talk(client: Connection) -> None:
        while not enough.is_set():
            n = counts[client]
            # One with a completion, and one without; not more at a time than a pipe takes in.
            await client.begin("Number", n)
            await client.send("Number", n + 1)
            await client.send("SendTo", "Caller", [], [], "told", [n])
            counts[client] = n + 2
            await client.outcome(n // 2 - 20)

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(talk, client)
        for name in ("first", "second", "third"):
            servers.append(await start(name))
            report = await servers[-2].server.shutdown()
            assert report.migrated == report.clients == len(clients)
            assert not any(stage.timed_out for stage in report.stages)
            for client in clients:
                await servers[-1].has_noted("number", client.id, count=20)
        enough.set()

    for client in clients:
        sent = list(range(counts[client]))
        await client.outcome(len(sent) // 2)
        await client.sends("told", len(sent) // 2)
        assert [n for server in servers for n in server.noted("number", client.id)] == sent
        assert client.results == sent[::2]
        assert client.sent("told") == [[n] for n in sent[::2]]
        assert client.lifecycle == []


def _client_access(service: RunningService) -> tuple[str, str]:
    """The URL of hub ``test`` at the service, and a token for it."""
    endpoint = parse_connection_string(service.connection_string)
    audience = endpoint.client_audience("test")
    return endpoint.client_negotiate_url("test"), make_token(endpoint.access_key, audience, [])
