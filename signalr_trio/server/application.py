"""What the application's own code raises: hub methods, hooks, what converts their values."""

from __future__ import annotations

from typing import cast

__all__ = ["split_errors"]


def split_errors(raised: BaseException) -> tuple[Exception | None, BaseException | None]:
    """The application's errors, and what must go on: a cancellation, KeyboardInterrupt.

    Both come at once where a nursery of the application is cancelled and a task in it fails while
    it cleans up.
    """
    if isinstance(raised, Exception):
        return raised, None
    if isinstance(raised, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", raised).split(Exception)
    return None, raised
