"""A hub server on a network in memory, for all transports; tests write its half of the talk.

It negotiates, keeps to the rules of each transport, and shakes hands. What it is asked is in
``requests``; what it does against the rules a test sets with the attributes of ``ScriptedHub``.
"""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.transport.http import Request, Response, Upgrade, serve_http
from signalr_trio.transport.stream import Flusher

URL = "http://hub/test"
WEBSOCKETS, SSE, POLLING = "WebSockets", "ServerSentEvents", "LongPolling"
FORMATS = {WEBSOCKETS: ["Text", "Binary"], SSE: ["Text"], POLLING: ["Text", "Binary"]}
PROTOCOLS = {"json": JsonProtocol(), "messagepack": MessagePackProtocol()}


class Client:
    """One connection, as the server has it: what came, and what is to be sent."""

    def __init__(self, transport, id):
        self.transport = transport
        self.id = id
        self.protocol = PROTOCOLS["json"]
        self.hello = None
        self.got = []
        """Hub messages, in order."""
        self.bodies = []
        """What came at once: WebSocket messages, bodies of POSTs."""
        self.ended = False
        self.websocket = None
        self._splitter = None
        self._buffer = b""
        self._news = trio.Event()
        self._out, self._in = trio.open_memory_channel(math.inf)

    def send(self, *messages):
        self.send_bytes(b"".join(self.protocol.write(message) for message in messages))

    def send_bytes(self, data):
        if self.websocket is not None:
            self.websocket.send(data, text=not self.protocol.binary)
        else:
            self._out.send_nowait(data)

    def end(self):
        """No more will be sent: 204, or the end of the events."""
        self._out.close()

    async def next_to_send(self):
        return await self._in.receive()

    async def received(self, kind, count=1):
        """The ``count``-th message of that kind, from the start on."""
        while True:
            of_kind = [message for message in self.got if isinstance(message, kind)]
            if len(of_kind) >= count:
                return of_kind[count - 1]
            await self._news.wait()

    def take(self, data):
        self.bodies.append(data)
        if self._splitter is None:
            self._buffer += data
            head, end, data = self._buffer.partition(b"\x1e")
            if not end:
                return
            self.hello = json.loads(head)
            self.protocol = PROTOCOLS[self.hello["protocol"]]
            self._splitter = self.protocol.splitter(None)
            self.send_bytes(b"{}\x1e")
        self.got += [self.protocol.parse(frame) for frame in self._splitter.feed(data)]
        self._news.set()
        self._news = trio.Event()

    def goes_on(self, websocket):
        """Another WebSocket of the same connection, without a handshake."""
        self.websocket = websocket
        self._splitter = self.protocol.splitter(None)
        self._news.set()
        self._news = trio.Event()


class ScriptedHub:
    """The network of one client, and the server at its other end."""

    def __init__(self, *offers, stateful=False):
        self.offers = [
            {"transport": name, "transferFormats": FORMATS.get(name, [])} for name in offers
        ]
        self.stateful = stateful
        self.requests = []
        self.clients = {}
        self.sockets = 0
        self.open = 0
        """Connections of the network that have not ended."""
        self.refused = {}
        """Status by method, or by ``"GET " + transport``."""
        self.unreachable = False
        self.post_turns = None
        """Where it is a semaphore, POSTs are answered only as it lets them."""
        self.redirect = None
        self._flusher = Flusher()
        self._nursery = None
        self._arrived = trio.Event()

    async def connect(self, host, port):
        await trio.lowlevel.checkpoint()
        if self.unreachable:
            raise OSError("nobody there")
        client, server = memory_stream_pair()
        self._nursery.start_soon(self._serve, server)
        return client

    async def listen(self, host, port):
        raise AssertionError

    @property
    def asked(self):
        """Method, and transport or path, of each request."""
        return [kind_of(request) for request in self.requests]

    async def client(self, number=1):
        """The ``number``-th one whose transport was opened."""
        while len(self.clients) < number:
            await self._arrived.wait()
        return list(self.clients.values())[number - 1]

    async def _serve(self, stream):
        self.open += 1
        try:
            data = bytes(await stream.receive_some())
            if b"Accept: text/event-stream" in data:
                await self._serve_events(stream, data)
            else:
                unread = Unread(stream, data)
                await serve_http(unread, self._handle, flusher=self._flusher)
        except trio.BrokenResourceError:
            pass
        finally:
            await stream.aclose()
            self.open -= 1

    async def _handle(self, request):
        self.requests.append(request)
        kind = kind_of(request)
        for what in (kind, request.method):
            if what in self.refused and "negotiate" not in kind:
                return Response(self.refused[what])
        if "negotiate" in kind:
            return self._negotiate(request)
        if request.wants_websocket:
            return Upgrade(self._serve_websocket_of(request))
        return await self._handle_long_polling(request)

    def _negotiate(self, request):
        if self.redirect and request.path != "/elsewhere/negotiate":
            fields = {"url": self.redirect, "accessToken": "theirs"}
        else:
            number = sum("negotiate" in kind for kind in self.asked)
            fields = {
                "negotiateVersion": 1,
                "connectionId": f"c{number}",
                "connectionToken": f"t{number}",
                "availableTransports": self.offers,
            }
            if self.stateful and request.param("useStatefulReconnect") == "true":
                fields["useStatefulReconnect"] = True
        return Response(200, json.dumps(fields).encode())

    async def _handle_long_polling(self, request):
        client = self.clients.get(request.param("id"))
        if request.method == "GET":
            if client is None:
                self._opened(POLLING, request)
                return Response(200)
            try:
                return Response(200, await client.next_to_send())
            except trio.EndOfChannel:
                return Response(204)
        if client is None:
            return Response(404)
        if request.method == "DELETE":
            client.ended = True
            client.end()
            return Response(202)
        if self.post_turns is not None:
            await self.post_turns.acquire()
        client.take(request.body)
        return Response(200)

    def _serve_websocket_of(self, request):
        async def serve(websocket):
            self.sockets += 1
            client = self.clients.get(request.param("id"))
            if client is None:
                client = self._opened(WEBSOCKETS, request)
                client.websocket = websocket
            else:
                client.goes_on(websocket)
            try:
                while True:
                    client.take(await websocket.receive())
            except ConnectionClosed:
                client.ended = True

        return serve

    async def _serve_events(self, stream, data):
        head = data.decode().split("\r\n")
        headers = [(name.lower(), value) for name, _, value in (h.partition(": ") for h in head)]
        target = head[0].split(" ")[1]
        path, _, query = target.partition("?")
        request = Request("GET", path, path, query, headers, b"", None, "1.1")
        self.requests.append(request)
        status = self.refused.get(f"GET {SSE}")
        if status is not None:
            await stream.send_all(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
            return
        client = self._opened(SSE, request)
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\n:\r\n\r\n"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_events, client, stream)
            await stream.receive_some()  # the end of the client
            client.ended = True
            nursery.cancel_scope.cancel()

    async def _send_events(self, client, stream):
        async for payload in client._in:
            event = payload if payload.startswith(b"raw ") else b"data: " + payload + b"\r\n\r\n"
            event = event.removeprefix(b"raw ")
            await stream.send_all(b"%x\r\n" % len(event) + event + b"\r\n")
        await stream.send_all(b"0\r\n\r\n")

    def _opened(self, transport, request):
        client = self.clients[request.param("id")] = Client(transport, request.param("id"))
        self._arrived.set()
        self._arrived = trio.Event()
        return client

    @asynccontextmanager
    async def serving(self):
        """For a block; at its end nothing may be open any more."""
        mocked = isinstance(trio.lowlevel.current_clock(), MockClock)
        with trio.fail_after(10_000 if mocked else 30):
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._flusher.run)
                yield self
                for client in self.clients.values():
                    client.end()  # a poll that waits would not see that the client is gone
                await wait_all_tasks_blocked()
                assert self.open == 0
                self._nursery.cancel_scope.cancel()


class Unread(trio.abc.HalfCloseableStream):
    """A stream of which something has been read."""

    def __init__(self, stream, data):
        self._stream = stream
        self._data = data

    async def receive_some(self, max_bytes=None):
        if self._data:
            data, self._data = self._data, b""
            await trio.lowlevel.checkpoint()
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data):
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self):
        await self._stream.send_eof()

    async def aclose(self):
        await self._stream.aclose()


def kind_of(request):
    if request.path.endswith("/negotiate"):
        return f"{request.method} {request.path}"
    if request.header("accept") == "text/event-stream":
        return f"GET {SSE}"
    if request.method == "GET":
        return f"GET {WEBSOCKETS if request.wants_websocket else POLLING}"
    return request.method
