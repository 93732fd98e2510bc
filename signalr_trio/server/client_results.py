"""Results that the calls of a hub, and what is outside of them, await from clients.

A question is message 34, and message 35 or 36 answers it, on whichever server connection. Our own
service takes the answer out of what the client sends. Azure's does not where the client is with
the hub server itself, which finds it among what the client sends and says so with an empty 35;
and tells a server of what others asked of its clients (34), to have their answers (35).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from signalr_trio.errors import ClientResultError, ConnectionClosed, ProtocolError, SignalRError
from signalr_trio.protocol.messages import NO_RESULT, Completion, Invocation
from signalr_trio.protocol.service_messages import (
    ClientCompletion,
    ClientInvocation,
    ErrorCompletion,
    ServiceMapping,
)

if TYPE_CHECKING:
    from signalr_trio.server.client_connection import ClientConnection
    from signalr_trio.server.served_hub import ServedHub
    from signalr_trio.server.service_connection import ServiceConnection

__all__ = ["ClientResults", "Question"]

log = logging.getLogger("signalr_trio.server")


class Question:
    """One invocation of a client that wants a result."""

    __slots__ = (
        "_ended",
        "_error",
        "_result",
        "asker",
        "client_id",
        "connection",
        "hub",
        "instance",
        "is_known",
    )

    def __init__(
        self,
        hub: ServedHub,
        connection: ServiceConnection,
        client_id: str,
        *,
        asker: ClientConnection | None,
    ) -> None:
        self.hub = hub
        self.connection = connection
        """The server connection that it is asked on."""
        self.client_id = client_id
        self.asker = asker
        """The client whose call asks; None outside of calls."""
        self.instance: str | None = None
        """The instance of the service that has the client, if that was told."""
        self.is_known = False
        """Whether the service waits for the answer as well."""
        self._ended = trio.Event()
        self._result: Any = None
        self._error: SignalRError | None = None

    def ask(self, id: str, target: str, arguments: Sequence[Any]) -> None:
        invocation = Invocation(target, arguments, id)
        payloads = self.hub.encode_for([self.client_id], invocation)
        self.connection.send(ClientInvocation(id, self.client_id, self.hub.server_id, payloads))
        self.is_known = True

    def complete(self, completion: Completion) -> None:
        if completion.error is not None:
            self.fail(ClientResultError(completion.error))
        elif completion.result is NO_RESULT:
            self.fail(ClientResultError("The client's answer has no result."))
        elif not self._ended.is_set():
            self._result = completion.result
            self._ended.set()

    def fail(self, error: SignalRError) -> None:
        if not self._ended.is_set():
            self._error = error
            self._ended.set()

    async def answer(self, timeout: float) -> Any:
        with trio.move_on_after(timeout):
            await self._ended.wait()
        if not self._ended.is_set():
            raise ClientResultError(
                f"Connection '{self.client_id}' did not answer within {timeout:g} s."
            )
        if self._error is not None:
            raise self._error
        return self._result

    def forget(self, id: str) -> None:
        """Tells the service that nobody waits for the answer any more: on another server connection
        if the one that it was asked on is lost, for the service does not forget it with that."""
        if not self.is_known:
            return
        for connection in (self.connection, *self.hub.connections):
            if connection.is_up:
                end = ClientCompletion(id, self.client_id, self.hub.server_id, None, b"")
                connection.send(end)
                return


class ClientResults:
    """The questions of one hub that are open."""

    def __init__(self, hub: ServedHub) -> None:
        self._hub = hub
        self._ids = itertools.count(1)
        self._open: dict[str, dict[str, Question]] = {}
        """By the client that is asked, and by invocation id."""
        self._elsewhere: dict[str, dict[str, ClientInvocation]] = {}
        """As above: what other servers asked of clients of this one."""

    async def ask(
        self, question: Question, target: str, arguments: Sequence[Any], timeout: float
    ) -> Any:
        """See ``SingleClientProxy.invoke``."""
        client_id = question.client_id
        id = f"{self._hub.instance}-{next(self._ids)}"
        question.ask(id, target, arguments)
        self._open.setdefault(client_id, {})[id] = question
        try:
            return await question.answer(timeout)
        finally:
            of_client = self._open[client_id]
            del of_client[id]
            if not of_client:
                del self._open[client_id]
            question.forget(id)

    # -- what the service says --------------------------------------------------------------

    def settled(self, message: ClientCompletion | ErrorCompletion) -> None:
        """The answer to a question; one that nobody waits for is dropped."""
        question = self._open.get(message.connection_id, {}).get(message.invocation_id)
        if question is None:
            return
        question.is_known = False
        if isinstance(message, ErrorCompletion):
            question.fail(ClientResultError(message.error or "The client gave no result."))
            return
        try:
            question.complete(_completion_in(self._hub, message))
        except ProtocolError as fault:
            log.warning("client %s: its answer: %s", message.connection_id, fault)
            question.fail(ClientResultError("The client's answer cannot be read."))

    def mapped(self, message: ServiceMapping) -> None:
        """The service tells which of its instances has the client."""
        question = self._open.get(message.connection_id, {}).get(message.invocation_id)
        if question is not None:
            question.instance = message.instance_id

    def asked_elsewhere(self, message: ClientInvocation) -> None:
        """Another server asks a client that is with this one."""
        if message.connection_id not in self._hub.clients:
            return
        of_client = self._elsewhere.setdefault(message.connection_id, {})
        of_client[message.invocation_id] = message

    def instance_lost(self, instance: str) -> None:
        for question in self._all():
            if question.instance is not None and question.instance == instance:
                question.fail(_gone(question.client_id))

    def connection_lost(self, connection: ServiceConnection) -> None:
        for question in self._all():
            if question.connection is connection:
                question.fail(ConnectionClosed("the connection to the service was lost"))

    def _all(self) -> list[Question]:
        return [one for of_client in self._open.values() for one in of_client.values()]

    # -- what clients of this server do -----------------------------------------------------

    def answered_here(self, client: ClientConnection, message: Completion) -> bool:
        """Whether a completion that came the client's own way answers a question."""
        question = self._open.get(client.id, {}).get(message.invocation_id)
        if question is not None:
            question.complete(message)
            return True
        asked = self._elsewhere.get(client.id, {}).pop(message.invocation_id, None)
        if asked is None or client.protocol is None:
            return False
        name, payload = client.protocol.name, client.protocol.write(message)
        client.connection.send(
            ClientCompletion(asked.invocation_id, client.id, asked.caller_server_id, name, payload)
        )
        return True

    def client_gone(self, client_id: str) -> None:
        for question in list(self._open.get(client_id, {}).values()):
            question.fail(_gone(client_id))

    def client_ended(self, client_id: str) -> None:
        self._elsewhere.pop(client_id, None)

    def hurry(self, client: ClientConnection, reason: str) -> None:
        """Ends what the calls of a client asked of itself: they keep it from moving."""
        for question in list(self._open.get(client.id, {}).values()):
            if question.asker is client:
                question.fail(ClientResultError(reason))


def _gone(client_id: str) -> ClientResultError:
    return ClientResultError(f"Connection '{client_id}' is disconnected.")


def _completion_in(hub: ServedHub, message: ClientCompletion) -> Completion:
    """Raises ProtocolError."""
    protocol = hub.protocols.get((message.protocol or "").lower())
    if protocol is None:
        raise ProtocolError(f"hub protocol {message.protocol!r} is not known")
    completion = protocol.parse(message.payload)
    if not isinstance(completion, Completion):
        raise ProtocolError(f"{type(completion).__name__} is no completion")
    return completion
