"""What has become of the clients of a hub since the service began: plain counts (sans-IO)."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["PAUSE_BOUNDS", "Tally"]

#: Seconds; a pause is counted under the least of these that it does not exceed.
PAUSE_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Tally:
    """Counts that only grow."""

    def __init__(self) -> None:
        self.opened = 0
        """Clients that came in."""
        self.dropped = 0
        """Clients that were closed because no server could, or would, take them over."""
        self.pauses = [0] * (len(PAUSE_BOUNDS) + 1)
        """Clients that were handed over, by how long what they began was held; longer ones last."""
        self.paused = 0.0
        """Seconds, of all these clients together."""

    def handed_over(self, pause: float) -> None:
        self.pauses[bisect_left(PAUSE_BOUNDS, pause)] += 1
        self.paused += pause
