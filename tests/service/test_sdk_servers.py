"""Hand-overs of servers that do not release: the official SDK (rules 7, 23 and 30 to 32)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from harness.clients import JSON, Client
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedConnection, ScriptedServer

from signalr_trio.protocol.messages import Completion, Invocation, StreamItem
from signalr_trio.protocol.service_messages import (
    MIGRATE_FROM,
    CloseConnection,
    ConnectionData,
    header,
)
from signalr_trio.service.options import ServiceOptions

OPTIONS = ServiceOptions()


@attrs.frozen
class Scene:
    """A client c with the SDK server A; the SDK server B is there too."""

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

    @property
    def is_closed_on_a(self) -> bool:
        return bool(self.old.migrating_closes_of("c"))

    async def fin(self) -> None:
        """FIN, and the moment for the hooks of A."""
        self.a.fin()
        await trio.sleep(OPTIONS.polite_grace + 0.01)
        await settle()


@pytest.fixture
async def scene(autojump_clock) -> AsyncIterator[Scene]:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        client = await cluster.client()
        b = await cluster.scripted("B", own=False)
        yield Scene(cluster, a, b, client)


async def test_an_idle_client_is_moved_at_once(autojump_clock, scene: Scene) -> None:
    await scene.fin()
    assert scene.is_closed_on_a
    await trio.sleep(OPTIONS.polite_settle)
    await settle()
    assert header(scene.b.opened["c"].headers, MIGRATE_FROM) == "A"


async def test_open_handshake_and_what_is_held_come_in_one_go(autojump_clock, scene: Scene) -> None:
    """Rule 23: such a server answers nothing, so there is nothing to wait for."""
    await scene.fin()
    scene.client.send("f", 1)
    scene.client.send("f", 2)
    await trio.sleep(OPTIONS.polite_settle)
    await settle()
    kinds = [type(one).__name__ for one in scene.new.received if hasattr(one, "connection_id")]
    assert kinds[-4:] == ["OpenConnection"] + ["ConnectionData"] * 3
    assert len(scene.b.data_of("c")) == 2


async def test_the_close_waits_for_every_open_call(autojump_clock, scene: Scene) -> None:
    client, old = scene.client, scene.old
    client.invoke("call", "f")
    client.stream("items", "count")
    client.invoke("upload", "take", streams=["s"])
    await settle()
    await scene.fin()
    client.invoke("held", "f")
    client.item("s", 1)
    client.complete("s")
    await trio.sleep(10)
    assert [JSON.peek(frame).invocation_id for frame in scene.a.data_of("c")][3:] == ["s", "s"]
    for id in ("call", "upload"):
        old.complete("c", id)
        await trio.sleep(1)
        assert not scene.is_closed_on_a
    old.say("c", StreamItem("items", 1), Completion("items"))
    await settle()
    assert scene.is_closed_on_a
    await trio.sleep(1)
    assert set(client.completions) == {"call", "upload", "items"}
    assert [JSON.peek(frame).invocation_id for frame in scene.b.data_of("c")] == ["held"]


async def test_a_call_without_an_id_is_confirmed_by_a_barrier(autojump_clock, scene: Scene) -> None:
    """Nothing else shows that it was taken up, and a close would lose it."""
    scene.client.send("f", 1)
    await settle()
    await scene.fin()
    assert not scene.is_closed_on_a
    barrier = JSON.parse(scene.a.data_of("c")[-1])
    assert barrier.target == "signalr_trio.barrier"  # type: ignore[union-attr]
    scene.old.say("c", Completion(barrier.invocation_id, error="no such method"))  # type: ignore[union-attr]
    await settle()
    assert scene.is_closed_on_a
    # The service keeps the answer to itself.
    assert scene.client.received == []


async def test_a_call_without_an_id_before_one_that_was_answered_needs_no_barrier(
    autojump_clock, scene: Scene
) -> None:
    scene.client.send("f", 1)
    scene.client.invoke("1", "f")
    await settle()
    scene.old.complete("c", "1")
    await scene.fin()
    assert len(scene.a.data_of("c")) == 2
    assert scene.is_closed_on_a


async def test_an_upload_to_a_call_without_an_id_is_waited_for(
    autojump_clock, scene: Scene
) -> None:
    """Here it is the client's message that shows that nothing is open any more."""
    scene.client.say(Invocation("take", [], stream_ids=("s",)))
    scene.client.invoke("1", "f")
    await settle()
    scene.old.complete("c", "1")
    await scene.fin()
    scene.client.item("s", 1)
    await trio.sleep(1)
    assert not scene.is_closed_on_a
    scene.client.complete("s")
    await settle()
    assert [JSON.peek(frame)[:2] for frame in scene.a.data_of("c")[2:]] == [(2, "s"), (3, "s")]
    assert scene.is_closed_on_a


async def test_calls_that_outlast_the_budget_get_an_error_and_the_client_moves(
    autojump_clock, scene: Scene
) -> None:
    """Rule 31: the budget counts from FIN."""
    scene.client.invoke("1", "f")
    await settle()
    fin_at = trio.current_time()
    await scene.fin()
    scene.client.invoke("2", "f")
    await trio.sleep_until(fin_at + OPTIONS.polite_budget - 0.1)
    assert scene.client.received == []
    await trio.sleep(0.2)
    assert "did not end in time" in (scene.client.completions["1"].error or "")
    assert "c" in scene.b.opened
    assert len(scene.b.data_of("c")) == 1
    scene.old.complete("c", "1", "too late")
    scene.new.complete("c", "2", "in time")
    await settle()
    assert scene.client.completions["2"].result == "in time"


async def test_a_client_that_leaves_before_the_close_takes_what_is_held_to_its_server(
    autojump_clock, scene: Scene
) -> None:
    """Rule 16."""
    scene.client.invoke("1", "f")
    await settle()
    await scene.fin()
    scene.client.invoke("2", "f")
    scene.client.send("f")
    await settle()
    assert len(scene.a.data_of("c")) == 1
    scene.client.leave()
    await settle()
    assert [JSON.peek(frame).invocation_id for frame in scene.a.data_of("c")] == ["1", "2", None]
    ends = [one for one in scene.old.received if isinstance(one, CloseConnection | ConnectionData)]
    assert isinstance(ends[-1], CloseConnection)
    assert ends[-1].headers == {}
    await trio.sleep(30)
    assert scene.b.opened == {}
    assert scene.client.over.is_set()


async def test_a_lost_connection_moves_its_clients_after_the_fin(
    autojump_clock, scene: Scene
) -> None:
    """Rule 30: each open call gets an error completion, and no message is lost."""
    scene.client.invoke("1", "f")
    await settle()
    await scene.fin()
    scene.client.invoke("2", "f")
    await settle()
    await scene.old.lose()
    await settle()
    assert "lost" in (scene.client.completions["1"].error or "")
    assert [JSON.peek(frame).invocation_id for frame in scene.b.data_of("c")] == ["2"]
    assert scene.client.close is None


async def test_a_lost_connection_moves_also_whom_nothing_was_begun_for(
    autojump_clock, scene: Scene
) -> None:
    """It is lost within the moment for its hooks."""
    scene.a.fin()
    await settle()
    await scene.old.lose()
    await settle()
    assert "c" in scene.b.opened
    assert scene.client.close is None


async def test_one_client_is_kept_until_the_others_are_done(autojump_clock) -> None:
    """Rule 32: as long as it is there, the SDK closes no connection."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False, connections=2)
        clients = [await cluster.client(f"c{number}") for number in range(4)]
        clients[0].invoke("slow", "f")
        await settle()
        b = await cluster.scripted("B", own=False)
        a.fin()
        await trio.sleep(5)
        assert len(b.opened) == 2
        assert "c0" not in b.opened
        a.one_with("c0").complete("c0", "slow")
        await trio.sleep(1)
        assert len(b.opened) == 4


async def test_the_kept_client_goes_at_the_end_of_the_budget(autojump_clock) -> None:
    """Rule 32: so a call that never ends keeps nobody longer than that."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        clients = [await cluster.client(f"c{number}") for number in range(3)]
        b = await cluster.scripted("B", own=False)
        clients[0].invoke("endless", "f")
        await settle()
        a.fin()
        await trio.sleep(OPTIONS.polite_budget - 1)
        assert len(b.opened) == 1
        await trio.sleep(2)
        assert len(b.opened) == 3


async def test_a_client_that_cannot_move_is_closed_also_when_there_is_no_other_server(
    autojump_clock,
) -> None:
    """Nobody who comes later could have it."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        bound = await cluster.client("bound", claims=[("asrs.s.ssticky", "Required")])
        free = await cluster.client("free")
        a.fin()
        await trio.sleep(OPTIONS.polite_budget + 1)
        assert bound.close is not None
        assert bound.close.allow_reconnect
        assert free.close is None


async def test_a_client_that_cannot_move_keeps_no_other(autojump_clock) -> None:
    """Rule 7: it is closed, with a text, when its calls have ended."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        bound = await cluster.client("bound", claims=[("asrs.s.ssticky", "Required")])
        free = await cluster.client("free")
        bound.invoke("1", "f")
        await settle()
        b = await cluster.scripted("B", own=False)
        a.fin()
        await trio.sleep(5)
        assert bound.close is None
        a.connections[0].complete("bound", "1")
        await trio.sleep(1)
        assert bound.completions["1"].error is None
        assert bound.close is not None
        assert bound.close.allow_reconnect
        assert a.connections[0].closes_of("bound")[0].headers == {}
        assert list(b.opened) == ["free"]
        assert free.close is None


async def test_it_is_sent_no_state(autojump_clock) -> None:
    """Only servers that agreed on it know the header."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client()
        b = await cluster.scripted("B", own=False)
        a.fin()
        await settle()
        a.connections[0].release("c", b"state")
        await settle()
        assert set(b.opened["c"].headers) == {MIGRATE_FROM, "X-Forwarded-For"}
