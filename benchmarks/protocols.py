"""What is said to a contestant: how a connection is opened, what a request is, what a reply means.

The same work in every protocol. A text is its message's number and then filler. What a reply must
mean is checked once, by a real parser, on the first one; from then on the load generator compares
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import msgpack
import orjson

from benchmarks.load.plan import (
    CHANNEL,
    ID,
    INDEX,
    PARTNER,
    Capture,
    Split,
    Step,
    StepKind,
    partner_slot,
    slot,
)

__all__ = ["Bare", "Exchange", "Opening", "SignalR", "SocketIO", "Speech", "Where"]

_UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_ACCEPTED = b"HTTP/1.1 101"
_OK = b"HTTP/1.1 200"


@attrs.frozen
class Where:
    """Where a contestant's clients go."""

    port: int
    """Where a client begins."""
    port_again: int = 0
    """Where one begins that was lost, if it is somewhere else."""
    service: int | None = None
    """The port of the service that it is then sent to."""
    token: str = ""
    """What opens the service without asking first."""
    versioned: bool = False
    """Whether the way to the service has the version of negotiate in it already."""


@attrs.frozen(kw_only=True)
class Opening:
    """How connections are opened."""

    negotiate: bool = False
    """As the official clients do it; otherwise straight to the WebSocket."""
    users: bool = False
    """Each connection is a user of its own."""
    join: bool = False
    """Each connection joins the group of its channel."""
    slots: bool = False
    """Each connection learns its own id."""


@attrs.frozen
class Exchange:
    """A request, and whether a reply to it with that number says what it should."""

    request: bytes
    is_right: Callable[[bytes, str], bool]
    path: str = ""
    """The hub that it is for."""


class Speech(Protocol):
    """A protocol, as far as it is needed here."""

    split: Split
    opcode: int
    ping: bytes
    pong: bytes
    noop: bytes
    goodbye: bytes
    refusal: bytes

    def opening(self, where: Where, how: Opening, path: str) -> list[Step]: ...

    def echo(self, size: int) -> Exchange: ...

    def broadcast(self, size: int) -> Exchange: ...

    def to_group(self, size: int) -> Exchange: ...

    def to_user(self, size: int) -> Exchange: ...

    def to_connection(self, size: int, id_length: int) -> Exchange: ...


def _text(number: str, size: int) -> str:
    return number + "x" * (size - len(number))


def _upgrade(port: int, target: str, headers: str = "", port_again: int = 0) -> Step:
    request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{_UPGRADE}{headers}\r\n"
    return Step(StepKind.UPGRADE, request.encode(), _ACCEPTED, port=port, port_again=port_again)


def _http(
    method: str,
    port: int,
    target: str,
    captures: Sequence[Capture],
    headers: str = "",
    port_again: int = 0,
) -> Step:
    request = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}"
    request += "Content-Length: 0\r\n\r\n" if method == "POST" else "\r\n"
    return Step(
        StepKind.HTTP,
        request.encode(),
        _OK,
        port=port,
        port_again=port_again,
        captures=captures,
    )


def _query(*parameters: str) -> str:
    return "?" + "&".join(filter(None, parameters)) if any(parameters) else ""


# Slots of a SignalR connection.
_TOKEN, _CONNECTION_ID, _SERVICE_QUERY, _ACCESS_TOKEN = range(4)


class SignalR:
    """SignalR, in JSON or MessagePack; straight to a hub server, or through the service."""

    ping: bytes
    pong = b""
    noop = b""
    goodbye = b'{"type":7'
    refusal = b'"error":"'

    def __init__(self, encoding: str) -> None:
        self._json = encoding == "json"
        self._encoding = encoding
        self.split = Split.RECORD_SEPARATOR if self._json else Split.VARINT
        self.opcode = 1 if self._json else 2
        self.ping = b'{"type":6}\x1e' if self._json else b"\x02\x91\x06"

    # -- opening ----------------------------------------------------------------------------

    def opening(self, where: Where, how: Opening, path: str) -> list[Step]:
        user = f"user={INDEX}" if how.users else ""
        negotiate = how.negotiate or how.users or how.slots
        if where.service is None:
            steps = self._to_server(where, path, user, negotiate)
        elif negotiate:
            steps = self._to_service(where, where.service, path, user)
        else:
            bearer = f"Authorization: Bearer {where.token}\r\n"
            target = f"/client/?hub={path.strip('/')}"
            steps = [_upgrade(where.service, target, bearer)]
        hello = orjson.dumps({"protocol": self._encoding, "version": 1}) + b"\x1e"
        steps.append(Step(StepKind.MESSAGE, hello, b"{}\x1e", exact=True))
        if how.join:
            steps.append(Step(StepKind.MESSAGE, self._invoke("1", "Join", f"g{CHANNEL}")))
        return steps

    def _to_server(self, where: Where, path: str, user: str, negotiate: bool) -> list[Step]:
        again = where.port_again
        if not negotiate:
            return [_upgrade(where.port, path + _query(user), port_again=again)]
        captures = [
            Capture(_TOKEN, '"connectionToken":"'),
            Capture(_CONNECTION_ID, '"connectionId":"'),
        ]
        target = f"{path}/negotiate{_query(user, 'negotiateVersion=1')}"
        return [
            _http("POST", where.port, target, captures, port_again=again),
            _upgrade(where.port, path + _query(user, f"id={slot(_TOKEN)}"), port_again=again),
        ]

    def _to_service(self, where: Where, service: int, path: str, user: str) -> list[Step]:
        """The app's negotiate, the service's negotiate, and the WebSocket: a TCP connection each,
        as with the official client, whose HTTP connections do not become WebSockets."""
        redirect = [
            Capture(_SERVICE_QUERY, f":{service}/client/?"),
            Capture(_ACCESS_TOKEN, '"accessToken":"'),
        ]
        tokens = [
            Capture(_TOKEN, '"connectionToken":"'),
            Capture(_CONNECTION_ID, '"connectionId":"'),
        ]
        bearer = f"Authorization: Bearer {slot(_ACCESS_TOKEN)}\r\n"
        target = f"{path}/negotiate{_query(user, 'negotiateVersion=1')}"
        query = slot(_SERVICE_QUERY)
        asked = query if where.versioned else f"{query}&negotiateVersion=1"
        return [
            _http("POST", where.port, target, redirect, port_again=where.port_again),
            _http("POST", service, f"/client/negotiate?{asked}", tokens, bearer),
            _upgrade(service, f"/client/?{query}&id={slot(_TOKEN)}", bearer),
        ]

    # -- requests ---------------------------------------------------------------------------

    def echo(self, size: int) -> Exchange:
        request = self._invoke(ID, "echo", _text(ID, size))

        def is_right(reply: bytes, number: str) -> bool:
            return self._completion(reply) == (number, _text(number, size))

        return Exchange(request, is_right, "/bench")

    def broadcast(self, size: int) -> Exchange:
        request = self._invoke(None, "bcast", _text(ID, size))
        return Exchange(request, self._is_send("bcast", size), "/bench")

    def to_group(self, size: int) -> Exchange:
        request = self._invoke(None, "SendToGroup", f"g{CHANNEL}", _text(ID, size))
        return Exchange(request, self._is_send("group", size, "g00000"), "/other")

    def to_user(self, size: int) -> Exchange:
        return self._send_to("Users", PARTNER, size)

    def to_connection(self, size: int, id_length: int) -> Exchange:
        return self._send_to("Clients", partner_slot(_CONNECTION_ID, id_length), size)

    def _send_to(self, kind: str, key: str, size: int) -> Exchange:
        request = self._invoke(None, "SendTo", kind, [key], [], "one", [_text(ID, size)])
        return Exchange(request, self._is_send("one", size), "/test")

    def _is_send(self, target: str, size: int, *first: str) -> Callable[[bytes, str], bool]:
        def is_right(reply: bytes, number: str) -> bool:
            return self._send(reply) == (target, [*first, _text(number, size)])

        return is_right

    # -- the encodings ----------------------------------------------------------------------

    def _invoke(self, number: str | None, target: str, *arguments: Any) -> bytes:
        if not self._json:
            message: bytes = msgpack.packb([1, {}, number, target, list(arguments), []])
            return _varint(len(message)) + message
        head = {"type": 1} if number is None else {"type": 1, "invocationId": number}
        return orjson.dumps({**head, "target": target, "arguments": arguments}) + b"\x1e"

    def _completion(self, reply: bytes) -> tuple[Any, Any] | None:
        message = self._parsed(reply)
        if self._json:
            right = set(message) == {"type", "invocationId", "result"} and message["type"] == 3
            return (message["invocationId"], message["result"]) if right else None
        right = len(message) == 5 and message[:2] == [3, {}] and message[3] == 3
        return (message[2], message[4]) if right else None

    def _send(self, reply: bytes) -> tuple[Any, Any] | None:
        message = self._parsed(reply)
        if self._json:
            right = message["type"] == 1 and "invocationId" not in message
            return (message["target"], message["arguments"]) if right else None
        right = message[:3] == [1, {}, None]
        return (message[3], message[4]) if right else None

    def _parsed(self, reply: bytes) -> Any:
        if self._json:
            return orjson.loads(reply.removesuffix(b"\x1e"))
        size = len(reply) - 1
        while _varint(size) + reply[-size:] != reply:
            size -= 1
        return msgpack.unpackb(reply[-size:])


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


class SocketIO:
    """Socket.IO, in JSON. An echo is an emit with an acknowledgement, users are rooms."""

    split = Split.WHOLE
    opcode = 1
    ping = b"2"
    pong = b"3"
    noop = b"6"
    goodbye = b"41"
    refusal = b"44"

    def opening(self, where: Where, how: Opening, path: str) -> list[Step]:
        base = "/socket.io/?EIO=4&transport="
        own_id = [Capture(_CONNECTION_ID, '"sid":"')]
        if how.negotiate:
            # The default of the official client: HTTP first, then an upgrade to WebSocket. It
            # would also poll once more.
            session = [Capture(_TOKEN, '"sid":"')]
            steps = [
                _http("GET", where.port, f"{base}polling", session),
                _upgrade(where.port, f"{base}websocket&sid={slot(_TOKEN)}"),
                Step(StepKind.MESSAGE, b"2probe", b"3probe", exact=True),
                Step(StepKind.MESSAGE, b"5", None),
            ]
        else:
            steps = [
                _upgrade(where.port, f"{base}websocket"),
                Step(StepKind.MESSAGE, b"", b"0{"),
            ]
        steps.append(Step(StepKind.MESSAGE, b"40", b"40{", captures=own_id))
        if how.users:
            steps.append(self._join(f"u{INDEX}"))
        if how.join:
            steps.append(self._join(f"g{CHANNEL}"))
        return steps

    def _join(self, room: str) -> Step:
        return Step(StepKind.MESSAGE, f'421["join","{room}"]'.encode(), b"431")

    def echo(self, size: int) -> Exchange:
        def is_right(reply: bytes, number: str) -> bool:
            said = reply.removeprefix(f"43{number}".encode())
            return said != reply and orjson.loads(said) == [_text(number, size)]

        return Exchange(f'42{ID}["echo","{_text(ID, size)}"]'.encode(), is_right)

    def broadcast(self, size: int) -> Exchange:
        return self._emit(["bcast", _text(ID, size)], "bcast", size)

    def to_group(self, size: int) -> Exchange:
        return self._emit(["group", f"g{CHANNEL}", _text(ID, size)], "group", size)

    def to_user(self, size: int) -> Exchange:
        return self._emit(["group", f"u{PARTNER}", _text(ID, size)], "group", size)

    def to_connection(self, size: int, id_length: int) -> Exchange:
        room = partner_slot(_CONNECTION_ID, id_length)
        return self._emit(["group", room, _text(ID, size)], "group", size)

    def _emit(self, event: list[str], answer: str, size: int) -> Exchange:
        def is_right(reply: bytes, number: str) -> bool:
            said = reply.removeprefix(b"42")
            return said != reply and orjson.loads(said) == [answer, _text(number, size)]

        return Exchange(b"42" + orjson.dumps(event), is_right)


class Bare:
    """WebSocket and nothing on it: the first letter of a text says whom it is for."""

    split = Split.WHOLE
    opcode = 1
    ping = b"\0"
    pong = b""
    noop = b""
    goodbye = b""
    refusal = b""

    def opening(self, where: Where, how: Opening, path: str) -> list[Step]:
        return [_upgrade(where.port, "/")]

    def echo(self, size: int) -> Exchange:
        return self._same("e", size)

    def broadcast(self, size: int) -> Exchange:
        return self._same("b", size)

    def to_group(self, size: int) -> Exchange:
        raise NotImplementedError

    def to_user(self, size: int) -> Exchange:
        raise NotImplementedError

    def to_connection(self, size: int, id_length: int) -> Exchange:
        raise NotImplementedError

    def _same(self, letter: str, size: int) -> Exchange:
        def is_right(reply: bytes, number: str) -> bool:
            return reply.decode() == letter + _text(number, size - 1)

        return Exchange((letter + _text(ID, size - 1)).encode(), is_right)
