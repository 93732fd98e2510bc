"""A nursery whose tasks outlive a cancellation from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_background"]


@asynccontextmanager
async def open_background() -> AsyncGenerator[trio.Nursery]:
    """A nursery for what the block still needs while it is being cancelled.

    Its tasks are shielded; they are cancelled when the block has ended, however it ends. So the
    block decides when sockets and timers go, also when it cleans up after a cancellation. The
    shield is around the tasks alone: the block itself is cancelled as ever.
    """
    async with trio.open_nursery() as nursery:
        shield = trio.CancelScope(shield=True)
        background = await nursery.start(_hold, shield)
        try:
            yield background
        finally:
            shield.cancel()


async def _hold(shield: trio.CancelScope, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    with shield:
        async with trio.open_nursery() as background:
            task_status.started(background)
            await trio.sleep_forever()
