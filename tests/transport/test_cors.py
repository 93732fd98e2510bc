"""What browsers are told of an answer that a page of another origin has asked for."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import pytest
import trio

from signalr_trio.transport.cors import ANY_ORIGIN, allow_origins
from signalr_trio.transport.http import (
    Answer,
    Handler,
    Pending,
    Request,
    Response,
    ResponseBody,
    Streaming,
    Upgrade,
)
from signalr_trio.transport.websocket import WebSocket

PAGE = "http://localhost:5173"
OWN = ("X-Own", "kept")
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,x-requested-with",
}


def request(method: str = "POST", **headers: str) -> Request:
    return Request(
        method=method,
        path="/client/negotiate",
        raw_path="/client/negotiate",
        query_string="hub=chat",
        headers=[(name.replace("_", "-"), value) for name, value in headers.items()],
        body=b"",
        client=None,
        http_version="1.1",
    )


async def not_asked(request: Request) -> Answer:
    raise AssertionError("a preflight has no token: it is no request for the handler")


def answering(answer: Answer) -> Handler:
    async def handler(request: Request) -> Answer:
        return answer

    return handler


async def later() -> Response:
    await trio.lowlevel.checkpoint()
    return Response(204, headers=[OWN])


async def stream(body: ResponseBody) -> None: ...


@attrs.frozen
class Case:
    origins: Collection[str]
    allowed: bool


CASES = [
    Case([PAGE], True),
    Case([ANY_ORIGIN], True),
    Case(["http://localhost:5174", PAGE], True),
    Case([], False),
    Case(["http://localhost"], False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    "answer",
    [Response(401, headers=[OWN]), Streaming(stream, lambda: None, [OWN]), Pending(later)],
    ids=lambda answer: type(answer).__name__,
)
async def test_an_answer_of_any_kind_names_the_origin_that_may_read_it(
    case: Case, answer: Answer
) -> None:
    found = await allow_origins(answering(answer), case.origins)(request(origin=PAGE))
    if isinstance(found, Pending):
        found = await found.respond()
    assert isinstance(found, (Response, Streaming))
    expected = [
        ("Access-Control-Allow-Origin", PAGE),
        ("Access-Control-Allow-Credentials", "true"),
        ("Vary", "Origin"),
    ]
    assert list(found.headers) == [OWN, *(expected if case.allowed else [])]


async def test_a_preflight_is_answered_without_a_token() -> None:
    asked = request("OPTIONS", **{name.replace("-", "_"): PREFLIGHT[name] for name in PREFLIGHT})
    found = await allow_origins(not_asked, [PAGE])(asked)
    assert isinstance(found, Response)
    assert found.status == 204
    assert found.header("access-control-allow-origin") == PAGE
    assert found.header("access-control-allow-methods") == "POST"
    assert found.header("access-control-allow-headers") == "authorization,x-requested-with"


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request("OPTIONS", origin=PAGE),
        request("OPTIONS", origin="http://e", access_control_request_method="POST"),
        request("OPTIONS", access_control_request_method="POST"),
    ],
    ids=["no browser", "no preflight", "another origin", "no origin"],
)
async def test_all_else_is_the_handlers(asked: Request) -> None:
    found = await allow_origins(answering(Response(405, headers=[OWN])), [PAGE])(asked)
    assert isinstance(found, Response)
    assert found.status == 405
    assert found.headers[0] == OWN


async def test_a_websocket_needs_nothing() -> None:
    upgrade = Upgrade(WebSocket.aclose)
    assert await allow_origins(answering(upgrade), [PAGE])(request("GET", origin=PAGE)) is upgrade
