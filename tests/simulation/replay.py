"""Plays a recording of SDK servers to the model of one, on a clock that jumps.

What the service said, the signals and what the operator had the app do comes when it came; what
the model answers and what its hub sees is written down in the recording's own form.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgpack
import trio

from signalr_trio.errors import ConnectionClosed, ProtocolError
from signalr_trio.hub import HubContext
from signalr_trio.link.link import Link
from signalr_trio.protocol import service_protocol
from signalr_trio.protocol.framing import unframe
from signalr_trio.protocol.service_messages import ServiceMessage
from tests.simulation.determinism import run_deterministically
from tests.simulation.recorded_hub import RecordedHub, make_hook, perform
from tests.simulation.sdk_client import SdkClient
from tests.simulation.sdk_sends import Sender
from tests.simulation.sdk_server import SdkOptions, SdkServer

__all__ = ["Event", "Recording", "load", "replay"]

#: One line of a recording.
Event = dict[str, Any]

_TRANSCRIPTS = Path(__file__).parent / "transcripts"
_MODES = {
    "Off": "off",
    "MigrateClients": "migrate_clients",
    "WaitForClientsClose": "wait_for_clients_close",
}


@attrs.frozen
class Recording:
    name: str
    servers: Sequence[dict[str, Any]]
    events: Sequence[Event]
    trimmed: bool
    """Whether pings were left out of it."""


def load(name: str) -> Recording:
    data = json.loads((_TRANSCRIPTS / f"{name}.json").read_text())
    return Recording(name, data["servers"], data["events"], "trimmed_keepalives" in data)


def replay(recording: Recording, seed: int) -> list[Event]:
    """What the model did."""
    player = _Player(recording, random.Random(seed))
    run_deterministically(seed, player.run)
    return player.events


class _Player:
    def __init__(self, recording: Recording, chance: random.Random) -> None:
        self.events: list[Event] = []
        self._over = False
        self._recording = recording
        self._chance = chance
        self._links: dict[int, _RecordedLink] = {}
        self._upgrades = {e["c"]: e["t"] / 1000 for e in recording.events if e["d"] == "upgrade"}

    def note(self, **event: Any) -> None:
        if not self._over:
            self.events.append({"t": round(trio.current_time() * 1000, 1), **event})

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            servers = [self._make_server(one, nursery) for one in self._recording.servers]
            for server in servers:
                nursery.start_soon(self._run_server, server)
            batch: list[Event] = []
            for event in [*self._recording.events, {"t": self._ends * 1000, "d": ""}]:
                if batch and not _goes_with(event, batch[0]):
                    await trio.sleep_until(batch[0]["t"] / 1000)
                    self._feed(batch)
                    batch = []
                if event["d"] == ">":
                    batch.append(event)
                elif event["d"] == "note":
                    await trio.sleep_until(event["t"] / 1000)
                    self._command(event["text"], servers[0], nursery)
            await trio.sleep_until(self._ends)
            self._over = True
            nursery.cancel_scope.cancel()

    @property
    def _ends(self) -> float:
        return self._recording.events[-1]["t"] / 1000 + 3.0

    # -- the app ----------------------------------------------------------------------------

    def _make_server(self, about: dict[str, Any], nursery: trio.Nursery) -> SdkServer:
        given = about["options"]
        hooks = given.get("hooks", "").split(",") if "hooks" in given else []
        options = SdkOptions(
            about["id"],
            connections=int(given.get("conns", 5)),
            mode=_MODES[given.get("shutdown", "Off")],
            timeout=float(given.get("shutdown-timeout", 30)),
            parallel=int(given.get("parallel", 1)),
            handshake_timeout=float(given.get("handshake-timeout", 15)),
            keep_alive=float(given.get("hub-keepalive", 15)),
            lag=0.0001,
        )
        return SdkServer(
            options,
            partial(RecordedHub, self._note_hub, nursery),
            partial(self._connect, iter(about["connections"])),
            _Unwatched(),
            self._chance,
            [make_hook(what, n, self._note_hub) for n, what in enumerate(hooks, 1)],
        )

    def _note_hub(self, client: str, what: str, details: object) -> None:
        event: Event = {"d": "app", "e": what}
        if client:
            event["id"] = client
        if details is not None:
            event["data"] = details
        self.note(**event)

    async def _run_server(self, server: SdkServer) -> None:
        await server.run()
        self.note(d="app", e="process.end")

    def _command(self, text: str, server: SdkServer, nursery: trio.Nursery) -> None:
        word, _, rest = text.partition(" ")
        if word == "ctl":
            nursery.start_soon(perform, HubContext(Sender(server)), rest)
        else:
            server.request_shutdown()

    # -- the service ------------------------------------------------------------------------

    @asynccontextmanager
    async def _connect(self, numbers: Any, cid: str) -> AsyncGenerator[Link]:
        """The recorded connections one after the other, each when it was there."""
        number = next(numbers, None)
        if number is None:
            self.note(d="app", e="one more connection")
            await trio.sleep_forever()
        await trio.sleep_until(self._upgrades[number])
        link = self._links[number] = _RecordedLink(self, number)
        try:
            yield link
        finally:
            link.close()

    def _feed(self, batch: Sequence[Event]) -> None:
        """What came in one WebSocket message, or the end of the connection."""
        link = self._links[batch[0]["c"]]
        if "ws" in batch[0]:
            link.end()
        else:
            messages = [_read(event["m"]) for event in batch]
            link.feed([message for message in messages if message is not None])


class _RecordedLink:
    agreement = None
    buffered = 0

    def __init__(self, player: _Player, number: int) -> None:
        self._player = player
        self._number = number
        self._ended = False
        self._put, self._get = trio.open_memory_channel[Sequence[ServiceMessage]](math.inf)

    def feed(self, messages: Sequence[ServiceMessage]) -> None:
        if messages and not self._ended:
            self._put.send_nowait(messages)

    def end(self) -> None:
        self._ended = True
        self._put.close()

    def close(self) -> None:
        """By the server; who answers a close does not close."""
        if not self._ended:
            self._player.note(c=self._number, d="<", ws="close")
            self.end()

    def send(self, message: ServiceMessage) -> None:
        if not self._ended:
            self._player.note(c=self._number, d="<", m=_write(message))

    async def receive(self) -> Sequence[ServiceMessage]:
        try:
            return await self._get.receive()
        except trio.EndOfChannel:
            raise ConnectionClosed("the connection has ended") from None

    async def drained(self, limit: int = 0) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self, code: int = 1000, reason: str = "", *, timeout: float = 5.0) -> None:
        self.close()
        await trio.lowlevel.checkpoint_if_cancelled()


class _Unwatched:
    def up(self) -> None: ...

    def opened(self, client: SdkClient, before: SdkClient | None) -> None: ...

    def pinged(self, client: SdkClient) -> None: ...


def _goes_with(event: Event, first: Event) -> bool:
    return (
        event["d"] == ">"
        and "w" in event
        and (event["c"], event["w"])
        == (
            first["c"],
            first.get("w"),
        )
    )


def _read(values: list[Any]) -> ServiceMessage | None:
    """None for a bad frame, which the SDK skips."""
    try:
        return service_protocol.parse(msgpack.packb(_packable(values)))
    except ProtocolError:
        return None


def _packable(value: Any) -> Any:
    """The notation of the recordings, undone: binary as ``{"bin": ..}``, keys as strings."""
    if isinstance(value, list):
        return [_packable(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "bin" in value:
        return value["bin"].encode()
    if "bin_start" in value:
        start, end = value["bin_start"], '"]}\x1e'
        return (start + start[-1] * (value["len"] - len(start) - len(end)) + end).encode()
    return {int(key) if key.isdigit() else key: _packable(one) for key, one in value.items()}


def _write(message: ServiceMessage) -> Any:
    body = unframe(service_protocol.write(message))
    return _plain(msgpack.unpackb(body, strict_map_key=False))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return {"bin": value.decode(errors="replace")} if isinstance(value, bytes) else value
