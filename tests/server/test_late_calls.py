"""Calls that arrive while the last stage cancels those before them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
from harness.scripted_service import serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import GracefulShutdown, Hub

OFF = GracefulShutdown("off")
TIME_IS_UP = "The hub server is shutting down and this call did not end in time."


class Chat(Hub):
    async def forever(self) -> AsyncIterator[int]:
        await trio.sleep_forever()
        yield 1


class SlowToLeave(Chat):
    async def on_disconnected(self, error: Exception | None) -> None:
        await trio.sleep(1)


async def test_a_call_that_comes_during_on_disconnected_is_told(
    autojump_clock: MockClock,
) -> None:
    async with serving(SlowToLeave, shutdown=OFF) as served:
        client = await served.service.connected()
        served.server.request_shutdown()
        await trio.sleep(0.5)
        late = client.stream("forever")
        assert await client.error(late) == TIME_IS_UP
        await served.end()
        assert len(client.completions(late)) == 1


async def test_streams_that_come_at_any_moment_of_the_end_do_no_harm(
    autojump_clock: MockClock,
) -> None:
    """In each step of it, for many clients: the one step in which a nursery is closed and its
    owner does not know it yet is short."""
    async with serving(Chat, shutdown=OFF) as served:
        clients = [await served.service.connected(f"c{index}") for index in range(30)]
        for client in clients:
            client.stream("forever")
        await wait_all_tasks_blocked()
        served.server.request_shutdown()
        for step in range(30):
            for client in clients[step % 2 :: 2]:
                client.stream("forever")
            await trio.lowlevel.checkpoint()
        report = await served.end()
        assert sum(report.dropped.values()) == len(clients)
