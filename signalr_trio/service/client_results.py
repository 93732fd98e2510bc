"""Results that hub servers (messages 34 to 36) and calls of the REST API await from one client.

The service takes an answer out of what the client sends, by its invocation id, and gives it to
the server that asked. The client's own server has no part in it, so the client may move meanwhile.
Only what an SDK server asks of its own client stays in the line: there it looks for the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

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
    from signalr_trio.service.server_connection import Server, ServerConnection
    from signalr_trio.service.session import ClientSession

__all__ = ["AwaitedResults", "Question", "ServerQuestion"]

#: For so many seconds after a question, and after the first of its process, an SDK server may not
#: have noted yet that it waits (seen with 1.34: it asks first, and compiles on the way). What it is
#: told before that is lost, or taken for an answer without a result, and it would wait for ever.
_NOTED = 0.02
_FIRST_NOTED = 0.5


class Question(Protocol):
    """What a client is asked. Who asked is told the end once: an answer, or an error."""

    @property
    def id(self) -> str:
        """The invocation id, which is the asker's to choose."""
        ...

    @property
    def server(self) -> Server | None:
        """The hub server that asked; None for a call of the REST API."""
        ...

    @property
    def noted_at(self) -> float:
        """The time from which on who asked may be told of an answer."""
        ...

    def is_lost_with(self, connection: ServerConnection) -> bool:
        """Whether who asked waits no more, now that a connection of that server has ended."""
        ...

    def answer(self, protocol: str, payload: bytes) -> None:
        """The client's completion, as it sent it, in that hub protocol."""
        ...

    def fail(self, error: str) -> None:
        """There is and will be no answer."""
        ...


class ServerQuestion:
    """What one server asked."""

    __slots__ = ("_asked", "_asker", "noted_at")

    def __init__(self, asker: ServerConnection, asked: ClientInvocation) -> None:
        self._asker = asker
        self._asked = asked
        self.noted_at = _noted_at(asker)

    @property
    def id(self) -> str:
        return self._asked.invocation_id

    @property
    def server(self) -> Server:
        return self._asker.server

    def is_lost_with(self, connection: ServerConnection) -> bool:
        """Ours waits on the connection it asked on, an SDK server as long as it has one."""
        server = self._asker.server
        if server.releases:
            return connection is self._asker
        has_others = any(other.hub is connection.hub for other in server.connections)
        return connection.server is server and not has_others

    def answer(self, protocol: str, payload: bytes) -> None:
        asked = self._asked
        self._send_back(
            ClientCompletion(
                *(asked.invocation_id, asked.connection_id, asked.caller_server_id),
                protocol,
                payload,
                asked.tracing_id,
            )
        )

    def fail(self, error: str) -> None:
        asked = self._asked
        self._send_back(
            ErrorCompletion(
                *(asked.invocation_id, asked.connection_id, asked.caller_server_id),
                error,
                asked.tracing_id,
            )
        )

    def _send_back(self, message: ServiceMessage) -> None:
        if trio.current_time() < self.noted_at:
            self._asker.service.start_soon(self._send_later, message)
        else:
            self._send(message)

    async def _send_later(self, message: ServiceMessage) -> None:
        await trio.sleep_until(self.noted_at)
        self._send(message)

    def _send(self, message: ServiceMessage) -> None:
        """To the server that asked, on another connection if that one is lost."""
        hub = self._asker.hub
        for way in (self._asker, *self._asker.server.connections):
            if way in hub.connections:
                way.link.send(message)
                return


def _noted_at(asker: ServerConnection) -> float:
    server, now = asker.server, trio.current_time()
    if server.releases:
        return now
    if server.asked_at is None:
        server.asked_at = now
    return max(now + _NOTED, server.asked_at + _FIRST_NOTED)


class AwaitedResults:
    """What one client was asked and has not answered."""

    __slots__ = ("_questions", "_session")

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._questions: dict[str, Question] = {}

    def __bool__(self) -> bool:
        return bool(self._questions)

    def add(self, question: Question) -> None:
        self._questions[question.id] = question
        if self._stays_in_line(question) and self._session.calls is not None:
            self._session.calls.asked(question.id)

    def __contains__(self, invocation_id: str) -> bool:
        return invocation_id in self._questions

    def take(self, frame: bytes, peek: Peek) -> bool:
        """Gives an answer to who asked; False for whatever else the client sent, and for an answer
        that goes to its server like all else.

        Raises ProtocolError for what is no completion after all: no server judges it before it
        reaches who asked, who may be another's.
        """
        question = self._answered_by(peek)
        if question is None:
            return False
        if self._stays_in_line(question):
            del self._questions[question.id]
            return False
        self._session.protocol.parse(frame)
        del self._questions[question.id]
        question.answer(self._session.protocol.name, frame)
        return True

    def _answered_by(self, peek: Peek) -> Question | None:
        if peek.type != MessageType.COMPLETION or peek.invocation_id is None:
            return None
        return self._questions.get(peek.invocation_id)

    async def noted(self, messages: Iterable[bytes]) -> None:
        """Waits until the answers among what the client sent may go on in its line."""
        for message in messages:
            question = self._answered_by(self._session.protocol.peek(message))
            if question is not None and self._stays_in_line(question):
                await trio.sleep_until(question.noted_at)

    def forget(self, server: Server | None, invocation_id: str) -> None:
        """Who asked has the answer, or wants none any more."""
        found = self._questions.get(invocation_id)
        if found is not None and found.server is server:
            del self._questions[invocation_id]

    def asker_lost(self, connection: ServerConnection) -> None:
        """Forgets what nobody waits for any more, now that this connection has ended."""
        for question in list(self._questions.values()):
            if question.is_lost_with(connection):
                del self._questions[question.id]

    def fail(self, error: str) -> None:
        """The client will not answer: an SDK server that is not told so would wait for ever."""
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.fail(error)

    def _stays_in_line(self, question: Question) -> bool:
        server, connection = question.server, self._session.connection
        if server is None or server.releases or connection is None:
            return False
        return connection.server is server
