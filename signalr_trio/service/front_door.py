"""The service's one port: which path leads where, and who may come in."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlencode

import attrs

from signalr_trio.background import open_background
from signalr_trio.connection_string import DEVELOPMENT, Endpoint, parse_connection_string
from signalr_trio.errors import ConfigurationError
from signalr_trio.link.websocket import WebSocketLink, agreement_header, agreement_in
from signalr_trio.service.client_door import ClientRequest, serve_client
from signalr_trio.service.negotiation import negotiate, text_response
from signalr_trio.service.options import ServiceMode, ServiceOptions
from signalr_trio.service.rest import RestApi
from signalr_trio.service.serverless import checked_mode, serverless, upstream_sender
from signalr_trio.service.service import Service
from signalr_trio.tokens import (
    Claims,
    TokenRefused,
    claims_of,
    verify_request_token,
    verify_token,
)
from signalr_trio.transport.cors import ANY_ORIGIN, allow_origins
from signalr_trio.transport.endpoint import without_token
from signalr_trio.transport.http import (
    MAX_BODY,
    Answer,
    Handler,
    Request,
    Response,
    Upgrade,
    serve_listeners,
)
from signalr_trio.transport.network import TCP, Network, listening, listening_if_wanted
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import WebSocket
from signalr_trio.upstream import Upstream

__all__ = ["RunningService", "open_service"]

log = logging.getLogger("signalr_trio.service")

_INTERNAL = frozenset({"hub", "access_token", "id"})


@attrs.frozen
class RunningService:
    """A service that is up."""

    service: Service
    port: int
    connection_string: str = attrs.field(repr=False)
    """What a hub server needs to connect to it; holds the access key."""
    metrics_port: int | None = None
    """None: the metrics are not served."""


@asynccontextmanager
async def open_service(
    connection_string: str = DEVELOPMENT,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    secondary_key: str | None = None,
    mode: ServiceMode | str = ServiceMode.DEFAULT,
    upstreams: Sequence[Upstream] = (),
    origins: Collection[str] = (ANY_ORIGIN,),
    metrics_port: int | None = None,
    options: ServiceOptions | None = None,
    network: Network = TCP,
    chance: random.Random | None = None,
) -> AsyncGenerator[RunningService]:
    """Runs a service for the block: one port for clients and hub servers.

    The port is that of the connection string unless ``port`` says otherwise (0: any free one).
    Tokens are accepted that the access key or ``secondary_key`` signed. ``chance`` makes the ids of
    connections. At the end of the block hand-overs under way may end (5 s), clients are told to
    reconnect, and the server connections are closed.

    In the modes serverless and classic, what clients without a hub server do is posted to
    ``upstreams``, the first that matches; both keys sign it. These are connected to over TCP,
    whatever ``network`` is.

    Web pages of ``origins`` are let in (``https://host[:port]``, ``*`` for all).
    ``metrics_port`` is another port (0: any free one), where GET ``/metrics`` is answered, in the
    formats of Prometheus, to whoever asks.

    Raises ConfigurationError for a connection string or a mode that cannot be used, or for what is
    not installed; OSError if a port is taken.
    """
    endpoint = parse_connection_string(connection_string)
    keys = [endpoint.access_key] + ([secondary_key] if secondary_key else [])
    service = Service(options, mode=checked_mode(mode, upstreams), chance=chance)
    door = _FrontDoor(service, endpoint, keys)
    metrics = None if metrics_port is None else _metrics(service)
    flusher = Flusher()
    async with (
        upstream_sender(upstreams, service.options) as send,
        listening(network, host, endpoint.port if port is None else port) as (listeners, bound),
        listening_if_wanted(network, host, metrics_port) as (metrics_listeners, metrics_bound),
        open_background() as background,
        serverless(service, upstreams, keys, send, background),
    ):
        background.start_soon(flusher.run)
        # The REST API has a limit of its own, however little clients may post.
        max_body = max(service.options.max_read, MAX_BODY)
        serve = partial(serve_listeners, flusher=flusher, max_body=max_body)
        background.start_soon(serve, allow_origins(door.handle, origins), listeners)
        if metrics is not None:
            background.start_soon(serve, metrics, metrics_listeners)
        string = f"Endpoint=http://{host};Port={bound};AccessKey={endpoint.access_key};Version=1.0;"
        async with service.running():
            log.info("the service listens on http://%s:%d", host, bound)
            yield RunningService(service, bound, string, metrics_bound)


def _metrics(service: Service) -> Handler:
    try:
        from signalr_trio.service.metrics import Metrics
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"metrics need {missing.name}: pip install 'signalr-trio[metrics]'"
        ) from None
    return Metrics(service).handle


class _FrontDoor:
    """Routes requests. A refused token gets 401 and nothing else; why is in the log."""

    def __init__(self, service: Service, endpoint: Endpoint, keys: Sequence[str]) -> None:
        self._service = service
        self._endpoint = endpoint
        self._keys = keys
        self._rest = RestApi(service, endpoint, self._may_call)

    async def handle(self, request: Request) -> Answer:
        path = request.path.lower().rstrip("/")
        if path in ("/api/v1/health", "/api/health"):
            return self._health(request)
        if path.startswith("/api/"):
            return self._rest.answer(request)
        if path not in ("/client/negotiate", "/client", "/server"):
            return Response(404)
        hub = self._hub(request)
        if hub is None:
            return text_response(400, "The query parameter 'hub' is missing.")
        if path == "/server":
            return self._server(request, hub)
        claims = self._authenticate(request, self._endpoint.client_audience(hub))
        if claims is None:
            return Response(401)
        accepting = not self._service.stopping
        if path == "/client":
            client = ClientRequest(request, hub, claims, _app_query(request))
            return await serve_client(self._service, client, accepting=accepting)
        return await negotiate(self._service, hub, request, claims) if accepting else Response(503)

    def _health(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, headers=[("Allow", "GET, HEAD")])
        return Response(503 if self._service.stopping else 200)

    def _may_call(self, request: Request) -> bool:
        url = request.raw_path + without_token(f"?{request.query_string}")
        return self._authenticate(request, url, verify_request_token) is not None

    def _server(self, request: Request, hub: str) -> Response | Upgrade:
        if self._authenticate(request, self._endpoint.server_audience(hub)) is None:
            return Response(401)
        if self._service.stopping:
            return Response(503)
        server_id = request.header("x-asrs-server-id")
        if not request.wants_websocket or not server_id:
            return text_response(400, "A WebSocket with the header X-ASRS-Server-Id is expected.")
        agreement = agreement_in(request.headers)
        cid = request.param("cid") or self._service.new_id()
        headers = [] if agreement is None else [agreement_header("service")]
        program = request.header("asrs-user-agent") or "a program without Asrs-User-Agent"
        log.info("server %s comes to hub %s as %s: %.100s", server_id, hub, cid, program)

        def serve(websocket: WebSocket) -> Awaitable[None]:
            link = WebSocketLink(websocket, agreement)
            return self._service.serve_server(hub, link, server_id=server_id, cid=cid)

        return Upgrade(serve, headers=headers, max_message_size=None)

    def _authenticate(
        self,
        request: Request,
        audience: str,
        verify: Callable[[str, Sequence[str], str], Mapping[str, Any]] = verify_token,
    ) -> Claims | None:
        header = request.header("authorization") or ""
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            token = request.param("access_token") or ""
        if not token:
            log.warning("%s %s: refused, no token", request.method, request.raw_path)
            return None
        try:
            return claims_of(verify(token.strip(), self._keys, audience))
        except TokenRefused as reason:
            log.warning("%s %s: refused, the token: %s", request.method, request.raw_path, reason)
            return None

    def _hub(self, request: Request) -> str | None:
        hub = request.param("hub")
        return hub.lower() if hub else None


def _app_query(request: Request) -> str:
    """The client's own query, as the hub server shall see it: without what is the service's."""
    own = [(name, value) for name, value in request.query if name.lower() not in _INTERNAL]
    return f"?{urlencode(own)}" if own else ""
