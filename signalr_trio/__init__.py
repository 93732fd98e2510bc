"""SignalR on trio: hubs, a client, and a service that lets hub servers be replaced unnoticed."""

from signalr_trio.client import ConnectionState, HubConnection
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
from signalr_trio.service import RunningService, ServiceOptions, open_service

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
    "NegotiateApp",
    "NegotiateError",
    "NegotiateRequest",
    "ProtocolError",
    "RunningService",
    "ServerTimeoutError",
    "ServiceOptions",
    "ShutdownError",
    "ShutdownMode",
    "ShutdownReport",
    "SignalRError",
    "StageReport",
    "open_service",
    "serve",
]
