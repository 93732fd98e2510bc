"""Other implementations of SignalR, run as processes beside the tests.

``SIGNALR_DOTNET_PEER`` is the path of signalr-peer, the official ASP.NET Core SignalR server with
hubs for tests (and, in Azure mode, the official Azure SignalR SDK). Without it, tests that are
marked with ``needs_dotnet_peer`` are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import pytest
import trio

DOTNET_PEER = os.environ.get("SIGNALR_DOTNET_PEER")
PeerT = TypeVar("PeerT", bound="Peer")
#: Seconds for the peer to start, and for an event that is waited for.
PATIENCE = 60

needs_dotnet_peer = pytest.mark.skipif(
    not DOTNET_PEER, reason="SIGNALR_DOTNET_PEER is not set: there is no official server here"
)


class Peer:
    """A server in a process of its own, which writes what happens: one JSON object a line."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._arrived = trio.Event()
        #: The event lines so far.
        self.events: list[dict[str, Any]] = []
        #: The event ``started``. A hub server behind a service may tell of its first client before.
        self.started: dict[str, Any] = {}

    @property
    def port(self) -> int:
        """The port of the first of its URLs."""
        return self.started["port"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def event(self, ev: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Wait for the ``count``-th event of that kind, from the start on, with these fields."""
        with trio.fail_after(PATIENCE):
            while True:
                wanted = [event for event in self.events if {**event, **fields, "ev": ev} == event]
                if len(wanted) >= count:
                    return wanted[count - 1]
                await self._arrived.wait()

    def terminate(self) -> None:
        """SIGTERM: a graceful shutdown."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait until the process has ended; its exit status."""
        with trio.fail_after(PATIENCE):
            return await self._process.wait()

    async def read_events(self) -> None:
        assert self._process.stdout is not None
        buffer = b""
        async for data in self._process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            self.events += [json.loads(line) for line in lines if line.strip()]
            self._arrived.set()
            self._arrived = trio.Event()


class DotnetPeer(Peer):
    """A running signalr-peer."""


@asynccontextmanager
async def dotnet_peer(*args: str) -> AsyncIterator[DotnetPeer]:
    """Run signalr-peer; it is killed when the block is left."""
    assert DOTNET_PEER, "a test that runs the peer is to be marked with needs_dotnet_peer"
    environment = {**os.environ, "DOTNET_EnableDiagnostics": "0"}
    async with run_peer(DotnetPeer, [DOTNET_PEER, *args], env=environment) as peer:
        yield peer


@asynccontextmanager
async def run_peer(
    kind: type[PeerT], command: Sequence[str], **options: Any
) -> AsyncIterator[PeerT]:
    """Run a server until it is ``started``; it is killed when the block is left."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdout=subprocess.PIPE,
                check=False,
                deliver_cancel=_kill,
                **options,
            )
        )
        peer = kind(process)
        nursery.start_soon(peer.read_events)
        try:
            peer.started = await peer.event("started")
            yield peer
        finally:
            # run_process then kills it, and waits for its end.
            nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    process.kill()
