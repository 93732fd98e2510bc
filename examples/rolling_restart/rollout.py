"""The order of events: everything comes up, each hub server is replaced, everything ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs
import trio

from examples.rolling_restart.balancer import Balancer
from examples.rolling_restart.fleet import HubServerProcess, run_service
from examples.rolling_restart.ledger import Ledger
from examples.rolling_restart.load import Load, TalkingClient
from examples.rolling_restart.node import JavaScriptClients, Node, NodeMissing, find_node

__all__ = ["MODES", "Narrator", "Options", "Rollout"]

#: The short names of the shutdown modes.
MODES = {"migrate": "migrate_clients", "wait": "wait_for_clients_close", "off": "off"}

_CONNECTING_AT_ONCE = 20
_LAST_ANSWERS = 15.0
_BEYOND_TIMEOUT = 10.0
#: Seconds after the last restart that still count as part of it.
_AFTERMATH = 1.0


@attrs.frozen
class Options:
    """What can be chosen on the command line."""

    mode: str = "migrate"
    clients: int = 200
    js_clients: int = 20
    servers: int = 3
    seconds: float = 5.0
    """Of steady load before the first restart, and after the last."""
    shutdown_timeout: float = 30.0
    seed: int = 1
    large_every: int = 50


StartServer = Callable[[str], Awaitable[HubServerProcess]]


class Narrator(Protocol):
    """Tells who is watching what happens."""

    def says(self, text: str) -> None: ...


class Rollout:
    """One demonstration; ``run`` does it, the rest is there to be looked at meanwhile."""

    def __init__(self, options: Options, logs: Path) -> None:
        self.options = options
        self.ledger = Ledger()
        self.servers: list[HubServerProcess] = []
        """Those that are gone too."""
        self.js_clients = 0
        """How many there are; none without Node."""
        self.hung: list[str] = []
        """Servers that had not ended when their time was up."""
        self._logs = logs
        self._balancer = Balancer()

    @property
    def replaced(self) -> list[HubServerProcess]:
        """The servers that were asked to stop under load, in order."""
        return self.servers[: self.options.servers]

    async def run(self, narrator: Narrator) -> None:
        options = self.options
        async with trio.open_nursery() as children:
            narrator.says(f"starting the service and {options.servers} hub servers")
            connection_string = await children.start(run_service, self._logs)
            start = partial(self._start_server, children, connection_string)
            up = [await start(f"chat-{index + 1}.v1") for index in range(options.servers)]
            url = await children.start(self._balancer.run)
            load = Load(url, seed=options.seed, large_every=options.large_every)
            async with self._clients(load, narrator):
                narrator.says(f"{options.seconds:g} s of load before the restarts")
                await trio.sleep(options.seconds)
                self.ledger.restarting = True
                for old in up:
                    await self._replace(old, start, narrator)
                narrator.says(f"all replaced; {options.seconds:g} s of load after the restarts")
                await trio.sleep(_AFTERMATH)
                self.ledger.restarting = False
                await trio.sleep(options.seconds)
                narrator.says("waiting for the last answers")
            narrator.says("stopping the servers and the service")
            for server in self.servers:
                if server.state == "up":
                    server.terminate()
            for server in self.servers:
                await server.gone.wait()
            children.cancel_scope.cancel()

    async def _start_server(
        self, children: trio.Nursery, connection_string: str, server_id: str
    ) -> HubServerProcess:
        server = HubServerProcess(server_id)
        self.servers.append(server)
        mode = MODES[self.options.mode]
        how = ["--shutdown-mode", mode, "--shutdown-timeout", str(self.options.shutdown_timeout)]
        await children.start(partial(server.run, connection_string, how, self._logs))
        self._balancer.add(server)
        return server

    async def _replace(self, old: HubServerProcess, start: StartServer, narrator: Narrator) -> None:
        """The replacement first, then SIGTERM to the old one: a rolling update, surge by one."""
        name = old.server_id.removesuffix(".v1")
        narrator.says(f"{name}.v2 starts, to replace {old.server_id}")
        await start(f"{name}.v2")
        self._balancer.remove(old)
        narrator.says(f"{name}.v2 is up; SIGTERM to {old.server_id}")
        old.terminate()
        with trio.move_on_after(self.options.shutdown_timeout + _BEYOND_TIMEOUT) as patience:
            await old.gone.wait()
        if patience.cancelled_caught:
            self.hung.append(old.server_id)
        narrator.says(f"{old.server_id} is gone")

    # -- the clients ------------------------------------------------------------------------

    @asynccontextmanager
    async def _clients(self, load: Load, narrator: Narrator) -> AsyncGenerator[None]:
        """All clients talk while the block runs; then they have some time for the last answers."""
        node = await self._find_node(narrator)
        async with trio.open_nursery() as clients:
            await self._start_clients(clients, load, node, narrator)
            yield
            load.stop.set()
            clients.cancel_scope.deadline = trio.current_time() + _LAST_ANSWERS
        for account in self.ledger.accounts:
            account.close()

    async def _start_clients(
        self, clients: trio.Nursery, load: Load, node: Node | None, narrator: Narrator
    ) -> None:
        narrator.says(f"connecting {self._clients_in_words(node)}")
        turns = trio.CapacityLimiter(_CONNECTING_AT_ONCE)

        async def connect(client: TalkingClient) -> None:
            async with turns:
                await clients.start(client.run)

        async with trio.open_nursery() as nursery:
            if node is not None:
                accounts = [self.ledger.open_account() for _ in range(self.options.js_clients)]
                self.js_clients = len(accounts)
                javascript = JavaScriptClients(node, load, accounts, self._logs)
                nursery.start_soon(clients.start, javascript.run)
            for index in range(self.options.clients):
                client = TalkingClient(load, index, self.ledger.open_account())
                nursery.start_soon(connect, client)
        load.go.set()

    def _clients_in_words(self, node: Node | None) -> str:
        js_clients = f" and {self.options.js_clients} JavaScript" if node is not None else ""
        return f"{self.options.clients} trio{js_clients} clients"

    async def _find_node(self, narrator: Narrator) -> Node | None:
        if not self.options.js_clients:
            return None
        try:
            node = find_node()
            if not node.installed:
                narrator.says("installing the JavaScript clients, once (npm ci)")
                await node.install(self._logs)
        except NodeMissing as reason:
            narrator.says(f"no JavaScript clients: {reason}")
            return None
        return node
