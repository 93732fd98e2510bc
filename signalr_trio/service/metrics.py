"""The service's metrics for Prometheus, on a port of their own. Needs the extra ``metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from signalr_trio.service.service import Service, ServiceHub
from signalr_trio.service.tally import PAUSE_BOUNDS
from signalr_trio.transport.http import Request, Response

__all__ = ["Metrics"]

_HUB = ["hub"]
_SERVER = ["hub", "server", "state"]


class Metrics:
    """Answers GET ``/metrics``, in the format that is asked for; counts nothing in between."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ServiceCollector(service))
        ProcessCollector(registry=self._registry)

    async def handle(self, request: Request) -> Response:
        if request.path.rstrip("/") != "/metrics":
            return Response(404)
        if request.method not in ("GET", "HEAD"):
            return Response(405, headers=[("Allow", "GET, HEAD")])
        encode, content_type = choose_encoder(request.header("accept") or "")
        return Response(200, encode(self._registry), [("Content-Type", content_type)])


class _ServiceCollector(Collector):
    """Reads the service when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Generator[Metric]:
        hubs = self._service.hubs
        yield from _of_clients(hubs)
        yield from _of_servers(hubs)
        yield from _of_hand_overs(hubs)
        yield GaugeMetricFamily(
            "signalr_held_bytes",
            "Memory for what clients have sent and no server may have yet.",
            self._service.held_size,
        )


def _of_clients(hubs: Iterable[ServiceHub]) -> Generator[Metric]:
    clients = GaugeMetricFamily("signalr_clients", "Clients that are connected.", labels=_HUB)
    opened = CounterMetricFamily("signalr_clients_opened", "Clients that came in.", labels=_HUB)
    for hub in hubs:
        clients.add_metric([hub.name], len(hub.sessions))
        opened.add_metric([hub.name], hub.tally.opened)
    yield clients
    yield opened


def _of_servers(hubs: Iterable[ServiceHub]) -> Generator[Metric]:
    connections = GaugeMetricFamily(
        "signalr_server_connections", "Server connections that are up.", labels=_SERVER
    )
    clients = GaugeMetricFamily(
        "signalr_server_clients", "Clients that are with a hub server.", labels=_SERVER
    )
    up: Counter[tuple[str, str, str]] = Counter()
    served: Counter[tuple[str, str, str]] = Counter()
    for hub in hubs:
        for connection in hub.connections:
            server = connection.server
            key = (hub.name, server.id, "offline" if server.draining else "online")
            up[key] += 1
            served[key] += len(connection.sessions)
    for key, count in up.items():
        connections.add_metric(key, count)
        clients.add_metric(key, served[key])
    yield connections
    yield clients


def _of_hand_overs(hubs: Iterable[ServiceHub]) -> Generator[Metric]:
    pauses = HistogramMetricFamily(
        "signalr_hand_over_pause_seconds",
        "How long what a client began was held while it was handed over to another server.",
        labels=_HUB,
    )
    dropped = CounterMetricFamily(
        "signalr_clients_dropped",
        "Clients that were closed because no server could, or would, take them over.",
        labels=_HUB,
    )
    bounds = [*map(str, PAUSE_BOUNDS), "+Inf"]
    for hub in hubs:
        counts = accumulate(hub.tally.pauses)
        buckets = list(zip(bounds, counts, strict=True))
        pauses.add_metric([hub.name], buckets, hub.tally.paused)
        dropped.add_metric([hub.name], hub.tally.dropped)
    yield pauses
    yield dropped
