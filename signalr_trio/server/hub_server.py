"""The hub server: hubs, the server connections they are served on, and how it all ends."""

from __future__ import annotations

import logging
import random
import socket
import uuid
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from signalr_trio.errors import ConfigurationError, ShutdownError
from signalr_trio.hub import Hub, HubContext
from signalr_trio.protocol.service_messages import FIN_OFF
from signalr_trio.server.calls import IN_CALL
from signalr_trio.server.client_connection import ClientConnection
from signalr_trio.server.client_tasks import ClientTasks
from signalr_trio.server.options import GracefulShutdown, HubOptions, ShutdownMode
from signalr_trio.server.served_hub import ServedHub
from signalr_trio.server.service_connection import Connector, ServiceConnection
from signalr_trio.server.shutdown import ShutdownHook, ShutdownReport, Stages

__all__ = ["HubServer"]

log = logging.getLogger("signalr_trio.server")

HookT = TypeVar("HookT", bound=ShutdownHook)


class HubServer:
    """Hubs, and the graceful shutdown of the server that has them.

    ``connection_string`` names the service; None runs a service in this same process (embedded).
    ``server_id`` is what a ``ConnectionMigrationFeature`` shows; by default host name and a random
    part. ``serve`` (in ``signalr_trio``) runs it::

        server = HubServer(connection_string, shutdown=GracefulShutdown("migrate_clients"))
        server.map(Chat, "/chat")

        @server.on_shutdown(Chat)
        async def say_goodbye(chat: HubContext) -> None:
            await chat.clients.all.send("exit")

        await signalr_trio.serve(server, port=5000)

    A server runs once.
    """

    def __init__(
        self,
        connection_string: str | None = None,
        *,
        shutdown: GracefulShutdown | None = None,
        options: HubOptions | None = None,
        server_id: str | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.connection_string = connection_string
        self.options = options or HubOptions()
        self.chance = chance or random.SystemRandom()
        """The one source of randomness: ids, and the jitter of reconnects."""
        self.server_id = server_id or f"{socket.gethostname()}_{self._new_uuid().hex}"
        self.instance = self._new_uuid().hex
        """Tells this process from another that is later started under the same server id."""
        self.hubs: list[ServedHub] = []
        self.draining = False
        """Whether the shutdown has begun: negotiate sends no more clients."""
        self.report: ShutdownReport | None = None
        """What the shutdown did, when it is over."""
        self.shutdown_options = shutdown or GracefulShutdown()
        """May be replaced until the server runs."""
        self._hooks: dict[type[Hub], list[ShutdownHook]] = {}
        self._asked = trio.Event()
        self._ended = trio.Event()
        self._patience = trio.CancelScope()
        self._running = False
        self._unfinished: dict[ClientConnection, None] = {}
        self._all_gone = trio.lowlevel.ParkingLot()
        self._stages: Stages | None = None

    def _new_uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self.chance.getrandbits(128), version=4)

    # -- before it runs ---------------------------------------------------------------------

    def map(self, hub_class: type[Hub], path: str) -> None:
        """Serves a hub under a path; the service knows it by the class name in lower case.

        Raises ConfigurationError if the path or the name is taken, or a method of the class
        cannot be called by clients.
        """
        if not path.startswith("/"):
            raise ConfigurationError(
                f"the path of {hub_class.__name__} must begin with /: {path!r}"
            )
        path = path.rstrip("/") or "/"
        name = hub_class.__name__.lower()
        for hub in self.hubs:
            if hub.path.lower() == path.lower():
                raise ConfigurationError(f"{path} is the path of {hub.hub_class.__name__} already")
            if hub.name == name:
                raise ConfigurationError(f"hub {name} is mapped to {hub.path} already")
        self.hubs.append(ServedHub(hub_class, path=path, name=name, options=self.options))

    def on_shutdown(self, hub_class: type[Hub]) -> Callable[[HookT], HookT]:
        """Decorator: a shutdown hook of a hub, run in the order of registration.

        A hook that raises is logged, and the next one runs.
        """

        def register(hook: HookT) -> HookT:
            self._hooks.setdefault(hub_class, []).append(hook)
            return hook

        return register

    def hub_context(self, hub_class: type[Hub]) -> HubContext:
        """For sends from outside the calls of a hub. Raises ConfigurationError if not mapped."""
        for hub in self.hubs:
            if hub.hub_class is hub_class:
                return hub.context
        raise ConfigurationError(f"{hub_class.__name__} is not mapped to a path")

    @property
    def takes_clients(self) -> bool:
        """Whether it is connected to the service, for each of its hubs, and not shutting down."""
        return not self.draining and all(
            any(connection.is_up for connection in hub.connections) for hub in self.hubs
        )

    @property
    def client_count(self) -> int:
        """Clients that this server has now, of all hubs."""
        return len(self._unfinished)

    def hooks_of(self, hub: ServedHub) -> list[ShutdownHook]:
        return self._hooks.get(hub.hub_class, [])

    # -- the shutdown -----------------------------------------------------------------------

    def request_shutdown(self) -> None:
        """Begins the graceful shutdown, and does not wait for it."""
        self._asked.set()

    async def shutdown(self) -> ShutdownReport:
        """Shuts down gracefully and returns what happened; joins a shutdown under way.

        Raises ShutdownError inside a hook or a hub method, which it would wait for.
        """
        if IN_CALL.get():
            raise ShutdownError(
                "shutdown() waits for hooks and hub methods, so it cannot be awaited in one; "
                "call request_shutdown()"
            )
        self._asked.set()
        await self._ended.wait()
        assert self.report is not None
        return self.report

    def stop_now(self) -> None:
        """Skips what is left of stages 1 to 3."""
        self._asked.set()
        self._patience.cancel()

    # -- running ----------------------------------------------------------------------------

    async def run(
        self,
        connector: Connector,
        *,
        connections: int | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> ShutdownReport:
        """Serves the hubs until the shutdown is over.

        Who owns whom: ``links`` has a task for each server connection, shielded on its own, since
        the clients that end in ``clients`` still need it; ``clients`` has the tasks of clients.
        Cancelled from outside, this goes straight to stage 4 and then lets the cancellation pass.

        Raises ConfigurationError for a shutdown hook of a hub that is not mapped, and for what
        ``connector`` can never connect to.
        """
        if self._running:
            raise RuntimeError("a HubServer runs once; make another")
        for hub_class in self._hooks:
            self.hub_context(hub_class)  # a hook of a hub that is not mapped would never run
        self._running = True
        try:
            async with trio.open_nursery() as links:
                self._start_links(links, connector, connections or self.options.server_connections)
                try:
                    await self._serve(task_status)
                finally:
                    for connection in self._connections:
                        connection.scope.cancel()
        finally:
            self._ended.set()
        assert self.report is not None
        log.info("shut down: %s", self.report)
        return self.report

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery() as clients:
                self._start_clients_in(clients)
                try:
                    await self._try_connections()
                    task_status.started()
                    await self._asked.wait()
                    self._stages = Stages(self, self.shutdown_options)
                    self.draining = True
                    with self._patience:
                        await self._stages.run()
                finally:
                    self._begin_stop()
                    clients.cancel_scope.cancel()
        finally:
            await self._flush()

    async def _try_connections(self) -> None:
        """Until each server connection is up or could not be made, or the shutdown is asked for."""
        async with trio.open_nursery() as nursery:

            async def stop_when_asked() -> None:
                await self._asked.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_when_asked)
            for connection in self._connections:
                await connection.first_try.wait()
            nursery.cancel_scope.cancel()

    def _begin_stop(self) -> None:
        """Stage 4 begins: clients have until its limit to end in order."""
        self.draining = True
        self.refuse_clients()
        if self._stages is None:
            self._stages = Stages(self, self.shutdown_options)
        self.report = self._stages.report
        deadline = self._stages.begin_stop()
        for hub in self.hubs:
            hub.last_deadline = deadline
        for client in list(self._unfinished):
            client.stop(deadline)
        for connection in self._connections:
            connection.stop(FIN_OFF)

    async def _flush(self) -> None:
        """What is in line goes out, and the server connections are closed."""
        assert self._stages is not None
        with self._stages.end_of_stop() as left:
            async with trio.open_nursery() as nursery:
                for connection in self._connections:
                    nursery.start_soon(partial(connection.aclose, timeout=left))

    def _start_links(self, links: trio.Nursery, connector: Connector, count: int) -> None:
        migrates = self.shutdown_options.mode is ShutdownMode.MIGRATE_CLIENTS

        def start(hub: ServedHub, target: str | None = None) -> None:
            if self.draining:
                return
            cid = str(self._new_uuid())
            connection = ServiceConnection(
                hub, connector, cid=cid, migrates=migrates, chance=self.chance, target=target
            )
            hub.connections.append(connection)
            links.start_soon(connection.run)

        for hub in self.hubs:
            hub.start_connection = start
            for _ in range(count):
                start(hub)

    @property
    def _connections(self) -> list[ServiceConnection]:
        return [connection for hub in self.hubs for connection in hub.connections]

    # -- clients ----------------------------------------------------------------------------

    def _start_clients_in(self, nursery: trio.Nursery) -> None:
        tasks = ClientTasks(nursery)
        nursery.start_soon(tasks.let_go)
        nursery.start_soon(self._keep_clients_alive)
        for hub in self.hubs:
            hub.server_id = self.server_id
            hub.instance = self.instance
            hub.tasks = tasks
            hub.on_client = self._client_came
            hub.on_client_ended = self._client_ended
            nursery.start_soon(hub.end_handshakes)

    async def _keep_clients_alive(self) -> None:
        """Hub pings, where the service leaves them to its servers."""
        while True:
            await trio.sleep(self.options.keep_alive)
            # In a call of its own: what is in a variable here would be kept to the next time.
            self._ping_clients()

    def _ping_clients(self) -> None:
        for client in list(self._unfinished):
            if not client.connection.agreed:
                client.ping()

    def _client_came(self, client: ClientConnection) -> None:
        self._unfinished[client] = None

    def _client_ended(self, client: ClientConnection) -> None:
        self._unfinished.pop(client, None)
        if self._stages is not None and self._stages.counting:
            self._stages.report.count(client)
        if not self._unfinished:
            self._all_gone.unpark_all()

    def refuse_clients(self) -> None:
        """From stage 3 on a client that is opened here all the same is closed."""
        for hub in self.hubs:
            hub.refusing = True

    async def no_clients(self) -> None:
        """Waits until no client is left."""
        while self._unfinished:
            await self._all_gone.park()
