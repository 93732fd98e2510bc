"""The service's mode, and its figures, each with its default and unit."""

from __future__ import annotations

import enum

import attrs

__all__ = ["ServiceMode", "ServiceOptions"]

_MIB = 1 << 20


class ServiceMode(enum.Enum):
    """Who serves clients, as in Azure SignalR Service."""

    DEFAULT = "default"
    """Hub servers."""
    SERVERLESS = "serverless"
    """Upstreams, that is webhooks; hub servers are refused."""
    CLASSIC = "classic"
    """A hub server if there is one when the client comes, else the upstreams."""


@attrs.frozen(kw_only=True)
class ServiceOptions:
    """Limits and times; times in seconds, sizes in bytes.

    The defaults are those of ASP.NET Core SignalR and of the official server SDK where they have
    one, so that official clients and servers find what they expect.
    """

    transports: tuple[str, ...] = ("WebSockets", "ServerSentEvents", "LongPolling")
    """What clients are offered, in the order in which they try."""
    poll_timeout: float = 90.0
    """A poll is answered with nothing after so long."""

    stateful_reconnect: bool = True
    """Whether clients that ask for it may go on with another WebSocket when theirs is lost; hub
    servers have a say, too."""
    reconnect_window: float = 15.0
    """So long they may be without one."""

    keep_alive: float = 15.0
    """A hub ping goes to a client that was sent nothing for so long."""
    client_timeout: float = 30.0
    """A client that has pinged once and is then silent for so long is closed."""
    handshake_timeout: float = 15.0
    """For the hub handshake of a client, and for the service handshake of a hub server."""
    server_ping: float = 5.0
    """A ping on each server connection this often; .NET servers ping only when they hear one."""
    server_timeout: float = 30.0
    """A server connection that is silent for so long is lost."""
    connect_wait: float = 5.0
    """A new client waits so long for a first hub server before it is refused; its negotiate too, if
    it asks for stateful reconnect, in which hub servers have a say."""

    max_message_size: int = _MIB
    """The largest hub message of a client, framing included."""
    hold_limit: int = _MIB
    """Bytes of memory that what is held for one client may take, plus what was in the read that
    crosses it: a WebSocket message, of at most four times ``max_message_size``. A held message
    counts for its bytes and 256 more, so that thousands of small ones count for what they take."""
    hold_total: int = 256 * _MIB
    """What is held for all clients."""
    link_high_water: int = 8 * _MIB
    """Above this in the line of a server connection, the clients that feed it are not read."""
    client_buffer: int = 16 * _MIB
    """A client that leaves so much unread is closed."""

    slots: int = 64
    """Hand-overs that are begun side by side."""
    slot_grace: float = 0.05
    """A hand-over that waits longer for the old server gives its slot to the next."""
    hurry_full: float = 2.0
    """A hold that has been full for so long makes the service hurry the old server."""
    hurry_age: float = 10.0
    """So does a message that has been held for so long."""
    target_wait: float = 30.0
    """A client that was released waits so long for a server that takes it."""

    polite_grace: float = 1.0
    """Between FINACK and the first migrating close, for the hooks of a server that we cannot see."""
    polite_budget: float = 20.0
    """From FIN on, for the calls that run on a server that does not release its clients."""
    polite_settle: float = 0.02
    """Between its migrating close and the open elsewhere, for the old ``OnDisconnected``."""
    late_comer: float = 5.0
    """A server that comes under the id of one that goes takes none of its clients for so long."""

    upstream_timeout: float = 100.0
    """For the answer of an upstream, in serverless and classic mode."""
    upstream_connections: int = 100
    """To all upstreams together; more webhooks wait for their turn."""

    stop_timeout: float = 5.0
    """When the service stops: how long hand-overs under way may take."""

    @property
    def max_read(self) -> int:
        """What is taken at once of a client. It may hold many hub messages, whose size the session
        judges; what this bounds is memory."""
        return 4 * self.max_message_size
