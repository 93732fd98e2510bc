"""The messages of the Azure SignalR service protocol, as values, with the names they use.

They travel between a hub server and the service; ``service_protocol`` turns them into bytes and
back. Classes are named as in the Azure SignalR SDK, without its suffix ``Message``. Constructor
arguments stand in the order of the wire, extension members (``data_type``, ``is_partial``,
``ttl``, ``protocol``, ``filter``, ``tracing_id``) at the end. Shapes that recur:

* claims: ``[(type, value), ...]`` in order; a type may occur more than once;
* headers: ``{name: [value or None, ...]}``; names compare without case, see ``header``;
* payloads: ``{hub protocol name: one encoded hub message}``;
* ``tracing_id``: an unsigned 64 bit number, or None.

The classes are not frozen because they are built on every message's path: treat them as immutable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final

import attrs
from msgpack import Timestamp  # pyright: ignore[reportMissingTypeStubs]

# ---------------------------------------------------------------------------------------------
# Names and numbers

# Keys and values of pings.
STATUS: Final = "status"
CLIENT_COUNT: Final = "clientcount"
SERVER_COUNT: Final = "servercount"
CAPACITY: Final = "capacity"
SERVERS: Final = "servers"
SHUTDOWN: Final = "shutdown"
FIN_OFF: Final = "fin:0"
FIN_MIGRATE: Final = "fin:1"
FIN_WAIT: Final = "fin:2"
FINACK: Final = "finack"
OFFLINE: Final = "offline"
TARGET: Final = "target"
ECHO: Final = "echo"
MESSAGE_LOG: Final = "d-m"
CLIENTS_IN_PROCESS: Final = "#clientInHub"
CLIENTS_ON_CONNECTION: Final = "#client"

# Headers of OpenConnection and CloseConnection.
MIGRATE_FROM: Final = "Asrs-Migrate-From"
MIGRATE_TO: Final = "Asrs-Migrate-To"
INSTANCE_ID: Final = "Asrs-Instance-Id"
DIAGNOSTIC_CLIENT: Final = "Asrs-Is-Diagnostic-Client"
FORWARDED_FOR: Final = "X-Forwarded-For"

PROTOCOL_VERSION: Final = 1

NO_EXPIRY: Final = Timestamp(253402300799, 999999900)
"""``RefreshAuth.expire_time`` of a login that does not expire (.NET: DateTimeOffset.MaxValue)."""


class ConnectionType(IntEnum):
    """What a server connection is for (``HandshakeRequest``)."""

    DEFAULT = 0
    ON_DEMAND = 1
    WEAK = 2


class MigrationLevel(IntEnum):
    """When the server lets its clients be moved to another server (``HandshakeRequest``)."""

    OFF = 0
    SHUTDOWN_ONLY = 1
    ANY = 2


class DataMessageType(IntEnum):
    """What hub message a ``ConnectionData`` holds."""

    UNKNOWN = 0
    HANDSHAKE = 1
    INVOCATION = 2
    """An invocation, a stream item, a completion or a cancellation."""
    OTHER = 3
    """A ping, an ack or a sequence message."""
    CLOSE = 4


class FlowControlConnectionType(IntEnum):
    """Whose connection a ``ConnectionFlowControl`` names."""

    CLIENT = 1
    SERVER = 2


class FlowControlOperation(IntEnum):
    """What a ``ConnectionFlowControl`` asks for, or confirms."""

    PAUSE = 1
    PAUSE_ACK = 2
    RESUME = 3
    OFFLINE = 4


class AckStatus(IntEnum):
    """How what an ``Ack`` answers has ended."""

    OK = 1
    NOT_FOUND = 2
    TIMEOUT = 3
    INTERNAL_SERVER_ERROR = 4
    FORBIDDEN = 5


class ServiceEventObjectType(IntEnum):
    """What a ``ServiceEvent`` is about."""

    SERVICE_INSTANCE = 0
    CONNECTION = 1
    USER = 2
    GROUP = 3
    SERVER_CONNECTION = 4


class ServiceEventKind(IntEnum):
    """What a ``ServiceEvent`` says of its object."""

    RELOADING = 0
    INVALID = 1
    NOT_EXISTED = 2
    BUFFER_FULL = 3


Claims = list[tuple[str, str]]
Headers = dict[str, list[str | None]]
Payloads = dict[str, bytes]


def header(headers: Mapping[str, Sequence[str | None]], name: str) -> str | None:
    """The first value of the header ``name``, whatever its case; None without one."""
    wanted = name.lower()
    for key, values in headers.items():
        if key.lower() == wanted:
            return values[0] if values else None
    return None


def _no_strings() -> list[str]:
    return []


def _no_claims() -> Claims:
    return []


def _no_headers() -> Headers:
    return {}


@attrs.define
class ServiceMessage:
    """The base of all messages of the service protocol."""


# ---------------------------------------------------------------------------------------------
# The server connection itself


@attrs.define
class HandshakeRequest(ServiceMessage):
    """1: the server's first message on a connection. None as ``target`` is written as ""."""

    version: int = PROTOCOL_VERSION
    connection_type: int = ConnectionType.DEFAULT
    target: str | None = None
    migration_level: int = MigrationLevel.OFF
    allow_stateful_reconnects: bool = False


@attrs.define
class HandshakeResponse(ServiceMessage):
    """2: the service's answer; an ``error_message`` of None or "" means success."""

    error_message: str | None = None
    connection_id: str | None = None


@attrs.define
class Ping(ServiceMessage):
    """3: keep-alive, and carrier of small control messages: a flat run of keys and values."""

    values: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, *values: str | None) -> Ping:
        """``Ping.of(key, value, key, value, ...)``"""
        return cls(values)

    def get(self, key: str) -> str | None:
        """The value of the first pair with this key; None without one."""
        values = self.values
        for index in range(0, len(values) - 1, 2):
            if values[index] == key:
                return values[index + 1]
        return None


@attrs.define
class ServiceError(ServiceMessage):
    """15: the service can no longer use this server connection for sending."""

    error_message: str | None


@attrs.define
class ServiceEvent(ServiceMessage):
    """22: a warning of the service, to be logged. ``type`` is a ServiceEventObjectType."""

    type: int
    id: str | None
    kind: int
    message: str | None


@attrs.define
class AccessKeyRequest(ServiceMessage):
    """28: the server asks, with its Entra ID token, whether its access key is still good."""

    token: str | None
    kid: str | None = None


@attrs.define
class AccessKeyResponse(ServiceMessage):
    """29: the answer to ``AccessKeyRequest``."""

    kid: str | None = None
    access_key: str | None = None
    error_type: str | None = None
    error_message: str | None = None


# ---------------------------------------------------------------------------------------------
# One client connection


@attrs.define
class OpenConnection(ServiceMessage):
    """4: a client has connected. The SDK needs ``protocol``, the hub protocol's name."""

    connection_id: str
    claims: Claims = attrs.field(factory=_no_claims)
    headers: Headers = attrs.field(factory=_no_headers)
    query_string: str | None = ""
    protocol: str | None = None
    tracing_id: int | None = None


@attrs.define
class CloseConnection(ServiceMessage):
    """5: a client connection has ended or, to the server, is to end or to migrate."""

    connection_id: str
    error_message: str = ""
    headers: Headers = attrs.field(factory=_no_headers)
    tracing_id: int | None = None


@attrs.define
class ConnectionData(ServiceMessage):
    """6: bytes of one client connection. ``data_type`` is a DataMessageType."""

    connection_id: str
    payload: bytes
    data_type: int = 0
    is_partial: bool = False
    tracing_id: int | None = None


@attrs.define
class ConnectionReconnect(ServiceMessage):
    """38: the client has reconnected: drop what partial data there is of it."""

    connection_id: str


@attrs.define
class ConnectionFlowControl(ServiceMessage):
    """39: pause, resume or offline of a client or a server connection."""

    connection_id: str
    connection_type: FlowControlConnectionType
    operation: FlowControlOperation


# ---------------------------------------------------------------------------------------------
# Sends


@attrs.define
class MultiConnectionData(ServiceMessage):
    """7: to these connections."""

    connection_list: list[str]
    payloads: Payloads
    filter: str | None = None
    tracing_id: int | None = None


@attrs.define
class UserData(ServiceMessage):
    """8: to all connections of a user."""

    user_id: str
    payloads: Payloads
    filter: str | None = None
    tracing_id: int | None = None


@attrs.define
class MultiUserData(ServiceMessage):
    """9: to all connections of these users."""

    user_list: list[str]
    payloads: Payloads
    filter: str | None = None
    tracing_id: int | None = None


@attrs.define
class BroadcastData(ServiceMessage):
    """10: to all connections of the hub but those in ``excluded_list``."""

    excluded_list: list[str]
    payloads: Payloads
    filter: str | None = None
    tracing_id: int | None = None


@attrs.define
class GroupBroadcastData(ServiceMessage):
    """13: to a group but the connections in ``excluded_list`` and the users excluded."""

    group_name: str
    excluded_list: list[str]
    payloads: Payloads
    excluded_user_list: list[str] = attrs.field(factory=_no_strings)
    caller_user_id: str | None = None
    filter: str | None = None
    tracing_id: int | None = None


@attrs.define
class MultiGroupBroadcastData(ServiceMessage):
    """14: to these groups."""

    group_list: list[str]
    payloads: Payloads
    filter: str | None = None
    tracing_id: int | None = None


# ---------------------------------------------------------------------------------------------
# Groups


@attrs.define
class JoinGroup(ServiceMessage):
    """11: adds a connection to a group."""

    connection_id: str
    group_name: str
    tracing_id: int | None = None


@attrs.define
class LeaveGroup(ServiceMessage):
    """12: takes a connection out of a group; None: out of all."""

    connection_id: str
    group_name: str | None
    tracing_id: int | None = None


@attrs.define
class UserJoinGroup(ServiceMessage):
    """16: adds a user to a group, for ``ttl`` seconds or for good."""

    user_id: str
    group_name: str
    ttl: int | None = None
    tracing_id: int | None = None


@attrs.define
class UserLeaveGroup(ServiceMessage):
    """17: takes a user out of a group; None: out of all."""

    user_id: str
    group_name: str | None
    tracing_id: int | None = None


@attrs.define
class JoinGroupWithAck(ServiceMessage):
    """18: ``JoinGroup``, answered by an ``Ack``."""

    connection_id: str
    group_name: str
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class LeaveGroupWithAck(ServiceMessage):
    """19: ``LeaveGroup``, answered by an ``Ack``."""

    connection_id: str
    group_name: str | None
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class UserJoinGroupWithAck(ServiceMessage):
    """26: ``UserJoinGroup``, answered by an ``Ack``."""

    user_id: str
    group_name: str
    ack_id: int
    ttl: int | None = None
    tracing_id: int | None = None


@attrs.define
class UserLeaveGroupWithAck(ServiceMessage):
    """27: ``UserLeaveGroup``, answered by an ``Ack``."""

    user_id: str
    group_name: str | None
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class GroupMemberQuery(ServiceMessage):
    """40: asks for a page of a group's members; the ``Ack`` carries a ``GroupMemberPage``.

    ``top`` is how many are wanted in all, ``max_page_size`` how many at a time.
    """

    group_name: str
    ack_id: int
    top: int | None = None
    continuation_token: str | None = None
    max_page_size: int | None = None
    tracing_id: int | None = None


@attrs.define
class GroupMemberPage:
    """The payload of the ``Ack`` to a ``GroupMemberQuery``: (connection id, user id or None)."""

    members: list[tuple[str, str | None]]
    continuation_token: str | None = None


# ---------------------------------------------------------------------------------------------
# Questions and orders with an ack


@attrs.define
class Ack(ServiceMessage):
    """20: the answer to a message with an ``ack_id``. ``status`` is an AckStatus.

    ``payload`` is msgpack whose meaning depends on the question. ``message`` is deprecated.
    """

    ack_id: int
    status: int
    message: str | None = ""
    payload: bytes | None = None


@attrs.define
class CheckUserInGroupWithAck(ServiceMessage):
    """21: is the user in the group?"""

    user_id: str
    group_name: str
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class CheckGroupExistenceWithAck(ServiceMessage):
    """23: has the group a member?"""

    group_name: str
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class CheckConnectionExistenceWithAck(ServiceMessage):
    """24: is the connection there?"""

    connection_id: str
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class CheckUserExistenceWithAck(ServiceMessage):
    """25: has the user a connection?"""

    user_id: str
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class CloseConnectionWithAck(ServiceMessage):
    """30: closes a client connection (obsolete)."""

    connection_id: str
    reason: str | None
    ack_id: int
    tracing_id: int | None = None


@attrs.define
class CloseConnectionsWithAck(ServiceMessage):
    """31: closes all client connections but those excluded (obsolete)."""

    reason: str | None
    ack_id: int
    excluded_list: list[str] = attrs.field(factory=_no_strings)
    tracing_id: int | None = None


@attrs.define
class CloseUserConnectionsWithAck(ServiceMessage):
    """32: closes a user's connections but those excluded."""

    user_id: str
    reason: str | None
    ack_id: int
    excluded_list: list[str] = attrs.field(factory=_no_strings)
    tracing_id: int | None = None


@attrs.define
class CloseGroupConnectionsWithAck(ServiceMessage):
    """33: closes a group's connections but those excluded."""

    group_name: str
    reason: str | None
    ack_id: int
    excluded_list: list[str] = attrs.field(factory=_no_strings)
    tracing_id: int | None = None


# ---------------------------------------------------------------------------------------------
# Client results


@attrs.define
class ClientInvocation(ServiceMessage):
    """34: a server invokes a method of a client, and awaits its result."""

    invocation_id: str
    connection_id: str
    caller_server_id: str
    payloads: Payloads
    tracing_id: int | None = None


@attrs.define
class ClientCompletion(ServiceMessage):
    """35: the client's answer, in the hub protocol ``protocol``.

    Route it by ``invocation_id``: ``caller_server_id`` is the sender's own id in the SDK.
    """

    invocation_id: str
    connection_id: str
    caller_server_id: str
    protocol: str | None
    payload: bytes
    tracing_id: int | None = None


@attrs.define
class ErrorCompletion(ServiceMessage):
    """36: the client cannot answer, it has left for example."""

    invocation_id: str
    connection_id: str
    caller_server_id: str
    error: str | None
    tracing_id: int | None = None


@attrs.define
class ServiceMapping(ServiceMessage):
    """37: which service instance an invocation belongs to."""

    invocation_id: str
    connection_id: str
    instance_id: str


# ---------------------------------------------------------------------------------------------
# Claims of a running client connection


@attrs.define
class RefreshAuth(ServiceMessage):
    """41: new claims and a new expiry for a client; the ``Ack`` carries its former claims."""

    connection_token: str
    claims: Claims
    expire_time: Timestamp
    ack_id: int


@attrs.define
class GetConnectionClaims(ServiceMessage):
    """42: asks for a client's claims, which the ``Ack`` carries."""

    connection_token: str
    ack_id: int


@attrs.define
class UpdateConnectionClaims(ServiceMessage):
    """43: tells the client's server that its claims have changed."""

    connection_id: str
    claims: Claims
