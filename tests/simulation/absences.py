"""How long clients with stateful reconnect were without a connection, and what that explains.

To be cut off explains nothing, unless it was for longer than the window: all promises are kept
to a client that comes back. Only what is about time waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from tests.simulation.plan import BACK

__all__ = ["PATIENCE", "Losses", "is_beyond", "seconds_away", "was_away_at"]

#: From when until when no connection could be made, in the order of their beginnings.
Losses: TypeAlias = Sequence[tuple[float, float]]

#: A service that was not told of a loss finds out by itself within so many seconds.
PATIENCE: Final = 40.0


def _absences(losses: Losses) -> list[tuple[float, float]]:
    """One that begins before it was back from the last is the same."""
    found: list[tuple[float, float]] = []
    for since, until in losses:
        if found and since <= found[-1][1] + BACK:
            found[-1] = (found[-1][0], max(until, found[-1][1]))
        else:
            found.append((since, until))
    return found


def is_beyond(losses: Losses, window: float) -> bool:
    """Whether it may not have been back in time."""
    return any(until + BACK - since > window for since, until in _absences(losses))


def seconds_away(losses: Losses) -> float:
    """At the most, all in all."""
    return sum(until + BACK - since for since, until in _absences(losses))


def was_away_at(losses: Losses, moment: float) -> bool:
    """Or may have been."""
    return any(since <= moment <= until + BACK for since, until in losses)
