"""Hub messages that a server sends to a client in parts (extension 6 of message 6, *is partial*).

Official SDKs from 1.26 on send each hub message whole; the protocol allows parts. A client is
sent whole messages only, since what others send it may come between two parts.
"""

from __future__ import annotations

from signalr_trio.protocol.service_messages import ConnectionData

__all__ = ["Parts"]


class Parts:
    """What has come of messages that are not whole yet, for each client of one connection."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[str, bytearray] = {}

    def join(self, message: ConnectionData) -> ConnectionData | None:
        """The whole message that ends with this one; None while there is more to come."""
        if message.is_partial:
            self._parts.setdefault(message.connection_id, bytearray()).extend(message.payload)
            return None
        if not self._parts or (begun := self._parts.pop(message.connection_id, None)) is None:
            return message
        payload = bytes(begun + message.payload)
        return ConnectionData(
            message.connection_id, payload, message.data_type, tracing_id=message.tracing_id
        )

    def size_of(self, connection_id: str) -> int:
        """Bytes that wait for their end."""
        return len(self._parts.get(connection_id, b""))

    def forget(self, connection_id: str) -> None:
        """The client is no longer with this connection."""
        self._parts.pop(connection_id, None)
