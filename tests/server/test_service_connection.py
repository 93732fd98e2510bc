"""The server connections of a hub server: made, kept up, and what is said on them."""

from __future__ import annotations

import itertools
import random

import pytest
import trio
from harness.scripted_service import ScriptedService, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import ConfigurationError, GracefulShutdown, Hub, HubOptions, HubServer
from signalr_trio.connection_string import parse_connection_string
from signalr_trio.link.connect import websocket_connector
from signalr_trio.protocol.service_messages import (
    Ack,
    ConnectionType,
    HandshakeRequest,
    MigrationLevel,
    OpenConnection,
    Ping,
    ServiceEvent,
)
from signalr_trio.transport.stream import Flusher


class Chat(Hub):
    pass


class News(Hub):
    pass


# -- beginning ------------------------------------------------------------------------------


async def test_each_hub_has_its_connections(autojump_clock: MockClock) -> None:
    async with serving(Chat, News, connections=2) as served:
        connections = served.service.connections
        assert sorted(one.hub for one in connections) == ["chat", "chat", "news", "news"]
        assert len({one.id for one in connections}) == 4


@pytest.mark.parametrize(
    ("mode", "level"),
    [
        ("migrate_clients", MigrationLevel.SHUTDOWN_ONLY),
        ("wait_for_clients_close", MigrationLevel.OFF),
        ("off", MigrationLevel.OFF),
    ],
)
async def test_the_handshake_says_whether_clients_may_be_moved(
    autojump_clock: MockClock, mode: str, level: MigrationLevel
) -> None:
    async with serving(Chat, shutdown=GracefulShutdown(mode)) as served:
        (request,) = served.service.received(HandshakeRequest)
        assert request == HandshakeRequest(1, ConnectionType.DEFAULT, None, level, True)


async def test_it_has_started_when_each_connection_was_tried_once(
    autojump_clock: MockClock,
) -> None:
    """A service that is not there yet keeps no server from starting."""
    service = ScriptedService()
    service.refuses = True
    async with serving(Chat, service=service, connections=3):
        assert len(service.attempts) == 3


async def test_of_a_service_that_is_not_there_each_hub_is_told_once_an_attempt(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        found = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        caplog.clear()
        return found

    service = ScriptedService()
    service.refuses = True
    async with serving(Chat, service=service, connections=3):
        assert len(service.attempts) == 3
        (warning,) = warnings()
        assert "hub chat> cannot be made: " in warning
        await trio.sleep(2.5)
        assert len(service.attempts) == 6
        assert len(warnings()) == 1
        service.refuses = False
        # Long enough for each to have lasted: what has lasted is made again at once.
        await trio.sleep(100)
        service.refuses = True
        lost = service.connections[1:]
        for connection in lost:
            await connection.lose()
        await trio.sleep(0.5)
        told = [warning for warning in warnings() if "cannot be made" in warning]
        assert len(told) == len(lost) == 2
        assert all(any(connection.id in warning for warning in told) for connection in lost)


async def test_a_server_runs_once(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        with pytest.raises(RuntimeError, match="runs once"):
            await served.server.run(served.service.connect)


async def test_what_is_no_answer_to_the_handshake_ends_the_attempt(
    autojump_clock: MockClock,
) -> None:
    service = ScriptedService()
    service.answers_handshake = False
    async with trio.open_nursery() as nursery, service.running():
        server = HubServer("", options=HubOptions(server_connections=1))
        server.map(Chat, "/chat")
        nursery.start_soon(server.run, service.connect)
        await wait_all_tasks_blocked()
        service.connections[0].send(OpenConnection("c1"))
        await wait_all_tasks_blocked()
        assert service.connections[0].lost
        nursery.cancel_scope.cancel()


# -- again ----------------------------------------------------------------------------------


async def attempts(service: ScriptedService, seconds: float) -> list[float]:
    await trio.sleep(seconds)
    return service.attempts


def gaps(times: list[float]) -> list[float]:
    return [later - one for one, later in itertools.pairwise(times)]


async def test_a_lost_connection_is_made_again_at_once_and_then_ever_later(
    autojump_clock: MockClock,
) -> None:
    """1, 2, 4 .. 60 s, plus up to a second."""
    async with serving(Chat) as served:
        await trio.sleep(100)
        await served.service.vanish()
        times = (await attempts(served.service, 300))[1:]
        assert times[0] == 100
        waits = gaps(times)
        for wait, least in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60], strict=False):
            assert least <= wait <= least + 1
        assert len(waits) >= 8
        served.service.refuses = False
        await served.service.until(lambda: len(served.service.connections) == 2)


async def test_the_delay_begins_anew_when_the_connection_was_up(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        await served.service.vanish()
        await trio.sleep(100)
        served.service.refuses = False
        await served.service.until(lambda: len(served.service.connections) == 2)
        # Not a second sharp: times of the clock are floats, and this one began at random.
        await trio.sleep(2)
        at = trio.current_time()
        await served.service.vanish()
        times = [time for time in await attempts(served.service, 5) if time >= at]
        assert times[0] == at
        assert 1 <= times[1] - at <= 2


async def test_a_service_that_ends_each_connection_is_not_stormed(
    autojump_clock: MockClock,
) -> None:
    """One that was up for a moment only is no better than one that could not be made."""
    service = ScriptedService()

    async def end_each() -> None:
        for number in itertools.count():
            await service.until(lambda count=number: service.received(HandshakeRequest)[count:])
            await service.connections[number].lose()

    async with serving(Chat, service=service), trio.open_nursery() as nursery:
        nursery.start_soon(end_each)
        await trio.sleep(60)
        assert [int(gap) for gap in gaps(service.attempts)][:5] == [1, 2, 4, 8, 16]
        nursery.cancel_scope.cancel()


async def test_what_no_attempt_can_mend_ends_the_server(autojump_clock: MockClock) -> None:
    """The name of a host that is not encoded, for one."""
    endpoint = parse_connection_string("Endpoint=http://b\u00fccher.test;AccessKey=" + 40 * "k")
    server = HubServer("", options=HubOptions(server_connections=1))
    server.map(Chat, "/chat")
    connector = websocket_connector(
        endpoint, server_id=server.server_id, instance="i", flusher=Flusher()
    )
    with pytest.raises(ExceptionGroup) as raised, trio.fail_after(100):
        await server.run(connector)
    assert raised.group_contains(ConfigurationError, match="percent-encode")


@pytest.mark.parametrize("id", ["caf\u00e9", "\u4e2d", "a\r\nb", " a", ""], ids=repr)
def test_a_server_id_that_is_no_header_is_refused(id: str) -> None:
    endpoint = parse_connection_string("Endpoint=http://service.test;AccessKey=" + 40 * "k")
    with pytest.raises(ConfigurationError, match="server id"):
        websocket_connector(endpoint, server_id=id, instance="i", flusher=Flusher())


async def test_connections_do_not_come_back_in_step(autojump_clock: MockClock) -> None:
    service = ScriptedService()
    service.refuses = True
    async with service.running(), trio.open_nursery() as nursery:
        server = HubServer("", chance=random.Random(7))
        server.map(Chat, "/chat")
        nursery.start_soon(server.run, service.connect)
        await trio.sleep(2.5)
        assert service.attempts[:5] == [0] * 5
        assert len(set(service.attempts[5:])) == 5
        nursery.cancel_scope.cancel()


async def test_a_refused_handshake_is_tried_again_later(autojump_clock: MockClock) -> None:
    service = ScriptedService()
    service.handshake_error = "not you"
    async with serving(Chat, service=service):
        times = await attempts(service, 10)
        assert [int(gap) for gap in gaps(times)] == [1, 2, 4]


async def test_a_handshake_without_answer_is_given_up_after_15_s(
    autojump_clock: MockClock,
) -> None:
    service = ScriptedService()
    service.answers_handshake = service.pings = False
    async with serving(Chat, service=service):
        assert trio.current_time() == 15
        assert service.connections[0].lost


async def test_clients_of_a_lost_connection_are_gone(autojump_clock: MockClock) -> None:
    ended: list[tuple[str, bool]] = []

    class Watch(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            ended.append((self.context.connection_id, self.context.aborted.is_set()))

    async with serving(Watch, connections=2) as served:
        first, second = served.service.connections
        one = served.service.open("c1", connection=first)
        other = served.service.open("c2", connection=second)
        await served.service.until(lambda: one.responses and other.responses)
        await first.lose()
        await wait_all_tasks_blocked()
        assert ended == [("c1", True)]


# -- alive ----------------------------------------------------------------------------------


async def test_30_s_of_silence_end_a_connection(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        connection = served.service.connections[0]
        served.service.pings = False
        await trio.sleep(7)
        connection.send(Ping())
        await trio.sleep(29.9)
        assert not connection.lost
        await trio.sleep(0.2)
        assert connection.lost
        assert len(served.service.connections) == 2


async def test_it_pings_when_it_hears_something_but_seldom(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        connection = served.service.connections[0]
        served.service.pings = False
        before = len(connection.received(Ping))
        await trio.sleep(20)
        assert len(connection.received(Ping)) == before
        for _ in range(3):
            connection.send(Ping())
            await wait_all_tasks_blocked()
        assert len(connection.received(Ping)) == before + 1


@pytest.mark.parametrize("agreed", [True, False])
async def test_hub_pings_are_sent_where_the_service_leaves_them_to_us(
    autojump_clock: MockClock, agreed: bool
) -> None:
    async with serving(Chat, service=ScriptedService(agreed=agreed)) as served:
        client = await served.service.connected()
        await trio.sleep(31)
        assert client.pings == (0 if agreed else 2)


async def test_no_hub_ping_comes_before_the_handshake_response(autojump_clock: MockClock) -> None:
    """Clients take the first message for the response."""
    async with serving(Chat, service=ScriptedService(agreed=False)) as served:
        await trio.sleep(10)
        client = served.service.open("c1", shakes=False)
        await trio.sleep(10)
        assert client.all == []
        client.shake()
        await served.service.until(lambda: client.responses)
        await trio.sleep(15)
        assert client.pings == 1


# -- pings that mean something --------------------------------------------------------------


async def test_an_echo_is_sent_back(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        connection = served.service.connections[0]
        connection.send(Ping.of("echo", "12"))
        await served.service.until(lambda: Ping.of("echo", "12") in connection.received(Ping))


async def test_one_more_connection_is_made_when_the_service_asks_for_it(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat) as served:
        service = served.service
        service.connections[0].send(Ping.of("target", "instance7"))
        request = await service.message(HandshakeRequest, 2)
        assert request.connection_type == ConnectionType.ON_DEMAND
        assert request.target == service.connections[1].target == "instance7"
        await service.connections[1].lose()
        await trio.sleep(10)
        assert len(service.connections) == 2, "it is not made again"


async def test_connections_on_demand_are_bounded_by_those_there_are(
    autojump_clock: MockClock,
) -> None:
    async with serving(Chat, options=HubOptions(max_server_connections=3)) as served:
        service = served.service
        for _ in range(4):
            service.connections[0].send(Ping.of("target", "x"))
        await wait_all_tasks_blocked()
        assert len(service.connections) == 3
        await service.connections[1].lose()
        await wait_all_tasks_blocked()
        service.connections[0].send(Ping.of("target", "x"))
        await wait_all_tasks_blocked()
        assert len(service.connections) == 4


@pytest.mark.parametrize(("instance", "gone"), [("i1", ["c1"]), ("", ["c1", "c2"])])
async def test_clients_of_a_service_instance_that_went_are_gone(
    autojump_clock: MockClock, instance: str, gone: list[str]
) -> None:
    ended: list[str] = []

    class Watch(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            ended.append(self.context.connection_id)

    async with serving(Watch, connections=2) as served:
        service = served.service
        first, second = service.connections
        service.open("c1", headers={"Asrs-Instance-Id": ["i1"]})
        service.open("c2", headers={"asrs-instance-id": ["i2"]})
        service.open("c3", headers={"Asrs-Instance-Id": ["i1"]}, connection=second)
        await wait_all_tasks_blocked()
        first.send(Ping.of("offline", instance))
        await wait_all_tasks_blocked()
        assert sorted(ended) == gone


async def test_messages_that_mean_nothing_here_are_passed_over(autojump_clock: MockClock) -> None:
    async with serving(Chat) as served:
        connection = served.service.connections[0]
        connection.send(ServiceEvent(0, "x", 0, "reloading"))
        connection.send(Ping.of("status", "1"))
        connection.send(Ack(99, 1))
        connection.send(Ping.of("echo", "still here"))
        await served.service.until(
            lambda: Ping.of("echo", "still here") in connection.received(Ping)
        )
