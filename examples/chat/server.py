"""The ChatSample of the SignalR documentation, in Python.

    signalr-trio service                              # in a terminal of its own
    signalr-trio run examples.chat.server:server --port 5001 --server-id one
    signalr-trio run examples.chat.server:server --port 5002 --server-id two

Stop one of the servers with Ctrl-C: its clients move to the other one and notice nothing. With
``--shutdown-mode wait_for_clients_close`` they are told to go instead, and do.
"""

from __future__ import annotations

import os

from signalr_trio import (
    ConnectionMigrationFeature,
    GracefulShutdown,
    Hub,
    HubContext,
    HubServer,
    ShutdownMode,
)
from signalr_trio.connection_string import DEVELOPMENT

server = HubServer(
    os.environ.get("SIGNALR_CONNECTION_STRING", DEVELOPMENT),
    shutdown=GracefulShutdown(ShutdownMode.MIGRATE_CLIENTS, timeout=30),
)


class ChatSample(Hub):
    async def broadcast_message(self, name: str, message: str) -> None:
        await self.clients.all.send("broadcastMessage", name, message)

    async def echo(self, name: str, message: str) -> None:
        await self.clients.caller.send("echo", name, f"{message} (echo from server)")

    async def on_connected(self) -> None:
        self._print("has connected", "has migrated here")

    async def on_disconnected(self, error: Exception | None) -> None:
        self._print("has left", "is migrating away")

    def _print(self, plain: str, migrating: str) -> None:
        feature = self.context.features.get(ConnectionMigrationFeature)
        if feature is None:
            print(f"{self.context.connection_id} {plain}", flush=True)
        else:
            where = f"from {feature.migrate_from} to {feature.migrate_to}"
            print(f"{self.context.connection_id} {migrating}: {where}", flush=True)


server.map(ChatSample, "/chat")


@server.on_shutdown(ChatSample)
async def tell_clients_to_exit(chat: HubContext) -> None:
    """Clients that may stay connected need not hear of it."""
    if server.shutdown_options.mode is not ShutdownMode.MIGRATE_CLIENTS:
        await chat.clients.all.send("exit")
