"""A service over HTTP in memory, with clients of both hub protocols, for calls of the REST API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import HubMessage, Invocation, Ping
from signalr_trio.service.front_door import RunningService, open_service
from signalr_trio.service.options import ServiceOptions
from signalr_trio.tokens import make_token
from signalr_trio.transport.http import Response
from signalr_trio.transport.http_client import http_request

from .clients import HELLO, JSON, Client, claims_for
from .cluster import settle
from .memory_network import MemoryNetwork
from .servers import ScriptedServer

__all__ = ["ENDPOINT", "MSGPACK", "VERSION", "Room", "open_room"]

ENDPOINT = parse_connection_string(DEVELOPMENT)
MSGPACK = MessagePackProtocol()
VERSION = "api-version=2022-06-01"
HELLOS = [HELLO, write_request(HandshakeRequest("messagepack", 1))]


@attrs.frozen
class Room:
    """Clients 1 and 2 of ann, 3 of bob, 4 of nobody; the even ones speak MessagePack.

    1 and 4 are in group g.
    """

    running: RunningService
    network: MemoryNetwork
    server: ScriptedServer
    clients: dict[str, Client]
    seen: set[str] = attrs.field(factory=set)
    """The questions that were looked at."""

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        audience: str | None = None,
        key: str = ENDPOINT.access_key,
        lifetime: float = 3600,
        content_type: str = "application/json",
        accept: str = "*/*",
    ) -> Response:
        """A call whose token is for its URL without the query, unless a test says otherwise."""
        url = f"http://localhost:8888{path}"
        token = make_token(key, audience or url.partition("?")[0], lifetime=lifetime)
        headers = [
            ("Authorization", f"Bearer {token}"),
            ("Content-Type", content_type),
            ("Accept", accept),
        ]
        response = await http_request(
            method, url, headers=headers, body=body, timeout=60, network=self.network
        )
        await settle()
        return response

    @staticmethod
    def protocol(id: str) -> HubProtocol:
        return JSON if int(id) % 2 else MSGPACK

    def received(self, id: str) -> list[HubMessage]:
        """What a client was sent behind the answer to its handshake."""
        protocol = self.protocol(id)
        sent = b"".join(self.clients[id].transport.sent[1:])
        found = [protocol.parse(frame) for frame in protocol.splitter(None).feed(sent)]
        return [one for one in found if one is not None and not isinstance(one, Ping)]

    def say(self, id: str, *messages: HubMessage) -> None:
        """A client sends something, in its protocol."""
        for message in messages:
            self.clients[id].transport.put(self.protocol(id).write(message))

    async def question(self, id: str) -> str:
        """The id of the next question that a client is asked; waits for one."""
        with trio.fail_after(60):
            while True:
                for one in self.received(id):
                    question = one.invocation_id if isinstance(one, Invocation) else None
                    if question is not None and question not in self.seen:
                        self.seen.add(question)
                        return question
                await trio.sleep(0.01)

    @property
    def heard(self) -> dict[str, list[Any]]:
        """The arguments of each call of "hi" that came, by client."""
        calls = {id: self.received(id) for id in self.clients}
        found = {
            id: [list(one.arguments) for one in those if isinstance(one, Invocation)]
            for id, those in calls.items()
        }
        return {id: arguments for id, arguments in found.items() if arguments}

    @property
    def members(self) -> str:
        """Who is in group g."""
        found = self.running.service.hub("chat").groups.members("g")
        return "".join(sorted(one.id for one in found))

    @property
    def closed(self) -> str:
        return "".join(id for id, client in self.clients.items() if client.over.is_set())


@asynccontextmanager
async def open_room(
    mode: str = "default", options: ServiceOptions | None = None
) -> AsyncGenerator[Room]:
    """A service with the hub "chat", a hub server that does nothing, and the clients.

    In mode serverless the hub server does not come.
    """
    network = MemoryNetwork()
    async with (
        open_service(network=network, mode=mode, options=options) as running,
        trio.open_nursery() as nursery,
    ):
        service = running.service
        server = ScriptedServer(service, nursery, "A")
        if mode == "default":
            server.connect("chat")
        await settle()
        clients: dict[str, Client] = {}
        for number, user in enumerate(["ann", "ann", "bob", None], 1):
            client = Client(str(number), claims=claims_for(user) if user else [])
            clients[client.id] = client
            nursery.start_soon(client.serve, service)
            client.transport.put(HELLOS[0] if number % 2 else HELLOS[1])
            await settle()
        groups = service.hub("chat").groups
        for id in "14":
            groups.join(service.hub("chat").sessions[id], "g")
        yield Room(running, network, server, clients)
        nursery.cancel_scope.cancel()
