"""A hub server that does as the official SDK does, where that differs from ours.

It never releases: after a migrating close it throws away completions and items, and its
``OnDisconnected`` waits for no method. It answers no handshake when a client is migrated in. Its
sends overtake what its methods answer. It pings only when it hears something, accepts clients
after FINACK, and at its timeout ends without a word. An id that is opened while it still has it is
unreachable from then on.

``test_sdk_server`` holds all of that against recordings of the SDK.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, Protocol

import attrs
import trio

from signalr_trio.errors import ConnectionClosed, HubError
from signalr_trio.hub import Hub, HubContext
from signalr_trio.link.link import Link
from signalr_trio.protocol.service_messages import (
    FIN_MIGRATE,
    FIN_OFF,
    FIN_WAIT,
    FINACK,
    MIGRATE_TO,
    SHUTDOWN,
    Ack,
    CloseConnection,
    ConnectionData,
    ConnectionType,
    HandshakeRequest,
    HandshakeResponse,
    MigrationLevel,
    OpenConnection,
    Ping,
    ServiceMessage,
    header,
)
from tests.simulation.sdk_client import SdkClient
from tests.simulation.sdk_sends import Sender

__all__ = ["Connect", "Hook", "SdkOptions", "SdkServer", "ServerConnection", "Watch"]

Connect = Callable[[str], AbstractAsyncContextManager[Link]]
Hook = Callable[[HubContext], Awaitable[None]]

_FIN_AGAIN = 5.0
_PING_AFTER = 5.0
_SILENCE = 30.0
_SILENCE_IS_LOOKED_FOR = 5.0
#: Seconds from one attempt to the next, by the number of those that have failed.
_AGAIN = (0.0, 0.0, 1.5, 2.7, 5.0, 9.0, 16.0, 33.0, 60.0)
_HANDSHAKE = 15.0
_FINS = {
    "off": FIN_OFF,
    "migrate_clients": FIN_MIGRATE,
    "wait_for_clients_close": FIN_WAIT,
}


@attrs.frozen
class SdkOptions:
    server_id: str
    connections: int = 5
    mode: str = "off"
    timeout: float = 30.0
    parallel: int = 1
    handshake_timeout: float = 15.0
    keep_alive: float = 15.0
    """Seconds between pings to a client."""
    lag: float = 0.02
    """Seconds that what a hub answers may take to the server connection, at the most."""
    stateful: bool = False
    """Whether clients may have stateful reconnect."""


class Watch(Protocol):
    """Is told what cannot be seen from outside."""

    def up(self) -> None:
        """All its connections are."""

    def opened(self, client: SdkClient, before: SdkClient | None) -> None:
        """A client has come; ``before`` is one with its id that is still there."""

    def pinged(self, client: SdkClient) -> None:
        """A client's ping was passed on."""


class SdkServer:
    """One process, with one hub. ``run`` is its life."""

    def __init__(
        self,
        options: SdkOptions,
        make_hub: Callable[[], Hub],
        connect: Connect,
        watch: Watch,
        chance: random.Random,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.options = options
        self.make_hub = make_hub
        self.watch = watch
        self.acks = _Acks(chance)
        self.clients: dict[str, SdkClient] = {}
        self.offline = False
        self.methods: trio.Nursery
        self._connect = connect
        self._chance = chance
        self._hooks = hooks
        self._methods = _methods(make_hub())
        self._connections: dict[ServerConnection, None] = {}
        self._chosen: dict[Hashable, ServerConnection] = {}
        self._asked = trio.Event()

    # -- from outside -----------------------------------------------------------------------

    def request_shutdown(self) -> None:
        self._asked.set()

    def stop_now(self) -> None:
        """A second signal changes nothing."""
        self._asked.set()

    async def run(self) -> None:
        async with trio.open_nursery() as self.methods:
            for number in range(self.options.connections):
                self.methods.start_soon(self._keep_up, number)
            await self._asked.wait()
            self.offline = True
            await self._shut_down()
            # What is on its way through the process by now still goes out.
            await trio.sleep(self.options.lag)
            for connection in list(self._connections):
                await connection.link.aclose()
            # Who of its clients still gets a hub event depends on how fast the process ends.
            await trio.sleep(0.01)
            self.methods.cancel_scope.cancel()

    # -- what its parts need ----------------------------------------------------------------

    def find(self, target: str) -> Callable[..., Any] | None:
        return self._methods.get(target.lower())

    def lag(self) -> float:
        return self._chance.choice((0.0, self._chance.random())) * self.options.lag

    def patience(self) -> float:
        return _SILENCE + _SILENCE_IS_LOOKED_FOR * self._chance.random()

    def keep_alive(self) -> float:
        return self.options.keep_alive + self._chance.random()

    def connection_for(self, key: Hashable) -> ServerConnection:
        """The same one while it lives."""
        chosen = self._chosen.get(key)
        if chosen is None or not chosen.up:
            up = [one for one in self._connections if one.up]
            if not up:
                raise ConnectionClosed("no server connection is up")
            chosen = self._chosen[key] = self._chance.choice(up)
        return chosen

    # -- server connections -----------------------------------------------------------------

    async def _keep_up(self, number: int) -> None:
        failures = 0
        while not self.offline:
            began, was_up = trio.current_time(), False
            with suppress(OSError, ConnectionClosed):
                async with self._connect(f"{self.options.server_id}-{number}") as link:
                    was_up = await ServerConnection(self, link).run()
            failures = 0 if was_up else failures + 1
            await trio.sleep_until(began + _AGAIN[min(failures, len(_AGAIN) - 1)])

    def connection_made(self, connection: ServerConnection) -> None:
        self._connections[connection] = None

    def connection_up(self) -> None:
        if len([one for one in self._connections if one.up]) == self.options.connections:
            self.watch.up()

    def connection_lost(self, connection: ServerConnection) -> None:
        del self._connections[connection]
        for client in list(self.clients.values()):
            if client.connection is connection:
                del self.clients[client.id]
                client.lose()

    # -- clients ----------------------------------------------------------------------------

    def open(self, connection: ServerConnection, message: OpenConnection) -> None:
        """Whoever has the id already keeps it, and gets what is meant for the new one."""
        client = SdkClient(self, connection, message)
        self.watch.opened(client, self.clients.get(client.id))
        self.clients.setdefault(client.id, client)
        self.methods.start_soon(client.run)

    def forget(self, client: SdkClient) -> None:
        """Also if another one has the id by now."""
        self.clients.pop(client.id, None)

    def close(self, message: CloseConnection) -> None:
        client = self.clients.pop(message.connection_id, None)
        if client is not None:
            client.close(header(message.headers, MIGRATE_TO))

    # -- shutdown ---------------------------------------------------------------------------

    async def _shut_down(self) -> None:
        """All its clients may stay until the time is up. Then, hooks are begun if none was."""
        deadline = trio.current_time() + self.options.timeout
        with trio.CancelScope(deadline=deadline) as scope:
            async with trio.open_nursery() as nursery:
                for connection in list(self._connections):
                    nursery.start_soon(connection.go_offline, _FINS[self.options.mode])
        with trio.CancelScope(deadline=max(deadline, trio.current_time() + 0.01)):
            if self.options.mode == "off":
                if not scope.cancelled_caught:
                    await self._end_clients()
            elif await self._run_hooks():
                for client in list(self.clients.values()):
                    await client.over.wait()

    async def _run_hooks(self) -> bool:
        """One that raises ends the shutdown there and then."""
        try:
            for hook in self._hooks:
                await hook(HubContext(Sender(self)))
        except (HubError, ConnectionClosed):
            return False
        return True

    async def _end_clients(self) -> None:
        clients = list(self.clients.values())
        self.clients.clear()
        for client in clients:
            client.close()
        for client in clients:
            await client.over.wait()


class ServerConnection:
    def __init__(self, server: SdkServer, link: Link) -> None:
        self.link = link
        self.up = False
        self._server = server
        self._finack = trio.Event()
        self._pinged_at = 0.0

    def send(self, message: ServiceMessage) -> None:
        self.link.send(message)

    async def run(self) -> bool:
        """Returns whether it was up."""
        self._server.connection_made(self)
        was_up = False
        try:
            was_up = await self._shakes_hands()
            while self.up and (messages := await self._receive(self._server.patience())):
                self._take_all(messages)
        except ConnectionClosed:
            pass
        finally:
            self.up = False
            self._finack.set()
            self._server.connection_lost(self)
        return was_up

    async def go_offline(self, fin: str) -> None:
        """A connection that is lost counts as answered."""
        while not self._finack.is_set():
            self.send(Ping.of(SHUTDOWN, fin))
            with trio.move_on_after(_FIN_AGAIN):
                await self._finack.wait()

    async def _receive(self, timeout: float) -> Sequence[ServiceMessage]:
        with trio.move_on_after(timeout):
            return await self.link.receive()
        return ()

    async def _shakes_hands(self) -> bool:
        options = self._server.options
        migrates = options.mode == "migrate_clients"
        level = MigrationLevel.SHUTDOWN_ONLY if migrates else MigrationLevel.OFF
        self.send(HandshakeRequest(1, ConnectionType.DEFAULT, None, level, options.stateful))
        messages = await self._receive(_HANDSHAKE)
        if messages and isinstance(messages[0], HandshakeResponse):
            self.up = not messages[0].error_message
        if self.up:
            self._pinged_at = trio.current_time()
            self._server.connection_up()
            self._take_all(messages[1:])
        return self.up

    def _take_all(self, messages: Sequence[ServiceMessage]) -> None:
        for message in messages:
            self._take(message)
        if trio.current_time() - self._pinged_at > _PING_AFTER:
            self._pinged_at = trio.current_time()
            clients = self._server.clients.values()
            own = [client for client in clients if client.connection is self]
            self.send(Ping.of("#clientInHub", str(len(clients)), "#client", str(len(own))))

    def _take(self, message: ServiceMessage) -> None:
        server = self._server
        if isinstance(message, OpenConnection):
            server.open(self, message)
        elif isinstance(message, ConnectionData):
            if (client := server.clients.get(message.connection_id)) is not None:
                client.receive(message.payload)
        elif isinstance(message, CloseConnection):
            server.close(message)
        elif isinstance(message, Ack):
            server.acks.take(message)
        elif isinstance(message, Ping) and message.get(SHUTDOWN) == FINACK:
            self._finack.set()


class _Acks:
    """What the service is asked to acknowledge; after some 10 s it has failed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._last = 0
        self._open: dict[int, _Answer] = {}

    @contextmanager
    def expect(self) -> Generator[tuple[int, _Answer]]:
        self._last = number = self._last + 1
        answer = self._open[number] = _Answer(10.8 + 2 * self._chance.random())
        try:
            yield number, answer
        finally:
            del self._open[number]

    def take(self, message: Ack) -> None:
        if (answer := self._open.get(message.ack_id)) is not None:
            answer.come(message.status)


class _Answer:
    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._status: int | None = None
        self._came = trio.Event()

    def come(self, status: int) -> None:
        self._status = status
        self._came.set()

    async def wait(self) -> int | None:
        """The status; None if none came."""
        with trio.move_on_after(self._timeout):
            await self._came.wait()
        return self._status


def _methods(hub: Hub) -> dict[str, Callable[..., Any]]:
    """What clients can call, by its name in lower case."""
    own = inspect.getmembers(type(hub), inspect.isfunction)
    return {
        name.lower(): method
        for name, method in own
        if not name.startswith("_") and name not in vars(Hub)
    }
