"""The load: trio clients that keep talking until they are told to stop."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, cast

import attrs
import trio

from examples.rolling_restart.ledger import Account
from signalr_trio import ConnectionClosed, HubConnection, HubError
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import Completion, HubMessage, Invocation

__all__ = ["Load", "TalkingClient"]

#: Calls of one client that are under way at a time: while one runs, the others wait at the hub.
WINDOW = 3
ITEMS = 5
RECONNECT = (0, 0.2, 0.5, 1, 2, 5, 10)


@attrs.frozen
class Load:
    """What every client is told."""

    url: str
    seed: int
    large_every: int
    """Of so many calls one has 256 KiB, drawn by lot; 0: none."""
    longest_delay: float = 0.3
    large_size: int = 256 * 1024
    go: trio.Event = attrs.field(factory=trio.Event)
    """Everybody is connected: talk."""
    stop: trio.Event = attrs.field(factory=trio.Event)
    """Begin nothing more, and leave after the last answer."""


class TalkingClient:
    """One client: calls, streams and uploads side by side, each answer entered in its account."""

    def __init__(self, load: Load, index: int, account: Account) -> None:
        self._load = load
        self._account = account
        self._stop = load.stop
        self._chance = random.Random(f"{load.seed} {index}")
        self._connection = HubConnection(
            load.url, protocol=_watched(index, self._watch), reconnect=RECONNECT
        )
        self._connection.on("noted", self._noted)
        self._connection.on("restarting", account.announced)
        self._connection.on_reconnecting(self._lost)
        self._connection.on_reconnected(self._back)
        self._connection.on_close(self._lost)
        self._leaving = False
        self._up = trio.Event()
        self._down = trio.Event()
        self._talk = trio.CancelScope()
        self._window = trio.Semaphore(WINDOW)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has started when it is connected; talks from the go until the stop."""
        async with self._connection:
            task_status.started()
            await self._load.go.wait()
            while True:
                self._begin()
                with self._talk:
                    await self._talk_side_by_side()
                if self._stop.is_set() and not self._down.is_set():
                    self._leaving = True
                    return
                # Here, not in _lost: errors that came before the loss have been entered by now.
                await self._down.wait()
                self._account.disconnected(trio.current_time())
                await self._up.wait()

    # -- the connection ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._account.connected(trio.current_time())
        self._talk = trio.CancelScope()
        self._window = trio.Semaphore(WINDOW)

    def _lost(self, error: Exception | None) -> None:
        if not self._leaving:
            self._up = trio.Event()
            self._down.set()
            self._talk.cancel()

    def _back(self, _: str | None) -> None:
        self._down = trio.Event()
        self._up.set()

    def _watch(self, message: HubMessage) -> None:
        """Enters the answers in the order in which they come off the wire, repeats included.

        The tasks that wait for them would see neither: they wake in any order, and the connection
        ignores a second completion.
        """
        answer: Any = None
        if isinstance(message, Completion):
            answer = message.result
        elif isinstance(message, Invocation) and message.target == "noted":
            answer = message.arguments[0]
        if isinstance(answer, list):
            self._enter(cast("list[Any]", answer))

    def _enter(self, answer: list[Any]) -> None:
        lane, number, server, before = answer[:4]
        self._account.answered(lane, number, server, before, trio.current_time())

    # -- what it says -----------------------------------------------------------------------

    async def _talk_side_by_side(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_closed, self._call_on_and_on)
            for one in (self._stream, self._upload):
                nursery.start_soon(self._until_closed, partial(self._one_by_one, one))

    async def _until_closed(self, lane: Callable[[], Awaitable[None]]) -> None:
        """``on_reconnecting`` tells the rest; what was under way is written off there."""
        try:
            await lane()
        except* ConnectionClosed:
            await self._down.wait()

    async def _call_on_and_on(self) -> None:
        numbers = itertools.count(1)
        async with trio.open_nursery() as nursery:
            while True:
                await self._window.acquire()
                if self._stop.is_set():
                    self._window.release()
                    break
                text = self._text()
                if self._chance.random() < 0.7:
                    nursery.start_soon(self._say, numbers, text)
                else:
                    await self._note(numbers, text)
            # All of the window is free when the last answer is here.
            for _ in range(WINDOW):
                await self._window.acquire()

    async def _say(self, numbers: itertools.count[int], text: str) -> None:
        # Drawn here, in the step that sends it: the numbers are in the order of the wire.
        number, delay = next(numbers), self._delay()
        self._account.sent("call", number, delay, trio.current_time())
        try:
            answer = await self._connection.invoke("Say", number, delay, text)
        except HubError as error:
            self._account.failed("call", number, str(error))
        else:
            if answer[1] != number:
                self._account.misplaced(f"call {number}: got the answer to {answer[1]}")
        finally:
            self._window.release()

    async def _note(self, numbers: itertools.count[int], text: str) -> None:
        number, delay = next(numbers), self._delay()
        self._account.sent("call", number, delay, trio.current_time())
        await self._connection.send("Note", number, delay, text)

    def _noted(self, _: list[object]) -> None:
        self._window.release()

    async def _one_by_one(self, begin: Callable[[int, float], Awaitable[None]]) -> None:
        for number in itertools.count(1):
            await self._rest()
            if self._stop.is_set():
                return
            await begin(number, self._delay())

    async def _stream(self, number: int, delay: float) -> None:
        self._account.sent("stream", number, delay, trio.current_time())
        try:
            async with self._connection.stream("Count", number, delay, ITEMS) as items:
                received = [item async for item in items]
        except HubError as error:
            self._account.failed("stream", number, str(error))
        else:
            # Not when that item comes: the stream may still end with an error.
            if received[:-1] == list(range(ITEMS)):
                self._enter(received[-1])
            else:
                self._account.misplaced(f"stream {number}: its items were {received}")

    async def _upload(self, number: int, delay: float) -> None:
        self._account.sent("upload", number, delay, trio.current_time())
        try:
            answer = await self._connection.invoke("Collect", number, _items(delay))
        except HubError as error:
            self._account.failed("upload", number, str(error))
        else:
            if answer[4] != ITEMS:
                self._account.misplaced(f"upload {number}: {answer[4]} items of {ITEMS} came")

    def _text(self) -> str:
        large = self._chance.random() * self._load.large_every
        return "x" * self._load.large_size if 0 < large < 1 else "hello"

    def _delay(self) -> float:
        return self._chance.uniform(0, self._load.longest_delay)

    async def _rest(self) -> None:
        """Between two streams, or two uploads; cut short by the stop."""
        with trio.move_on_after(self._chance.uniform(0.2, 1.5)):
            await self._stop.wait()


async def _items(delay: float) -> AsyncIterator[int]:
    for item in range(ITEMS):
        await trio.sleep(delay / ITEMS)
        yield item


def _watched(index: int, watch: Callable[[HubMessage], None]) -> HubProtocol:
    """Every other client speaks MessagePack."""
    return _WatchedMessagePack(watch) if index % 2 else _WatchedJson(watch)


class _WatchedJson(JsonProtocol):
    def __init__(self, watch: Callable[[HubMessage], None]) -> None:
        super().__init__()
        self._watch = watch

    def parse(self, frame: bytes) -> HubMessage | None:
        message = super().parse(frame)
        if message is not None:
            self._watch(message)
        return message


class _WatchedMessagePack(MessagePackProtocol):
    def __init__(self, watch: Callable[[HubMessage], None]) -> None:
        super().__init__()
        self._watch = watch

    def parse(self, frame: bytes) -> HubMessage | None:
        message = super().parse(frame)
        if message is not None:
            self._watch(message)
        return message
