"""What hubs and hooks of an SDK server send, and on which of its connections that travels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.hub import Audience, AudienceKind
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import Invocation
from signalr_trio.protocol.service_messages import (
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

if TYPE_CHECKING:
    from tests.simulation.sdk_client import SdkClient
    from tests.simulation.sdk_server import SdkServer

__all__ = ["Sender"]

_DONE = (AckStatus.OK, AckStatus.NOT_FOUND)


@attrs.frozen
class Sender:
    """Of the calls of one client or, without one, of all that is outside of calls."""

    server: SdkServer
    client: SdkClient | None = None

    async def send(self, audience: Audience, target: str, arguments: Sequence[Any]) -> None:
        await trio.sleep(self.server.lag())
        if audience.names or audience.kind is AudienceKind.ALL:
            invocation = Invocation(target, arguments)
            payloads = {name: one.write(invocation) for name, one in HUB_PROTOCOLS.items()}
            self._send(_message(audience, payloads), (audience.kind, *audience.names))

    async def add_to_group(self, connection_id: str, group: str) -> None:
        await self._ask(group, lambda id: JoinGroupWithAck(connection_id, group, id))

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        await self._ask(group, lambda id: LeaveGroupWithAck(connection_id, group, id))

    async def _ask(self, group: str, message: Callable[[int], ServiceMessage]) -> None:
        """The answer may come on any connection."""
        with self.server.acks.expect() as (number, answer):
            self._send(message(number), (AudienceKind.GROUPS, group))
            if await answer.wait() not in _DONE:
                raise ConnectionClosed(f"the ack to {number} is an error")

    def _send(self, message: ServiceMessage, key: tuple[object, ...]) -> None:
        """A local client's own goes on its connection, all else of a call on the caller's.

        What is sent outside of calls keeps to one connection for each group, user and so on.
        """
        server, client = self.server, self.client
        if isinstance(message, MultiConnectionData) and len(message.connection_list) == 1:
            client = server.clients.get(message.connection_list[0], client)
        if client is not None and client.connection.up:
            client.connection.send(message)
        else:
            server.connection_for(key if client is None else client.id).send(message)


def _message(audience: Audience, payloads: dict[str, bytes]) -> ServiceMessage:
    names, excluded = list(audience.names), list(audience.excluded)
    if audience.kind is AudienceKind.ALL:
        return BroadcastData(excluded, payloads)
    if audience.kind is AudienceKind.CONNECTIONS:
        return MultiConnectionData(names, payloads)
    if audience.kind is AudienceKind.USERS:
        return UserData(names[0], payloads) if len(names) == 1 else MultiUserData(names, payloads)
    if len(names) == 1:
        return GroupBroadcastData(names[0], excluded, payloads)
    return MultiGroupBroadcastData(names, payloads)
