"""The hand-over of a client between own servers (rules 6 to 10, 13, 16 to 18, 22 to 28, 30)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from harness.clients import JSON, Client
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedConnection, ScriptedServer

from signalr_trio.link.release import state_in
from signalr_trio.protocol.messages import Close
from signalr_trio.protocol.service_messages import (
    MIGRATE_FROM,
    CloseConnection,
    ConnectionData,
    ConnectionFlowControl,
    DataMessageType,
    FlowControlConnectionType,
    FlowControlOperation,
    MigrationLevel,
    header,
)
from signalr_trio.service.options import ServiceOptions


@attrs.frozen
class Scene:
    """A client c with server A; B is there too and answers only when told to."""

    cluster: Cluster
    a: ScriptedServer
    b: ScriptedServer
    client: Client

    @property
    def old(self) -> ScriptedConnection:
        return self.a.connections[0]

    @property
    def new(self) -> ScriptedConnection:
        return self.b.connections[0]

    async def ask(self) -> None:
        """A asks for the migration of its clients."""
        self.a.fin()
        await settle()

    async def release(self, state: bytes | None = None) -> None:
        self.old.release("c", state)
        await settle()

    async def answer(self, error: str | None = None) -> None:
        self.new.answer("c", error)
        await settle()


@pytest.fixture
async def scene(autojump_clock) -> AsyncIterator[Scene]:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        b.answers = False
        yield Scene(cluster, a, b, client)


# -- beginning --------------------------------------------------------------------------------


async def test_a_client_whose_handshake_is_not_through_stays_until_it_is(autojump_clock) -> None:
    """Rule 6."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.answers = False
        client = await cluster.client()
        await cluster.scripted("B")
        a.fin()
        client.send("f", 1)
        await trio.sleep(5)
        assert a.connections[0].closes_of("c") == []
        assert len(a.data_of("c")) == 1
        a.connections[0].answer("c")
        await settle()
        assert a.connections[0].migrating_closes_of("c") == ["B"]


async def test_without_a_target_the_client_is_served_until_one_comes(autojump_clock) -> None:
    """Rule 6: nobody is frozen for want of a server."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        await cluster.scripted("B", hub="other")
        a.fin()
        for number in range(3):
            client.invoke(str(number), "f")
            await trio.sleep(10)
            a.connections[0].complete("c", str(number))
            await settle()
        assert len(client.completions) == 3
        assert a.connections[0].closes_of("c") == []
        await cluster.scripted("C")
        await settle()
        assert a.connections[0].migrating_closes_of("c") == ["C"]


async def test_a_bound_client_is_not_handed_over(autojump_clock) -> None:
    """Rule 7: an own server lets it go by itself."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client(claims=[("asrs.s.ssticky", "Required")])
        await cluster.client("free", claims=[("asrs.s.ssticky", "Preferred")])
        await cluster.scripted("B")
        a.fin()
        await settle()
        client.send("f")
        await trio.sleep(5)
        assert len(a.data_of("c")) == 1
        assert a.connections[0].closes_of("c") == []
        assert a.connections[0].migrating_closes_of("free") == ["B"]


async def test_slots_pace_the_start_and_slow_calls_give_theirs_up(autojump_clock) -> None:
    """Rule 8."""
    async with open_cluster(ServiceOptions(slots=2, slot_grace=0.05)) as cluster:
        a = await cluster.scripted("A")
        for number in range(6):
            await cluster.client(f"c{number}")
        await cluster.scripted("B")
        a.fin()

        def begun() -> int:
            return len(a.connections[0].of(CloseConnection))

        await settle()
        assert begun() == 2
        a.connections[0].release("c0")
        await settle()
        assert begun() == 3
        await trio.sleep(0.06)
        assert begun() == 5
        await trio.sleep(0.06)
        assert begun() == 6


async def test_who_waits_for_a_server_gives_the_slot_up(autojump_clock) -> None:
    """Rule 8: clients of one hub that have no server do not keep those of another."""
    async with open_cluster(ServiceOptions(slots=1)) as cluster:
        a = await cluster.scripted("A")
        leaves = await cluster.scripted("C", hub="news")
        await cluster.client("chatter", hub="chat")
        await cluster.client("reader", hub="news")
        b = await cluster.scripted("B")
        comes = await cluster.scripted("D", hub="news")
        a.fin()
        await settle()
        await b.connections[0].lose()
        a.connections[0].release("chatter")
        await settle()
        leaves.fin()
        await trio.sleep(1)
        leaves.connections[0].release("reader")
        await settle()
        assert "reader" in comes.opened
        assert "chatter" not in b.opened


async def test_turns_go_round_the_connections(autojump_clock) -> None:
    """Rule 8: a large connection does not keep the clients of the others waiting."""
    async with open_cluster(ServiceOptions(slots=1)) as cluster:
        a = await cluster.scripted("A", connections=2)
        for number in range(6):
            await cluster.client(f"c{number}")
        first, second = a.connections
        assert len(first.opened) == len(second.opened) == 3
        a.auto_release = True
        await cluster.scripted("B")
        a.fin()
        await settle()
        order = [id for _, what, id, _ in cluster.journal if what == "close"]
        assert [id in first.opened for id in order] in (
            [True, False] * 3,
            [False, True] * 3,
        )


# -- holding ----------------------------------------------------------------------------------


async def test_an_item_of_a_held_upload_is_held_with_it(autojump_clock, scene: Scene) -> None:
    """Rule 10: what passes to the old server is found by exclusion."""
    await scene.ask()
    scene.client.invoke("1", "upload", streams=["s"])
    scene.client.item("s", 1)
    scene.client.item("of-a", 2)
    scene.client.complete("s")
    scene.client.cancel("1")
    await settle()
    assert [JSON.peek(frame).invocation_id for frame in scene.a.data_of("c")] == ["of-a"]
    await scene.release()
    await scene.answer()
    ids = [JSON.peek(frame).invocation_id for frame in scene.b.data_of("c")]
    assert ids == ["1", "s", "s", "1"]


async def test_stragglers_go_to_the_new_server_after_the_release(
    autojump_clock, scene: Scene
) -> None:
    """Rule 10: like everything else, when that one has answered."""
    await scene.ask()
    await scene.release()
    scene.client.item("of-a", 1)
    await settle()
    assert scene.a.data_of("c") == scene.b.data_of("c") == []
    await scene.answer()
    assert len(scene.b.data_of("c")) == 1


async def test_an_old_message_in_the_hold_hurries_the_old_server_once(
    autojump_clock, scene: Scene
) -> None:
    """Rule 13."""
    await scene.ask()
    await trio.sleep(20)
    assert len(scene.old.closes_of("c")) == 1
    scene.client.send("f")
    await trio.sleep(9)
    assert len(scene.old.closes_of("c")) == 1
    await trio.sleep(2.1)
    assert scene.old.migrating_closes_of("c") == ["B", "B"]
    await trio.sleep(20)
    assert len(scene.old.closes_of("c")) == 2


async def test_a_hold_that_has_room_again_is_not_hurried(autojump_clock) -> None:
    """Rule 13: it is full for want of room in all, which another client gives back."""
    options = ServiceOptions(hold_limit=1000, hold_total=700, hurry_age=1000)
    async with open_cluster(options) as cluster:
        a = await cluster.scripted("A")
        small, large = await cluster.client("small"), await cluster.client("large")
        await cluster.scripted("B")
        a.fin()
        await settle()
        large.send("f", "x" * 600)
        await settle()
        small.send("f", 1)
        await settle()
        a.connections[0].release("large")
        await settle()
        assert small.transport.unread == 0
        small.send("f", 2)
        await trio.sleep(10)
        assert len(a.connections[0].closes_of("small")) == 1


# -- a client that leaves ---------------------------------------------------------------------


async def test_a_client_that_leaves_after_the_close_is_carried_through(
    autojump_clock, scene: Scene
) -> None:
    """Rule 16: on_disconnected with the feature is followed by on_connected with it."""
    await scene.ask()
    scene.client.send("f", 1)
    await settle()
    scene.client.leave()
    await settle()
    assert [header(one.headers, "Asrs-Migrate-To") for one in scene.old.closes_of("c")] == [
        "B",
        None,
    ]
    await scene.release(b"state")
    opened = scene.b.opened["c"]
    assert (header(opened.headers, MIGRATE_FROM), state_in(opened.headers)) == ("A", b"state")
    assert scene.new.closes_of("c") == []
    await scene.answer()
    assert len(scene.b.data_of("c")) == 1
    assert len(scene.new.closes_of("c")) == 1
    assert scene.client.over.is_set()


async def test_a_client_that_leaves_when_it_is_with_no_server_is_carried_through(
    autojump_clock, scene: Scene
) -> None:
    await scene.new.lose()
    await scene.cluster.scripted("C", hub="other")
    late = await scene.cluster.scripted("D")
    await scene.ask()
    await late.connections[0].lose()
    await scene.release()
    scene.client.leave()
    await settle()
    assert len(scene.old.closes_of("c")) == 1
    target = await scene.cluster.scripted("E")
    await settle()
    assert "c" in target.opened
    assert len(target.connections[0].closes_of("c")) == 1


async def test_a_close_from_the_client_is_a_message_like_any_other(
    autojump_clock, scene: Scene
) -> None:
    """Rule 16."""
    await scene.ask()
    scene.client.say(Close())
    await settle()
    assert scene.a.data_of("c") == []
    await scene.release()
    await scene.answer()
    assert [JSON.peek(frame).type for frame in scene.b.data_of("c")] == [7]


# -- releasing --------------------------------------------------------------------------------


async def test_a_close_without_the_header_is_the_hubs_abort(autojump_clock, scene: Scene) -> None:
    """Rule 17: at any time, in a hand-over too."""
    await scene.ask()
    scene.client.send("f")
    scene.old.send(CloseConnection("c", "kicked out"))
    await settle()
    assert scene.client.close == Close("kicked out", allow_reconnect=False)
    assert scene.client.over.is_set()
    assert scene.b.opened == {}
    assert scene.cluster.service.held_size == 0


async def test_an_abort_behind_the_hubs_own_close_adds_nothing(
    autojump_clock, scene: Scene
) -> None:
    said = JSON.write(Close("my own words"))
    scene.old.send(ConnectionData("c", said, DataMessageType.CLOSE))
    scene.old.send(CloseConnection("c"))
    await settle()
    assert scene.client.close == Close("my own words")


async def test_only_the_server_that_has_the_client_is_heard(autojump_clock, scene: Scene) -> None:
    """Rule 18: messages 5 and 6, from before the open to after the release."""
    scene.new.complete("c", "1", "not yours")
    scene.new.send(CloseConnection("c"))
    await settle()
    assert scene.client.received == []
    await scene.ask()
    scene.new.complete("c", "1", "not yours")
    await scene.release()
    await scene.release()
    scene.old.complete("c", "1", "too late")
    scene.old.send(CloseConnection("c", "too late"))
    await settle()
    assert scene.client.received == []
    await scene.answer()
    scene.new.complete("c", "1", "mine")
    await settle()
    assert scene.client.completions["1"].result == "mine"


async def test_the_service_waits_for_the_release_as_long_as_the_connection_lives(
    autojump_clock, scene: Scene
) -> None:
    """Rule 28: it does not know the old server's deadline."""
    await scene.ask()
    scene.client.send("f")
    await trio.sleep(600)
    assert scene.client.close is None
    # The second hurries it (rule 13).
    assert len(scene.old.closes_of("c")) == 2
    await scene.release()
    await scene.answer()
    assert len(scene.b.data_of("c")) == 1


async def test_a_release_that_nobody_asked_for_closes_the_client(
    autojump_clock, scene: Scene
) -> None:
    await scene.release()
    assert scene.client.close is not None
    assert scene.b.opened == {}


# -- taking over ------------------------------------------------------------------------------


async def test_the_target_is_the_server_with_the_fewest_clients(autojump_clock) -> None:
    """Rule 22: those on their way are counted."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        for number in range(10):
            await cluster.client(f"c{number}")
        b, c = await cluster.scripted("B", connections=2), await cluster.scripted("C")
        await cluster.client("of-b-or-c")
        a.fin()
        await settle()
        planned = [a.connections[0].migrating_closes_of(f"c{number}") for number in range(10)]
        assert sorted(planned) == [["B"]] * 5 + [["C"]] * 5
        for number in range(10):
            a.connections[0].release(f"c{number}")
        await settle()
        assert {len(b.opened), len(c.opened)} == {5, 6}
        assert {len(one.opened) for one in b.connections} <= {2, 3}


async def test_the_plan_is_kept_where_nothing_has_changed(autojump_clock) -> None:
    """A client that is on its way to a server does not count against its own going there."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client()
        servers = {id: await cluster.scripted(id) for id in "BCD"}
        a.fin()
        await settle()
        (planned,) = a.connections[0].migrating_closes_of("c")
        a.connections[0].release("c")
        await settle()
        assert "c" in servers[planned].opened


async def test_the_target_is_chosen_again_at_the_open(autojump_clock, scene: Scene) -> None:
    """Rule 22."""
    await scene.ask()
    assert scene.old.migrating_closes_of("c") == ["B"]
    for number in range(3):
        await scene.cluster.client(f"more-{number}")
    c = await scene.cluster.scripted("C")
    await scene.release()
    assert "c" in c.opened
    assert "c" not in scene.b.opened


async def test_what_is_held_waits_for_the_answer_which_is_kept_from_the_client(
    autojump_clock, scene: Scene
) -> None:
    """Rule 23."""
    await scene.ask()
    scene.client.send("f", 1)
    before = list(scene.client.transport.sent)
    await scene.release()
    assert len(scene.new.payloads_of("c")) == 1
    await scene.answer()
    assert len(scene.b.data_of("c")) == 1
    assert scene.client.transport.sent == before


async def test_what_the_new_server_says_before_its_answer_is_the_clients(
    autojump_clock, scene: Scene
) -> None:
    """Rule 23: never swallow "the first message"."""
    await scene.ask()
    await scene.release()
    scene.new.complete("c", "1", "from on_connected")
    await settle()
    await scene.answer()
    assert scene.client.completions["1"].result == "from on_connected"
    assert scene.client.close is None


async def test_a_target_that_is_lost_before_it_got_anything_is_replaced(
    autojump_clock, scene: Scene
) -> None:
    """Rule 24: with the same held messages and state."""
    await scene.ask()
    scene.client.send("f", 1)
    await scene.release(b"state")
    assert "c" in scene.b.opened
    await scene.new.lose()
    c = await scene.cluster.scripted("C")
    await settle()
    opened = c.opened["c"]
    assert (header(opened.headers, MIGRATE_FROM), state_in(opened.headers)) == ("A", b"state")
    assert scene.b.data_of("c") == []
    assert len(c.data_of("c")) == 1
    assert scene.client.close is None


async def test_a_target_that_is_lost_after_it_got_a_message_is_a_crash(
    autojump_clock, scene: Scene
) -> None:
    """Rule 24: no message is ever sent to two servers."""
    await scene.ask()
    scene.client.send("f", 1)
    await scene.release()
    scene.new.answer("c")
    await settle()
    await scene.new.lose()
    c = await scene.cluster.scripted("C")
    await settle()
    assert c.opened == {}
    assert scene.client.close is not None
    assert scene.client.close.allow_reconnect


async def test_a_fin_from_the_target_changes_nothing_until_the_client_is_attached(
    autojump_clock, scene: Scene
) -> None:
    """Rule 25: chains settle link by link, and the state goes no further by itself."""
    await scene.ask()
    scene.client.send("f", 1)
    await scene.release(b"state")
    c = await scene.cluster.scripted("C")
    scene.b.fin()
    await trio.sleep(3)
    assert scene.new.closes_of("c") == []
    await scene.answer()
    assert len(scene.b.data_of("c")) == 1
    assert scene.new.migrating_closes_of("c") == ["C"]
    scene.client.send("f", 2)
    scene.new.release("c")
    await settle()
    opened = c.opened["c"]
    assert (header(opened.headers, MIGRATE_FROM), state_in(opened.headers)) == ("B", None)
    assert len(c.data_of("c")) == 1


async def test_a_target_that_refuses_with_its_answer(autojump_clock, scene: Scene) -> None:
    """Rule 26: no other server is tried."""
    await scene.cluster.scripted("C")
    scene.b.answers = True
    await scene.ask()
    (planned,) = scene.old.migrating_closes_of("c")
    assert planned == "B"
    scene.b.answers = False
    scene.client.send("f", 1)
    await scene.release()
    await scene.answer("The protocol is not known here.")
    assert scene.client.close == Close("The protocol is not known here.", allow_reconnect=True)
    assert scene.client.over.is_set()
    assert scene.cluster.service.held_size == 0
    # The server has nothing left of it either, whether it knows by itself or not.
    assert scene.b.data_of("c") == []
    assert len(scene.new.closes_of("c")) == 1
    (connection,) = [
        one for one in scene.cluster.service.hub("chat").connections if one.server.id == "B"
    ]
    assert connection.sessions == {}


async def test_a_target_that_refuses_a_client_that_has_left_is_told_so(
    autojump_clock, scene: Scene
) -> None:
    await scene.ask()
    await scene.release()
    scene.client.leave()
    await settle()
    await scene.answer("The protocol is not known here.")
    assert len(scene.new.closes_of("c")) == 1
    assert scene.client.over.is_set()


async def test_a_target_whose_on_connected_fails(autojump_clock, scene: Scene) -> None:
    """Rule 26: the client gets that server's own Close."""
    await scene.ask()
    scene.client.send("f", 1)
    await scene.release()
    said = JSON.write(Close("on_connected failed"))
    scene.new.send(ConnectionData("c", said, DataMessageType.CLOSE))
    scene.new.send(CloseConnection("c"))
    await settle()
    assert scene.client.close == Close("on_connected failed")
    assert scene.b.data_of("c") == []
    assert scene.cluster.service.held_size == 0


async def test_a_client_is_never_handed_over_to_its_own_server(autojump_clock) -> None:
    """Its other connections are no target either."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", connections=3)
        await cluster.client()
        a.connections[1].fin("fin:1")
        await trio.sleep(10)
        assert sum("c" in one.opened for one in a.connections) == 1
        assert all(one.closes_of("c") == [] for one in a.connections)


# -- crashes ----------------------------------------------------------------------------------


async def test_with_migration_level_any_a_lost_connection_moves_its_clients(
    autojump_clock,
) -> None:
    """Rule 30: the service counts there, so it knows which calls are lost."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", level=MigrationLevel.ANY)
        client = await cluster.client()
        b = await cluster.scripted("B", level=MigrationLevel.ANY)
        client.invoke("done", "f")
        client.invoke("open", "f")
        await settle()
        a.connections[0].complete("c", "done", 1)
        await settle()
        await a.connections[0].lose()
        await settle()
        client.send("f", 2)
        await settle()
        assert client.completions["done"].result == 1
        assert "lost" in (client.completions["open"].error or "")
        assert header(b.opened["c"].headers, MIGRATE_FROM) == "A"
        assert len(b.data_of("c")) == 1
        assert client.close is None


# -- pauses -----------------------------------------------------------------------------------


def flow(operation: FlowControlOperation) -> ConnectionFlowControl:
    return ConnectionFlowControl("c", FlowControlConnectionType.CLIENT, operation)


async def test_a_server_may_ask_for_a_pause(autojump_clock, scene: Scene) -> None:
    """Rule 33: what the client begins is held; what belongs to its calls passes."""
    scene.old.send(flow(FlowControlOperation.PAUSE))
    await settle()
    scene.client.send("f", 1)
    scene.client.item("upload", 2)
    await settle()
    assert [JSON.peek(frame).type for frame in scene.a.data_of("c")] == [2]
    scene.old.send(flow(FlowControlOperation.RESUME))
    scene.client.send("f", 3)
    await settle()
    assert [JSON.peek(frame).type for frame in scene.a.data_of("c")] == [2, 1, 1]
    assert scene.cluster.service.held_size == 0


async def test_a_paused_client_is_handed_over_with_what_is_held(
    autojump_clock, scene: Scene
) -> None:
    scene.old.send(flow(FlowControlOperation.PAUSE))
    await settle()
    scene.client.send("f", 1)
    await settle()
    await scene.ask()
    scene.old.send(flow(FlowControlOperation.RESUME))
    await settle()
    assert scene.a.data_of("c") == []
    await scene.release()
    await scene.answer()
    assert len(scene.b.data_of("c")) == 1


async def test_a_hold_of_items_is_read_on_when_a_hand_over_lets_them_pass(autojump_clock) -> None:
    """What the old server waits for may be what has not been read yet."""
    async with open_cluster(ServiceOptions(hold_limit=300)) as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        await cluster.scripted("B")
        for _ in range(2):
            a.connections[0].send(flow(FlowControlOperation.PAUSE))
        await settle()
        client.item("upload", "x" * 300)
        await settle()
        client.item("upload", 2)
        client.complete("upload")
        await settle()
        assert client.transport.unread
        a.fin()
        await settle()
        assert [JSON.peek(frame).type for frame in a.data_of("c")] == [2, 2, 3]


async def test_another_server_cannot_pause_a_client(autojump_clock, scene: Scene) -> None:
    scene.new.send(flow(FlowControlOperation.PAUSE))
    await settle()
    scene.client.send("f", 1)
    await settle()
    assert len(scene.a.data_of("c")) == 1
