"""A service without hub servers, and the application that its webhooks go to, all in memory.

The HTTP between them is real: httpcore on one side, our own front door on the other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpcore
import orjson
import trio

from signalr_trio.link.link import Link
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.messages import Completion
from signalr_trio.service.options import ServiceMode, ServiceOptions
from signalr_trio.service.service import Service
from signalr_trio.transport.http import Request, Response, serve_listeners
from signalr_trio.transport.network import TCP, Network
from signalr_trio.transport.stream import Flusher
from signalr_trio.upstream import Upstream, open_upstreams
from signalr_trio.upstream.sender import open_sender
from signalr_trio.upstream.webhook import Send

from .clients import JSON
from .cluster import Cluster, settle
from .memory_network import MemoryNetwork

__all__ = ["KEYS", "Application", "MemoryBackend", "Stage", "application", "open_stage", "result"]

KEYS = ("the primary access key of the tests", "the secondary access key of the tests")
EVERYTHING = Upstream("http://app/{hub}/{category}/{event}")

Answering = Callable[[Request], Awaitable[Response]]


def result(request: Request, value: Any = None, protocol: HubProtocol = JSON) -> Response:
    """The answer that completes the invocation in a request, as the Azure Functions trigger's."""
    message = orjson.loads(request.body)
    return Response(200, protocol.write(Completion(message["invocationId"], value)))


class Application:
    """Notes what is posted to it, and answers as a test says, by event; else 200 without a body."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """In the order in which they came."""
        self.answers: dict[str, Answering] = {}
        self.port = 0
        self._news = trio.lowlevel.ParkingLot()

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        self._news.unpark_all()
        answer = self.answers.get(request.header("x-asrs-event") or "")
        return Response(200) if answer is None else await answer(request)

    async def until(self, event: str) -> None:
        """Waits until ``event`` has come."""
        while event not in self.events:
            await self._news.park()

    @property
    def events(self) -> list[str]:
        return [request.header("x-asrs-event") or "" for request in self.requests]

    def events_of(self, connection_id: str) -> list[str]:
        return [
            request.header("x-asrs-event") or ""
            for request in self.requests
            if request.header("x-asrs-connection-id") == connection_id
        ]

    def bodies(self, event: str) -> list[Any]:
        return [
            orjson.loads(request.body)
            for request in self.requests
            if request.header("x-asrs-event") == event
        ]


@asynccontextmanager
async def application(network: Network = TCP, port: int = 0) -> AsyncGenerator[Application]:
    """Runs an application for the block."""
    app, flusher = Application(), Flusher()
    listeners, app.port = await network.listen("127.0.0.1", port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        nursery.start_soon(partial(serve_listeners, app.handle, listeners, flusher=flusher))
        yield app
        nursery.cancel_scope.cancel()


class Stage(Cluster):
    """A service of some mode, its clients, and the application."""

    def __init__(
        self, service: Service, nursery: trio.Nursery, app: Application, backend: MemoryBackend
    ) -> None:
        super().__init__(service, nursery)
        self.app = app
        self.backend = backend

    def join(self, hub: str, link: Link) -> None:
        self.nursery.start_soon(
            partial(self.service.serve_server, hub, link, server_id="serverless", cid="s")
        )


@asynccontextmanager
async def open_stage(
    *upstreams: Upstream,
    mode: ServiceMode = ServiceMode.SERVERLESS,
    options: ServiceOptions | None = None,
    keys: Sequence[str] = KEYS,
) -> AsyncGenerator[Stage]:
    """Runs a service and an application for the block, stops the first, then cancels the rest."""
    network = MemoryNetwork()
    service = Service(options, mode=mode)
    async with trio.open_nursery() as nursery, application(network, 80) as app:
        stage = Stage(service, nursery, app, MemoryBackend(network))
        async with (
            _sender(service.options, stage.backend) as send,
            open_upstreams(upstreams or [EVERYTHING], keys=keys, send=send, join=stage.join) as up,
        ):
            service.serve_without_server = up.serve
            nursery.start_soon(stage.run_service)
            await settle()
            yield stage
            await stage.stop()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _sender(options: ServiceOptions, backend: MemoryBackend) -> AsyncGenerator[Send]:
    async with open_sender(
        timeout=options.upstream_timeout,
        connections=options.upstream_connections,
        backend=backend,
    ) as send:
        yield send


class MemoryBackend(httpcore.AsyncNetworkBackend):
    """Makes the connections of httpcore in a network of ours; it notes how many."""

    def __init__(self, network: Network) -> None:
        self.connections = 0
        self.is_down = False
        """Whether nobody answers."""
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if self.is_down:
            raise httpcore.ConnectError("nobody listens there")
        self.connections += 1
        return _Stream(await self._network.connect(host, port))


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return None
