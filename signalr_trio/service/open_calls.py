"""Counts what is open between one client and a server that does not release (sans-IO).

The official SDK throws away what it would answer after a migrating close, and says nothing. Only
answers to the client's own calls are lost that way, so when every call that was passed on has had
its completion there is nothing left to lose.
"""

from __future__ import annotations

from signalr_trio.protocol.hub_protocol import HubProtocol, Peek
from signalr_trio.protocol.messages import INVOCATIONS, Completion, Invocation, MessageType

__all__ = ["OpenCalls"]

#: No hub has such a method, so it is answered with an error once all before it was taken up.
_BARRIER_TARGET = "signalr_trio.barrier"
_BARRIER_ID = "signalr_trio.barrier"


class OpenCalls:
    """The calls of one client that its server has not completed yet."""

    __slots__ = ("_calls", "_completed", "_count", "_last_send", "_questions", "_uploads")

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._uploads: set[str] = set()
        self._questions: set[str] = set()
        self._count = 0
        self._last_send = 0
        self._completed = 0

    @property
    def quiet(self) -> bool:
        """Whether the server owes this client nothing."""
        return not self._calls and not self._uploads and not self._questions

    @property
    def unconfirmed(self) -> bool:
        """Whether a message without an id, or a result that the server awaits, was sent of which no
        later answer shows that it was taken up."""
        return self._last_send > self._completed

    def asked(self, invocation_id: str) -> None:
        """The server awaits a result of the client."""
        self._questions.add(invocation_id)

    def asks_no_more(self, invocation_id: str) -> None:
        self._questions.discard(invocation_id)

    def client_sent(self, peek: Peek) -> None:
        """A message was passed on to the server."""
        self._count += 1
        if peek.type in INVOCATIONS:
            if peek.invocation_id:
                self._calls[peek.invocation_id] = self._count
            else:
                self._last_send = self._count
                self._uploads.update(peek.stream_ids)
        elif peek.type == MessageType.COMPLETION and peek.invocation_id:
            self._uploads.discard(peek.invocation_id)
            if peek.invocation_id in self._questions:
                self._questions.discard(peek.invocation_id)
                self._last_send = self._count

    def server_sent(self, peek: Peek) -> bool:
        """A message came from the server; False if it is not for the client."""
        if peek.type != MessageType.COMPLETION or peek.invocation_id is None:
            return True
        begun = self._calls.pop(peek.invocation_id, None)
        if begun is not None:
            self._completed = max(self._completed, begun)
        return peek.invocation_id != _BARRIER_ID

    def barrier(self, protocol: HubProtocol) -> bytes:
        """An invocation whose answer shows that everything before it was taken up."""
        self._count += 1
        self._calls[_BARRIER_ID] = self._count
        return protocol.write(Invocation(_BARRIER_TARGET, [], _BARRIER_ID))

    def fail(self, protocol: HubProtocol, error: str) -> list[bytes]:
        """Error completions for all that is open; afterwards nothing is."""
        ids = [id for id in self._calls if id != _BARRIER_ID]
        self._calls.clear()
        self._uploads.clear()
        self._questions.clear()
        return [protocol.write(Completion(id, error=error)) for id in ids]
