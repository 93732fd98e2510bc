"""The hub server that the process tests run: ``signalr-trio run tests.processes.app:make``."""

from __future__ import annotations

import trio

from signalr_trio import ConnectionMigrationFeature, Hub, HubServer


class Work(Hub):
    async def where(self) -> str:
        return self.context.items.get("server", "")

    async def slow(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return f"slept {seconds:g}"

    async def forever(self) -> None:
        await self.clients.caller.send("begun")
        await trio.sleep_forever()

    async def on_connected(self) -> None:
        feature = self.context.features.get(ConnectionMigrationFeature)
        self.context.items["server"] = "" if feature is None else feature.migrate_from


def make() -> HubServer:
    server = HubServer()
    server.map(Work, "/work")
    return server
