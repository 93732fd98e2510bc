"""A service with a hub server on a network in memory, for clients to come to and go from."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from signalr_trio import GracefulShutdown, Hub, HubServer, open_service, serve
from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.service.front_door import RunningService

from .census import census, names_in
from .memory_network import MemoryNetwork

__all__ = ["ENDPOINT", "LONG", "MARK", "PORT", "House", "Line", "leaves_nothing", "open_house"]

ENDPOINT = parse_connection_string(DEVELOPMENT)
PORT = 8888
#: In the name of each user and group, and in nothing else.
MARK = "-in-the-round-"
#: Seconds after which the service has given up whoever it has not heard of, and all its servers too.
LONG = 150


# -- a network that can fail ----------------------------------------------------------------------


class Wire(trio.abc.HalfCloseableStream):
    """A client's end of a connection. Silenced, nothing of what it does reaches the other side."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner
        self.silenced = self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.silenced:
            await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._inner.receive_some(max_bytes)
        return b"" if self.silenced else data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed = True
        if not self.silenced:
            await self._inner.aclose()


class Line:
    """One client's network."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._wires: list[Wire] = []

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        wire = Wire(await self._network.connect(host, port))
        self._wires = [one for one in self._wires if not one.closed] + [wire]
        return wire

    async def listen(self, host: str | None, port: int) -> Any:
        raise OSError("a client does not listen")

    async def cut(self) -> None:
        """Both sides notice."""
        for wire in self._wires:
            await trio.aclose_forcefully(wire)
        self._wires.clear()

    def silence(self) -> None:
        """Neither side is told, and no connection is made any more."""
        for wire in self._wires:
            wire.silenced = True
        self._wires.clear()
        self._network = MemoryNetwork()


# -- the house ------------------------------------------------------------------------------------


@attrs.define
class House:
    hub: type[Hub]
    network: MemoryNetwork
    running: RunningService
    nursery: trio.Nursery
    servers: list[HubServer] = attrs.field(factory=list[HubServer])

    async def start_server(self) -> None:
        server = HubServer(DEVELOPMENT, shutdown=GracefulShutdown("migrate_clients", timeout=10))
        server.map(self.hub, "/work")
        run = partial(serve, server, port=None, signals=False, network=self.network)
        await self.nursery.start(run)
        self.servers.append(server)

    async def replace_server(self) -> None:
        await self.start_server()
        report = await self.servers.pop(0).shutdown()
        assert not report.dropped

    def names(self) -> set[str]:
        return names_in([self.running.service, *self.servers], MARK)


@asynccontextmanager
async def open_house(hub: type[Hub]) -> AsyncGenerator[House]:
    network = MemoryNetwork()
    async with open_service(network=network) as running, trio.open_nursery() as nursery:
        house = House(hub, network, running, nursery)
        await house.start_server()
        # pytest keeps each record, and with its traceback all that the frames in it know.
        logging.disable()
        try:
            yield house
        finally:
            logging.disable(logging.NOTSET)
        nursery.cancel_scope.cancel()


async def leaves_nothing(
    house: House, a_round: Callable[[str], Awaitable[None]], names: Collection[str] = ()
) -> None:
    """But ``names``. The first round may leave what is made once."""
    await a_round("first")
    await trio.sleep(LONG)
    before = census()
    await a_round("second")
    await trio.sleep(LONG)
    more = census() - before
    assert not more
    assert house.names() == set(names)
    assert house.running.service.held_size == 0
