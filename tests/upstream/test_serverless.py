"""Serverless mode: what an application hears of clients, and what clients hear of it.

Everything but the sockets is real, HTTP too; time is the mock clock's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import msgpack
import orjson
import pytest
import trio
from harness.clients import HELLO, JSON, Client, claims_for
from harness.cluster import settle
from harness.upstreams import KEYS, Answering, open_stage, result

from signalr_trio import ServiceOptions, Upstream
from signalr_trio.link.link import Link
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.messages import Close, Completion, Invocation, StreamItem
from signalr_trio.protocol.service_messages import NO_EXPIRY, ConnectionData, OpenConnection
from signalr_trio.tokens import Claims
from signalr_trio.transport.http import Request, Response
from signalr_trio.upstream import open_upstreams
from signalr_trio.upstream.webhook import Answer, Webhook

MESSAGEPACK = HUB_PROTOCOLS["messagepack"]
CLAIMS: Claims = claims_for("ann", ("role", "admin"))


def answering(*answers: Response | float) -> Answering:
    """A response, or seconds to wait before it."""

    async def answer(request: Request) -> Response:
        for one in answers:
            if isinstance(one, Response):
                return one
            await trio.sleep(one)
        return result(request, "late")

    return answer


async def echo(request: Request) -> Response:
    return result(request, orjson.loads(request.body)["arguments"])


# -- events ----------------------------------------------------------------------------------------


async def test_the_life_of_a_client(autojump_clock) -> None:
    async with open_stage() as stage:
        stage.app.answers["say"] = echo
        client = await stage.client("c1", claims=CLAIMS, query="?room=1")
        assert client.response == {}
        client.invoke("1", "say", "hi", 1)
        client.send("whisper", None)
        await settle()
        assert client.completions == {"1": Completion("1", ["hi", 1])}
        client.leave()
        await client.over.wait()
        await settle()
        requests = stage.app.requests
    assert [(one.method, one.path) for one in requests] == [
        ("POST", "/chat/connections/connected"),
        ("POST", "/chat/messages/say"),
        ("POST", "/chat/messages/whisper"),
        ("POST", "/chat/connections/disconnected"),
    ]
    bodies = [orjson.loads(one.body) for one in requests]
    assert bodies == [
        {"type": 10},
        {"type": 1, "invocationId": "1", "target": "say", "arguments": ["hi", 1]},
        {"type": 1, "target": "whisper", "arguments": [None]},
        {"Type": 11},
    ]
    digests = [hmac.new(key.encode(), b"c1", hashlib.sha256).hexdigest() for key in KEYS]
    for request in requests:
        assert request.header("x-asrs-connection-id") == "c1"
        assert request.header("x-asrs-hub") == "chat"
        assert request.header("x-asrs-category") == request.path.split("/")[2]
        assert request.header("x-asrs-event") == request.path.split("/")[3]
        assert request.header("x-asrs-user-id") == "ann"
        assert request.header("x-asrs-user-claims") == (f"{CLAIMS[0][0]}: ann, role: admin")
        assert request.header("x-asrs-client-query") == "?room=1"
        assert request.header("x-asrs-signature") == ",".join(f"sha256={one}" for one in digests)
        assert request.header("content-type") == "application/json"


async def test_a_client_that_speaks_messagepack(autojump_clock) -> None:
    async with open_stage() as stage:
        stage.app.answers["say"] = answering(
            Response(200, MESSAGEPACK.write(Completion("1", b"\0")))
        )
        client = await stage.client(hello=write_request(HandshakeRequest("messagepack", 1)))
        client.transport.put(MESSAGEPACK.write(Invocation("say", [b"\x00\x1e", 1.5], "1")))
        await settle()
        request = stage.app.requests[-1]
        assert request.header("content-type") == "application/x-msgpack"
        assert msgpack.unpackb(request.body) == [1, {}, "1", "say", [b"\x00\x1e", 1.5], []]
        assert client.transport.sent[1:] == [MESSAGEPACK.write(Completion("1", b"\0"))]
        assert [one.header("content-type") for one in stage.app.requests[:1]] == [
            "application/json"
        ]


async def test_events_go_by_the_patterns_and_others_nowhere(autojump_clock) -> None:
    upstreams = [
        Upstream("http://app/joined", event="connected", hub="chat"),
        Upstream("http://app/talk/{event}", category="messages", event="say,shout"),
    ]
    async with open_stage(*upstreams) as stage:
        client = await stage.client()
        client.invoke("1", "say")
        client.invoke("2", "other")
        client.send("other")
        await settle()
        client.leave()
        await stage.client("c2", hub="news")
        assert [one.path for one in stage.app.requests] == ["/joined", "/talk/say"]
        assert client.completions == {
            "1": Completion("1"),
            "2": Completion("2", error="Invocation failed, no upstream is set for it"),
        }


async def test_messages_wait_for_the_answer_to_connected(autojump_clock) -> None:
    async with open_stage() as stage:
        gate = trio.Event()

        async def answer(request: Request) -> Response:
            await gate.wait()
            return Response(200)

        stage.app.answers["connected"] = answer
        client = await stage.client()
        client.send("say")
        await settle()
        assert client.response == {}
        assert stage.app.events == ["connected"]
        gate.set()
        await settle()
        assert stage.app.events == ["connected", "say"]


async def test_the_order_is_each_client_s_own(autojump_clock) -> None:
    async with open_stage() as stage:
        for number, seconds in enumerate([3.0, 0.0, 2.0, 0.5, 0.0]):
            stage.app.answers[f"m{number}"] = answering(seconds)
        slow, fast = await stage.client("slow"), await stage.client("fast")
        for number in range(5):
            slow.invoke(str(number), f"m{number}")
        await settle()
        slow.leave()
        fast.invoke("x", "quick")
        await settle()
        assert fast.completions == {"x": Completion("x")}
        assert stage.app.events_of("slow") == ["connected", "m0"]
        await trio.sleep(10)
        expected = ["connected", "m0", "m1", "m2", "m3", "m4", "disconnected"]
        assert stage.app.events_of("slow") == expected


async def test_claims_that_have_changed_are_in_what_comes_next(autojump_clock) -> None:
    async with open_stage() as stage:
        await stage.client("c1", claims=CLAIMS)
        session = stage.service.hub("chat").sessions["c1"]
        session.update_claims(claims_for("ann", ("role", "guest")), NO_EXPIRY)
        session.close()
        await settle()
        shown = [one.header("x-asrs-user-claims") or "" for one in stage.app.requests]
        assert [one.rpartition(": ")[2] for one in shown] == ["admin", "guest"]


# -- what upstreams answer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Response(200), Completion("1")),
        (Response(204), Completion("1")),
        (Response(200, b'{"type":3,"invocationId":"1","result":7}'), Completion("1", 7)),
        (
            Response(200, b'{"type":3,"invocationId":"1","error":"no"}\x1e'),
            Completion("1", error="no"),
        ),
        (Response(500), Completion("1", error="Invocation failed, status code 500")),
        (Response(307), Completion("1", error="Invocation failed, status code 307")),
        (
            Response(200, b"<html>"),
            Completion("1", error="Invocation failed, the upstream's answer is not its completion"),
        ),
        (
            Response(200, b" " * ((16 << 20) + 1)),
            Completion("1", error="Invocation failed, response too large"),
        ),
    ],
    ids=["empty", "no content", "result", "error", "500", "redirect", "html", "too large"],
)
async def test_what_an_answer_means(autojump_clock, answer: Response, expected: Completion) -> None:
    async with open_stage() as stage:
        stage.app.answers["say"] = answering(answer)
        client = await stage.client()
        client.invoke("1", "say")
        client.send("say")
        client.invoke("2", "after")
        await settle()
        assert client.completions == {"1": expected, "2": Completion("2")}
        assert client.close is None
        assert stage.app.events == ["connected", "say", "say", "after"]


async def test_an_upstream_that_is_down_fails_what_is_asked_and_nothing_else(
    autojump_clock, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = Upstream("http://app/{event}?code=secret")
    async with open_stage(upstream) as stage:
        stage.backend.is_down = True
        client = await stage.client("c1")
        client.invoke("1", "say")
        client.send("say")
        await settle()
        error = "Invocation failed, the upstream cannot be reached"
        assert client.completions == {"1": Completion("1", error=error)}
        stage.backend.is_down = False
        client.invoke("2", "say")
        await settle()
        assert client.completions["2"] == Completion("2")
        assert client.close is None
    warning = "client c1 of hub chat: http://app/say: the upstream cannot be reached"
    assert warning in caplog.messages
    assert "secret" not in caplog.text


async def test_an_upstream_that_is_slow_fails_what_is_asked(autojump_clock) -> None:
    async with open_stage(options=ServiceOptions(upstream_timeout=20.0)) as stage:
        stage.app.answers["say"] = answering(60.0)
        client = await stage.client()
        client.invoke("1", "say")
        client.invoke("2", "after")
        await trio.sleep(19)
        assert client.completions == {}
        await trio.sleep(2)
        error = "Invocation failed, the upstream did not answer in 20 s"
        assert client.completions == {"1": Completion("1", error=error), "2": Completion("2")}


@pytest.mark.parametrize("status", [403, 500])
async def test_a_client_stays_where_connected_is_refused(autojump_clock, status: int) -> None:
    """As with the official emulator: the event says what has happened, it does not ask."""
    async with open_stage() as stage:
        stage.app.answers["connected"] = answering(Response(status))
        client = await stage.client()
        client.invoke("1", "say")
        await settle()
        assert client.completions == {"1": Completion("1")}


async def test_connections_to_upstreams_are_kept_and_bounded(autojump_clock) -> None:
    async with open_stage(options=ServiceOptions(upstream_connections=2)) as stage:
        at_once, most = 0, 0

        async def answer(request: Request) -> Response:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await trio.sleep(1)
            at_once -= 1
            return Response(200)

        stage.app.answers["say"] = answer
        clients = [await stage.client(f"c{number}") for number in range(7)]
        for client in clients:
            client.invoke("1", "say")
        await trio.sleep(5)
        assert all(client.completions == {"1": Completion("1")} for client in clients)
        assert most == 2
        assert stage.backend.connections <= 3


# -- what clients do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin",
    [
        lambda client: client.stream("1", "say", 2),
        lambda client: client.invoke("1", "say", streams=["s"]),
    ],
    ids=["stream", "upload"],
)
async def test_streams_are_refused(autojump_clock, begin: Callable[[Client], None]) -> None:
    async with open_stage() as stage:
        client = await stage.client()
        begin(client)
        client.say(StreamItem("s", 1), Completion("s"))
        client.cancel("1")
        client.invoke("2", "after")
        await settle()
        error = "Invocation failed, there are no streams in serverless mode"
        assert client.completions == {"1": Completion("1", error=error), "2": Completion("2")}
        assert stage.app.events == ["connected", "after"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (b'{"type":1}\x1e', "Missing required property 'target'."),
        (b'{"type":1,"target":"t","arguments":7}\x1e', "Expected 'arguments' to be of type Array."),
        (b"not JSON\x1e", "Error reading JSON"),
    ],
)
async def test_bad_input_closes_that_client(autojump_clock, bad: bytes, error: str) -> None:
    async with open_stage() as stage:
        client, other = await stage.client("bad"), await stage.client("good")
        client.send("before")
        client.transport.put(bad + JSON.write(Invocation("behind", [])))
        await client.over.wait()
        await settle()
        assert client.close is not None
        assert (client.close.error or "").startswith("Connection closed with an error.")
        assert stage.app.events_of("bad") == ["connected", "before", "disconnected"]
        [body] = stage.app.bodies("disconnected")
        assert error in body["Error"]
        other.invoke("1", "say")
        await settle()
        assert other.completions == {"1": Completion("1")}


async def test_a_client_that_says_why_it_leaves(autojump_clock) -> None:
    async with open_stage() as stage:
        client = await stage.client()
        farewell = JSON.write(Close("I have seen enough"))
        client.transport.put(farewell + JSON.write(Invocation("behind", [])))
        await settle()
        assert client.over.is_set()
        assert stage.app.events == ["connected", "disconnected"]
        assert stage.app.bodies("disconnected") == [{"Type": 11, "Error": "I have seen enough"}]


async def test_a_client_that_sends_faster_than_upstreams_answer_is_not_read(
    autojump_clock,
) -> None:
    async with open_stage(options=ServiceOptions(hold_limit=100_000)) as stage:
        stage.app.answers["say"] = answering(5.0)
        client, other = await stage.client("c1"), await stage.client("c2")
        client.invoke("0", "say")
        for number in range(60):
            client.send("more", number, "x" * 50_000)
        await settle()
        # 1 MiB waits for the upstream, then the hold of 100 kB is full.
        assert 30 <= client.transport.unread <= 40
        other.invoke("1", "say")
        await trio.sleep(11)
        assert client.transport.unread == 0
        assert [body["arguments"][0] for body in stage.app.bodies("more")] == list(range(60))
        assert other.completions == {"1": Completion("1", "late")}


async def test_a_client_is_pinged_and_may_stay(autojump_clock) -> None:
    async with open_stage() as stage:
        client = await stage.client()
        for _ in range(8):
            client.ping()
            await trio.sleep(10)
        assert client.pings >= 4
        client.invoke("1", "say")
        await settle()
        assert client.completions == {"1": Completion("1")}


async def test_handshakes_that_the_service_refuses_reach_no_upstream(autojump_clock) -> None:
    async with open_stage() as stage:
        client = await stage.client(hello=write_request(HandshakeRequest("xml", 1)))
        assert client.response == {"error": "The protocol 'xml' is not supported."}
        assert stage.app.events == []
        later = await stage.client("c2", hello=HELLO)
        assert later.response == {}


# -- the end ---------------------------------------------------------------------------------------


async def test_a_service_that_stops_tells_clients_and_the_application(autojump_clock) -> None:
    async with open_stage() as stage:
        stage.app.answers["say"] = answering(1.0)
        busy, idle = await stage.client("busy"), await stage.client("idle")
        busy.send("say")
        await settle()
    for client in (busy, idle):
        assert client.close == Close("The service is stopping. Connect again.", True)
    assert stage.app.events_of("idle") == ["connected", "disconnected"]
    assert stage.app.events_of("busy") == ["connected", "say", "disconnected"]


async def test_a_cancelled_block_still_says_who_has_gone(autojump_clock) -> None:
    posted: list[str] = []

    async def send(webhook: Webhook) -> Answer:
        await trio.sleep(1)
        posted.append(webhook.url)
        return Answer(204)

    ends: list[Link] = []
    upstreams = [Upstream("http://app/{hub}/{event}")]
    with trio.CancelScope() as scope:
        async with open_upstreams(
            upstreams, keys=KEYS, send=send, join=lambda hub, link: ends.append(link)
        ) as server:
            server.serve("chat")
            server.serve("chat")
            [link] = ends
            link.send(OpenConnection("c1", protocol="json"))
            link.send(ConnectionData("c1", HELLO))
            await settle()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert posted == ["http://app/chat/connected", "http://app/chat/disconnected"]


async def test_an_upstream_that_is_slow_does_not_keep_the_service(autojump_clock) -> None:
    async with open_stage() as stage:
        stage.app.answers["disconnected"] = answering(1000.0)
        await stage.client()
        began = trio.current_time()
    assert 5.0 <= trio.current_time() - began < 8.0
