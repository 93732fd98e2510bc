"""What the simulation found in the hub server: the scenario of each, by itself."""

from __future__ import annotations

import trio
from harness.scripted_service import ScriptedService, serving
from trio.testing import wait_all_tasks_blocked

from signalr_trio import ConnectionMigrationFeature, GracefulShutdown, Hub
from signalr_trio.protocol.service_messages import MIGRATE_FROM


async def test_a_close_that_moves_comes_too_late_when_on_disconnected_has_begun(
    autojump_clock,
) -> None:
    """The hub was told that the client leaves, so nobody may be told that it moved (P4)."""
    told: list[ConnectionMigrationFeature | None] = []
    leaving = trio.Event()

    class Slow(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            told.append(self.context.features.get(ConnectionMigrationFeature))
            leaving.set()
            await trio.sleep(1)

    wait = GracefulShutdown("wait_for_clients_close", timeout=2)
    async with serving(Slow, shutdown=wait) as served:
        client = await served.service.connected()
        served.server.request_shutdown()
        # Stage 3 times out, and stage 4 ends the client.
        await leaving.wait()
        client.move()
        await client.ended()
        assert told == [None]
        assert client.releases == []
        assert client.hub_close.allow_reconnect


async def test_a_hub_that_aborts_a_client_in_on_connected_does_not_answer_for_it(
    autojump_clock,
) -> None:
    """The service would take the answer for B's yes, after B's no."""

    class Unwelcoming(Hub):
        async def on_connected(self) -> None:
            self.context.abort()

    async with serving(Unwelcoming) as served:
        client = served.service.open(headers={MIGRATE_FROM: ["A"]})
        await client.ended()
        await wait_all_tasks_blocked()
        assert client.responses == []


async def test_a_client_that_comes_back_before_its_connection_was_known_to_be_lost(
    autojump_clock,
) -> None:
    """The service notices the loss first, moves the client, and back; the old object ends."""
    seen: list[str] = []

    class Watched(Hub):
        async def on_connected(self) -> None:
            seen.append("connected")

        async def on_disconnected(self, error: Exception | None) -> None:
            seen.append("disconnected")

    async with serving(Watched, service=ScriptedService()) as served:
        await served.service.connected("c1")
        again = served.service.open("c1", headers={MIGRATE_FROM: ["B"]})
        await wait_all_tasks_blocked()
        assert sorted(seen) == ["connected", "connected", "disconnected"]
        again.leave()
        await wait_all_tasks_blocked()
        assert seen.count("disconnected") == 2
