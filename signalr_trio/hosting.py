"""Runs a hub server: with a service of its own (embedded), or connected to one elsewhere."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from signalr_trio.background import open_background
from signalr_trio.connection_string import parse_connection_string
from signalr_trio.link.connect import websocket_connector
from signalr_trio.link.link import Agreement, Link
from signalr_trio.link.memory import memory_link_pair
from signalr_trio.server.hub_server import HubServer
from signalr_trio.server.identity import token_claims
from signalr_trio.server.negotiate import (
    Identify,
    NegotiateRequest,
    Negotiator,
    find_hub,
    identify_client,
)
from signalr_trio.server.service_connection import Connector
from signalr_trio.server.shutdown import ShutdownReport
from signalr_trio.service.client_door import ClientRequest, serve_client
from signalr_trio.service.negotiation import negotiate
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.service import Service
from signalr_trio.transport.cors import allow_origins
from signalr_trio.transport.http import (
    MAX_BODY,
    Answer,
    Handler,
    Request,
    Response,
    serve_listeners,
)
from signalr_trio.transport.network import TCP, Network, listening_if_wanted
from signalr_trio.transport.stream import Flusher

__all__ = ["serve"]

log = logging.getLogger("signalr_trio.server")

#: Terminals and supervisors send signals in pairs; only one that comes later than this counts.
_PAIR = 1.0
_HEALTH = "/api/health"


async def serve(
    server: HubServer,
    *,
    host: str = "127.0.0.1",
    port: int | None = 5000,
    identify: Identify | None = None,
    signals: bool = True,
    origins: Collection[str] = (),
    service_options: ServiceOptions | None = None,
    network: Network = TCP,
    task_status: trio.TaskStatus[int | None] = trio.TASK_STATUS_IGNORED,
) -> ShutdownReport:
    """Runs a hub server until its graceful shutdown is over, and returns the report.

    The port answers negotiate; without a connection string it serves the clients as well. ``port``
    None opens none: negotiate is served elsewhere (``NegotiateApp``). ``identify`` says who a
    client is. ``signals``: SIGTERM and SIGINT begin the shutdown, a second one that comes a second
    or more later skips to its last stage, a third does what it does by default. ``origins``: web
    pages of other origins that are let in (``https://host[:port]``), with their cookies.

    GET ``/api/health`` on the port says 200 while clients can come, else 503.

    ``port = await nursery.start(serve, server)`` returns when each server connection is up or could
    not be made at once; those are tried again.
    Cancelled, it stops in order within a few seconds, and lets the cancellation pass.

    Raises ConfigurationError for a connection string that cannot be used, OSError if the port is
    taken.
    """
    endpoint = None
    if server.connection_string is not None:
        endpoint = parse_connection_string(server.connection_string)
    async with (
        listening_if_wanted(network, host, port) as (listeners, bound),
        open_background() as background,
        _signals(server, enabled=signals),
    ):
        started = _Started(task_status, bound)
        flusher = Flusher()
        background.start_soon(flusher.run)

        def listen(handler: Handler, max_body: int = MAX_BODY) -> None:
            if bound is not None:
                log.info("listening on http://%s:%d", host, bound)
                serve = partial(serve_listeners, flusher=flusher, max_body=max_body)
                answer = allow_origins(partial(_answer, server, handler), origins)
                background.start_soon(serve, answer, listeners)

        if endpoint is not None:
            connector = websocket_connector(
                endpoint,
                server_id=server.server_id,
                instance=server.instance,
                flusher=flusher,
                network=network,
            )
            listen(_AppDoor(Negotiator(server, identify)).handle)
            return await server.run(connector, task_status=started)
        service = Service(service_options, chance=server.chance)
        async with service.running():
            listen(_EmbeddedDoor(server, service, identify).handle, service.options.max_read)
            link_to = _embedded_connector(server, service, background)
            return await server.run(link_to, connections=1, task_status=started)


@attrs.frozen
class _Started:
    """Tells who started ``serve`` the port when the hub server is up."""

    status: trio.TaskStatus[int | None]
    port: int | None

    def started(self, value: None = None) -> None:
        self.status.started(self.port)


@asynccontextmanager
async def _signals(server: HubServer, *, enabled: bool) -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        if enabled:
            await nursery.start(_watch_signals, server)
        yield
        nursery.cancel_scope.cancel()


async def _watch_signals(server: HubServer, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        first: float | None = None
        async for number in signals:
            now = trio.current_time()
            if first is None:
                first = now
                log.info("%s: shutting down", signal.Signals(number).name)
                server.request_shutdown()
            elif now - first >= _PAIR:
                log.warning("%s again: stopping now", signal.Signals(number).name)
                server.stop_now()
                return


async def _answer(server: HubServer, handler: Handler, request: Request) -> Answer:
    """Health, under the path that the service has it; all else is ``handler``'s."""
    if request.path.lower().rstrip("/") != _HEALTH or request.method not in ("GET", "HEAD"):
        return await handler(request)
    return Response(200 if server.takes_clients else 503)


class _AppDoor:
    """The port of a hub server whose clients are at a service elsewhere: negotiate."""

    def __init__(self, negotiator: Negotiator) -> None:
        self._negotiator = negotiator

    async def handle(self, request: Request) -> Response:
        status, headers, body = await self._negotiator.answer(request.method, _described(request))
        return Response(status, body, headers)


class _EmbeddedDoor:
    """The port of a hub server with its own service: negotiate, and the clients themselves."""

    def __init__(self, server: HubServer, service: Service, identify: Identify | None) -> None:
        self._server = server
        self._service = service
        self._identify = identify

    async def handle(self, request: Request) -> Answer:
        hub = find_hub(self._server, request.path)
        if hub is not None:
            if self._server.draining:
                return Response(503)
            identity = await identify_client(self._identify, _described(request))
            if identity is None:
                return Response(401)
            return await negotiate(self._service, hub.name, request, token_claims(identity))
        hub = find_hub(self._server, f"{request.path.rstrip('/')}/negotiate")
        if hub is None:
            return Response(404)
        identity = await identify_client(self._identify, _described(request))
        if identity is None:
            return Response(401)
        client = ClientRequest(
            request, hub.name, token_claims(identity), query_string=f"?{request.query_string}"
        )
        accepting = not self._server.draining
        return await serve_client(self._service, client, accepting=accepting)


def _embedded_connector(server: HubServer, service: Service, background: trio.Nursery) -> Connector:
    agreement = Agreement(server.instance, embedded=True)

    @asynccontextmanager
    async def connect(hub: str, cid: str, target: str | None) -> AsyncGenerator[Link]:
        near, far = memory_link_pair(agreement)
        background.start_soon(
            partial(service.serve_server, hub, far, server_id=server.server_id, cid=cid)
        )
        try:
            yield near
        finally:
            await near.aclose()

    return connect


def _described(request: Request) -> NegotiateRequest:
    return NegotiateRequest(request.path, request.query, request.headers)
