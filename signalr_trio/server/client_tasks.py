"""Tasks for the clients of a hub server: each has one while there is something to do for it.

::

    at rest ──wake()──> at work ──linger()──> lingering ──wake()──> at work ...
       ^                                          |
       └────────────────── let go ────────────────┘

Most clients do nothing most of the time, and a task that waits costs them 5 KB each. A client that
calls again and again should not pay for a new task each time either, so a task that has become
idle lingers for a few seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import attrs
import trio

from signalr_trio.server.calls import IN_CALL

if TYPE_CHECKING:
    from signalr_trio.server.client_connection import ClientConnection

__all__ = ["ClientTasks"]

#: Seconds between two looks; a task that was idle from one look to the next is let go.
_LOOK_EVERY = 4.0


@attrs.define(eq=False)
class _Idle:
    task: trio.lowlevel.Task
    look: int
    """The number of the look that is the first to see it."""
    let_go: bool = False


class ClientTasks:
    """Starts, wakes and lets go of tasks, all of them in one nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._lingering: dict[ClientConnection, _Idle] = {}
        """In the order in which they became idle."""
        self._look = 0
        self._context = copy_context()
        self._context.run(IN_CALL.set, True)

    def start(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Starts a task. It sees nothing of what the current one, maybe another client's call,
        has set in its context."""
        self._context.run(self._nursery.start_soon, work, *arguments)

    def wake(self, client: ClientConnection) -> bool:
        """Sees to it that the client's task works; False if it did before."""
        if client.at_work:
            return False
        client.at_work = True
        idle = self._lingering.pop(client, None)
        if idle is None:
            self.start(client.run)
        else:
            trio.lowlevel.reschedule(idle.task)
        return True

    async def linger(self, client: ClientConnection) -> bool:
        """The client's task waits to be woken. False if it was let go instead: then it is to end
        without another look at the client, which may have a new task by now."""
        client.at_work = False
        idle = self._lingering[client] = _Idle(trio.lowlevel.current_task(), self._look)

        def cancelled(_: object) -> trio.lowlevel.Abort:
            client.at_work = True
            del self._lingering[client]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(cancelled)
        return not idle.let_go

    async def let_go(self) -> None:
        """The task that lets go of those that have been idle since it last looked."""
        while True:
            await trio.sleep(_LOOK_EVERY)
            # In a call of its own: what is in a variable here would be kept to the next look.
            self._let_go_idle()

    def _let_go_idle(self) -> None:
        for client, idle in list(self._lingering.items()):
            if idle.look == self._look:
                break
            del self._lingering[client]
            idle.let_go = True
            trio.lowlevel.reschedule(idle.task)
            client.rest()
        self._look += 1
