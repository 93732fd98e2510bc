"""The hub protocol in MessagePack: arrays, each after its length in bytes.

Which elements a message has is in HubProtocol.md of dotnet/aspnetcore; what is accepted beyond
that (missing stream ids, more elements, bytes behind the array) follows ASP.NET Core SignalR 10.
"""

# msgpack comes without types: what is used of it is declared below.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol, TypeAlias, cast

import msgpack

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.framing import LengthPrefixed, prefixed, unframe
from signalr_trio.protocol.hub_protocol import Peek
from signalr_trio.protocol.messages import (
    INVOCATIONS,
    NO_RESULT,
    PARTS_OF_CALLS,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    MessageType,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
    checked_target,
)

__all__ = ["MessagePackProtocol"]

Elements: TypeAlias = list[object]
"""The elements of a message's array."""

_PING: Final = b"\x02\x91\x06"
_PING_LIMIT: Final = 64
# From here on skipping the values is cheaper than unpacking everything in one call.
_SKIM_FROM: Final = 512
_RESULT_ERROR: Final = 1
_RESULT_VOID: Final = 2
_RESULT_VALUE: Final = 3


class _Packer(Protocol):
    """msgpack.Packer."""

    def pack(self, value: object, /) -> bytes: ...


class _Unpacker(Protocol):
    """msgpack.Unpacker."""

    def feed(self, data: bytes | memoryview, /) -> None: ...
    def read_array_header(self) -> int: ...
    def unpack(self) -> object: ...
    def skip(self) -> None: ...


_READ_OPTIONS: Final = {"timestamp": 3, "strict_map_key": False, "unicode_errors": "replace"}
_unpackb = cast("Callable[[bytes | memoryview], object]", partial(msgpack.unpackb, **_READ_OPTIONS))
_make_unpacker = cast("Callable[..., _Unpacker]", partial(msgpack.Unpacker, **_READ_OPTIONS))
_make_packer = cast(
    "Callable[..., _Packer]",
    # Exact types only, so that an IntEnum or a StrEnum gets to the default as well.
    partial(msgpack.Packer, strict_types=True, datetime=True, buf_size=512),
)


class MessagePackProtocol:
    """The MessagePack encoding.

    ``default`` turns a value that MessagePack does not know into one that it does. Known are,
    besides the types of MessagePack, datetime (timestamp, naive ones are taken as UTC; read as
    UTC), enums (by name, as .NET does), and as text date, time and UUID. Invalid UTF-8 is read as
    U+FFFD.
    """

    name: str = "messagepack"
    version: int = 2
    binary: bool = True

    def __init__(self, default: Callable[[object], object] | None = None) -> None:
        self._hook = default

    def splitter(self, max_size: int | None) -> LengthPrefixed:
        """See :meth:`HubProtocol.splitter`."""
        return LengthPrefixed(max_size)

    def parse(self, frame: bytes) -> HubMessage | None:
        """See :meth:`HubProtocol.parse`."""
        elements = _unpack(unframe(frame))
        read = _READERS.get(_type(elements))
        return None if read is None else read(elements)

    def write(self, message: HubMessage) -> bytes:
        """See :meth:`HubProtocol.write`."""
        if isinstance(message, Ping):
            return _PING
        # A packer for each message: the hook may write one itself, or let another thread run.
        packer = _make_packer(default=self._default)
        try:
            return prefixed(packer.pack(_elements(message)))
        except OverflowError as error:
            raise ValueError(f"MessagePack cannot hold a value: {error}") from error

    def peek(self, frame: bytes) -> Peek:
        """See :meth:`HubProtocol.peek`."""
        body = unframe(frame)
        return _peek_elements(_unpack(body) if len(body) < _SKIM_FROM else _skim(body))

    def is_ping(self, frame: bytes) -> bool:
        """See :meth:`HubProtocol.is_ping`."""
        if frame == _PING:
            return True
        if len(frame) > _PING_LIMIT or frame.find(b"\x06") == -1:
            return False
        try:
            return _type(_unpack(unframe(frame))) == MessageType.PING
        except ProtocolError:
            return False

    def _default(self, value: object) -> object:
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, datetime.datetime):
            return _aware(value)
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if isinstance(value, uuid.UUID):
            return str(value)
        if isinstance(value, list | tuple):
            return list(cast("list[object]", value))
        if isinstance(value, Mapping):
            return dict(cast("Mapping[object, object]", value))
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        if self._hook is None:
            raise TypeError(f"MessagePack cannot hold {value!r}")
        return self._hook(value)


def _aware(value: datetime.datetime) -> datetime.datetime:
    """The same moment as an exact, aware datetime."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return datetime.datetime.combine(value.date(), value.timetz())


def _unpack(body: bytes | memoryview) -> Elements:
    try:
        value = _unpackb(body)
    except msgpack.ExtraData as extra:
        value = cast("object", extra.unpacked)
    except Exception as error:  # msgpack raises a dozen types for bad bytes
        raise _unreadable(error) from None
    if type(value) is list:  # no cast, it would be a call for each message
        return value  # pyright: ignore[reportUnknownVariableType]
    raise ProtocolError("Reading the message as an array failed.")


def _skim(body: bytes | memoryview) -> Elements:
    """The elements that :func:`_peek_elements` looks at; None stands for those skipped."""
    unpacker = _make_unpacker(max_buffer_size=len(body))
    elements: Elements = []
    try:
        unpacker.feed(body)
        size = unpacker.read_array_header()
        for _ in range(min(size, 3)):
            elements.append(unpacker.unpack())
        if size > 5 and elements[0] in INVOCATIONS:
            unpacker.skip()  # target
            unpacker.skip()  # arguments
            elements += (None, None, unpacker.unpack())
    except Exception as error:  # as in _unpack
        raise _unreadable(error) from None
    return elements


def _unreadable(error: Exception) -> ProtocolError:
    return ProtocolError(f"Error reading MessagePack. {type(error).__name__}: {error}")


def _element(elements: Elements, index: int, name: str) -> object:
    if index < len(elements):
        return elements[index]
    raise ProtocolError(f"Reading '{name}' failed: the message has {len(elements)} elements.")


def _wrong(name: str, expected: str) -> ProtocolError:
    return ProtocolError(f"Reading '{name}' as {expected} failed.")


def _type(elements: Elements) -> int:
    return _int(elements, 0, "messageType")


def _int(elements: Elements, index: int, name: str) -> int:
    value = _element(elements, index, name)
    if type(value) is int:
        return value
    raise _wrong(name, "Int64")


def _str(elements: Elements, index: int, name: str) -> str:
    value = _element(elements, index, name)
    if isinstance(value, str):
        return value
    raise _wrong(name, "String")


def _id(elements: Elements) -> str:
    invocation_id = _str(elements, 2, "invocationId")
    if not invocation_id:
        raise ProtocolError("'invocationId' is empty.")
    return invocation_id


def _optional_id(elements: Elements) -> str | None:
    value = _element(elements, 2, "invocationId")
    return None if value is None else _str(elements, 2, "invocationId") or None


def _stream_ids(elements: Elements) -> tuple[str, ...]:
    if len(elements) < 6:  # what the JavaScript client writes for none
        return ()
    value = elements[5]
    if value == []:
        return ()
    if not isinstance(value, list):
        raise _wrong("streamIds", "an array")
    ids: list[str] = []
    for stream_id in cast("list[object]", value):
        if not isinstance(stream_id, str) or not stream_id:
            raise _wrong("streamIds", "strings that are not empty")
        ids.append(stream_id)
    return tuple(ids)


def _headers(elements: Elements) -> dict[str, str] | None:
    value = _element(elements, 1, "headers")
    if value == {}:
        return None
    if not isinstance(value, dict):
        raise _wrong("headers", "a map")
    headers = cast("dict[str, str]", value)
    for name, text in headers.items():
        if type(name) is not str or type(text) is not str:
            raise _wrong(f"headers[{name!r}]", "String")
    return headers


def _arguments(elements: Elements) -> list[object]:
    value = _element(elements, 4, "arguments")
    if type(value) is list:  # no cast, it would be a call for each message
        return value  # pyright: ignore[reportUnknownVariableType]
    raise _wrong("arguments", "an array")


def _read_invocation(elements: Elements) -> Invocation:
    headers = _headers(elements)
    invocation_id = _optional_id(elements)
    target = _str(elements, 3, "target")
    arguments = _arguments(elements)
    return Invocation(target, arguments, invocation_id, _stream_ids(elements), headers)


def _read_stream_invocation(elements: Elements) -> StreamInvocation:
    headers = _headers(elements)
    invocation_id = _id(elements)
    target = _str(elements, 3, "target")
    arguments = _arguments(elements)
    return StreamInvocation(invocation_id, target, arguments, _stream_ids(elements), headers)


def _read_stream_item(elements: Elements) -> StreamItem:
    headers = _headers(elements)
    return StreamItem(_id(elements), _element(elements, 3, "item"), headers)


def _read_completion(elements: Elements) -> Completion:
    headers = _headers(elements)
    invocation_id = _id(elements)
    kind = _int(elements, 3, "resultKind")
    if kind == _RESULT_VALUE:
        return Completion(invocation_id, _element(elements, 4, "result"), None, headers)
    if kind == _RESULT_VOID:
        return Completion(invocation_id, headers=headers)
    if kind == _RESULT_ERROR:
        error = _str(elements, 4, "error")
        return Completion(invocation_id, error=error, headers=headers)
    raise ProtocolError(f"Invalid invocation result kind {kind}.")


def _read_cancel_invocation(elements: Elements) -> CancelInvocation:
    headers = _headers(elements)
    return CancelInvocation(_id(elements), headers)


def _read_ping(_: Elements) -> Ping:
    return Ping()


def _read_close(elements: Elements) -> Close:
    error = _element(elements, 1, "error")
    if error is not None and not isinstance(error, str):
        raise _wrong("error", "String")
    allow_reconnect = elements[2] if len(elements) > 2 else False
    if not isinstance(allow_reconnect, bool):
        raise _wrong("allowReconnect", "Boolean")
    return Close(error, allow_reconnect)


def _read_ack(elements: Elements) -> Ack:
    return Ack(_int(elements, 1, "sequenceId"))


def _read_sequence(elements: Elements) -> Sequence:
    return Sequence(_int(elements, 1, "sequenceId"))


_READERS: Final[dict[int, Callable[[Elements], HubMessage]]] = {
    MessageType.INVOCATION: _read_invocation,
    MessageType.STREAM_ITEM: _read_stream_item,
    MessageType.COMPLETION: _read_completion,
    MessageType.STREAM_INVOCATION: _read_stream_invocation,
    MessageType.CANCEL_INVOCATION: _read_cancel_invocation,
    MessageType.PING: _read_ping,
    MessageType.CLOSE: _read_close,
    MessageType.ACK: _read_ack,
    MessageType.SEQUENCE: _read_sequence,
}


def _peek_elements(elements: Elements) -> Peek:
    kind = _type(elements)
    if kind in PARTS_OF_CALLS:
        return Peek(kind, _id(elements))
    if kind not in INVOCATIONS:
        return Peek(kind)
    call_id = _optional_id(elements) if kind == MessageType.INVOCATION else _id(elements)
    return Peek(kind, call_id, _stream_ids(elements))


def _elements(message: HubMessage) -> Elements:
    """The array of a message; lists where tuples are allowed, as exact types pack faster."""
    if isinstance(message, Completion):
        return _completion_elements(message)
    if isinstance(message, Invocation | StreamInvocation):
        return [
            1 if isinstance(message, Invocation) else 4,
            message.headers or {},
            message.invocation_id,
            checked_target(message),
            list(message.arguments),
            list(message.stream_ids),
        ]
    if isinstance(message, StreamItem):
        return [2, message.headers or {}, message.invocation_id, message.item]
    if isinstance(message, CancelInvocation):
        return [5, message.headers or {}, message.invocation_id]
    if isinstance(message, Close):
        return [7, message.error, message.allow_reconnect]
    if isinstance(message, Ping):
        return [6]
    return [8 if isinstance(message, Ack) else 9, message.sequence_id]


def _completion_elements(message: Completion) -> Elements:
    head: Elements = [3, message.headers or {}, message.invocation_id]
    if message.error is not None:
        head += (_RESULT_ERROR, message.error)
    elif message.result is NO_RESULT:
        head.append(_RESULT_VOID)
    else:
        head += (_RESULT_VALUE, message.result)
    return head
