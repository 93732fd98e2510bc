"""Results that hub servers await from clients: who is asked, who gets the answer (rule 14)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from harness.clients import JSON, Client
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedConnection, ScriptedServer

from signalr_trio import ClientResultError, GracefulShutdown, Hub, HubServer
from signalr_trio.protocol.messages import (
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    StreamItem,
)
from signalr_trio.protocol.service_messages import (
    ClientCompletion,
    ClientInvocation,
    CloseConnection,
    ErrorCompletion,
)

GONE = "Connection 'c' is disconnected."


def ask(
    one: ScriptedConnection, id: str = "q", client: str = "c", *, protocol: str = "json"
) -> None:
    payload = JSON.write(Invocation("Name", [1], id))
    one.send(ClientInvocation(id, client, one.server.id, {protocol: payload}))


def answers(server: ScriptedServer) -> list[tuple[str, Any]]:
    """What came for its questions: id and result, or id and error."""
    found: list[tuple[str, Any]] = []
    for message in [message for one in server.connections for message in one.received]:
        if isinstance(message, ClientCompletion):
            completion = JSON.parse(message.payload)
            assert isinstance(completion, Completion)
            assert message.protocol == "json"
            assert message.invocation_id == completion.invocation_id
            found.append((message.invocation_id, completion.error or completion.result))
        elif isinstance(message, ErrorCompletion):
            found.append((message.invocation_id, message.error))
    return found


def questions(client: Client) -> list[str | None]:
    return [one.invocation_id for one in client.received if isinstance(one, Invocation)]


@pytest.mark.parametrize("own", [True, False], ids=["own", "SDK"])
@pytest.mark.parametrize("asker", ["A", "B"])
async def test_the_answer_goes_to_who_asked(autojump_clock, own: bool, asker: str) -> None:
    """A has the client. An SDK server looks for its own client's answer among what that sends."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=own)
        client = await cluster.client("c")
        b = await cluster.scripted("B", own=own)
        one = a if asker == "A" else b
        ask(one.connections[0])
        await settle()
        assert client.calls == [("Name", [1])]
        client.say(Completion("other", 0), Completion("q", "Ann"), Completion("q", "twice"))
        client.send("Next")
        await trio.sleep(0 if own else 1)
        await settle()
        in_line = [JSON.parse(frame) for frame in a.data_of("c")]
        rest = [Completion("q", "twice"), Invocation("Next", [])]
        if asker == "A" and not own:
            assert answers(a) == []
            assert in_line == [Completion("other", 0), Completion("q", "Ann"), *rest]
        else:
            assert answers(one) == [("q", "Ann")]
            assert in_line == [Completion("other", 0), *rest]


async def test_an_error_is_an_answer(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        ask(a.connections[0])
        await settle()
        client.say(Completion("q", error="I won't"))
        await settle()
        assert answers(a) == [("q", "I won't")]


async def test_nobody_answers_for_another(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client("c")
        other = await cluster.client("d")
        ask(a.connections[0])
        await settle()
        other.say(Completion("q", "not mine"))
        await settle()
        assert answers(a) == []


async def test_a_client_that_is_not_there(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        ask(a.connections[0], client="nobody")
        await settle()
        assert answers(a) == [("q", "Connection 'nobody' does not exist.")]


async def test_bad_questions_are_refused(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        ask(a.connections[0], "p", protocol="messagepack")
        ask(a.connections[0], "q")
        ask(a.connections[0], "q")
        await settle()
        assert answers(a) == [
            ("p", "There is no payload for protocol json."),
            ("q", "Invocation ID 'q' is already in use."),
        ]
        client.say(Completion("q", 1))
        await settle()
        assert answers(a)[2:] == [("q", 1)]
        assert questions(client) == ["q"]


async def test_a_bad_answer_ends_the_client_and_the_wait(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        other = await cluster.client("d")
        ask(a.connections[0])
        await settle()
        client.transport.put(b'{"type":3,"invocationId":"q","result":1,"error":"both"}\x1e')
        await settle()
        assert answers(a) == [("q", GONE)]
        assert client.close is not None
        assert client.close.error is not None
        assert client.close.error.startswith("Connection closed with an error.")
        assert other.close is None


@pytest.mark.parametrize("how", ["leaves", "says Close", "is closed", "server is lost"])
async def test_a_client_that_goes_ends_each_wait_once(autojump_clock, how: str) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        b = await cluster.scripted("B", own=False)
        ask(b.connections[0], "q1")
        ask(b.connections[0], "q2")
        await settle()
        if how == "leaves":
            client.leave()
        elif how == "says Close":
            client.say(Close())
            client.leave()
        elif how == "is closed":
            a.connections[0].send(CloseConnection("c"))
        else:
            await a.connections[0].lose()
        await trio.sleep(1)
        assert sorted(answers(b)) == [("q1", GONE), ("q2", GONE)]
        client.say(Completion("q1", "late"))
        await trio.sleep(1)
        assert len(answers(b)) == 2


async def test_a_question_that_is_forgotten(autojump_clock) -> None:
    """Only by the server that asked; its answer is then like any other completion."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        b = await cluster.scripted("B")
        ask(b.connections[0], "q")
        ask(b.connections[0], "r")
        await settle()
        a.connections[0].send(ClientCompletion("r", "c", "B", None, b""))
        for id, of_client in (("x", "c"), ("r", "nobody"), ("q", "c")):
            b.connections[0].send(ClientCompletion(id, of_client, "B", None, b""))
        await settle()
        client.say(Completion("q", 1), Completion("r", 2))
        await settle()
        assert answers(b) == [("r", 2)]
        assert [JSON.parse(frame) for frame in a.data_of("c")] == [Completion("q", 1)]


async def test_the_answer_finds_another_connection_of_an_sdk_server(autojump_clock) -> None:
    async with open_cluster() as cluster:
        await cluster.scripted("A")
        client = await cluster.client("c")
        b = await cluster.scripted("B", connections=2, own=False)
        ask(b.connections[0])
        await trio.sleep(1)
        await b.connections[0].lose()
        await settle()
        client.say(Completion("q", "Ann"))
        await settle()
        assert b.connections[1].of(ClientCompletion)
        # With none left it is dropped, and harms nobody.
        ask(b.connections[1], "r")
        await settle()
        await b.connections[1].lose()
        await settle()
        client.say(Completion("r", "Ann"))
        await settle()
        assert client.close is None


async def test_a_question_of_ours_ends_with_its_connection(autojump_clock) -> None:
    """Its server waits no longer, however many other connections it has."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        b = await cluster.scripted("B", connections=2)
        ask(b.connections[0])
        ask(b.connections[1], "r")
        await settle()
        await b.connections[0].lose()
        await settle()
        client.say(Completion("q", "Ann"), Completion("r", "Bob"))
        await settle()
        assert answers(b) == [("r", "Bob")]
        assert [JSON.parse(frame) for frame in a.data_of("c")] == [Completion("q", "Ann")]


async def test_a_client_may_be_asked_before_its_handshake_is_answered(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", answers=False)
        client = await cluster.client("c")
        ask(a.connections[0])
        await settle()
        assert client.response is None
        a.connections[0].answer("c")
        await settle()
        assert questions(client) == ["q"]
        client.say(Completion("q", 1))
        await settle()
        assert answers(a) == [("q", 1)]


@pytest.mark.parametrize("own", [True, False], ids=["own", "SDK"])
async def test_an_sdk_server_is_told_nothing_too_soon(autojump_clock, own: bool) -> None:
    """It may not have noted yet that it waits, and would lose the answer or the error."""
    async with open_cluster() as cluster:
        await cluster.scripted("A")
        client = await cluster.client("c")
        b = await cluster.scripted("B", own=own)

        for id, of_client, wait in (("q1", "c", 0.5), ("q2", "c", 0.02), ("q3", "nobody", 0.02)):
            ask(b.connections[0], id, of_client)
            await settle()
            client.say(Completion(id, 1))
            await trio.sleep(0.9 * wait)
            assert (id in dict(answers(b))) == own
            await trio.sleep(0.2 * wait)
            assert id in dict(answers(b))
        assert len(answers(b)) == 3


async def test_an_answer_in_the_line_comes_no_sooner(autojump_clock) -> None:
    """Where the SDK server looks for it; what the client says next stays behind it."""
    async with open_cluster() as cluster:
        b = await cluster.scripted("B", own=False)
        client = await cluster.client("c")
        ask(b.connections[0])
        await settle()
        client.say(Completion("q", 1))
        client.say(Invocation("Next", []))
        await trio.sleep(0.4)
        assert b.data_of("c") == []
        await trio.sleep(0.2)
        assert [JSON.parse(frame) for frame in b.data_of("c")] == [
            Completion("q", 1),
            Invocation("Next", []),
        ]


# -- in a hand-over -----------------------------------------------------------------------------


async def test_an_answer_passes_what_is_held(autojump_clock) -> None:
    """Whatever the state: while the old server has the client, when it has let it go, and after."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        b = await cluster.scripted("B", answers=False)
        for id in ("q1", "q2", "q3"):
            ask(a.connections[0], id)
        a.fin()
        await settle()
        client.send("Held")
        client.say(Completion("q1", 1))
        await settle()
        assert answers(a) == [("q1", 1)]
        a.connections[0].release("c")
        await settle()
        client.say(Completion("q2", 2))
        await settle()
        assert answers(a) == [("q1", 1), ("q2", 2)]
        b.connections[0].answer("c")
        await settle()
        client.say(Completion("q3", 3))
        await settle()
        assert answers(a) == [("q1", 1), ("q2", 2), ("q3", 3)]
        assert [JSON.parse(frame) for frame in b.data_of("c")] == [Invocation("Held", [])]


@pytest.mark.parametrize("phase", ["before the release", "before the answer"])
async def test_a_client_that_leaves_in_a_hand_over(autojump_clock, phase: str) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        await cluster.scripted("B", answers=False)
        ask(a.connections[0])
        a.fin()
        await settle()
        if phase == "before the answer":
            a.connections[0].release("c")
            await settle()
        client.leave()
        await settle()
        assert answers(a) == [("q", GONE)]


async def test_an_sdk_server_keeps_its_client_until_that_has_answered(autojump_clock) -> None:
    """And has taken the answer up: told to let it go, it would fail the wait at once."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        client = await cluster.client("c")
        await cluster.scripted("B")
        ask(a.connections[0], "q1")
        ask(a.connections[0], "q2")
        await settle()
        a.fin()
        await trio.sleep(5)
        assert a.connections[0].migrating_closes_of("c") == []
        client.say(Completion("q1", 1))
        # This one is given up: the SDK says so when it has had an answer.
        a.connections[0].send(ClientCompletion("q2", "c", "A", "json", b""))
        await trio.sleep(2)
        answer, barrier = [JSON.parse(frame) for frame in a.data_of("c")]
        assert answer == Completion("q1", 1)
        assert isinstance(barrier, Invocation)
        assert a.connections[0].migrating_closes_of("c") == []
        # No hub has such a method; what came before it has been seen when this is said.
        a.connections[0].say("c", Completion(barrier.invocation_id or "", error="no such method"))
        await settle()
        assert a.connections[0].migrating_closes_of("c") == ["B"]


# -- with real hub servers ----------------------------------------------------------------------


class Chat(Hub):
    async def ask(self, client: str) -> Any:
        return await self.clients.client(client).invoke("Name")

    async def echo(self, value: Any) -> Any:
        return value


async def two_servers(cluster: Cluster, own: bool) -> tuple[HubServer, Client, Client]:
    """Server A, its client c, and client d of server B."""
    shutdown = GracefulShutdown("migrate_clients", timeout=25)
    a = await cluster.serve(Chat, id="A", own=own, shutdown=shutdown)
    c = await cluster.client("c")
    await cluster.serve(Chat, id="B", own=own)
    d = await cluster.client("d")
    return a, c, d


def last_question(client: Client) -> str:
    id = questions(client)[-1]
    assert id is not None
    return id


@pytest.mark.parametrize("own", [True, False], ids=["agreed", "not agreed"])
@pytest.mark.parametrize("asked", ["c", "d"])
async def test_a_hub_asks_a_client_of_any_server(autojump_clock, own: bool, asked: str) -> None:
    async with open_cluster() as cluster:
        _, c, d = await two_servers(cluster, own)
        c.invoke("1", "Ask", asked)
        await settle()
        one = c if asked == "c" else d
        # The handler calls the hub before it answers.
        one.invoke("2", "Echo", "meanwhile")
        await settle()
        assert one.completions["2"].result == "meanwhile"
        one.say(Completion(last_question(one), "Ann"))
        await trio.sleep(1)
        assert c.completions["1"].result == "Ann"


async def test_a_hub_asks_a_client_that_goes(autojump_clock) -> None:
    async with open_cluster() as cluster:
        _, c, d = await two_servers(cluster, own=True)
        c.invoke("1", "Ask", "d")
        c.invoke("2", "Ask", "nobody")
        await settle()
        d.leave()
        await settle()
        assert c.completions["1"].error is not None
        assert c.completions["1"].error.endswith("Connection 'd' is disconnected.")
        assert c.completions["2"].error is not None
        assert c.completions["2"].error.endswith("Connection 'nobody' does not exist.")


@pytest.mark.parametrize("own", [True, False], ids=["agreed", "not agreed"])
@pytest.mark.parametrize("asked", ["c", "d"])
async def test_a_question_that_is_open_in_a_hand_over(
    autojump_clock, own: bool, asked: str
) -> None:
    """c moves from A to B while its call on A waits, for c itself or for another."""
    async with open_cluster() as cluster:
        a, c, d = await two_servers(cluster, own)
        c.invoke("1", "Ask", asked)
        await settle()
        a.request_shutdown()
        await trio.sleep(2)
        c.invoke("2", "Echo", "held")
        await settle()
        assert c.completions == {}
        one = c if asked == "c" else d
        one.say(Completion(last_question(one), "Ann"))
        await trio.sleep(2)
        assert c.completions["1"].result == "Ann"
        assert c.completions["2"].result == "held"
        report = await a.shutdown()
        assert report.migrated == 1


async def test_a_handler_that_calls_the_hub_first_cannot_answer_in_a_hand_over(
    autojump_clock,
) -> None:
    """Its call is held for the new server, so the old one waits in vain: rule 13 ends that."""
    async with open_cluster() as cluster:
        a, c, _ = await two_servers(cluster, own=True)
        c.invoke("1", "Ask", "c")
        await settle()
        a.request_shutdown()
        await trio.sleep(1)
        c.invoke("2", "Echo", "first")
        await trio.sleep(15)
        assert c.completions["1"].error is not None
        assert "moving to another server" in c.completions["1"].error
        assert c.completions["2"].result == "first"
        c.say(Completion(last_question(c), "late"))
        c.invoke("3", "Echo", "next")
        await settle()
        assert c.completions["3"].result == "next"
        assert len(c.completions) == 3


async def test_a_client_is_asked_from_outside_while_it_moves(autojump_clock) -> None:
    """Each of many questions, at any moment, ends once, with its own answer."""
    async with open_cluster() as cluster:
        shutdown = GracefulShutdown("migrate_clients", timeout=25)
        a = await cluster.serve(Chat, id="A", shutdown=shutdown)
        c = await cluster.client("c")
        b = await cluster.serve(Chat, id="B")
        context = b.hub_context(Chat)
        got: list[object] = []

        async def ask_one() -> None:
            try:
                got.append(await context.clients.client("c").invoke("Name", timeout=20))
            except ClientResultError as error:
                got.append(error)

        async def answer_all() -> None:
            answered: set[str] = set()
            while True:
                for id in questions(c):
                    if id is not None and id not in answered:
                        answered.add(id)
                        c.say(Completion(id, "Ann"))
                await trio.sleep(0.01)

        cluster.nursery.start_soon(answer_all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_one)
            a.request_shutdown()
            for _ in range(20):
                nursery.start_soon(ask_one)
                await trio.sleep(0.03)
        assert got == ["Ann"] * 21
        assert (await a.shutdown()).migrated == 1


async def test_only_a_completion_is_an_answer(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        ask(a.connections[0])
        await settle()
        client.ping()
        client.item("q", 1)
        client.cancel("q")
        await settle()
        assert answers(a) == []
        in_line = [JSON.parse(frame) for frame in a.data_of("c")]
        assert in_line == [StreamItem("q", 1), CancelInvocation("q")]


async def test_a_client_that_has_answered_costs_nothing_more(autojump_clock) -> None:
    """What it sends is looked into only while an answer is awaited."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c")
        session = cluster.service.hub("chat").sessions["c"]
        for end in (
            lambda: client.say(Completion("q", 1)),
            lambda: a.connections[0].send(ClientCompletion("q", "c", "A", None, b"")),
        ):
            ask(a.connections[0], "q")
            await settle()
            assert session.awaited is not None
            end()
            await settle()
            assert session.awaited is None
