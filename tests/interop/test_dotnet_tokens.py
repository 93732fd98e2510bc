"""What the official SDK says about its clients, mostly in their tokens, and the service makes of it."""

from __future__ import annotations

import pytest
import trio

from signalr_trio import RunningService
from tests.interop.client_process import ClientProcess
from tests.peers import dotnet_peer, needs_dotnet_peer

pytestmark = needs_dotnet_peer


def arguments(service: RunningService, name: str, *more: str) -> list[str]:
    fixed = ["--mode", "azure", "--hubs", "test", "--server-name", name, "--log", "error"]
    fixed += ["--server-connections", "1", "--connection-string", service.connection_string]
    return [*fixed, *more]


async def up(service: RunningService, hub: str, names: set[str]) -> None:
    """Waits until these servers, and no others, are connected for a hub."""
    with trio.fail_after(30):
        while {one.server.id for one in service.service.hub(hub).connections} != names:
            await service.service.targets.park()


@pytest.mark.parametrize("mode", ["preferred", "required"])
async def test_sticky_servers(
    javascript: ClientProcess, service: RunningService, mode: str
) -> None:
    """All clients stay with the server that negotiated for them, where turns would be taken."""
    sticky = ("--sticky", mode)
    async with (
        dotnet_peer(*arguments(service, "one", *sticky)) as one,
        dotnet_peer(*arguments(service, "two", *sticky)) as two,
    ):
        await up(service, "test", {"one", "two"})
        for _ in range(3):
            client = await javascript.connect(f"{two.url}/test")
            assert (await client.invoke("WhoAmI"))["serverName"] == "two"
        client = await javascript.connect(f"{one.url}/test")
        assert (await client.invoke("WhoAmI"))["serverName"] == "one"


async def test_an_application_name_is_a_prefix_of_the_hub(
    javascript: ClientProcess, service: RunningService
) -> None:
    """And the path and the query are those that the client asked the application for."""
    app = ("--application", "MyApp", "--transports", "websockets", "--handshake-timeout", "20")
    async with dotnet_peer(*arguments(service, "one", *app)) as peer:
        await up(service, "myapp_test", {"one"})
        client = await javascript.connect(f"{peer.url}/test?user=ann&a=1&culture=de-DE")
        found = await client.invoke("WhoAmI")
        assert found["userId"] == "ann"
        assert found["path"] == "/test"
        for part in ("user=ann", "a=1", "culture=de-DE"):
            assert part in found["query"]
        assert list(service.service.hub("myapp_test").sessions) == [client.id]


async def test_a_login_that_expires_ends_the_connection(
    javascript: ClientProcess, service: RunningService
) -> None:
    """Its client may reconnect, with a new login; the hub sees an ordinary end."""
    name = "--close-on-auth-expiration"
    async with dotnet_peer(*arguments(service, "one", name)) as peer:
        await up(service, "test", {"one"})
        lasting = await javascript.connect(f"{peer.url}/test?user=bob")
        client = await javascript.connect(f"{peer.url}/test?user=ann&expires_in=3", reconnect=[0])
        first = client.id
        await peer.event("disconnected", id=first, user="ann")
        await client.until(lambda: len(client.lifecycle) >= 2)
        assert [what for what, _ in client.lifecycle[:2]] == ["reconnecting", "reconnected"]
        assert await lasting.invoke("Echo", "x") == "x"
        assert lasting.lifecycle == []


@pytest.mark.parametrize("allows", [False, True])
async def test_stateful_reconnect_is_the_hub_servers_choice(
    javascript: ClientProcess, service: RunningService, allows: bool
) -> None:
    """It says so on its connections; negotiate only passes on what the client asks for."""
    option = ("--stateful-reconnect",) if allows else ()
    async with dotnet_peer(*arguments(service, "one", *option)) as peer:
        await up(service, "test", {"one"})
        url = f"{peer.url}/test"
        client = await javascript.connect(url, stateful=True, cuttable=True, reconnect=[0])
        before = client.id
        assert await client.invoke("Echo", "x") == "x"
        await client.cut(url, stateful=True)
        if not allows:
            await client.until(lambda: len(client.lifecycle) >= 2)
        assert (await client.invoke("WhoAmI"))["connectionId"] == client.id
        assert (client.id == before) is allows
        assert [what for what, _ in client.lifecycle] == (
            [] if allows else ["reconnecting", "reconnected"]
        )
