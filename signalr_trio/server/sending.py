"""How what a hub sends reaches the service: which message, on which server connection."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.hub import Audience, AudienceKind
from signalr_trio.protocol.messages import Invocation
from signalr_trio.protocol.service_messages import (
    Ack,
    AckStatus,
    BroadcastData,
    GroupBroadcastData,
    JoinGroupWithAck,
    LeaveGroupWithAck,
    MultiConnectionData,
    MultiGroupBroadcastData,
    MultiUserData,
    ServiceMessage,
    UserData,
)
from signalr_trio.server.calls import give_up_place
from signalr_trio.server.client_results import Question

if TYPE_CHECKING:
    from signalr_trio.server.client_connection import ClientConnection
    from signalr_trio.server.served_hub import ServedHub
    from signalr_trio.server.service_connection import ServiceConnection

__all__ = ["GroupAcks", "HubSender"]

log = logging.getLogger("signalr_trio.server")


class GroupAcks:
    """Group changes that the service has not answered yet."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}

    async def ask(
        self, connection: ServiceConnection, message: Callable[[int], ServiceMessage]
    ) -> None:
        """Sends a message with an ack id and waits for its ack, on whichever connection.

        Raises ConnectionClosed when the connection is lost before it, or the service is silent.
        """
        ack_id = next(self._ids)
        pending = self._pending[ack_id] = _Pending(connection)
        try:
            connection.send(message(ack_id))
            with trio.move_on_after(self._timeout):
                await pending.answered.wait()
        finally:
            del self._pending[ack_id]
        if pending.status not in (AckStatus.OK, AckStatus.NOT_FOUND):
            raise ConnectionClosed(f"the service did not change the group: {pending.reason}")

    def answered(self, message: Ack) -> None:
        pending = self._pending.get(message.ack_id)
        if pending is not None:
            pending.status = message.status
            pending.reason = f"status {message.status}"
            pending.answered.set()

    def connection_lost(self, connection: ServiceConnection) -> None:
        for pending in self._pending.values():
            if pending.connection is connection:
                pending.reason = "the server connection was lost"
                pending.answered.set()


class _Pending:
    def __init__(self, connection: ServiceConnection) -> None:
        self.connection = connection
        self.answered = trio.Event()
        self.status: int | None = None
        self.reason = "it did not answer in time"


class HubSender:
    """Sends for a hub, or for one client of it.

    What a client's own calls send travels on the client's server connection, so that it reaches
    that client in order. What is sent outside calls travels on the first connection that is up, so
    that all of it keeps its order.
    """

    __slots__ = ("_client", "_hub")

    def __init__(self, hub: ServedHub, client: ClientConnection | None = None) -> None:
        self._hub = hub
        self._client = client

    async def send(self, audience: Audience, target: str, arguments: Sequence[Any]) -> None:
        connection = self._connection()
        message = self._message(audience, Invocation(target, arguments))
        if message is not None:
            connection.send(message)
        await connection.drained()

    async def invoke(
        self, connection_id: str, target: str, arguments: Sequence[Any], timeout: float
    ) -> Any:
        question = Question(self._hub, self._connection(), connection_id, asker=self._client)
        give_up_place()
        return await self._hub.results.ask(question, target, arguments, timeout)

    async def add_to_group(self, connection_id: str, group: str) -> None:
        await self._hub.acks.ask(
            self._connection(), lambda id: JoinGroupWithAck(connection_id, group, id)
        )

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        await self._hub.acks.ask(
            self._connection(), lambda id: LeaveGroupWithAck(connection_id, group, id)
        )

    def _connection(self) -> ServiceConnection:
        if self._client is not None and self._client.connection.is_up:
            return self._client.connection
        for connection in self._hub.connections:
            if connection.is_up:
                return connection
        raise ConnectionClosed(
            f"hub {self._hub.name}: no connection to the service is up; try again when it is"
        )

    def _message(self, audience: Audience, invocation: Invocation) -> ServiceMessage | None:
        if not audience.names and audience.kind is not AudienceKind.ALL:
            return None
        names, excluded = list(audience.names), list(audience.excluded)
        if audience.kind is AudienceKind.CONNECTIONS:
            return MultiConnectionData(names, self._hub.encode_for(names, invocation))
        payloads = self._hub.encode(invocation)
        if audience.kind is AudienceKind.ALL:
            return BroadcastData(excluded, payloads)
        if audience.kind is AudienceKind.USERS:
            one = len(names) == 1
            return UserData(names[0], payloads) if one else MultiUserData(names, payloads)
        if len(names) == 1:
            return GroupBroadcastData(names[0], excluded, payloads)
        return MultiGroupBroadcastData(names, payloads)
