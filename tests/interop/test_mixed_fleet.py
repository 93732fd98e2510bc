"""A fleet of both kinds of hub server, as far as one hand-over (``test_matrix``) does not show it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.interop.backend import Backend
from tests.interop.client_process import ClientProcess
from tests.peers import DotnetPeer, needs_dotnet_peer

pytestmark = needs_dotnet_peer

Start = Callable[..., Awaitable[Backend]]
StartDotnet = Callable[..., Awaitable[DotnetPeer]]


async def test_back_and_forth(
    javascript: ClientProcess, start: Start, start_dotnet: StartDotnet
) -> None:
    """Python, .NET, Python, with calls all the way: none is lost, doubled or out of order."""
    first = await start("first")
    clients = [
        await javascript.connect(first.url, protocol=protocol)
        for protocol in ("json", "messagepack", "json")
    ]
    dotnet = await start_dotnet("dotnet")
    sent = 0

    async def talk() -> None:
        nonlocal sent
        for _ in range(50):
            for client in clients:
                await client.begin("Echo", sent)
            sent += 1

    await talk()
    first.server.request_shutdown()
    await talk()
    await first.server.shutdown()
    await talk()
    second = await start("second")
    dotnet.terminate()
    await talk()
    assert await dotnet.wait() == 0
    await talk()
    for client in clients:
        assert await client.outcome(sent) == list(range(sent))
        assert first.noted("disconnected", client.id) == [("first", "dotnet")]
        await dotnet.event("connected", id=client.id, migrate_from="first", migrate_to="dotnet")
        await dotnet.event("disconnected", id=client.id, migrate_from="dotnet", migrate_to="second")
        assert second.noted("connected", client.id) == [("dotnet", "second")]
        assert client.lifecycle == []


async def test_client_results(
    javascript: ClientProcess, start: Start, start_dotnet: StartDotnet
) -> None:
    """Each kind of server asks clients of both; one that goes ends the wait."""
    python = await start("python")
    handlers = {"Name": "echo", "AskBack": "ask back", "Wait": "when told"}
    ours = await javascript.connect(python.url, handlers=handlers)
    dotnet = await start_dotnet("dotnet")
    url = f"{dotnet.url}/test"
    theirs = await javascript.connect(url, protocol="messagepack", handlers=handlers)
    assert (await theirs.invoke("WhoAmI"))["serverName"] == "dotnet"
    for asker in (ours, theirs):
        for asked in (ours, theirs):
            assert await asker.invoke("AskClient", asked.id, "Name", "Ada") == "Ada"
            assert await asker.invoke("AskClient", asked.id, "AskBack", "Ada") == "Ada"
    await theirs.begin("AskClient", ours.id, "Wait", 1)
    await ours.sends("Wait", 1)
    await ours.stop()
    (failed,) = await theirs.outcome(1)
    assert f"Connection '{ours.id}' is disconnected." in str(failed)
