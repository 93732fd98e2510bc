"""``serve``: signals, and how a hub server is started."""

from __future__ import annotations

import signal
import socket
from collections.abc import Generator
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from signalr_trio import (
    ConfigurationError,
    GracefulShutdown,
    Hub,
    HubContext,
    HubServer,
    open_service,
    serve,
)
from signalr_trio.transport.http_client import http_request


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


# -- the port ---------------------------------------------------------------------------------


async def health(
    port: int | None, *, origin: str = "http://a", path: str = "/api/health"
) -> tuple[int, str | None]:
    url = f"http://127.0.0.1:{port}{path}"
    response = await http_request("GET", url, headers=[("Origin", origin)])
    return response.status, response.header("access-control-allow-origin")


async def test_health_is_200_until_the_shutdown_begins() -> None:
    server = HubServer(shutdown=GracefulShutdown("wait_for_clients_close"))
    server.map(Chat, "/chat")
    found: list[tuple[int, str | None]] = []

    async with trio.open_nursery() as nursery:

        @server.on_shutdown(Chat)
        async def ask(context: HubContext) -> None:
            found.append(await health(port))

        serving = partial(serve, server, port=0, signals=False, origins=["http://a"])
        port: int | None = await nursery.start(serving)
        assert await health(port) == (200, "http://a")
        assert await health(port, origin="http://b") == (200, None)
        assert await health(port, path="/API/Health/") == (200, "http://a")
        await server.shutdown()
    assert found == [(503, "http://a")]


async def test_health_is_503_without_a_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = unused.getsockname()[1]
    server = HubServer(f"Endpoint=http://127.0.0.1;Port={nobody};AccessKey={'k' * 32}")
    server.map(Chat, "/chat")
    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve, server, port=0, signals=False))
        assert await health(port) == (503, None)
        await server.shutdown()


async def test_a_wrong_access_key_is_named_as_what_may_be_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_service(port=0) as running, trio.open_nursery() as nursery:
        string = f"Endpoint=http://127.0.0.1;Port={running.port};AccessKey={'k' * 32}"
        server = HubServer(string)
        server.map(Chat, "/chat")
        await nursery.start(partial(serve, server, port=None, signals=False))
        await server.shutdown()
    assert "status 401: another access key than the service's" in caplog.text
