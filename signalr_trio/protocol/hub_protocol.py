"""What an encoding of the hub protocol offers to the service, the server and the client."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from signalr_trio.protocol.framing import Splitter
from signalr_trio.protocol.messages import HubMessage

__all__ = ["HubProtocol", "Peek"]


class Peek(NamedTuple):
    """What is needed to route a message: its type and the ids in it, without its values.

    ``invocation_id`` is None for types without one, and for calls that want no answer.
    """

    type: int
    invocation_id: str | None = None
    stream_ids: tuple[str, ...] = ()


class HubProtocol(Protocol):
    """One encoding of the hub protocol. A frame is one message with its framing.

    Instances hold no state of a connection and may be shared by all of them.
    """

    @property
    def name(self) -> str:
        """The name in the handshake request, in lower case."""
        ...

    @property
    def version(self) -> int:
        """The newest version that is spoken (2: with stateful reconnect)."""
        ...

    @property
    def binary(self) -> bool:
        """Whether messages travel in binary WebSocket messages."""
        ...

    def splitter(self, max_size: int | None) -> Splitter:
        """A new splitter for one connection; ``max_size`` of a frame in bytes, None for no limit."""
        ...

    def parse(self, frame: bytes) -> HubMessage | None:
        """Read a frame; None for a message of a type that is not known, which is to be skipped.

        Values come as what the encoding has (dict, list, str, ...); binding them to the types of
        parameters is the caller's. Raises ProtocolError for anything that is no hub message.
        """
        ...

    def write(self, message: HubMessage) -> bytes:
        """The frame for a message.

        Raises TypeError or ValueError for a value that the encoding cannot hold (or whatever the
        hook ``default`` raised): that is a mistake of this side, and the connection is not harmed.
        """
        ...

    def peek(self, frame: bytes) -> Peek:
        """Type and ids as :meth:`parse` would read them, for less, mostly not reading the values.

        Raises ProtocolError where they cannot be read. Faults elsewhere go unseen.
        """
        ...

    def is_ping(self, frame: bytes) -> bool:
        """Whether the frame is a ping; never raises.

        Pings as anybody writes them are found, in any spelling of up to 64 bytes. One blown up
        further is not: it is then treated like any other message, which does no harm.
        """
        ...
