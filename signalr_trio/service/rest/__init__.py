"""The REST API of the service: a hub without a server connection."""

from signalr_trio.service.rest.api import RestApi

__all__ = ["RestApi"]
