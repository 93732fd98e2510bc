"""Runs features of SignalR with clients of other makers, on every deployment, side by side.

``python -m tests.interop.matrix`` runs all of them and writes the table in ``docs/interop.md``;
``tests/interop/test_matrix.py`` has a test for each cell of it.

A deployment is started once. Its cells run at the same time, each with connections of its own: first
those that are not to be disturbed, then all others up to their middle; there the hub server is
stopped, once for all of them, and they go on.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import attrs
import trio

from tests.interop.client_process import (
    CallFailed,
    ClientProcess,
    Connection,
    client_process,
)
from tests.interop.columns import Cell, cells
from tests.interop.deployments import DEPLOYMENTS, PATIENCE, Deployment, deployed
from tests.interop.features import FEATURES
from tests.interop.node import node_command
from tests.interop.table import PATH, render
from tests.peers import DOTNET_PEER

__all__ = ["Results", "run_cells"]

PYTHON_CLIENTS = Path(__file__).parent / "python"
#: Deployments that run side by side: more of them make each slower, not all faster.
_AT_ONCE = 2
#: How long the call runs, in ms, that each client has when its server is stopped.
_OCCUPIED = 1500

#: What became of each cell; None: passed.
Results = dict[Cell, Exception | None]


@attrs.define
class Middle:
    """Where all cells that are to be disturbed meet."""

    expected: int
    reached: trio.Event = attrs.field(factory=trio.Event)
    """All have come here, or failed before."""
    over: trio.Event = attrs.field(factory=trio.Event)
    """The shutdown of the hub server has begun."""
    _arrived: set[Cell] = attrs.field(factory=set[Cell])

    def arrived(self, cell: Cell) -> None:
        self._arrived.add(cell)
        if len(self._arrived) >= self.expected:
            self.reached.set()


@attrs.define(eq=False)
class RunningCase:
    """A feature that is being run: what it sees as its ``Case``, and its connections."""

    name: str
    cell: Cell
    deployment: Deployment
    clients: ClientProcess
    halfway: Middle
    connections: list[Connection] = attrs.field(factory=list[Connection])
    occupied: list[object] = attrs.field(factory=list[object])
    """The results of these calls."""

    @property
    def moving(self) -> bool:
        return self.cell.moving

    @property
    def url(self) -> str:
        return self.deployment.url

    @property
    def refuses(self) -> bool:
        return self.moving and self.deployment.kind.new is None

    async def middle(self) -> None:
        if self.moving:
            self.halfway.arrived(self.cell)
            await self.halfway.over.wait()

    async def event(self, ev: str, **fields: object) -> None:
        await self.deployment.event(ev, **fields)

    async def occupy(self) -> None:
        """Keeps its connections with the old server for a while, which has to finish a call: the
        second half of the feature begins before they have been handed over."""
        for connection in self.connections:
            await connection.begin("Slow", _OCCUPIED, results=self.occupied)

    async def connect(self) -> None:
        feature, column = FEATURES[self.cell.feature], self.cell.column
        options = dict(feature.options)
        targets = [target.replace("*", self.name) for target in options.pop("on", [])]
        for user in feature.users:
            connection = await self.clients.connect(
                f"{self.url}?user={quote(self.name + user)}",
                on=targets,
                transport=column.transport,
                protocol=column.protocol,
                **options,
            )
            self.connections.append(connection)

    async def run(self) -> None:
        await FEATURES[self.cell.feature].run(self, *self.connections)

    async def end(self) -> None:
        for connection in self.connections:
            if FEATURES[self.cell.feature].lasts:
                await self._has_noticed_nothing(connection)
            await connection.stop()
        if self.moving and FEATURES[self.cell.feature].lasts:
            assert self.occupied == [_OCCUPIED] * len(self.connections)

    async def give_up(self) -> None:
        """Leaves, so that no server waits for its connections."""
        with trio.move_on_after(PATIENCE), suppress(CallFailed):
            for connection in self.connections:
                await connection.stop()

    async def _has_noticed_nothing(self, connection: Connection) -> None:
        who = await connection.invoke("WhoAmI")
        assert who["connectionId"] == connection.id
        if self.moving:
            assert who["serverName"] == self.deployment.survivor
        assert connection.lifecycle == []


Step = Callable[[RunningCase], Awaitable[None]]


class DeploymentRun:
    """The cells of one deployment."""

    def __init__(
        self, deployment: Deployment, clients: dict[str, ClientProcess], wanted: Sequence[Cell]
    ) -> None:
        self.results: Results = {}
        self._deployment = deployment
        self._clients = clients
        self._middle = Middle(sum(cell.moving for cell in wanted))
        cases = [self._case(number, cell) for number, cell in enumerate(wanted)]
        self._calm = [case for case in cases if not case.moving]
        self._moving = [case for case in cases if case.moving]

    def _case(self, number: int, cell: Cell) -> RunningCase:
        name = f"{cell.column.deployment}{number}"
        clients = self._clients[cell.column.client]
        return RunningCase(name, cell, self._deployment, clients, self._middle)

    async def run(self) -> None:
        clients = next(iter(self._clients.values()))
        witness = await clients.connect(self._deployment.url)
        await self._each(self._moving, RunningCase.connect)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_calm)
            if self._moving:
                nursery.start_soon(self._deployment.start_new, clients)
        if not self._moving:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._each, self._moving, RunningCase.run)
            await self._middle.reached.wait()
            await self._each(self._moving, RunningCase.occupy)
            await self._deployment.stop_old(witness.id)
            self._middle.over.set()
        await witness.stop()
        if self._deployment.kind.new is None:
            # It ends when its clients have left; any other when they have been handed over.
            await self._each(self._moving, RunningCase.end)
        await self._deployment.old_has_ended()
        if self._deployment.kind.new is not None:
            await self._each(self._moving, RunningCase.end)

    async def _run_calm(self) -> None:
        await self._each(self._calm, RunningCase.connect)
        await self._each(self._calm, RunningCase.run)
        await self._each(self._calm, RunningCase.end)

    async def _each(self, cases: Iterable[RunningCase], step: Step) -> None:
        async with trio.open_nursery() as nursery:
            for case in cases:
                if self.results.get(case.cell) is None:
                    nursery.start_soon(self._guarded, case, step)

    async def _guarded(self, case: RunningCase, step: Step) -> None:
        """Whatever goes wrong is the result of that cell, and holds up no other."""
        self.results.setdefault(case.cell, None)
        try:
            with trio.fail_after(PATIENCE):
                await step(case)
        except Exception as error:
            self.results[case.cell] = error
            for connection in case.connections:
                told = case.deployment.told_of(connection.id)
                error.add_note(f"{connection.id}: {connection.lifecycle}\n  {told}")
            await case.give_up()
        is_over = self.results[case.cell] is not None or step is RunningCase.run
        if case.moving and is_over:
            self._middle.arrived(case.cell)


async def run_cells(wanted: Iterable[Cell]) -> Results:
    """Runs cells, those of each deployment together, and a few deployments side by side."""
    wanted = list(wanted)
    results: Results = {}
    at_once = trio.CapacityLimiter(_AT_ONCE)

    async def run_deployment(name: str, clients: dict[str, ClientProcess]) -> None:
        mine = [cell for cell in wanted if cell.column.deployment == name]
        try:
            async with at_once, deployed(DEPLOYMENTS[name]) as deployment:
                run = DeploymentRun(deployment, clients, mine)
                try:
                    await run.run()
                finally:
                    results.update(run.results)
        except Exception as error:
            # The deployment itself is at fault: what passed in it is not worth anything.
            results.update({cell: results.get(cell) or error for cell in mine})

    async with (
        _client_processes({cell.column.client for cell in wanted}) as clients,
        trio.open_nursery() as nursery,
    ):
        for name in dict.fromkeys(cell.column.deployment for cell in wanted):
            nursery.start_soon(run_deployment, name, clients)
    return results


@asynccontextmanager
async def _client_processes(names: set[str]) -> AsyncIterator[dict[str, ClientProcess]]:
    async with trio.open_nursery() as nursery:

        async def run(name: str, *, task_status: trio.TaskStatus[ClientProcess]) -> None:
            program = str(PYTHON_CLIENTS / f"{name}_client.py")
            command = node_command() if name == "JavaScript" else [sys.executable, program]
            async with client_process(command) as running:
                task_status.started(running)
                await trio.sleep_forever()

        # JavaScript is always there: it has the witness of a hand-over.
        yield {
            name: await nursery.start(run, name)
            for name in ["JavaScript", *sorted(names - {"JavaScript"})]
        }
        nursery.cancel_scope.cancel()


def main() -> None:
    if not DOTNET_PEER:
        sys.exit("SIGNALR_DOTNET_PEER is not set: the table has columns of .NET servers")
    results = trio.run(partial(run_cells, cells()))
    failed = {cell: error for cell, error in results.items() if error is not None}
    for cell, error in failed.items():
        print(f"{cell.id}: {error!r}")
    print(f"{len(results) - len(failed)} of {len(results)} cells passed")
    if failed:
        sys.exit(1)
    PATH.write_text(render(results))
    print(f"written: {PATH}")


if __name__ == "__main__":
    main()
