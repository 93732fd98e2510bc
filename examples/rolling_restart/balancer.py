"""What stands before the hub servers: sends each client that comes to one of those that are up.

Clients ask only when they connect. Those that are handed over never come here again.
"""

from __future__ import annotations

import orjson
import trio

from examples.rolling_restart.fleet import HubServerProcess
from signalr_trio.transport.http import Request, Response, serve_listeners
from signalr_trio.transport.stream import Flusher

__all__ = ["Balancer"]


class Balancer:
    """Answers negotiate with a redirect, to each server in turn."""

    def __init__(self) -> None:
        self._servers: list[HubServerProcess] = []

    def add(self, server: HubServerProcess) -> None:
        self._servers.append(server)

    def remove(self, server: HubServerProcess) -> None:
        self._servers.remove(server)

    async def run(self, *, task_status: trio.TaskStatus[str]) -> None:
        """Serves; its URL is told when it does."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        flusher = Flusher()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flusher.run)
            port = listeners[0].socket.getsockname()[1]
            task_status.started(f"http://127.0.0.1:{port}/chat")
            await serve_listeners(self._answer, listeners, flusher=flusher)

    async def _answer(self, request: Request) -> Response:
        if request.path != "/chat/negotiate":
            return Response(404)
        if not self._servers:
            return Response(503)
        server = self._servers.pop(0)
        self._servers.append(server)
        body = orjson.dumps({"negotiateVersion": 1, "url": server.url})
        return Response(200, body, [("Content-Type", "application/json")])
