"""A hub server that does what a test tells it, on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messages import Completion, HubMessage, Invocation
from signalr_trio.transport.http import Request, Response, Upgrade, serve_http
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import WebSocket

WEBSOCKETS = {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}


class Peer:
    """The server's side of one client's connection, after the handshake."""

    def __init__(self, websocket: WebSocket, request: Request, protocol: HubProtocol) -> None:
        self.websocket = websocket
        self.request = request
        self.protocol = protocol
        self._splitter = protocol.splitter(None)
        self._messages: list[HubMessage] = []

    def send(self, *messages: HubMessage) -> None:
        payload = b"".join(self.protocol.write(message) for message in messages)
        self.websocket.send(payload, text=not self.protocol.binary)

    async def receive(self, kind: type[Any] = object) -> Any:
        """The next message of that kind; raises ConnectionClosed."""
        while True:
            while self._messages:
                message = self._messages.pop(0)
                if isinstance(message, kind):
                    return message
            for frame in self._splitter.feed(await self.websocket.receive()):
                message = self.protocol.parse(frame)
                assert message is not None
                self._messages.append(message)


Script = Callable[[Peer], Awaitable[None]]


async def echo(peer: Peer) -> None:
    """Answers each invocation with its arguments, until the client leaves."""
    while True:
        call = await peer.receive(Invocation)
        if call.invocation_id is not None:
            peer.send(Completion(call.invocation_id, call.arguments))


class ScriptedServer:
    """Runs ``scripts[n]`` for the n-th client, the last one for all that follow.

    ``answers`` are what negotiate answers (status and body), one after the other; without them
    it is a proper answer with ids ``c1`` and ``t1``, and so on.
    """

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts or (echo,)
        self.answers: list[Response] = []
        self.handshake_response: bytes = b"{}\x1e"
        self.requests: list[Request] = []
        self.clients = 0
        self.codes: list[int | None] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hub"

    async def handle(self, request: Request) -> Response | Upgrade:
        self.requests.append(request)
        if not request.wants_websocket:
            return self._negotiate()
        self.clients += 1
        script = self.scripts[min(self.clients, len(self.scripts)) - 1]

        async def serve(websocket: WebSocket) -> None:
            try:
                hello = json.loads((await websocket.receive())[:-1])
                assert hello == {"protocol": "json", "version": 1}
                websocket.send(self.handshake_response, text=True)
                await script(Peer(websocket, request, JsonProtocol()))
            except ConnectionClosed:
                pass
            finally:
                await websocket.aclose()
                self.codes.append(websocket.code)

        return Upgrade(serve)

    def _negotiate(self) -> Response:
        if self.answers:
            return self.answers.pop(0)
        number = self.clients + 1
        return answer(
            negotiateVersion=1,
            connectionId=f"c{number}",
            connectionToken=f"t{number}",
            availableTransports=[WEBSOCKETS],
        )


def answer(status: int = 200, body: bytes | None = None, **fields: object) -> Response:
    return Response(status, json.dumps(fields).encode() if body is None else body)


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[ScriptedServer]:
    """Serve on a free port, or on that of an earlier server."""
    flusher = Flusher()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flusher.run)
            serve = partial(serve_http, handler=server.handle, flusher=flusher)
            listen = partial(trio.serve_tcp, serve, server.port, host="127.0.0.1")
            listeners = await nursery.start(listen)
            server.port = listeners[0].socket.getsockname()[1]
            yield server
            nursery.cancel_scope.cancel()
