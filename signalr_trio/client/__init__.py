"""The trio SignalR client."""

from signalr_trio.client.calls import ItemStream as ItemStream
from signalr_trio.client.connection import ConnectionState as ConnectionState
from signalr_trio.client.connection import HubConnection as HubConnection
from signalr_trio.client.handlers import Subscription as Subscription
from signalr_trio.client.negotiate import AccessToken as AccessToken

__all__ = ["AccessToken", "ConnectionState", "HubConnection", "ItemStream", "Subscription"]
