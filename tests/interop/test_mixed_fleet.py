"""A fleet of both kinds: servers of ours take over from .NET servers, and the other way round."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from backend import Backend
from node import Connection, Node, Upload
from peers import DotnetPeer, needs_dotnet_peer

pytestmark = needs_dotnet_peer

Start = Callable[..., Awaitable[Backend]]
StartDotnet = Callable[..., Awaitable[DotnetPeer]]


async def test_dotnet_to_python(
    javascript: Node, start: Start, start_dotnet: StartDotnet, protocol: str
) -> None:
    dotnet = await start_dotnet("dotnet")
    url = f"{dotnet.url}/test"
    idle = await javascript.connect(url, protocol=protocol)
    client = await javascript.connect(f"{url}?user=ada", protocol=protocol, on=["told"])
    last = await javascript.connect(url, protocol=protocol)
    await client.invoke("Join", "g")
    upload = await _open_upload(client)
    python = await start("python")

    dotnet.terminate()
    await python.has_noted("connected", idle.id)
    for n in range(10):
        await client.begin("Number", n)
    await upload.item(2)
    await upload.end()
    assert await client.outcome(11) == [3, *range(10)]

    assert python.noted("number", client.id) == list(range(10))
    who = await client.invoke("WhoAmI")
    assert (who["userId"], who["serverName"]) == ("ada", "python")
    await idle.send("TellGroup", "g", "group")
    await idle.send("TellUser", "ada", "user")
    assert await client.sends("told", 2) == [["group"], ["user"]]
    assert await dotnet.wait() == 0
    for one in (idle, client, last):
        await python.has_noted("connected", one.id)
        assert python.noted("connected", one.id) == [("dotnet", "python")]
        await dotnet.event("disconnected", id=one.id, migrate_from="dotnet", migrate_to="python")
        assert one.lifecycle == []


async def test_python_to_dotnet(
    javascript: Node, start: Start, start_dotnet: StartDotnet, protocol: str
) -> None:
    python = await start("python")
    idle = await javascript.connect(python.url, protocol=protocol)
    client = await javascript.connect(f"{python.url}?user=ada", protocol=protocol, on=["told"])
    await client.invoke("Join", "g")
    stream = await client.stream("CountWithGate", 100)
    await python.has_noted("at gate")
    upload = await _open_upload(client)
    dotnet = await start_dotnet("dotnet")

    python.server.request_shutdown()
    await dotnet.event("connected", id=idle.id)
    for n in range(10):
        await client.begin("Echo", n)
    await upload.item(2)
    await upload.end()
    python.gate.set()
    assert await stream.result() == list(range(100))
    assert await client.outcome(11) == [3, *range(10)]

    who = await client.invoke("WhoAmI")
    assert (who["userId"], who["serverName"]) == ("ada", "dotnet")
    await idle.send("SendTo", "Group", ["g"], [], "told", ["group"])
    await idle.send("SendTo", "User", ["ada"], [], "told", ["user"])
    assert await client.sends("told", 2) == [["group"], ["user"]]
    report = await python.server.shutdown()
    assert report.migrated == report.clients == 2
    for one in (idle, client):
        assert python.noted("disconnected", one.id) == [("python", "dotnet")]
        await dotnet.event("connected", id=one.id, migrate_from="python", migrate_to="dotnet")
        assert one.lifecycle == []


async def test_back_and_forth(
    javascript: Node, start: Start, start_dotnet: StartDotnet, protocol: str
) -> None:
    """Python, .NET, Python, with calls all the way: none is lost, doubled or out of order."""
    first = await start("first")
    clients = [await javascript.connect(first.url, protocol=protocol) for _ in range(3)]
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
        assert second.noted("connected", client.id) == [("dotnet", "second")]
        assert client.lifecycle == []


async def _open_upload(client: Connection) -> Upload:
    """Begins ``Sum`` with the first of its items."""
    upload = client.upload()
    await client.begin("Sum", upload)
    await upload.item(1)
    return upload


async def test_client_results(
    javascript: Node, start: Start, start_dotnet: StartDotnet, protocol: str
) -> None:
    """Each kind of server asks clients of both; one that goes ends the wait."""
    python = await start("python")
    handlers = {"Name": "echo", "AskBack": "ask back", "Wait": "when told"}
    ours = await javascript.connect(python.url, protocol=protocol, handlers=handlers)
    dotnet = await start_dotnet("dotnet")
    theirs = await javascript.connect(f"{dotnet.url}/test", protocol=protocol, handlers=handlers)
    assert (await theirs.invoke("WhoAmI"))["serverName"] == "dotnet"
    for asker, ask in ((ours, "Ask"), (theirs, "AskClient")):
        for asked in (ours, theirs):
            assert await asker.invoke(ask, asked.id, "Name", "Ada") == "Ada"
            assert await asker.invoke(ask, asked.id, "AskBack", "Ada") == "Ada"
    await theirs.begin("AskClient", ours.id, "Wait", 1)
    await ours.sends("Wait", 1)
    await ours.stop()
    (failed,) = await theirs.outcome(1)
    assert f"Connection '{ours.id}' is disconnected." in str(failed)


async def test_client_results_in_a_hand_over(
    javascript: Node, start: Start, start_dotnet: StartDotnet, protocol: str
) -> None:
    """The .NET server awaits one of its own client, and one of another, when it is to stop."""
    dotnet = await start_dotnet("dotnet")
    url = f"{dotnet.url}/test"
    idle = await javascript.connect(url, protocol=protocol)
    asked = await javascript.connect(url, protocol=protocol, handlers={"Wait": "when told"})
    await asked.begin("AskClient", asked.id, "Wait", "itself")
    other = await javascript.connect(url, protocol=protocol)
    await other.begin("AskClient", asked.id, "Wait", "of another")
    await asked.sends("Wait", 2)
    python = await start("python")
    dotnet.terminate()
    await python.has_noted("connected", idle.id)
    await asked.begin("Number", 1)
    await idle.send("TellClient", asked.id)
    assert await asked.outcome(2) == ["itself", 1]
    assert await other.outcome(1) == ["of another"]
    assert await dotnet.wait() == 0
    assert python.noted("connected", asked.id) == [("dotnet", "python")]
    assert asked.lifecycle == other.lifecycle == []
