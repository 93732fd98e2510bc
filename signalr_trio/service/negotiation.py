"""What a client asks over HTTP before it has a connection.

The front door of the service and that of an embedded server answer alike; status codes, fields and
texts are those of ASP.NET Core SignalR.
"""

from __future__ import annotations

import orjson

from signalr_trio.service.service import Service
from signalr_trio.service.token_claims import transports
from signalr_trio.tokens import Claims
from signalr_trio.transport.http import Request, Response

__all__ = ["method_not_allowed", "negotiate", "offered", "text_response"]

_FORMATS = {
    "WebSockets": ["Text", "Binary"],
    "ServerSentEvents": ["Text"],
    "LongPolling": ["Text", "Binary"],
}
_INT32 = range(-(1 << 31), 1 << 31)


async def negotiate(service: Service, hub: str, request: Request, claims: Claims) -> Response:
    """Answers a client's negotiate with a new connection id."""
    if request.method != "POST":
        return method_not_allowed()
    version, error = _version(request)
    if error is not None:
        return _json({"error": error})
    asked = (request.param("useStatefulReconnect") or "").lower() == "true"
    stateful = asked and await service.offers_stateful_reconnect(hub)
    connection = service.negotiate(hub, claims, version=version, stateful=stateful)
    answer: dict[str, object] = {"useStatefulReconnect": True} if stateful else {}
    answer["negotiateVersion"] = min(version, 1)
    answer["connectionId"] = connection.id
    if version > 0:
        answer["connectionToken"] = connection.token
    answer["availableTransports"] = [
        {"transport": name, "transferFormats": _FORMATS[name]} for name in offered(service, claims)
    ]
    return _json(answer)


def offered(service: Service, claims: Claims) -> list[str]:
    """The transports that a client may use, the best first."""
    allowed = transports(claims)
    return [name for name in service.options.transports if name in allowed]


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
