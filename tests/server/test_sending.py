"""What a hub sends, as the service sees it: which message, on which server connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from harness.scripted_service import ScriptedService, Served, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import ConnectionClosed, Hub
from signalr_trio.hub import HubCallerClients, HubClients
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import Invocation
from signalr_trio.protocol.service_messages import (
    Ack,
    AckStatus,
    BroadcastData,
    ConnectionFlowControl,
    FlowControlConnectionType,
    FlowControlOperation,
    GroupBroadcastData,
    JoinGroupWithAck,
    LeaveGroupWithAck,
    MultiConnectionData,
    MultiGroupBroadcastData,
    MultiUserData,
    ServiceMessage,
    UserData,
)

PAYLOADS = {
    name: protocol.write(Invocation("hello", [1])) for name, protocol in HUB_PROTOCOLS.items()
}
JSON_ONLY = {"json": PAYLOADS["json"]}


class Chat(Hub):
    """Its methods do what a test wants."""

    task: Callable[[Chat], Awaitable[object]]

    async def run(self) -> object:
        return await Chat.task(self)


async def do(served: Served, task: Callable[[Chat], Awaitable[object]]) -> object:
    """Runs ``task`` in a call of client ``c1``."""
    Chat.task = task
    clients = served.service.clients
    client = clients[0] if clients else await served.service.connected()
    return await client.result(client.invoke("run"))


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (lambda c: c.all, BroadcastData([], PAYLOADS)),
        (lambda c: c.all_except(["x", "y"]), BroadcastData(["x", "y"], PAYLOADS)),
        (lambda c: c.client("x"), MultiConnectionData(["x"], PAYLOADS)),
        (lambda c: c.client("c1"), MultiConnectionData(["c1"], JSON_ONLY)),
        (lambda c: c.clients(["c1", "x"]), MultiConnectionData(["c1", "x"], PAYLOADS)),
        (lambda c: c.user("u"), UserData("u", PAYLOADS)),
        (lambda c: c.users(["u", "v"]), MultiUserData(["u", "v"], PAYLOADS)),
        (lambda c: c.group("g"), GroupBroadcastData("g", [], PAYLOADS)),
        (lambda c: c.groups(["g", "h"]), MultiGroupBroadcastData(["g", "h"], PAYLOADS)),
        (lambda c: c.group_except("g", ["x"]), GroupBroadcastData("g", ["x"], PAYLOADS)),
        (lambda c: c.caller, MultiConnectionData(["c1"], JSON_ONLY)),
        (lambda c: c.others, BroadcastData(["c1"], PAYLOADS)),
        (lambda c: c.others_in_group("g"), GroupBroadcastData("g", ["c1"], PAYLOADS)),
    ],
)
async def test_each_audience_has_its_message(
    autojump_clock: MockClock,
    send: Callable[[HubCallerClients], HubClients],
    message: ServiceMessage,
) -> None:
    async with serving(Chat) as served:
        await do(served, lambda hub: send(hub.clients).send("hello", 1))
        assert served.service.received(type(message)) == [message]


@pytest.mark.parametrize("audience", ["clients", "users", "groups"])
async def test_a_send_to_nobody_is_none(autojump_clock: MockClock, audience: str) -> None:
    async with serving(Chat) as served:
        before = len(served.service.log)
        await do(served, lambda hub: getattr(hub.clients, audience)([]).send("hello", 1))
        kinds = {type(one.message).__name__ for one in served.service.log[before:]}
        assert kinds == {"ConnectionData"}


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda hub: hub.clients.user(5).send("hello"), "must be str, not int"),
        (lambda hub: hub.clients.users([None]).send("hello"), "must be str, not NoneType"),
        (lambda hub: hub.clients.users("bob").send("hello"), "not one str"),
        (lambda hub: hub.clients.client(b"x").send("hello"), "must be str, not bytes"),
        (lambda hub: hub.clients.clients("abc").send("hello"), "not one str"),
        (lambda hub: hub.clients.group(1).send("hello"), "must be str, not int"),
        (lambda hub: hub.clients.groups(["a", 1]).send("hello"), "must be str, not int"),
        (lambda hub: hub.clients.group_except("g", "c1").send("hello"), "not one str"),
        (lambda hub: hub.clients.all_except([1]).send("hello"), "must be str, not int"),
        (lambda hub: hub.clients.all_except("c1").send("hello"), "not one str"),
        (lambda hub: hub.clients.all.send(5), "'target' must be str, not int"),
        (lambda hub: hub.clients.caller.invoke(None), "'target' must be str, not NoneType"),
        (lambda hub: hub.groups.add_to_group("c1", 5), "must be str, not int"),
        (lambda hub: hub.groups.add_to_group(5, "g"), "must be str, not int"),
        (lambda hub: hub.groups.remove_from_group("c1", None), "must be str, not NoneType"),
    ],
)
async def test_a_name_that_is_no_string_raises_where_it_is_given(
    autojump_clock: MockClock, act: Callable[[Chat], Awaitable[object]], text: str
) -> None:
    """The service would end the server connection for it, and each client that has it.

    To leave the group None is to leave them all, on the wire.
    """

    async def fail(hub: Chat) -> str:
        with pytest.raises(TypeError, match=text):
            await act(hub)
        return "raised"

    async with serving(Chat) as served:
        before = len(served.service.log)
        assert await do(served, fail) == "raised"
        kinds = {type(one.message).__name__ for one in served.service.log[before:]}
        assert kinds == {"ConnectionData"}


async def test_a_value_that_cannot_be_sent_raises_where_it_is_sent(
    autojump_clock: MockClock,
) -> None:
    async def send(hub: Chat) -> str:
        with pytest.raises(TypeError):
            await hub.clients.all.send("hello", object())
        return "raised"

    async with serving(Chat) as served:
        assert await do(served, send) == "raised"


async def test_a_hub_context_sends_from_outside_calls(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        context = served.server.hub_context(Chat)
        await context.clients.group("g").send("hello", 1)
        await context.groups.add_to_group("x", "g")
        await served.service.message(JoinGroupWithAck)
        assert served.service.received(GroupBroadcastData) == [
            GroupBroadcastData("g", [], PAYLOADS)
        ]


# -- which server connection ----------------------------------------------------------------


async def test_sends_of_calls_travel_on_the_connection_of_their_client(
    autojump_clock: MockClock,
) -> None:
    """So they reach the client in order with its completions."""
    async with serving(Chat, connections=3) as served:
        _, _, third = served.service.connections
        client = served.service.open("c1", connection=third)
        Chat.task = lambda hub: hub.clients.all.send("hello", 1)
        await client.completion(client.invoke("run"))
        assert len(third.received(BroadcastData)) == 1


async def test_sends_from_outside_calls_keep_to_one_connection(autojump_clock: MockClock) -> None:
    """So that they stay in order."""
    async with serving(Chat, connections=3) as served:
        context = served.server.hub_context(Chat)
        for number in range(5):
            await context.clients.all.send("hello", number)
            await context.clients.group(str(number)).send("hello", number)
        await wait_all_tasks_blocked()
        used = {
            one.connection.id
            for one in served.service.log
            if isinstance(one.message, BroadcastData | GroupBroadcastData)
        }
        assert len(used) == 1


async def test_sends_from_outside_go_elsewhere_when_that_connection_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat, connections=2) as served:
        first, second = served.service.connections
        served.service.refuses = True
        await first.lose()
        await wait_all_tasks_blocked()
        await served.server.hub_context(Chat).clients.all.send("hello", 1)
        await wait_all_tasks_blocked()
        assert len(second.received(BroadcastData)) == 1


async def test_a_call_sends_elsewhere_when_its_connection_is_offline(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat, connections=2) as served:
        first, second = served.service.connections
        await served.service.connected()
        first.send(
            ConnectionFlowControl(
                first.id, FlowControlConnectionType.SERVER, FlowControlOperation.OFFLINE
            )
        )
        await wait_all_tasks_blocked()
        Chat.task = lambda hub: hub.clients.all.send("hello", 1)
        served.service.clients[0].invoke("run")
        await wait_all_tasks_blocked()
        assert not first.received(BroadcastData)
        assert len(second.received(BroadcastData)) == 1


async def test_without_a_connection_a_send_raises(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        await served.service.vanish()
        await wait_all_tasks_blocked()
        context = served.server.hub_context(Chat)
        with pytest.raises(ConnectionClosed, match="hub chat: no connection"):
            await context.clients.all.send("hello", 1)
        with pytest.raises(ConnectionClosed, match="hub chat: no connection"):
            await context.groups.add_to_group("c1", "g")


# -- groups ---------------------------------------------------------------------------------


async def join(hub: Chat) -> str:
    await hub.groups.add_to_group("c1", "g")
    return "joined"


async def leave(hub: Chat) -> str:
    await hub.groups.remove_from_group("c1", "g")
    return "left"


async def join_in_vain(hub: Chat) -> str:
    try:
        return await join(hub)
    except ConnectionClosed as error:
        return str(error)


@pytest.mark.parametrize("status", [AckStatus.OK, AckStatus.NOT_FOUND])
async def test_group_changes_wait_for_their_ack(
    autojump_clock: MockClock, status: AckStatus
) -> None:
    """A connection that has gone is in no group, and that is no error."""
    async with serving(Chat) as served:
        served.service.ack_status = None
        Chat.task = join
        client = await served.service.connected()
        id = client.invoke("run")
        asked = await served.service.message(JoinGroupWithAck)
        assert (asked.connection_id, asked.group_name) == ("c1", "g")
        await wait_all_tasks_blocked()
        assert not client.completions(id)
        client.connection.send(Ack(asked.ack_id, status))
        assert await client.result(id) == "joined"


async def test_leaving_a_group_is_asked_for_too(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        assert await do(served, leave) == "left"
        (asked,) = served.service.received(LeaveGroupWithAck)
        assert (asked.connection_id, asked.group_name) == ("c1", "g")


@pytest.mark.parametrize(
    "status", [AckStatus.TIMEOUT, AckStatus.INTERNAL_SERVER_ERROR, AckStatus.FORBIDDEN]
)
async def test_a_change_that_was_refused_raises(
    autojump_clock: MockClock, status: AckStatus
) -> None:
    async with serving(Chat) as served:
        served.service.ack_status = status
        error = await do(served, join_in_vain)
        assert error == f"the service did not change the group: status {status.value}"


async def test_an_ack_may_come_on_another_connection(autojump_clock: MockClock) -> None:
    async with serving(Chat, connections=2) as served:
        served.service.ack_status = None
        first, second = served.service.connections
        Chat.task = join
        client = await served.service.connected()
        id = client.invoke("run")
        asked = await served.service.message(JoinGroupWithAck)
        assert first.received(JoinGroupWithAck)
        second.send(Ack(asked.ack_id + 1, AckStatus.FORBIDDEN))
        second.send(Ack(asked.ack_id, AckStatus.OK))
        assert await client.result(id) == "joined"


async def test_an_ack_is_waited_for_no_longer_than_its_timeout(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        served.service.ack_status = None
        began = trio.current_time()
        error = await do(served, join_in_vain)
        assert error == "the service did not change the group: it did not answer in time"
        assert trio.current_time() - began == 10
        (asked,) = served.service.received(JoinGroupWithAck)
        served.service.connections[0].send(Ack(asked.ack_id, AckStatus.OK))
        served.service.ack_status = AckStatus.OK
        assert await do(served, join) == "joined"


async def test_a_lost_connection_ends_the_wait_for_its_acks(autojump_clock: MockClock) -> None:
    errors: list[str] = []

    async def task(hub: Chat) -> None:
        errors.append(await join_in_vain(hub))

    service = ScriptedService()
    service.ack_status = None
    async with serving(Chat, service=service, connections=2) as served:
        Chat.task = task
        client = await service.connected()
        client.invoke("run")
        await service.message(JoinGroupWithAck)
        began = trio.current_time()
        await service.connections[0].lose()
        await wait_all_tasks_blocked()
        assert errors == ["the service did not change the group: the server connection was lost"]
        assert trio.current_time() == began
        assert served.server.hub_context(Chat)


# -- back-pressure --------------------------------------------------------------------------


async def test_streams_and_sends_wait_while_the_line_to_the_service_is_full(
    autojump_clock: MockClock,
) -> None:
    made: list[int] = []

    class Talker(Hub):
        async def talk(self) -> AsyncIterator[str]:
            for number in range(8):
                made.append(number)
                yield "x" * 300_000

    async with serving(Talker) as served:
        client = await served.service.connected()
        served.service.connections[0].stop_reading()
        id = client.stream("talk")
        await wait_all_tasks_blocked()
        assert made == [0, 1, 2, 3]
        sent = trio.Event()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await served.server.hub_context(Talker).clients.all.send("hello")
                sent.set()

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            assert not sent.is_set()
            served.service.connections[0].read_on()
        await client.completion(id)
        assert len(client.items(id)) == 8
