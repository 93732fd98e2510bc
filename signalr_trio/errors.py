"""Every error that signalr_trio raises.

::

    SignalRError
    ├── ConfigurationError    an option or a connection string that cannot work (also a ValueError)
    ├── ProtocolError         the peer sent something that the protocol does not allow
    ├── NegotiateError        negotiate was refused, or what it answered cannot be used
    ├── HandshakeError        the hub handshake was refused or did not come in time
    ├── ConnectionClosed      the connection has ended, or ended while one waited on it
    │   └── ServerTimeoutError    ... because the other side was silent for too long
    ├── HubError              the text of this error goes to the other side (.NET: HubException)
    │   └── ClientResultError     ... because a client that a hub asked gave no result
    └── ShutdownError         shutdown() was awaited from where it would wait for itself

Each message says what happened, to which connection, and, where there is something, what to do.
"""

from __future__ import annotations

__all__ = [
    "ClientResultError",
    "ConfigurationError",
    "ConnectionClosed",
    "HandshakeError",
    "HubError",
    "NegotiateError",
    "ProtocolError",
    "ServerTimeoutError",
    "ShutdownError",
    "SignalRError",
]


class SignalRError(Exception):
    """The root of the tree."""


class ConfigurationError(SignalRError, ValueError):
    """An option, a connection string or a hub class that cannot work as given."""


class ProtocolError(SignalRError):
    """The peer sent bytes that its protocol does not allow; the connection they came on ends."""


class NegotiateError(SignalRError):
    """Negotiate was refused, or its answer cannot be used.

    A client that connects for the first time makes no second attempt; one that reconnects does.
    """


class HandshakeError(SignalRError):
    """The hub handshake was refused, or its answer did not come in time."""


class ConnectionClosed(SignalRError):
    """The connection has ended.

    ``allow_reconnect`` is what the Close message said; it is true as well where the connection
    was lost without a Close.
    """

    def __init__(self, message: str, *, allow_reconnect: bool = True) -> None:
        super().__init__(message)
        self.allow_reconnect = allow_reconnect


class ServerTimeoutError(ConnectionClosed):
    """Nothing came from the other side for longer than the server timeout."""


class HubError(SignalRError):
    """An error whose text is meant for the other side (HubException in .NET).

    Raised in a hub method, its text reaches the caller whether detailed errors are on or not.
    ``invoke`` raises it with the text that the server sent.
    """


class ClientResultError(HubError):
    """A client that a hub asked has given no result.

    It answered with an error, does not exist, has gone, or did not answer in time.
    """


class ShutdownError(SignalRError):
    """``shutdown()`` was awaited inside a hook or a hub method, where it would wait for itself."""
