"""What a client session needs of the transport under it, and the WebSocket one."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.transport import frames
from signalr_trio.transport.websocket import WebSocket

__all__ = ["ClientTransport", "SharedPayload", "WebSocketTransport"]


class SharedPayload:
    """Hub messages for many clients of one hub protocol: encoded once, framed once."""

    __slots__ = ("_frame", "binary", "payload")

    def __init__(self, payload: bytes, *, binary: bool) -> None:
        self.payload = payload
        self.binary = binary
        self._frame: bytes | None = None

    @property
    def websocket_frame(self) -> bytes:
        if self._frame is None:
            opcode = frames.BINARY if self.binary else frames.TEXT
            self._frame = frames.encode_frame(opcode, self.payload, mask=False)
        return self._frame


class ClientTransport(Protocol):
    """Bytes to and from one client.

    ``send`` never waits: what the client does not read is buffered, and the session watches
    ``buffered``. Each ``send`` is one or more whole hub messages.
    """

    __slots__ = ()

    name: str
    """As in the answer to a negotiate."""
    binary: bool
    """Whether what is sent is binary: known once the handshake request has come."""
    text_only: bool = False
    """Whether binary hub protocols cannot be spoken over it."""
    inherent_keep_alive: bool = False
    """Whether it finds out by itself that the client is gone: then it is sent no pings."""

    @property
    def buffered(self) -> int: ...

    @property
    def lost(self) -> bool:
        """Whether the client is known to be gone, also while it is not read."""
        ...

    def send(self, payload: bytes) -> None: ...

    def send_shared(self, shared: SharedPayload) -> int:
        """As ``send``; returns ``buffered``."""
        self.send(shared.payload)
        return self.buffered

    def receive(self) -> Awaitable[bytes]:
        """What the client sent next; raises ConnectionClosed when it is gone."""
        ...

    def agreed(self, protocol: HubProtocol, version: int, behind: bytes) -> bytes:
        """The handshake request has come; what of ``behind`` it is for the session."""
        self.binary = protocol.binary
        return behind

    def tick(self, now: float) -> None:
        """Called once a second."""

    async def aclose(self) -> None:
        """Sends what is buffered and closes; bounded in time, also when cancelled."""
        ...

    def hurry(self) -> None:
        """``aclose`` shall wait for no more than that what is buffered has been taken."""

    def abort(self) -> None:
        """Gives up what is buffered; ``aclose`` then has nothing to wait for."""
        ...


class WebSocketTransport(ClientTransport):
    """A client on a WebSocket."""

    name = "WebSockets"

    __slots__ = ("_websocket", "binary")

    def __init__(self, websocket: WebSocket) -> None:
        self.binary = False
        self._websocket = websocket

    @property
    def buffered(self) -> int:
        return self._websocket.buffered

    @property
    def lost(self) -> bool:
        return self._websocket.broken

    def send(self, payload: bytes) -> None:
        self._websocket.send(payload, text=not self.binary)

    def send_shared(self, shared: SharedPayload) -> int:
        return self._websocket.write_frame(shared.websocket_frame)

    def receive(self) -> Awaitable[bytes]:
        return self._websocket.receive(joined=True)

    async def aclose(self) -> None:
        await self._websocket.aclose()

    def abort(self) -> None:
        self._websocket.abort()
