"""Lets web pages of other origins in (CORS; Fetch standard, 3.2).

A page and the service that its clients are sent to are hardly ever of one origin. WebSockets need
nothing of this: browsers open them to any origin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import attrs

from signalr_trio.transport.http import (
    Answer,
    Handler,
    Pending,
    Request,
    Response,
    Streaming,
)
from signalr_trio.transport.websocket import Headers

__all__ = ["ANY_ORIGIN", "allow_origins"]

#: In place of an origin: all of them.
ANY_ORIGIN = "*"
#: Seconds that a browser need not ask again; it asks for each URL.
_MAX_AGE = "7200"


def allow_origins(handler: Handler, origins: Collection[str]) -> Handler:
    """``handler``, whose answers may be read by pages of ``origins`` (``https://host[:port]``).

    Their cookies come along: the JavaScript client asks for that, so the origin is named in the
    answer where ``ANY_ORIGIN`` lets it in as well. Pages of other origins are answered as without
    this, which their browser keeps from them.
    """

    async def answer(request: Request) -> Answer:
        origin = request.header("origin")
        if origin is None or (origin not in origins and ANY_ORIGIN not in origins):
            return await handler(request)
        allowed: Headers = [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
        ]
        method = request.header("access-control-request-method")
        if request.method == "OPTIONS" and method is not None:
            # Credentials rule out "*" for these as well.
            wanted = request.header("access-control-request-headers")
            names = [] if wanted is None else [("Access-Control-Allow-Headers", wanted)]
            return Response(
                204,
                headers=[
                    *allowed,
                    ("Access-Control-Allow-Methods", method),
                    *names,
                    ("Access-Control-Max-Age", _MAX_AGE),
                ],
            )
        return _with(await handler(request), allowed)

    return answer


def _with(answer: Answer, headers: Headers) -> Answer:
    if isinstance(answer, (Response, Streaming)):
        return attrs.evolve(answer, headers=[*answer.headers, *headers])
    if isinstance(answer, Pending):
        return Pending(_later(answer.respond, headers))
    return answer


def _later(
    respond: Callable[[], Awaitable[Response]], headers: Headers
) -> Callable[[], Awaitable[Response]]:
    async def respond_with() -> Response:
        response = await respond()
        return attrs.evolve(response, headers=[*response.headers, *headers])

    return respond_with
