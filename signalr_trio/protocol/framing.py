"""Cuts byte streams into messages: by the record separator 0x1e, or by a length prefix.

The JSON hub protocol and the handshake end each message with 0x1e. The MessagePack hub protocol
and the service protocol put a length before it: a base-128 varint, least significant group first,
of one to five bytes, at most 2**31 - 1. A frame here is one message *with* its framing, so that
it can be forwarded as it is.
"""

from __future__ import annotations

from typing import Final, Protocol

from signalr_trio.errors import ProtocolError

__all__ = [
    "RECORD_SEPARATOR",
    "LengthPrefixed",
    "RecordSeparated",
    "Splitter",
    "prefixed",
    "unframe",
]

RECORD_SEPARATOR: Final = b"\x1e"
_SEPARATOR: Final = 0x1E
_MAX_PREFIX: Final = 5
_MAX_LENGTH: Final = 0x7FFF_FFFF
# From here on a view on the body is cheaper than a copy of it.
_VIEW_FROM: Final = 4096


class Splitter(Protocol):
    """Cuts what arrives in pieces of any size into frames."""

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are kept, waiting for the rest."""
        ...

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; the frames that are whole now, in order.

        Raises ProtocolError for a frame over the maximum size (framing included; already when
        the part that is here shows it) and for an impossible length. The stream is of no use
        after that, and the frames that came before the bad one in ``data`` are dropped with it.
        """
        ...


class RecordSeparated:
    """Splitter of messages that each end with 0x1e. ``max_size``: bytes, None for no limit."""

    __slots__ = ("_max_size", "_tail")

    def __init__(self, max_size: int | None) -> None:
        self._max_size = max_size
        self._tail = bytearray()

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are kept, waiting for the rest."""
        return len(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        """See :meth:`Splitter.feed`."""
        end = data.find(_SEPARATOR) + 1
        if end == len(data) and end and not self._tail:
            self._check(end)
            return [data]
        frames: list[bytes] = []
        start = 0
        while end:
            # Only the new bytes are searched: a message in many pieces costs no more than in one.
            if self._tail:
                self._tail += data[:end]
                frame = bytes(self._tail)
                self._tail = bytearray()
            else:
                frame = data[start:end]
            self._check(len(frame))
            frames.append(frame)
            start = end
            end = data.find(_SEPARATOR, start) + 1
        if start < len(data):
            self._tail += data[start:]
            self._check(len(self._tail))
        return frames

    def _check(self, size: int) -> None:
        if self._max_size is not None and size > self._max_size:
            raise _too_large(self._max_size)


class LengthPrefixed:
    """Splitter of messages that each follow their length. ``max_size``: bytes, None for no limit."""

    __slots__ = ("_max_size", "_need", "_tail")

    def __init__(self, max_size: int | None) -> None:
        self._max_size = max_size
        self._tail = bytearray()
        self._need = 0  # size of the frame that _tail begins; 0 while its prefix is unfinished

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are kept, waiting for the rest."""
        return len(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        """See :meth:`Splitter.feed`."""
        frames: list[bytes] = []
        start = self._resume(data, frames) if self._tail else 0
        size = len(data)
        while start < size:
            end = self._frame_end(data, start)
            if not end or end > size:
                self._tail += data[start:]
                self._need = end - start if end else 0
                break
            frames.append(data[start:end])  # the very same object where data is one frame
            start = end
        return frames

    def _resume(self, data: bytes, frames: list[bytes]) -> int:
        """Complete the kept frame from ``data``; returns how many bytes of it were used."""
        tail = self._tail
        used = 0
        while not self._need:
            if used == len(data):
                return used
            tail.append(data[used])
            used += 1
            self._need = self._frame_end(tail, 0)
        missing = self._need - len(tail)
        tail += data[used : used + missing]
        if len(tail) == self._need:
            frames.append(bytes(tail))
            self._tail = bytearray()
            self._need = 0
        return min(used + missing, len(data))

    def _frame_end(self, data: bytes | bytearray, start: int) -> int:
        """Where the frame at ``start`` ends, or 0 while its prefix is unfinished."""
        length = data[start]
        if length < 0x80:
            end = start + 1 + length
        else:
            length, body = _read_prefix(data, start)
            if not body:
                return 0
            end = body + length
        if self._max_size is not None and end - start > self._max_size:
            raise _too_large(self._max_size)
        return end


def prefixed(body: bytes) -> bytes:
    """The body with its length before it. Raises ValueError from 2 GiB on."""
    length = len(body)
    if length < 0x80:
        return length.to_bytes(1, "little") + body
    return _write_prefix(length) + body


def unframe(frame: bytes) -> bytes | memoryview:
    """The body of a length-prefixed frame; a view where the frame is large.

    Raises ProtocolError if the prefix does not fit the frame.
    """
    size = len(frame)
    if size and frame[0] == size - 1 < 0x80:
        return frame[1:]
    length, start = _read_prefix(frame, 0)
    if not start or start + length != size:
        raise ProtocolError(f"The length prefix does not fit a frame of {size} bytes.")
    return frame[start:] if size < _VIEW_FROM else memoryview(frame)[start:]


def _read_prefix(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """The length at ``start`` and where the body begins; (0, 0) while the prefix is unfinished."""
    length = shift = 0
    for index, byte in enumerate(data[start : start + _MAX_PREFIX], start + 1):
        length |= (byte & 0x7F) << shift
        shift += 7
        # A fifth byte with the continuation bit lands here too: there is no sixth.
        if length > _MAX_LENGTH or (byte & 0x80 and shift == 7 * _MAX_PREFIX):
            raise ProtocolError("Messages over 2GB in size are not supported.")
        if byte < 0x80:
            return length, index
    return 0, 0


def _write_prefix(length: int) -> bytes:
    if length > _MAX_LENGTH:
        raise ValueError(f"a message of {length} bytes is over the limit of 2 GiB")
    prefix = bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def _too_large(max_size: int) -> ProtocolError:
    return ProtocolError(f"The maximum message size of {max_size}B was exceeded.")
