"""The messages of the hub protocol, independent of how they are encoded.

Source: HubProtocol.md of dotnet/aspnetcore, and recordings of ASP.NET Core SignalR 10. Treat the
instances as immutable; they are not frozen because that would make each of them slower to make.
"""

from __future__ import annotations

import enum
from collections import abc
from typing import Final, Literal, TypeAlias

import attrs

__all__ = [
    "INVOCATIONS",
    "NO_RESULT",
    "PARTS_OF_CALLS",
    "Ack",
    "CancelInvocation",
    "Close",
    "Completion",
    "HubMessage",
    "Invocation",
    "MessageType",
    "NoResult",
    "Ping",
    "Sequence",
    "StreamInvocation",
    "StreamItem",
    "checked_target",
]


class MessageType(enum.IntEnum):
    """The number that says on the wire what a message is."""

    INVOCATION = 1
    STREAM_ITEM = 2
    COMPLETION = 3
    STREAM_INVOCATION = 4
    CANCEL_INVOCATION = 5
    PING = 6
    CLOSE = 7
    ACK = 8
    SEQUENCE = 9


#: What begins a call.
INVOCATIONS: Final = frozenset((MessageType.INVOCATION, MessageType.STREAM_INVOCATION))
#: What belongs to a call that was begun before, and has the id of it or of one of its streams.
PARTS_OF_CALLS: Final = frozenset(
    (MessageType.STREAM_ITEM, MessageType.COMPLETION, MessageType.CANCEL_INVOCATION)
)


class NoResult(enum.Enum):
    """The type of :data:`NO_RESULT`."""

    NO_RESULT = "no result"


NO_RESULT: Final[Literal[NoResult.NO_RESULT]] = NoResult.NO_RESULT
"""Stands in :attr:`Completion.result` where a completion has none; ``None`` is a result (null)."""


@attrs.define
class Invocation:
    """Type 1: call ``target``.

    ``invocation_id`` is None where no answer is wanted (an empty id is read as None).
    ``stream_ids`` name the streams that the sender uploads for this call.
    """

    target: str
    arguments: abc.Sequence[object]
    invocation_id: str | None = None
    stream_ids: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


@attrs.define
class StreamInvocation:
    """Type 4: call ``target``, which answers with stream items and then a completion."""

    invocation_id: str
    target: str
    arguments: abc.Sequence[object]
    stream_ids: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


def checked_target(message: Invocation | StreamInvocation) -> str:
    """The target as it is written: exactly a str.

    Raises TypeError for anything else, which would cost whoever reads it the connection. Of an
    enum of strings it is the value.
    """
    target: object = message.target
    if type(target) is str:
        return target
    if not isinstance(target, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"'target' must be str, not {type(target).__name__}")
    return str.__str__(target)


@attrs.define
class StreamItem:
    """Type 2: one item of the stream ``invocation_id`` (of a call, or of an upload)."""

    invocation_id: str
    item: object
    headers: dict[str, str] | None = None


@attrs.define
class Completion:
    """Type 3: the end of a call or of a stream. Where ``error`` is set, ``result`` is ignored."""

    invocation_id: str
    result: object = NO_RESULT
    error: str | None = None
    headers: dict[str, str] | None = None


@attrs.define
class CancelInvocation:
    """Type 5: the caller wants no more of the stream ``invocation_id``."""

    invocation_id: str
    headers: dict[str, str] | None = None


@attrs.define
class Ping:
    """Type 6: the sender is alive."""


@attrs.define
class Close:
    """Type 7: the sender ends the connection; with an error if ``error`` is not None."""

    error: str | None = None
    allow_reconnect: bool = False


@attrs.define
class Ack:
    """Type 8 (stateful reconnect): all messages up to number ``sequence_id`` have arrived."""

    sequence_id: int


@attrs.define
class Sequence:
    """Type 9 (stateful reconnect): the next counted message has number ``sequence_id``."""

    sequence_id: int


HubMessage: TypeAlias = (
    Invocation
    | StreamInvocation
    | StreamItem
    | Completion
    | CancelInvocation
    | Ping
    | Close
    | Ack
    | Sequence
)
