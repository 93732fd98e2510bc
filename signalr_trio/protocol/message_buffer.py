"""Stateful reconnect, one side of it: what was sent and is not acknowledged, what has been received.

Each side counts the messages that matter (``COUNTED``) in each direction, from 1. It keeps those
it has sent until the other side acknowledges them, and sends them again, behind a Sequence, on the
next socket of the connection. The other side drops what it has had before. So nothing is lost and
nothing comes twice, whatever a lost socket has swallowed. Client and server do the same, so this
is for both. Source: HubProtocol.md of dotnet/aspnetcore, and recordings of ASP.NET Core SignalR 10.

On a new socket ``resend`` comes before anything else that is sent::

    number, frames = buffer.resend()
    socket.send(protocol.write(Sequence(number)) + b"".join(frames))
"""

from __future__ import annotations

from collections import deque
from typing import Final

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.messages import INVOCATIONS, PARTS_OF_CALLS

__all__ = ["ACK_INTERVAL", "BUFFER_LIMIT", "COUNTED", "STATEFUL_VERSION", "MessageBuffer"]

#: The version of the hub protocol in the handshake that asks for stateful reconnect.
STATEFUL_VERSION: Final = 2
#: Bytes that are kept without an acknowledgement before a sender has to wait.
BUFFER_LIMIT: Final = 100_000
#: Seconds between two acknowledgements, where there is something to acknowledge.
ACK_INTERVAL: Final = 1.0
#: The messages that have a number; handshake, pings, Close, Ack and Sequence have none.
COUNTED: Final = INVOCATIONS | PARTS_OF_CALLS


class MessageBuffer:
    """The counts of one connection, both ways, and the frames that may have to be sent again.

    ``limit``: bytes of unacknowledged frames from which on the buffer is ``full``.
    """

    __slots__ = (
        "_ack_due",
        "_last",
        "_limit",
        "_next",
        "_resent",
        "_sent",
        "_unacked",
        "unacked_bytes",
    )

    def __init__(self, limit: int = BUFFER_LIMIT) -> None:
        #: Bytes of the frames that were sent and not acknowledged.
        self.unacked_bytes = 0
        self._limit = limit
        self._unacked: deque[bytes] = deque()
        self._sent = 0  # number of the last message sent
        self._next = 1  # number of the message received next
        self._last = 0  # the highest number received
        self._ack_due = False
        self._resent = False

    @property
    def full(self) -> bool:
        """A sender has to wait for ``acked``. The message that crosses the limit is still sent.

        So is one behind a ``resend``: the acknowledgement of all before may have been lost, and
        ASP.NET Core gives it again for a new message only.
        """
        return self.unacked_bytes > self._limit and not self._resent

    def sent(self, frame: bytes) -> None:
        """A counted message, with its framing, is sent; or would be, if there were a socket now."""
        self._sent += 1
        self._unacked.append(frame)
        self.unacked_bytes += len(frame)
        self._resent = False

    def acked(self, number: int) -> None:
        """The other side has received all messages up to ``number``.

        One acknowledged before is fine, and so is one that was never sent, as in ASP.NET Core.
        """
        first = self._sent - len(self._unacked) + 1
        for _ in range(min(number - first + 1, len(self._unacked))):
            self.unacked_bytes -= len(self._unacked.popleft())

    def resend(self) -> tuple[int, list[bytes]]:
        """What a new socket begins with: the number for its Sequence, and the frames behind it.

        The number is that of the first frame, or of the next message where there is none.
        """
        self._resent = True
        return self._sent - len(self._unacked) + 1, list(self._unacked)

    def sequence(self, number: int) -> None:
        """The other side has said Sequence: the next counted message has this number.

        Raises ProtocolError where messages would be missing between the last one and that.
        """
        if number > self._last + 1:
            raise ProtocolError("Sequence ID greater than amount of messages we've received.")
        self._next = number

    def received(self) -> bool:
        """Count a message of COUNTED that came; whether it is new. One that is not is dropped."""
        number = self._next
        self._next += 1
        # For one that came before as well: its acknowledgement went the way of the old socket,
        # and the other side may wait for it.
        self._ack_due = True
        if number <= self._last:
            return False
        self._last = number
        return True

    def take_ack(self) -> int | None:
        """The number to acknowledge now; None where nothing has come since the last time."""
        if not self._ack_due:
            return None
        self._ack_due = False
        return self._last
