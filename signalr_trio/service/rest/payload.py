"""The message in the body of a REST call, in each hub protocol: sans-IO."""

from __future__ import annotations

from typing import Final, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import orjson

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import Invocation

__all__ = ["read_payloads"]

_FRAMED: Final = frozenset({"application/x-msgpack", "application/octet-stream"})


def read_payloads(content_type: str | None, body: bytes) -> dict[str, bytes]:
    """Hub protocol name -> what is to be sent to its clients.

    The body is ``{"target", "arguments"}`` in JSON, or, by its type, what the SDK has encoded
    itself: a map in MessagePack, of a framed invocation for each hub protocol.

    Raises ProtocolError, whose text is for the caller.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    return _framed(body) if kind in _FRAMED else _encode(_invocation(body))


def _invocation(body: bytes) -> Invocation:
    try:
        fields: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"The body is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("The body must be a JSON object with 'target' and 'arguments'.")
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


def _encode(invocation: Invocation) -> dict[str, bytes]:
    try:
        return {name: protocol.write(invocation) for name, protocol in HUB_PROTOCOLS.items()}
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"The arguments cannot be sent: {error}") from None


def _framed(body: bytes) -> dict[str, bytes]:
    try:
        found = cast("object", msgpack.unpackb(body))  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # msgpack raises a dozen types for bad bytes
        raise ProtocolError(f"The body is no MessagePack: {error}") from None
    if not isinstance(found, dict):
        raise ProtocolError("The body must be a map of hub protocols.")
    # One that no client of this service can have is none of our business.
    payloads = {
        name: _checked(name, frame)
        for name, frame in cast("dict[object, object]", found).items()
        if isinstance(name, str) and name in HUB_PROTOCOLS
    }
    if not payloads:
        raise ProtocolError(f"The body has a message for none of {', '.join(HUB_PROTOCOLS)}.")
    return payloads


def _checked(name: str, frame: object) -> bytes:
    """A frame as it is, if it is one whole invocation: a client would end its connection else."""
    protocol = HUB_PROTOCOLS[name]
    if not isinstance(frame, bytes) or protocol.splitter(None).feed(frame) != [frame]:
        raise ProtocolError(f"What the body has for {name} is not one message with its framing.")
    if not isinstance(protocol.parse(frame), Invocation):
        raise ProtocolError(f"What the body has for {name} is not an invocation.")
    return frame
