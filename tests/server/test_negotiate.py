"""An app's negotiate, as any ASGI server calls it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import trio
from harness.scripted_service import ScriptedService, Served, serving
from trio.testing import MockClock

from signalr_trio import (
    ConfigurationError,
    Hub,
    HubContext,
    HubServer,
    Identity,
    NegotiateApp,
    NegotiateRequest,
)
from signalr_trio.server.negotiate import Identify
from signalr_trio.tokens import NAME_IDENTIFIER, claims_of, user_id_of

KEY = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH"
CONNECTION_STRING = f"Endpoint=http://service.test;Port=8888;AccessKey={KEY};Version=1.0;"


class Chat(Hub):
    pass


class Root(Hub):
    pass


class Answer:
    """What an ASGI application answered."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        start, body = messages
        assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
        self.status: int = start["status"]
        self.headers: dict[bytes, bytes] = dict(start["headers"])
        self.body: bytes = body["body"]
        assert self.headers[b"content-length"] == str(len(self.body)).encode()

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def token(self) -> dict[str, Any]:
        """The claims of its access token, as the service verifies it."""
        return jwt.decode(
            self.json["accessToken"],
            KEY,
            algorithms=["HS256"],
            audience="http://service.test/client/?hub=chat",
        )


async def call(
    app: NegotiateApp,
    path: str = "/chat/negotiate",
    *,
    method: str = "POST",
    query: bytes = b"negotiateVersion=1",
    headers: list[tuple[bytes, bytes]] | None = None,
    **more: object,
) -> Answer:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": headers or [],
        **more,
    }
    await app(scope, receive, send)
    return Answer(sent)


@asynccontextmanager
async def negotiating(
    identify: Identify | None = None, **options: Any
) -> AsyncGenerator[tuple[NegotiateApp, Served]]:
    async with serving(Chat, connection_string=CONNECTION_STRING, **options) as served:
        yield NegotiateApp(served.server, identify), served


# -- where the client is sent ---------------------------------------------------------------


async def test_a_client_is_sent_to_the_service_with_a_token(autojump_clock: MockClock) -> None:
    async with negotiating() as (app, _):
        answer = await call(app, query=b"negotiateVersion=1&a=1&a=2&useStatefulReconnect=true")
        assert answer.status == 200
        assert answer.headers[b"content-type"] == b"application/json"
        assert set(answer.json) == {
            "negotiateVersion",
            "url",
            "accessToken",
            "availableTransports",
        }
        assert answer.json["negotiateVersion"] == 0
        assert answer.json["availableTransports"] == []
        url = urlsplit(answer.json["url"])
        assert (url.scheme, url.netloc, url.path) == ("http", "service.test:8888", "/client/")
        query = parse_qs(url.query)
        assert query.pop("asrs_request_id")
        assert query == {
            "hub": ["chat"],
            "asrs.op": ["/chat"],
            "a": ["1", "2"],
            "useStatefulReconnect": ["true"],
        }
        assert answer.token["aud"] == "http://service.test/client/?hub=chat"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/chat/negotiate", 200),
        ("/CHAT/Negotiate", 200),
        ("/chat/negotiate/", 200),
        ("/chat", 404),
        ("/", 404),
        ("/negotiate", 404),
        ("/news/negotiate", 404),
        ("/chat/negotiate/more", 404),
    ],
)
async def test_the_paths_of_negotiate(autojump_clock: MockClock, path: str, status: int) -> None:
    async with negotiating() as (app, _):
        assert (await call(app, path)).status == status


async def test_a_hub_may_be_at_the_root(autojump_clock: MockClock) -> None:
    def prepare(server: HubServer) -> None:
        server.map(Root, "/")

    async with negotiating(prepare=prepare) as (app, _):
        assert parse_qs(urlsplit((await call(app, "/negotiate")).json["url"]).query)["hub"] == [
            "root"
        ]


@pytest.mark.parametrize(
    ("method", "status"), [("POST", 200), ("PUT", 405), ("DELETE", 405), ("HEAD", 405)]
)
async def test_the_methods_of_negotiate(
    autojump_clock: MockClock, method: str, status: int
) -> None:
    async with negotiating() as (app, _):
        assert (await call(app, method=method)).status == status


# -- who the client is ----------------------------------------------------------------------


async def test_without_identify_everybody_is_anonymous(autojump_clock: MockClock) -> None:
    async with negotiating() as (app, _):
        token = (await call(app)).token
        assert set(token) == {"nbf", "iat", "exp", "aud", "iss"}


async def test_identify_says_who_a_client_is(autojump_clock: MockClock) -> None:
    asked: list[NegotiateRequest] = []

    def identify(request: NegotiateRequest) -> Identity:
        asked.append(request)
        return Identity("ann", [("role", "admin"), ("role", "editor")])

    async with negotiating(identify) as (app, _):
        answer = await call(
            app,
            query=b"negotiateVersion=1&Room=7",
            headers=[(b"x-user", b"ann")],
            user="from middleware",
        )
        assert answer.token["asrs.s.uid"] == "ann"
        assert answer.token["role"] == ["admin", "editor"]
        (request,) = asked
        assert request.path == "/chat/negotiate"
        assert request.header("X-User") == "ann"
        assert request.header("X-Other") is None
        assert request.param("room") == "7"
        assert request.scope["user"] == "from middleware"


async def test_identify_may_take_its_time(autojump_clock: MockClock) -> None:
    async def identify(request: NegotiateRequest) -> Identity:
        await trio.sleep(1)
        return Identity("ann")

    async with negotiating(identify) as (app, _):
        assert (await call(app)).token["asrs.s.uid"] == "ann"


async def test_a_token_of_the_application_goes_no_further(autojump_clock: MockClock) -> None:
    """The service would take it for its own, which a browser puts behind it in the same query."""
    async with negotiating() as (app, _):
        query = b"access_token=mine&room=1&Access_Token=mine&negotiateVersion=1"
        url = (await call(app, query=query)).json["url"]
        assert parse_qs(urlsplit(url).query)["room"] == ["1"]
        assert "mine" not in url


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_whom_identify_does_not_know_is_refused(
    autojump_clock: MockClock, asynchronous: bool
) -> None:
    async def later(request: NegotiateRequest) -> None:
        await trio.lowlevel.checkpoint()

    async with negotiating(later if asynchronous else lambda request: None) as (app, _):
        answer = await call(app)
        assert (answer.status, answer.body) == (401, b"")


RESERVED = ["aud", "exp", "iat", "nbf", "iss", "actort", "acr", "azp", "c_hash", "jti", "nonce"]


@pytest.mark.parametrize("name", RESERVED)
async def test_claims_that_could_be_taken_for_those_of_the_token_travel_under_a_prefix(
    autojump_clock: MockClock, name: str
) -> None:
    """And a hub sees them as the application named them."""
    identity = Identity("ann", [(name, "mine"), ("colour", "red")])
    async with negotiating(lambda request: identity) as (app, served):
        token = (await call(app)).token
        assert token[f"asrs.u.{name}"] == "mine"
        assert token.get(name) != "mine"
        client = served.service.open(claims=[(key, str(value)) for key, value in token.items()])
        await served.service.until(lambda: client.responses)
        context = served.server.hubs[0].clients["c1"].context
        assert context.user_id == "ann"
        assert context.claims == [(name, "mine"), ("colour", "red")]


async def test_the_user_id_is_what_identify_said_whatever_the_claims_are(
    autojump_clock: MockClock,
) -> None:
    """Names of claims may come from elsewhere, of a login provider for example."""
    identity = Identity("ann", [("asrs.s.uid", "bob"), (NAME_IDENTIFIER, "eve")])
    async with negotiating(lambda request: identity) as (app, _):
        assert user_id_of(claims_of((await call(app)).token)) == "ann"


async def test_claims_that_do_not_fit_a_token_are_refused(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    identity = Identity("ann", [("long", "x" * 4000)])
    async with negotiating(lambda request: identity) as (app, _):
        assert (await call(app)).status == 413
    assert "too many claims" in caplog.text


# -- when there is no service to send it to -------------------------------------------------


async def test_a_server_that_is_going_sends_no_more_clients(autojump_clock: MockClock) -> None:
    async def hang(context: HubContext) -> None:
        await trio.sleep_forever()

    def prepare(server: HubServer) -> None:
        server.on_shutdown(Chat)(hang)

    async with negotiating(prepare=prepare) as (app, served):
        served.server.request_shutdown()
        await served.service.until(lambda: served.service.fins)
        assert (await call(app)).status == 503
        assert (await call(app, "/news/negotiate")).status == 404
        await served.end()
        assert (await call(app)).status == 503


async def test_a_server_without_a_connection_sends_no_clients(autojump_clock: MockClock) -> None:
    service = ScriptedService()
    service.refuses = True
    async with negotiating(service=service) as (app, _):
        assert (await call(app)).status == 503
        service.refuses = False
        await service.until(lambda: service.log)
        await trio.sleep(0.1)
        assert (await call(app)).status == 200


def test_an_embedded_server_has_no_other_service() -> None:
    with pytest.raises(ConfigurationError, match="embedded"):
        NegotiateApp(HubServer())


# -- ASGI -----------------------------------------------------------------------------------


async def test_lifespan_is_answered() -> None:
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await NegotiateApp(HubServer(CONNECTION_STRING))({"type": "lifespan"}, receive, send)
    assert [one["type"] for one in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_nothing_but_http_is_served() -> None:
    async def unused(*_: object) -> dict[str, Any]:
        raise AssertionError

    with pytest.raises(RuntimeError, match="not websocket"):
        await NegotiateApp(HubServer(CONNECTION_STRING))({"type": "websocket"}, unused, unused)  # type: ignore[arg-type]
