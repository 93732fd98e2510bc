"""A client on a hub server: how it comes, what its hub sees of it, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from harness.scripted_service import ScriptedClient, ScriptedService, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import ConnectionMigrationFeature, Hub, HubError, HubOptions, ProtocolError
from signalr_trio.protocol.messages import Close
from signalr_trio.protocol.service_messages import (
    MIGRATE_FROM,
    ConnectionFlowControl,
    FlowControlConnectionType,
    FlowControlOperation,
    MultiConnectionData,
)

FROM_B: dict[str, list[str | None]] = {MIGRATE_FROM: ["B"]}


class Story:
    """A hub whose methods a test steers, and what happened in it."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.may_connect = trio.Event()
        self.may_connect.set()
        self.may_work = trio.Event()
        self.errors: list[Exception | None] = []
        self.contexts: list[Any] = []
        self.fails_to_connect: Exception | None = None
        story = self

        class Chat(Hub):
            async def on_connected(self) -> None:
                story.events.append("connecting")
                story.contexts.append(self.context)
                await story.may_connect.wait()
                if story.fails_to_connect is not None:
                    raise story.fails_to_connect
                story.events.append("connected")

            async def on_disconnected(self, error: Exception | None) -> None:
                story.errors.append(error)
                story.events.append("disconnected")

            async def work(self, name: str) -> str:
                story.events.append(f"begins {name}")
                await story.may_work.wait()
                story.events.append(f"ends {name}")
                return name

            async def echo(self, value: str) -> str:
                return value

            async def greet(self) -> None:
                await self.clients.caller.send("hello")

            async def abort(self) -> str:
                self.context.abort()
                await trio.lowlevel.checkpoint()
                return "too late"

            async def count(self) -> int:
                self.context.items["n"] = self.context.items.get("n", 0) + 1
                return self.context.items["n"]

        self.hub = Chat


@pytest.fixture
def story() -> Story:
    return Story()


# -- handshake ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["json", "messagepack", "MessagePack"])
async def test_a_handshake_is_answered_before_on_connected_ends(
    autojump_clock: MockClock, story: Story, protocol: str
) -> None:
    story.may_connect = trio.Event()
    async with serving(story.hub) as served:
        client = await served.service.connected(protocol=protocol)
        assert client.responses == [None]
        id = client.invoke("echo", "x")
        await wait_all_tasks_blocked()
        assert story.events == ["connecting"]
        assert client.messages == []
        story.may_connect.set()
        assert await client.result(id) == "x"


async def test_a_handshake_may_come_in_pieces_with_messages_behind_it(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub) as served:
        client = served.service.open(shakes=False)
        for piece in (
            b'{"protocol":"js',
            b'on","version":1}\x1e{"type":1,"target":"echo","invocationId":"1",',
            b'"arguments":["x"]}\x1e',
        ):
            client.send_bytes(piece)
        assert await client.result("1") == "x"


@pytest.mark.parametrize(
    ("request_bytes", "protocol", "error"),
    [
        (
            b'{"protocol":"nosuch","version":1}\x1e',
            "nosuch",
            "The protocol 'nosuch' is not supported.",
        ),
        (
            b'{"protocol":"json","version":3}\x1e',
            "json",
            "The server does not support version 3 of the 'json' protocol.",
        ),
        (
            b'{"type":1}\x1e',
            "json",
            "An unexpected error occurred during connection handshake.",
        ),
        (b"", "json", "Handshake was canceled."),
    ],
)
async def test_a_handshake_that_fails_is_answered_with_the_reason(
    autojump_clock: MockClock, story: Story, request_bytes: bytes, protocol: str, error: str
) -> None:
    async with serving(story.hub) as served:
        began = trio.current_time()
        client = served.service.open(protocol=protocol, shakes=False)
        client.send_bytes(request_bytes)
        await client.ended()
        assert client.responses == [error]
        assert client.hub_closes == []
        assert story.events == []
        assert trio.current_time() - began == (0 if request_bytes else 15)


async def test_a_client_that_leaves_before_its_handshake_never_was(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub) as served:
        client = served.service.open(shakes=False)
        client.leave()
        await wait_all_tasks_blocked()
        assert client.all == []
        assert story.events == []
        assert served.server.hubs[0].clients == {}


# -- on_connected ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "detailed", "text"),
    [
        (ValueError("a secret"), False, "Connection closed with an error."),
        (ValueError("a secret"), True, "Connection closed with an error. ValueError: a secret"),
        (HubError("not today"), False, "Connection closed with an error. HubException: not today"),
    ],
)
@pytest.mark.parametrize("migrated", [False, True])
async def test_if_on_connected_raises_the_client_is_closed(
    autojump_clock: MockClock,
    story: Story,
    error: Exception,
    detailed: bool,
    text: str,
    migrated: bool,
) -> None:
    story.fails_to_connect = error
    async with serving(story.hub, options=HubOptions(detailed_errors=detailed)) as served:
        client = served.service.open(headers=FROM_B if migrated else None)
        id = client.invoke("echo", "x")
        await client.ended()
        assert client.hub_close == Close(text)
        assert client.responses == ([] if migrated else [None])
        assert client.completions(id) == []
        await wait_all_tasks_blocked()
        assert story.events == ["connecting"], "and there is no on_disconnected"


@pytest.mark.parametrize("agreed", [True, False])
async def test_a_client_handed_over_is_answered_when_on_connected_has_returned(
    autojump_clock: MockClock, story: Story, agreed: bool
) -> None:
    """Rule 23: so S knows. It is a response that the client, which had one, never sees; a service
    that did not agree on it gets none."""
    story.may_connect = trio.Event()
    async with serving(story.hub, service=ScriptedService(agreed=agreed)) as served:
        client = served.service.open(headers=FROM_B)
        id = client.invoke("echo", "held")
        await wait_all_tasks_blocked()
        assert client.all == []
        story.may_connect.set()
        assert await client.result(id) == "held"
        assert client.responses == ([None] if agreed else [])


async def test_a_state_that_cannot_be_read_is_none(autojump_clock: MockClock) -> None:
    states: list[object] = []

    class Chat(Hub):
        async def on_connected(self) -> None:
            feature = self.context.features.get(ConnectionMigrationFeature)
            states.append(feature and feature.state)

    async with serving(Chat) as served:
        for text in ("no base64!", "\u00e9"):
            client = served.service.open(text, headers=FROM_B | {"X-SignalR-Trio-State": [text]})
            await served.service.until(lambda client=client: client.responses)
    assert states == [None, None]


async def test_what_a_hub_knows_of_its_client(autojump_clock: MockClock, story: Story) -> None:
    async with serving(story.hub) as served:
        client = served.service.open(
            claims=[
                ("asrs.s.uid", "ann"),
                ("role", "admin"),
                ("role", "editor"),
                ("asrs.u.exp", "never"),
                ("exp", "1"),
                ("asrs.s.aut", "x"),
            ],
            headers={"X-Forwarded-For": ["10.0.0.1"]},
            query_string="?a=1",
        )
        await served.service.until(lambda: client.responses)
        await wait_all_tasks_blocked()
        (context,) = story.contexts
        assert context.connection_id == "c1"
        assert context.user_id == "ann"
        assert context.claims == [("role", "admin"), ("role", "editor"), ("exp", "never")]
        assert context.claim("role") == "admin"
        assert context.claim("nothing") is None
        assert context.query_string == "?a=1"
        assert context.headers == {"X-Forwarded-For": ["10.0.0.1"]}
        assert not context.aborted.is_set()


async def test_items_last_as_long_as_the_connection(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub) as served:
        one, other = await served.service.connected("c1"), await served.service.connected("c2")
        assert await one.result(one.invoke("count")) == 1
        assert await one.result(one.invoke("count")) == 2
        assert await other.result(other.invoke("count")) == 1


# -- the end --------------------------------------------------------------------------------


async def test_when_a_client_has_left_what_it_asked_for_still_runs_and_then_on_disconnected(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub) as served:
        client = await served.service.connected()
        client.invoke("work", "a")
        client.invoke("work", "b")
        await wait_all_tasks_blocked()
        client.leave()
        await wait_all_tasks_blocked()
        (context,) = story.contexts
        assert context.aborted.is_set()
        story.may_work.set()
        await wait_all_tasks_blocked()
        assert story.events[2:] == ["begins a", "ends a", "begins b", "ends b", "disconnected"]
        assert story.errors == [None]
        assert client.all[1:] == [], "nobody listens any more"


async def test_an_abort_closes_the_client_at_once(autojump_clock: MockClock, story: Story) -> None:
    async with serving(story.hub) as served:
        client = await served.service.connected()
        client.invoke("abort")
        queued = client.invoke("echo", "x")
        await client.ended()
        assert client.hub_close == Close()
        await wait_all_tasks_blocked()
        assert client.messages == []
        assert not client.completions(queued)
        assert story.events[-1] == "disconnected"
        assert len(client.ends) == 1
        assert not client.releases


@pytest.mark.parametrize("error", [None, "out of battery"])
async def test_a_client_that_says_goodbye_has_left(
    autojump_clock: MockClock, story: Story, error: str | None
) -> None:
    async with serving(story.hub) as served:
        client = await served.service.connected()
        client.invoke("work", "a")
        client.send(Close(error))
        await client.ended()
        assert client.hub_close == Close()
        (context,) = story.contexts
        assert context.aborted.is_set()
        story.may_work.set()
        await wait_all_tasks_blocked()
        assert [str(one) for one in story.errors] == [str(error)]
        assert isinstance(story.errors[0], HubError | None)


@pytest.mark.parametrize("payload", [b"no json\x1e", b"\x1e", b'{"type":1}\x1e'])
async def test_a_message_that_cannot_be_read_closes_the_client(
    autojump_clock: MockClock, story: Story, payload: bytes
) -> None:
    async with serving(story.hub) as served:
        client = await served.service.connected()
        client.send_bytes(payload)
        await client.ended()
        assert client.hub_close == Close("Connection closed with an error.", True)
        await wait_all_tasks_blocked()
        assert isinstance(story.errors[0], ProtocolError)
        other = await served.service.connected("c2")
        assert await other.result(other.invoke("echo", "x")) == "x"


async def test_messages_of_unknown_type_are_passed_over(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub) as served:
        client = await served.service.connected()
        client.send_bytes(b'{"type":99}\x1e{"type":6}\x1e{"type":8,"sequenceId":1}\x1e')
        assert await client.result(client.invoke("echo", "x")) == "x"


async def test_on_disconnected_that_raises_is_logged_and_that_is_all(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Chat(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            raise ValueError("oops")

    async with serving(Chat) as served:
        client = await served.service.connected()
        client.leave()
        await wait_all_tasks_blocked()
        assert "on_disconnected failed" in caplog.text
        await served.service.connected("c2")


async def test_data_for_a_client_that_is_not_here_is_ignored(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub) as served:
        ghost = ScriptedClient(served.service.connections[0], "ghost", "json")
        ghost.invoke("echo", "x")
        ghost.leave()
        ghost.move()
        await served.service.connected()
        assert ghost.all == []


# -- flow control ---------------------------------------------------------------------------


def control(client: ScriptedClient, operation: FlowControlOperation) -> ConnectionFlowControl:
    return ConnectionFlowControl(client.id, FlowControlConnectionType.CLIENT, operation)


async def test_a_paused_client_goes_on_on_another_connection_and_nothing_is_lost(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub, connections=2) as served:
        first, second = served.service.connections
        client = await served.service.connected()
        pause = control(client, FlowControlOperation.PAUSE)
        acked = control(client, FlowControlOperation.PAUSE_ACK)
        first.send(pause)
        await served.service.until(lambda: first.received(ConnectionFlowControl))
        ids = [client.invoke("echo", str(number)) for number in range(3)]
        client.invoke("greet")
        first.send(pause)
        await wait_all_tasks_blocked()
        assert client.messages == [], "withheld"
        assert len(first.received(MultiConnectionData)) == 1, "sends go on"
        assert first.received(ConnectionFlowControl) == [acked], "a second pause has no answer"
        second.send(control(client, FlowControlOperation.RESUME))
        client.connection = second
        ids.append(client.invoke("echo", "3"))
        await client.completion(ids[-1])
        on_second = [one.message for one in served.service.log if one.connection is second]
        assert client.messages[0].result == "0"  # type: ignore[union-attr]
        results = [one.result for one in client.messages if one.invocation_id in ids]  # type: ignore[union-attr]
        assert results == ["0", "1", "2", "3"]
        assert len([one for one in on_second if one in client.all]) == 5


async def test_resume_alone_moves_a_client(autojump_clock: MockClock, story: Story) -> None:
    async with serving(story.hub, connections=2) as served:
        first, second = served.service.connections
        client = await served.service.connected()
        second.send(control(client, FlowControlOperation.RESUME))
        await wait_all_tasks_blocked()
        await first.lose()
        client.connection = second
        assert await client.result(client.invoke("echo", "x")) == "x"
        assert "disconnected" not in story.events


async def test_a_stream_to_a_paused_client_lets_others_run(autojump_clock: MockClock) -> None:
    """Nothing of it is sent, so the line is never full; and it waits for nothing else."""
    turns = 0
    over = False

    class Chat(Hub):
        async def numbers(self) -> AsyncIterator[int]:
            nonlocal over
            for number in range(1000):
                yield number
            over = True

    async with serving(Chat) as served, trio.open_nursery() as nursery:
        connection = served.service.connections[0]
        client = await served.service.connected()
        connection.send(control(client, FlowControlOperation.PAUSE))
        await served.service.until(lambda: connection.received(ConnectionFlowControl))
        client.stream("numbers")

        async def take_turns() -> None:
            nonlocal turns
            while not over:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(take_turns)
        await wait_all_tasks_blocked()
    assert turns > 500


@pytest.mark.parametrize("end", ["resume", "leave", "hurry", "stop"])
async def test_what_a_stream_says_to_a_paused_client_is_bounded(
    autojump_clock: MockClock, end: str
) -> None:
    """And the stream, which waits, ends with its client, and with its server."""
    said = 0
    ended = trio.Event()

    class Chat(Hub):
        async def numbers(self) -> AsyncIterator[str]:
            nonlocal said
            try:
                for number in range(1000):
                    yield f"{number:1000}"
                    said += 1
            finally:
                ended.set()

    async with serving(Chat, options=HubOptions(link_high_water=10_000)) as served:
        connection = served.service.connections[0]
        client = await served.service.connected()
        connection.send(control(client, FlowControlOperation.PAUSE))
        await served.service.until(lambda: connection.received(ConnectionFlowControl))
        id = client.stream("numbers")
        await wait_all_tasks_blocked()
        assert 5 < said < 20
        if end == "resume":
            connection.send(control(client, FlowControlOperation.RESUME))
            await client.completion(id)
            assert client.items(id) == [f"{number:1000}" for number in range(1000)]
        elif end == "leave":
            client.leave()
        elif end == "hurry":
            client.move()
            client.move()
        else:
            served.scope.cancel()
        with trio.fail_after(10):
            await ended.wait()


async def test_a_pause_of_a_client_that_is_not_here_is_ignored(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub) as served:
        ghost = ScriptedClient(served.service.connections[0], "ghost", "json")
        ghost.connection.send(control(ghost, FlowControlOperation.PAUSE))
        ghost.connection.send(control(ghost, FlowControlOperation.RESUME))
        await served.service.connected()
        assert served.service.received(ConnectionFlowControl) == []


async def test_nothing_more_is_sent_on_a_connection_that_is_offline(
    autojump_clock: MockClock, story: Story
) -> None:
    """Its input still counts, and its clients may go on elsewhere."""
    async with serving(story.hub, connections=2) as served:
        first, second = served.service.connections
        client = await served.service.connected()
        first.send(
            ConnectionFlowControl(
                first.id, FlowControlConnectionType.SERVER, FlowControlOperation.OFFLINE
            )
        )
        client.invoke("echo", "x")
        client.invoke("work", "a")
        await wait_all_tasks_blocked()
        assert client.messages == []
        assert "begins a" in story.events
        second.send(control(client, FlowControlOperation.RESUME))
        await wait_all_tasks_blocked()
        story.may_work.set()
        await served.service.until(lambda: client.messages)
        assert [one.result for one in client.messages] == ["a"]  # type: ignore[union-attr]


# -- what waits (rule 33) -------------------------------------------------------------------

SMALL = HubOptions(inbox_pause=1000, inbox_limit=4000)


def operations(service: ScriptedService) -> list[FlowControlOperation]:
    return [FlowControlOperation(one.operation) for one in service.received(ConnectionFlowControl)]


async def test_the_service_is_asked_to_hold_what_would_only_wait(
    autojump_clock: MockClock, story: Story
) -> None:
    pause, resume = FlowControlOperation.PAUSE, FlowControlOperation.RESUME
    async with serving(story.hub, options=SMALL) as served:
        client = await served.service.connected()
        client.invoke("work", "a")
        for _ in range(2):
            client.invoke("echo", "x" * 250)
        await wait_all_tasks_blocked()
        assert operations(served.service) == []
        for _ in range(4):
            client.invoke("echo", "x" * 250)
        await wait_all_tasks_blocked()
        assert operations(served.service) == [pause]
        story.may_work.set()
        await wait_all_tasks_blocked()
        assert operations(served.service) == [pause, resume]
        assert len(client.messages) == 7


async def test_one_client_that_waits_stops_no_other(
    autojump_clock: MockClock, story: Story
) -> None:
    async with serving(story.hub, options=SMALL) as served:
        one, other = await served.service.connected("c1"), await served.service.connected("c2")
        one.invoke("work", "a")
        for _ in range(6):
            one.invoke("echo", "x" * 500)
        assert await other.result(other.invoke("echo", "x")) == "x"


@pytest.mark.parametrize("agreed", [True, False])
async def test_over_the_limit_the_client_is_closed(
    autojump_clock: MockClock, story: Story, agreed: bool
) -> None:
    async with serving(story.hub, options=SMALL, service=ScriptedService(agreed=agreed)) as served:
        client = await served.service.connected()
        client.invoke("work", "a")
        for _ in range(10):
            client.invoke("echo", "x" * 500)
        await client.ended()
        assert client.hub_close == Close("Too much is waiting for earlier calls to end.")
        if not agreed:
            assert operations(served.service) == []
        other = await served.service.connected("c2")
        assert await other.result(other.invoke("echo", "x")) == "x"
