"""A client in memory that speaks the hub protocol in JSON and does what a test tells it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import Any

import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messages import (
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    StreamInvocation,
    StreamItem,
)
from signalr_trio.service.service import Service
from signalr_trio.tokens import NAME_IDENTIFIER, Claims
from signalr_trio.transport.client_transport import SharedPayload

__all__ = ["ADDRESS", "HELLO", "JSON", "Client", "MemoryTransport", "claims_for"]

JSON = JsonProtocol()
#: Where every client comes from.
ADDRESS = "10.1.2.3"
HELLO = write_request(HandshakeRequest("json", 1))


def claims_for(user: str, *more: tuple[str, str]) -> Claims:
    return [(NAME_IDENTIFIER, user), *more]


class MemoryTransport:
    """The service's end of a client connection, and both hands of the client at the other."""

    name = "memory"
    text_only = inherent_keep_alive = lost = False

    def __init__(self) -> None:
        self.binary = False
        self.sent: list[bytes] = []
        self.reads = True
        """Whether the client reads; what it does not read counts as buffered."""
        self.buffered = 0
        self.closed = False
        self.aborted = False
        self._coming: deque[bytes] = deque()
        self._ended = False
        self._news = trio.lowlevel.ParkingLot()

    # -- what the service does --------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        assert not self.closed, "sent after the transport was closed"
        self.sent.append(payload)
        if not self.reads:
            self.buffered += len(payload)

    def send_shared(self, shared: SharedPayload) -> int:
        assert shared.binary == self.binary
        self.send(shared.payload)
        return self.buffered

    async def receive(self) -> bytes:
        while not self._coming:
            if self._ended:
                raise ConnectionClosed("the client went away")
            await self._news.park()
        await trio.lowlevel.checkpoint()
        return self._coming.popleft()

    def agreed(self, protocol: HubProtocol, version: int, behind: bytes) -> bytes:
        self.binary = protocol.binary
        return behind

    def tick(self, now: float) -> None:
        pass

    def hurry(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    # -- what the client does ---------------------------------------------------------------

    @property
    def unread(self) -> int:
        """How many of the pieces that the client sent the service has not read."""
        return len(self._coming)

    def put(self, data: bytes) -> None:
        self._coming.append(data)
        self._news.unpark_all()

    def hang_up(self) -> None:
        self._ended = True
        self._news.unpark_all()


class Client:
    """A client of one hub. It is connected by ``serve``, in the nursery of whoever starts that."""

    def __init__(self, id: str = "c", *, claims: Claims | None = None, query: str = "") -> None:
        self.id = id
        self.claims = claims if claims is not None else []
        self.query = query
        self.transport = MemoryTransport()
        self.over = trio.Event()
        """Set when the service has done with the connection."""

    async def serve(self, service: Service, hub: str = "chat") -> None:
        session = service.new_client(
            hub,
            self.transport,
            connection_id=self.id,
            claims=self.claims,
            query_string=self.query,
            headers={"X-Forwarded-For": [ADDRESS]},
        )
        await session.run()
        self.over.set()

    # -- out --------------------------------------------------------------------------------

    def say(self, *messages: HubMessage) -> None:
        """Each message in a piece of its own."""
        for message in messages:
            self.transport.put(JSON.write(message))

    def hello(self) -> None:
        self.transport.put(HELLO)

    def ping(self) -> None:
        self.say(Ping())

    def send(self, target: str, *arguments: Any) -> None:
        """A call that wants no answer."""
        self.say(Invocation(target, arguments))

    def invoke(self, id: str, target: str, *arguments: Any, streams: Iterable[str] = ()) -> None:
        self.say(Invocation(target, arguments, id, tuple(streams)))

    def stream(self, id: str, target: str, *arguments: Any) -> None:
        self.say(StreamInvocation(id, target, arguments))

    def item(self, id: str, value: Any) -> None:
        self.say(StreamItem(id, value))

    def complete(self, id: str) -> None:
        self.say(Completion(id))

    def cancel(self, id: str) -> None:
        self.say(CancelInvocation(id))

    def leave(self) -> None:
        self.transport.hang_up()

    # -- in ---------------------------------------------------------------------------------

    @property
    def records(self) -> list[bytes]:
        """All that came, cut into messages."""
        return JSON.splitter(None).feed(b"".join(self.transport.sent))

    @property
    def response(self) -> dict[str, Any] | None:
        """The answer to the handshake."""
        records = self.records
        return json.loads(records[0][:-1]) if records else None

    @property
    def received(self) -> list[HubMessage]:
        """What came behind the answer to the handshake, but for pings."""
        messages = [JSON.parse(record) for record in self.records[1:]]
        return [one for one in messages if one is not None and not isinstance(one, Ping)]

    @property
    def pings(self) -> int:
        return sum(isinstance(JSON.parse(record), Ping) for record in self.records[1:])

    @property
    def calls(self) -> list[tuple[str, list[Any]]]:
        """The invocations that came: target and arguments."""
        found = [one for one in self.received if isinstance(one, Invocation)]
        return [(one.target, list(one.arguments)) for one in found]

    @property
    def completions(self) -> dict[str, Completion]:
        """By invocation id. Fails if one came twice."""
        found: dict[str, Completion] = {}
        for one in self.received:
            if isinstance(one, Completion):
                assert one.invocation_id not in found, f"two completions for {one.invocation_id}"
                found[one.invocation_id] = one
        return found

    @property
    def close(self) -> Close | None:
        """The Close that came. Fails if anything came behind it."""
        closes = [one for one in self.received if isinstance(one, Close)]
        assert len(closes) <= 1
        assert not closes or self.received[-1] == closes[0]
        return closes[0] if closes else None
