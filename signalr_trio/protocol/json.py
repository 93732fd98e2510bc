"""The hub protocol in JSON: objects, each followed by the record separator.

What is accepted and what is not follows System.Text.Json as ASP.NET Core SignalR uses it: fields
in any order, the last of two with one name, unknown ones ignored, and so is what follows the object.
"""

from __future__ import annotations

import base64
import datetime
import enum
import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias, cast

import orjson

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.framing import RECORD_SEPARATOR, RecordSeparated
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
from signalr_trio.texts import sendable

__all__ = ["JsonProtocol", "read_object", "require_int", "require_str"]

Fields: TypeAlias = dict[str, object]
"""The fields of a JSON object."""

_PING: Final = b'{"type":6}\x1e'
_PING_LIMIT: Final = 64
_INT64: Final = 2**63
#: What is written without asking the hook, and is or has no number that might not be finite.
_NO_FLOAT_IN_IT: Final = (
    *(str, int, bytes, bytearray, memoryview),
    *(datetime.date, datetime.time, uuid.UUID),
)
_OPTIONS: Final = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS


class JsonProtocol:
    """The JSON encoding.

    ``default`` turns a value that JSON does not know into one that it does (attrs classes and
    dataclasses go through it). Known are, besides the types of JSON, bytes (base64), datetime
    (ISO 8601, naive ones are taken as UTC), date, time, UUID and enums (by value); keys of other
    types than str become strings.
    """

    name: str = "json"
    version: int = 2
    binary: bool = False

    def __init__(self, default: Callable[[object], object] | None = None) -> None:
        self._hook = default

    def splitter(self, max_size: int | None) -> RecordSeparated:
        """See :meth:`HubProtocol.splitter`."""
        return RecordSeparated(max_size)

    def parse(self, frame: bytes) -> HubMessage | None:
        """See :meth:`HubProtocol.parse`."""
        fields = read_object(frame)
        read = _READERS.get(_type(fields))
        return None if read is None else read(fields)

    def write(self, message: HubMessage) -> bytes:
        """See :meth:`HubProtocol.write`."""
        if isinstance(message, Ping):
            return _PING
        fields = _fields(message)
        try:
            text = orjson.dumps(fields, self._default, _OPTIONS)
        except TypeError:
            # Maybe for a key that is no str. Not the default: it doubles the cost of all objects.
            text = orjson.dumps(fields, self._default, _OPTIONS | orjson.OPT_NON_STR_KEYS)
        # orjson writes null where a number is not finite, so only a null calls for the search.
        if text.find(b"null") != -1:
            self._require_finite(fields)
        return text + RECORD_SEPARATOR

    def peek(self, frame: bytes) -> Peek:
        """See :meth:`HubProtocol.peek`."""
        return _peek_canonical(frame) or _peek_fields(read_object(frame))

    def is_ping(self, frame: bytes) -> bool:
        """See :meth:`HubProtocol.is_ping`."""
        if frame == _PING:
            return True
        if len(frame) > _PING_LIMIT or frame.find(b"6") == -1:
            return False
        try:
            return _type(read_object(frame)) == MessageType.PING
        except ProtocolError:
            return False

    def _default(self, value: object) -> object:
        if isinstance(value, bytes | bytearray | memoryview):
            return base64.b64encode(cast("bytes", value)).decode("ascii")
        if self._hook is None:
            raise TypeError(f"JSON cannot hold {value!r}")
        known = self._hook(value)
        if type(known) is type(value):  # asked again and again, it would go on like that
            raise TypeError(f"JSON cannot hold {value!r}")
        return known

    def _require_finite(self, value: object) -> None:
        """Raise ValueError for NaN and the infinities, at any depth."""
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError(f"JSON cannot hold {value!r}")
        elif value is None or isinstance(value, _NO_FLOAT_IN_IT):
            return
        elif isinstance(value, enum.Enum):
            self._require_finite(value.value)
        elif isinstance(value, Mapping):
            for inner in cast("Mapping[object, object]", value).values():
                self._require_finite(inner)
        elif isinstance(value, list | tuple):
            for inner in cast("Iterable[object]", value):
                self._require_finite(inner)
        elif self._hook is not None:
            self._require_finite(self._hook(value))


def read_object(frame: bytes) -> Fields:
    """The JSON object at the start of a frame; anything between it and the separator is ignored.

    Raises ProtocolError for text that is no JSON, for another JSON value, and for a frame
    without its separator. Lone surrogates (strings cut within an emoji) are read as U+FFFD.
    """
    if not frame or frame[-1] != RECORD_SEPARATOR[0]:
        raise ProtocolError("The message does not end with the record separator.")
    try:
        value: Fields = orjson.loads(frame[:-1])
    except orjson.JSONDecodeError:
        value = cast("Fields", _read_first_value(frame[:-1]))
    if type(value) is not dict:
        kind = _TOKENS.get(type(value), "Null")
        raise ProtocolError(f"Unexpected JSON Token Type '{kind}'. Expected a JSON Object.")
    return value


def require_str(fields: Fields, name: str) -> str:
    """The string field ``name``; raises ProtocolError where it is missing or no string."""
    value = fields.get(name)
    if isinstance(value, str):
        return value
    raise _wrong(fields, name, "String")


def require_int(fields: Fields, name: str) -> int:
    """The integer field ``name`` (64 bits); raises ProtocolError where it is anything else."""
    value = fields.get(name)
    if type(value) is int and -_INT64 <= value < _INT64:
        return value
    raise _wrong(fields, name, "Number")


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_TOKENS: Final[dict[type, str]] = {
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
    bool: "Boolean",
}


def _read_first_value(document: bytes) -> object:
    """The slow way, for what orjson refuses: text behind the value, 1e400, lone surrogates."""
    try:
        text = document.decode().lstrip(" \t\r\n")
        value = cast("object", _DECODER.raw_decode(text)[0])
        return _without_surrogates(value) if "\\u" in text else value
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"Error reading JSON. {error}") from None


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, list):
        return [_without_surrogates(inner) for inner in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in items}
    return value


def _wrong(fields: Fields, name: str, expected: str) -> ProtocolError:
    if name not in fields:
        return ProtocolError(f"Missing required property '{name}'.")
    return ProtocolError(f"Expected '{name}' to be of type {expected}.")


def _type(fields: Fields) -> int:
    kind = fields.get("type")
    if type(kind) is int:
        return kind
    raise _wrong(fields, "type", "Number")


def _id(fields: Fields) -> str:
    value = fields.get("invocationId")
    if isinstance(value, str) and value:
        return value
    if value == "":
        raise ProtocolError("Missing required property 'invocationId'.")
    raise _wrong(fields, "invocationId", "String")


def _optional_id(fields: Fields) -> str | None:
    if "invocationId" not in fields:
        return None
    return require_str(fields, "invocationId") or None


def _optional_error(fields: Fields) -> str | None:
    return require_str(fields, "error") if "error" in fields else None


def _stream_ids(fields: Fields) -> tuple[str, ...]:
    value = fields["streamIds"]
    if not isinstance(value, list):
        raise _wrong(fields, "streamIds", "Array")
    ids: list[str] = []
    for stream_id in cast("list[object]", value):
        if not isinstance(stream_id, str) or not stream_id:
            raise ProtocolError("Expected each of 'streamIds' to be a String that is not empty.")
        ids.append(stream_id)
    return tuple(ids)


def _headers(fields: Fields) -> dict[str, str] | None:
    value = fields["headers"]
    if not isinstance(value, dict):
        raise _wrong(fields, "headers", "StartObject")
    headers = cast("dict[str, str]", value)
    for name, text in headers.items():
        if type(text) is not str:
            raise ProtocolError(f"Expected header {name!r} to be of type String.")
    return headers or None


def _arguments(fields: Fields) -> list[object]:
    value = fields.get("arguments")
    if type(value) is list:  # no cast, it would be a call for each message
        return value  # pyright: ignore[reportUnknownVariableType]
    raise _wrong(fields, "arguments", "Array")


def _read_invocation(fields: Fields) -> Invocation:
    return Invocation(
        require_str(fields, "target"),
        _arguments(fields),
        _optional_id(fields),
        _stream_ids(fields) if "streamIds" in fields else (),
        _headers(fields) if "headers" in fields else None,
    )


def _read_stream_invocation(fields: Fields) -> StreamInvocation:
    return StreamInvocation(
        _id(fields),
        require_str(fields, "target"),
        _arguments(fields),
        _stream_ids(fields) if "streamIds" in fields else (),
        _headers(fields) if "headers" in fields else None,
    )


def _read_stream_item(fields: Fields) -> StreamItem:
    invocation_id = _id(fields)
    if "item" not in fields:
        raise ProtocolError("Missing required property 'item'.")
    headers = _headers(fields) if "headers" in fields else None
    return StreamItem(invocation_id, fields["item"], headers)


def _read_completion(fields: Fields) -> Completion:
    result = fields.get("result", NO_RESULT)
    error = _optional_error(fields)
    if error is not None and result is not NO_RESULT:
        raise ProtocolError("The 'error' and 'result' properties are mutually exclusive.")
    headers = _headers(fields) if "headers" in fields else None
    return Completion(_id(fields), result, error, headers)


def _read_cancel_invocation(fields: Fields) -> CancelInvocation:
    return CancelInvocation(_id(fields), _headers(fields) if "headers" in fields else None)


def _read_ping(_: Fields) -> Ping:
    return Ping()


def _read_close(fields: Fields) -> Close:
    allow_reconnect = fields.get("allowReconnect", False)
    if not isinstance(allow_reconnect, bool):
        raise ProtocolError("Expected 'allowReconnect' to be either True or False.")
    return Close(_optional_error(fields), allow_reconnect)


def _read_ack(fields: Fields) -> Ack:
    return Ack(require_int(fields, "sequenceId"))


def _read_sequence(fields: Fields) -> Sequence:
    return Sequence(require_int(fields, "sequenceId"))


_READERS: Final[dict[int, Callable[[Fields], HubMessage]]] = {
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


def _peek_canonical(frame: bytes) -> Peek | None:
    """Peek at a stream item or completion in the usual field order, without reading its value.

    None where the frame is of another kind or might mean something else than it looks: an escape
    may hide a second field of the same name, and the last one would count.
    """
    start = _ID_STARTS.get(frame[:26])
    if start is None or frame.find(b"\\") != -1:
        return None
    end = frame.find(b'"', 26)
    if end <= 26 or frame.find(b'"type"', end) != -1 or frame.find(b'"invocationId"', end) != -1:
        return None
    try:
        return Peek(start, frame[26:end].decode())
    except UnicodeDecodeError:
        return None


_ID_STARTS: Final[dict[bytes, int]] = {
    b'{"type":2,"invocationId":"': 2,
    b'{"type":3,"invocationId":"': 3,
}


def _peek_fields(fields: Fields) -> Peek:
    kind = _type(fields)
    if kind in PARTS_OF_CALLS:
        return Peek(kind, _id(fields))
    if kind not in INVOCATIONS:
        return Peek(kind)
    call_id = _optional_id(fields) if kind == MessageType.INVOCATION else _id(fields)
    return Peek(kind, call_id, _stream_ids(fields) if "streamIds" in fields else ())


def _fields(message: HubMessage) -> Fields:
    """The fields of a message in the order in which ASP.NET Core writes them."""
    if isinstance(message, Completion):
        fields = _head(3, message.headers)
        fields["invocationId"] = message.invocation_id
        if message.error is not None:
            fields["error"] = message.error
        elif message.result is not NO_RESULT:
            fields["result"] = message.result
    elif isinstance(message, Invocation | StreamInvocation):
        fields = _head(1 if isinstance(message, Invocation) else 4, message.headers)
        if message.invocation_id is not None:
            fields["invocationId"] = message.invocation_id
        fields["target"] = checked_target(message)
        fields["arguments"] = message.arguments
        if message.stream_ids:
            fields["streamIds"] = message.stream_ids
    elif isinstance(message, StreamItem):
        fields = _head(2, message.headers)
        fields["invocationId"] = message.invocation_id
        fields["item"] = message.item
    elif isinstance(message, CancelInvocation):
        fields = _head(5, message.headers)
        fields["invocationId"] = message.invocation_id
    else:
        fields = _bare_fields(message)
    return fields


def _head(kind: int, headers: dict[str, str] | None) -> Fields:
    return {"type": kind, "headers": headers} if headers else {"type": kind}


def _bare_fields(message: Ping | Close | Ack | Sequence) -> Fields:
    if isinstance(message, Ping):
        return {"type": 6}
    if isinstance(message, Ack | Sequence):
        kind = 8 if isinstance(message, Ack) else 9
        return {"type": kind, "sequenceId": message.sequence_id}
    fields: Fields = {"type": 7}
    if message.error is not None:
        fields["error"] = message.error
    if message.allow_reconnect:
        fields["allowReconnect"] = True
    return fields
