"""What came from a server, as short texts that can be compared.

An *item* is a hub message or an event of the connection: ``text {"type":6}``, ``binary [6]``,
``pong x``, ``close 1000``, ``end``. What differs from run to run is made equal: frame boundaries, ids,
and, where a scenario is not about them, pings and acks.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import msgpack

__all__ = ["MANY", "NOISE", "Names", "brief", "brief_list", "hub_messages", "without_ids"]

_SEPARATOR = b"\x1e"
_LONGEST = 400
#: More items than these are shown by the first, the last and a hash.
MANY = 100
_ID = re.compile(r'("connection(?:Id|Token)":)"[A-Za-z0-9_-]{22,}"')
_QUESTION = re.compile(r'text \{"type":1,"invocationId":"([^"]*)"')
_BINARY_QUESTION = re.compile(r'binary \[1, \{\}, "([^"]*)"')

#: Pings, and acks of stateful reconnect: when they come is a matter of timers.
NOISE = re.compile(r'text \{"type":(6|8,"sequenceId":\d+)\}$|binary \[(6|8, \d+)\]$')


def brief(text: str) -> str:
    """A long text by its beginning, its length and its hash."""
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{text[:60]}... {len(text)} characters, sha256 {digest}"


def brief_list(items: list[str]) -> list[str]:
    if len(items) <= MANY:
        return items
    digest = hashlib.sha256("\n".join(items).encode()).hexdigest()[:16]
    return [items[0], f"... {len(items)} items, sha256 {digest}", items[-1]]


def without_ids(text: str) -> str:
    """Connection ids and tokens have a form, but no value."""
    return _ID.sub(r'\1"..."', text)


def hub_messages(data: bytes, *, binary: bool) -> list[str]:
    """The items of whole hub messages; what is not whole is an item that says so."""
    if not binary:
        return _texts(data, "text")
    # The handshake response may have messages behind it, or none.
    end = data.find(_SEPARATOR) + 1 if data[:2] in (b"{}", b'{"') else 0
    return _texts(data[:end], "binary") + _packed(data[end:])


def _texts(data: bytes, kind: str) -> list[str]:
    *records, rest = data.split(_SEPARATOR)
    items = [f"{kind} {one.decode(errors='backslashreplace')}" for one in records]
    if rest:
        items.append(f"part {rest.decode(errors='backslashreplace')}")
    return [brief(item) for item in items]


def _packed(data: bytes) -> list[str]:
    items: list[str] = []
    while data:
        size, start = _prefix(data)
        body, data = data[start : start + size], data[start + size :]
        if len(body) < size:
            return [*items, f"part {body.hex()}"]
        value = msgpack.unpackb(body, strict_map_key=False, timestamp=0)
        items.append(brief(f"binary {json.dumps(value, default=_shown, ensure_ascii=False)}"))
    return items


def _prefix(data: bytes) -> tuple[int, int]:
    """The length of a frame's body, and that of its prefix."""
    size = 0
    for index, byte in enumerate(data[:5]):
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return size, index + 1
    raise AssertionError(f"no length prefix: {data[:5].hex()}")


def _shown(value: Any) -> Any:
    return {"bin": value.hex()} if isinstance(value, bytes) else str(value)


class Names:
    """The ids that a server gives its questions to clients, each by the order of its coming."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def in_received(self, item: str) -> str:
        match = _QUESTION.match(item) or _BINARY_QUESTION.match(item)
        if match is None:
            return item
        name = f"s{len(self._real) + 1}"
        self._real[name] = match[1]
        return item[: match.start(1)] + name + item[match.end(1) :]

    def in_sent(self, data: str) -> str:
        """An answer to the question ``s1``, with the real id."""
        return re.sub(
            r'"invocationId":"(s\d+)"',
            lambda match: f'"invocationId":{json.dumps(self.real(match[1]))}',
            data,
        )

    def real(self, name: str) -> str:
        return self._real.get(name, name)
