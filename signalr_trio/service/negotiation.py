"""What a client asks over HTTP before it has a connection: negotiate, and which connection it means.

The front door of the service and that of an embedded server answer alike; status codes, fields and
texts are those of ASP.NET Core SignalR.
"""

from __future__ import annotations

from collections.abc import Awaitable

import orjson

from signalr_trio.service.service import Service
from signalr_trio.service.token_claims import transports
from signalr_trio.tokens import Claims
from signalr_trio.transport.client_transport import WebSocketTransport
from signalr_trio.transport.http import Request, Response, Upgrade
from signalr_trio.transport.websocket import WebSocket

__all__ = ["connect_client", "method_not_allowed", "negotiate", "text_response"]

_TRANSPORTS = [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}]
_INT32 = range(-(1 << 31), 1 << 31)


def negotiate(service: Service, hub: str, request: Request, claims: Claims) -> Response:
    """Answers a client's negotiate with a new connection id."""
    if request.method != "POST":
        return method_not_allowed()
    version, error = _version(request)
    if error is not None:
        return _json({"error": error})
    connection_id, token = service.negotiate(hub, claims, version=version)
    answer: dict[str, object] = {
        "negotiateVersion": min(version, 1),
        "connectionId": connection_id,
    }
    if version > 0:
        answer["connectionToken"] = token
    allowed = transports(claims)
    answer["availableTransports"] = [one for one in _TRANSPORTS if one["transport"] in allowed]
    return _json(answer)


def connect_client(
    service: Service,
    hub: str,
    request: Request,
    claims: Claims,
    *,
    query_string: str = "",
) -> Response | Upgrade:
    """The WebSocket of a client; an error response if that is not what was asked for.

    ``claims`` are those of the request itself; the ones that were negotiated win.
    """
    if request.method != "GET":
        return method_not_allowed()
    if not request.wants_websocket:
        if not request.param("id"):
            return text_response(400, "Connection ID required")
        name = "ServerSentEvents" if _accepts_events(request) else "LongPolling"
        return text_response(404, f"{name} transport not supported by this end point type")
    if "WebSockets" not in transports(claims):
        return text_response(404, "WebSockets transport not supported by this end point type")
    token = request.param("id")
    if token:
        found = service.take_negotiated(hub, token)
        if found is None:
            return text_response(404, "No Connection with that ID")
        connection_id, negotiated = found
        claims = negotiated or claims
    else:
        connection_id = service.new_id()
    headers = _forwarded(request)

    def serve(websocket: WebSocket) -> Awaitable[None]:
        return service.serve_client(
            hub,
            WebSocketTransport(websocket),
            connection_id=connection_id,
            claims=claims,
            token=token,
            query_string=query_string,
            headers=headers,
        )

    # One WebSocket message may hold many hub messages, whose size the session judges; what this
    # bounds is memory.
    return Upgrade(serve, max_message_size=4 * service.options.max_message_size)


def method_not_allowed() -> Response:
    return Response(405, headers=[("Content-Type", "text/plain")])


def text_response(status: int, text: str) -> Response:
    return Response(status, text.encode(), headers=[("Content-Type", "text/plain")])


def _json(answer: dict[str, object]) -> Response:
    return Response(200, orjson.dumps(answer), headers=[("Content-Type", "application/json")])


def _version(request: Request) -> tuple[int, str | None]:
    given = [value for name, value in request.query if name.lower() == "negotiateversion"]
    text = ",".join(given).strip() if given else "0"
    try:
        version = int(text) if text.isascii() else None
    except ValueError:
        version = None
    if version is None or version not in _INT32 or "_" in text:
        return 0, "The client requested a non-integer protocol version."
    if version < 0:
        return 0, (
            f"The client requested version '{version}', but the server does not support this "
            "version."
        )
    return version, None


def _accepts_events(request: Request) -> bool:
    accepted = (request.header("accept") or "").lower()
    return "text/event-stream" in [one.strip() for one in accepted.split(",")]


def _forwarded(request: Request) -> dict[str, list[str | None]]:
    address = request.header("x-forwarded-for") or request.client
    return {} if address is None else {"X-Forwarded-For": [address]}
