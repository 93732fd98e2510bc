"""Negotiate, against scripted answers."""

from __future__ import annotations

import pytest
from scripted import WEBSOCKETS, ScriptedServer, answer, serving

from signalr_trio.client.negotiate import Offer, locate, without_negotiate
from signalr_trio.errors import ConfigurationError, ConnectionClosed, NegotiateError

GOOD = {
    "negotiateVersion": 1,
    "connectionId": "public",
    "connectionToken": "se+cret",
    "availableTransports": [WEBSOCKETS],
}


async def find(server, answers, path="", **options):
    server.answers = list(answers)
    options = {"access_token": None, **options}
    return await locate(server.url + path, **options)


def headers_of(request):
    return {name: value for name, value in request.headers if name == "authorization"}


@pytest.mark.parametrize(
    ("path", "asked", "query", "found"),
    [
        ("", "/hub/negotiate", "negotiateVersion=1", "?id=se%2Bcret"),
        ("/", "/hub/negotiate", "negotiateVersion=1", "/?id=se%2Bcret"),
        ("?a=b", "/hub/negotiate", "a=b&negotiateVersion=1", "?a=b&id=se%2Bcret"),
        ("?negotiateVersion=2", "/hub/negotiate", "negotiateVersion=2", None),
    ],
)
async def test_urls(path, asked, query, found):
    async with serving(ScriptedServer()) as server:
        address = await find(server, [answer(**GOOD)], path)
        (request,) = server.requests
    assert (request.method, request.path, request.query_string) == ("POST", asked, query)
    if found is not None:
        assert address.connect_url == server.url + found
    assert address.connection_id == "public"


@pytest.mark.parametrize("version", [{"negotiateVersion": 0}, {"negotiateVersion": None}])
async def test_before_version_1_the_connection_id_is_the_id(version):
    async with serving(ScriptedServer()) as server:
        address = await find(server, [answer(**{**GOOD, **version})])
    assert address.connect_url.endswith("?id=public")


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (answer(404, b""), "status 404. Either this is not a SignalR endpoint"),
        (answer(401, b""), "status 401"),
        (answer(302, b""), "status 302"),
        (answer(200, b"<html>"), "JSON object"),
        (answer(200, b"[]"), "JSON object"),
        (answer(error="not today"), "^not today$"),
        (answer(ProtocolVersion="1.5"), "ASP.NET SignalR Server"),
        (answer(**{**GOOD, "connectionToken": None}), "without a connection id"),
        (answer(**{**GOOD, "connectionId": 7}), "'connectionId' .* is not a string"),
        (answer(url="no-url"), "a URL that is none"),
        (answer(url=1), "'url' .* is not a string"),
    ],
)
async def test_answers_of_no_use(response, text):
    async with serving(ScriptedServer()) as server:
        with pytest.raises(NegotiateError, match=text):
            await find(server, [response], "?access_token=hidden")


@pytest.mark.parametrize(
    ("transports", "offers"),
    [
        (None, ()),
        (3, ()),
        ([], ()),
        ([None, 1, {}, {"transport": "A"}, {"transport": 1, "transferFormats": []}], ()),
        (
            [{"transport": "B", "transferFormats": ["Text", None]}, WEBSOCKETS],
            (Offer("B", ("Text",)), Offer("WebSockets", ("Text", "Binary"))),
        ),
    ],
)
async def test_transports_are_given_in_order_and_what_is_none_is_skipped(transports, offers):
    async with serving(ScriptedServer()) as server:
        address = await find(server, [answer(**{**GOOD, "availableTransports": transports})])
    assert address.offers == offers


@pytest.mark.parametrize(
    ("answered", "agreed"), [(True, True), (False, False), (None, False), ("true", False)]
)
async def test_stateful_reconnect_is_asked_for(answered, agreed):
    fields = {**GOOD, "useStatefulReconnect": answered}
    async with serving(ScriptedServer()) as server:
        address = await find(server, [answer(**fields)], stateful_reconnect=True)
        assert server.requests[0].query_string == "negotiateVersion=1&useStatefulReconnect=true"
        assert address.stateful_reconnect is agreed


async def test_redirects_lead_on_with_their_token():
    async with serving(ScriptedServer()) as server:
        base = f"http://127.0.0.1:{server.port}"
        hops = [
            answer(url=f"{base}/one?hub=a", accessToken="service"),
            answer(url=f"{base}/two/", availableTransports=[]),
            answer(**GOOD),
        ]
        address = await find(server, hops, access_token="mine", headers=[("X-Own", "1")])
        targets = [(one.path, one.query_string, headers_of(one)) for one in server.requests]
    version = "negotiateVersion=1"
    assert targets == [
        ("/hub/negotiate", version, {"authorization": "Bearer mine"}),
        ("/one/negotiate", f"hub=a&{version}", {"authorization": "Bearer service"}),
        ("/two/negotiate", version, {"authorization": "Bearer service"}),
    ]
    assert {one.header("x-own") for one in server.requests} == {"1"}
    assert address.url == f"{base}/two/"
    assert address.connect_url == f"{base}/two/?id=se%2Bcret"
    assert address.headers == [("X-Own", "1"), ("Authorization", "Bearer service")]
    assert "service" not in repr(address)
    assert "cret" not in repr(address)


async def test_redirects_have_an_end():
    async with serving(ScriptedServer()) as server:
        circle = answer(url=server.url)
        with pytest.raises(NegotiateError, match="redirection limit"):
            await find(server, [circle] * 101)
        assert len(server.requests) == 100


async def test_tokens():
    async def fetch():
        return "fetched"

    async def none():
        return None

    async def fail():
        raise OSError("no token today")

    async with serving(ScriptedServer()) as server:
        assert (await find(server, [], access_token=none)).headers == []
        address = await find(server, [], access_token=fetch)
        assert address.headers == [("Authorization", "Bearer fetched")]
        with pytest.raises(NegotiateError, match="no token today"):
            await find(server, [], access_token=fail)
        with pytest.raises(ConfigurationError) as caught:
            await find(server, [], access_token="s3cret\n")
        assert "s3cret" not in str(caught.value)


async def test_negotiate_can_be_skipped():
    url = "http://nowhere/hub?a=b"
    address = await without_negotiate(url, access_token="t")
    assert address.connect_url == url
    assert address.headers == [("Authorization", "Bearer t")]
    assert address.connection_id is None


async def test_where_nobody_answers():
    async with serving(ScriptedServer()) as server:
        pass
    with pytest.raises(ConnectionClosed) as caught:
        await find(server, [], "?access_token=hidden")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "hub", "ftp://a/b", "http://[", "http://a/ b"])
async def test_what_is_no_url(url):
    with pytest.raises(ConfigurationError):
        await locate(url, access_token=None)
