"""A network in memory: latency, torn reads, bounded buffers, half-open connections, sudden ends.

A connection is two ``Pipe``s. Over it go either bytes, for the product's own HTTP and WebSockets
(``SimulatedNetwork`` is a ``signalr_trio.transport.network.Network``), or whole payloads, where a
seed leaves HTTP and WebSockets out for speed (``Socket`` has the methods of a WebSocket).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.transport.client_transport import SharedPayload

__all__ = ["Connection", "Network", "SimulatedNetwork", "Socket", "Transport"]

_CAPACITY = 64 * 1024
_LATENCIES = (0.0, 0.0005, 0.002, 0.02, 0.15)


class Pipe:
    """One direction of a connection: bytes arrive in order, each piece after its latency."""

    def __init__(self, chance: random.Random, latency: float) -> None:
        self.size = 0
        """Bytes on the way, or not read yet."""
        self.half_open = False
        """What is put in gets lost, and nobody is told."""
        self.is_mute = False
        """Nor is anyone told of its end."""
        self.is_deaf = False
        """Nor is who writes told that nobody reads."""
        self._chance = chance
        self._latency = latency
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._last_arrival = 0.0
        self._news = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._ended = False
        self._end_arrives = 0.0
        self.broken = False

    def put(self, data: bytes) -> None:
        if self._ended or self.broken or self.half_open or not data:
            return
        arrival = trio.current_time() + self._latency * (1 + self._chance.random())
        self._last_arrival = max(arrival, self._last_arrival)
        self._pieces.append((self._last_arrival, data))
        self.size += len(data)
        self._news.unpark_all()

    def end(self, delay: float = 0.0) -> None:
        """No more is put in; what is on the way still arrives, and then the end."""
        if not self._ended and not self.is_mute:
            self._ended = True
            self._end_arrives = trio.current_time() + delay
        self._room.unpark_all()
        self._news.unpark_all()

    @property
    def is_over(self) -> bool:
        return self.broken or self._ended or self.is_mute

    def tear(self, delay: float) -> None:
        """An end at any byte of what is on the way; the rest is lost."""
        data = b"".join(piece for _, piece in self._pieces)
        left = data[: self._chance.randint(0, len(data))]
        self._pieces = deque([(self._last_arrival, left)] if left else [])
        self.size = len(left)
        self.end(delay)

    def reset(self) -> None:
        """The connection is dead, and what is on the way is lost."""
        self.broken = not self.is_deaf
        self._pieces.clear()
        self.size = 0
        self._room.unpark_all()
        self._news.unpark_all()

    async def get(self, limit: int | None = None) -> bytes:
        """What has arrived, or a part of it; empty at the end. Raises BrokenResourceError."""
        await trio.lowlevel.checkpoint()
        while True:
            if self.broken:
                raise trio.BrokenResourceError("the connection was reset")
            if self._pieces and self._pieces[0][0] <= trio.current_time():
                return self._take(limit)
            if self._pieces:
                with trio.move_on_at(self._pieces[0][0]):
                    await self._news.park()
            elif self._ended:
                if self._end_arrives <= trio.current_time():
                    return b""
                with trio.move_on_at(self._end_arrives):
                    await self._news.park()
            else:
                await self._news.park()

    def _take(self, limit: int | None) -> bytes:
        now = trio.current_time()
        taken = bytearray()
        while self._pieces and self._pieces[0][0] <= now:
            taken += self._pieces.popleft()[1]
        whole = len(taken) if limit is None else min(len(taken), limit)
        if whole > 1 and self._chance.random() < 0.1:
            whole = self._chance.randrange(1, whole)
        if whole < len(taken):
            self._pieces.appendleft((now, bytes(taken[whole:])))
        self.size -= whole
        self._room.unpark_all()
        return bytes(taken[:whole])

    async def room(self, limit: int) -> None:
        """Waits until at most ``limit`` bytes are on the way, or nobody reads any more."""
        while self.size > limit and not self.broken:
            await self._room.park()


class Connection:
    """Two pipes between two hosts, and the faults that can befall them."""

    def __init__(
        self, chance: random.Random, client: str, server: str, latency: float | None
    ) -> None:
        self.hosts = (client, server)
        self._chance = chance
        if latency is None:
            latency = chance.choice(_LATENCIES)
        self.there = Pipe(chance, latency)
        self.back = Pipe(chance, latency)

    def reset(self) -> None:
        self.there.reset()
        self.back.reset()

    def die(self) -> None:
        """Both ends see an end, at different times; what is on the way arrives."""
        self.there.end(self._chance.choice((0.0, 0.3)))
        self.back.end(self._chance.choice((0.0, 0.3)))

    def tear(self) -> None:
        """Lost at any byte of what is on the way. There may be nobody who tells the server."""
        self.back.tear(self._chance.choice((0.0, 0.3)))
        if self._chance.random() < 0.3:
            self.there.half_open = self.there.is_mute = self.back.is_deaf = True
        else:
            self.there.tear(self._chance.choice((0.0, 0.3, 2.0)))

    @property
    def is_open(self) -> bool:
        return not (self.there.is_over or self.back.is_over)

    def fall_silent(self) -> None:
        self.there.half_open = self.back.half_open = True


class Socket:
    """One end of a connection, with what links and client sessions use of a WebSocket."""

    text_received = False

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self._closed = False

    @property
    def buffered(self) -> int:
        return max(0, self._out.size - _CAPACITY)

    def send(self, payload: bytes, *, text: bool = False) -> None:
        if not self._closed:
            self._out.put(payload)

    def send_joined(self, part: bytes) -> None:
        self.send(part)

    async def receive(self, *, joined: bool = False) -> bytes:
        """All that has come, ``joined`` or not: there are no messages on a pipe."""
        try:
            data = await self._in.get()
        except trio.BrokenResourceError as error:
            raise ConnectionClosed(str(error)) from error
        if not data:
            self._out.end()
            raise ConnectionClosed("the connection has ended")
        return data

    async def drained(self, limit: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        await self._out.room(limit + _CAPACITY)

    async def aclose(self, code: int = 1000, reason: str = "", *, timeout: float = 5.0) -> None:
        if self._closed:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._closed = True
        with trio.move_on_after(timeout, shield=True):
            await self._out.room(_CAPACITY)
        self._out.end()
        self._in.reset()
        await trio.lowlevel.checkpoint_if_cancelled()

    def abort(self) -> None:
        self._closed = True
        self._out.reset()
        self._in.reset()


class Transport(Socket):
    """The service's end of a client connection."""

    name = "simulation"
    binary = text_only = inherent_keep_alive = lost = False

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        super().__init__(incoming, outgoing)
        self.on_read: Callable[[], None] = lambda: None

    def agreed(self, protocol: HubProtocol, version: int, behind: bytes) -> bytes:
        self.binary = protocol.binary
        return behind

    def tick(self, now: float) -> None:
        pass

    def hurry(self) -> None:
        pass

    async def receive(self, *, joined: bool = False) -> bytes:
        self.on_read()
        return await super().receive()

    def send_shared(self, shared: SharedPayload) -> int:
        self.send(shared.payload)
        return self.buffered


class Stream(trio.abc.HalfCloseableStream):
    """One end of a connection, as bytes."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._check(self._out)
        self._out.put(bytes(data))
        await self._out.room(_CAPACITY)
        self._check(self._out)

    async def wait_send_all_might_not_block(self) -> None:
        await self._out.room(_CAPACITY)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._out.end()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._check(self._in)
        return await self._in.get(max_bytes)

    async def aclose(self) -> None:
        self._closed = True
        self._out.end()
        # What the other side sends from now on is answered with a reset.
        self._in.reset()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _check(self, pipe: Pipe) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if pipe.broken:
            raise trio.BrokenResourceError("the connection was reset")


class Listener(trio.abc.Listener[Stream]):
    def __init__(self, network: SimulatedNetwork, port: int) -> None:
        self._network = network
        self._port = port
        self._waiting: deque[Stream] = deque()
        self._news = trio.lowlevel.ParkingLot()

    def come(self, stream: Stream) -> None:
        self._waiting.append(stream)
        self._news.unpark()

    async def accept(self) -> Stream:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            await self._news.park()
        return self._waiting.popleft()

    async def aclose(self) -> None:
        self._network.listeners.pop(self._port, None)
        await trio.lowlevel.checkpoint_if_cancelled()


class SimulatedNetwork:
    """All connections of a run. ``host`` is the network as one host sees it."""

    def __init__(self, chance: random.Random, latency: float | None) -> None:
        self.chance = chance
        self._latency = latency
        self.connections: dict[Connection, None] = {}
        self.listeners: dict[int, tuple[str, Listener]] = {}
        self.dead: set[str] = set()
        """Hosts that were killed: their connections are gone, and they can make none."""
        self.away: dict[str, float] = {}
        """Hosts that can make no connection until then."""

    def host(self, name: str) -> Network:
        return Network(self, name)

    def connect(self, client: str, server: str) -> Connection:
        """Raises OSError where a host is dead."""
        if client in self.dead or server in self.dead:
            raise OSError(f"no route from {client} to {server}")
        if self.away.get(client, 0.0) > trio.current_time():
            raise OSError(f"{client} is away")
        connection = Connection(self.chance, client, server, self._latency)
        self.connections[connection] = None
        return connection

    def of(self, host: str, other: str | None = None) -> list[Connection]:
        return [
            one
            for one in self.connections
            if host in one.hosts and (other is None or other in one.hosts)
        ]

    def kill(self, host: str, *, lossy: bool) -> None:
        """A host is gone at once; ``lossy``: with what was on the way."""
        self.dead.add(host)
        for one in self.of(host):
            if lossy:
                one.reset()
            else:
                one.die()


class Network:
    """What ``signalr_trio`` is given to make and accept connections."""

    def __init__(self, network: SimulatedNetwork, host: str) -> None:
        self._network = network
        self._host = host

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        await trio.sleep(self._network.chance.choice(_LATENCIES))
        found = self._network.listeners.get(port)
        if found is None:
            raise OSError(f"nobody listens on {port}")
        name, listener = found
        connection = self._network.connect(self._host, name)
        listener.come(Stream(connection.there, connection.back))
        return Stream(connection.back, connection.there)

    async def listen(
        self, host: str | None, port: int
    ) -> tuple[Sequence[trio.abc.Listener[Any]], int]:
        await trio.lowlevel.checkpoint()
        port = port or 40000 + len(self._network.listeners)
        if port in self._network.listeners:
            raise OSError(f"port {port} is taken")
        listener = Listener(self._network, port)
        self._network.listeners[port] = (self._host, listener)
        return [listener], port
