"""Hubs in an ASGI application: its server answers negotiate, the service has the clients.

    pip install hypercorn
    signalr-trio service                                          # in a terminal of its own
    hypercorn --worker-class trio --bind 127.0.0.1:5000 examples.asgi_app:app

Mount ``negotiate`` in Starlette, FastAPI or Quart-Trio in the same way, and run ``serve`` in their
lifespan.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import trio

from signalr_trio import Hub, HubServer, Identity, NegotiateApp, NegotiateRequest, serve
from signalr_trio.connection_string import DEVELOPMENT


class Chat(Hub):
    async def who_am_i(self) -> str | None:
        return self.context.user_id


def identify(request: NegotiateRequest) -> Identity:
    """Whoever your authentication says; here, whoever the client says it is."""
    return Identity(request.param("user"))


server = HubServer(os.environ.get("SIGNALR_CONNECTION_STRING", DEVELOPMENT))
server.map(Chat, "/chat")
negotiate = NegotiateApp(server, identify)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        await negotiate(scope, receive, send)
        return
    async with trio.open_nursery() as nursery:
        await receive()
        await nursery.start(partial(serve, server, port=None, signals=False))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await server.shutdown()
        await send({"type": "lifespan.shutdown.complete"})
