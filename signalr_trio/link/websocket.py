"""A link over a WebSocket: length-prefixed MessagePack in binary messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from signalr_trio.errors import ConnectionClosed, ProtocolError
from signalr_trio.link.link import Agreement
from signalr_trio.protocol import service_protocol
from signalr_trio.protocol.framing import LengthPrefixed, unframe
from signalr_trio.protocol.service_messages import ServiceMessage
from signalr_trio.transport.websocket import WebSocket

__all__ = ["AGREEMENT_HEADER", "WebSocketLink", "agreement_header", "agreement_in"]

#: Both ends name themselves in this header of the WebSocket upgrade, and so agree on releasing.
AGREEMENT_HEADER = "X-SignalR-Trio"
_VERSION = "1"


def agreement_header(instance: str) -> tuple[str, str]:
    """The header with which an end says that it is ours: version and instance id."""
    return (AGREEMENT_HEADER, f"{_VERSION};{instance}")


def agreement_in(headers: Iterable[tuple[str, str]]) -> Agreement | None:
    """What the other end's headers agree to; None for ends that are not ours, or too new."""
    for name, value in headers:
        if name.lower() == AGREEMENT_HEADER.lower():
            version, _, instance = value.partition(";")
            if version == _VERSION and instance:
                return Agreement(instance)
    return None


class WebSocketLink:
    """A link on a WebSocket that is open. Whoever opened the WebSocket ends it."""

    def __init__(self, websocket: WebSocket, agreement: Agreement | None) -> None:
        self.agreement = agreement
        self._websocket = websocket
        self._splitter = LengthPrefixed(None)
        self._fault: ProtocolError | None = None

    @property
    def buffered(self) -> int:
        return self._websocket.buffered

    def send(self, message: ServiceMessage) -> None:
        self._websocket.send_joined(service_protocol.write(message))

    async def receive(self) -> Sequence[ServiceMessage]:
        messages: list[ServiceMessage] = []
        while not messages:
            if self._fault is not None:
                raise self._fault
            payload = await self._websocket.receive(joined=True)
            try:
                if self._websocket.text_received:
                    raise ProtocolError("a text message on a server connection; they are binary")
                for frame in self._splitter.feed(payload):
                    message = service_protocol.parse(unframe(frame))
                    if message is not None:
                        messages.append(message)
            except ProtocolError as fault:
                # What came whole before the fault is still good.
                self._fault = fault
        return messages

    async def drained(self, limit: int = 0) -> None:
        # Who reads the link learns of its end; here it is just as good as having drained.
        with suppress(ConnectionClosed):
            await self._websocket.drained(limit)

    async def aclose(self, code: int = 1000, reason: str = "", *, timeout: float = 5.0) -> None:
        await self._websocket.aclose(code, reason, timeout=timeout)
