"""P7: the stages of a shutdown run in order and never overlap, and the whole ends within its
deadline plus that of the last stage, whatever hooks, hubs, clients or the network do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import attrs
import pytest
import trio
from harness.scripted_service import (
    ScriptedConnection,
    ScriptedService,
    Served,
    nothing_left,
    serving,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import GracefulShutdown, Hub, HubContext, HubServer
from signalr_trio.link.link import Link
from signalr_trio.protocol.service_messages import BroadcastData, CloseConnection, Ping

ORDER = ["offline", "hooks", "clients", "stop"]


class Chat(Hub):
    async def forever(self) -> None:
        await trio.sleep_forever()


async def test_p7_each_stage_begins_when_the_one_before_is_over(autojump_clock: MockClock) -> None:
    async def hook(context: HubContext) -> None:
        await context.clients.all.send("first")
        await trio.sleep(3)
        await context.clients.all.send("last")

    def prepare(server: HubServer) -> None:
        server.on_shutdown(Chat)(hook)

    async with serving(Chat, prepare=prepare) as served:
        service = served.service
        service.answers_fin = False
        client = await service.connected()
        began = trio.current_time()
        served.server.request_shutdown()
        await trio.sleep(2)
        service.connections[0].send(Ping.of("shutdown", "finack"))
        await trio.sleep(4)
        client.move()
        report = await served.end()
        told = [
            (one.at - began, type(one.message).__name__)
            for one in service.log
            if isinstance(one.message, BroadcastData | CloseConnection)
            or (isinstance(one.message, Ping) and one.message.values)
        ]
        assert told == [
            (0, "Ping"),  # stage 1: fin:2
            (2, "BroadcastData"),  # stage 2: the hook
            (5, "BroadcastData"),
            (5, "Ping"),  # stage 3: fin:1
            (6, "CloseConnection"),  # the release
        ]
        assert [(stage.name, stage.duration) for stage in report.stages] == [
            ("offline", 2),
            ("hooks", 3),
            ("clients", 1),
            ("stop", 0),
        ]


async def test_p7_all_that_can_hang_hangs_and_it_ends_in_time(autojump_clock: MockClock) -> None:
    class Stubborn(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep_forever()

        async def forever(self) -> None:
            while True:
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                        await trio.sleep_forever()

    async def hang(context: HubContext) -> None:
        await trio.sleep_forever()

    def prepare(server: HubServer) -> None:
        server.on_shutdown(Stubborn)(hang)

    async with serving(Stubborn, prepare=prepare) as served:
        served.service.answers_fin = False
        client = await served.service.connected()
        client.invoke("forever")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        report = await served.shut_down()
        assert [(stage.name, stage.duration) for stage in report.stages] == [
            ("offline", 10),
            ("hooks", 15),
            ("clients", 5),
            ("stop", 4),
        ]
        assert served.ended_at - began == 34
        assert client.ends


async def test_p7_a_stage_that_hangs_takes_nothing_from_stage_4(autojump_clock: MockClock) -> None:
    """Stage 4 has its own limit, on top of the deadline."""

    class Slow(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep(3)

    options = GracefulShutdown("wait_for_clients_close", timeout=7)
    async with serving(Slow, shutdown=options) as served:
        client = await served.service.connected()
        began = trio.current_time()
        report = await served.shut_down()
        assert served.ended_at - began == 10
        assert client.hub_close.allow_reconnect
        assert [stage.timed_out for stage in report.stages] == [False, False, True, False]


async def test_p7_the_deadline_is_one_for_stages_1_to_3(autojump_clock: MockClock) -> None:
    """With little time for all, no stage may take what is its own at the most."""

    async def hang(context: HubContext) -> None:
        await trio.sleep_forever()

    options = GracefulShutdown("migrate_clients", timeout=12, offline_timeout=10)
    async with serving(
        Chat, shutdown=options, prepare=lambda server: server.on_shutdown(Chat)(hang)
    ) as served:
        served.service.answers_fin = False
        await served.service.connected()
        report = await served.shut_down()
        assert [(stage.duration, stage.timed_out) for stage in report.stages] == [
            (10, True),
            (2, True),
            (0, True),
            (0, False),
        ]


async def test_p7_a_line_that_does_not_drain_is_given_up(autojump_clock: MockClock) -> None:
    """The network hangs while what is queued goes out."""

    class HangingLink:
        """A link whose close waits very long for the other end."""

        def __init__(self, link: Link) -> None:
            self._link = link
            self.closing = 0.0

        def __getattr__(self, name: str) -> object:
            return getattr(self._link, name)

        async def aclose(self, *, timeout: float) -> None:
            self.closing = timeout
            await trio.sleep(1000)

    async with serving(Chat, shutdown=GracefulShutdown("off", stop_timeout=6)) as served:
        (connection,) = served.server.hubs[0].connections
        link = HangingLink(connection._link)  # type: ignore[arg-type]
        connection._link = link  # type: ignore[assignment]
        report = await served.shut_down()
        assert link.closing == 6
        assert [(stage.duration, stage.timed_out) for stage in report.stages] == [
            (0, False),
            (6, True),
        ]


@pytest.mark.parametrize("name", ["sleep", "cpu"])
async def test_p7_a_hub_method_that_swallows_its_cancellation_ends_with_the_next(
    autojump_clock: MockClock, name: str
) -> None:
    """trio cancels it again at each checkpoint."""

    class Deaf(Hub):
        async def sleep(self) -> None:
            for _ in range(5):
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    continue

        async def cpu(self) -> AsyncIterator[int]:
            for number in range(5):
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    yield number

    async with serving(Deaf, shutdown=GracefulShutdown("off")) as served:
        client = await served.service.connected()
        id = client.invoke("sleep") if name == "sleep" else client.stream("cpu")
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert report.duration == 0
        assert len(client.completions(id)) == 1


# -- whatever happens -----------------------------------------------------------------------


@attrs.frozen
class Trouble:
    """What goes wrong, ``at`` seconds after the shutdown was asked for."""

    at: float
    what: str


@attrs.frozen
class Plan:
    mode: str
    agreed: bool
    hook: str
    method: str
    on_connected: str
    on_disconnected: str
    finack: bool
    migrates: bool
    troubles: list[Trouble]


behaviours = st.sampled_from(["returns", "returns", "slow", "raises", "hangs", "fails at the end"])
troubles = st.builds(
    Trouble,
    st.sampled_from([0.0, 1.0, 4.0, 11.0, 20.0, 29.0, 31.0]),
    st.sampled_from(
        [
            "lose one",
            "vanish",
            "finack",
            "open",
            "leave",
            "move",
            "garbage",
            "stop_now",
            "cancel",
            "again",
            "mute",
        ]
    ),
)
plans = st.builds(
    Plan,
    st.sampled_from(["off", "wait_for_clients_close", "migrate_clients", "migrate_clients"]),
    st.booleans(),
    behaviours,
    behaviours,
    behaviours,
    behaviours,
    st.booleans(),
    st.booleans(),
    st.lists(troubles, max_size=4),
)


async def behave(how: str) -> None:
    if how == "slow":
        await trio.sleep(6)
    elif how == "raises":
        raise ValueError("as planned")
    elif how == "hangs":
        await trio.sleep_forever()
    elif how == "fails at the end":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fail_at_the_end)
            await trio.sleep_forever()


async def _fail_at_the_end() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("as planned")


def hub_of(plan: Plan) -> type[Hub]:
    class Planned(Hub):
        async def on_connected(self) -> None:
            await behave(plan.on_connected)

        async def on_disconnected(self, error: Exception | None) -> None:
            await behave(plan.on_disconnected)

        async def work(self) -> None:
            await behave(plan.method)

        async def stream(self) -> AsyncIterator[int]:
            yield 1
            await behave(plan.method)

    return Planned


async def make_trouble(served: Served, troubles: list[Trouble]) -> None:
    service = served.service
    began = trio.current_time()
    for trouble in sorted(troubles, key=lambda one: one.at):
        await trio.sleep_until(began + trouble.at)
        await _one_trouble(served, service, trouble.what)


async def _one_trouble(served: Served, service: ScriptedService, what: str) -> None:
    living = [one for one in service.connections if not one.lost]
    connection: ScriptedConnection | None = living[-1] if living else None
    if what == "lose one" and connection is not None:
        await connection.lose()
    elif what == "vanish":
        await service.vanish()
    elif what == "finack":
        for one in living:
            one.send(Ping.of("shutdown", "finack"))
    elif what == "open" and connection is not None:
        service.open(f"late {len(service.clients)}", connection=connection)
    elif what == "leave":
        service.clients[0].leave()
    elif what == "move":
        service.clients[0].move()
    elif what == "garbage":
        service.clients[-1].send_bytes(b"?\x1e")
    elif what == "mute":
        service.pings = False
        for one in living:
            one.stop_reading()
    elif what == "again":
        served.server.request_shutdown()
    elif what == "stop_now":
        served.server.stop_now()
    elif what == "cancel":
        served.scope.cancel()


async def carry_out(plan: Plan) -> None:
    async with nothing_left():
        hub = hub_of(plan)

        def prepare(server: HubServer) -> None:
            server.on_shutdown(hub)(lambda context: behave(plan.hook))

        async with serving(
            hub,
            service=ScriptedService(agreed=plan.agreed),
            shutdown=GracefulShutdown(plan.mode),
            connections=2,
            prepare=prepare,
        ) as served:
            service = served.service
            for number in range(4):
                client = service.open(str(number), connection=service.connections[number % 2])
                client.invoke("work")
                client.stream("stream")
            await wait_all_tasks_blocked()
            service.answers_fin = plan.finack
            service.migrates_to = "B" if plan.migrates else None
            began = trio.current_time()
            served.server.request_shutdown()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make_trouble, served, plan.troubles)
                with trio.fail_after(1000):
                    await served.ended.wait()
                nursery.cancel_scope.cancel()
            check(plan, served, served.ended_at - began)


def check(plan: Plan, served: Served, took: float) -> None:
    report = served.server.report
    assert report is not None
    names = [stage.name for stage in report.stages]
    assert names == [name for name in ORDER if name in names]
    assert names[-1] == "stop"
    assert took <= 30 + 5
    assert report.duration == pytest.approx(took)
    if plan.mode == "off":
        assert "hooks" not in names
        assert "clients" not in names
    assert report.clients <= len(served.service.clients)
    early = plan.on_connected == "raises" or (plan.migrates and not plan.agreed)
    if not plan.troubles and not early:
        assert report.clients == 4, "all of them were here when stage 3 began"
    assert served.server.hubs[0].clients == {}


@settings(max_examples=150)
@given(plans)
def test_p7_it_ends_in_order_and_in_time_whatever_happens(plan: Plan) -> None:
    trio.run(partial(carry_out, plan), clock=MockClock(autojump_threshold=0))
