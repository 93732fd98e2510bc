"""SignalR on trio: hubs, a client, and a service that lets hub servers be replaced unnoticed."""

from signalr_trio.client import ConnectionState, HubConnection, ItemStream, Subscription
from signalr_trio.errors import (
    ClientResultError,
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    HubError,
    NegotiateError,
    ProtocolError,
    ServerTimeoutError,
    ShutdownError,
    SignalRError,
)
from signalr_trio.hosting import serve
from signalr_trio.hub import ConnectionMigrationFeature, Hub, HubCallerContext, HubContext
from signalr_trio.server import (
    GracefulShutdown,
    HubOptions,
    HubServer,
    Identity,
    NegotiateApp,
    NegotiateRequest,
    ShutdownMode,
    ShutdownReport,
    StageReport,
)
from signalr_trio.service import RunningService, ServiceMode, ServiceOptions, open_service
from signalr_trio.upstream import Upstream

__all__ = [
    "ClientResultError",
    "ConfigurationError",
    "ConnectionClosed",
    "ConnectionMigrationFeature",
    "ConnectionState",
    "GracefulShutdown",
    "HandshakeError",
    "Hub",
    "HubCallerContext",
    "HubConnection",
    "HubContext",
    "HubError",
    "HubOptions",
    "HubServer",
    "Identity",
    "ItemStream",
    "NegotiateApp",
    "NegotiateError",
    "NegotiateRequest",
    "ProtocolError",
    "RunningService",
    "ServerTimeoutError",
    "ServiceMode",
    "ServiceOptions",
    "ShutdownError",
    "ShutdownMode",
    "ShutdownReport",
    "SignalRError",
    "StageReport",
    "Subscription",
    "Upstream",
    "open_service",
    "serve",
]
