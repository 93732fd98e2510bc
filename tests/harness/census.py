"""What is there: objects of the product and of what it is built on, tasks, and names in its dicts."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import cast

import trio

from .scripted_service import living_tasks

__all__ = ["census", "names_in"]

_COUNTED = ("signalr_trio", "trio", "trio_websocket", "wsproto", "h11")
#: trio keeps up to a thousand scopes whose deadlines it was told of and that are over, and what
#: these were cancelled with.
_KEPT_BY_TRIO = frozenset({"CancelScope", "Cancelled", "CancelReason"})
#: A name that is found by way of these is not the product's: they lead to whatever there is.
_ELSEWHERE = (ModuleType, type, FunctionType, trio.lowlevel.Task, trio.Nursery)


def census() -> Counter[str]:
    """How many objects there are of each class of the product and of its libraries, and how many
    tasks of each name. What only the garbage collector holds is gone."""
    gc.collect()
    found = Counter(f"task {task.name}" for task in living_tasks())
    for one in gc.get_objects():
        kind = type(one)
        module = str(kind.__module__)
        if module.partition(".")[0] in _COUNTED and kind.__name__ not in _KEPT_BY_TRIO:
            found[f"{module}.{kind.__qualname__}"] += 1
    return found


def names_in(roots: Iterable[object], mark: str) -> set[str]:
    """The strings with ``mark`` in them that can be reached from ``roots``."""
    found: set[str] = set()
    seen: set[int] = set()
    new = list(roots)
    while new:
        one = new.pop()
        if isinstance(one, str):
            if mark in one:
                found.add(one)
        elif id(one) not in seen and not isinstance(one, _ELSEWHERE):
            seen.add(id(one))
            new += gc.get_referents(one)
            if isinstance(one, dict):
                new += cast("dict[object, object]", one)  # keys that are strings are no referents
    return found
