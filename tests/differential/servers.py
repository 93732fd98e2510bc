"""The servers that scenarios are played against.

``aspnetcore`` is the .NET peer, in real time. ``embedded`` is a hub server with a service of its own,
``service`` one whose service is elsewhere: both in memory, where time jumps.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import attrs
import jwt
import trio
from harness.memory_network import MemoryNetwork
from peers import DotnetPeer, dotnet_peer

from signalr_trio import HubOptions, HubServer, Identity, NegotiateRequest, open_service, serve
from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.server.identity import token_claims
from signalr_trio.service.options import ServiceOptions
from signalr_trio.tokens import make_token
from signalr_trio.transport.http_client import http_request

from .hub import Authorized, Other, Test

__all__ = ["OURS", "aspnetcore", "embedded", "service"]

_PATHS = ("/test", "/other", "/authorized")
_ENDPOINT = parse_connection_string(DEVELOPMENT)
_APP_PORT = 5000
_TRANSPORTS = {
    "websockets": "WebSockets",
    "sse": "ServerSentEvents",
    "longpolling": "LongPolling",
}


def _tokens(options: Sequence[str]) -> dict[str, str]:
    """For a server with ``--jwt-key``."""
    if "--jwt-key" not in options:
        return {}
    key, now = options[options.index("--jwt-key") + 1], time.time()
    good = jwt.encode({"sub": "alice", "exp": now + 3600}, key)
    expired = jwt.encode({"sub": "alice", "exp": now - 3600}, key)
    return {"good": good, "expired": expired, "bad": f"{good[:-4]}AAAA"}


# -- ASP.NET Core ---------------------------------------------------------------------------------


@attrs.frozen
class _AspNetCore:
    peer: DotnetPeer
    tokens: dict[str, str]
    virtual = False

    async def connect(self) -> trio.abc.Stream:
        return await trio.open_tcp_stream("127.0.0.1", self.peer.port)

    def target(self, target: str) -> str:
        return target

    async def send_to_all(self, target: str, arguments: list[Any]) -> None:
        body = {"hub": "test", "kind": "All", "target": target, "args": arguments}
        url = f"{self.peer.url}/control/send"
        answer = await http_request("POST", url, body=_json(body), timeout=10)
        assert answer.status == 200

    def shut_down(self) -> None:
        self.peer.terminate()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@asynccontextmanager
async def aspnetcore(options: Sequence[str]) -> AsyncGenerator[_AspNetCore]:
    async with dotnet_peer("--quiet", "--log", "none", *options) as peer:
        yield _AspNetCore(peer, _tokens(options))


# -- ours -----------------------------------------------------------------------------------------


def _hub_options(options: Sequence[str]) -> HubOptions:
    given = _by_name(options)
    return HubOptions(
        detailed_errors="--detailed-errors" in options,
        max_parallel_invocations=int(given.get("--parallel", 1)),
    )


def _service_options(options: Sequence[str]) -> ServiceOptions:
    """Those of the peer; where it was given none, the defaults of ASP.NET Core."""
    given = _by_name(options)
    times = {
        name: float(given[option])
        for option, name in {
            "--keep-alive": "keep_alive",
            "--client-timeout": "client_timeout",
            "--handshake-timeout": "handshake_timeout",
            "--poll-timeout": "poll_timeout",
        }.items()
        if option in given
    }
    offered = given.get("--transports", "websockets,sse,longpolling").split(",")
    return ServiceOptions(
        transports=tuple(_TRANSPORTS[one] for one in offered),
        stateful_reconnect="--stateful-reconnect" in options,
        max_message_size=int(given.get("--max-message-size", 32768)) or 1 << 30,
        **times,
    )


def _by_name(options: Sequence[str]) -> dict[str, str]:
    """The options that have a value."""
    return {
        option: value
        for option, value in itertools.pairwise(options)
        if option.startswith("--") and not value.startswith("--")
    }


def _identify(options: Sequence[str], request: NegotiateRequest) -> Identity | None:
    """As the peer does: by a bearer token if there is a key, else by the query."""
    key = _by_name(options).get("--jwt-key")
    if key is not None:
        return _by_token(key, request)
    user = request.param("user")
    if user is None and request.path.startswith("/authorized"):
        return None
    claims: list[tuple[str, str]] = []
    expires = request.param("expires_in")
    if expires is not None and "--close-on-auth-expiration" in options:
        # What the official SDK puts into the token; the application's clock is virtual here.
        claims = [("asrs.s.coae", "true"), ("asrs.s.aeo", str(int(time.time()) + int(expires)))]
    return Identity(user, claims)


def _by_token(key: str, request: NegotiateRequest) -> Identity | None:
    header = request.header("authorization") or ""
    token = header.removeprefix("Bearer ") or request.param("access_token") or ""
    try:
        return Identity(jwt.decode(token, key, algorithms=["HS256"])["sub"])
    except jwt.InvalidTokenError:
        return None


@attrs.frozen
class _Embedded:
    network: MemoryNetwork
    server: HubServer
    tokens: dict[str, str]
    port: int = _APP_PORT
    virtual = True

    async def connect(self) -> trio.abc.Stream:
        return await self.network.connect("localhost", self.port)

    def target(self, target: str) -> str:
        return target

    async def send_to_all(self, target: str, arguments: list[Any]) -> None:
        test = next(hub.hub_class for hub in self.server.hubs if hub.path == "/test")
        await self.server.hub_context(test).clients.all.send(target, *arguments)

    def shut_down(self) -> None:
        self.server.request_shutdown()


@attrs.frozen
class _Service(_Embedded):
    """Clients are where negotiate sent them; what the app's negotiate itself says is not played."""

    options: Sequence[str] = ()

    def target(self, target: str) -> str:
        url = urlsplit(target)
        hub, _, rest = url.path.strip("/").partition("/")
        if f"/{hub.lower()}" not in _PATHS or (rest and rest.strip("/").lower() != "negotiate"):
            return target
        path = "/client/negotiate" if rest else "/client/"
        # What identifies a client is in the token by then.
        request = NegotiateRequest(url.path, parse_qsl(url.query), [])
        identity = _identify(self.options, request) or Identity()
        audience = _ENDPOINT.client_audience(hub.lower())
        token = make_token(_ENDPOINT.access_key, audience, token_claims(identity))
        query = urlencode({"hub": hub.lower(), "access_token": token})
        return f"{path}?{query}&{url.query}".rstrip("&")


def _hub_server(
    options: Sequence[str], background: trio.Nursery, connection_string: str | None = None
) -> HubServer:
    server = HubServer(connection_string, options=_hub_options(options))
    test = type("Test", (Test,), {"background": background})
    for path, hub in zip(_PATHS, (test, Other, Authorized), strict=True):
        server.map(hub, path)
    return server


@asynccontextmanager
async def embedded(options: Sequence[str]) -> AsyncGenerator[_Embedded]:
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        server = _hub_server(options, nursery)
        run = partial(
            serve,
            server,
            port=_APP_PORT,
            network=network,
            signals=False,
            identify=partial(_identify, options),
            service_options=_service_options(options),
        )
        await nursery.start(run)
        yield _Embedded(network, server, _tokens(options))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def service(options: Sequence[str]) -> AsyncGenerator[_Service]:
    network = MemoryNetwork()
    async with (
        open_service(network=network, options=_service_options(options)) as running,
        trio.open_nursery() as nursery,
    ):
        server = _hub_server(options, nursery, running.connection_string)
        run = partial(serve, server, port=None, network=network, signals=False)
        await nursery.start(run)
        yield _Service(network, server, _tokens(options), running.port, options)
        nursery.cancel_scope.cancel()


OURS = {"embedded": embedded, "service": service}
