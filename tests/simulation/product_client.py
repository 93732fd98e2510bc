"""The product's own client, used as an application uses it.

Its connection is given an encoding that overhears: the ledger learns of what is read and written
in the order of the wire, as it does from the other clients. What then comes out of the client's
API has to be just that.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from signalr_trio.client import HubConnection
from signalr_trio.errors import ConnectionClosed, HandshakeError, HubError
from signalr_trio.protocol.encodings import hub_protocol
from signalr_trio.protocol.framing import Splitter
from signalr_trio.protocol.hub_protocol import HubProtocol, Peek
from signalr_trio.protocol.messages import (
    CancelInvocation,
    HubMessage,
    Invocation,
    StreamInvocation,
    StreamItem,
)
from tests.simulation.ledger import ClientRun, Ledger
from tests.simulation.plan import Call

__all__ = ["ProductClient"]

#: For the tasks of calls to have their turn after the connection's.
_TURN = 0.001


class _Overheard:
    """A hub protocol; the ledger hears of all that one connection says in it."""

    def __init__(self, ledger: Ledger, run: ClientRun) -> None:
        protocol = hub_protocol(run.plan.protocol)
        assert protocol is not None
        self._protocol = protocol
        self._ledger = ledger
        self._run = run
        self.name = protocol.name
        self.version = protocol.version
        self.binary = protocol.binary
        self.invocations: deque[tuple[str, list[Any]]] = deque()
        """Read, and not handled yet."""
        self.items: defaultdict[int, deque[Any]] = defaultdict(deque)
        """By call: read, and not taken yet."""
        self.cancelled: dict[str, None] = {}
        """Streams that the server was asked to end."""

    def splitter(self, max_size: int | None) -> Splitter:
        # A session is made, and asks for it, when the handshake has been accepted; one that lasts
        # asks for another with each WebSocket.
        if not (self._run.lasting and self._run.answered):
            self._ledger.client_answered(self._run, None)
        return self._protocol.splitter(max_size)

    def parse(self, frame: bytes) -> HubMessage | None:
        message = self._protocol.parse(frame)
        if isinstance(message, Invocation) and message.invocation_id is None:
            self.invocations.append((message.target, list(message.arguments)))
        elif isinstance(message, StreamItem):
            self.items[message.item[0]].append(message.item)
        # What has no number is read twice where there is stateful reconnect.
        again = self._run.lasting and message == self._run.close
        if message is not None and not again:
            self._ledger.client_got(self._run, message)
        return message

    def write(self, message: HubMessage) -> bytes:
        if isinstance(message, (Invocation, StreamInvocation)):
            self._ledger.client_sends(self._run, message.arguments[0], message.invocation_id)
        elif isinstance(message, CancelInvocation):
            self.cancelled[message.invocation_id] = None
        return self._protocol.write(message)

    def peek(self, frame: bytes) -> Peek:
        return self._protocol.peek(frame)

    def is_ping(self, frame: bytes) -> bool:
        return self._protocol.is_ping(frame)


class ProductClient:
    """Plays one client of the scenario; ``connect`` makes its connection, not entered yet."""

    def __init__(
        self, ledger: Ledger, run: ClientRun, connect: Callable[[HubProtocol], HubConnection]
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._wire = _Overheard(ledger, run)
        self._connection = connection = connect(self._wire)
        self._scope = trio.CancelScope()
        self._how = "left"
        self._waiting: dict[int, None] = {}
        """Calls that have not returned."""
        self._failed: dict[int, None] = {}
        """Calls that were told that the connection is lost."""
        self._ends: list[object] = []
        """What ``on_close`` was told."""
        connection.on("own", self._own, types=[int])
        connection.on("shared", self._shared, types=[int])
        connection.on("ask", self._asked, types=[int, str, float])
        connection.on_close(self._ends.append)

    async def play(self) -> None:
        """Until the connection has ended. Raises what entering its block raises."""
        try:
            async with self._connection:
                with self._scope:
                    await self._use()
        except HandshakeError as error:
            self._ledger.client_answered(self._run, str(error))
            raise
        self._check(len(self._ends) == 1, "on_close was told", self._ends)
        self._ledger.client_ended(self._run, self._how)

    def leave(self, *, says_close: bool) -> None:
        """All is at rest, and it is time to go; it always says Close."""
        if self._run.ended_at is None and self._run.left_at is None:
            self._check(not self._failed, "is open, but calls were told it is not:", self._failed)
            self._check(not self._wire.invocations, "did not handle", self._wire.invocations)
            self._leave()

    def _leave(self) -> None:
        self._ledger.client_left(self._run)
        self._scope.cancel()

    async def _use(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._talk, nursery)
            try:
                await self._connection.wait_closed()
                self._how = "closed"
            except ConnectionClosed as error:
                self._how = str(error)
            await trio.sleep(_TURN)
            self._check(not self._waiting, "has ended, and calls still wait:", self._waiting)
            nursery.cancel_scope.cancel()

    # -- calls ------------------------------------------------------------------------------

    async def _talk(self, nursery: trio.Nursery) -> None:
        plan = self._run.plan
        for number, call in enumerate(plan.calls):
            if plan.leaves is not None and call.at > plan.leaves:
                break
            await trio.sleep_until(call.at)
            await nursery.start(self._make, number, call)
        if plan.leaves is not None:
            await trio.sleep_until(plan.leaves)
            self._leave()

    async def _make(self, number: int, call: Call, *, task_status: trio.TaskStatus[None]) -> None:
        # The call is on its way before the next one is made: no checkpoint lies between.
        task_status.started()
        self._waiting[number] = None
        play = {"call": self._invoke, "send": self._send, "down": self._download}
        try:
            await play.get(call.kind, self._upload)(number, call)
        except HubError as error:
            answer = self._answer(number)
            same = answer is not None and answer.error == str(error)
            self._check(same, "call", number, "raised", error, "for", answer)
        except ConnectionClosed as error:
            self._check(self._answer(number) is None, "call", number, "was answered, and:", error)
            self._failed[number] = None
        self._waiting.pop(number)

    async def _invoke(self, number: int, call: Call) -> None:
        result = await self._connection.invoke(
            "call", number, call.steps, "-" * call.padding, result_type=list[Any]
        )
        self._check_result(number, result)

    async def _send(self, number: int, call: Call) -> None:
        await self._connection.send("call", number, call.steps, "-" * call.padding)

    async def _upload(self, number: int, call: Call) -> None:
        result = await self._connection.invoke("up", number, call.steps, _items(call))
        self._check_result(number, result)

    async def _download(self, number: int, call: Call) -> None:
        arguments = (number, call.steps, call.items, call.gap)
        patience = float("inf") if call.cancel_after is None else call.cancel_after
        read = self._wire.items[number]
        with trio.move_on_after(patience) as scope:
            async with self._connection.stream("down", *arguments, item_type=list[Any]) as items:
                async for item in items:
                    self._check(bool(read), "stream", number, "gave", item, "from nowhere")
                    self._check(item == read.popleft(), "stream", number, "gave", item)
        answer = self._answer(number)
        if scope.cancelled_caught:
            told = self._run.calls[number].wire_id in self._wire.cancelled
            self._check(told or answer is not None, "stream", number, "was left, and not cancelled")
        else:
            self._check(not read, "stream", number, "ended before", read)
            self._check(answer is not None, "stream", number, "ended without an end")

    def _check_result(self, number: int, result: object) -> None:
        answer = self._answer(number)
        same = answer is not None and answer.error is None and answer.result == result
        self._check(same, "call", number, "returned", result, "for", answer)

    def _answer(self, number: int) -> Any:
        """The completion that came for a call."""
        call = self._run.calls.get(number)
        return call and call.answer

    # -- handlers ---------------------------------------------------------------------------

    def _own(self, number: int) -> None:
        self._handle("own", number)

    async def _shared(self, number: int) -> None:
        await trio.lowlevel.checkpoint()
        self._handle("shared", number)

    async def _asked(self, number: int, reaction: str, delay: float) -> list[Any]:
        await trio.sleep(math.inf if reaction == "stays silent" else delay)
        answer = self._ledger.questions.answers(number)
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer

    def _handle(self, target: str, number: int) -> None:
        read = self._wire.invocations.popleft() if self._wire.invocations else None
        self._check(read == (target, [number]), "handled", target, number, "in place of", read)

    def _check(self, kept: bool, *details: object) -> None:
        self._ledger.check(kept, "client", self._run.name, *details)


async def _items(call: Call) -> AsyncIterator[list[Any]]:
    for index in range(call.items):
        await trio.sleep(call.gap)
        yield [index, "-" * call.padding]
    await trio.sleep(call.gap)
