"""Who serves a client in which mode, and what a hub server hears in serverless mode."""

from __future__ import annotations

import pytest
import trio
from harness.clients import Client
from harness.cluster import settle
from harness.servers import ScriptedServer
from harness.upstreams import Stage, open_stage

from signalr_trio import ConfigurationError, GracefulShutdown, Hub, ServiceMode, Upstream
from signalr_trio.protocol.messages import Completion
from signalr_trio.protocol.service_messages import (
    BroadcastData,
    ConnectionType,
    HandshakeRequest,
    HandshakeResponse,
    Ping,
)
from signalr_trio.service.serverless import checked_mode
from signalr_trio.upstream.rules import MESSAGES

TELL = Upstream("http://app/{event}", category=MESSAGES)


class Chat(Hub):
    async def where(self) -> str:
        return "hub server"


async def where(client: Client, id: str = "1") -> object:
    """Who answers a call now: the hub server, or the application (with nothing)."""
    client.invoke(id, "where")
    await settle()
    found = client.completions[id]
    return found.result if found != Completion(id) else "upstream"


# -- classic ---------------------------------------------------------------------------------------


async def test_classic_with_a_hub_server_that_comes_and_goes(autojump_clock) -> None:
    async with open_stage(TELL, mode=ServiceMode.CLASSIC) as stage:
        before = await stage.client("before")
        assert await where(before) == "upstream"

        shutdown = GracefulShutdown("wait_for_clients_close")
        server = await stage.serve(Chat, id="A", shutdown=shutdown)
        # The hub server takes all that come, however many more than the upstreams it has.
        for number in range(3):
            during = await stage.client(f"during {number}")
            assert await where(during) == "hub server"
        assert await where(before, "2") == "upstream"

        server.request_shutdown()
        await settle()
        after = await stage.client("after")
        assert await where(after) == "upstream"
        assert await where(during, "2") == "hub server"
        assert before.close is None

        for session in list(stage.service.hub("chat").sessions.values()):
            if session.last_server == "A":
                session.close()
        await trio.sleep(10)
        assert await where(before, "3") == "upstream"
        assert await where(after, "2") == "upstream"


async def test_classic_moves_a_client_from_hub_server_to_hub_server_only(autojump_clock) -> None:
    async with open_stage(TELL, mode=ServiceMode.CLASSIC) as stage:
        serverless = await stage.client("serverless")
        one = await stage.serve(Chat, id="A", shutdown=GracefulShutdown("migrate_clients"))
        client = await stage.client("c1")
        one.request_shutdown()
        await trio.sleep(5)
        assert await where(client) == "hub server"
        assert stage.service.hub("chat").sessions["c1"].last_server == "A"

        await stage.serve(Chat, id="B")
        await trio.sleep(5)
        assert await where(client, "2") == "hub server"
        assert stage.service.hub("chat").sessions["c1"].last_server == "B"
        assert await where(serverless) == "upstream"


@pytest.mark.parametrize("mode", [ServiceMode.SERVERLESS, ServiceMode.CLASSIC])
async def test_stateful_reconnect_without_hub_servers(autojump_clock, mode: ServiceMode) -> None:
    """Before the upstreams have a client, and then."""
    async with open_stage(TELL, mode=mode) as stage:
        assert await stage.service.offers_stateful_reconnect("chat")
        await stage.client()
        assert stage.service.hub("chat").connections
        assert await stage.service.offers_stateful_reconnect("chat")


async def test_a_hub_server_is_told_of_hub_servers_only(autojump_clock) -> None:
    async with open_stage(TELL, mode=ServiceMode.CLASSIC) as stage:
        await stage.client()
        server = await stage.scripted("A", own=False)
        [connection] = server.connections
        connection.link.send(Ping.of("servers", ""))
        await settle()
        answers = [one.get("servers") for one in connection.of(Ping)]
        assert [one.partition(":")[2] for one in answers if one] == ["A"]


async def test_default_mode_waits_for_a_hub_server_as_ever(autojump_clock) -> None:
    async with open_stage(TELL, mode=ServiceMode.DEFAULT) as stage:
        stage.service.serve_without_server = None
        client = await stage.client()
        await trio.sleep(6)
        assert client.response is not None
        assert "No hub server" in client.response["error"]
        assert stage.app.events == []


# -- serverless ------------------------------------------------------------------------------------


async def shake(stage: Stage, kind: ConnectionType) -> ScriptedServer:
    server = ScriptedServer(stage.service, stage.nursery, "A", own=False)
    connection = server.connect("chat", shake=False)
    connection.link.send(HandshakeRequest(1, kind))
    await settle()
    return server


@pytest.mark.parametrize("kind", [ConnectionType.DEFAULT, ConnectionType.ON_DEMAND])
async def test_serverless_mode_refuses_hub_servers(
    autojump_clock, kind: ConnectionType, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_stage(TELL) as stage:
        server = await shake(stage, kind)
        [connection] = server.connections
        error = "The service is in serverless mode, which has no hub servers."
        [response] = connection.of(HandshakeResponse)
        assert response.error_message == error
        assert error in caplog.text
        assert await where(await stage.client()) == "upstream"


async def test_a_weak_connection_sends_and_gets_no_clients(autojump_clock) -> None:
    async with open_stage(TELL) as stage:
        server = await shake(stage, ConnectionType.WEAK)
        [connection] = server.connections
        assert connection.is_up
        client = await stage.client()
        assert await where(client) == "upstream"
        payload = b'{"type":1,"target":"news","arguments":[1]}\x1e'
        connection.link.send(BroadcastData([], {"json": payload}))
        await settle()
        assert client.calls == [("news", [1])]


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(ServiceMode))
def test_modes_have_names(mode: ServiceMode) -> None:
    assert checked_mode(mode.value, []) is mode


@pytest.mark.parametrize(
    ("mode", "upstreams", "said"),
    [
        ("serverles", [], "service mode 'serverles' is not one of default, serverless, classic"),
        ("default", [TELL], "upstreams need mode serverless or classic"),
    ],
)
def test_a_mistake_is_explained(mode: str, upstreams: list[Upstream], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        checked_mode(mode, upstreams)
