"""Reads server-sent events, from bytes in pieces of any size.

Source: the WHATWG's HTML standard, 9.2.6. SignalR sends nothing but plain messages, so events of
other types are dropped, as in a browser without a listener for them, and ``id`` and ``retry``
mean nothing. Data stay bytes: whoever reads them as UTF-8 finds what is none.
"""

from __future__ import annotations

import re
from typing import Final

from signalr_trio.errors import ProtocolError

__all__ = ["EventParser"]

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BOM: Final = b"\xef\xbb\xbf"
_MESSAGE: Final = (b"", b"message")


class EventParser:
    """The events of one stream. ``max_size``: bytes of one event, None for no limit."""

    __slots__ = ("_begun", "_data", "_line", "_max_size", "_size", "_skip_lf", "_type")

    def __init__(self, max_size: int | None = None) -> None:
        self._max_size = max_size
        self._begun = False  # the first line has been read
        self._line = bytearray()  # that has not ended yet
        self._skip_lf = False  # the piece before ended with CR, which LF may belong to
        self._data: list[bytes] = []
        self._type = b""
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that are whole with ``piece``, in order; empty ones are none.

        Raises ProtocolError for an event over the maximum size; the stream is of no use then.
        """
        if self._skip_lf and piece:
            piece = piece.removeprefix(b"\n")
            self._skip_lf = False
        if not piece:
            return []
        self._skip_lf = piece.endswith(b"\r")
        *ended, rest = _LINE_END.split(piece)
        events: list[bytes] = []
        for end_of_line in ended:
            line = end_of_line
            if self._line:
                line = bytes(self._line) + end_of_line
                self._line.clear()
            self._take_line(line, events)
        self._line += rest
        self._check(self._size + len(self._line))
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            data = b"\n".join(self._data)
            if data and self._type in _MESSAGE:
                events.append(data)
            self._data, self._type, self._size = [], b"", 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._size += len(value) + bool(self._data)  # with the line feed between two
            self._data.append(value)
            self._check(self._size)
        elif name == b"event":
            self._type = value.removeprefix(b" ")

    def _check(self, size: int) -> None:
        if self._max_size is not None and size > self._max_size:
            raise ProtocolError(f"The maximum size of {self._max_size}B for an event was exceeded.")
