"""Signals and sudden deaths, on real processes: what a mock clock cannot show."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from harness.process import Running, signalr_trio

from signalr_trio import ConnectionClosed, HubConnection, HubError

KEY = "processtestkey0123456789012345678901234567"


def connection_string(port: str) -> str:
    return f"Endpoint=http://localhost;Port={port};AccessKey={KEY};Version=1.0;"


@asynccontextmanager
async def service(port: str = "0") -> AsyncIterator[tuple[Running, str]]:
    string = connection_string("8888")
    async with signalr_trio("service", "--connection-string", string, "--port", port) as running:
        found = await running.read_until(r"listens on http://127\.0\.0\.1:(\d+)")
        yield running, found[1]


@asynccontextmanager
async def hub_server(port: str, name: str, *options: str) -> AsyncIterator[tuple[Running, str]]:
    string = connection_string(port)
    async with signalr_trio(
        "run", "tests.processes.app:make", "--connection-string", string, "--port", "0",
        "--server-id", name, *options,
    ) as running:  # fmt: skip
        found = await running.read_until(r"serves (http://\S+/work)")
        yield running, found[1]


async def test_sigterm_moves_a_client_with_a_running_call() -> None:
    lost: list[object] = []
    async with service() as (_, port), hub_server(port, "a") as (a, url), HubConnection(url) as c:
        c.on_reconnecting(lost.append)
        async with hub_server(port, "b"), trio.open_nursery() as nursery:
            results: list[str] = []

            async def call() -> None:
                results.append(await c.invoke("slow", 0.7))

            nursery.start_soon(call)
            await c.invoke("where")  # behind the slow one, so that runs now
            a.process.send_signal(signal.SIGTERM)
            assert await a.ends() == 0
            assert "clients migrated 1, left 0, aborted 0, dropped 0" in a.output
            assert results == ["slept 0.7"]
            assert await c.invoke("where") == "a"
            assert lost == []


async def test_a_second_sigterm_skips_to_the_last_stage() -> None:
    async with service() as (_, port):
        mode = ("--shutdown-mode", "wait_for_clients_close")
        async with hub_server(port, "a", *mode) as (a, url):
            async with HubConnection(url, reconnect=None) as c, trio.open_nursery() as nursery:
                errors: list[str] = []
                begun = trio.Event()
                c.on("begun", begun.set)

                async def call() -> None:
                    with pytest.raises(HubError) as caught:
                        await c.invoke("forever")
                    errors.append(str(caught.value))

                nursery.start_soon(call)
                await begun.wait()
                a.process.send_signal(signal.SIGTERM)
                # A pair of signals counts as one: the second has to come a second later.
                await trio.sleep(1.1)
                assert a.process.poll() is None
                a.process.send_signal(signal.SIGTERM)
                assert await a.ends() == 0
            assert len(errors) == 1
            assert "did not end in time" in errors[0]
            assert "dropped 1" in a.output


async def test_a_killed_server_leaves_its_clients_free_to_reconnect() -> None:
    async with (
        service() as (_, port),
        hub_server(port, "a") as (a, url),
        HubConnection(url, reconnect=[60]) as c,
    ):
        reconnecting = trio.Event()
        c.on_reconnecting(lambda _: reconnecting.set())
        c.on("begun", a.process.kill)
        with pytest.raises(ConnectionClosed):
            await c.invoke("forever")
        await reconnecting.wait()


async def test_a_server_ends_in_order_when_its_service_is_gone() -> None:
    async with service() as (s, port), hub_server(port, "a") as (a, url):
        async with HubConnection(url, reconnect=None) as c:
            await c.invoke("where")
            s.process.kill()
            with pytest.raises(ConnectionClosed):
                await c.wait_closed()
        a.process.send_signal(signal.SIGTERM)
        assert await a.ends() == 0
        assert "clients migrated 0" in a.output


async def test_a_server_finds_its_service_again() -> None:
    async with service() as (first, port), hub_server(port, "a") as (_, url):
        first.process.kill()
        await first.process.wait()
        async with service(port):
            # Negotiate answers 503 until a server connection is up again.
            connection = None
            while connection is None:
                try:
                    async with HubConnection(url) as connection:
                        assert await connection.invoke("slow", 0) == "slept 0"
                except Exception:
                    connection = None
                    await trio.sleep(0.1)


async def test_a_service_that_stops_tells_its_clients() -> None:
    async with service() as (s, port), hub_server(port, "a") as (_, url):
        async with HubConnection(url, reconnect=None) as c:
            await c.invoke("where")
            s.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed, match="The service is stopping"):
                await c.wait_closed()
        assert await s.ends() == 0
