"""The REST API: every route over HTTP in memory, with clients of both hub protocols."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote

import msgpack
import pytest
import trio
from harness.clients import HELLO, JSON, Client, claims_for
from harness.cluster import settle
from harness.room import ENDPOINT, MSGPACK, VERSION, Room, open_room
from harness.servers import ScriptedServer

from signalr_trio.protocol.messages import Close, Completion, Invocation
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.rest import api
from signalr_trio.tokens import make_token
from signalr_trio.transport.http import MAX_BODY, Response
from signalr_trio.transport.http_client import http_request

HI = b'{"target":"hi","arguments":[1,"x"]}'


# -- every route ------------------------------------------------------------------------------

#: Method, path, status of /api/v1, status of /api, all of a call that succeeds.
ROUTES = [
    ("POST", "", 202, 202),
    ("POST", "/:send", 202, 202),
    ("POST", "/groups/g", 202, 202),
    ("POST", "/groups/g/:send", 202, 202),
    ("POST", "/users/ann", 202, 202),
    ("POST", "/users/ann/:send", 202, 202),
    ("POST", "/connections/1", 202, 202),
    ("POST", "/connections/1/:send", 202, 202),
    ("POST", "/:closeConnections", 204, 204),
    ("POST", "/groups/g/:closeConnections", 204, 204),
    ("POST", "/users/ann/:closeConnections", 204, 204),
    ("DELETE", "/connections/1", 202, 200),
    ("HEAD", "/groups/g", 200, 200),
    ("GET", "/groups/g", 200, 200),
    ("HEAD", "/users/ann", 200, 200),
    ("GET", "/users/ann", 200, 200),
    ("HEAD", "/connections/1", 200, 200),
    ("GET", "/connections/1", 200, 200),
    ("PUT", "/groups/g/connections/3", 200, 200),
    ("PUT", "/connections/3/groups/g", 200, 200),
    ("DELETE", "/groups/g/connections/1", 200, 200),
    ("DELETE", "/connections/1/groups/g", 200, 200),
    ("DELETE", "/connections/1/groups", 200, 200),
    ("HEAD", "/users/ann/groups/g", 200, 200),
    ("GET", "/users/ann/groups/g", 200, 200),
    ("HEAD", "/groups/g/users/ann", 200, 200),
    ("GET", "/groups/g/users/ann", 200, 200),
    ("PUT", "/users/ann/groups/g", 202, 200),
    ("PUT", "/groups/g/users/ann", 202, 200),
    ("DELETE", "/users/ann/groups/g", 202, 204),
    ("DELETE", "/groups/g/users/ann", 202, 204),
    ("DELETE", "/users/ann/groups", 200, 204),
    ("GET", "/groups/g/connections", 200, 200),
    ("POST", "/:generateToken", 200, 200),
    ("POST", "/connections/1/:invoke", 200, 200),
    ("POST", "/connections/1/streams/s/:send", 202, 202),
    ("POST", "/connections/1/streams/s/:complete", 202, 202),
    ("POST", "/:execute", 202, 202),
]
IDS = [f"{method} {path}" for method, path, _, _ in ROUTES]
every_route = pytest.mark.parametrize(("method", "path", "v1", "dated"), ROUTES, ids=IDS)


def body_for(method: str, path: str) -> bytes:
    if path == "/:execute":
        return b"[]"
    has_message = path.endswith((":send", ":invoke")) or ":" not in path
    return HI if method == "POST" and has_message else b""


async def good_call(room: Room, method: str, url: str, body: bytes) -> Response:
    """A call; client 1 answers what it is asked."""

    async def answer() -> None:
        room.say("1", Completion(await room.question("1"), 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        response = await room.call(method, url, body)
        nursery.cancel_scope.cancel()
    return response


def test_the_table_has_every_route() -> None:
    known = {(method, one.template) for one in api._ROUTES for method in one.methods}
    assert len(ROUTES) == len(known)
    for method, path, _, _ in ROUTES:
        matching = [one for one in api._ROUTES if one.match(path.split("/")[1:]) is not None]
        assert any(method in one.methods for one in matching)


@every_route
async def test_a_good_call(room: Room, method: str, path: str, v1: int, dated: int) -> None:
    body = body_for(method, path)
    response = await good_call(room, method, f"/api/v1/hubs/chat{path}", body)
    assert response.status == v1
    # The first call may have closed the very connections that the second one asks for.
    if method != "DELETE" and "close" not in path:
        response = await good_call(room, method, f"/api/hubs/Chat{path}?{VERSION}", body)
        assert response.status == dated


@every_route
async def test_a_good_call_of_a_dated_version(
    room: Room, method: str, path: str, v1: int, dated: int
) -> None:
    body = body_for(method, path)
    response = await good_call(room, method, f"/api/hubs/chat{path}/?{VERSION}", body)
    assert response.status == dated


@every_route
async def test_a_bad_token(room: Room, method: str, path: str, v1: int, dated: int) -> None:
    full = f"/api/v1/hubs/chat{path}"
    body = body_for(method, path)
    another_key = await room.call(method, full, body, key="x" * 40)
    expired = await room.call(method, full, body, lifetime=-4000)
    of_a_client = await room.call(method, full, body, audience=ENDPOINT.client_audience("chat"))
    for refused in (another_key, expired, of_a_client):
        assert (refused.status, refused.body) == (401, b"")
    assert room.heard == {}
    assert (room.members, room.closed) == ("14", "")


@every_route
async def test_a_wrong_method(room: Room, method: str, path: str, v1: int, dated: int) -> None:
    response = await room.call("PATCH", f"/api/v1/hubs/chat{path}")
    assert response.status == 405
    assert method in (response.header("allow") or "").split(", ")


@every_route
async def test_a_hub_whose_name_is_none(
    room: Room, method: str, path: str, v1: int, dated: int
) -> None:
    for hub in ("1st", "a%2Fb", "a" * 129, "%20", ""):
        response = await room.call(method, f"/api/v1/hubs/{hub}{path}", body_for(method, path))
        assert response.status == (404 if hub == path == "" else 400), hub
    application = f"/api/v1/hubs/chat{path}?application=1st"
    assert (await room.call(method, application, body_for(method, path))).status == 400


@every_route
async def test_a_version_that_is_none(
    room: Room, method: str, path: str, v1: int, dated: int
) -> None:
    for query in ("", "?api-version=", "?api-version=2021-01-01", "?api-version=x"):
        url = f"/api/hubs/chat{path}{query}"
        assert (await room.call(method, url, body_for(method, path))).status == 400


@every_route
async def test_a_hub_that_nobody_has_connected_to(
    room: Room, method: str, path: str, v1: int, dated: int
) -> None:
    response = await room.call(method, f"/api/v1/hubs/news{path}", body_for(method, path))
    asks = method in ("GET", "HEAD") and not path.endswith("/connections")
    joins = method == "PUT" and "/connections/" in path
    calls = path.endswith("/:invoke")
    assert response.status == (404 if asks or joins or calls else v1)
    assert room.heard == {}
    assert (room.members, room.closed) == ("14", "")


@pytest.mark.parametrize("path", [path for method, path, _, _ in ROUTES if body_for(method, path)])
async def test_a_body_that_is_too_large(room: Room, path: str) -> None:
    body = b'{"target":"hi","arguments":["%s"]}' % (b"x" * MAX_BODY)
    assert (await room.call("POST", f"/api/v1/hubs/chat{path}", body)).status == 413
    assert room.heard == {}


@pytest.mark.parametrize("largest_message", [1 << 10, 1 << 20])
async def test_a_body_of_the_very_limit(autojump_clock, largest_message: int) -> None:
    """Whatever the limit for clients is."""
    options = ServiceOptions(max_message_size=largest_message)
    async with open_room(options=options) as room:
        call = b'{"target":"hi","arguments":["%s"]}'
        text = b"x" * (MAX_BODY - len(call) + 2)
        for id in "12":
            path = f"/api/v1/hubs/chat/connections/{id}"
            assert (await room.call("POST", path, call % text)).status == 202
            assert (await room.call("POST", path, call % text + b" ")).status == 413
        assert room.heard == {id: [[text.decode()]] for id in "12"}


BLANK = [
    ("PUT", "/groups/%20/connections/1"),
    ("PUT", f"/groups/{'x' * 1025}/connections/1"),
    ("PUT", f"/users/ann/groups/{'x' * 1025}"),
    ("POST", "/groups//:send"),
    ("POST", "/users/%09/:send"),
    ("POST", "/connections//:send"),
    ("HEAD", "/users/%20"),
    ("DELETE", "/users//groups"),
    ("POST", "/connections/%20/:invoke"),
    ("POST", "/connections/1/streams/%20/:send"),
    ("POST", f"/connections/1/streams/{'x' * 101}/:send"),
    ("POST", f"/connections/1/streams/{'x' * 101}/:complete"),
]


@pytest.mark.parametrize(("method", "path"), BLANK)
async def test_a_name_that_is_none(room: Room, method: str, path: str) -> None:
    response = await room.call(method, f"/api/v1/hubs/chat{path}", body_for(method, path))
    assert response.status == 400
    assert response.header("x-ms-error-code") == "Error.Request.Invalid"


@pytest.mark.parametrize(
    "path", ["/api", "/api/v1", "/api/hubs", "/api/v2/hubs/chat", "/api/v1/hubs/chat/what"]
)
async def test_a_path_that_is_none(room: Room, path: str) -> None:
    assert (await room.call("POST", path, HI)).status == 404


async def test_a_service_that_stops(room: Room) -> None:
    room.running.service.stopping = True
    response = await room.call("POST", f"/api/hubs/chat/:send?{VERSION}", HI)
    assert response.status == 503
    assert json.loads(response.body)["message"] == "The service is stopping."
    assert (await room.call("GET", "/api/health")).status == 503


# -- tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audience", "status"),
    [
        ("https://the.load.balancer/api/hubs/chat/users/ann%2fb/:send", 202),
        ("http://localhost/api/hubs/chat/users/ann%2Fb/%3Asend/", 202),
        (f"http://localhost/api/hubs/chat/users/ann%2Fb/:send?{VERSION}", 202),
        (f"http://localhost/api/hubs/chat/users/ann%2Fb/:send?application=app&{VERSION}", 202),
        (f"http://localhost/api/hubs/chat/users/ann%2Fb/:send?application=x&{VERSION}", 401),
        ("http://localhost/api/hubs/chat/users/Ann%2Fb/:send", 401),
        ("http://localhost/api/hubs/chat/users/ann/b/:send", 401),
        ("http://localhost/api/hubs/chat/:send", 401),
        ("http://localhost/api/hubs/chat/users/ann%2Fb/:send/x", 401),
        ("http://[localhost/api", 401),
    ],
)
async def test_the_audience_is_the_url(room: Room, audience: str, status: int) -> None:
    path = f"/api/hubs/chat/users/ann%2Fb/:send?application=app&{VERSION}&excluded=x"
    assert (await room.call("POST", path, HI, audience=audience)).status == status


async def test_a_refused_token_is_not_in_the_log(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "signalr_trio")
    token = make_token(ENDPOINT.access_key, "http://localhost/elsewhere")
    url = f"http://localhost:8888/api/v1/hubs/chat?access_token={token}"
    assert (await http_request("POST", url, body=HI, network=room.network)).status == 401
    assert "audience" in caplog.text
    assert token not in caplog.text


# -- sends ------------------------------------------------------------------------------------

SENDS = [
    ("", "1234"),
    ("/:send", "1234"),
    ("?excluded=2&excluded=3&excluded=nobody", "14"),
    ("/users/ann", "12"),
    ("/users/eve", ""),
    ("/groups/g", "14"),
    ("/groups/g?excluded=4", "1"),
    ("/connections/2", "2"),
    ("/connections/9", ""),
]


@pytest.mark.parametrize(("path", "expected"), SENDS)
async def test_a_send_reaches_its_clients_in_their_protocols(
    room: Room, path: str, expected: str
) -> None:
    assert (await room.call("POST", f"/api/v1/hubs/chat{path}", HI)).status == 202
    assert room.heard == {id: [[1, "x"]] for id in expected}


async def test_a_send_reaches_clients_that_are_being_handed_over(room: Room) -> None:
    async with trio.open_nursery() as nursery:
        ScriptedServer(room.running.service, nursery, "B").connect("chat")
        await settle()
        room.server.fin()
        await settle()
        assert all(room.server.connections[0].migrating_closes_of(id) for id in room.clients)
        await room.call("PUT", "/api/v1/hubs/chat/groups/g/connections/3")
        await room.call("POST", "/api/v1/hubs/chat/groups/g", HI)
        for id in room.clients:
            room.server.connections[0].release(id)
        await room.call("POST", "/api/v1/hubs/chat/groups/g", HI)
        assert room.heard == {id: [[1, "x"]] * 2 for id in "134"}
        nursery.cancel_scope.cancel()


async def test_a_group_whose_name_needs_encoding(room: Room) -> None:
    group = "a/b c%é+?"
    path = f"/api/v1/hubs/chat/groups/{quote(group, safe='')}"
    assert (await room.call("PUT", f"{path}/connections/3")).status == 200
    assert (await room.call("POST", path, HI)).status == 202
    assert list(room.heard) == ["3"]
    assert list(room.running.service.hub("chat").sessions["3"].groups) == [group]


async def test_an_application_is_a_prefix_of_its_hubs(room: Room) -> None:
    room.server.connect("app_chat")
    client = room.clients["5"] = Client("5")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.serve, room.running.service, "app_chat")
        client.transport.put(HELLO)
        await settle()
        await room.call("POST", f"/api/hubs/Chat/:send?{VERSION}&application=App", HI)
        assert list(room.heard) == ["5"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        (b'{"Target":"hi","Arguments":[{"a":null}]}', [{"a": None}]),
        (b'{"target":"hi"}', []),
        (b'{"target":"hi","arguments":null,"more":1}', []),
        ('{"target":"hi","arguments":["é🎈",1.5,-3]}'.encode(), ["é🎈", 1.5, -3]),
        (json.dumps({"target": "hi", "arguments": list(range(20))}).encode(), list(range(20))),
    ],
)
async def test_bodies(room: Room, body: bytes, arguments: list[Any]) -> None:
    assert (await room.call("POST", "/api/v1/hubs/chat", body)).status == 202
    assert room.heard == {id: [arguments] for id in "1234"}


def framed(**frames: object) -> bytes:
    return msgpack.packb(frames)


def hi_in(protocol: Any, *arguments: object) -> bytes:
    return protocol.write(Invocation("hi", list(arguments)))


async def test_a_body_that_the_sdk_has_encoded(room: Room) -> None:
    frames = framed(json=hi_in(JSON, "j"), messagepack=hi_in(MSGPACK, "m"), blazorpack=b"?")
    for kind in ("application/octet-stream", "Application/x-msgpack; x=y"):
        response = await room.call("POST", "/api/v1/hubs/chat", frames, content_type=kind)
        assert response.status == 202
    assert room.heard == {id: [["j" if int(id) % 2 else "m"]] * 2 for id in "1234"}


BAD_BODIES = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"target":"\xff"}',
    "an array": b"[]",
    "no target": b'{"arguments":[]}',
    "an empty target": b'{"target":""}',
    "a target that is no string": b'{"target":1}',
    "arguments that are no array": b'{"target":"hi","arguments":{}}',
    "too deep": b'{"target":"hi","arguments":' + b"[" * 600 + b"]" * 600 + b"}",
    "a number that is none": b'{"target":"hi","arguments":[1e999]}',
}
BAD_FRAMES = {
    "empty": b"",
    "no MessagePack": b"\xc1",
    "two values": b"\x80\x80",
    "an array": b"\x90",
    "no protocol": b"\x80",
    "unknown protocols only": framed(blazorpack=b"x"),
    "text for bytes": framed(json="x"),
    "no separator": framed(json=hi_in(JSON)[:-1]),
    "two messages": framed(json=hi_in(JSON) * 2),
    "nothing": framed(json=b""),
    "no hub message": framed(json=b"{}\x1e"),
    "a Close": framed(json=JSON.write(Close())),
    "one good, one bad": framed(json=hi_in(JSON), messagepack=b"\x02\x91\xc1"),
    "a prefix that is too long": framed(messagepack=b"\xff\xff\xff\xff\xff"),
}
JSON_TYPE, FRAMED_TYPE = "application/json", "application/octet-stream"
BODIES = [(JSON_TYPE, body) for body in BAD_BODIES.values()] + [
    (FRAMED_TYPE, body) for body in BAD_FRAMES.values()
]


@pytest.mark.parametrize(("kind", "body"), BODIES, ids=[*BAD_BODIES, *BAD_FRAMES])
async def test_a_bad_body_is_400_and_nobody_hears_of_it(room: Room, kind: str, body: bytes) -> None:
    url = f"/api/hubs/chat/:send?{VERSION}"
    response = await room.call("POST", url, body, content_type=kind)
    assert response.status == 400
    assert response.header("x-ms-error-code") == "Error.Request.Invalid"
    error = json.loads(response.body)
    assert error["code"] == "Error.Request.Invalid"
    assert error["message"]
    # In v1 errors are text.
    response = await room.call("POST", "/api/v1/hubs/chat", body, content_type=kind)
    assert (response.status, response.body.decode()) == (400, error["message"])
    assert response.header("content-type") == "text/plain; charset=utf-8"
    assert response.header("x-ms-error-code") == "Error.Request.Invalid"
    assert [id for id in room.clients if room.received(id)] == []


# -- questions --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/connections/9", "Warning.Connection.NotExisted"),
        ("/users/eve", "Warning.User.NotExisted"),
        ("/groups/h", "Warning.Group.NotExisted"),
        ("/users/bob/groups/g", "Info.User.NotInGroup"),
        ("/groups/h/users/ann", "Info.User.NotInGroup"),
    ],
)
async def test_a_no_has_the_code_that_the_sdk_expects(
    room: Room, method: str, path: str, code: str
) -> None:
    response = await room.call(method, f"/api/hubs/chat{path}?{VERSION}")
    assert (response.status, response.header("x-ms-error-code")) == (404, code)
    assert (response.body == b"") is (method == "HEAD")


# -- groups -----------------------------------------------------------------------------------


async def test_joining_and_leaving(room: Room) -> None:
    await room.call("PUT", "/api/v1/hubs/chat/groups/g/connections/3")
    assert room.members == "134"
    await room.call("DELETE", "/api/v1/hubs/chat/connections/3/groups/g")
    assert room.members == "14"
    await room.call("DELETE", "/api/v1/hubs/chat/connections/4/groups")
    assert room.members == "1"


async def test_a_connection_that_is_not_there(room: Room) -> None:
    path = f"/api/hubs/chat/groups/g/connections/9?{VERSION}"
    refused = await room.call("PUT", path)
    assert refused.status == 404
    assert refused.header("x-ms-error-code") == "Error.Connection.NotExisted"
    assert (await room.call("DELETE", path)).status == 200
    assert room.members == "14"


async def test_a_user_in_groups(room: Room) -> None:
    await room.call("PUT", "/api/v1/hubs/chat/users/bob/groups/g")
    assert room.members == "134"
    await room.call("DELETE", "/api/v1/hubs/chat/users/bob/groups/g")
    assert room.members == "14"
    await room.call("PUT", "/api/v1/hubs/chat/groups/g/users/bob")
    await room.call("DELETE", "/api/v1/hubs/chat/users/bob/groups")
    assert room.members == "14"


async def test_a_user_in_a_group_for_a_time(autojump_clock, room: Room) -> None:
    await room.call("PUT", "/api/v1/hubs/chat/users/bob/groups/g?ttl=10")
    await trio.sleep(9)
    assert room.members == "134"
    await trio.sleep(2)
    assert room.members == "14"


async def test_a_time_of_0_is_for_the_clients_that_are_there(room: Room) -> None:
    await room.call("PUT", "/api/v1/hubs/chat/users/bob/groups/g?ttl=0")
    later = Client("later", claims=claims_for("bob"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.serve, room.running.service)
        later.transport.put(HELLO)
        await settle()
        assert room.members == "134"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ttl", ["-1", "x", "", "1.5", "2147483648", "9" * 5000])
async def test_a_time_that_is_none(room: Room, ttl: str) -> None:
    response = await room.call("PUT", f"/api/v1/hubs/chat/users/bob/groups/g?ttl={ttl}")
    assert response.status == 400
    assert room.members == "14"


# -- members in pages -------------------------------------------------------------------------


async def pages(room: Room, query: str) -> list[str]:
    """The ids of each page, following the links; who has been listed leaves at once."""
    path = f"/api/hubs/chat/groups/all/connections?api-version=2024-12-01{query}"
    found: list[str] = []
    while path:
        answer = json.loads((await room.call("GET", path)).body)
        ids = [one["connectionId"] for one in answer["value"]]
        for id in ids:
            await room.call("DELETE", f"/api/v1/hubs/chat/groups/all/connections/{id}")
        found.append("".join(ids))
        link = answer.get("nextLink", "")
        assert not link or link.startswith("http://localhost:8888/")
        path = link.removeprefix("http://localhost:8888")
    return found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["1234"]),
        ("&maxPageSize=3", ["123", "4"]),
        ("&maxpagesize=2", ["12", "34"]),
        ("&maxpagesize=1&top=3", ["1", "2", "3"]),
        ("&top=2", ["12"]),
        ("&top=0", [""]),
        ("&top=4", ["1234"]),
        ("&continuationToken=2", ["34"]),
    ],
)
async def test_members_in_pages(room: Room, query: str, expected: list[str]) -> None:
    for id in "4213":
        await room.call("PUT", f"/api/v1/hubs/chat/groups/all/connections/{id}")
    assert await pages(room, query) == expected


async def test_what_is_said_of_a_member(room: Room) -> None:
    answer = await room.call("GET", f"/api/hubs/chat/groups/g/connections?{VERSION}")
    assert json.loads(answer.body) == {
        "value": [{"connectionId": "1", "userId": "ann"}, {"connectionId": "4"}]
    }


@pytest.mark.parametrize("query", ["maxpagesize=0", "maxpagesize=201", "maxpagesize=x", "top=-1"])
async def test_a_page_that_is_none(room: Room, query: str) -> None:
    path = f"/api/hubs/chat/groups/g/connections?{VERSION}&{query}"
    assert (await room.call("GET", path)).status == 400


# -- closing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("DELETE", "/connections/2?reason=because", "2"),
        ("DELETE", "/connections/9?reason=because", ""),
        ("POST", "/:closeConnections?reason=because&excluded=1&excluded=4", "23"),
        ("POST", "/users/ann/:closeConnections?reason=because", "12"),
        ("POST", "/users/ann/:closeConnections?reason=because&excluded=1", "2"),
        ("POST", "/groups/g/:closeConnections?reason=because", "14"),
        ("POST", "/groups/g/:closeConnections?reason=because&excluded=4", "1"),
    ],
)
async def test_closing(room: Room, method: str, path: str, expected: str) -> None:
    await room.call(method, f"/api/hubs/chat{path}&{VERSION}")
    assert room.closed == expected
    for id in expected:
        assert room.received(id) == [Close("because", allow_reconnect=True)]
        assert len(room.server.connections[0].closes_of(id)) == 1


async def test_closing_without_a_reason(room: Room) -> None:
    await room.call("DELETE", "/api/v1/hubs/chat/connections/1")
    assert room.received("1") == [Close(None, allow_reconnect=True)]


# -- tokens for clients -----------------------------------------------------------------------


async def test_a_generated_token_lets_a_client_in(room: Room) -> None:
    path = f"/api/hubs/chat/:generateToken?{VERSION}&userId=eve&minutesToExpire=5"
    token = json.loads((await room.call("POST", path)).body)["token"]
    url = "http://localhost:8888/client/negotiate?hub={}&negotiateVersion=1"
    bearer = [("Authorization", f"Bearer {token}")]
    good = await http_request("POST", url.format("chat"), headers=bearer, network=room.network)
    assert good.status == 200
    connection_token = json.loads(good.body)["connectionToken"]
    claims = room.running.service.http_connections[connection_token].claims
    assert set(claims_for("eve")) <= set(claims)
    times = {name: int(value) for name, value in claims if name in ("nbf", "exp")}
    assert times["exp"] - times["nbf"] == 300
    bad = await http_request("POST", url.format("news"), headers=bearer, network=room.network)
    assert bad.status == 401


@pytest.mark.parametrize("minutes", ["0", "-1", "x", "2147483648"])
async def test_a_token_that_is_none(room: Room, minutes: str) -> None:
    path = f"/api/hubs/chat/:generateToken?{VERSION}&minutesToExpire={minutes}"
    assert (await room.call("POST", path)).status == 400
