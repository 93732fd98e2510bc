"""A connection as HTTP sees it: negotiated first, then on one transport until it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from signalr_trio.tokens import Claims
from signalr_trio.transport.client_transport import ClientTransport
from signalr_trio.transport.posted import Posted

if TYPE_CHECKING:
    from signalr_trio.service.session import ClientSession

__all__ = ["HttpConnection"]


@attrs.define(eq=False)
class HttpConnection:
    """What the ``id`` of later requests stands for."""

    hub: str
    id: str
    token: str
    claims: Claims
    expires: float
    """When it ends if nobody has connected; infinite from then on."""
    stateful: bool = False
    """Whether the client asked for stateful reconnect, and may have it."""
    transport: ClientTransport | None = None
    session: ClientSession | None = None
    _posted: Posted | None = None

    @property
    def posted(self) -> Posted:
        """Made when it is first asked for: a WebSocket has none."""
        if self._posted is None:
            self._posted = Posted()
        return self._posted

    def connected(self, transport: ClientTransport, session: ClientSession) -> None:
        self.transport = transport
        self.session = session
        self.expires = float("inf")
        if transport.name == "WebSockets":
            self._end_posts("the client has a WebSocket")

    def expire(self) -> None:
        self._end_posts("nobody connected")

    def _end_posts(self, reason: str) -> None:
        if self._posted is not None:
            self._posted.end(reason)
