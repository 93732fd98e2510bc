"""Results that hub servers await from one client (messages 34 to 36).

The service takes an answer out of what the client sends, by its invocation id, and gives it to
the server that asked. The client's own server has no part in it, so the client may move meanwhile.
Only what an SDK server asks of its own client stays in the line: there it looks for the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def refuse(one: ServerConnection, message: ClientInvocation, error: str) -> None:
    """There is and will be no answer."""
    one.link.send(
        ErrorCompletion(
            message.invocation_id, message.connection_id, message.caller_server_id, error
        )
    )


class AwaitedResults:
    """What one client was asked and has not answered."""

    __slots__ = ("_askers", "_session")

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._askers: dict[str, tuple[ServerConnection, ClientInvocation]] = {}

    def __bool__(self) -> bool:
        return bool(self._askers)

    def add(self, one: ServerConnection, message: ClientInvocation) -> None:
        self._askers[message.invocation_id] = one, message
        if self._stays_in_line(one) and self._session.calls is not None:
            self._session.calls.asked(message.invocation_id)

    def __contains__(self, invocation_id: str) -> bool:
        return invocation_id in self._askers

    def take(self, frame: bytes, peek: Peek) -> bool:
        """Gives an answer to who asked; False for whatever else the client sent, and for an answer
        that goes to its server like all else."""
        if peek.type != MessageType.COMPLETION or peek.invocation_id not in self._askers:
            return False
        one, asked = self._askers.pop(peek.invocation_id)
        if self._stays_in_line(one):
            return False
        _send_back(
            one,
            ClientCompletion(
                asked.invocation_id,
                asked.connection_id,
                asked.caller_server_id,
                self._session.protocol.name,
                frame,
            ),
        )
        return True

    def forget(self, one: ServerConnection, invocation_id: str) -> None:
        """The server that asked has its answer, or wants none any more."""
        found = self._askers.get(invocation_id)
        if found is not None and found[0].server is one.server:
            del self._askers[invocation_id]

    def fail(self, error: str) -> None:
        """The client will not answer: an SDK server that is not told so would wait for ever."""
        askers, self._askers = self._askers, {}
        for one, asked in askers.values():
            _send_back(
                one,
                ErrorCompletion(
                    asked.invocation_id, asked.connection_id, asked.caller_server_id, error
                ),
            )

    def _stays_in_line(self, one: ServerConnection) -> bool:
        connection = self._session.connection
        is_with_asker = connection is not None and connection.server is one.server
        return is_with_asker and not one.server.releases


def _send_back(one: ServerConnection, message: ServiceMessage) -> None:
    """To the server that asked, on another connection if that one is lost."""
    ways = [one, *one.server.connections]
    for way in ways:
        if way in one.hub.connections:
            way.link.send(message)
            return
