"""What the service holds of one client while no server may have it (sans-IO)."""

from __future__ import annotations

from collections import deque

from signalr_trio.protocol.hub_protocol import Peek
from signalr_trio.protocol.messages import INVOCATIONS, PARTS_OF_CALLS

__all__ = ["Hold"]

#: Bytes of memory that a held message takes beside its own, about: of small ones nearly all.
_OVERHEAD = 256


class Hold:
    """Whole hub messages in the order in which the client sent them.

    What belongs to a call that began on the old server is found by exclusion: an item, a completion
    or a cancel goes on to it unless its id is that of an invocation held here, or of one of its
    streams. So no record of earlier calls is needed.
    """

    __slots__ = ("_frames", "_ids", "full_since", "oldest", "passing", "size")

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, Peek]] = deque()
        self._ids: set[str] = set()
        self.size = 0
        """Bytes of memory, about."""
        self.passing = True
        """Whether the old server still takes what belongs to its calls."""
        self.oldest: float | None = None
        """When the first message was held."""
        self.full_since: float | None = None

    def passes(self, peek: Peek) -> bool:
        """Whether a message goes to the old server, past what is held."""
        return self.passing and self._is_part_of_older_call(peek)

    def _is_part_of_older_call(self, peek: Peek) -> bool:
        return peek.type in PARTS_OF_CALLS and peek.invocation_id not in self._ids

    def put(self, frame: bytes, peek: Peek, now: float) -> None:
        self._frames.append((frame, peek))
        self.size += _OVERHEAD + len(frame)
        if self.oldest is None:
            self.oldest = now
        if peek.type in INVOCATIONS:
            self._ids.update(peek.stream_ids)
            if peek.invocation_id:
                self._ids.add(peek.invocation_id)

    def take(self) -> list[bytes]:
        """All that is held, oldest first; the hold is empty afterwards."""
        frames = [frame for frame, _ in self._frames]
        self._frames.clear()
        self._ids.clear()
        self.size = 0
        return frames

    def take_parts_of_older_calls(self) -> list[bytes]:
        """What is held and would pass, oldest first; it is held no longer."""
        taken = [one for one in self._frames if self._is_part_of_older_call(one[1])]
        if taken:
            kept = [one for one in self._frames if not self._is_part_of_older_call(one[1])]
            self._frames = deque(kept)
        frames = [frame for frame, _ in taken]
        self.size -= sum(_OVERHEAD + len(frame) for frame in frames)
        return frames
