"""P4: the old server's ``on_disconnected`` has returned before the new one's ``on_connected``
starts, and the state that it left is there. Each ``on_connected`` that returned has exactly one
``on_disconnected``.
"""

from __future__ import annotations

import datetime
from functools import partial

import attrs
import pytest
import trio
from harness.scripted_service import ScriptedService, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import ConnectionMigrationFeature, GracefulShutdown, Hub
from signalr_trio.link.release import state_header, state_in
from signalr_trio.protocol.service_messages import MIGRATE_FROM, CloseConnection, Headers


@attrs.define
class Seen:
    """What a method of the hub found."""

    method: str
    feature: ConnectionMigrationFeature | None
    state: object = None


class Watched:
    """A hub that writes down the feature wherever it runs, and hands over ``state``."""

    def __init__(self, state: object = None) -> None:
        self.seen: list[Seen] = []
        watched = self

        class Watch(Hub):
            async def on_connected(self) -> None:
                self._see("on_connected")

            async def on_disconnected(self, error: Exception | None) -> None:
                feature = self._see("on_disconnected")
                if feature is not None and state is not None:
                    feature.state = state

            async def work(self, seconds: float) -> None:
                self._see("work")
                await trio.sleep(seconds)
                self._see("work")

            def _see(self, method: str) -> ConnectionMigrationFeature | None:
                feature = self.context.features.get(ConnectionMigrationFeature)
                found = feature and feature.state
                watched.seen.append(Seen(method, feature, found))
                return feature

        self.hub = Watch


def arrival(state: CloseConnection | None = None) -> Headers:
    """The headers with which the service opens the client of a release on B."""
    headers: Headers = {MIGRATE_FROM: ["A"]}
    packed = state_in(state.headers) if state is not None else None
    return headers | (state_header(packed) if packed is not None else {})


STATE = {
    "name": "ann",
    "score": [1, 2.5, None],
    b"raw": b"\x00\xff",
    7: datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
}


async def test_p4_the_state_that_the_old_server_left_is_there_on_the_new_one(
    autojump_clock: MockClock,
) -> None:
    old, new = Watched(STATE), Watched()
    async with serving(old.hub) as a, serving(new.hub, server_id="B") as b:
        leaving = await a.service.connected()
        leaving.move("B")
        release = await leaving.released()
        coming = b.service.open(headers=arrival(release))
        await b.service.until(lambda: coming.responses)
    last, first = old.seen[-1], new.seen[0]
    assert (last.method, first.method) == ("on_disconnected", "on_connected")
    assert last.feature is not None
    assert (last.feature.migrate_from, last.feature.migrate_to) == ("A", "B")
    assert first.feature is not None
    assert (first.feature.migrate_from, first.feature.migrate_to) == ("A", "B")
    assert first.state == STATE


async def test_p4_the_release_comes_after_on_disconnected_has_returned(
    autojump_clock: MockClock,
) -> None:
    class Slow(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep(4)

    async with serving(Slow) as served:
        client = await served.service.connected()
        client.move()
        await trio.sleep(3.9)
        assert client.ends == []
        await client.released()
        assert trio.current_time() == 4


async def test_p4_the_feature_is_there_in_the_two_methods_and_nowhere_else(
    autojump_clock: MockClock,
) -> None:
    watched = Watched()
    async with serving(watched.hub) as served:
        client = served.service.open(headers=arrival())
        client.invoke("work", 3)
        await wait_all_tasks_blocked()
        client.move("C")
        await client.released()
    assert [(one.method, one.feature is not None) for one in watched.seen] == [
        ("on_connected", True),
        ("work", False),
        ("work", False),
        ("on_disconnected", True),
    ]


@pytest.mark.parametrize("way", ["leaves", "is lost", "is dropped", "is bound"])
async def test_p4_other_ends_have_no_feature(autojump_clock: MockClock, way: str) -> None:
    """Also for a client that came by a migration."""
    watched = Watched()
    claims = [("asrs.s.ssticky", "Required")] if way == "is bound" else []
    async with serving(watched.hub) as served:
        client = served.service.open(headers=arrival(), claims=claims)
        await served.service.until(lambda: client.responses)
        if way == "leaves":
            client.leave()
        elif way == "is lost":
            await served.service.vanish()
        else:
            await served.shut_down()
        await wait_all_tasks_blocked()
        (last,) = [one for one in watched.seen if one.method == "on_disconnected"]
        assert last.feature is None


async def test_p4_a_lost_connection_ends_a_move(autojump_clock: MockClock) -> None:
    """The service cannot learn of the release any more, so it is none."""
    watched = Watched()
    async with serving(watched.hub) as served:
        client = await served.service.connected()
        client.invoke("work", 3)
        await wait_all_tasks_blocked()
        client.move()
        await wait_all_tasks_blocked()
        await served.service.connections[0].lose()
        await trio.sleep(5)
        assert watched.seen[-1] == Seen("on_disconnected", None)


async def test_p4_state_goes_no_further_unless_it_is_set_again(autojump_clock: MockClock) -> None:
    watched = Watched()
    async with serving(watched.hub) as served:
        client = served.service.open(headers=arrival() | state_header(b"\x07"))
        await served.service.until(lambda: client.responses)
        client.move("C")
        release = await client.released()
    assert watched.seen[0].state == 7
    assert watched.seen[-1].state is None
    assert state_in(release.headers) is None


async def test_p4_what_the_hub_kept_in_memory_stays_behind(autojump_clock: MockClock) -> None:
    found: list[dict[object, object]] = []

    class Keeper(Hub):
        async def on_connected(self) -> None:
            found.append(dict(self.context.items))
            self.context.items["x"] = 1

    async with serving(Keeper) as a, serving(Keeper) as b:
        leaving = await a.service.connected()
        leaving.move("B")
        release = await leaving.released()
        b.service.open(headers=arrival(release))
        await wait_all_tasks_blocked()
    assert found == [{}, {}]


def test_p4_a_state_that_cannot_travel_raises_where_it_is_set() -> None:
    feature = ConnectionMigrationFeature("A", "B")
    with pytest.raises(TypeError):
        feature.state = object()
    with pytest.raises(ValueError, match="16384 are allowed"):
        feature.state = b"x" * 17_000
    assert feature.state is None
    feature.state = b"x" * 16_000
    assert len(feature.state) == 16_000


def test_p4_each_look_at_the_state_is_a_copy() -> None:
    feature = ConnectionMigrationFeature("A", "B")
    feature.state = {"x": [1]}
    feature.state["x"].append(2)
    assert feature.state == {"x": [1]}


@pytest.mark.parametrize("text", ["?", "no base64!", None])
async def test_p4_a_state_that_cannot_be_read_is_none(
    autojump_clock: MockClock, text: str | None
) -> None:
    watched = Watched()
    async with serving(watched.hub) as served:
        (name,) = state_header(b"")
        client = served.service.open(headers=arrival() | {name: [text]})
        await served.service.until(lambda: client.responses)
    assert watched.seen[0].state is None


# -- on_connected that still runs (rule 21) -------------------------------------------------


async def test_p4_on_connected_ends_before_on_disconnected_begins(
    autojump_clock: MockClock,
) -> None:
    told: list[str] = []

    class Slow(Hub):
        async def on_connected(self) -> None:
            await trio.sleep(3)
            told.append("connected")

        async def on_disconnected(self, error: Exception | None) -> None:
            told.append("disconnected")

        async def work(self) -> None:
            told.append("work")

    async with serving(Slow) as served:
        client = await served.service.connected()
        client.invoke("work")
        client.move()
        await client.released()
    assert told == ["connected", "work", "disconnected"]


async def test_p4_on_connected_that_raises_during_a_move_closes_the_client(
    autojump_clock: MockClock,
) -> None:
    told: list[str] = []

    class Broken(Hub):
        async def on_connected(self) -> None:
            await trio.sleep(3)
            raise ValueError("oops")

        async def on_disconnected(self, error: Exception | None) -> None:
            told.append("disconnected")

    async with serving(Broken) as served:
        client = await served.service.connected()
        client.move()
        await client.ended()
        assert client.hub_close.error == "Connection closed with an error."
        assert client.releases == []
        assert told == []


async def test_p4_an_abort_during_a_move_ends_it(autojump_clock: MockClock) -> None:
    """Rule 17: it is a close without the sign of a release."""
    watched = Watched()

    class Abrupt(watched.hub):
        async def stop(self) -> None:
            await trio.sleep(1)
            self.context.abort()

    async with serving(Abrupt) as served:
        client = await served.service.connected()
        client.invoke("stop")
        await wait_all_tasks_blocked()
        client.move()
        await client.ended()
        await wait_all_tasks_blocked()
        assert client.releases == []
        assert watched.seen[-1] == Seen("on_disconnected", None)


# -- whatever happens -----------------------------------------------------------------------

ENDS = ("leave", "move", "move and leave", "abort", "lose", "garbage", "stay", "goodbye")


@attrs.frozen
class PlannedClient:
    connects: str
    """How ``on_connected`` ends: ``returns``, ``raises``, ``slow``, ``never``."""
    busy: float
    end: str
    at: float


planned_clients = st.builds(
    PlannedClient,
    st.sampled_from(["returns", "returns", "raises", "slow", "never"]),
    st.sampled_from([0.0, 2.0, 100.0]),
    st.sampled_from(ENDS),
    st.sampled_from([0.0, 1.0, 3.0]),
)


async def carry_out(plan: list[PlannedClient], mode: str, agreed: bool) -> None:
    counts: dict[str, dict[str, int]] = {}

    class Count(Hub):
        async def on_connected(self) -> None:
            client = plan[int(self.context.connection_id)]
            counts[self.context.connection_id] = {"connected": 0, "disconnected": 0}
            if client.connects == "raises":
                raise ValueError("oops")
            await trio.sleep({"slow": 2, "never": 1000}.get(client.connects, 0))
            counts[self.context.connection_id]["connected"] += 1

        async def on_disconnected(self, error: Exception | None) -> None:
            counts[self.context.connection_id]["disconnected"] += 1

        async def work(self, seconds: float) -> None:
            await trio.sleep(seconds)

        async def abort(self) -> None:
            self.context.abort()

    service = ScriptedService(agreed=agreed)
    async with serving(
        Count, service=service, shutdown=GracefulShutdown(mode), connections=len(plan)
    ) as served:
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(plan):
                nursery.start_soon(_play, service, number, client)
        served.server.request_shutdown()
        await served.end()
    for count in counts.values():
        assert count["disconnected"] == count["connected"] <= 1


async def _play(service: ScriptedService, number: int, plan: PlannedClient) -> None:
    connection = service.connections[number]
    client = service.open(str(number), connection=connection)
    client.invoke("work", plan.busy)
    await trio.sleep(plan.at)
    if "move" in plan.end:
        client.move()
    if "leave" in plan.end:
        client.leave()
    elif plan.end == "abort":
        client.invoke("abort")
    elif plan.end == "garbage":
        client.send_bytes(b"?\x1e")
    elif plan.end == "goodbye":
        client.send_bytes(b'{"type":7}\x1e')
    elif plan.end == "lose":
        await connection.lose()


@settings(max_examples=120)
@given(
    st.lists(planned_clients, min_size=1, max_size=5),
    st.sampled_from(["off", "wait_for_clients_close", "migrate_clients"]),
    st.booleans(),
)
def test_p4_each_on_connected_that_returned_has_exactly_one_on_disconnected(
    plan: list[PlannedClient], mode: str, agreed: bool
) -> None:
    run = partial(carry_out, plan, mode, agreed)
    trio.run(run, clock=MockClock(autojump_threshold=0))
