"""How connections are made and accepted: TCP, or whatever a caller has in its place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

import trio

__all__ = ["TCP", "Network", "listening", "listening_if_wanted"]


class Network(Protocol):
    """Makes byte streams. Another one than ``TCP`` serves a proxy, Unix sockets, or a simulation."""

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """Raises OSError where nobody answers."""
        ...

    async def listen(
        self, host: str | None, port: int
    ) -> tuple[Sequence[trio.abc.Listener[Any]], int]:
        """Listeners, and the port, which is of use when 0 was asked for.

        Raises OSError if it cannot be had.
        """
        ...


class _Tcp:
    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        return await trio.open_tcp_stream(host, port)

    async def listen(
        self, host: str | None, port: int
    ) -> tuple[Sequence[trio.abc.Listener[Any]], int]:
        listeners = await trio.open_tcp_listeners(port, host=host)
        return listeners, listeners[0].socket.getsockname()[1]


TCP: Final[Network] = _Tcp()


@asynccontextmanager
async def listening(
    network: Network, host: str | None, port: int
) -> AsyncGenerator[tuple[Sequence[trio.abc.Listener[Any]], int]]:
    """``network.listen`` for a block that may end before anybody serves the listeners.

    Raises OSError, with the address in its text.
    """
    try:
        listeners, bound = await network.listen(host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {reason}") from error
    async with AsyncExitStack() as stack:
        for listener in listeners:
            stack.push_async_exit(listener)
        yield listeners, bound


@asynccontextmanager
async def listening_if_wanted(
    network: Network, host: str | None, port: int | None
) -> AsyncGenerator[tuple[Sequence[trio.abc.Listener[Any]], int | None]]:
    """As ``listening``; for port None there is no listener."""
    if port is None:
        yield (), None
        return
    async with listening(network, host, port) as found:
        yield found
