"""The service's port over loopback TCP: who may come in, and what each path answers."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from harness.clients import HELLO

from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.errors import ConnectionClosed
from signalr_trio.link.websocket import AGREEMENT_HEADER, agreement_in
from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol import service_protocol
from signalr_trio.protocol.framing import LengthPrefixed, unframe
from signalr_trio.service.front_door import RunningService, open_service
from signalr_trio.tokens import NAME_IDENTIFIER, make_token
from signalr_trio.transport.http import Response
from signalr_trio.transport.http_client import http_request
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import UpgradeRefused, WebSocket, connect_websocket

ENDPOINT = parse_connection_string(DEVELOPMENT)
KEY = ENDPOINT.access_key
SECOND_KEY = "a secondary access key that is long enough"
PATIENCE = 20


def client_token(hub: str = "chat", key: str = KEY, lifetime: float = 3600) -> str:
    claims = [(NAME_IDENTIFIER, "ann")]
    return make_token(key, ENDPOINT.client_audience(hub), claims, lifetime=lifetime)


def server_token(hub: str = "chat", key: str = KEY) -> str:
    return make_token(key, ENDPOINT.server_audience(hub))


def bearer(token: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {token}")]


@attrs.frozen
class Door:
    running: RunningService
    flusher: Flusher

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.running.port}{path}"

    async def ask(self, method: str, path: str, token: str | None = None) -> Response:
        return await http_request(method, self.url(path), headers=bearer(token) if token else [])

    def websocket(self, path: str, token: str | None = None, **headers: str):
        own = [(name.replace("_", "-"), value) for name, value in headers.items()]
        sent = (bearer(token) if token else []) + own
        return connect_websocket(self.url(path), flusher=self.flusher, headers=sent)

    async def refusal(self, path: str, token: str | None = None, **headers: str) -> int:
        """The status with which an upgrade is refused."""
        with pytest.raises(UpgradeRefused) as refused:
            async with self.websocket(path, token, **headers):
                pass
        return refused.value.status


@asynccontextmanager
async def open_door(**options: object) -> AsyncIterator[Door]:
    flusher = Flusher()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flusher.run)
            async with open_service(port=0, secondary_key=SECOND_KEY, **options) as running:  # type: ignore[arg-type]
                yield Door(running, flusher)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as door:
        yield door


# -- paths and methods ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/health", 200),
        ("HEAD", "/api/v1/health", 200),
        ("GET", "/api/health", 200),
        ("POST", "/api/v1/health", 405),
        ("GET", "/", 404),
        ("POST", "/negotiate?hub=chat", 404),
        ("GET", "/api/v1/hubs/", 404),
        ("GET", "/api/v1/hubs/chat", 405),
        ("POST", "/client/negotiate", 400),
        ("POST", "/client/negotiate?hub=", 400),
        ("GET", "/server/", 400),
        ("POST", "/client/negotiate?hub=chat", 200),
        ("POST", "/CLIENT/Negotiate/?HUB=Chat", 200),
        ("GET", "/client/negotiate?hub=chat", 405),
        ("PUT", "/client/?hub=chat", 405),
        ("GET", "/client/?hub=chat", 400),
        ("GET", "/client/?hub=chat&id=x", 404),
    ],
)
async def test_status_codes(door: Door, method: str, path: str, status: int) -> None:
    assert (await door.ask(method, path, client_token())).status == status


async def test_a_wrong_method_is_told_the_right_ones(door: Door) -> None:
    response = await door.ask("POST", "/api/health")
    assert response.header("allow") == "GET, HEAD"


async def test_health_needs_no_token(door: Door) -> None:
    assert (await door.ask("GET", "/api/v1/health")).status == 200


async def test_a_server_path_without_an_upgrade_or_without_a_server_id(door: Door) -> None:
    path = "/server/?hub=chat"
    assert (await door.ask("GET", path, server_token())).status == 400
    assert await door.refusal(path, server_token()) == 400


# -- negotiate --------------------------------------------------------------------------------


async def test_negotiate_gives_a_new_id_and_token_each_time(door: Door) -> None:
    path = "/client/negotiate?hub=chat&negotiateVersion=1"
    answers = [json.loads((await door.ask("POST", path, client_token())).body) for _ in range(2)]
    for answer in answers:
        assert set(answer) == {
            "negotiateVersion",
            "connectionId",
            "connectionToken",
            "availableTransports",
        }
        assert answer["negotiateVersion"] == 1
        names = [one["transport"] for one in answer["availableTransports"]]
        assert "WebSockets" in names
    ids = [answer[name] for answer in answers for name in ("connectionId", "connectionToken")]
    assert len(set(ids)) == 4


async def test_negotiate_of_version_0_has_no_token(door: Door) -> None:
    answer = json.loads((await door.ask("POST", "/client/negotiate?hub=chat", client_token())).body)
    assert "connectionToken" not in answer
    assert answer["negotiateVersion"] == 0


@pytest.mark.parametrize("version", ["-1", "x", "1_0", ""])
async def test_negotiate_of_an_impossible_version_is_an_error_in_the_answer(
    door: Door, version: str
) -> None:
    path = f"/client/negotiate?hub=chat&negotiateVersion={version}"
    answer = json.loads((await door.ask("POST", path, client_token())).body)
    assert list(answer) == ["error"]


async def test_an_id_is_good_once(door: Door) -> None:
    answer = await door.ask("POST", "/client/negotiate?hub=chat&negotiateVersion=1", client_token())
    token = json.loads(answer.body)["connectionToken"]
    path = f"/client/?hub=chat&id={token}"
    async with door.websocket(path, client_token()):
        assert await door.refusal(path, client_token()) == 409
    assert await door.refusal("/client/?hub=chat&id=nobodys", client_token()) == 404


# -- tokens -----------------------------------------------------------------------------------

BAD_TOKENS = {
    "no token": (None, "no token"),
    "no JWT": ("x.y.z", "not a valid token"),
    "another key": (client_token(key="x" * 40), "fits no access key"),
    "expired": (client_token(lifetime=-4000), "expired"),
    "another hub": (client_token("news"), "audience"),
    "of a server": (server_token(), "audience"),
}


@pytest.mark.parametrize(("token", "reason"), BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_refused_token_is_401_and_why_is_in_the_log_only(
    door: Door, caplog: pytest.LogCaptureFixture, token: str | None, reason: str
) -> None:
    caplog.set_level(logging.WARNING, "signalr_trio")
    response = await door.ask("POST", "/client/negotiate?hub=chat", token)
    assert (response.status, response.body) == (401, b"")
    assert reason in caplog.text
    assert token is None or token not in caplog.text
    assert await door.refusal("/client/?hub=chat", token) == 401


async def test_a_client_token_opens_no_server_connection(door: Door) -> None:
    assert await door.refusal("/server/?hub=chat", client_token(), X_ASRS_Server_Id="A") == 401


@pytest.mark.parametrize("key", [KEY, SECOND_KEY])
async def test_both_keys_are_good(door: Door, key: str) -> None:
    path = "/client/negotiate?hub=chat"
    assert (await door.ask("POST", path, client_token(key=key))).status == 200


async def test_a_browser_puts_the_token_into_the_query(door: Door) -> None:
    async with door.websocket(f"/client/?hub=chat&access_token={client_token()}"):
        pass


# -- a server and a client, byte for byte -----------------------------------------------------


class WireServer:
    """A hub server on a WebSocket, as bytes."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._splitter = LengthPrefixed(None)
        self._coming: list[m.ServiceMessage] = []

    def send(self, message: m.ServiceMessage) -> None:
        self._websocket.send(service_protocol.write(message))

    async def next(self) -> m.ServiceMessage:
        """The next message but for keep-alives."""
        while True:
            while not self._coming:
                for frame in self._splitter.feed(await self._websocket.receive()):
                    message = service_protocol.parse(unframe(frame))
                    assert message is not None
                    self._coming.append(message)
            message = self._coming.pop(0)
            if message != m.Ping():
                return message


@asynccontextmanager
async def wire_server(door: Door, **headers: str) -> AsyncIterator[WireServer]:
    path = "/server/?hub=chat&cid=my-cid"
    async with door.websocket(path, server_token(), X_ASRS_Server_Id="A", **headers) as websocket:
        server = WireServer(websocket)
        server.send(m.HandshakeRequest())
        response = await server.next()
        assert response == m.HandshakeResponse(None, connection_id="my-cid")
        yield server


async def test_what_the_server_is_told_of_a_client(door: Door) -> None:
    async with wire_server(door) as server:
        path = "/client/?HUB=Chat&a=1&Access_Token=x&b=%20y"
        async with door.websocket(path, client_token(), X_Forwarded_For="10.1.2.3") as client:
            client.send(HELLO, text=True)
            opened = await server.next()
            assert isinstance(opened, m.OpenConnection)
            assert (NAME_IDENTIFIER, "ann") in opened.claims
            assert opened.query_string == "?a=1&b=+y"
            assert opened.headers == {"X-Forwarded-For": ["10.1.2.3"]}
            assert opened.protocol == "json"
            data = await server.next()
            assert data == m.ConnectionData(opened.connection_id, HELLO)
            server.send(m.ConnectionData(opened.connection_id, b"{}\x1e", 1))
            assert await client.receive() == b"{}\x1e"
        assert await server.next() == m.CloseConnection(opened.connection_id)


async def test_a_server_asks_by_the_token_that_the_client_connected_with(door: Door) -> None:
    answer = await door.ask("POST", "/client/negotiate?hub=chat&negotiateVersion=1", client_token())
    token = json.loads(answer.body)["connectionToken"]
    path = f"/client/?hub=chat&id={token}"
    async with wire_server(door) as server, door.websocket(path, client_token()) as client:
        client.send(HELLO, text=True)
        opened = await server.next()
        assert isinstance(opened, m.OpenConnection)
        assert isinstance(await server.next(), m.ConnectionData)
        server.send(m.GetConnectionClaims(token, 1))
        payload = service_protocol.write_claims(opened.claims)
        assert await server.next() == m.Ack(1, m.AckStatus.OK, payload=payload)
        server.send(m.GetConnectionClaims(opened.connection_id, 2))
        not_found = await server.next()
        assert isinstance(not_found, m.Ack)
        assert not_found.status == m.AckStatus.NOT_FOUND


async def test_the_agreement_is_made_in_the_headers_of_the_upgrade(door: Door) -> None:
    path = "/server/?hub=chat"
    offers = {f"{AGREEMENT_HEADER}": "1;instance"}
    async with door.websocket(path, server_token(), X_ASRS_Server_Id="A", **offers) as own:
        assert agreement_in(own.response_headers) is not None
    async with door.websocket(path, server_token(), X_ASRS_Server_Id="A") as sdk:
        assert agreement_in(sdk.response_headers) is None
    offers = {f"{AGREEMENT_HEADER}": "2;instance"}
    async with door.websocket(path, server_token(), X_ASRS_Server_Id="A", **offers) as newer:
        assert agreement_in(newer.response_headers) is None


@pytest.mark.parametrize(
    "garbage",
    [b"\x05abcde", b"\xff\xff\xff\xff\xff", b"\x00", b"\x01\x90", b"\x02\x91\xc0", "text"],
    ids=["no msgpack", "prefix", "empty", "empty array", "nil type", "text message"],
)
async def test_bad_bytes_end_that_server_connection_and_no_other(
    door: Door, garbage: bytes | str
) -> None:
    path = "/server/?hub=chat"
    async with wire_server(door) as good:
        async with door.websocket(path, server_token(), X_ASRS_Server_Id="B") as bad:
            server = WireServer(bad)
            server.send(m.HandshakeRequest())
            assert isinstance(await server.next(), m.HandshakeResponse)
            if isinstance(garbage, str):
                bad.send(garbage.encode(), text=True)
            else:
                bad.send(garbage)
            with pytest.raises(ConnectionClosed):
                await server.next()
        good.send(m.Ping.of("echo", "still here"))
        assert await good.next() == m.Ping.of("echo", "still here")


async def test_messages_of_unknown_types_are_passed_over(door: Door) -> None:
    async with wire_server(door) as server:
        server._websocket.send(b"\x03\x92\x63\x01")
        server.send(m.Ping.of("echo", "x"))
        assert await server.next() == m.Ping.of("echo", "x")


# -- the end ----------------------------------------------------------------------------------


async def test_a_service_that_stops_takes_nobody_in(door: Door) -> None:
    door.running.service.stopping = True
    assert (await door.ask("POST", "/client/negotiate?hub=chat", client_token())).status == 503
    assert await door.refusal("/client/?hub=chat", client_token()) == 503
    assert await door.refusal("/server/?hub=chat", server_token(), X_ASRS_Server_Id="A") == 503


async def test_a_service_that_stops_ends_server_connections_with_1001() -> None:
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        doors: list[Door] = []
        opened = trio.Event()

        async def run() -> None:
            async with open_door() as door:
                doors.append(door)
                opened.set()
                await stop.wait()

        nursery.start_soon(run)
        await opened.wait()
        async with wire_server(doors[0]) as server:
            stop.set()
            with pytest.raises(ConnectionClosed, match="1001"):
                await server.next()


async def test_the_connection_string_of_a_running_service_leads_to_it(door: Door) -> None:
    found = parse_connection_string(door.running.connection_string)
    assert (found.port, found.access_key) == (door.running.port, KEY)
    assert KEY not in repr(door.running)


# -- pages of other origins -------------------------------------------------------------------


async def test_pages_of_all_origins_are_let_in(door: Door) -> None:
    path, page = "/client/negotiate?hub=chat", ("Origin", "https://app.example")
    preflight = [page, ("Access-Control-Request-Method", "POST")]
    asked = await http_request("OPTIONS", door.url(path), headers=preflight)
    assert (asked.status, asked.header("access-control-allow-methods")) == (204, "POST")
    answers = [
        await http_request("POST", door.url(path), headers=[page, *bearer(token)])
        for token in (client_token(), "no token")
    ]
    assert [answer.status for answer in answers] == [200, 401]
    for answer in answers:
        assert answer.header("access-control-allow-origin") == "https://app.example"
