"""What an application is written against: hubs, their context, clients and groups.

::

    class Chat(Hub):
        async def broadcast_message(self, name: str, message: str) -> None:
            await self.clients.all.send("broadcastMessage", name, message)

A client calls the method as ``broadcastMessage``, ``BroadcastMessage`` or ``broadcast_message``.
Every public coroutine method can be called by clients; an async generator is a stream to the
client; a parameter annotated ``AsyncIterator[T]`` is a stream from it. A hub object lives for one
call: what is to last longer belongs in ``context.items``, or outside.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast

import attrs
import msgpack  # pyright: ignore[reportMissingTypeStubs]
import trio

from signalr_trio.tokens import Claims

__all__ = [
    "Audience",
    "AudienceKind",
    "ClientProxy",
    "ConnectionMigrationFeature",
    "Features",
    "GroupManager",
    "Hub",
    "HubCallerClients",
    "HubCallerContext",
    "HubClients",
    "HubContext",
    "Sender",
    "SingleClientProxy",
]

T = TypeVar("T")

#: The state of a migrating client travels in a header, so it is small.
_MAX_STATE = 16 * 1024


class ConnectionMigrationFeature:
    """Tells a hub that a client is on its way from one hub server to another.

    It is in ``context.features`` while ``on_disconnected`` runs on the old server, and while
    ``on_connected`` runs on the new one; nowhere else.
    """

    def __init__(self, migrate_from: str, migrate_to: str, packed_state: bytes | None = None):
        self.migrate_from = migrate_from
        """The id of the server that the client was with."""
        self.migrate_to = migrate_to
        """The id of the server that takes over; on the old server a plan, not a promise."""
        self.packed_state = packed_state
        """``state`` as MessagePack, None if there is none."""

    def __repr__(self) -> str:
        return f"ConnectionMigrationFeature({self.migrate_from!r} -> {self.migrate_to!r})"

    @property
    def state(self) -> Any:
        """What the old server hands over about this client; a fresh copy each time.

        Set it in ``on_disconnected``; in ``on_connected`` of the new server it is there. It goes
        no further unless it is set again. Raises ValueError or TypeError at the assignment if the
        value cannot be packed, or takes more than 16 KiB.
        """
        if self.packed_state is None:
            return None
        return cast(
            "Any",
            msgpack.unpackb(self.packed_state, timestamp=3, strict_map_key=False),  # pyright: ignore[reportUnknownMemberType]
        )

    @state.setter
    def state(self, value: Any) -> None:
        packed = cast("bytes", msgpack.packb(value, datetime=True))  # pyright: ignore[reportUnknownMemberType]
        if len(packed) > _MAX_STATE:
            raise ValueError(f"the state takes {len(packed)} bytes; {_MAX_STATE} are allowed")
        self.packed_state = packed


class Features:
    """Things about a connection, found by their class."""

    __slots__ = ("_features",)

    def __init__(self) -> None:
        self._features: dict[type[Any], Any] = {}

    def get(self, kind: type[T]) -> T | None:
        return self._features.get(kind)

    def set(self, feature: object) -> None:
        self._features[type(feature)] = feature

    def remove(self, kind: type[Any]) -> None:
        self._features.pop(kind, None)


class HubCallerContext:
    """The client that a call comes from."""

    # Most clients are idle most of the time: what not every hub uses is made when it is used.
    __slots__ = (
        "_abort",
        "_aborted",
        "_features",
        "_items",
        "claims",
        "connection_id",
        "headers",
        "query_string",
        "user_id",
    )

    def __init__(
        self,
        *,
        connection_id: str,
        user_id: str | None,
        claims: Claims,
        query_string: str,
        headers: dict[str, list[str | None]],
        abort: Callable[[], None],
    ) -> None:
        self.connection_id = connection_id
        self.user_id = user_id
        self.claims = claims
        """Claim types and values, in order; a type may occur more than once."""
        self.query_string = query_string
        self.headers = headers
        self._features: Features | None = None
        self._items: dict[Any, Any] | None = None
        self._aborted: trio.Event | None = None
        self._abort = abort

    @property
    def features(self) -> Features:
        if self._features is None:
            self._features = Features()
        return self._features

    @property
    def items(self) -> dict[Any, Any]:
        """The application's own; stays behind when the client moves to another server."""
        if self._items is None:
            self._items = {}
        return self._items

    @property
    def aborted(self) -> trio.Event:
        """Set when the client has gone, or when the time to end its calls is up."""
        if self._aborted is None:
            self._aborted = trio.Event()
        return self._aborted

    def claim(self, type: str) -> str | None:
        """The first claim of that type."""
        return next((value for name, value in self.claims if name == type), None)

    def abort(self) -> None:
        """Closes the connection of this client at once, without an error."""
        self._abort()


class AudienceKind(enum.Enum):
    ALL = enum.auto()
    CONNECTIONS = enum.auto()
    USERS = enum.auto()
    GROUPS = enum.auto()


@attrs.frozen
class Audience:
    """Whom a send is for. ``names`` are connection ids, user ids or groups, as ``kind`` says."""

    kind: AudienceKind
    names: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    """Connection ids that are left out."""


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    """The names, if they are. Raises TypeError: on the wire a mistake would cost the whole server
    connection, and ``"ab"`` is meant to be one name and not two."""
    if isinstance(names, str):
        raise TypeError(f"ids and names come in a collection of str, not one str: {names!r}")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(name).__name__
            raise TypeError(f"ids of connections and users, and groups must be str, not {kind}")
    return found


class Sender(Protocol):
    """What carries sends and group changes to the service."""

    async def send(self, audience: Audience, target: str, arguments: Sequence[Any]) -> None: ...

    async def invoke(
        self, connection_id: str, target: str, arguments: Sequence[Any], timeout: float
    ) -> Any: ...

    async def add_to_group(self, connection_id: str, group: str) -> None: ...

    async def remove_from_group(self, connection_id: str, group: str) -> None: ...


class ClientProxy:
    """The clients of one audience."""

    __slots__ = ("_audience", "_sender")

    def __init__(self, sender: Sender, audience: Audience) -> None:
        self._sender = sender
        self._audience = audience

    async def send(self, target: str, *arguments: Any) -> None:
        """Calls ``target`` on these clients; does not wait for them.

        Waits while the line to the service is full. Raises ConnectionClosed when there is no
        connection to the service, TypeError or ValueError for arguments that cannot be encoded.
        """
        await self._sender.send(self._audience, target, arguments)


class SingleClientProxy(ClientProxy):
    """One client, which can be asked for a result."""

    __slots__ = ()

    async def invoke(self, target: str, *arguments: Any, timeout: float = math.inf) -> Any:
        """Calls ``target`` on the client and waits for what its handler returns.

        A hub method that waits gives up its place, so that the client's next calls may run: the
        handler may call the hub itself. Cancelled, it asks no more; the handler runs on.

        Raises:
            ClientResultError: the handler raised, there is none, the client does not exist or has
                gone, or it did not answer within ``timeout`` s.
            ConnectionClosed: there is no connection to the service, or it was lost meanwhile.
            TypeError, ValueError: an argument cannot be encoded.
        """
        (connection_id,) = self._audience.names
        return await self._sender.invoke(connection_id, target, arguments, timeout)


class HubClients:
    """The clients of a hub.

    Ids of connections and users, and names of groups are str; anything else raises TypeError.
    """

    __slots__ = ("_sender",)

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    @property
    def all(self) -> ClientProxy:
        return self._proxy(AudienceKind.ALL)

    def all_except(self, excluded: Iterable[str]) -> ClientProxy:
        """Everyone but these connections."""
        return self._proxy(AudienceKind.ALL, excluded=excluded)

    def client(self, connection_id: str) -> SingleClientProxy:
        names = _checked((connection_id,))
        return SingleClientProxy(self._sender, Audience(AudienceKind.CONNECTIONS, names))

    def clients(self, connection_ids: Iterable[str]) -> ClientProxy:
        return self._proxy(AudienceKind.CONNECTIONS, connection_ids)

    def user(self, user_id: str) -> ClientProxy:
        return self._proxy(AudienceKind.USERS, [user_id])

    def users(self, user_ids: Iterable[str]) -> ClientProxy:
        return self._proxy(AudienceKind.USERS, user_ids)

    def group(self, name: str) -> ClientProxy:
        return self._proxy(AudienceKind.GROUPS, [name])

    def groups(self, names: Iterable[str]) -> ClientProxy:
        return self._proxy(AudienceKind.GROUPS, names)

    def group_except(self, name: str, excluded: Iterable[str]) -> ClientProxy:
        """A group without these connections."""
        return self._proxy(AudienceKind.GROUPS, [name], excluded)

    def _proxy(
        self, kind: AudienceKind, names: Iterable[str] = (), excluded: Iterable[str] = ()
    ) -> ClientProxy:
        return ClientProxy(self._sender, Audience(kind, _checked(names), _checked(excluded)))


class HubCallerClients(HubClients):
    """The clients of a hub, as a call of one of them sees them."""

    __slots__ = ("_caller_id",)

    def __init__(self, sender: Sender, caller_id: str) -> None:
        super().__init__(sender)
        self._caller_id = caller_id

    @property
    def caller(self) -> SingleClientProxy:
        return self.client(self._caller_id)

    @property
    def others(self) -> ClientProxy:
        return self.all_except([self._caller_id])

    def others_in_group(self, name: str) -> ClientProxy:
        return self.group_except(name, [self._caller_id])


class GroupManager:
    """Who is in which group of a hub. A client leaves all its groups when it goes."""

    __slots__ = ("_sender",)

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def add_to_group(self, connection_id: str, group: str) -> None:
        """Returns when the service has made the change, or the connection is gone.

        Raises ConnectionClosed when the service was lost or did not answer, TypeError for a name
        that is no str.
        """
        await self._sender.add_to_group(*_checked((connection_id, group)))

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        """As ``add_to_group``."""
        await self._sender.remove_from_group(*_checked((connection_id, group)))


class HubContext:
    """A hub as seen from outside its calls: background tasks, shutdown hooks."""

    def __init__(self, sender: Sender) -> None:
        self.clients = HubClients(sender)
        self.groups = GroupManager(sender)


class Hub:
    """Base class of hubs. Its attributes are there in every call."""

    context: HubCallerContext
    clients: HubCallerClients
    groups: GroupManager

    async def on_connected(self) -> None:
        """A client has come. If this raises, the client is closed."""

    async def on_disconnected(self, error: Exception | None) -> None:
        """A client whose ``on_connected`` returned has gone: once, after its last call has ended.

        ``error`` is None where it left in order, or is being migrated.
        """
