"""The hub handshake: one JSON record each way, before the hub protocol it agrees on.

It is JSON with the record separator whatever the hub protocol is. Source: HubProtocol.md of
dotnet/aspnetcore, and recordings of ASP.NET Core SignalR 10.
"""

from __future__ import annotations

from typing import Final

import attrs
import orjson

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.framing import RECORD_SEPARATOR
from signalr_trio.protocol.json import read_object, require_int, require_str

__all__ = [
    "HandshakeRequest",
    "HandshakeResponse",
    "parse_request",
    "parse_response",
    "split_handshake",
    "write_request",
    "write_response",
]

_INT32: Final = 2**31


@attrs.define
class HandshakeRequest:
    """The client's request: the hub protocol's name, as it was written, and its version."""

    protocol: str
    version: int


@attrs.define
class HandshakeResponse:
    """The server's answer; ``error`` is None where the handshake has succeeded."""

    error: str | None = None


def split_handshake(buffer: bytes) -> tuple[bytes, bytes] | None:
    """The first record, with its separator, and what is behind it; None while it is not whole."""
    end = buffer.find(RECORD_SEPARATOR) + 1
    return (buffer[:end], buffer[end:]) if end else None


def parse_request(frame: bytes) -> HandshakeRequest:
    """Read a request. Whether its protocol and version can be served is the caller's to say.

    Raises ProtocolError for anything that is no handshake request.
    """
    fields = read_object(frame)
    protocol = require_str(fields, "protocol")
    version = require_int(fields, "version")
    if not -_INT32 <= version < _INT32:
        raise ProtocolError("Expected 'version' to be of type Number, of 32 bits.")
    return HandshakeRequest(protocol, version)


def parse_response(frame: bytes) -> HandshakeResponse:
    """Read a response; an empty error means success, as in .NET.

    Raises ProtocolError for anything that is no handshake response.
    """
    fields = read_object(frame)
    if "type" in fields:
        raise ProtocolError("Expected a handshake response from the server.")
    error = require_str(fields, "error") if "error" in fields else None
    return HandshakeResponse(error or None)


def write_request(request: HandshakeRequest) -> bytes:
    """The frame for a request."""
    fields = {"protocol": request.protocol, "version": request.version}
    return orjson.dumps(fields) + RECORD_SEPARATOR


def write_response(response: HandshakeResponse) -> bytes:
    """The frame for a response; an empty error is written like none."""
    fields = {"error": response.error} if response.error else {}
    return orjson.dumps(fields) + RECORD_SEPARATOR
