"""A hub server that does as the official SDK does, where that differs from ours.

It never releases: after a migrating close it throws away completions and items, and its
``OnDisconnected`` waits for no method. It answers no handshake when a client is migrated in. Its
sends travel on any server connection, and overtake what its methods answer. It pings only when it
hears something, accepts clients after FINACK, and at its timeout ends without a word. An id that is
opened while it still has it is unreachable from then on.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import attrs
import trio

from signalr_trio.errors import ConnectionClosed, HubError
from signalr_trio.hub import (
    Audience,
    AudienceKind,
    ConnectionMigrationFeature,
    GroupManager,
    HubCallerClients,
    HubCallerContext,
    HubContext,
)
from signalr_trio.link.link import Link
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.handshake import HandshakeResponse, split_handshake, write_response
from signalr_trio.protocol.messages import (
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    StreamInvocation,
    StreamItem,
)
from signalr_trio.protocol.messages import Ping as HubPing
from signalr_trio.protocol.service_messages import (
    FIN_MIGRATE,
    FIN_OFF,
    FIN_WAIT,
    FINACK,
    MIGRATE_FROM,
    MIGRATE_TO,
    SHUTDOWN,
    Ack,
    BroadcastData,
    CloseConnection,
    ConnectionData,
    ConnectionType,
    DataMessageType,
    GroupBroadcastData,
    HandshakeRequest,
    JoinGroupWithAck,
    LeaveGroupWithAck,
    MigrationLevel,
    MultiConnectionData,
    OpenConnection,
    Ping,
    ServiceMessage,
    UserData,
    header,
)
from signalr_trio.protocol.service_messages import (
    HandshakeResponse as ServiceHandshakeResponse,
)
from signalr_trio.server.identity import user_claims
from signalr_trio.tokens import user_id_of
from tests.simulation.app import Chat, perform_hook
from tests.simulation.ledger import Ledger, ServerRun
from tests.simulation.scenario import ServerPlan

__all__ = ["SdkServer"]

Connect = Callable[[ServerPlan, str, str, None], AbstractAsyncContextManager[Link]]

_HUB = "chat"
_FIN_AGAIN = 5.0
_PING_AFTER = 5.0
_SILENCE = 30.0
_FINS = {
    "off": FIN_OFF,
    "migrate_clients": FIN_MIGRATE,
    "wait_for_clients_close": FIN_WAIT,
}


class SdkServer:
    """One process. ``run`` is its life."""

    report = None

    def __init__(
        self, ledger: Ledger, run: ServerRun, connect: Connect, chance: random.Random
    ) -> None:
        self.ledger = ledger
        self.server_run = run
        self.plan = run.plan
        self.chance = chance
        self.clients: dict[str, _Client] = {}
        self.links: dict[_Link, None] = {}
        self.offline = False
        self.acks: dict[int, trio.Event] = {}
        self.changed = trio.lowlevel.ParkingLot()
        self.nursery: trio.Nursery | None = None
        self._connect = connect
        self._asked = trio.Event()

    # -- what the world does ----------------------------------------------------------------

    def request_shutdown(self) -> None:
        self._asked.set()

    def stop_now(self) -> None:
        """A second signal changes nothing."""
        self._asked.set()

    async def run(self) -> None:
        async with trio.open_nursery() as self.nursery:
            for number in range(self.plan.connections):
                self.nursery.start_soon(self._keep_up, f"{self.plan.name}-{number}")
            self.nursery.start_soon(self._note_when_up)
            await self._asked.wait()
            self.offline = True
            with trio.move_on_after(self.plan.timeout):
                await self._shut_down()
            for link in list(self.links):
                await link.link.aclose()
            await trio.sleep(0.01)
            self.nursery.cancel_scope.cancel()

    # -- server connections -----------------------------------------------------------------

    async def _note_when_up(self) -> None:
        while len([link for link in self.links if link.up]) < self.plan.connections:
            await self.changed.park()
        self.ledger.server_up(self.server_run)

    async def _keep_up(self, cid: str) -> None:
        delay = 0.0
        while not self.offline:
            await trio.sleep(delay)
            delay = min(max(delay * 2, 1.0), 60.0)
            try:
                async with self._connect(self.plan, _HUB, cid, None) as link:
                    if await _Link(self, link).run():
                        delay = 0.0
            except (OSError, ConnectionClosed):
                continue

    def any_link(self) -> _Link:
        up = [link for link in self.links if link.up]
        if not up:
            raise ConnectionClosed("no server connection is up")
        return self.chance.choice(up)

    async def _shut_down(self) -> None:
        async with trio.open_nursery() as nursery:
            for link in list(self.links):
                nursery.start_soon(link.go_offline, _FINS[self.plan.mode])
        if self.plan.mode == "off":
            for client in list(self.clients.values()):
                client.end_off()
        else:
            try:
                for steps in self.plan.hooks:
                    await perform_hook(HubContext(_Sender(self, None)), steps=steps)
            except (HubError, ConnectionClosed):
                # A hook that throws ends the shutdown of its hub: it hangs until it is killed.
                await trio.sleep_forever()
        for client in list(self.clients.values()):
            await client.over.wait()

    # -- clients ----------------------------------------------------------------------------

    def open(self, link: _Link, message: OpenConnection) -> None:
        assert self.nursery is not None
        client = _Client(self, link, message)
        self.ledger.opened(self.server_run, client.name, answered_all_fins=False)
        there = self.clients.get(client.id)
        if there is not None and there.link is link:
            self.ledger.check(False, "P1", client.name, "was opened twice on", self.plan.name)
        self.clients[client.id] = client
        self.nursery.start_soon(client.run)


class _Link:
    """One server connection."""

    def __init__(self, server: SdkServer, link: Link) -> None:
        self.server = server
        self.link = link
        self.up = False
        self._finack = trio.Event()
        self._pinged_at = 0.0

    async def run(self) -> bool:
        server = self.server
        migrates = server.plan.mode == "migrate_clients"
        level = MigrationLevel.SHUTDOWN_ONLY if migrates else MigrationLevel.OFF
        self.link.send(HandshakeRequest(1, ConnectionType.DEFAULT, None, level))
        server.links[self] = None
        was_up = False
        try:
            while True:
                messages: Sequence[ServiceMessage] = ()
                with trio.move_on_after(_SILENCE):
                    messages = await self.link.receive()
                if not messages:
                    return was_up
                for message in messages:
                    self._take(message)
                was_up = self.up
                if trio.current_time() - self._pinged_at > _PING_AFTER:
                    self._pinged_at = trio.current_time()
                    self.link.send(Ping())
        except ConnectionClosed:
            return was_up
        finally:
            self.up = False
            del server.links[self]
            self._finack.set()
            for client in list(server.clients.values()):
                if client.link is self:
                    client.gone(None)

    async def go_offline(self, fin: str) -> None:
        while not self._finack.is_set():
            self.link.send(Ping.of(SHUTDOWN, fin))
            with trio.move_on_after(_FIN_AGAIN):
                await self._finack.wait()

    def _take(self, message: ServiceMessage) -> None:
        server = self.server
        if isinstance(message, ServiceHandshakeResponse):
            self.up = True
            server.changed.unpark_all()
        elif isinstance(message, OpenConnection):
            server.open(self, message)
        elif isinstance(message, ConnectionData):
            if (client := server.clients.get(message.connection_id)) is not None:
                client.receive(message.payload)
        elif isinstance(message, CloseConnection):
            if (client := server.clients.get(message.connection_id)) is not None:
                client.gone(header(message.headers, MIGRATE_TO))
        elif isinstance(message, Ack):
            if message.ack_id in server.acks:
                server.acks[message.ack_id].set()
        elif isinstance(message, Ping) and message.get(SHUTDOWN) == FINACK:
            self._finack.set()


@attrs.define
class _Upload(AsyncIterator[Any]):
    send: trio.MemorySendChannel[Any]
    receive: trio.MemoryReceiveChannel[Any]

    async def __anext__(self) -> Any:
        try:
            return await self.receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class _Client:
    def __init__(self, server: SdkServer, link: _Link, message: OpenConnection) -> None:
        self.server = server
        self.link = link
        self.id = message.connection_id
        self.over = trio.Event()
        claims = user_claims(message.claims)
        self.name = user_id_of(message.claims) or ""
        self._protocol = HUB_PROTOCOLS[message.protocol or "json"]
        self._arrived_from = header(message.headers, MIGRATE_FROM)
        self._answered = self._arrived_from is not None
        self._migrates_to: str | None = None
        self._silent = False
        """Whether what its methods answer is thrown away."""
        self._gone = trio.Event()
        self._greeted = trio.Event()
        self._buffer = b""
        self._splitter: Any = None
        self._queue: trio.MemorySendChannel[Any]
        self._queue, self._calls = trio.open_memory_channel[Any](10000)
        self._queued: list[Invocation | StreamInvocation] = []
        self._uploads: dict[str, _Upload] = {}
        self._streams: dict[str, trio.CancelScope] = {}
        self._context = HubCallerContext(
            connection_id=self.id,
            user_id=self.name,
            claims=claims,
            query_string="",
            headers={},
            abort=self._abort,
        )

    async def run(self) -> None:
        server = self.server
        assert server.nursery is not None
        try:
            await self._greeted.wait()
            respond_late = server.chance.random() < 0.5
            if not respond_late:
                self._respond()
            if self._arrived_from is not None:
                here = ConnectionMigrationFeature(self._arrived_from, server.plan.id)
                self._context.features.set(here)
            try:
                await self._hub().on_connected()
            except (HubError, ConnectionClosed) as error:
                self._respond()
                self._answer(Close(f"Connection closed with an error. {error}"))
                self.link.link.send(CloseConnection(self.id))
                return
            finally:
                self._context.features.remove(ConnectionMigrationFeature)
            self._respond()
            server.nursery.start_soon(self._work)
            await self._gone.wait()
            if self._migrates_to is not None:
                self._context.features.set(
                    ConnectionMigrationFeature(server.plan.id, self._migrates_to)
                )
            with suppress(HubError, ConnectionClosed):
                await self._hub().on_disconnected(None)
        finally:
            if server.clients.get(self.id) is self:
                del server.clients[self.id]
            self.over.set()

    def _respond(self) -> None:
        if not self._answered:
            self._answered = True
            response = write_response(HandshakeResponse())
            self.link.link.send(ConnectionData(self.id, response, DataMessageType.HANDSHAKE))

    def gone(self, migrates_to: str | None) -> None:
        """A close of the service: the client has gone, or is to move."""
        self._silent = True
        # What is behind a full pipe is lost unrun; here the pipe is always full.
        self._queued.clear()
        self._migrates_to = migrates_to
        self._greeted.set()
        self._gone.set()
        self._context.aborted.set()
        for scope in self._streams.values():
            scope.cancel()
        for upload in self._uploads.values():
            upload.send.close()

    def end_off(self) -> None:
        self._answer(Close(None, True))
        self.gone(None)

    def _abort(self) -> None:
        self._answer(Close(None))
        self.link.link.send(CloseConnection(self.id))
        self.gone(None)

    # -- calls ------------------------------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        if not self._greeted.is_set():
            self._buffer += payload
            split = split_handshake(self._buffer)
            if split is None:
                return
            payload = split[1]
            self._greeted.set()
            self._splitter = self._protocol.splitter(None)
        if self._gone.is_set():
            return
        for frame in self._splitter.feed(payload):
            ping = self._protocol.is_ping(frame)
            self.server.ledger.check(not ping, "rule 11", self.name, "a ping was passed on")
            message = self._protocol.parse(frame)
            if message is not None:
                self._take(message)

    def _take(self, message: HubMessage) -> None:
        if isinstance(message, (Invocation, StreamInvocation)):
            uploads = [_Upload(*trio.open_memory_channel[Any](10000)) for _ in message.stream_ids]
            self._uploads |= zip(message.stream_ids, uploads, strict=True)
            self._queue.send_nowait((message, uploads))
            self._queued.append(message)
        elif isinstance(message, StreamItem) and message.invocation_id in self._uploads:
            self._uploads[message.invocation_id].send.send_nowait(message.item)
        elif isinstance(message, Completion) and message.invocation_id in self._uploads:
            self._uploads.pop(message.invocation_id).send.close()
        elif isinstance(message, CancelInvocation) and message.invocation_id in self._streams:
            self._streams[message.invocation_id].cancel()
        elif isinstance(message, Close):
            self.link.link.send(CloseConnection(self.id))
            self.gone(None)

    async def _work(self) -> None:
        nursery = self.server.nursery
        assert nursery is not None
        async for message, uploads in self._calls:
            if message not in self._queued:
                continue
            self._queued.remove(message)
            if message.target == "down":
                nursery.start_soon(self._stream, message)
            elif uploads:
                nursery.start_soon(self._invoke, message, uploads)
            else:
                await self._invoke(message, uploads)

    async def _invoke(
        self, message: Invocation | StreamInvocation, uploads: Sequence[_Upload]
    ) -> None:
        method = getattr(self._hub(), message.target, None)
        try:
            if method is None:
                raise HubError("Method does not exist.")
            result = await method(*message.arguments, *uploads)
        except (HubError, ConnectionClosed) as error:
            if message.invocation_id:
                self._answer(Completion(message.invocation_id, error=f"HubException: {error}"))
        else:
            if message.invocation_id:
                self._answer(Completion(message.invocation_id, result))

    async def _stream(self, message: Invocation | StreamInvocation) -> None:
        id = message.invocation_id or ""
        error = None
        with trio.CancelScope() as scope:
            self._streams[id] = scope
            try:
                async for item in self._hub().down(*message.arguments):
                    self._answer(StreamItem(id, item))
            except (HubError, ConnectionClosed) as raised:
                error = f"HubException: {raised}"
        self._answer(Completion(id, error=error))

    def _answer(self, message: HubMessage) -> None:
        if not self._silent:
            self._respond()
            kind = DataMessageType.INVOCATION
            if isinstance(message, Close):
                kind = DataMessageType.CLOSE
            elif isinstance(message, HubPing):
                kind = DataMessageType.OTHER
            payload = self._protocol.write(message)
            self.link.link.send(ConnectionData(self.id, payload, kind))

    def _hub(self) -> Chat:
        hub = Chat()
        sender = _Sender(self.server, self)
        hub.context = self._context
        hub.clients = HubCallerClients(sender, self.id)
        hub.groups = GroupManager(sender)
        return hub


@attrs.frozen
class _Sender:
    server: SdkServer
    client: _Client | None

    def _link(self) -> Link:
        """Any connection that is up: nothing ties a send to that of its client."""
        return self.server.any_link().link

    async def send(self, audience: Audience, target: str, arguments: Sequence[Any]) -> None:
        message = Invocation(target, arguments)
        payloads = {name: one.write(message) for name, one in HUB_PROTOCOLS.items()}
        names, excluded = list(audience.names), list(audience.excluded)
        link = self._link()
        if audience.kind is AudienceKind.CONNECTIONS:
            link.send(MultiConnectionData(names, payloads))
        elif audience.kind is AudienceKind.ALL:
            link.send(BroadcastData(excluded, payloads))
        elif audience.kind is AudienceKind.USERS:
            link.send(UserData(names[0], payloads))
        else:
            link.send(GroupBroadcastData(names[0], excluded, payloads))
        await trio.lowlevel.checkpoint()

    async def add_to_group(self, connection_id: str, group: str) -> None:
        await self._ask(lambda id: JoinGroupWithAck(connection_id, group, id))

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        await self._ask(lambda id: LeaveGroupWithAck(connection_id, group, id))

    async def _ask(self, message: Callable[[int], ServiceMessage]) -> None:
        acks = self.server.acks
        number = len(acks) + 1
        acks[number] = trio.Event()
        self._link().send(message(number))
        with trio.move_on_after(10):
            await acks[number].wait()
            return
        raise ConnectionClosed("no ack came")
