"""The message in the body of a REST call, in each hub protocol: sans-IO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import orjson

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import HubMessage, Invocation, StreamItem

__all__ = [
    "encode",
    "message_payloads",
    "read_invocation",
    "read_item_payloads",
    "read_json",
    "read_payloads",
]

_FRAMED: Final = frozenset({"application/x-msgpack", "application/octet-stream"})


#: What is wrong with a hub message that has come in a body; None if nothing is.
_Judge: TypeAlias = Callable[[HubMessage | None], str | None]


def read_payloads(content_type: str | None, body: bytes) -> dict[str, bytes]:
    """Hub protocol name -> what is to be sent to its clients.

    The body is ``{"target", "arguments"}`` in JSON, or, by its type, what the SDK has encoded
    itself: a map in MessagePack, of a framed invocation for each hub protocol.

    Raises ProtocolError, whose text is for the caller, as do all functions here.
    """
    if _is_framed(content_type):
        return _read_framed(body, _is_invocation)
    return message_payloads(read_json(body))


def read_item_payloads(content_type: str | None, body: bytes, stream: str) -> dict[str, bytes]:
    """Like ``read_payloads``, of one item of a stream: any JSON, or framed stream items."""
    if not _is_framed(content_type):
        return encode(StreamItem(stream, read_json(body)))

    def judge(message: HubMessage | None) -> str | None:
        if not isinstance(message, StreamItem):
            return "is not a stream item"
        return None if message.invocation_id == stream else "is an item of another stream"

    return _read_framed(body, judge)


def read_invocation(content_type: str | None, body: bytes, protocol: str) -> Invocation:
    """What a client of that hub protocol is to be called with; the id of the call is not in it."""
    if not _is_framed(content_type):
        return _invocation(read_json(body))
    frame = _read_framed(body, _is_invocation).get(protocol)
    if frame is None:
        raise ProtocolError(f"The client speaks {protocol}, for which the body has no message.")
    return cast("Invocation", HUB_PROTOCOLS[protocol].parse(frame))


def message_payloads(fields: object) -> dict[str, bytes]:
    """Hub protocol name -> a message of ``target`` and ``arguments``."""
    return encode(_invocation(fields))


def read_json(body: bytes) -> object:
    """Any JSON: dict, list, str, ..."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"The body is no JSON: {error}") from None


def encode(message: HubMessage) -> dict[str, bytes]:
    """Hub protocol name -> the message in it."""
    try:
        return {name: protocol.write(message) for name, protocol in HUB_PROTOCOLS.items()}
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"What the body has cannot be sent: {error}") from None


def _invocation(fields: object) -> Invocation:
    if not isinstance(fields, dict):
        raise ProtocolError("A message must be a JSON object with 'target' and 'arguments'.")
    # The SDK writes them with a capital.
    named = {name.lower(): value for name, value in cast("dict[str, object]", fields).items()}
    target, arguments = named.get("target"), named.get("arguments")
    if not isinstance(target, str) or not target:
        raise ProtocolError("'target' must be a string that is not empty.")
    if arguments is None:
        arguments = []
    if not isinstance(arguments, list):
        raise ProtocolError("'arguments' must be an array.")
    return Invocation(target, cast("list[object]", arguments))


def _is_invocation(message: HubMessage | None) -> str | None:
    return None if isinstance(message, Invocation) else "is not an invocation"


def _is_framed(content_type: str | None) -> bool:
    return (content_type or "").partition(";")[0].strip().lower() in _FRAMED


def _read_framed(body: bytes, judge: _Judge) -> dict[str, bytes]:
    try:
        found = cast("object", msgpack.unpackb(body))  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # msgpack raises a dozen types for bad bytes
        raise ProtocolError(f"The body is no MessagePack: {error}") from None
    if not isinstance(found, dict):
        raise ProtocolError("The body must be a map of hub protocols.")
    # One that no client of this service can have is none of our business.
    payloads = {
        name: _checked(name, frame, judge)
        for name, frame in cast("dict[object, object]", found).items()
        if isinstance(name, str) and name in HUB_PROTOCOLS
    }
    if not payloads:
        raise ProtocolError(f"The body has a message for none of {', '.join(HUB_PROTOCOLS)}.")
    return payloads


def _checked(name: str, frame: object, judge: _Judge) -> bytes:
    """A frame as it is, if it is one whole message: a client would end its connection else."""
    protocol = HUB_PROTOCOLS[name]
    if not isinstance(frame, bytes) or protocol.splitter(None).feed(frame) != [frame]:
        raise ProtocolError(f"What the body has for {name} is not one message with its framing.")
    fault = judge(protocol.parse(frame))
    if fault is not None:
        raise ProtocolError(f"What the body has for {name} {fault}.")
    return frame
