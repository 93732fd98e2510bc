"""Server-sent events: the client reads one endless response, and posts what it sends.

TransportProtocols.md, "ServerSentEvents (Server -> Client Only)"; the form of the events is that of
ASP.NET Core SignalR.
"""

from __future__ import annotations

from collections.abc import Awaitable

from signalr_trio.transport.client_transport import ClientTransport
from signalr_trio.transport.http import ResponseBody
from signalr_trio.transport.posted import Posted

__all__ = ["HEADERS", "EventStreamTransport"]

#: Of the response. No proxy shall keep it, compress it or wait for its end.
HEADERS = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache,no-store"),
    ("Content-Encoding", "identity"),
    ("Pragma", "no-cache"),
)


class EventStreamTransport(ClientTransport):
    """A client that reads events."""

    name = "ServerSentEvents"
    text_only = True

    __slots__ = ("_body", "_posted", "binary")

    def __init__(self, body: ResponseBody, posted: Posted) -> None:
        self.binary = False
        self._body = body
        self._posted = posted
        # A comment: the client then knows that the way is open.
        body.write(b":\r\n")

    @property
    def buffered(self) -> int:
        return self._body.buffered

    @property
    def lost(self) -> bool:
        return self._posted.ended

    def send(self, payload: bytes) -> None:
        if b"\n" in payload or b"\r" in payload:
            # A server may write JSON so: each line is one of the event's.
            payload = b"\r\ndata: ".join(payload.splitlines())
        self._body.write(b"data: %b\r\n\r\n" % payload)

    def receive(self) -> Awaitable[bytes]:
        return self._posted.receive()

    def tick(self, now: float) -> None:
        # Who sends more than a head behind its request is not read, so the end is not noticed there.
        if self._body.broken:
            self._posted.end("the client has left")

    async def aclose(self) -> None:
        self._posted.end("the connection was closed")
        self._body.end()

    def abort(self) -> None:
        self._body.abort()
