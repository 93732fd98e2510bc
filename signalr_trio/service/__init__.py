"""The service: it stands between SignalR clients and hub servers, and moves clients between them.

``front_door`` takes connections in; ``session`` is a client, ``server_connection`` a hub server's
connection; ``routing`` says what becomes of each message; ``draining`` and ``hand_over`` move
clients away from a server that goes. ``serverless`` stands in for hub servers where the mode has none.
"""

from signalr_trio.service.front_door import RunningService, open_service
from signalr_trio.service.options import ServiceMode, ServiceOptions

__all__ = ["RunningService", "ServiceMode", "ServiceOptions", "open_service"]
