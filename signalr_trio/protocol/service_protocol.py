"""Bytes to service messages and back: the Azure SignalR service protocol, version 1.

A frame is a length prefix (see ``framing``) and a body, a MessagePack array whose first element
is the type id. ``_LAYOUTS`` says for each message which elements follow; reading and writing are
done from it. The layouts are those of SDK 1.34 (its ServiceProtocol.cs); shorter arrays of older
versions are read too.

What is read is checked strictly, since one side's mistake must not become the other's: a wrong
type, a nil where none may stand, a missing element or a map with a name twice is an error. What
may be new is passed over: unknown types, elements and bytes behind those known, and extensions
that are unknown or do not belong to the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol, cast

import attrs
import msgpack  # pyright: ignore[reportMissingTypeStubs]

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol.framing import prefixed
from signalr_trio.protocol.service_messages import Claims, GroupMemberPage, ServiceMessage

__all__ = [
    "parse",
    "read_claims",
    "read_group_member_page",
    "write",
    "write_claims",
    "write_group_member_page",
]

_INT32: Final = range(-(2**31), 2**31)
_UINT64: Final = range(2**64)
_KIND_NAMES: Final[dict[type, str]] = {
    list: "array",
    tuple: "map",
    str: "string",
    bytes: "binary",
    type(None): "nil",
}
# A fresh Packer takes 256 KiB unless told otherwise; it grows when it has to.
_PACK_BUFFER: Final = 1024


def parse(body: bytes | memoryview) -> ServiceMessage | None:
    """The message in a frame's body (without its length prefix); None for an unknown type.

    Raises ProtocolError, and nothing else, for bytes that are no service message.
    """
    values = _unpack(body)
    if type(values) is not list or not values:
        raise ProtocolError("A service message must be an array with a type id.")
    values = cast("list[object]", values)
    type_id = values[0]
    if type(type_id) is not int:
        raise ProtocolError(f"A service message's type id must be an int, not {_kind(type_id)}.")
    reader = _READERS.get(type_id)
    return None if reader is None else reader(values)


def write(message: ServiceMessage) -> bytes:
    """The message as a whole frame, length prefix included."""
    return prefixed(_WRITERS[type(message)](message))


def read_group_member_page(payload: bytes) -> GroupMemberPage:
    """The payload of the Ack to a GroupMemberQuery. Raises ProtocolError."""
    page = _unpack(payload)
    if type(page) is not list or len(page := cast("list[object]", page)) < 2:
        raise ProtocolError("A group member page must be an array of members and a token.")
    try:
        members = [_read_member(member) for member in _read_array(page[0])]
        return GroupMemberPage(members, _read_optional_string(page[1]))
    except ProtocolError as error:
        raise ProtocolError(f"A group member page's members or token {error}") from None


def write_group_member_page(page: GroupMemberPage) -> bytes:
    """The Ack payload that ``read_group_member_page`` reads."""
    return _pack([page.members, page.continuation_token])


def read_claims(payload: bytes) -> Claims:
    """The payload of the Ack to RefreshAuth or GetConnectionClaims. Raises ProtocolError."""
    value = _unpack(payload)
    if value is None:
        return []
    try:
        return _read_claims(value)
    except ProtocolError as error:
        raise ProtocolError(f"The claims of an ack {error}") from None


def write_claims(claims: Claims) -> bytes:
    """The Ack payload that ``read_claims`` reads; no claims are written as nil."""
    packer = _packer()
    if claims:
        _pack_claims(packer, claims)
    else:
        packer.pack(None)
    return packer.bytes()


# ---------------------------------------------------------------------------------------------
# MessagePack


class _Packer(Protocol):
    """What is used of msgpack.Packer, which comes without types."""

    def pack(self, obj: object) -> object: ...
    def pack_array_header(self, size: int) -> object: ...
    def pack_map_pairs(self, pairs: Claims) -> object: ...
    def bytes(self) -> bytes: ...


_unpackb = cast("Callable[..., object]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType]
_new_packer = cast("Callable[..., _Packer]", msgpack.Packer)  # pyright: ignore[reportUnknownMemberType]


def _packer() -> _Packer:
    return _new_packer(autoreset=False, buf_size=_PACK_BUFFER)


def _pack(value: object) -> bytes:
    packer = _packer()
    packer.pack(value)
    return packer.bytes()


def _unpack(data: bytes | memoryview) -> object:
    """The first MessagePack value; what stands behind it is ignored. Arrays come as lists.

    Maps come as tuples of pairs: a claim may occur more than once, a payload's name may not, and
    a dict would hide both. Keys that cannot be hashed do no harm that way either. A MemoryError
    comes of a declared length, not of data that are here.
    """
    try:
        return _unpackb(data, strict_map_key=False, object_pairs_hook=tuple)
    except msgpack.ExtraData as extra:
        return cast("object", extra.unpacked)
    except (ValueError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise ProtocolError(f"A service message must be MessagePack: {reason}") from error


def _kind(value: object) -> str:
    """A value's type for error texts, in MessagePack's words."""
    return _KIND_NAMES.get(type(value), type(value).__name__)


def _mismatch(expected: str, value: object) -> ProtocolError:
    """The second half of an error text; who knows message and element puts the first before it."""
    return ProtocolError(f"must be {expected}, not {_kind(value)}")


# ---------------------------------------------------------------------------------------------
# Kinds of elements


def _read_string(value: object) -> str:
    if type(value) is str:
        return value
    raise _mismatch("a string", value)


def _read_optional_string(value: object) -> str | None:
    if value is None or type(value) is str:
        return value
    raise _mismatch("a string or nil", value)


def _read_text(value: object) -> str:
    return _read_optional_string(value) or ""


def _read_integer(value: object, allowed: range, name: str) -> int:
    # A bool is an int to Python, not to MessagePack.
    if type(value) is not int:
        raise _mismatch(name, value)
    if value not in allowed:
        raise ProtocolError(f"must be {name}, not {value}")
    return value


def _read_int32(value: object) -> int:
    return _read_integer(value, _INT32, "an int32")


def _read_optional_int32(value: object) -> int | None:
    return None if value is None else _read_int32(value)


def _read_uint64(value: object) -> int:
    return _read_integer(value, _UINT64, "a uint64")


def _read_bool(value: object) -> bool:
    if type(value) is bool:
        return value
    raise _mismatch("a bool", value)


def _read_optional_binary(value: object) -> bytes | None:
    if value is None or type(value) is bytes:
        return value
    raise _mismatch("binary", value)


def _read_binary(value: object) -> bytes:
    return _read_optional_binary(value) or b""


def _read_array(value: object) -> list[object]:
    if type(value) is list:
        return cast("list[object]", value)
    raise _mismatch("an array", value)


def _read_strings(value: object) -> list[str]:
    """.NET leaves nil elements out."""
    return [_read_string(item) for item in _read_array(value) if item is not None]


def _read_optional_strings(value: object) -> list[str | None]:
    return [_read_optional_string(item) for item in _read_array(value)]


def _read_map(value: object) -> tuple[tuple[object, object], ...]:
    if type(value) is tuple:
        return cast("tuple[tuple[object, object], ...]", value)
    raise _mismatch("a map", value)


def _read_payloads(value: object) -> dict[str, bytes]:
    pairs = _read_map(value)
    payloads = {_read_string(name): _read_binary(payload) for name, payload in pairs}
    if len(payloads) != len(pairs):
        raise ProtocolError("must not have a name twice")
    return payloads


def _read_headers(value: object) -> dict[str, list[str | None]]:
    pairs = _read_map(value)
    headers = {_read_string(name): _read_optional_strings(values) for name, values in pairs}
    if len({name.lower() for name in headers}) != len(pairs):
        raise ProtocolError("must not have a name twice")
    return headers


def _read_claims(value: object) -> Claims:
    return [(_read_string(name), _read_string(claim)) for name, claim in _read_map(value)]


def _read_timestamp(value: object) -> msgpack.Timestamp:
    if isinstance(value, msgpack.Timestamp):
        return value
    raise _mismatch("a timestamp", value)


def _read_flow_type(value: object) -> m.FlowControlConnectionType:
    try:
        return m.FlowControlConnectionType(_read_int32(value))
    except ValueError:
        raise ProtocolError(f"must be 1 or 2, not {value}") from None


def _read_flow_operation(value: object) -> m.FlowControlOperation:
    try:
        return m.FlowControlOperation(_read_int32(value))
    except ValueError:
        raise ProtocolError(f"must be 1 to 4, not {value}") from None


def _read_member(value: object) -> tuple[str, str | None]:
    member = _read_array(value)
    if len(member) < 2:
        raise ProtocolError("must have a connection id and a user id each")
    return _read_string(member[0]), _read_optional_string(member[1])


def _pack_plain(packer: _Packer, value: object) -> None:
    packer.pack(value)


def _pack_text(packer: _Packer, value: object) -> None:
    packer.pack("" if value is None else value)


def _pack_claims(packer: _Packer, value: object) -> None:
    packer.pack_map_pairs(cast("Claims", value))


@attrs.frozen
class _Kind:
    """How values of one kind are checked, and written. ``read`` may raise half a ProtocolError."""

    read: Callable[[object], object]
    pack: Callable[[_Packer, object], None] = _pack_plain


_STRING = _Kind(_read_string)
_OPTIONAL_STRING = _Kind(_read_optional_string)
_TEXT = _Kind(_read_text, _pack_text)  # nil reads as ""
_TARGET = _Kind(_read_optional_string, _pack_text)  # nil is never written
_INTEGER = _Kind(_read_int32)
_OPTIONAL_INTEGER = _Kind(_read_optional_int32)
_BOOL = _Kind(_read_bool)
_BINARY = _Kind(_read_binary)
_OPTIONAL_BINARY = _Kind(_read_optional_binary)
_STRINGS = _Kind(_read_strings)
_PAYLOADS = _Kind(_read_payloads)
_HEADERS = _Kind(_read_headers)
_CLAIMS = _Kind(_read_claims, _pack_claims)
_TIMESTAMP = _Kind(_read_timestamp)
_FLOW_TYPE = _Kind(_read_flow_type)
_FLOW_OPERATION = _Kind(_read_flow_operation)

# ---------------------------------------------------------------------------------------------
# Layouts


@attrs.frozen
class _Element:
    """An element of a message's array, and the attribute it becomes.

    ``since``: it is read only from arrays of at least this length; 0: it must be there.
    """

    name: str
    kind: _Kind
    since: int = 0

    def read(self, value: object, fields: dict[str, object]) -> None:
        fields[self.name] = self.kind.read(value)

    def pack(self, packer: _Packer, message: ServiceMessage) -> None:
        self.kind.pack(packer, getattr(message, self.name))


# Extension members in the order of their keys: (key, kind, the value that is not written).
_EXTENSIONS: Final = {
    "tracing_id": (1, _Kind(_read_uint64), None),
    "ttl": (2, _INTEGER, None),
    "protocol": (3, _OPTIONAL_STRING, None),
    "filter": (4, _OPTIONAL_STRING, None),
    "data_type": (5, _INTEGER, 0),
    "is_partial": (6, _BOOL, False),
}


@attrs.frozen
class _Extensions:
    """The map of extension members: those named are of use to the message."""

    since: int
    members: tuple[str, ...]
    by_key: dict[int, tuple[str, _Kind]]
    name: str = "extensions"

    def read(self, value: object, fields: dict[str, object]) -> None:
        for key, item in _read_map(value):
            if type(key) is not int:
                raise ProtocolError(f"must have ints as keys, not {_kind(key)}")
            member = self.by_key.get(key)
            if member is None:
                continue
            name, kind = member
            try:
                fields[name] = kind.read(item)
            except ProtocolError as error:
                raise ProtocolError(f"member {name} {error}") from None

    def pack(self, packer: _Packer, message: ServiceMessage) -> None:
        extensions: dict[int, object] = {}
        for name in self.members:
            key, _, absent = _EXTENSIONS[name]
            value = getattr(message, name)
            if value != absent:
                extensions[key] = value
        packer.pack(extensions)


def _x(since: int, *members: str) -> _Extensions:
    by_key = {_EXTENSIONS[name][0]: (name, _EXTENSIONS[name][1]) for name in members}
    return _Extensions(since, members, by_key)


@attrs.frozen
class _Layout:
    """A message's type id, class and elements (the type id, element 0, not counted)."""

    type_id: int
    message: type[ServiceMessage]
    elements: tuple[_Element | _Extensions, ...]

    @property
    def name(self) -> str:
        """The class's name in snake case, for error texts."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.message.__name__).lower()

    def read(self, values: list[object]) -> ServiceMessage:
        length = len(values)
        fields: dict[str, object] = {}
        for index, element in enumerate(self.elements, 1):
            if length < (element.since or index + 1):
                if element.since:
                    continue
                raise ProtocolError(
                    f"{self.name}: {element.name} is missing from an array of length {length}"
                )
            try:
                element.read(values[index], fields)
            except ProtocolError as error:
                raise ProtocolError(f"{self.name}: {element.name} {error}") from None
        return cast("Callable[..., ServiceMessage]", self.message)(**fields)

    def write(self, message: ServiceMessage) -> bytes:
        packer = _packer()
        packer.pack_array_header(len(self.elements) + 1)
        packer.pack(self.type_id)
        for element in self.elements:
            element.pack(packer, message)
        return packer.bytes()


_CONNECTION_ID = _Element("connection_id", _STRING)
_USER_ID = _Element("user_id", _STRING)
_GROUP_NAME = _Element("group_name", _STRING)
_ANY_GROUP_NAME = _Element("group_name", _OPTIONAL_STRING)  # nil: all groups
_ACK_ID = _Element("ack_id", _INTEGER)
_REASON = _Element("reason", _OPTIONAL_STRING)
_EXCLUDED_LIST = _Element("excluded_list", _STRINGS)
_PAYLOAD_MAP = _Element("payloads", _PAYLOADS)
_CLAIM_MAP = _Element("claims", _CLAIMS)
_CONNECTION_TOKEN = _Element("connection_token", _STRING)
_INVOCATION = (
    _Element("invocation_id", _STRING),
    _CONNECTION_ID,
    _Element("caller_server_id", _STRING),
)

# fmt: off
_LAYOUTS: Final = (
    _Layout(1, m.HandshakeRequest, (
        _Element("version", _INTEGER),
        _Element("connection_type", _INTEGER, 4),
        _Element("target", _TARGET, 4),
        _Element("migration_level", _INTEGER, 5),
        _x(6),
        _Element("allow_stateful_reconnects", _BOOL, 7),
    )),
    _Layout(2, m.HandshakeResponse, (
        _Element("error_message", _OPTIONAL_STRING),
        _x(3),
        _Element("connection_id", _OPTIONAL_STRING, 4),
    )),
    _Layout(4, m.OpenConnection, (
        _CONNECTION_ID,
        _CLAIM_MAP,
        _Element("headers", _HEADERS, 5),
        _Element("query_string", _OPTIONAL_STRING, 5),
        _x(6, "tracing_id", "protocol"),
    )),
    _Layout(5, m.CloseConnection, (
        _CONNECTION_ID,
        _Element("error_message", _TEXT),
        _Element("headers", _HEADERS, 4),
        _x(5, "tracing_id"),
    )),
    _Layout(6, m.ConnectionData, (
        _CONNECTION_ID,
        _Element("payload", _BINARY),
        _x(4, "tracing_id", "data_type", "is_partial"),
    )),
    _Layout(7, m.MultiConnectionData, (
        _Element("connection_list", _STRINGS), _PAYLOAD_MAP, _x(4, "tracing_id", "filter"),
    )),
    _Layout(8, m.UserData, (_USER_ID, _PAYLOAD_MAP, _x(4, "tracing_id", "filter"))),
    _Layout(9, m.MultiUserData, (
        _Element("user_list", _STRINGS), _PAYLOAD_MAP, _x(4, "tracing_id", "filter"),
    )),
    _Layout(10, m.BroadcastData, (_EXCLUDED_LIST, _PAYLOAD_MAP, _x(4, "tracing_id", "filter"))),
    _Layout(11, m.JoinGroup, (_CONNECTION_ID, _GROUP_NAME, _x(4, "tracing_id"))),
    _Layout(12, m.LeaveGroup, (_CONNECTION_ID, _ANY_GROUP_NAME, _x(4, "tracing_id"))),
    _Layout(13, m.GroupBroadcastData, (
        _GROUP_NAME,
        _EXCLUDED_LIST,
        _PAYLOAD_MAP,
        _x(5, "tracing_id", "filter"),
        _Element("excluded_user_list", _STRINGS, 7),
        _Element("caller_user_id", _OPTIONAL_STRING, 7),
    )),
    _Layout(14, m.MultiGroupBroadcastData, (
        _Element("group_list", _STRINGS), _PAYLOAD_MAP, _x(4, "tracing_id", "filter"),
    )),
    _Layout(15, m.ServiceError, (_Element("error_message", _OPTIONAL_STRING),)),
    _Layout(16, m.UserJoinGroup, (_USER_ID, _GROUP_NAME, _x(4, "tracing_id", "ttl"))),
    _Layout(17, m.UserLeaveGroup, (_USER_ID, _ANY_GROUP_NAME, _x(4, "tracing_id"))),
    _Layout(18, m.JoinGroupWithAck, (_CONNECTION_ID, _GROUP_NAME, _ACK_ID, _x(5, "tracing_id"))),
    _Layout(19, m.LeaveGroupWithAck, (
        _CONNECTION_ID, _ANY_GROUP_NAME, _ACK_ID, _x(5, "tracing_id"),
    )),
    _Layout(20, m.Ack, (
        _ACK_ID,
        _Element("status", _INTEGER),
        _Element("message", _OPTIONAL_STRING),
        _x(5),
        _Element("payload", _OPTIONAL_BINARY, 6),
    )),
    _Layout(21, m.CheckUserInGroupWithAck, (_USER_ID, _GROUP_NAME, _ACK_ID, _x(5, "tracing_id"))),
    _Layout(22, m.ServiceEvent, (
        _Element("type", _INTEGER),
        _Element("id", _OPTIONAL_STRING),
        _Element("kind", _INTEGER),
        _Element("message", _OPTIONAL_STRING),
        _x(0),
    )),
    _Layout(23, m.CheckGroupExistenceWithAck, (_GROUP_NAME, _ACK_ID, _x(0, "tracing_id"))),
    _Layout(24, m.CheckConnectionExistenceWithAck, (_CONNECTION_ID, _ACK_ID, _x(0, "tracing_id"))),
    _Layout(25, m.CheckUserExistenceWithAck, (_USER_ID, _ACK_ID, _x(0, "tracing_id"))),
    _Layout(26, m.UserJoinGroupWithAck, (
        _USER_ID, _GROUP_NAME, _ACK_ID, _x(0, "tracing_id", "ttl"),
    )),
    _Layout(27, m.UserLeaveGroupWithAck, (_USER_ID, _ANY_GROUP_NAME, _ACK_ID, _x(0, "tracing_id"))),
    _Layout(28, m.AccessKeyRequest, (
        _Element("token", _OPTIONAL_STRING), _Element("kid", _OPTIONAL_STRING), _x(0),
    )),
    _Layout(29, m.AccessKeyResponse, (
        _Element("kid", _OPTIONAL_STRING),
        _Element("access_key", _OPTIONAL_STRING),
        _Element("error_type", _OPTIONAL_STRING),
        _Element("error_message", _OPTIONAL_STRING),
        _x(0),
    )),
    _Layout(30, m.CloseConnectionWithAck, (_CONNECTION_ID, _REASON, _ACK_ID, _x(5, "tracing_id"))),
    _Layout(31, m.CloseConnectionsWithAck, (_REASON, _ACK_ID, _EXCLUDED_LIST, _x(5, "tracing_id"))),
    _Layout(32, m.CloseUserConnectionsWithAck, (
        _USER_ID, _REASON, _ACK_ID, _EXCLUDED_LIST, _x(6, "tracing_id"),
    )),
    _Layout(33, m.CloseGroupConnectionsWithAck, (
        _GROUP_NAME, _REASON, _ACK_ID, _EXCLUDED_LIST, _x(6, "tracing_id"),
    )),
    _Layout(34, m.ClientInvocation, (*_INVOCATION, _PAYLOAD_MAP, _x(0, "tracing_id"))),
    _Layout(35, m.ClientCompletion, (
        *_INVOCATION,
        # Written twice, as an extension too; read last, the extension wins.
        _Element("protocol", _OPTIONAL_STRING),
        _Element("payload", _BINARY),
        _x(0, "tracing_id", "protocol"),
    )),
    _Layout(36, m.ErrorCompletion, (
        *_INVOCATION, _Element("error", _OPTIONAL_STRING), _x(0, "tracing_id"),
    )),
    _Layout(37, m.ServiceMapping, (
        _Element("invocation_id", _STRING),
        _CONNECTION_ID,
        _Element("instance_id", _STRING),
        _x(0),
    )),
    _Layout(38, m.ConnectionReconnect, (_CONNECTION_ID, _x(0))),
    _Layout(39, m.ConnectionFlowControl, (
        _CONNECTION_ID,
        _Element("connection_type", _FLOW_TYPE),
        _Element("operation", _FLOW_OPERATION),
    )),
    _Layout(40, m.GroupMemberQuery, (
        _x(0, "tracing_id"),
        _GROUP_NAME,
        _ACK_ID,
        _Element("top", _OPTIONAL_INTEGER),
        _Element("continuation_token", _OPTIONAL_STRING),
        _Element("max_page_size", _OPTIONAL_INTEGER, 7),
    )),
    _Layout(41, m.RefreshAuth, (
        _CONNECTION_TOKEN, _CLAIM_MAP, _Element("expire_time", _TIMESTAMP), _ACK_ID, _x(0),
    )),
    _Layout(42, m.GetConnectionClaims, (_CONNECTION_TOKEN, _ACK_ID, _x(0))),
    _Layout(43, m.UpdateConnectionClaims, (_CONNECTION_ID, _CLAIM_MAP, _x(0))),
)
# fmt: on

# ---------------------------------------------------------------------------------------------
# Messages that need more, or have to be faster, than their layout


def _read_ping(values: list[object]) -> m.Ping:
    try:
        return m.Ping(tuple(_read_optional_strings(values[1:])))
    except ProtocolError as error:
        raise ProtocolError(f"ping: values {error}") from None


def _write_ping(message: m.Ping) -> bytes:
    return _pack((3, *message.values))


def _write_flow_control(message: m.ConnectionFlowControl) -> bytes:
    """.NET writes both numbers as fixed int32, where every other int is in its shortest form."""
    numbers = (message.connection_type, message.operation)
    fixed = b"".join(b"\xd2" + number.to_bytes(4, "big") for number in numbers)
    return b"\x95\x27" + _pack(message.connection_id) + fixed + b"\x80"


_CONNECTION_DATA: Final = next(x for x in _LAYOUTS if x.message is m.ConnectionData)


def _only_data_type(extensions: object) -> int | None:
    """The data message type where it is known and the only extension; None otherwise."""
    if (
        type(extensions) is tuple
        and len(pairs := cast("tuple[tuple[object, object]]", extensions)) == 1
    ):
        key, data_type = pairs[0]
        if type(key) is int and key == 5 and type(data_type) is int and 0 <= data_type <= 4:
            return data_type
    return None


def _read_connection_data(values: list[object]) -> ServiceMessage:
    """Most traffic is this message in its full form; any other form goes by the layout."""
    if len(values) == 4:
        _, connection_id, payload, extensions = values
        if type(connection_id) is str and type(payload) is bytes:
            if extensions == ():
                return m.ConnectionData(connection_id, payload)
            data_type = _only_data_type(extensions)
            if data_type is not None:
                return m.ConnectionData(connection_id, payload, data_type)
    return _CONNECTION_DATA.read(values)


def _write_connection_data(message: m.ConnectionData) -> bytes:
    """The layout's bytes, in one call of msgpack."""
    extensions: dict[int, object] = {}
    if message.tracing_id is not None:
        extensions[1] = message.tracing_id
    if message.data_type:
        extensions[5] = message.data_type
    if message.is_partial:
        extensions[6] = True
    return _pack((6, message.connection_id, message.payload, extensions))


_READERS: Final[dict[int, Callable[[list[object]], ServiceMessage]]] = {
    **{layout.type_id: layout.read for layout in _LAYOUTS},
    3: _read_ping,
    6: _read_connection_data,
}
_WRITERS: Final = cast(
    "dict[type[ServiceMessage], Callable[[ServiceMessage], bytes]]",
    {
        **{layout.message: layout.write for layout in _LAYOUTS},
        m.Ping: _write_ping,
        m.ConnectionData: _write_connection_data,
        m.ConnectionFlowControl: _write_flow_control,
    },
)
