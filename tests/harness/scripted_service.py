"""A service that does what a test tells it, at the far ends of the links of a real hub server.

It answers handshake, FIN and acks as a good service does, unless told otherwise, pings every 5 s,
and records all that the server sends. All of it lives on trio's clock and in memory, so that on a
mock clock a shutdown of half a minute takes no time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio
import trio.testing

from signalr_trio.errors import ConnectionClosed
from signalr_trio.hub import Hub
from signalr_trio.link.link import Agreement, Link
from signalr_trio.link.memory import MemoryLink, memory_link_pair
from signalr_trio.link.release import released
from signalr_trio.protocol import handshake
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import (
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    StreamInvocation,
    StreamItem,
)
from signalr_trio.protocol.service_messages import (
    FIN_MIGRATE,
    FINACK,
    MIGRATE_TO,
    SHUTDOWN,
    Ack,
    AckStatus,
    CloseConnection,
    ConnectionData,
    DataMessageType,
    HandshakeRequest,
    HandshakeResponse,
    Headers,
    OpenConnection,
    Ping,
    ServiceMessage,
)
from signalr_trio.server import GracefulShutdown, HubOptions, HubServer, ShutdownReport

__all__ = [
    "Received",
    "ScriptedClient",
    "ScriptedConnection",
    "ScriptedService",
    "Served",
    "living_tasks",
    "nothing_left",
    "serving",
]

T = TypeVar("T")
MessageT = TypeVar("MessageT", bound=ServiceMessage)

#: Seconds of the mock clock after which a test that waits for something has failed.
PATIENCE = 600.0


@attrs.frozen
class Received:
    """A message of the server, and when it came, on which connection."""

    at: float
    connection: ScriptedConnection
    message: ServiceMessage


class ScriptedConnection:
    """The service's end of one server connection."""

    def __init__(
        self, service: ScriptedService, hub: str, cid: str, target: str | None, link: MemoryLink
    ) -> None:
        self.service = service
        self.hub = hub
        self.id = cid
        self.target = target
        self.lost = False
        self._link = link
        self._may_read = trio.Event()
        self._may_read.set()
        self._reading = trio.CancelScope()

    def send(self, message: ServiceMessage) -> None:
        self._link.send(message)

    def received(self, kind: type[MessageT]) -> list[MessageT]:
        """What came on this connection, of one kind, in order."""
        return [
            one.message
            for one in self.service.log
            if one.connection is self and isinstance(one.message, kind)
        ]

    @property
    def fins(self) -> list[str | None]:
        pings = self.received(Ping)
        return [ping.get(SHUTDOWN) for ping in pings if ping.get(SHUTDOWN) is not None]

    async def lose(self) -> None:
        """The connection ends, from the service's side."""
        await self._link.aclose()

    def stop_reading(self) -> None:
        """What the server sends stays in its line."""
        self._may_read = trio.Event()
        self._reading.cancel()

    def read_on(self) -> None:
        self._may_read.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping)
            try:
                while True:
                    if not self._may_read.is_set():
                        await self._may_read.wait()
                    with trio.CancelScope() as self._reading:
                        for message in await self._link.receive():
                            self.service.take(self, message)
            except ConnectionClosed:
                self.lost = True
                self.service.changed()
            nursery.cancel_scope.cancel()

    async def _ping(self) -> None:
        while True:
            await trio.sleep(5)
            if self.service.pings:
                self.send(Ping())


class ScriptedService:
    """What the server connects to. Attributes say how it behaves, and may change at any time."""

    def __init__(self, *, agreed: bool = True, embedded: bool = False) -> None:
        self.agreement = Agreement("the server", embedded=embedded) if agreed else None
        self.answers_handshake = True
        self.handshake_error: str | None = None
        self.answers_fin = True
        self.ack_status: int | None = AckStatus.OK
        self.pings = True
        self.refuses = False
        """Whether attempts to connect fail."""
        self.hangs = False
        """Whether attempts to connect neither succeed nor fail, until ``accept``."""
        self.migrates_to: str | None = None
        """The server to which clients go when ``fin:1`` comes; None: nobody is moved."""
        self.attempts: list[float] = []
        """When the server tried to connect."""
        self.connections: list[ScriptedConnection] = []
        self.clients: list[ScriptedClient] = []
        self.log: list[Received] = []
        self._news = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._accepts = trio.Event()

    # -- links ------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def connect(self, hub: str, cid: str, target: str | None) -> AsyncGenerator[Link]:
        """The connector for ``HubServer.run``."""
        assert self._nursery is not None
        self.attempts.append(trio.current_time())
        self.changed()
        if self.hangs:
            await self._accepts.wait()
        if self.refuses:
            raise OSError("refused")
        near, far = memory_link_pair(Agreement("the server"))
        near.agreement = far.agreement = self.agreement
        connection = ScriptedConnection(self, hub, cid, target, far)
        self.connections.append(connection)
        self._nursery.start_soon(connection.run)
        try:
            yield near
        finally:
            await near.aclose()

    def accept(self) -> None:
        """Attempts to connect that hang succeed."""
        self.hangs = False
        self._accepts.set()

    async def vanish(self) -> None:
        """All connections are lost, and none can be made."""
        self.refuses = True
        for connection in self.connections:
            await connection.lose()

    # -- what comes -------------------------------------------------------------------------

    def take(self, connection: ScriptedConnection, message: ServiceMessage) -> None:
        self.log.append(Received(trio.current_time(), connection, message))
        if isinstance(message, HandshakeRequest):
            if self.answers_handshake:
                connection.send(HandshakeResponse(self.handshake_error))
        elif isinstance(message, Ping):
            self._take_ping(connection, message)
        elif isinstance(getattr(message, "ack_id", None), int) and self.ack_status is not None:
            connection.send(Ack(message.ack_id, self.ack_status))
        self.changed()

    def _take_ping(self, connection: ScriptedConnection, ping: Ping) -> None:
        fin = ping.get(SHUTDOWN)
        if fin is not None and self.answers_fin:
            connection.send(Ping.of(SHUTDOWN, FINACK))
        if fin == FIN_MIGRATE and self.migrates_to is not None:
            for client in self.clients:
                if client.connection is connection and client.may_move:
                    client.move(self.migrates_to)

    def received(self, kind: type[MessageT]) -> list[MessageT]:
        """What came on any connection, of one kind, in order."""
        return [one.message for one in self.log if isinstance(one.message, kind)]

    @property
    def fins(self) -> list[tuple[float, str | None]]:
        """Each FIN with the time at which it came."""
        return [
            (one.at, one.message.get(SHUTDOWN))
            for one in self.log
            if isinstance(one.message, Ping) and one.message.get(SHUTDOWN) is not None
        ]

    def changed(self) -> None:
        self._news.unpark_all()

    async def until(self, found: Callable[[], T]) -> T:
        """Waits until ``found`` returns something true, and returns it."""
        with trio.fail_after(PATIENCE):
            while not (result := found()):
                await self._news.park()
        return result

    async def message(self, kind: type[MessageT], count: int = 1) -> MessageT:
        """Waits for the ``count``-th message of that kind."""
        return (await self.until(lambda: self.received(kind)[count - 1 :]))[0]

    # -- clients ----------------------------------------------------------------------------

    def open(
        self,
        id: str = "c1",
        *,
        connection: ScriptedConnection | None = None,
        protocol: str = "json",
        claims: Iterable[tuple[str, str]] = (),
        headers: Headers | None = None,
        query_string: str = "",
        shakes: bool = True,
    ) -> ScriptedClient:
        """A client comes; ``shakes``: it sends its handshake request."""
        connection = connection or self.connections[0]
        client = ScriptedClient(connection, id, protocol)
        self.clients.append(client)
        connection.send(
            OpenConnection(id, list(claims), headers or {}, query_string, protocol=protocol)
        )
        if shakes:
            client.shake()
        return client

    async def connected(self, id: str = "c1", *, protocol: str = "json") -> ScriptedClient:
        """A client that has had its handshake response."""
        client = self.open(id, protocol=protocol)
        await self.until(lambda: client.responses)
        return client


class ScriptedClient:
    """A client as the service sees it."""

    def __init__(self, connection: ScriptedConnection, id: str, protocol: str) -> None:
        self.connection = connection
        self.service = connection.service
        self.id = id
        self.asked_to_move = False
        self._protocol = HUB_PROTOCOLS.get(protocol.lower(), HUB_PROTOCOLS["json"])
        self._name = protocol
        self._ids = itertools.count(1)

    # -- what it sends ----------------------------------------------------------------------

    def shake(self) -> None:
        request = handshake.HandshakeRequest(self._name, 1)
        self.send_bytes(handshake.write_request(request))

    def send_bytes(self, payload: bytes) -> None:
        self.connection.send(ConnectionData(self.id, payload))

    def send(self, *messages: HubMessage) -> None:
        self.send_bytes(b"".join(self._protocol.write(message) for message in messages))

    def invoke(self, target: str, *arguments: object, streams: Iterable[str] = ()) -> str:
        """Calls a method; the invocation id."""
        id = str(next(self._ids))
        self.send(Invocation(target, arguments, id, tuple(streams)))
        return id

    def stream(self, target: str, *arguments: object, id: str | None = None) -> str:
        """Calls a method that streams; the invocation id."""
        id = id or str(next(self._ids))
        self.send(StreamInvocation(id, target, arguments))
        return id

    def item(self, stream_id: str, item: object) -> None:
        self.send(StreamItem(stream_id, item))

    def end_upload(self, stream_id: str, error: str | None = None) -> None:
        self.send(Completion(stream_id, error=error))

    def cancel(self, invocation_id: str) -> None:
        self.send(CancelInvocation(invocation_id))

    def leave(self) -> None:
        """The client has gone: a plain close."""
        self.connection.send(CloseConnection(self.id))

    def move(self, target: str = "B") -> None:
        """The service asks the server to let the client go to another; repeated, it hurries."""
        self.asked_to_move = True
        self.connection.send(CloseConnection(self.id, headers={MIGRATE_TO: [target]}))

    # -- what came for it -------------------------------------------------------------------

    @property
    def all(self) -> list[ConnectionData | CloseConnection]:
        """Data and closes that name it, in order."""
        return [
            one.message
            for one in self.service.log
            if isinstance(one.message, ConnectionData | CloseConnection)
            and one.message.connection_id == self.id
        ]

    def _data(self, kind: DataMessageType) -> list[bytes]:
        data = [one for one in self.all if isinstance(one, ConnectionData)]
        return [one.payload for one in data if one.data_type == kind]

    @property
    def responses(self) -> list[str | None]:
        """The error of each handshake response."""
        frames = self._data(DataMessageType.HANDSHAKE)
        return [handshake.parse_response(frame).error for frame in frames]

    @property
    def messages(self) -> list[HubMessage | None]:
        """Invocations, items and completions."""
        frames = self._data(DataMessageType.INVOCATION)
        return [self._protocol.parse(frame) for frame in frames]

    @property
    def pings(self) -> int:
        return len(self._data(DataMessageType.OTHER))

    @property
    def hub_closes(self) -> list[HubMessage | None]:
        return [self._protocol.parse(frame) for frame in self._data(DataMessageType.CLOSE)]

    @property
    def hub_close(self) -> Close:
        (close,) = self.hub_closes
        assert isinstance(close, Close)
        return close

    @property
    def ends(self) -> list[CloseConnection]:
        return [one for one in self.all if isinstance(one, CloseConnection)]

    @property
    def releases(self) -> list[CloseConnection]:
        return [one for one in self.ends if released(one)]

    @property
    def may_move(self) -> bool:
        return bool(self.responses) and not self.ends and not self.asked_to_move

    def completions(self, id: str) -> list[Completion]:
        return [
            one for one in self.messages if isinstance(one, Completion) and one.invocation_id == id
        ]

    def items(self, id: str) -> list[object]:
        return [
            one.item
            for one in self.messages
            if isinstance(one, StreamItem) and one.invocation_id == id
        ]

    async def completion(self, id: str) -> Completion:
        return (await self.service.until(lambda: self.completions(id)))[0]

    async def result(self, id: str) -> object:
        """What a call returned; it must not have failed."""
        completion = await self.completion(id)
        assert completion.error is None, completion.error
        return completion.result

    async def error(self, id: str) -> str:
        """The error of a call; it must have failed."""
        completion = await self.completion(id)
        assert completion.error is not None, completion
        return completion.error

    async def ended(self) -> CloseConnection:
        """Waits until the server closes or releases it."""
        return (await self.service.until(lambda: self.ends))[0]

    async def released(self) -> CloseConnection:
        return (await self.service.until(lambda: self.releases))[0]


@attrs.define(eq=False)
class Served:
    """A hub server that runs, and its scripted service."""

    server: HubServer
    service: ScriptedService
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Around the server: cancelled, it is cancelled from outside."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    ended_at: float = math.nan
    report: ShutdownReport | None = None
    """What ``run`` returned."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self.scope:
                self.report = await self.server.run(self.service.connect, task_status=task_status)
        finally:
            self.ended_at = trio.current_time()
            self.ended.set()

    async def must_end(self) -> None:
        """Puts an end to a server that has been cancelled and does not end by itself, which is a
        failure: better than a test that hangs."""
        with trio.move_on_after(PATIENCE):
            await self.ended.wait()
            return
        for hub in self.server.hubs:
            for client in hub.clients.values():
                if client.last_scope is not None:
                    client.last_scope.cancel()
            for connection in hub.connections:
                connection.scope.cancel()
        raise AssertionError("the server did not end when it was cancelled")

    async def shut_down(self) -> ShutdownReport:
        """A graceful shutdown, to its end."""
        self.server.request_shutdown()
        return await self.end()

    async def end(self) -> ShutdownReport:
        """Waits until the server has ended by itself."""
        with trio.fail_after(PATIENCE):
            await self.ended.wait()
        assert self.report is not None
        return self.report


def living_tasks() -> set[trio.lowlevel.Task]:
    """All tasks of this run of trio, its own excepted."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found: set[trio.lowlevel.Task] = set()
    new = [root]
    while new:
        nurseries = new.pop().child_nurseries
        children = [task for nursery in nurseries for task in nursery.child_tasks]
        found.update(children)
        new += children
    return found


@asynccontextmanager
async def nothing_left() -> AsyncGenerator[None]:
    """After the block there is no task that was not there before, and no timer."""
    before = living_tasks()
    yield
    await trio.testing.wait_all_tasks_blocked()
    assert {task.name for task in living_tasks() - before} == set()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf


@asynccontextmanager
async def serving(
    *hubs: type[Hub],
    service: ScriptedService | None = None,
    shutdown: GracefulShutdown | None = None,
    options: HubOptions | None = None,
    connections: int = 1,
    prepare: Callable[[HubServer], object] = lambda server: None,
    connection_string: str = "",
    server_id: str = "A",
) -> AsyncGenerator[Served]:
    """A hub server with that many server connections for each hub; cancelled at the end.

    ``prepare`` is given the server before it runs: to register hooks.
    """
    options = attrs.evolve(options or HubOptions(), server_connections=connections)
    server = HubServer(connection_string, shutdown=shutdown, options=options, server_id=server_id)
    for hub in hubs:
        server.map(hub, f"/{hub.__name__.lower()}")
    prepare(server)
    served = Served(server, service or ScriptedService())
    async with served.service.running(), trio.open_nursery() as nursery:
        try:
            with trio.fail_after(PATIENCE):
                await nursery.start(served.run)
            yield served
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await served.must_end()
