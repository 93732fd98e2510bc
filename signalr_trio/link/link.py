"""What a link is, whichever way its messages travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from signalr_trio.protocol.service_messages import ServiceMessage

__all__ = ["Agreement", "Link"]


class Link(Protocol):
    """One end of a server connection: a first-in first-out line each way.

    ``send`` never waits and nothing jumps the line, so what one end decides in one step the other
    end sees in that order. After the link has ended ``send`` does nothing: whoever reads learns of
    the end, and that is the one place where it is dealt with.
    """

    @property
    def agreement(self) -> Agreement | None:
        """What the two ends agreed on beyond the public protocol; None if nothing."""
        ...

    @property
    def buffered(self) -> int:
        """Bytes that wait to be sent."""
        ...

    def send(self, message: ServiceMessage) -> None: ...

    async def receive(self) -> Sequence[ServiceMessage]:
        """The messages that have come, one at least.

        Raises ConnectionClosed when the other end has closed or was lost, ProtocolError when what
        came cannot be read.
        """
        ...

    async def drained(self, limit: int = 0) -> None:
        """Waits until ``buffered`` is at most ``limit``, or the link has ended."""
        ...

    async def aclose(self, code: int = 1000, reason: str = "", *, timeout: float = 5.0) -> None:
        """Sends what is buffered and ends the link, in ``timeout`` at the most, also when
        cancelled."""
        ...


@attrs.frozen
class Agreement:
    """Two ends that are both ours: the server *releases* its clients in a hand-over.

    ``instance`` is a random id of the server process, which tells it from another that is later
    started under the same server id. ``embedded`` says that service and server are one process,
    so that there is nobody to hand over to; ``fallback`` that the server is no hub server but what
    serves clients in serverless mode, and is given only those that no hub server can have.
    """

    instance: str
    embedded: bool = False
    fallback: bool = False
