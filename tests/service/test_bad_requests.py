"""Requests that the front door cannot grant: each has its status, and nobody else notices."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import attrs
import pytest
from test_service_front_door import (
    ENDPOINT,
    KEY,
    Door,
    client_token,
    open_door,
    server_token,
    wire_server,
)

from signalr_trio.protocol import service_messages as m
from signalr_trio.tokens import make_token
from signalr_trio.transport.http import Response
from signalr_trio.transport.http_client import http_request

NEGOTIATE, CLIENT, SERVER = "/client/negotiate", "/client/", "/server/"
CHAT = client_token()
OF_SERVER = server_token()
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
BEARER = {"Authorization": f"Bearer {CHAT}"}
SERVER_BEARER = {"Authorization": f"Bearer {OF_SERVER}"}


@attrs.frozen
class Bad:
    """A request, and the status of its answer."""

    status: int
    method: str
    target: str
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = b""


def of_client(**changed: str) -> dict[str, str]:
    return BEARER | WEBSOCKET | {name.replace("_", "-"): value for name, value in changed.items()}


def of_server(**changed: str) -> dict[str, str]:
    own = {"X-ASRS-Server-Id": "A"} | {name.replace("_", "-"): v for name, v in changed.items()}
    return SERVER_BEARER | WEBSOCKET | own


REQUESTS = {
    "no such path": Bad(404, "GET", "/nowhere", BEARER),
    "a path with dots": Bad(404, "GET", "/client/../server/?hub=chat", of_server()),
    "a path with two slashes": Bad(404, "POST", "//client/negotiate?hub=chat", BEARER),
    "a path behind one that is": Bad(404, "POST", f"{NEGOTIATE}/more?hub=chat", BEARER),
    "health, posted to": Bad(405, "POST", "/api/health"),
    "health, deleted": Bad(405, "DELETE", "/api/v1/health"),
    # negotiate
    "negotiate, GET": Bad(405, "GET", f"{NEGOTIATE}?hub=chat", BEARER),
    "negotiate, HEAD": Bad(405, "HEAD", f"{NEGOTIATE}?hub=chat", BEARER),
    "negotiate without a query": Bad(400, "POST", NEGOTIATE, BEARER),
    "negotiate without a hub": Bad(400, "POST", f"{NEGOTIATE}?hub", BEARER),
    "negotiate, an empty hub before one": Bad(400, "POST", f"{NEGOTIATE}?hub=&hub=chat", BEARER),
    "negotiate, another hub first": Bad(401, "POST", f"{NEGOTIATE}?hub=x&hub=chat", BEARER),
    "negotiate, a hub of bad UTF-8": Bad(401, "POST", f"{NEGOTIATE}?hub=%ff%fe", BEARER),
    "negotiate, a hub with a zero": Bad(401, "POST", f"{NEGOTIATE}?hub=chat%00", BEARER),
    "negotiate, a hub with a fragment": Bad(401, "POST", f"{NEGOTIATE}?hub=chat%23a", BEARER),
    "negotiate, a hub with a line break": Bad(401, "POST", f"{NEGOTIATE}?hub=ch%0aat", BEARER),
    "negotiate, a hub with a tab": Bad(401, "POST", f"{NEGOTIATE}?hub=chat%09", BEARER),
    "negotiate, a hub with a query": Bad(401, "POST", f"{NEGOTIATE}?hub=chat%26a=1", BEARER),
    "negotiate, half an escape": Bad(401, "POST", f"{NEGOTIATE}?hub=chat%2", BEARER),
    "negotiate without a token": Bad(401, "POST", f"{NEGOTIATE}?hub=chat"),
    "negotiate, an empty token": Bad(
        401, "POST", f"{NEGOTIATE}?hub=chat", {"Authorization": "Bearer"}
    ),
    "negotiate, another scheme": Bad(
        401, "POST", f"{NEGOTIATE}?hub=chat", {"Authorization": f"Basic {CHAT}"}
    ),
    "negotiate, a bad token before a good one": Bad(
        401, "POST", f"{NEGOTIATE}?hub=chat&access_token=x&access_token={CHAT}"
    ),
    "negotiate, a bad header beside a good query": Bad(
        401, "POST", f"{NEGOTIATE}?hub=chat&access_token={CHAT}", {"Authorization": "Bearer x"}
    ),
    "negotiate, a token that is huge": Bad(
        431, "POST", f"{NEGOTIATE}?hub=chat", {"Authorization": "Bearer " + "x" * 40_000}
    ),
    "negotiate, a query that is huge": Bad(
        431, "POST", f"{NEGOTIATE}?hub=chat&a=" + "x" * 40_000, BEARER
    ),
    "negotiate, a body that is huge": Bad(
        413, "POST", f"{NEGOTIATE}?hub=chat", BEARER, b"x" * (4 * 1024 * 1024 + 1)
    ),
    # clients
    "a client, put": Bad(405, "PUT", f"{CLIENT}?hub=chat", BEARER),
    "a client that posts without an id": Bad(400, "POST", f"{CLIENT}?hub=chat", BEARER),
    "a client that posts with an id of nobody": Bad(404, "POST", f"{CLIENT}?hub=chat&id=x", BEARER),
    "a client that ends without an id": Bad(400, "DELETE", f"{CLIENT}?hub=chat", BEARER),
    "a client that polls without an id": Bad(400, "GET", f"{CLIENT}?hub=chat", BEARER),
    "a client without a hub": Bad(400, "GET", CLIENT, of_client()),
    "a client without a token": Bad(401, "GET", f"{CLIENT}?hub=chat", WEBSOCKET),
    "a client with a server's token": Bad(401, "GET", f"{CLIENT}?hub=chat", of_server()),
    "a client with an id of nobody": Bad(404, "GET", f"{CLIENT}?hub=chat&id=x", of_client()),
    "a client with two ids": Bad(404, "GET", f"{CLIENT}?hub=chat&id=x&id=y", of_client()),
    "a client of an old WebSocket": Bad(
        400, "GET", f"{CLIENT}?hub=chat", of_client(Sec_WebSocket_Version="8")
    ),
    "a client with a bad key": Bad(
        400, "GET", f"{CLIENT}?hub=chat", of_client(Sec_WebSocket_Key="AAAA")
    ),
    # servers
    "a server without a hub": Bad(400, "GET", f"{SERVER}?cid=x", of_server()),
    "a server without a token": Bad(401, "GET", f"{SERVER}?hub=chat", WEBSOCKET),
    "a server with a client's token": Bad(401, "GET", f"{SERVER}?hub=chat", of_client()),
    "a server of another hub": Bad(401, "GET", f"{SERVER}?hub=other", of_server()),
    "a server without an id": Bad(400, "GET", f"{SERVER}?hub=chat", of_server(X_ASRS_Server_Id="")),
    "a server that posts": Bad(400, "POST", f"{SERVER}?hub=chat", of_server()),
    "a server without an upgrade": Bad(400, "GET", f"{SERVER}?hub=chat", of_server(Upgrade="h2c")),
    "a server that negotiates": Bad(404, "POST", "/server/negotiate?hub=chat", SERVER_BEARER),
}


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as door:
        yield door


async def ask(door: Door, bad: Bad) -> Response:
    headers = [(name, value) for name, value in bad.headers.items() if name != "Connection"]
    if "Upgrade" in bad.headers:
        headers.append(("Connection", "Upgrade"))
    return await http_request(bad.method, door.url(bad.target), headers=headers, body=bad.body)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_bad_request_has_its_status(
    door: Door, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = REQUESTS[name]
    async with wire_server(door) as server:
        assert (await ask(door, bad)).status == bad.status
        server.send(m.Ping.of("echo", "still here"))
        assert await server.next() == m.Ping.of("echo", "still here")
    assert CHAT not in caplog.text
    assert OF_SERVER not in caplog.text
    if bad.status == 401:
        assert "refused" in caplog.text


async def test_a_log_line_is_one_line(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever comes without a token writes no lines of his own."""
    await door.ask("POST", "/api/v1/hubs/chat/users/a%0aWARNING%0db")
    refused = [one.getMessage() for one in caplog.records if "refused" in one.getMessage()]
    assert [line.splitlines() for line in refused] == [
        ["POST /api/v1/hubs/chat/users/a%0aWARNING%0db: refused, no token"]
    ]


@pytest.mark.parametrize("version", ["1&negotiateVersion=1", "1.0", "0x1", "9" * 5000, "%ff"])
async def test_a_bad_version_is_an_error_in_the_answer(door: Door, version: str) -> None:
    path = f"{NEGOTIATE}?hub=chat&negotiateVersion={version}"
    answer = json.loads((await door.ask("POST", path, CHAT)).body)
    assert list(answer) == ["error"]


async def test_an_id_is_good_for_the_hub_that_it_was_negotiated_for(door: Door) -> None:
    """With it go the claims of the token that was shown for that hub."""
    answer = await door.ask("POST", f"{NEGOTIATE}?hub=chat&negotiateVersion=1", CHAT)
    token = json.loads(answer.body)["connectionToken"]
    other = f"{CLIENT}?hub=other&id={token}"
    for method in ("GET", "POST", "DELETE"):
        assert (await door.ask(method, other, client_token("other"))).status == 404
    assert await door.refusal(other, client_token("other")) == 404
    async with door.websocket(f"{CLIENT}?hub=chat&id={token}", CHAT):
        pass


async def test_a_transport_that_the_token_does_not_allow(door: Door) -> None:
    polls = make_token(KEY, ENDPOINT.client_audience("chat"), [("asrs.s.htt", "4")])
    answer = await door.ask("POST", f"{NEGOTIATE}?hub=chat", polls)
    names = [one["transport"] for one in json.loads(answer.body)["availableTransports"]]
    assert names == ["LongPolling"]
    assert await door.refusal(f"{CLIENT}?hub=chat", polls) == 404
