"""Runs trio so that everything that happens follows from a seed.

Relies on trio's own switch for such tests: with it each batch of runnable tasks is sorted by the
order in which they were made, and shuffled by trio's own generator, which is seeded here. Scopes
with the same deadline are told apart by the order in which they were set, not by address. The
collector is off meanwhile, since it would close forgotten async generators at moments of its own.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Awaitable, Callable
from heapq import heappush
from typing import TypeVar

import trio
from trio._core import _run as trio_run  # pyright: ignore
from trio.testing import MockClock

__all__ = ["run_deterministically"]

T = TypeVar("T")
_order = itertools.count()


def _add_in_order(self: trio_run.Deadlines, deadline: float, scope: trio.CancelScope) -> None:
    heappush(self._heap, (deadline, next(_order), scope))
    self._active += 1


def run_deterministically(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """``trio.run`` on a clock that jumps, with nothing left to chance."""
    switch, add = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run.Deadlines.add
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run.Deadlines.add = _add_in_order  # type: ignore[method-assign]
    trio_run._r.seed(seed)
    collecting = gc.isenabled()
    gc.disable()
    try:
        return trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = switch  # type: ignore[misc]
        trio_run.Deadlines.add = add  # type: ignore[method-assign]
        if collecting:
            gc.enable()
