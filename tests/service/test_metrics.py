"""The service's metrics: what they say, and where they are."""

from __future__ import annotations

import sys

import pytest
import trio
from harness.clients import JSON
from harness.cluster import open_cluster, settle
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from trio.testing import MockClock

from signalr_trio.errors import ConfigurationError
from signalr_trio.protocol.messages import Invocation
from signalr_trio.service.front_door import open_service
from signalr_trio.service.metrics import Metrics
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.service import Service
from signalr_trio.transport.http import Request
from signalr_trio.transport.http_client import http_request

HELD = JSON.write(Invocation("held", []))

Values = dict[str, float]


async def metrics_of(service: Service) -> Values:
    """By name and the values of the labels, ``name[one,two]``."""
    request = Request("GET", "/metrics", "/metrics", "", [], b"", None, "1.1")
    return values((await Metrics(service).handle(request)).body)


def values(text: bytes) -> Values:
    return {
        f"{sample.name}[{','.join(sample.labels.values())}]": sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }


async def test_clients_and_servers(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        await cluster.scripted("a", connections=2)
        await cluster.scripted("x", hub="other")
        clients = [await cluster.client(id) for id in ("c", "d", "e")]
        clients[0].leave()
        await settle()
        found = await metrics_of(cluster.service)

    assert found["signalr_clients[chat]"] == 2
    assert found["signalr_clients[other]"] == 0
    assert found["signalr_clients_opened_total[chat]"] == 3
    assert found["signalr_server_connections[chat,a,online]"] == 2
    assert found["signalr_server_clients[chat,a,online]"] == 2
    assert found["signalr_server_clients[other,x,online]"] == 0
    assert found["process_cpu_seconds_total[]"] > 0


async def test_a_hand_over(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("a")
        client = await cluster.client("c")
        await cluster.scripted("b")
        a.fin()
        await settle()
        client.transport.put(HELD)
        await trio.sleep(0.3)
        under_way = await metrics_of(cluster.service)
        a.connections[0].release("c")
        await settle()
        over = await metrics_of(cluster.service)

    assert under_way["signalr_server_clients[chat,a,offline]"] == 1
    assert under_way["signalr_held_bytes[]"] == 256 + len(HELD)
    assert under_way["signalr_hand_over_pause_seconds_count[chat]"] == 0
    assert over["signalr_server_clients[chat,a,offline]"] == 0
    assert over["signalr_server_clients[chat,b,online]"] == 1
    assert over["signalr_held_bytes[]"] == 0
    assert over["signalr_hand_over_pause_seconds_bucket[chat,0.25]"] == 0
    assert over["signalr_hand_over_pause_seconds_bucket[chat,0.5]"] == 1
    assert over["signalr_hand_over_pause_seconds_bucket[chat,+Inf]"] == 1
    assert over["signalr_hand_over_pause_seconds_sum[chat]"] == pytest.approx(0.3)
    assert over["signalr_clients_dropped_total[chat]"] == 0


async def test_a_client_that_left_meanwhile_had_no_pause(autojump_clock: MockClock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("a")
        client = await cluster.client("c")
        b = await cluster.scripted("b")
        a.fin()
        await settle()
        client.leave()
        a.connections[0].release("c")
        await settle()
        assert "c" in b.opened  # carried through
        found = await metrics_of(cluster.service)

    assert found["signalr_hand_over_pause_seconds_count[chat]"] == 0
    assert found["signalr_clients_dropped_total[chat]"] == 0


@pytest.mark.parametrize("own", [True, False])
async def test_clients_that_nobody_takes_over_are_dropped(
    autojump_clock: MockClock, own: bool
) -> None:
    async with open_cluster(ServiceOptions(target_wait=1)) as cluster:
        a = await cluster.scripted("a", own=own)
        await cluster.client("c")
        await a.connections[0].lose()
        await trio.sleep(2)
        found = await metrics_of(cluster.service)

    assert found["signalr_clients[chat]"] == 0
    assert found["signalr_clients_dropped_total[chat]"] == 1
    assert "signalr_server_clients[chat,a,online]" not in found


async def test_they_have_a_port_of_their_own() -> None:
    async with open_service(port=0, metrics_port=0) as running:
        url = f"http://127.0.0.1:{running.metrics_port}"
        text = await http_request("GET", f"{url}/metrics")
        wanted = [("Accept", "application/openmetrics-text; version=1.0.0")]
        openmetrics = await http_request("GET", f"{url}/metrics", headers=wanted)
        elsewhere = await http_request("GET", f"{url}/api/health")
        posted = await http_request("POST", f"{url}/metrics")
        on_the_first_port = await http_request("GET", f"http://127.0.0.1:{running.port}/metrics")

    assert text.status == 200
    assert text.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert values(text.body)["signalr_held_bytes[]"] == 0
    assert "openmetrics-text" in (openmetrics.header("content-type") or "")
    families = parse_openmetrics(openmetrics.body.decode())
    assert "signalr_held_bytes" in [family.name for family in families]
    assert elsewhere.status == 404
    assert posted.status == 405
    assert on_the_first_port.status == 404


async def test_there_are_none_without_a_port() -> None:
    async with open_service(port=0) as running:
        assert running.metrics_port is None


async def test_a_port_that_is_taken_is_named() -> None:
    async with open_service(port=0) as running:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{running.port}"):
            async with open_service(port=0, metrics_port=running.port):
                pass


async def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "signalr_trio.service.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'signalr-trio\[metrics\]'"):
        async with open_service(port=0, metrics_port=0):
            pass
