"""P10: after any shutdown the process has no task, socket or timer of this project left.

The property test of P7 checks it as well, for whatever can go wrong in memory; here are the ways
to end, one by one, and real sockets.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from harness.scripted_service import ScriptedService, Served, living_tasks, nothing_left, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import GracefulShutdown, Hub, HubContext, HubServer, open_service, serve

PATIENCE = 20
"""Real seconds, for what takes milliseconds."""


class Work(Hub):
    async def forever(self) -> None:
        await trio.sleep_forever()


async def shut_down(served: Served) -> None:
    served.server.request_shutdown()


async def stop_now(served: Served) -> None:
    served.server.stop_now()


async def cancel(served: Served) -> None:
    served.scope.cancel()


async def vanish(served: Served) -> None:
    await served.service.vanish()
    served.server.request_shutdown()


@pytest.mark.parametrize("mode", ["off", "wait_for_clients_close", "migrate_clients"])
@pytest.mark.parametrize("way", [shut_down, stop_now, cancel, vanish])
async def test_p10_no_task_and_no_timer_is_left(
    autojump_clock: MockClock, mode: str, way: Callable[[Served], Awaitable[None]]
) -> None:
    async with (
        nothing_left(),
        serving(Work, shutdown=GracefulShutdown(mode), connections=3) as served,
    ):
        served.service.migrates_to = "B"
        for number in range(6):
            connection = served.service.connections[number % 3]
            client = served.service.open(f"c{number}", connection=connection)
            client.invoke("forever")
            client.invoke("forever")
        await wait_all_tasks_blocked()
        await way(served)
        await served.ended.wait()
        await served.service.until(
            lambda: all(connection.lost for connection in served.service.connections)
        )


async def test_p10_the_server_leaves_nothing_while_its_service_lives_on(
    autojump_clock: MockClock,
) -> None:
    """What is left then is the service's: one task that pings each connection would be a leak."""
    service = ScriptedService()
    async with service.running(), nothing_left():
        server = HubServer("", shutdown=GracefulShutdown("migrate_clients"))
        server.map(Work, "/work")
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, service.connect)
            client = service.open()
            client.invoke("forever")
            await wait_all_tasks_blocked()
            server.request_shutdown()


async def test_p10_a_hook_that_ends_the_server_with_an_error_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    class Fatal(BaseException):
        pass

    async def fatal(context: HubContext) -> None:
        raise Fatal

    async def run() -> None:
        async with serving(Work, prepare=lambda one: one.on_shutdown(Work)(fatal)) as served:
            await served.service.connected()
            served.server.request_shutdown()
            await trio.sleep_forever()

    async with nothing_left():
        with pytest.raises(BaseExceptionGroup) as raised:
            await run()
        assert raised.group_contains(Fatal, depth=None)


async def test_p10_a_client_that_went_leaves_nothing(autojump_clock: MockClock) -> None:
    async with serving(Work) as served:
        await wait_all_tasks_blocked()
        before = living_tasks()
        client = await served.service.connected()
        id = client.invoke("forever")
        await wait_all_tasks_blocked()
        assert len(living_tasks()) > len(before)
        client.invoke("nosuch")
        client.stream("nosuch")
        client.leave()
        served.server.hubs[0].clients["c1"].context.abort()
        await wait_all_tasks_blocked()
        assert not client.completions(id)
        (alive,) = living_tasks() - before
        assert "ClientConnection" in alive.name, "its call runs to its end, and then"
        served.server.stop_now()
        await served.end()
        assert served.server.hubs[0].clients == {}


# -- real sockets ---------------------------------------------------------------------------


def open_sockets() -> set[int]:
    gc.collect()
    return {
        id(one)
        for one in gc.get_objects()
        if issubclass(type(one), socket.socket) and one.fileno() != -1
    }


@asynccontextmanager
async def no_socket_left() -> AsyncGenerator[None]:
    sockets, tasks = open_sockets(), living_tasks()
    yield
    await wait_all_tasks_blocked()
    assert {task.name for task in living_tasks() - tasks} == set()
    assert open_sockets() <= sockets


NEGOTIATE = b"POST /work/negotiate HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


async def ask(port: int) -> trio.SocketStream:
    """A connection that has been answered once, and stays open."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(NEGOTIATE)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    return stream


async def refused(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return True
    await stream.aclose()
    return False


async def close_after(stream: trio.SocketStream) -> None:
    async with stream:
        while await stream.receive_some():
            pass


def server_of(connection_string: str | None) -> HubServer:
    server = HubServer(connection_string, shutdown=GracefulShutdown("migrate_clients"))
    server.map(Work, "/work")
    return server


async def test_p10_an_embedded_server_closes_its_port_and_its_connections() -> None:
    with trio.fail_after(PATIENCE):
        async with no_socket_left():
            server = server_of(None)
            async with trio.open_nursery() as nursery:
                port = await nursery.start(partial(serve, server, port=0, signals=False))
                stream = await ask(port)
                await server.shutdown()
                await close_after(stream)
            assert await refused(port)


async def test_p10_a_server_and_its_service_leave_no_socket() -> None:
    with trio.fail_after(PATIENCE):
        async with no_socket_left():
            async with open_service(port=0) as service:
                server = server_of(service.connection_string)
                async with trio.open_nursery() as nursery:
                    port = await nursery.start(partial(serve, server, port=0, signals=False))
                    stream = await ask(port)
                    await server.shutdown()
                    await close_after(stream)
                assert await refused(port)
            assert await refused(service.port)


@pytest.mark.parametrize("embedded", [True, False])
async def test_p10_a_cancelled_server_leaves_no_socket(embedded: bool) -> None:
    with trio.fail_after(PATIENCE):
        async with no_socket_left(), open_service(port=0) as service:
            server = server_of(None if embedded else service.connection_string)
            async with trio.open_nursery() as nursery:
                port = await nursery.start(partial(serve, server, port=0, signals=False))
                stream = await ask(port)
                nursery.cancel_scope.cancel()
            await close_after(stream)
            assert await refused(port)


async def test_p10_a_server_that_cannot_begin_leaves_no_socket() -> None:
    """Signals can be received in the main thread alone."""
    failures: list[BaseException] = []

    def run_elsewhere() -> None:
        try:
            trio.run(partial(serve, server_of(None), port=0))
        except BaseException as failure:
            failures.append(failure)

    async with no_socket_left():
        await trio.to_thread.run_sync(run_elsewhere)
        assert "main thread" in repr(failures)
