"""The graceful shutdown of a hub server, in each mode, and whatever goes wrong in it.

Times are those of the mock clock: options leave 30 s for stages 1 to 3, of which stage 1 may take
10 and stage 2 15, and 5 s for stage 4.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from harness.scripted_service import ScriptedService, Served, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import (
    ConfigurationError,
    GracefulShutdown,
    Hub,
    HubContext,
    HubOptions,
    HubServer,
    ShutdownError,
    ShutdownReport,
)
from signalr_trio.protocol.messages import Close
from signalr_trio.protocol.service_messages import (
    BroadcastData,
    CloseConnection,
    HandshakeRequest,
    Ping,
)

WAIT = GracefulShutdown("wait_for_clients_close")
OFF = GracefulShutdown("off")
MIGRATE = GracefulShutdown("migrate_clients")
STOPPED = Close("The hub server has stopped. Connect again.", True)
TIME_IS_UP = "The hub server is shutting down and this call did not end in time."


class Chat(Hub):
    async def forever(self) -> None:
        await trio.sleep_forever()

    async def sleep(self, seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async def abort(self) -> None:
        self.context.abort()


class News(Hub):
    pass


def hooks(*hooks: Callable[[HubContext], Awaitable[None]]) -> Callable[[HubServer], None]:
    """Registers them for Chat."""

    def register(server: HubServer) -> None:
        for hook in hooks:
            server.on_shutdown(Chat)(hook)

    return register


def stages(report: ShutdownReport) -> list[tuple[str, float, bool]]:
    return [(one.name, one.duration, one.timed_out) for one in report.stages]


async def hang(context: HubContext) -> None:
    await trio.sleep_forever()


# -- an idle server -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [OFF, WAIT, MIGRATE], ids=lambda one: one.mode.value)
@pytest.mark.parametrize("agreed", [True, False])
async def test_without_clients_no_time_passes(
    autojump_clock: MockClock, mode: GracefulShutdown, agreed: bool
) -> None:
    service = ScriptedService(agreed=agreed)
    async with serving(Chat, News, service=service, shutdown=mode, connections=2) as served:
        began = trio.current_time()
        report = await served.shut_down()
        assert served.ended_at == began
        assert report.duration == 0
        assert not any(stage.timed_out for stage in report.stages)
        assert report.clients == 0
        assert all(connection.lost for connection in service.connections)
        assert len(service.connections) == 4, "none was made again"


# -- the modes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "agreed", "fins"),
    [
        (OFF, True, ["fin:0"]),
        (OFF, False, ["fin:0"]),
        (WAIT, True, ["fin:2"]),
        (WAIT, False, ["fin:2"]),
        (MIGRATE, True, ["fin:2", "fin:1"]),
        (MIGRATE, False, ["fin:1"]),
    ],
)
async def test_the_fins_of_each_mode(
    autojump_clock: MockClock, mode: GracefulShutdown, agreed: bool, fins: list[str]
) -> None:
    """A service that is ours is told of the migration when the hooks are over (section 4)."""
    service = ScriptedService(agreed=agreed)
    async with serving(Chat, News, service=service, shutdown=mode, connections=2) as served:
        await served.shut_down()
        assert [connection.fins for connection in service.connections] == [fins] * 4


async def test_wait_keeps_clients_until_they_leave(autojump_clock: MockClock) -> None:
    async with serving(Chat, shutdown=WAIT) as served:
        client = await served.service.connected()
        served.server.request_shutdown()
        await trio.sleep(7)
        assert await client.result(client.invoke("sleep", 1)) == 1
        client.leave()
        report = await served.end()
        assert stages(report) == [
            ("offline", 0, False),
            ("hooks", 0, False),
            ("clients", 8, False),
            ("stop", 0, False),
        ]
        assert (report.left, report.clients) == (1, 1)


async def test_wait_drops_those_who_stay_when_time_is_up(autojump_clock: MockClock) -> None:
    async with serving(Chat, shutdown=WAIT) as served:
        client = await served.service.connected()
        report = await served.shut_down()
        assert stages(report)[2:] == [("clients", 30, True), ("stop", 0, False)]
        assert client.hub_close == STOPPED
        assert report.dropped == {"the time to leave was up": 1}


async def test_off_drops_all_at_once(autojump_clock: MockClock) -> None:
    """Their calls are cancelled and answered, hooks do not run, nobody is moved."""
    ran: list[str] = []

    async def hook(context: HubContext) -> None:
        ran.append("hook")

    async with serving(Chat, shutdown=OFF, prepare=hooks(hook)) as served:
        client = await served.service.connected()
        running, waiting = client.invoke("forever"), client.invoke("forever")
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert [name for name, *_ in stages(report)] == ["offline", "stop"]
        assert report.duration == 0
        assert await client.error(running) == TIME_IS_UP
        assert await client.error(waiting) == TIME_IS_UP
        assert client.hub_close == STOPPED
        assert ran == []


async def test_migrate_releases_each_client(autojump_clock: MockClock) -> None:
    async with serving(Chat, shutdown=MIGRATE, connections=2) as served:
        service = served.service
        service.migrates_to = "B"
        clients = [
            service.open(f"c{number}", connection=service.connections[number % 2])
            for number in range(10)
        ]
        await service.until(lambda: all(client.responses for client in clients))
        report = await served.shut_down()
        assert report.migrated == report.clients == 10
        assert all(len(client.releases) == 1 for client in clients)
        assert all(client.hub_closes == [] for client in clients)
        assert report.duration == 0


async def test_a_service_that_agreed_on_nothing_is_sent_no_release(
    autojump_clock: MockClock,
) -> None:
    async with serving(
        Chat, service=ScriptedService(agreed=False), shutdown=MIGRATE, prepare=hooks(short)
    ) as served:
        client = await served.service.connected()
        served.server.request_shutdown()
        await trio.sleep(2)
        client.move()
        report = await served.end()
        assert client.all[1:] == []
        assert report.migrated == 1


async def short(context: HubContext) -> None:
    await trio.sleep(1)


async def test_those_whom_nobody_asked_to_move_are_dropped_at_the_end(
    autojump_clock: MockClock,
) -> None:
    """There is no other server: they are served until then (rule 6)."""
    async with serving(Chat, shutdown=MIGRATE) as served:
        client = await served.service.connected()
        served.server.request_shutdown()
        await trio.sleep(20)
        assert await client.result(client.invoke("sleep", 1)) == 1
        report = await served.end()
        assert stages(report)[2:] == [("clients", 30, True), ("stop", 0, False)]
        assert client.hub_close == STOPPED
        assert report.dropped == {"the time to leave was up": 1}


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'gently' is not one of off, wait"):
        GracefulShutdown("gently")


@pytest.mark.parametrize("name", ["timeout", "offline_timeout", "stop_timeout"])
def test_times_must_be_above_nothing(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be above 0"):
        GracefulShutdown("off", **{name: 0})


@pytest.mark.parametrize("name", ["inbox_pause", "inbox_limit", "link_high_water", "keep_alive"])
def test_so_must_the_numbers_of_hub_options(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be above 0"):
        HubOptions(**{name: 0})


# -- stage 1: offline -----------------------------------------------------------------------


async def test_fin_is_repeated_every_5_s_until_finack(autojump_clock: MockClock) -> None:
    async with serving(Chat, connections=2) as served:
        service = served.service
        service.answers_fin = False
        first, second = service.connections
        began = trio.current_time()
        served.server.request_shutdown()
        await trio.sleep(6)
        first.send(Ping.of("shutdown", "finack"))
        await trio.sleep(1)
        assert not served.ended.is_set()
        second.send(Ping.of("shutdown", "finack"))
        report = await served.end()
        first_at = [at - began for at, fin in service.fins if fin == "fin:2"]
        assert first_at == [0, 0, 5, 5]
        assert stages(report)[0] == ("offline", 7, False)


async def test_without_finack_stage_1_ends_after_10_s(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        served.service.answers_fin = False
        report = await served.shut_down()
        assert stages(report)[:2] == [("offline", 10, True), ("hooks", 0, False)]
        assert served.service.connections[0].fins == ["fin:2", "fin:2", "fin:1"]


async def test_mode_off_waits_for_finack_within_the_limit_of_stage_4(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat, shutdown=OFF) as served:
        served.service.answers_fin = False
        report = await served.shut_down()
        assert stages(report) == [("offline", 5, True), ("stop", 0, False)]


async def test_a_lost_connection_counts_as_answered_and_is_not_made_again(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat, connections=2) as served:
        service = served.service
        service.answers_fin = False
        served.server.request_shutdown()
        await trio.sleep(2)
        service.connections[0].send(Ping.of("shutdown", "finack"))
        await service.connections[1].lose()
        report = await served.end()
        assert stages(report)[0] == ("offline", 2, False)
        assert len(service.attempts) == 2


async def test_a_connection_in_its_handshake_is_told_too(autojump_clock: MockClock) -> None:
    """Its handshake request has gone out, so the service may know of it."""
    service = ScriptedService()
    async with serving(Chat, service=service) as served:
        service.answers_handshake = service.answers_fin = service.pings = False
        await trio.sleep(1)  # up for so long, it is made again at once
        await service.connections[0].lose()
        await wait_all_tasks_blocked()
        served.server.request_shutdown()
        await service.until(lambda: service.connections[1].fins)
        report = await served.end()
        assert stages(report)[0] == ("offline", 10, True)


async def test_a_connection_that_is_being_made_is_given_up(autojump_clock: MockClock) -> None:
    service = ScriptedService()
    async with serving(Chat, service=service, connections=2, prepare=hooks(short)) as served:
        service.hangs = True
        await trio.sleep(1)
        await service.connections[0].lose()
        await wait_all_tasks_blocked()
        assert len(service.attempts) == 3
        served.server.request_shutdown()
        await wait_all_tasks_blocked()
        service.accept()
        report = await served.end()
        assert report.duration == 1
        assert len(service.connections) == 2


async def test_a_connection_that_waits_to_be_made_is_given_up(autojump_clock: MockClock) -> None:
    """Attempts come after 1, 2, 4, 8 s, and up to one more each."""

    async def long(context: HubContext) -> None:
        await trio.sleep(14)

    async with serving(Chat, prepare=hooks(long)) as served:
        await served.service.vanish()
        await trio.sleep(8)
        tried = len(served.service.attempts)
        report = await served.shut_down()
        assert report.duration == 14
        assert len(served.service.attempts) == tried


async def test_a_shutdown_needs_no_connection_to_have_been_made(autojump_clock: MockClock) -> None:
    """SIGTERM comes while the service cannot be reached."""
    service = ScriptedService()
    service.hangs = True
    server = HubServer("")
    server.map(Chat, "/chat")
    served = Served(server, service)
    async with service.running(), trio.open_nursery() as nursery:
        nursery.start_soon(nursery.start, served.run)
        await trio.sleep(3)
        report = await served.shut_down()
        assert served.ended_at == 3
        assert report.duration == 0


async def test_no_connection_on_demand_is_made_any_more(autojump_clock: MockClock) -> None:
    async with serving(Chat, prepare=hooks(short)) as served:
        served.server.request_shutdown()
        await wait_all_tasks_blocked()
        served.service.connections[0].send(Ping.of("target", "x"))
        await served.end()
        assert len(served.service.received(HandshakeRequest)) == 1


# -- stage 2: hooks -------------------------------------------------------------------------


async def test_a_hook_of_a_hub_that_is_not_served_is_refused(autojump_clock: MockClock) -> None:
    """It would never run."""
    server = HubServer("")

    async def hook(_: HubContext) -> None: ...

    server.on_shutdown(News)(hook)
    server.map(Chat, "/chat")
    with pytest.raises(ConfigurationError, match="News is not mapped"):
        await server.run(ScriptedService().connect)


async def test_hooks_run_in_order_hubs_side_by_side(autojump_clock: MockClock) -> None:
    ran: list[str] = []

    def hook(name: str, seconds: float) -> Callable[[HubContext], Awaitable[None]]:
        async def run(context: HubContext) -> None:
            ran.append(f"{name} begins")
            await trio.sleep(seconds)
            ran.append(f"{name} ends")

        return run

    def register(server: HubServer) -> None:
        server.on_shutdown(Chat)(hook("chat 1", 2))
        server.on_shutdown(News)(hook("news 1", 3))
        server.on_shutdown(Chat)(hook("chat 2", 2))

    async with serving(Chat, News, prepare=register) as served:
        report = await served.shut_down()
        assert sorted(ran[:2]) == ["chat 1 begins", "news 1 begins"]
        assert ran[2:] == [
            "chat 1 ends",
            "chat 2 begins",
            "news 1 ends",
            "chat 2 ends",
        ]
        assert stages(report)[1] == ("hooks", 4, False)


async def test_hooks_can_send_while_every_client_is_still_here(
    autojump_clock: MockClock,
) -> None:
    """And what they sent has left before the service is asked to move anybody."""

    async def goodbye(context: HubContext) -> None:
        await context.clients.all.send("exit")

    async with serving(Chat, prepare=hooks(goodbye)) as served:
        served.service.migrates_to = "B"
        client = await served.service.connected()
        await served.shut_down()
        said = [one.message for one in served.service.log]
        sent = said.index(served.service.received(BroadcastData)[0])
        assert said.index(Ping.of("shutdown", "fin:2")) < sent
        assert sent < said.index(Ping.of("shutdown", "fin:1"))
        assert client.releases


async def test_a_hook_that_raises_is_logged_and_the_next_one_runs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    async def fail(context: HubContext) -> None:
        raise ValueError("oops")

    async def fail_twice(context: HubContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, context)
            nursery.start_soon(fail, context)

    async def last(context: HubContext) -> None:
        ran.append("last")

    async with serving(Chat, prepare=hooks(fail, fail_twice, last)) as served:
        report = await served.shut_down()
        assert ran == ["last"]
        assert not any(stage.timed_out for stage in report.stages)
    failed = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert ["fail of hub chat" in one.message for one in failed] == [True, False]
    assert all(one.exc_info for one in failed)


async def test_a_hook_that_hangs_takes_half_of_the_time_and_no_more(
    autojump_clock: MockClock,
) -> None:
    ran: list[str] = []

    async def never(context: HubContext) -> None:
        ran.append("never")

    async with serving(Chat, prepare=hooks(hang, never)) as served:
        served.service.migrates_to = "B"
        client = await served.service.connected()
        report = await served.shut_down()
        assert stages(report)[1:3] == [("hooks", 15, True), ("clients", 0, False)]
        assert ran == []
        assert client.releases


async def test_a_hook_that_fails_when_its_time_is_up_ends_no_more_than_itself(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its nursery raises the cancellation and the error at once."""

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("oops")

    async def hook(context: HubContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            await trio.sleep_forever()

    async with serving(Chat, prepare=hooks(hook)) as served:
        served.service.migrates_to = "B"
        client = await served.service.connected()
        report = await served.shut_down()
        assert [name for name, *_ in stages(report)] == ["offline", "hooks", "clients", "stop"]
        assert client.releases
    assert "oops" in caplog.text


class Fatal(BaseException):
    """Like KeyboardInterrupt, but pytest minds it less."""


async def test_what_is_no_exception_in_a_hook_goes_to_stage_4_and_on(
    autojump_clock: MockClock,
) -> None:
    async def fatal(context: HubContext) -> None:
        raise Fatal

    service = ScriptedService()
    servers: list[HubServer] = []

    async def run() -> None:
        def prepare(server: HubServer) -> None:
            servers.append(server)
            server.on_shutdown(Chat)(fatal)

        async with serving(Chat, service=service, prepare=prepare) as served:
            await service.connected()
            served.server.request_shutdown()
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await run()
    assert raised.group_contains(Fatal, depth=None)
    assert service.clients[0].hub_close == STOPPED
    report = servers[0].report
    assert report is not None
    assert [one.name for one in report.stages] == ["offline", "hooks", "stop"]


# -- stage 3: clients -----------------------------------------------------------------------


async def test_whoever_comes_before_stage_3_is_served_and_counted(
    autojump_clock: MockClock,
) -> None:
    """Until FINACK the service may send some, and their messages stand in the line already."""
    async with serving(Chat, shutdown=WAIT, prepare=hooks(short)) as served:
        served.server.request_shutdown()
        await wait_all_tasks_blocked()
        client = served.service.open()
        assert await client.result(client.invoke("sleep", 0)) == 0
        await trio.sleep(3)
        client.leave()
        assert (await served.end()).left == 1


async def test_who_went_before_stage_3_is_not_counted(autojump_clock: MockClock) -> None:
    async with serving(Chat, shutdown=WAIT, prepare=hooks(short)) as served:
        client = await served.service.connected()
        served.server.request_shutdown()
        await wait_all_tasks_blocked()
        client.leave()
        assert (await served.end()).clients == 0


async def test_an_open_from_stage_3_on_is_refused(autojump_clock: MockClock) -> None:
    async with serving(Chat, shutdown=WAIT) as served:
        stays = await served.service.connected()
        served.server.request_shutdown()
        await wait_all_tasks_blocked()
        late = served.service.open("late")
        await wait_all_tasks_blocked()
        assert late.all == [CloseConnection("late")]
        stays.leave()
        assert (await served.end()).clients == 1


BOUND = [("asrs.s.ssticky", "Required"), ("asrs.s.sn", "A")]


async def test_a_bound_client_is_let_go_when_what_it_began_has_ended(
    autojump_clock: MockClock,
) -> None:
    """Rule 7. It is not kept until the deadline, and a hub sees no migration."""
    features: list[object] = []

    class Watch(Chat):
        async def on_disconnected(self, error: Exception | None) -> None:
            features.append(self.context.features._features)

    async with serving(Watch) as served:
        client = served.service.open(claims=BOUND)
        await served.service.until(lambda: client.responses)
        running, waiting = client.invoke("sleep", 4), client.invoke("sleep", 1)
        await wait_all_tasks_blocked()
        served.server.request_shutdown()
        await trio.sleep(2)
        late = client.invoke("sleep", 1)
        report = await served.end()
        assert await client.result(running) == 4
        assert await client.error(waiting) == TIME_IS_UP
        assert await client.error(late) == TIME_IS_UP
        assert client.hub_close == STOPPED
        assert features == [{}]
        assert stages(report)[2] == ("clients", 4, False)
        assert list(report.dropped.values()) == [1]
        assert "sticky" in next(iter(report.dropped))


async def test_an_embedded_server_has_nobody_to_move_clients_to(
    autojump_clock: MockClock,
) -> None:
    """Rule 40: rule 7 for everybody."""
    async with serving(Chat, service=ScriptedService(embedded=True)) as served:
        busy, idle = await served.service.connected("c1"), await served.service.connected("c2")
        id = busy.invoke("sleep", 3)
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert served.service.connections[0].fins == ["fin:2"]
        assert await busy.result(id) == 3
        assert busy.hub_close == idle.hub_close == STOPPED
        assert stages(report)[2] == ("clients", 3, False)
        assert sum(report.dropped.values()) == 2
        assert "one process" in next(iter(report.dropped))


async def test_clients_may_go_in_every_way_at_once(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        service = served.service
        names = ("moves", "leaves", "aborts", "stays", "bound", "breaks")
        clients = {
            name: service.open(name, claims=BOUND if name == "bound" else ()) for name in names
        }
        await service.until(lambda: all(client.responses for client in clients.values()))
        served.server.request_shutdown()
        await trio.sleep(1)
        clients["moves"].move()
        clients["leaves"].leave()
        clients["aborts"].invoke("abort")
        clients["breaks"].send_bytes(b"?\x1e")
        report = await served.end()
        assert (report.migrated, report.left, report.aborted) == (1, 1, 2)
        assert sorted(report.dropped.values()) == [1, 1]
        assert report.clients == len(names)


@pytest.mark.parametrize("moving", [True, False])
async def test_a_call_that_never_ends_is_cancelled_when_time_is_up(
    autojump_clock: MockClock, moving: bool
) -> None:
    """Rule 29: and then the client still migrates, if it was asked to."""
    aborted: list[bool] = []

    class Endless(Hub):
        async def forever(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                aborted.append(self.context.aborted.is_set())

    async with serving(Endless) as served:
        served.service.migrates_to = "B" if moving else None
        client = await served.service.connected()
        running, waiting = client.invoke("forever"), client.invoke("forever")
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert stages(report)[2:] == [("clients", 30, True), ("stop", 0, False)]
        assert await client.error(running) == TIME_IS_UP
        assert await client.error(waiting) == TIME_IS_UP
        assert aborted == [True]
        assert bool(client.releases) == moving
        assert report.migrated == moving


async def test_aborted_is_not_set_by_the_close_that_moves(autojump_clock: MockClock) -> None:
    """Rule 15: it is set when the client has gone, or when time is up."""
    seen: list[bool] = []

    class Watch(Hub):
        async def work(self) -> None:
            for _ in range(2):
                await trio.sleep(5)
                seen.append(self.context.aborted.is_set())

    async with serving(Watch) as served:
        client = await served.service.connected()
        client.invoke("work")
        await wait_all_tasks_blocked()
        client.move()
        await trio.sleep(7)
        client.leave()
        await client.released()
        assert seen == [False, True]


async def test_the_loss_of_its_connection_lets_a_client_go(autojump_clock: MockClock) -> None:
    async with serving(Chat, connections=2) as served:
        client = await served.service.connected()
        client.invoke("sleep", 3)
        served.server.request_shutdown()
        await trio.sleep(1)
        await served.service.connections[0].lose()
        report = await served.end()
        assert stages(report)[2] == ("clients", 3, False)
        assert report.left == 1


# -- stage 4: stop --------------------------------------------------------------------------


async def test_on_disconnected_that_never_ends_ends_with_stage_4(
    autojump_clock: MockClock,
) -> None:
    class Endless(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep_forever()

    async with serving(Endless) as served:
        served.service.migrates_to = "B"
        client = await served.service.connected()
        began = trio.current_time()
        report = await served.shut_down()
        assert 30 < served.ended_at - began <= 35
        assert report.dropped == {"on_disconnected did not end in time": 1}
        assert client.hub_close == STOPPED
        assert not client.releases


async def test_on_connected_that_never_ends_ends_with_stage_4(autojump_clock: MockClock) -> None:
    class Endless(Hub):
        async def on_connected(self) -> None:
            await trio.sleep_forever()

    async with serving(Endless) as served:
        client = await served.service.connected()
        report = await served.shut_down()
        assert report.dropped == {"on_connected did not end in time": 1}
        assert client.hub_close == STOPPED


async def test_a_client_in_its_handshake_is_told_in_the_response(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat, shutdown=OFF) as served:
        client = served.service.open(shakes=False)
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert client.responses == [STOPPED.error]
        assert client.hub_closes == []
        assert client.ends
        assert report.dropped == {"the time to leave was up": 1}


async def test_what_is_in_line_goes_out_before_the_connection_is_closed(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat, shutdown=OFF) as served:
        client = await served.service.connected()
        id = client.invoke("forever")
        await wait_all_tasks_blocked()
        connection = served.service.connections[0]
        served.service.answers_fin = False
        served.server.request_shutdown()
        await wait_all_tasks_blocked()
        connection.stop_reading()
        await served.end()
        connection.read_on()
        assert await client.error(id) == TIME_IS_UP
        await client.ended()


# -- from outside ---------------------------------------------------------------------------


async def test_a_second_request_skips_to_stage_4(autojump_clock: MockClock) -> None:
    """In stage 1, 2 and 3."""
    for stage in ("offline", "hooks", "clients"):
        async with serving(Chat, prepare=hooks(hang if stage == "hooks" else short)) as served:
            served.service.answers_fin = stage != "offline"
            client = await served.service.connected()
            began = trio.current_time()
            served.server.request_shutdown()
            await trio.sleep(3)
            served.server.stop_now()
            report = await served.end()
            assert served.ended_at - began == 3
            assert [one.name for one in report.stages][-2:] == [stage, "stop"]
            assert not any(one.timed_out for one in report.stages)
            assert client.hub_close == STOPPED
            assert report.dropped == {"the time to leave was up": 1}


async def test_stop_now_alone_is_a_shutdown_without_patience(autojump_clock: MockClock) -> None:
    async with serving(Chat, prepare=hooks(hang)) as served:
        client = await served.service.connected()
        began = trio.current_time()
        served.server.stop_now()
        await served.end()
        assert served.ended_at == began
        assert client.hub_close == STOPPED
        assert served.service.connections[0].fins, "the service picks this server no more"


@pytest.mark.parametrize("stage", ["serving", "offline", "hooks", "clients"])
async def test_cancelled_it_goes_to_stage_4_and_lets_the_cancellation_pass(
    autojump_clock: MockClock, stage: str
) -> None:
    ended: list[str] = []

    class Watch(Chat):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep(1)
            ended.append(self.context.connection_id)

    async def hook(context: HubContext) -> None:
        if stage == "hooks":
            await trio.sleep_forever()

    def register(server: HubServer) -> None:
        server.on_shutdown(Watch)(hook)

    async with serving(Watch, prepare=register) as served:
        service = served.service
        service.answers_fin = stage != "offline"
        client = await service.connected()
        id = client.invoke("forever")
        if stage != "serving":
            served.server.request_shutdown()
        await trio.sleep(2)
        began = trio.current_time()
        served.scope.cancel()
        await served.ended.wait()
        assert served.scope.cancelled_caught
        assert served.ended_at - began == 1
        assert await client.error(id) == TIME_IS_UP
        assert client.hub_close == STOPPED
        assert ended == ["c1"]
        report = served.server.report
        assert report is not None
        before = [] if stage == "serving" else ["offline", "hooks", "clients"]
        expected = before[: before.index(stage) + 1] if before else []
        assert [one.name for one in report.stages] == [*expected, "stop"]
        assert report.clients == 1
        assert len(service.attempts) == 1, "no connection is made again"


async def test_cancelled_it_makes_no_lost_connection_again(autojump_clock: MockClock) -> None:
    class Slow(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep(3)

    async with serving(Slow, connections=2) as served:
        await served.service.connected()
        served.scope.cancel()
        await trio.sleep(1)
        await served.service.connections[1].lose()
        await served.ended.wait()
        assert len(served.service.attempts) == 2


async def test_cancelled_it_is_still_taken_offline(autojump_clock: MockClock) -> None:
    """Else those who were just dropped would be sent here again."""

    class Slow(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep(3)

    async with serving(Slow) as served:
        await served.service.connected()
        served.scope.cancel()
        await served.ended.wait()
        assert served.service.connections[0].fins == ["fin:0"]


async def test_cancelled_before_it_has_started(autojump_clock: MockClock) -> None:
    service = ScriptedService()
    service.hangs = True
    async with service.running():
        server = HubServer("")
        server.map(Chat, "/chat")
        with trio.move_on_after(1) as scope:
            await server.run(service.connect)
        assert scope.cancelled_caught
        assert trio.current_time() == 1
        assert (await server.shutdown()).clients == 0


async def test_shutdown_joins_one_that_runs(autojump_clock: MockClock) -> None:
    reports: list[ShutdownReport] = []
    async with serving(Chat, prepare=hooks(short)) as served:

        async def shut_down(after: float) -> None:
            await trio.sleep(after)
            reports.append(await served.server.shutdown())

        async with trio.open_nursery() as nursery:
            for after in (0, 0, 0.5, 5):
                nursery.start_soon(shut_down, after)
        assert all(report is served.report for report in reports)
        assert [one.name for one in reports[0].stages] == ["offline", "hooks", "clients", "stop"]


async def test_shutdown_in_a_hook_or_a_method_raises(autojump_clock: MockClock) -> None:
    raised: list[str] = []
    servers: list[HubServer] = []

    async def ask(where: str) -> None:
        with pytest.raises(ShutdownError, match=r"request_shutdown\(\)"):
            await servers[0].shutdown()
        raised.append(where)

    class Restarter(Hub):
        async def on_connected(self) -> None:
            await ask("on_connected")

        async def on_disconnected(self, error: Exception | None) -> None:
            await ask("on_disconnected")

        async def restart(self) -> None:
            await ask("method")

        async def count(self):
            await ask("stream")
            yield 1

    def register(server: HubServer) -> None:
        servers.append(server)
        server.on_shutdown(Restarter)(lambda context: ask("hook"))

    async with serving(Restarter, prepare=register) as served:
        served.service.migrates_to = "B"
        client = await served.service.connected()
        await client.result(client.invoke("restart"))
        await client.completion(client.stream("count"))
        assert not served.server.draining
        await served.shut_down()
        assert raised == ["on_connected", "method", "stream", "hook", "on_disconnected"]


async def test_a_method_may_ask_for_a_shutdown(autojump_clock: MockClock) -> None:
    servers: list[HubServer] = []

    class Restarter(Hub):
        async def restart(self) -> str:
            servers[0].request_shutdown()
            return "as you like"

    async with serving(Restarter, prepare=servers.append) as served:
        served.service.migrates_to = "B"
        client = await served.service.connected()
        assert await client.result(client.invoke("restart")) == "as you like"
        assert (await served.end()).migrated == 1


# -- the service goes -----------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["offline", "hooks", "clients"])
async def test_if_the_service_vanishes_the_shutdown_ends_with_what_still_runs(
    autojump_clock: MockClock, stage: str
) -> None:
    async with serving(
        Chat, connections=2, prepare=hooks(short, short, short) if stage == "hooks" else hooks()
    ) as served:
        service = served.service
        service.answers_fin = stage != "offline"
        client = await service.connected()
        client.invoke("sleep", 4)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        served.server.request_shutdown()
        await trio.sleep(2)
        await service.vanish()
        report = await served.end()
        assert served.ended_at - began == 4
        assert report.left == 1
        assert len(service.attempts) == 2


# -- the report -----------------------------------------------------------------------------


async def test_the_report_can_be_read(autojump_clock: MockClock) -> None:
    async with serving(Chat, shutdown=WAIT, prepare=hooks(short)) as served:
        await served.service.connected("c1")
        leaves = await served.service.connected("c2")
        leaves.leave()
        await wait_all_tasks_blocked()
        report = await served.shut_down()
        assert str(report) == (
            "wait_for_clients_close: offline 0.000 s, hooks 1.000 s, clients 29.000 s (timed out), "
            "stop 0.000 s; clients migrated 0, left 0, aborted 0, "
            "dropped 1: the time to leave was up"
        )
        assert report.duration == 30


async def test_the_report_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(Chat) as served:
        report = await served.shut_down()
    assert f"shut down: {report}" in caplog.text
