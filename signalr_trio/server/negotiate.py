"""An app's negotiate: who is this client, and where is the service that it shall connect to.

Mount it in an ASGI framework, or let an ASGI server on trio run it as it is::

    app.mount("/", NegotiateApp(server))  # Starlette, FastAPI; behind the app's own routes

It answers ``POST {hub path}/negotiate`` with the service's URL and a token.
"""

from __future__ import annotations

import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import attrs
import orjson

from signalr_trio.connection_string import Endpoint, parse_connection_string
from signalr_trio.errors import ConfigurationError
from signalr_trio.server.hub_server import HubServer
from signalr_trio.server.identity import Identity, token_claims
from signalr_trio.server.served_hub import ServedHub
from signalr_trio.tokens import make_token

__all__ = ["Identify", "NegotiateApp", "NegotiateRequest", "Negotiator"]

log = logging.getLogger("signalr_trio.server")

_MAX_TOKEN = 4096
_NOT_PASSED_ON = frozenset({"negotiateversion", "access_token"})
_TEXT = [("Content-Type", "text/plain")]
_JSON = [("Content-Type", "application/json")]
Answer = tuple[int, list[tuple[str, str]], bytes]


@attrs.frozen
class NegotiateRequest:
    """What a client sent to negotiate."""

    path: str
    query: Sequence[tuple[str, str]]
    headers: Sequence[tuple[str, str]]
    """Names in lower case."""
    scope: Any = None
    """The ASGI scope, if it came that way: what middleware has put there (``scope["user"]``)."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)

    def param(self, name: str) -> str | None:
        return next((value for key, value in self.query if key.lower() == name.lower()), None)


#: Who a client is; None refuses it with 401. May be a coroutine function.
Identify = Callable[[NegotiateRequest], Identity | Awaitable[Identity | None] | None]


async def identify_client(identify: Identify | None, request: NegotiateRequest) -> Identity | None:
    """Asks the application who the client is; everybody is anonymous where it does not say."""
    if identify is None:
        return Identity()
    found = identify(request)
    return await found if inspect.isawaitable(found) else found


class Negotiator:
    """Answers negotiate for the hubs of a server that has a connection string."""

    def __init__(self, server: HubServer, identify: Identify | None = None) -> None:
        if server.connection_string is None:
            raise ConfigurationError(
                "an embedded hub server has no other service to send its clients to; "
                "give HubServer a connection string"
            )
        self._server = server
        self._identify = identify
        self._endpoint: Endpoint = parse_connection_string(server.connection_string)

    async def answer(self, method: str, request: NegotiateRequest) -> Answer:
        """Status, headers and body. 404: not the path of a hub."""
        hub = find_hub(self._server, request.path)
        if hub is None:
            return 404, [], b""
        if method not in ("POST", "GET", "OPTIONS"):
            return 405, _TEXT, b""
        if self._server.draining or not any(one.is_up for one in hub.connections):
            # The SDK says 500 here; a load balancer or a client tries elsewhere on 503.
            text = b"This server is shutting down, or not connected to the service yet."
            return 503, _TEXT, text
        identity = await identify_client(self._identify, request)
        if identity is None:
            return 401, [], b""
        token = make_token(
            self._endpoint.access_key,
            self._endpoint.client_audience(hub.name),
            token_claims(identity),
        )
        if len(token) > _MAX_TOKEN:
            log.error(
                "hub %s: a token takes over %d characters; too many claims", hub.name, _MAX_TOKEN
            )
            return 413, _TEXT, b"The claims of this user do not fit an access token."
        answer: dict[str, object] = {
            "negotiateVersion": 0,
            "url": self._endpoint.client_negotiate_url(hub.name, _query(hub, request)),
            "accessToken": token,
            "availableTransports": [],
        }
        return 200, _JSON, orjson.dumps(answer)


def find_hub(server: HubServer, path: str) -> ServedHub | None:
    """The hub whose negotiate a path is."""
    folded = path.lower().rstrip("/")
    for hub in server.hubs:
        if folded == f"{hub.path.lower().rstrip('/')}/negotiate":
            return hub
    return None


def _query(hub: ServedHub, request: NegotiateRequest) -> str:
    """The client's own query goes on to the service, and from there to the hub; but not a token,
    which was for this application, and which the service would take for its own."""
    original = [pair for pair in request.query if pair[0].lower() not in _NOT_PASSED_ON]
    return urlencode([("asrs.op", hub.path), *original, ("asrs_request_id", uuid.uuid4().hex[:16])])


class NegotiateApp:
    """Negotiate as an ASGI application, for the hubs of a server that has a connection string.

    ``identify`` says who a client is, or None to refuse it (401); without it all are anonymous.
    Raises ConfigurationError for an embedded server, or a connection string that cannot be used.
    """

    def __init__(self, server: HubServer, identify: Identify | None = None) -> None:
        self._negotiator = Negotiator(server, identify)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"NegotiateApp serves http, not {scope['type']}")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        request = NegotiateRequest(scope["path"], query, headers, scope)
        status, answer_headers, body = await self._negotiator.answer(scope["method"], request)
        pairs = [(name.lower().encode(), value.encode()) for name, value in answer_headers]
        pairs.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


async def _lifespan(
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
