"""Results that hub servers await from one client (messages 34 to 36).

The service takes an answer out of what the client sends, by its invocation id, and gives it to
the server that asked. The client's own server has no part in it, so the client may move meanwhile.
Only what an SDK server asks of its own client stays in the line: there it looks for the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from signalr_trio.protocol.hub_protocol import Peek
from signalr_trio.protocol.messages import MessageType
from signalr_trio.protocol.service_messages import (
    ClientCompletion,
    ClientInvocation,
    ErrorCompletion,
    ServiceMessage,
)

if TYPE_CHECKING:
    from signalr_trio.service.server_connection import ServerConnection
    from signalr_trio.service.session import ClientSession

__all__ = ["AwaitedResults", "refuse"]

#: An SDK server drops an answer that comes within a millisecond or so of the first question of its
#: process, and would wait for ever (seen with 1.34: it seems to note that it waits only when the
#: question is out). It ignores a second answer, so one that comes so soon is given again, later.
_SOON = 1.0


def refuse(one: ServerConnection, message: ClientInvocation, error: str) -> None:
    """There is and will be no answer."""
    _Question(one, message).fail(error)


class _Question:
    """What one server asked."""

    __slots__ = ("_asked", "_asked_at", "asker")

    def __init__(self, asker: ServerConnection, asked: ClientInvocation) -> None:
        self.asker = asker
        self._asked = asked
        self._asked_at = trio.current_time()

    def answer(self, protocol: str, payload: bytes) -> None:
        asked = self._asked
        self._send_back(
            ClientCompletion(
                *(asked.invocation_id, asked.connection_id, asked.caller_server_id),
                protocol,
                payload,
            )
        )

    def fail(self, error: str) -> None:
        asked = self._asked
        self._send_back(
            ErrorCompletion(asked.invocation_id, asked.connection_id, asked.caller_server_id, error)
        )

    def _send_back(self, message: ServiceMessage) -> None:
        self._send(message)
        is_soon = trio.current_time() - self._asked_at < _SOON
        if is_soon and not self.asker.server.releases:
            self.asker.service.start_soon(self._send_again, message)

    async def _send_again(self, message: ServiceMessage) -> None:
        await trio.sleep(_SOON)
        self._send(message)

    def _send(self, message: ServiceMessage) -> None:
        """To the server that asked, on another connection if that one is lost."""
        hub = self.asker.hub
        for way in (self.asker, *self.asker.server.connections):
            if way in hub.connections:
                way.link.send(message)
                return


class AwaitedResults:
    """What one client was asked and has not answered."""

    __slots__ = ("_questions", "_session")

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._questions: dict[str, _Question] = {}

    def __bool__(self) -> bool:
        return bool(self._questions)

    def add(self, one: ServerConnection, message: ClientInvocation) -> None:
        self._questions[message.invocation_id] = _Question(one, message)
        if self._stays_in_line(one) and self._session.calls is not None:
            self._session.calls.asked(message.invocation_id)

    def __contains__(self, invocation_id: str) -> bool:
        return invocation_id in self._questions

    def take(self, frame: bytes, peek: Peek) -> bool:
        """Gives an answer to who asked; False for whatever else the client sent, and for an answer
        that goes to its server like all else.

        Raises ProtocolError for what is no completion after all: no server judges it before it
        reaches who asked, who may be another's.
        """
        if peek.type != MessageType.COMPLETION or peek.invocation_id not in self._questions:
            return False
        if self._stays_in_line(self._questions[peek.invocation_id].asker):
            del self._questions[peek.invocation_id]
            return False
        self._session.protocol.parse(frame)
        question = self._questions.pop(peek.invocation_id)
        question.answer(self._session.protocol.name, frame)
        return True

    def forget(self, one: ServerConnection, invocation_id: str) -> None:
        """The server that asked has its answer, or wants none any more."""
        found = self._questions.get(invocation_id)
        if found is not None and found.asker.server is one.server:
            del self._questions[invocation_id]

    def fail(self, error: str) -> None:
        """The client will not answer: an SDK server that is not told so would wait for ever."""
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.fail(error)

    def _stays_in_line(self, one: ServerConnection) -> bool:
        connection = self._session.connection
        is_with_asker = connection is not None and connection.server is one.server
        return is_with_asker and not one.server.releases
