"""A network without sockets: each port is a listener in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from trio.testing import memory_stream_pair

__all__ = ["MemoryNetwork"]


class _Listener(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self) -> None:
        self.come, self._coming = trio.open_memory_channel[trio.abc.Stream](100)

    async def accept(self) -> trio.abc.Stream:
        return await self._coming.receive()

    async def aclose(self) -> None:
        await self._coming.aclose()


class MemoryNetwork:
    """A ``signalr_trio.transport.network.Network``; what is sent arrives at once."""

    def __init__(self) -> None:
        self._listeners: dict[int, _Listener] = {}

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        if port not in self._listeners:
            raise OSError(f"nobody listens on {host}:{port}")
        near, far = memory_stream_pair()
        await self._listeners[port].come.send(far)
        return near

    async def listen(
        self, host: str | None, port: int
    ) -> tuple[Sequence[trio.abc.Listener[Any]], int]:
        listener = self._listeners[port] = _Listener()
        await trio.lowlevel.checkpoint()
        return [listener], port
