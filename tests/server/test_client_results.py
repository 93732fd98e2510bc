"""Results that hubs await from clients: what is asked, how each wait ends, what runs meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from harness.scripted_service import ScriptedClient, Served, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import ClientResultError, ConnectionClosed, Hub, HubError, HubOptions
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import NO_RESULT, Completion, Invocation
from signalr_trio.protocol.service_messages import (
    INSTANCE_ID,
    OFFLINE,
    ClientCompletion,
    ClientInvocation,
    ErrorCompletion,
    Ping,
    ServiceMapping,
    UpdateConnectionClaims,
)
from signalr_trio.tokens import NAME_IDENTIFIER

JSON = HUB_PROTOCOLS["json"]


class Chat(Hub):
    """Its methods do what a test wants."""

    task: Callable[[Chat], Awaitable[object]]

    async def run(self) -> object:
        return await Chat.task(self)

    async def echo(self, value: Any) -> Any:
        return value

    async def ask(self) -> Any:
        return await self.clients.caller.invoke("Name")

    async def ask_for_each(self) -> AsyncIterator[Any]:
        while True:
            yield await self.clients.caller.invoke("Name")

    async def slow(self, seconds: float) -> None:
        await trio.sleep(seconds)


def begin(served: Served, client: ScriptedClient, task: Callable[[Chat], Awaitable[object]]) -> str:
    """Runs ``task`` in a call of the client."""
    Chat.task = task
    return client.invoke("run")


async def question(served: Served, count: int = 1) -> ClientInvocation:
    return await served.service.message(ClientInvocation, count)


def answer(
    asked: ClientInvocation, completion: Completion, protocol: str = "json"
) -> ClientCompletion:
    payload = HUB_PROTOCOLS[protocol].write(completion)
    return ClientCompletion(asked.invocation_id, asked.connection_id, "?", protocol, payload)


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_client_is_asked_and_its_answer_is_the_result(
    autojump_clock: MockClock, protocol: str
) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        call = begin(served, client, lambda hub: hub.clients.client("far").invoke("Name", 1, "x"))
        asked = await question(served)
        assert (asked.connection_id, asked.caller_server_id) == ("far", "A")
        assert asked.payloads == {
            name: encoding.write(Invocation("Name", [1, "x"], asked.invocation_id))
            for name, encoding in HUB_PROTOCOLS.items()
        }
        client.connection.send(
            answer(asked, Completion(asked.invocation_id, {"a": [1, None]}), protocol)
        )
        client.connection.send(answer(asked, Completion(asked.invocation_id, "twice"), protocol))
        assert await client.result(call) == {"a": [1, None]}
        await wait_all_tasks_blocked()
        # The service has given the answer, and need not be told to forget it.
        assert served.service.received(ClientCompletion) == []


async def test_the_caller_of_this_server_is_asked_in_its_own_protocol(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        begin(served, client, lambda hub: hub.clients.caller.invoke("Name"))
        asked = await question(served)
        assert (asked.connection_id, list(asked.payloads)) == ("c1", ["json"])


async def test_the_ids_of_questions_are_unique_among_servers(autojump_clock: MockClock) -> None:
    async with serving(Chat) as a, serving(Chat) as b:
        for served in (a, b):
            client = await served.service.connected()
            for _ in range(2):
                begin(served, client, lambda hub: hub.clients.client("x").invoke("Name"))
            await question(served, 2)
        asked = a.service.received(ClientInvocation) + b.service.received(ClientInvocation)
        assert len({one.invocation_id for one in asked}) == 4


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (lambda q: answer(q, Completion(q.invocation_id, error="I won't")), "I won't"),
        (
            lambda q: answer(q, Completion(q.invocation_id, NO_RESULT)),
            "The client's answer has no result.",
        ),
        (lambda q: ErrorCompletion(q.invocation_id, "x", "A", "is gone"), "is gone"),
        (lambda q: ErrorCompletion(q.invocation_id, "x", "A", None), "The client gave no result."),
        (
            lambda q: ClientCompletion(q.invocation_id, "x", "A", "json", b"{garbage\x1e"),
            "The client's answer cannot be read.",
        ),
        (
            lambda q: ClientCompletion(q.invocation_id, "x", "A", "nosuch", b""),
            "The client's answer cannot be read.",
        ),
        (
            lambda q: ClientCompletion(q.invocation_id, "x", "A", "json", b'{"type":6}\x1e'),
            "The client's answer cannot be read.",
        ),
    ],
)
async def test_no_result_is_an_error(
    autojump_clock: MockClock, said: Callable[[ClientInvocation], Any], error: str
) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()

        async def ask(hub: Chat) -> str:
            with pytest.raises(ClientResultError) as raised:
                await hub.clients.client("x").invoke("Name")
            return str(raised.value)

        call = begin(served, client, ask)
        client.connection.send(said(await question(served)))
        assert await client.result(call) == error
        # What comes later, or for a question that was never asked, harms nobody.
        client.connection.send(said(served.service.received(ClientInvocation)[0]))
        assert await client.result(client.invoke("echo", 1)) == 1


async def test_the_error_goes_on_to_the_caller(autojump_clock: MockClock) -> None:
    assert issubclass(ClientResultError, HubError)
    async with serving(Chat) as served:
        client = await served.service.connected()
        call = client.invoke("ask")
        asked = await question(served)
        client.connection.send(answer(asked, Completion(asked.invocation_id, error="no name")))
        assert (await client.error(call)).endswith("HubException: no name")


async def test_the_time_out_ends_the_wait_and_the_service_is_told(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        before = trio.current_time()
        call = begin(
            served, client, lambda hub: hub.clients.client("x").invoke("Name", timeout=2.5)
        )
        assert "Connection 'x' did not answer within 2.5 s." in await client.error(call)
        assert trio.current_time() - before == pytest.approx(2.5)
        asked = await question(served)
        assert served.service.received(ClientCompletion) == [
            ClientCompletion(asked.invocation_id, "x", "A", None, b"")
        ]


async def test_whoever_is_cancelled_asks_no_more(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        context = served.server.hub_context(Chat)
        with trio.move_on_after(1) as scope:
            await context.clients.client("x").invoke("Name")
        assert scope.cancelled_caught
        await served.service.message(ClientCompletion)
        asked = await question(served)
        served.service.connections[0].send(answer(asked, Completion(asked.invocation_id, 1)))
        await wait_all_tasks_blocked()
        assert vars(served.server.hubs[0].results)["_open"] == {}


async def test_a_lost_connection_ends_the_wait(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served, trio.open_nursery() as nursery:
        context = served.server.hub_context(Chat)

        async def ask() -> None:
            with pytest.raises(ConnectionClosed):
                await context.clients.client("x").invoke("Name")

        nursery.start_soon(ask)
        await question(served)
        await served.service.connections[0].lose()


async def test_the_service_is_told_on_another_connection_that_nobody_waits(
    autojump_clock: MockClock,
) -> None:
    """It would keep the question, which is the server's and not its connection's."""
    async with serving(Chat, connections=2) as served:
        context = served.server.hub_context(Chat)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ConnectionClosed):
                    await context.clients.client("x").invoke("Name")

            nursery.start_soon(ask)
            asked = await question(served)
            (on,) = [one.connection for one in served.service.log if one.message is asked]
            served.service.refuses = True
            await on.lose()
        await wait_all_tasks_blocked()
        (told,) = [one for one in served.service.log if isinstance(one.message, ClientCompletion)]
        assert told.connection is not on
        assert told.message == ClientCompletion(asked.invocation_id, "x", "A", None, b"")


async def test_without_a_connection_nobody_is_asked(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        await served.service.vanish()
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionClosed, match="no connection to the service"):
            await served.server.hub_context(Chat).clients.client("x").invoke("Name")


async def test_what_cannot_be_encoded_is_not_asked(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        with pytest.raises(TypeError):
            await served.server.hub_context(Chat).clients.client("x").invoke("Name", object())
        await wait_all_tasks_blocked()
        assert served.service.received(ClientInvocation) == []


async def test_a_lost_instance_of_the_service_ends_what_it_was_asked(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        other = served.service.open("c2", headers={INSTANCE_ID: ["i2"]})
        await served.service.until(lambda: other.responses)
        first = begin(served, client, lambda hub: hub.clients.client("x").invoke("Name"))
        asked = await question(served)
        client.connection.send(ServiceMapping(asked.invocation_id, "x", "i1"))
        client.connection.send(Ping.of(OFFLINE, "i2"))
        await wait_all_tasks_blocked()
        assert client.completions(first) == []
        client.connection.send(Ping.of(OFFLINE, "i1"))
        assert "Connection 'x' is disconnected." in await client.error(first)


# -- services that leave answers in the line (Azure) --------------------------------------------


async def test_an_answer_that_comes_the_clients_own_way(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        other = await served.service.connected("c2")
        call = client.invoke("ask")
        asked = await question(served)
        # Nobody answers for another.
        other.send(Completion(asked.invocation_id, "not mine"))
        await wait_all_tasks_blocked()
        assert client.completions(call) == []
        client.send(Completion(asked.invocation_id, "Ann"))
        assert await client.result(call) == "Ann"
        # As the SDK does, so that the service forgets it.
        told = await served.service.message(ClientCompletion)
        assert (told.invocation_id, told.connection_id, told.payload) == (
            *(asked.invocation_id, "c1"),
            b"",
        )


async def test_the_asked_client_leaves_this_server(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        other = await served.service.connected("c2")
        call = begin(served, client, lambda hub: hub.clients.client("c2").invoke("Name"))
        await question(served)
        other.leave()
        assert "Connection 'c2' is disconnected." in await client.error(call)


async def test_a_client_of_this_server_is_asked_by_another(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        client.connection.send(ClientInvocation("b-1", "c1", "B", {}))
        client.connection.send(ClientInvocation("b-2", "nobody", "B", {}))
        client.send(Completion("b-9", 1), Completion("b-2", 2), Completion("b-1", "Ann"))
        told = await served.service.message(ClientCompletion)
        assert told == ClientCompletion(
            "b-1", "c1", "B", "json", JSON.write(Completion("b-1", "Ann"))
        )
        await wait_all_tasks_blocked()
        assert len(served.service.received(ClientCompletion)) == 1
        # A client that leaves without an answer is none that is remembered.
        client.connection.send(ClientInvocation("b-3", "c1", "B", {}))
        client.leave()
        await wait_all_tasks_blocked()
        assert vars(served.server.hubs[0].results)["_elsewhere"] == {}


# -- what runs meanwhile ------------------------------------------------------------------------


async def test_a_call_that_waits_for_a_client_gives_up_its_place(
    autojump_clock: MockClock,
) -> None:
    """The handler calls the hub before it answers: with one place that must not hang."""
    async with serving(Chat) as served:
        client = await served.service.connected()
        call = client.invoke("ask")
        asked = await question(served)
        assert await client.result(client.invoke("echo", "meanwhile")) == "meanwhile"
        client.connection.send(answer(asked, Completion(asked.invocation_id, "Ann")))
        assert await client.result(call) == "Ann"


@pytest.mark.parametrize("places", [1, 2])
async def test_a_place_given_up_is_taken_by_one(autojump_clock: MockClock, places: int) -> None:
    """However often it asks, and also when it is over before the call that took its place."""
    options = HubOptions(max_parallel_invocations=places)
    running = most = 0

    async def count(_: Chat) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    async with serving(Chat, options=options) as served:
        client = await served.service.connected()
        call = begin(
            served,
            client,
            lambda hub: hub.clients.caller.invoke("Name", timeout=0.5),
        )
        await question(served)
        Chat.task = count
        others = [client.invoke("run") for _ in range(6)]
        await client.error(call)
        for other in others:
            await client.result(other)
        # The place is there again when all is over.
        assert most == places
        most = 0
        for other in [client.invoke("run") for _ in range(4)]:
            await client.result(other)
        assert most == places


async def test_however_many_wait_for_the_client_the_next_call_runs(
    autojump_clock: MockClock,
) -> None:
    """Calls that come one by one, each while all before it wait."""
    async with serving(Chat) as served:
        client = await served.service.connected()
        calls: list[tuple[str, ClientInvocation]] = []
        for count in range(1, 5):
            call = client.invoke("ask")
            calls.append((call, await question(served, count)))
            assert await client.result(client.invoke("echo", count)) == count
        for call, asked in calls:
            client.connection.send(answer(asked, Completion(asked.invocation_id, call)))
            assert await client.result(call) == call


async def test_a_place_given_up_beside_the_clients_own_task(autojump_clock: MockClock) -> None:
    """Of two places: the first has a long call, the second one that asks."""
    options = HubOptions(max_parallel_invocations=2)
    async with serving(Chat, options=options) as served:
        client = await served.service.connected()
        client.invoke("slow", 100)
        call = client.invoke("ask")
        asked = await question(served)
        client.connection.send(answer(asked, Completion(asked.invocation_id, 1)))
        begun = trio.current_time()
        others = [client.invoke("slow", 1) for _ in range(4)]
        await client.result(call)
        for other in others:
            await client.result(other)
        assert trio.current_time() - begun == pytest.approx(4)


async def test_calls_go_on_in_order_when_the_one_that_asked_is_over(
    autojump_clock: MockClock,
) -> None:
    order: list[object] = []

    async with serving(Chat) as served:
        client = await served.service.connected()
        call = client.invoke("ask")
        asked = await question(served)
        slow = client.invoke("slow", 3)
        fast = client.invoke("echo", 1)
        await wait_all_tasks_blocked()
        client.connection.send(answer(asked, Completion(asked.invocation_id, "Ann")))
        for id in (call, slow, fast):
            await client.result(id)
        order = [one.invocation_id for one in client.messages if isinstance(one, Completion)]
        assert order == [call, slow, fast]


async def test_a_stream_that_asks_has_no_place_to_give_up(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        client.stream("ask_for_each", id="s")
        await question(served)
        begun = trio.current_time()
        for id in [client.invoke("slow", 1) for _ in range(2)]:
            await client.result(id)
        assert trio.current_time() - begun == pytest.approx(2)


async def test_a_task_that_outlives_its_call_gives_up_no_place(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served, trio.open_nursery() as nursery:
        client = await served.service.connected()

        async def leave_behind(hub: Chat) -> None:
            async def later() -> None:
                await trio.sleep(1)
                await hub.clients.client("x").invoke("Name")

            nursery.start_soon(later)

        await client.result(begin(served, client, leave_behind))
        calls = [client.invoke("slow", 2) for _ in range(3)]
        begun = trio.current_time()
        for id in calls:
            await client.result(id)
        assert trio.current_time() - begun == pytest.approx(6)
        nursery.cancel_scope.cancel()


# -- a hand-over --------------------------------------------------------------------------------


async def test_a_call_that_waits_for_its_client_keeps_it_until_it_is_answered(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        call = client.invoke("ask")
        asked = await question(served)
        client.move()
        await trio.sleep(5)
        assert client.releases == []
        client.connection.send(answer(asked, Completion(asked.invocation_id, "Ann")))
        assert await client.result(call) == "Ann"
        await client.released()


async def test_hurry_ends_what_a_clients_own_calls_asked_of_it(autojump_clock: MockClock) -> None:
    """Rule 13: only that; who else asks the client goes on, and so do its calls to others."""
    async with serving(Chat) as served:
        client = await served.service.connected()
        other = await served.service.connected("c2")
        call = client.invoke("ask")
        await question(served)
        theirs = begin(served, other, lambda hub: hub.clients.client("c1").invoke("Name"))
        await question(served, 2)
        client.move()
        await wait_all_tasks_blocked()
        client.move()
        assert "moving to another server" in await client.error(call)
        await client.released()
        assert other.completions(theirs) == []
        asked = served.service.received(ClientInvocation)[1]
        other.connection.send(answer(asked, Completion(asked.invocation_id, "Ann")))
        assert await other.result(theirs) == "Ann"


async def test_a_server_that_stops_waits_for_no_client(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served, trio.open_nursery() as nursery:
        client = await served.service.connected()
        call = client.invoke("ask")
        ended = []

        async def ask() -> None:
            try:
                await served.server.hub_context(Chat).clients.client("x").invoke("Name")
            except ConnectionClosed as error:
                ended.append(error)

        nursery.start_soon(ask)
        await question(served, 2)
        served.server.stop_now()
        await served.end()
        assert "shutting down" in await client.error(call)
        await wait_all_tasks_blocked()
        assert len(ended) == 1


# -- claims -------------------------------------------------------------------------------------


async def test_new_claims_of_a_client(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        client = await served.service.connected()
        claims = [(NAME_IDENTIFIER, "ann"), ("role", "admin"), ("asrs.s.aeo", "99")]
        client.connection.send(UpdateConnectionClaims("c1", claims))
        client.connection.send(UpdateConnectionClaims("nobody", claims))

        async def tell(hub: Chat) -> object:
            return [hub.context.user_id, hub.context.claims]

        got = await client.result(begin(served, client, tell))
        assert got == ["ann", [[NAME_IDENTIFIER, "ann"], ["role", "admin"]]]
