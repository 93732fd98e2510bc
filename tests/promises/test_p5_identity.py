"""P5: a hand-over leaves a client's identity alone, and the client notices nothing."""

from __future__ import annotations

import trio
from harness.clients import ADDRESS, JSON, claims_for
from harness.cluster import open_cluster, settle

from signalr_trio import Hub
from signalr_trio.protocol.messages import Invocation
from signalr_trio.protocol.service_messages import (
    MIGRATE_FROM,
    GroupBroadcastData,
    JoinGroup,
    UserData,
)


def hello_from(text: str) -> dict[str, bytes]:
    return {"json": JSON.write(Invocation("hear", [text]))}


async def test_p5_the_new_server_is_told_all_that_the_old_one_was(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.auto_release = True
        claims = claims_for("ann", ("role", "x"), ("role", "y"))
        await cluster.client(claims=claims, query="?a=1&b=%20")
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        first, again = a.opened["c"], b.opened["c"]
        assert again.claims == first.claims == claims
        assert again.query_string == first.query_string == "?a=1&b=%20"
        assert again.protocol == first.protocol == "json"
        assert first.headers == {"X-Forwarded-For": [ADDRESS]}
        assert again.headers == {**first.headers, MIGRATE_FROM: ["A"]}
        handshakes = [one.connections[0].payloads_of("c")[0] for one in (a, b)]
        assert handshakes[0] == handshakes[1]


async def test_p5_the_client_sees_no_close_no_handshake_and_no_new_connection(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.auto_release = True
        client = await cluster.client()
        sent_before = list(client.transport.sent)
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        assert "c" in b.opened
        assert client.transport.sent == sent_before
        assert not client.transport.closed
        assert not client.over.is_set()


async def test_p5_a_server_that_does_not_answer_costs_no_message(autojump_clock) -> None:
    """An SDK server sends no handshake response to a client that was handed over: the first
    message that comes from it is the client's."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.auto_release = True
        client = await cluster.client()
        b = await cluster.scripted("B", own=False)
        a.fin()
        await settle()
        client.invoke("1", "f")
        await settle()
        b.connections[0].complete("c", "1", "the first message")
        await settle()
        assert client.completions["1"].result == "the first message"


async def test_p5_groups_and_user_stay(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client(claims=claims_for("ann"))
        a.connections[0].send(JoinGroup("c", "g"))
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        # In the middle of the hand-over, and after it.
        for _ in range(2):
            b.connections[0].send(GroupBroadcastData("g", [], hello_from("group")))
            b.connections[0].send(UserData("ann", hello_from("user")))
            await settle()
            a.connections[0].release("c")
            await settle()
        assert [arguments[0] for _, arguments in client.calls] == ["group", "user"] * 2


async def test_p5_with_real_servers(autojump_clock) -> None:
    seen: list[tuple[str, str | None, str | None, str]] = []

    class Chat(Hub):
        async def on_connected(self) -> None:
            context = self.context
            claim = context.claim("shoe size")
            seen.append((context.connection_id, context.user_id, claim, context.query_string))
            context.items["of this server"] = True

        async def join(self, group: str) -> None:
            await self.groups.add_to_group(self.context.connection_id, group)

        async def tell(self, group: str, text: str) -> None:
            await self.clients.group(group).send("told", text)

    async with open_cluster() as cluster:
        a = await cluster.serve(Chat, id="A")
        client = await cluster.client(claims=claims_for("ann", ("shoe size", "38")), query="?q=1")
        client.invoke("1", "join", "g")
        await settle()
        await cluster.serve(Chat, id="B")
        report = await a.shutdown()
        client.invoke("2", "tell", "g", "still here")
        await settle()
        assert report.migrated == 1
        assert seen == [("c", "ann", "38", "?q=1")] * 2
        assert client.calls == [("told", ["still here"])]
        assert client.close is None


async def test_p5_the_pause_is_its_longest_call(autojump_clock) -> None:
    class Chat(Hub):
        async def slow(self, seconds: float) -> float:
            await trio.sleep(seconds)
            return trio.current_time()

        async def quick(self) -> float:
            return trio.current_time()

    async with open_cluster() as cluster:
        a = await cluster.serve(Chat, id="A")
        client = await cluster.client()
        await cluster.serve(Chat, id="B")
        client.invoke("slow", "slow", 3.0)
        await settle()
        a.request_shutdown()
        await settle()
        client.invoke("held", "quick")
        await a.shutdown()
        await settle()
        assert client.completions["held"].result == client.completions["slow"].result
