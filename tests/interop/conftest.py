"""A service, hub servers of ours and of .NET that connect to it, and the JavaScript client."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import trio

from signalr_trio import GracefulShutdown, RunningService, open_service
from tests.interop.backend import Backend, backend
from tests.interop.client_process import ClientProcess, client_process
from tests.interop.node import node_command
from tests.peers import DotnetPeer, dotnet_peer

pytest.register_assert_rewrite("tests.interop.features")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes longer than the time-outs that it is about")


@pytest.fixture
async def javascript() -> AsyncIterator[ClientProcess]:
    """A Node process that has the official client."""
    async with client_process(node_command()) as running:
        yield running


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    async with open_service(port=0) as running:
        yield running


@pytest.fixture(params=["json", "messagepack"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def start(service: RunningService) -> AsyncIterator[Callable[..., Awaitable[Backend]]]:
    """Starts hub servers of the service; they run until their shutdown, or the test is over."""
    async with trio.open_nursery() as nursery:

        async def run(
            name: str, shutdown: GracefulShutdown | None, *, task_status: trio.TaskStatus[Backend]
        ) -> None:
            async with backend(service.connection_string, name=name, shutdown=shutdown) as running:
                task_status.started(running)
                await trio.sleep_forever()

        async def start(name: str, shutdown: GracefulShutdown | None = None) -> Backend:
            return await nursery.start(run, name, shutdown)

        yield start
        nursery.cancel_scope.cancel()


@pytest.fixture
async def start_dotnet(
    service: RunningService,
) -> AsyncIterator[Callable[..., Awaitable[DotnetPeer]]]:
    """Starts hub servers on the official SDK, each with two server connections for each hub.

    Clients are migrated when it stops, unless further arguments say otherwise.
    """
    async with trio.open_nursery() as nursery:

        async def run(
            name: str,
            hubs: str,
            arguments: Sequence[str],
            *,
            task_status: trio.TaskStatus[DotnetPeer],
        ) -> None:
            options = {
                "--mode": "azure",
                "--hubs": hubs,
                "--server-name": name,
                "--server-connections": "2",
                "--shutdown-mode": "migrate",
                "--shutdown-timeout": "25",
                "--log": "error",
                "--connection-string": service.connection_string,
            }
            options |= zip(arguments[::2], arguments[1::2], strict=True)
            async with dotnet_peer(*itertools.chain(*options.items())) as peer:
                for hub in hubs.split(","):
                    await _connected(service, hub, name)
                task_status.started(peer)
                await trio.sleep_forever()

        async def start(name: str, *arguments: str, hubs: str = "test") -> DotnetPeer:
            return await nursery.start(run, name, hubs, arguments)

        yield start
        nursery.cancel_scope.cancel()


async def _connected(service: RunningService, hub: str, name: str) -> None:
    """Waits until both server connections of a server are up."""
    connections = service.service.hub(hub).connections
    with trio.fail_after(30):
        while sum(one.server.id == name for one in connections) < 2:
            await service.service.targets.park()
