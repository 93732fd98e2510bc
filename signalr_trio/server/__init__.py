"""The hub server: serves hubs to clients that reach it through the service.

``hub_server`` owns it all; ``service_connection`` is a connection to the service,
``client_connection`` a client and ``calls`` its calls; ``shutdown`` has the four stages.
"""

from signalr_trio.server.hub_server import HubServer
from signalr_trio.server.identity import Identity
from signalr_trio.server.negotiate import NegotiateApp, NegotiateRequest
from signalr_trio.server.options import GracefulShutdown, HubOptions, ShutdownMode
from signalr_trio.server.shutdown import ShutdownReport, StageReport

__all__ = [
    "GracefulShutdown",
    "HubOptions",
    "HubServer",
    "Identity",
    "NegotiateApp",
    "NegotiateRequest",
    "ShutdownMode",
    "ShutdownReport",
    "StageReport",
]
