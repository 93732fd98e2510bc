"""A client that says what its plan says, when it says it, and enters all that it is told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import attrs
import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol.encodings import hub_protocol
from signalr_trio.protocol.handshake import (
    HandshakeRequest,
    parse_response,
    split_handshake,
    write_request,
)
from signalr_trio.protocol.messages import (
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    StreamInvocation,
    StreamItem,
)
from tests.simulation.ledger import ClientRun, Ledger

__all__ = ["SERVER_TIMEOUT", "Client", "Connected"]

SERVER_TIMEOUT = 30.0
_HANGS_UP = 0.5


class Connected(Protocol):
    """What a client needs of its connection."""

    def send(self, payload: bytes, *, text: bool = False) -> None: ...

    async def receive(self) -> bytes: ...

    async def aclose(self) -> None: ...


@attrs.frozen
class _Due:
    at: float
    message: HubMessage
    number: int | None = None
    """Of the call that it begins."""


class Client:
    """Plays one client of the scenario on a connection that is there."""

    _nursery: trio.Nursery

    def __init__(self, ledger: Ledger, run: ClientRun, connection: Connected) -> None:
        self._ledger = ledger
        self._run = run
        self._connection = connection
        protocol = hub_protocol(run.plan.protocol)
        assert protocol is not None
        self._protocol = protocol
        self._greeted = trio.Event()
        self._scope = trio.CancelScope()

    async def play(self) -> None:
        """Until the connection has ended."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._talk)
                nursery.start_soon(self._listen)
                nursery.start_soon(self._ping)
        with trio.CancelScope(shield=True):
            await self._connection.aclose()

    def leave(self, *, says_close: bool) -> None:
        if self._run.ended_at is None and self._run.left_at is None:
            self._ledger.client_left(self._run)
            if says_close and self._run.answered:
                self._write(Close())
            self._end("left")

    # -- out --------------------------------------------------------------------------------

    async def _talk(self) -> None:
        plan = self._run.plan
        await trio.sleep(plan.slow_handshake)
        request = HandshakeRequest(plan.protocol, 1)
        self._connection.send(write_request(request), text=True)
        await self._greeted.wait()
        for due in sorted(self._messages(), key=lambda due: due.at):
            if plan.leaves is not None and due.at > plan.leaves:
                break
            await trio.sleep_until(due.at)
            if due.number is not None:
                message = due.message
                assert isinstance(message, (Invocation, StreamInvocation))
                self._ledger.client_sends(self._run, due.number, message.invocation_id)
            self._write(due.message)
        if plan.leaves is not None:
            await trio.sleep_until(plan.leaves)
            self.leave(says_close=plan.says_close)

    def _messages(self) -> Iterator[_Due]:
        """All that it ever says; calls in the order of their numbers."""
        streams = itertools.count(1)
        for number, call in enumerate(self._run.plan.calls):
            id = f"i{number}"
            steps = [list(step) for step in call.steps]
            if call.kind == "down":
                arguments = [number, steps, call.items, call.gap]
                yield _Due(call.at, StreamInvocation(id, "down", arguments), number)
                if call.cancel_after is not None:
                    yield _Due(call.at + call.cancel_after, CancelInvocation(id))
            elif call.kind == "up":
                stream = f"u{next(streams)}"
                begin = Invocation("up", [number, steps], id, (stream,))
                yield _Due(call.at, begin, number)
                padding = "-" * call.padding
                for index in range(call.items):
                    at = call.at + call.gap * (index + 1)
                    yield _Due(at, StreamItem(stream, [index, padding]))
                yield _Due(call.at + call.gap * (call.items + 1), Completion(stream))
            else:
                arguments = [number, steps, "-" * call.padding]
                wanted = id if call.kind == "call" else None
                yield _Due(call.at, Invocation("call", arguments, wanted), number)

    async def _ping(self) -> None:
        await self._greeted.wait()
        timeout = self._ledger.scenario.service.get("client_timeout", SERVER_TIMEOUT)
        while self._run.plan.pings:
            self._write(Ping())
            await trio.sleep(timeout / 3)

    def _write(self, message: HubMessage) -> None:
        payload = self._protocol.write(message)
        self._connection.send(payload, text=not self._protocol.binary)

    # -- in ---------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            rest = await self._greet()
            splitter = self._protocol.splitter(None)
            while True:
                for frame in splitter.feed(rest):
                    message = self._protocol.parse(frame)
                    if message is not None:
                        self._ledger.client_got(self._run, message)
                    if isinstance(message, Invocation) and message.invocation_id is not None:
                        self._nursery.start_soon(self._answer, message)
                await self._pause_reading()
                rest = await self._receive()
        except ConnectionClosed as end:
            self._end(str(end))

    async def _answer(self, asked: Invocation) -> None:
        number, reaction, delay = asked.arguments
        await trio.sleep(delay)
        if reaction == "stays silent":
            return
        answer = self._ledger.questions.answers(number)
        id = asked.invocation_id or ""
        failed = isinstance(answer, str)
        self._write(Completion(id, error=answer) if failed else Completion(id, answer))

    async def _greet(self) -> bytes:
        buffer = b""
        while (split := split_handshake(buffer)) is None:
            buffer += await self._receive()
        self._ledger.client_answered(self._run, parse_response(split[0]).error)
        if self._run.answered:
            self._greeted.set()
        return split[1]

    async def _receive(self) -> bytes:
        # Behind a Close there is nothing to wait for, but to see that there is nothing.
        with trio.move_on_after(SERVER_TIMEOUT if self._run.close is None else _HANGS_UP):
            return await self._connection.receive()
        raise ConnectionClosed("nothing came for too long")

    async def _pause_reading(self) -> None:
        pause = self._run.plan.stops_reading
        if pause is not None and pause[0] <= trio.current_time() < sum(pause):
            await trio.sleep_until(sum(pause))

    def _end(self, how: str) -> None:
        if self._run.ended_at is None:
            self._ledger.client_ended(self._run, how)
        self._scope.cancel()
