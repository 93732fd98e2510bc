"""When a client has a task, and that nothing is lost where it has none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar

import pytest
import trio
from harness.scripted_service import ScriptedService, Served, living_tasks, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import GracefulShutdown, Hub
from signalr_trio.server.client_tasks import ClientTasks

A_WHILE = 30
"""Seconds after which an idle task has been let go."""
SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


class Quiet(Hub):
    async def echo(self, value: str) -> str:
        return value

    async def whoami(self) -> int:
        return id(trio.lowlevel.current_task())


class Watched(Quiet):
    events: list[str]

    def __init_subclass__(cls) -> None:
        cls.events = []

    async def on_connected(self) -> None:
        self.events.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        await trio.sleep(1)
        self.events.append(f"disconnected, seen {SEEN.get()}")

    async def stream(self) -> AsyncIterator[int]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            self.events.append("stream ended")

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.events.append("waited")


@pytest.fixture
def watched() -> type[Watched]:
    class Fresh(Watched):
        pass

    return Fresh


@pytest.mark.parametrize("hub", [Quiet, Watched])
async def test_a_client_at_rest_has_no_task(autojump_clock: MockClock, hub: type[Hub]) -> None:
    if hub is Watched:

        class hub(Watched):
            pass

    async with serving(hub) as served:
        await wait_all_tasks_blocked()
        before = living_tasks()
        shaking = served.service.open("shaking", shakes=False)
        clients = [await served.service.connected(f"c{number}") for number in range(5)]
        await wait_all_tasks_blocked()
        assert living_tasks() == before, "not while it has not asked for anything"
        assert await clients[0].result(clients[0].invoke("echo", "x")) == "x"
        await wait_all_tasks_blocked()
        assert len(living_tasks() - before) == 1, "a little while after a call"
        await trio.sleep(A_WHILE)
        assert living_tasks() == before
        assert shaking.responses == ["Handshake was canceled."]
        assert await clients[0].result(clients[0].invoke("echo", "y")) == "y"


async def test_a_client_that_calls_again_and_again_keeps_its_task(
    autojump_clock: MockClock,
) -> None:
    async with serving(Quiet) as served:
        one, other = await served.service.connected("c1"), await served.service.connected("c2")
        first = await one.result(one.invoke("whoami"))
        for _ in range(A_WHILE):
            await trio.sleep(1)
            assert await one.result(one.invoke("whoami")) == first
            assert await other.result(other.invoke("whoami")) != first


async def shut_down(served: Served) -> None:
    served.server.request_shutdown()


async def stop_now(served: Served) -> None:
    served.server.stop_now()


async def cancel(served: Served) -> None:
    served.scope.cancel()


@pytest.mark.parametrize("way", [shut_down, stop_now, cancel])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("rests", [False, True])
async def test_a_client_at_rest_ends_in_order_when_the_server_stops(
    autojump_clock: MockClock,
    watched: type[Watched],
    way: Callable[[Served], Awaitable[None]],
    used: bool,
    rests: bool,
) -> None:
    async with serving(watched, shutdown=GracefulShutdown("off")) as served:
        shaking = served.service.open("c0", shakes=False)
        client = await served.service.connected()
        if used:
            await client.result(client.invoke("echo", "x"))
        await trio.sleep(10 if rests else 0)
        await way(served)
        await served.ended.wait()
        assert watched.events == ["connected", "disconnected, seen nothing"]
        assert client.hub_close.allow_reconnect
        assert shaking.responses == ["The hub server has stopped. Connect again."]
        assert len(client.ends) == len(shaking.ends) == 1
        if way is not cancel:
            assert (await served.end()).clients == 2


async def test_a_server_that_stops_while_on_connected_does_not_notice_ends_the_client(
    autojump_clock: MockClock, watched: type[Watched]
) -> None:
    class Stubborn(watched):
        async def on_connected(self) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

    async with serving(Stubborn, shutdown=GracefulShutdown("off")) as served:
        client = await served.service.connected()
        assert (await served.shut_down()).clients == 1
        assert Stubborn.events == ["disconnected, seen nothing"]
        assert len(client.ends) == 1


@pytest.mark.parametrize("way", [shut_down, cancel])
@pytest.mark.parametrize("leaves", [False, True])
async def test_on_disconnected_has_the_time_of_the_last_stage_and_no_more(
    autojump_clock: MockClock, way: Callable[[Served], Awaitable[None]], leaves: bool
) -> None:
    """Whether it begins with that stage or was there before."""

    class Clinging(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await trio.sleep_forever()

    async with serving(Clinging, shutdown=GracefulShutdown("off", stop_timeout=5)) as served:
        client = await served.service.connected()
        if leaves:
            client.leave()
            await wait_all_tasks_blocked()
        began = trio.current_time()
        await way(served)
        await served.ended.wait()
        assert 0 < trio.current_time() - began <= 5
        assert len(client.ends) == (0 if leaves else 1)


async def test_a_client_at_rest_that_is_moved_is_released(
    autojump_clock: MockClock, watched: type[Watched]
) -> None:
    async with serving(watched) as served:
        client = await served.service.connected()
        await trio.sleep(A_WHILE)
        client.move()
        await client.released()
        assert watched.events == ["connected", "disconnected, seen nothing"]


async def test_a_stream_alone_needs_no_other_task_and_is_waited_for(
    autojump_clock: MockClock, watched: type[Watched]
) -> None:
    async with serving(watched) as served:
        client = await served.service.connected()
        await wait_all_tasks_blocked()
        before = living_tasks()
        id = client.stream("stream")
        await served.service.until(lambda: client.items(id))
        assert len(living_tasks() - before) == 1
        client.move()
        await trio.sleep(1)
        assert not client.releases
        client.move()
        await client.released()
        assert watched.events[1:] == ["stream ended", "disconnected, seen nothing"]


@pytest.mark.parametrize("way", [shut_down, stop_now, cancel])
async def test_calls_beside_the_clients_task_end_before_on_disconnected(
    autojump_clock: MockClock, watched: type[Watched], way: Callable[[Served], Awaitable[None]]
) -> None:
    async with serving(watched, shutdown=GracefulShutdown("off")) as served:
        client = await served.service.connected()
        id = client.stream("stream")
        call = client.invoke("wait", A_WHILE)
        await served.service.until(lambda: client.items(id))
        await way(served)
        await served.ended.wait()
        assert watched.events[1:] == ["stream ended", "disconnected, seen nothing"]
        assert len(client.completions(id)) == len(client.completions(call)) == 1


async def test_a_call_that_ends_the_server_does_not_wait_for_calls_beside_it(
    autojump_clock: MockClock,
) -> None:
    class Fatal(BaseException):
        pass

    class Hopeless(Watched):
        async def fail(self) -> None:
            raise Fatal

    async def run() -> None:
        async with serving(Hopeless) as served:
            client = await served.service.connected()
            id = client.stream("stream")
            await served.service.until(lambda: client.items(id))
            client.invoke("fail")
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await run()
    assert raised.group_contains(Fatal, depth=None)
    assert Hopeless.events[1:] == ["stream ended", "disconnected, seen nothing"]


async def test_no_client_sees_what_a_call_of_another_has_set_in_its_context(
    autojump_clock: MockClock, watched: type[Watched]
) -> None:
    """Not even where that call begins its end."""
    contexts: list[Callable[[], None]] = []

    class Loud(watched):
        async def on_connected(self) -> None:
            contexts.append(self.context.abort)

        async def end_the_first(self) -> None:
            SEEN.set("a secret")
            contexts[0]()

        async def see(self) -> str:
            return SEEN.get()

    async with serving(Loud, service=ScriptedService()) as served:
        first, other = await served.service.connected("c1"), await served.service.connected("c2")
        await other.result(other.invoke("end_the_first"))
        await trio.sleep(2)
        assert Loud.events == ["disconnected, seen nothing"]
        assert len(first.ends) == 1
        third = await served.service.connected("c3")
        assert await third.result(third.invoke("see")) == "nothing"


# -- in the step in which a task is let go --------------------------------------------------


class Stub:
    """In place of a client: its task takes what is in ``inbox``."""

    def __init__(self, on_rest: Callable[[], None]) -> None:
        self.tasks: ClientTasks
        self.at_work = False
        self.rest = on_rest
        self.inbox = 0
        self.taken = 0
        self.stretches = 0
        self.cancelled = 0

    async def run(self) -> None:
        self.stretches += 1
        try:
            while True:
                self.taken += self.inbox
                self.inbox = 0
                if not await self.tasks.linger(self):  # type: ignore[arg-type]
                    return
        except trio.Cancelled:
            self.cancelled += 1
            raise


async def test_what_comes_in_the_step_in_which_a_task_is_let_go_finds_another(
    autojump_clock: MockClock,
) -> None:
    def comes() -> None:
        stub.inbox += 1
        stub.tasks.wake(stub)  # type: ignore[arg-type]

    stub = Stub(comes)
    async with trio.open_nursery() as nursery:
        stub.tasks = ClientTasks(nursery)
        nursery.start_soon(stub.tasks.let_go)
        comes()
        for stretch in range(1, 4):
            await wait_all_tasks_blocked()
            assert (stub.stretches, stub.taken, stub.inbox) == (stretch, stretch, 0)
            assert len(nursery.child_tasks) == 2
            await trio.sleep(8)
        nursery.cancel_scope.cancel()
    assert stub.cancelled == 1


async def test_an_end_that_begins_in_that_step_is_not_missed(autojump_clock: MockClock) -> None:
    def stop() -> None:
        nursery.cancel_scope.cancel()
        stub.tasks.wake(stub)  # type: ignore[arg-type]

    stub = Stub(stop)
    async with trio.open_nursery() as nursery:
        stub.tasks = ClientTasks(nursery)
        nursery.start_soon(stub.tasks.let_go)
        stub.tasks.wake(stub)  # type: ignore[arg-type]
    assert (stub.stretches, stub.cancelled) == (2, 1)
