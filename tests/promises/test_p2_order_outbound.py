"""P2: what a client's calls on the old server sent comes before anything of the new server."""

from __future__ import annotations

import trio
from harness.cluster import open_cluster, settle
from harness.servers import ScriptedConnection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from signalr_trio import Hub
from signalr_trio.protocol.messages import Completion, StreamItem


async def test_p2_results_items_and_sends_of_the_old_server_come_first(autojump_clock) -> None:
    """All of it is sent in one go with the release, and the new server answers at once."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        client.invoke("call", "f")
        client.stream("items", "count")
        a.fin()
        await settle()
        old, new = a.connections[0], b.connections[0]
        old.say("c", StreamItem("items", 1), Completion("call", 2))
        old.send_to(["c"], "last", "of on_disconnected")
        old.release("c")
        await settle()
        new.send_to(["c"], "first", "of on_connected")
        await settle()
        received = [type(one).__name__ for one in client.received]
        assert received == ["StreamItem", "Completion", "Invocation", "Invocation"]
        assert [target for target, _ in client.calls] == ["last", "first"]


async def test_p2_what_the_old_server_says_after_its_release_is_dropped_and_counted(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        client.invoke("x", "f")
        a.fin()
        await settle()
        a.connections[0].release("c")
        a.connections[0].complete("c", "x", "too late")
        await settle()
        b.connections[0].complete("c", "x", "of the new server")
        await settle()
        assert client.completions["x"].result == "of the new server"
        (connection,) = [one for one in cluster.service.hub("chat").connections if one.dropped]
        assert (connection.server.id, connection.dropped) == ("A", 1)


@given(
    old=st.lists(st.sampled_from(["data", "send", "settle"]), max_size=12),
    new=st.lists(st.sampled_from(["data", "send"]), max_size=6),
)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_p2_holds_for_whatever_the_two_servers_say(old: list[str], new: list[str]) -> None:
    """The new server speaks in the very step in which the client is opened there."""

    async def scenario() -> None:
        said: list[str] = []

        def speak(connection: ScriptedConnection, step: str) -> None:
            said.append(f"{connection.id}/{len(said)}")
            if step == "data":
                connection.say("c", StreamItem("items", said[-1]))
            else:
                connection.send_to(["c"], "f", said[-1])

        def speak_at_once(connection: ScriptedConnection, _: str) -> None:
            for step in new:
                speak(connection, step)

        async with open_cluster() as cluster:
            a = await cluster.scripted("A")
            client = await cluster.client()
            b = await cluster.scripted("B")
            b.on_open = speak_at_once
            a.fin()
            await settle()
            for step in old:
                if step == "settle":
                    await settle()
                else:
                    speak(a.connections[0], step)
            a.connections[0].release("c")
            await settle()
            heard = [
                one.item if isinstance(one, StreamItem) else one.arguments[0]  # type: ignore
                for one in client.received
            ]
            assert heard == said
            assert len(said) == len(new) + len(old) - old.count("settle")

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


async def test_p2_with_real_servers(autojump_clock) -> None:
    class Chat(Hub):
        async def slow(self) -> str:
            await self.clients.caller.send("said", "during the call")
            await trio.sleep(2)
            await self.clients.caller.send("said", "at its end")
            return "result"

        async def on_disconnected(self, error: Exception | None) -> None:
            await self.clients.caller.send("said", "on_disconnected")

        async def on_connected(self) -> None:
            await self.clients.caller.send("said", "on_connected")

    async with open_cluster() as cluster:
        a = await cluster.serve(Chat, id="A")
        client = await cluster.client()
        await cluster.serve(Chat, id="B")
        client.invoke("1", "slow")
        await settle()
        await a.shutdown()
        await settle()
        said = [
            one.result if isinstance(one, Completion) else one.arguments[0]  # type: ignore
            for one in client.received
        ]
        assert said == [
            "on_connected",
            "during the call",
            "at its end",
            "result",
            "on_disconnected",
            "on_connected",
        ]
