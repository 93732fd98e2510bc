"""What the load generator is to say, and what it must hear: bytes with fields in them.

A text is written with markers (``ID``, ``INDEX``, ...), which are as long as what they stand for.
So a length that is written before a text, as MessagePack does, is right whatever comes in.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Sequence

import attrs

__all__ = [
    "CHANNEL",
    "ID",
    "INDEX",
    "PARTNER",
    "Capture",
    "Channel",
    "Plan",
    "Split",
    "Step",
    "StepKind",
    "first_id",
    "partner_slot",
    "slot",
]

ID = "@@@@@@@@@@ID"
"""The number of a message: 12 digits that do not begin with 0."""
INDEX = "@@@IX"
"""The number of the connection: 5 digits."""
PARTNER = "@@@PA"
"""The number of the connection that its messages are for."""
CHANNEL = "@@@CH"
"""The number of the channel."""

_MARKER = re.compile(rb"@@@@@@@@@@ID|@@@IX|@@@PA|@@@CH|@[SP]\d@*;")
_KINDS = {ID: 1, INDEX: 2, PARTNER: 4, CHANNEL: 6}


def slot(number: int, length: int = 4) -> str:
    """What the connection captured while it was opened. ``length`` matters where one is written."""
    return f"@S{number}{'@' * (length - 4)};"


def partner_slot(number: int, length: int = 4) -> str:
    """What the connection captured that the message is for."""
    return f"@P{number}{'@' * (length - 4)};"


def first_id(channel: int = 0) -> str:
    """The number of the first message of a channel."""
    return f"{10000 + channel}0000000"


class Split(enum.IntEnum):
    """How several messages stand in one WebSocket message."""

    WHOLE = 0
    RECORD_SEPARATOR = 1
    VARINT = 2


class StepKind(enum.IntEnum):
    """What a step of opening a connection is."""

    HTTP = 0
    UPGRADE = 1
    MESSAGE = 2


@attrs.frozen
class Capture:
    """Keeps what stands between two texts of the answer, for later steps."""

    slot: int
    before: str
    after: str = '"'


@attrs.frozen
class Step:
    """One exchange while a connection is opened."""

    kind: StepKind
    request: bytes
    expected: bytes | None = b""
    """What the answer begins with; None: there is no answer."""
    exact: bool = False
    """Whether the answer is that and no more."""
    port: int = 0
    """Where to connect for it; 0: it goes on on the same connection."""
    port_again: int = 0
    """Where to connect for it when the connection was lost; 0: as before."""
    captures: Sequence[Capture] = ()


@attrs.frozen
class Channel:
    """One connection sends; the receivers get each message once, in order."""

    publisher: int
    partner: int
    receivers: Sequence[int]


@attrs.frozen(kw_only=True)
class Plan:
    """What a run of the load generator does."""

    connections: int
    steps: Sequence[Step]
    channels: Sequence[Channel] = ()
    request: bytes = b""
    reply: bytes | None = None
    """None: the reply is yet to be learned."""
    opening: int = 64
    """How many connections are opened side by side."""
    window: int = 1
    """Messages of a channel that are on their way at a time."""
    split: Split = Split.WHOLE
    opcode: int = 1
    reconnect: bool = False
    """Whether a connection that is lost is opened again; otherwise the run has failed."""
    patience: float = 10.0
    """Seconds for the last answers."""
    pids: Sequence[int] = ()
    """Processes whose CPU time is noted."""
    ping: bytes = b""
    """A message of the server that means nothing, and what is answered to it."""
    pong: bytes = b""
    noop: bytes = b""
    """A message of the server that means nothing either, and is not answered."""
    goodbye: bytes = b""
    """What a message begins with that says that the connection will end."""
    refusal: bytes = b""
    """What is in an answer that refuses; it counts as lost where connections may be lost."""

    def encode(self) -> bytes:
        """As ``load.c`` reads it: 32 bit numbers, and texts behind their lengths."""
        receives = [-1] * self.connections
        for number, channel in enumerate(self.channels):
            for receiver in channel.receivers:
                receives[receiver] = number
        parts = [_numbers(self.connections, self.opening, self.window, self.split, self.opcode)]
        parts += [_numbers(self.reconnect, round(self.patience * 1e3), len(self.pids), *self.pids)]
        parts += map(_text, (self.ping, self.pong, self.noop, self.goodbye, self.refusal))
        parts += [_numbers(len(self.steps))]
        parts += map(_step, self.steps)
        parts += [_numbers(len(self.channels), *receives)]
        parts += [_numbers(channel.publisher, channel.partner) for channel in self.channels]
        parts += [_template(self.request), _template(self.reply or b"")]
        return b"".join(parts)


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}i", *numbers)


def _text(text: bytes) -> bytes:
    return _numbers(len(text)) + text


def _step(step: Step) -> bytes:
    head = _numbers(step.kind, bool(step.port), step.port, step.port_again or step.port)
    # A template of one empty piece is expected to be the beginning of any answer.
    expected = _numbers(0) if step.expected is None else _template(step.expected, empty=True)
    parts = [head, _template(step.request), _numbers(step.exact), expected]
    parts += [_numbers(len(step.captures))]
    for capture in step.captures:
        parts += [_numbers(capture.slot), _text(capture.before.encode())]
        parts += [_text(capture.after.encode())]
    return b"".join(parts)


def _template(text: bytes, *, empty: bool = False) -> bytes:
    pieces: list[bytes] = []
    end = 0
    for found in _MARKER.finditer(text):
        pieces += _literal(text[end : found.start()])
        pieces += [_field(found[0].decode())]
        end = found.end()
    pieces += _literal(text[end:])
    if empty and not pieces:
        pieces = [_numbers(0, 0) + _text(b"")]
    return _numbers(len(pieces)) + b"".join(pieces)


def _literal(text: bytes) -> list[bytes]:
    return [_numbers(0, 0) + _text(text)] if text else []


def _field(marker: str) -> bytes:
    if marker in _KINDS:
        return _numbers(_KINDS[marker], 0) + _text(b"")
    return _numbers(3 if marker[1] == "S" else 5, int(marker[2])) + _text(b"")
