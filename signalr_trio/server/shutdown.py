"""The four stages of a graceful shutdown, one after the other, and the report of them.

::

    1 offline   FIN on every server connection; over when each has its FINACK, or is lost
    2 hooks     the shutdown hooks; they can still send to clients
    3 clients   over when no client is left: they leave, or are handed over
    4 stop      calls that are left are cancelled, clients told, lines flushed, connections closed

Stages 1 to 3 share one deadline, a point in time: each is a scope of its own, with what is left of
it. Stage 4 has its own limit on top, and is shielded: it runs whatever happens.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from signalr_trio.hub import HubContext
from signalr_trio.protocol.service_messages import FIN_MIGRATE, FIN_OFF, FIN_WAIT, SHUTDOWN, Ping
from signalr_trio.server.application import split_errors
from signalr_trio.server.calls import IN_CALL
from signalr_trio.server.client_connection import ClientConnection, End
from signalr_trio.server.options import GracefulShutdown, ShutdownMode

if TYPE_CHECKING:
    from signalr_trio.server.hub_server import HubServer
    from signalr_trio.server.served_hub import ServedHub

__all__ = ["ShutdownHook", "ShutdownReport", "StageReport", "Stages"]

log = logging.getLogger("signalr_trio.shutdown")

ShutdownHook = Callable[[HubContext], Awaitable[None]]

OFFLINE, HOOKS, CLIENTS, STOP = "offline", "hooks", "clients", "stop"
_FOR_CLIENTS = 0.8
_EMBEDDED = "service and hub server are one process: no server to move to"
_BOUND = "the client is bound to its server (sticky mode Required)"


@attrs.define
class StageReport:
    """How one stage went."""

    name: str
    duration: float = 0.0
    """Seconds."""
    timed_out: bool = False


@attrs.define
class ShutdownReport:
    """What a shutdown did. Each client that was here when stage 3 began, or came later, is
    counted once."""

    mode: ShutdownMode
    stages: list[StageReport] = attrs.field(factory=list[StageReport])
    migrated: int = 0
    """Released to another server; what became of them there is the service's to tell."""
    left: int = 0
    """Went by themselves."""
    aborted: int = 0
    """Closed by the hub, or for an error of theirs."""
    dropped: dict[str, int] = attrs.field(factory=dict[str, int])
    """Closed because this server stopped: why -> how many."""

    @property
    def clients(self) -> int:
        return self.migrated + self.left + self.aborted + sum(self.dropped.values())

    @property
    def duration(self) -> float:
        return sum(stage.duration for stage in self.stages)

    def count(self, client: ClientConnection) -> None:
        if client.end is End.MIGRATED:
            self.migrated += 1
        elif client.end is End.ABORTED:
            self.aborted += 1
        elif client.end is End.DROPPED:
            reason = client.drop_reason
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
        else:
            self.left += 1

    def __str__(self) -> str:
        stages = ", ".join(
            f"{stage.name} {stage.duration:.3f} s{' (timed out)' if stage.timed_out else ''}"
            for stage in self.stages
        )
        dropped = "; ".join(f"{count}: {why}" for why, count in self.dropped.items()) or "0"
        return (
            f"{self.mode.value}: {stages}; clients migrated {self.migrated}, left {self.left}, "
            f"aborted {self.aborted}, dropped {dropped}"
        )


class Stages:
    """Runs the stages of one shutdown."""

    def __init__(self, server: HubServer, options: GracefulShutdown) -> None:
        self.report = ShutdownReport(options.mode)
        self.counting = False
        """Whether stage 3 has begun: clients that end are counted."""
        self._server = server
        self._options = options
        self._deadline = trio.current_time() + options.timeout
        self._stop_began = 0.0

    @asynccontextmanager
    async def _stage(self, name: str, limit: float) -> AsyncGenerator[None]:
        """One stage: a scope that ends at its own limit or at the common deadline."""
        began = trio.current_time()
        report = StageReport(name)
        self.report.stages.append(report)
        log.info("shutdown: %s", name)
        try:
            with trio.move_on_at(min(self._deadline, began + limit)) as scope:
                yield
            report.timed_out = scope.cancelled_caught
            if report.timed_out:
                log.warning("shutdown: stage %s has timed out", name)
        finally:
            report.duration = trio.current_time() - began

    async def run(self) -> None:
        """Stages 1 to 3. Mode off has neither hooks nor patience."""
        if self._options.mode is ShutdownMode.OFF:
            limit = self._options.stop_timeout
            async with self._stage(OFFLINE, limit):
                await self._go_offline()
            self.counting = True
            return
        async with self._stage(OFFLINE, self._options.offline_timeout):
            await self._go_offline()
        async with self._stage(HOOKS, self._options.timeout / 2):
            await self._run_hooks()
        self.counting = True
        async with self._stage(CLIENTS, self._options.timeout):
            await self._let_clients_go()

    async def _go_offline(self) -> None:
        async with trio.open_nursery() as nursery:
            for hub in self._server.hubs:
                for connection in hub.connections:
                    fin = self._first_fin(agreed=connection.agreed)
                    nursery.start_soon(connection.go_offline, fin)

    def _first_fin(self, *, agreed: bool) -> str:
        """A service that is ours is told of the migration when the hooks are over; any other
        knows but one FIN."""
        if self._options.mode is ShutdownMode.OFF:
            return FIN_OFF
        if self._options.mode is ShutdownMode.MIGRATE_CLIENTS and not agreed:
            return FIN_MIGRATE
        return FIN_WAIT

    async def _run_hooks(self) -> None:
        """The hubs side by side, the hooks of each in the order of their registration."""
        async with trio.open_nursery() as nursery:
            for hub in self._server.hubs:
                nursery.start_soon(self._run_hooks_of, hub)

    async def _run_hooks_of(self, hub: ServedHub) -> None:
        IN_CALL.set(True)
        for hook in self._server.hooks_of(hub):
            try:
                await hook(hub.context)
            except BaseException as raised:
                error, rest = split_errors(raised)
                if error is not None:
                    name = getattr(hook, "__qualname__", repr(hook))
                    log.error("shutdown hook %s of hub %s failed", name, hub.name, exc_info=error)
                if rest is not None:
                    raise rest from None

    async def _let_clients_go(self) -> None:
        self._server.refuse_clients()
        if self._options.mode is ShutdownMode.MIGRATE_CLIENTS:
            for hub in self._server.hubs:
                for connection in hub.connections:
                    if connection.agreed and not connection.embedded:
                        connection.send(Ping.of(SHUTDOWN, FIN_MIGRATE))
                for client in list(hub.clients.values()):
                    if client.connection.embedded:
                        client.drop(_EMBEDDED)
                    elif client.is_bound:
                        client.drop(_BOUND)
        await self._server.no_clients()

    def begin_stop(self) -> float:
        """Stage 4 begins. The point in time until which clients may end in order; what is left of
        the stage after it is for what they said to go out."""
        self.counting = True
        self._stop_began = trio.current_time()
        self.report.stages.append(StageReport(STOP))
        log.info("shutdown: %s", STOP)
        return self._stop_began + self._options.stop_timeout * _FOR_CLIENTS

    @contextmanager
    def end_of_stop(self) -> Generator[float]:
        """The rest of stage 4: shielded, and bounded by the stage's limit. How long that is."""
        report = self.report.stages[-1]
        deadline = self._stop_began + self._options.stop_timeout
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            yield max(deadline - trio.current_time(), 0.0)
        report.timed_out = scope.cancelled_caught
        report.duration = trio.current_time() - self._stop_began
