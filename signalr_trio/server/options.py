"""The hub server's options, each with its default and unit."""

from __future__ import annotations

import enum
from typing import Any

import attrs

from signalr_trio.errors import ConfigurationError

__all__ = ["GracefulShutdown", "HubOptions", "ShutdownMode"]


class ShutdownMode(enum.Enum):
    """What a hub server does with its clients when it is asked to stop."""

    OFF = "off"
    """They are closed, and may reconnect."""
    WAIT_FOR_CLIENTS_CLOSE = "wait_for_clients_close"
    """They are served until they leave by themselves."""
    MIGRATE_CLIENTS = "migrate_clients"
    """They are handed over to another server, and notice nothing."""


def _mode(value: ShutdownMode | str) -> ShutdownMode:
    try:
        return ShutdownMode(value)
    except ValueError:
        known = ", ".join(mode.value for mode in ShutdownMode)
        raise ConfigurationError(f"shutdown mode {value!r} is not one of {known}") from None


def _positive(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ConfigurationError(f"{attribute.name} must be above 0, not {value!r}")


@attrs.frozen
class GracefulShutdown:
    """How a hub server stops. Times in seconds.

    ``mode`` may be its text, as in ``"migrate_clients"``. Raises ConfigurationError for what cannot
    work.
    """

    mode: ShutdownMode = attrs.field(default=ShutdownMode.MIGRATE_CLIENTS, converter=_mode)
    timeout: float = attrs.field(default=30.0, kw_only=True, validator=_positive)
    """For stages 1 to 3 together: offline, hooks, clients."""
    offline_timeout: float = attrs.field(default=10.0, kw_only=True, validator=_positive)
    """For stage 1 alone."""
    stop_timeout: float = attrs.field(default=5.0, kw_only=True, validator=_positive)
    """For stage 4, which comes on top."""


@attrs.frozen(kw_only=True)
class HubOptions:
    """How hubs are served. Times in seconds, sizes in bytes.

    Raises ConfigurationError for numbers that are not above 0.
    """

    server_connections: int = attrs.field(default=5, validator=_positive)
    """Server connections for each hub."""
    max_server_connections: int = attrs.field(default=10, validator=_positive)
    """Those that the service asks for (``target`` pings) included."""
    max_parallel_invocations: int = attrs.field(default=1, validator=_positive)
    """Plain invocations of one client that run side by side; streams do not count."""
    detailed_errors: bool = False
    """Whether clients are told the text of every exception, or of HubError only."""
    allow_stateful_reconnects: bool = True
    """Whether clients that ask for it may go on with another WebSocket when theirs is lost. The
    service sees to it, as far as it offers it."""
    handshake_timeout: float = attrs.field(default=15.0, validator=_positive)
    keep_alive: float = attrs.field(default=15.0, validator=_positive)
    """Hub pings to each client, where the service does not see to them itself."""
    server_timeout: float = attrs.field(default=30.0, validator=_positive)
    """A server connection on which nothing came for so long is lost."""
    ack_timeout: float = attrs.field(default=10.0, validator=_positive)
    """For the service's answer to a group change."""
    inbox_pause: int = attrs.field(default=1 << 20, validator=_positive)
    """When more waits for a client's calls, the service is asked to hold what it sends."""
    inbox_limit: int = attrs.field(default=16 << 20, validator=_positive)
    """When more waits for its calls, the client is closed."""
    link_high_water: int = attrs.field(default=1 << 20, validator=_positive)
    """Above this in the line to the service, sends wait."""
