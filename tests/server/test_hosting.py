"""``serve``: signals, and how a hub server is started."""

from __future__ import annotations

import signal
from collections.abc import Generator
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from signalr_trio import ConfigurationError, GracefulShutdown, Hub, HubContext, HubServer, serve


class Chat(Hub):
    pass


def server_with_a_hook_that_hangs() -> HubServer:
    server = HubServer(shutdown=GracefulShutdown("migrate_clients", timeout=30))
    server.map(Chat, "/chat")

    @server.on_shutdown(Chat)
    async def hang(context: HubContext) -> None:
        await trio.sleep_forever()

    return server


@pytest.fixture
def own_handlers() -> Generator[list[int]]:
    """Signals that came when the server no longer took them."""
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in numbers]
    yield came
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_begins_the_graceful_shutdown(
    autojump_clock: MockClock, own_handlers: list[int], number: signal.Signals
) -> None:
    server = server_with_a_hook_that_hangs()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, server, port=None))
        signal.raise_signal(number)
    assert server.report is not None
    assert [(one.name, one.duration) for one in server.report.stages] == [
        ("offline", 0),
        ("hooks", 15),
        ("clients", 0),
        ("stop", 0),
    ]
    assert own_handlers == []


async def test_a_pair_of_signals_is_one(autojump_clock: MockClock, own_handlers: list[int]) -> None:
    """Terminals and supervisors send pairs."""
    server = server_with_a_hook_that_hangs()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, server, port=None))
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(0.9)
        signal.raise_signal(signal.SIGTERM)
    assert trio.current_time() == 15


async def test_a_second_signal_stops_now_and_a_third_is_not_ours(
    autojump_clock: MockClock, own_handlers: list[int]
) -> None:
    server = server_with_a_hook_that_hangs()

    class Slow(Hub):
        pass

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, server, port=None))
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(1)
        signal.raise_signal(signal.SIGINT)
    assert trio.current_time() == 1
    assert server.report is not None
    assert [one.name for one in server.report.stages] == ["offline", "hooks", "stop"]
    signal.raise_signal(signal.SIGTERM)
    assert own_handlers == [signal.SIGTERM]


async def test_without_signals_the_handlers_stay(
    autojump_clock: MockClock, own_handlers: list[int]
) -> None:
    server = server_with_a_hook_that_hangs()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, server, port=None, signals=False))
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(1)
        assert own_handlers == [signal.SIGTERM]
        assert not server.draining
        nursery.cancel_scope.cancel()


async def test_the_report_is_returned(autojump_clock: MockClock) -> None:
    server = HubServer()
    server.map(Chat, "/chat")
    server.request_shutdown()
    assert await serve(server, port=None, signals=False) is server.report


async def test_a_connection_string_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        await serve(HubServer("nonsense"), port=None, signals=False)


async def test_a_port_that_is_taken_is_refused() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await serve(HubServer(), port=port, signals=False)
