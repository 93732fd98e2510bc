"""WebSocket data frames (RFC 6455), the plain ones, both ways and without I/O.

Nearly every frame of a SignalR connection is a whole message: final, unfragmented, no
extensions. These are encoded and found here, at a fraction of the cost of a full parser;
all others are left to one, untouched.
"""

from __future__ import annotations

import os
from enum import Enum

import attrs

__all__ = ["BINARY", "CLOSE", "TEXT", "FrameScanner", "Kind", "Message", "Passed", "encode_frame"]

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8

_CONTINUATION = 0x0
_CONTROL_OPCODES = (0x8, 0x9, 0xA)
_MAX_CONTROL_PAYLOAD = 125  # section 5.5

#: A whole message: its payload, and whether it was text. Text is valid UTF-8.
Message = tuple[bytes, bool]


def encode_frame(opcode: int, payload: bytes, *, mask: bool) -> bytes:
    """One final frame. ``mask``: clients must (with a fresh, unpredictable key), servers must not."""
    length = len(payload)
    masked = 0x80 if mask else 0
    if length < 126:
        head = bytes((0x80 | opcode, masked | length))
    elif length < 0x10000:
        head = bytes((0x80 | opcode, masked | 126, length >> 8, length & 0xFF))
    else:
        head = bytes((0x80 | opcode, masked | 127)) + length.to_bytes(8, "big")
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + apply_mask(payload, key)


def apply_mask(data: bytes, key: bytes) -> bytes:
    """``data`` masked with the 4-byte ``key``, or unmasked: it is the same operation."""
    # One XOR of two long integers is by far the fastest way that plain Python has.
    length = len(data)
    keys = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(
        length, "little"
    )


class Kind(Enum):
    """What bytes that go to the full parser are to it."""

    PART = "part"
    """Control frames and fragments; no message is complete with them."""
    LAST_PART = "last part"
    """The last fragment of a message."""
    REST = "rest"
    """A frame that is not in order and all behind it: the parser will refuse it."""
    TOO_BIG = "too big"
    """A message over the limit begins; its bytes are not kept, and nothing follows."""


@attrs.define
class Passed:
    """Bytes for the full parser."""

    data: bytes
    kind: Kind


class FrameScanner:
    """Finds the plain messages in the bytes received.

    ``from_client``: frames must be masked (what a server reads), else they must not be.
    ``max_message_size``: bytes of payload, over all fragments; None: no limit.
    """

    __slots__ = (
        "_buffer",
        "_ended",
        "_fragments_size",
        "_in_fragments",
        "_limit",
        "_mask_bit",
        "_need",
    )

    def __init__(self, *, from_client: bool, max_message_size: int | None) -> None:
        self._mask_bit = 0x80 if from_client else 0
        self._limit = max_message_size
        self._buffer = bytearray()
        self._need = 0
        self._in_fragments = False
        self._fragments_size = 0
        self._ended: Kind | None = None

    def feed(self, data: bytes | bytearray) -> list[Message | Passed]:
        """What is complete with ``data``, in order. Never raises."""
        if self._ended is not None:
            return [Passed(bytes(data), Kind.REST)] if self._ended is Kind.REST else []
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            data, self._buffer = self._buffer, bytearray()
        items: list[Message | Passed] = []
        done = self._scan(bytes(data), items)
        if self._ended is None and done < len(data):
            self._buffer += data[done:]
        return items

    def _scan(self, data: bytes, items: list[Message | Passed]) -> int:
        """Appends to ``items``; returns how many bytes they took."""
        position, end = 0, len(data)
        mask_bit, limit = self._mask_bit, self._limit
        while end - position >= 2:
            second = data[position + 1]
            length = second & 0x7F
            start = position + 2
            if length > 125:
                width = 2 if length == 126 else 8
                start += width
                if start > end:
                    self._need = start - position
                    break
                length = int.from_bytes(data[position + 2 : start], "big")
                if length <= (125 if width == 2 else 0xFFFF) or length >> 63:
                    return self._end(Kind.REST, data[position:], items)
            if second & 0x80 != mask_bit:
                return self._end(Kind.REST, data[position:], items)
            first = data[position]
            kind = self._kind(first, length)
            if kind is Kind.REST:
                return self._end(Kind.REST, data[position:], items)
            if limit is not None and length + self._fragments_size > limit and first & 0x8 == 0:
                return self._end(Kind.TOO_BIG, b"", items)
            payload_start = start + 4 if mask_bit else start
            after = payload_start + length
            if after > end:
                self._need = after - position
                break
            if kind is None:
                payload = data[payload_start:after]
                if mask_bit:
                    payload = apply_mask(payload, data[start:payload_start])
                text = first & 0xF == TEXT
                if text and not payload.isascii() and not _is_utf8(payload):
                    return self._end(Kind.REST, data[position:], items)
                items.append((payload, text))
            else:
                items.append(Passed(data[position:after], kind))
                self._count_fragment(first, length)
            position = after
        else:
            self._need = 2
        return position

    def _kind(self, first: int, length: int) -> Kind | None:
        """What a frame with this first byte is; None: a whole message."""
        if first in (0x80 | TEXT, 0x80 | BINARY):
            return Kind.REST if self._in_fragments else None
        opcode = first & 0xF
        if opcode in _CONTROL_OPCODES:
            in_order = first & 0xF0 == 0x80 and length <= _MAX_CONTROL_PAYLOAD
            return Kind.PART if in_order else Kind.REST
        if first & 0x70 or opcode not in (_CONTINUATION, TEXT, BINARY):
            return Kind.REST
        if (opcode == _CONTINUATION) is not self._in_fragments:
            return Kind.REST
        return Kind.LAST_PART if first & 0x80 else Kind.PART

    def _count_fragment(self, first: int, length: int) -> None:
        if first & 0x8 == 0:
            self._in_fragments = first & 0x80 == 0
            # An empty one counts too: the parser keeps each until the last.
            size = self._fragments_size + max(length, 1)
            self._fragments_size = size if self._in_fragments else 0

    def _end(self, kind: Kind, data: bytes, items: list[Message | Passed]) -> int:
        self._ended = kind
        items.append(Passed(data, kind))
        return 0


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
