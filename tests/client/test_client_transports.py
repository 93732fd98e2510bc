"""Server-sent events and long polling, and which transport is taken."""

from __future__ import annotations

import pytest
import trio
from scripted_hub import POLLING, SSE, URL, WEBSOCKETS, ScriptedHub
from trio.testing import wait_all_tasks_blocked

from signalr_trio.client import ConnectionState, HubConnection
from signalr_trio.errors import (
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    NegotiateError,
    ServerTimeoutError,
)
from signalr_trio.protocol.messages import Close, Completion, Invocation, Ping, StreamItem
from signalr_trio.transport.stream import Flusher

ALL = (WEBSOCKETS, SSE, POLLING)
NEGOTIATE = "POST /test/negotiate"
OVER_HTTP = pytest.mark.parametrize("transport", [SSE, POLLING])


def connecting(hub, **options):
    return HubConnection(URL, network=hub, **{"reconnect": None, **options})


async def answer(client, count=1):
    """Answer the ``count``-th invocation with its arguments."""
    call = await client.received(Invocation, count)
    client.send(Completion(call.invocation_id, call.arguments))


async def echo(connection, client, *arguments):
    """Invoke, with the scripted server answering."""
    result = []
    count = sum(isinstance(message, Invocation) for message in client.got) + 1

    async def invoke():
        result.append(await connection.invoke("Echo", *arguments))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(invoke)
        await answer(client, count)
    return result[0]


# --- Which transport


@pytest.mark.parametrize(
    ("offers", "options", "taken"),
    [
        (ALL, {}, WEBSOCKETS),
        ((POLLING, WEBSOCKETS), {}, POLLING),
        ((SSE, POLLING), {}, SSE),
        (("Pigeons", POLLING), {}, POLLING),
        (ALL, {"transports": (POLLING, SSE)}, SSE),  # in the server's order
        (ALL, {"transports": [POLLING]}, POLLING),
        ((SSE, POLLING), {"protocol": "messagepack"}, POLLING),
        (ALL, {"protocol": "messagepack"}, WEBSOCKETS),
    ],
)
async def test_the_first_that_will_do_is_taken(offers, options, taken):
    async with ScriptedHub(*offers).serving() as hub, connecting(hub, **options) as connection:
        client = await hub.client()
        assert client.transport == taken
        assert client.id == "t1"
        assert client.hello == {"protocol": options.get("protocol", "json"), "version": 1}
        assert connection.connection_id == "c1"
        assert await echo(connection, client, "a", 1) == ["a", 1]
    assert hub.asked.count(NEGOTIATE) == 1


@pytest.mark.parametrize("redirect", [None, "http://other/elsewhere?a=b"])
async def test_after_each_that_fails_there_is_a_new_negotiate(redirect):
    hub = ScriptedHub(*ALL)
    hub.refused = {f"GET {WEBSOCKETS}": 503, f"GET {SSE}": 404}
    hub.redirect = redirect
    async with hub.serving(), connecting(hub, access_token="ours") as connection:
        assert await echo(connection, await hub.client(), 1) == [1]
        assert connection.connection_id == f"c{4 if redirect else 3}"
    begin = hub.asked[: 7 if redirect else 6]
    # Where a redirect has led, we stay.
    negotiate = "POST /elsewhere/negotiate" if redirect else NEGOTIATE
    opened = [f"GET {WEBSOCKETS}", f"GET {SSE}", f"GET {POLLING}"]
    wanted = [request for get in opened for request in (negotiate, get)]
    assert begin == ([NEGOTIATE, *wanted] if redirect else wanted)
    ids = [request.param("id") for request in hub.requests if request.method == "GET"][:3]
    assert ids == (["t2", "t3", "t4"] if redirect else ["t1", "t2", "t3"])
    tokens = [request.header("authorization") for request in hub.requests]
    assert set(tokens[1:]) == {"Bearer theirs" if redirect else "Bearer ours"}


async def test_all_fail():
    hub = ScriptedHub(*ALL)
    hub.refused = {"GET": 503, f"GET {SSE}": 404}
    async with hub.serving():
        with pytest.raises(ConnectionClosed, match="any of the available transports") as caught:
            await connecting(hub).__aenter__()
    text = str(caught.value)
    for part in ("'WebSockets' failed:", "503", "'ServerSentEvents' failed:", "404"):
        assert part in text


@pytest.mark.parametrize(
    ("offers", "options", "text"),
    [
        ((), {}, "it offers none"),
        (("Pigeons",), {}, "'Pigeons' is not known"),
        ((WEBSOCKETS,), {"transports": [SSE]}, "'WebSockets' is disabled by the client"),
        ((SSE,), {"protocol": "messagepack"}, "'ServerSentEvents' does not support Binary"),
    ],
)
async def test_none_will_do(offers, options, text):
    async with ScriptedHub(*offers).serving() as hub:
        with pytest.raises(NegotiateError, match=text):
            await connecting(hub, **options).__aenter__()


@pytest.mark.parametrize(
    "options",
    [
        {"transports": ()},
        {"transports": "WebSockets"},
        {"transports": ["websockets"]},
        {"transports": [SSE], "skip_negotiate": True},
        {"stateful_reconnect": True, "skip_negotiate": True},
    ],
)
def test_options_that_cannot_work(options):
    with pytest.raises(ConfigurationError):
        HubConnection(URL, **options)


async def test_the_transport_is_chosen_anew_at_a_reconnect():
    hub = ScriptedHub(*ALL)
    async with hub.serving(), connecting(hub, reconnect=[0]) as connection:
        again = trio.Event()
        connection.on_reconnected(lambda _: again.set())
        first = await hub.client()
        hub.refused = {f"GET {WEBSOCKETS}": 503}
        first.websocket.abort()
        await again.wait()
        second = await hub.client(2)
        assert (first.transport, second.transport) == (WEBSOCKETS, SSE)
        assert await echo(connection, second, 1) == [1]


# --- Sending


@OVER_HTTP
async def test_one_post_at_a_time_and_what_waits_goes_together(transport):
    hub = ScriptedHub(transport)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        await wait_all_tasks_blocked()
        before = len(client.bodies)
        hub.post_turns = trio.Semaphore(0)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(connection.send, "A", number)
                await wait_all_tasks_blocked()
            assert hub.asked.count("POST") == before + 1
            hub.post_turns.release()
            await client.received(Invocation)
            hub.post_turns.release()
            await client.received(Invocation, 5)
        assert [len(body.split(b"\x1e")) - 1 for body in client.bodies[before:]] == [1, 4]
        calls = [message.arguments for message in client.got if isinstance(message, Invocation)]
        assert calls == [[number] for number in range(5)]
        hub.post_turns = None


@OVER_HTTP
async def test_a_large_burst_is_several_posts(transport):
    hub = ScriptedHub(transport)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        hub.post_turns = trio.Semaphore(0)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(connection.send, "A", "x" * 20_000, number)
                await wait_all_tasks_blocked()
            nursery.start_soon(connection.send, "A", "x" * 200_000, 10)
            await wait_all_tasks_blocked()
            for _ in range(12):
                hub.post_turns.release()
            await client.received(Invocation, 11)
        calls = [message.arguments for message in client.got if isinstance(message, Invocation)]
        assert [number for _, number in calls] == list(range(11))
        large = [body for body in client.bodies if len(body) > 64 * 1024]
        assert [body.count(b"\x1e") for body in large] == [1]
        hub.post_turns = None


@OVER_HTTP
async def test_uploads_wait_for_the_server(transport):
    given = []

    async def items():
        for number in range(20):
            given.append(number)
            yield "x" * 10_000

    hub = ScriptedHub(transport)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        hub.post_turns = trio.Semaphore(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, "Take", items())
            await wait_all_tasks_blocked()
            assert len(given) < 10
            for _ in range(30):
                hub.post_turns.release()
        await client.received(Completion)
        assert given == list(range(20))


@OVER_HTTP
async def test_uploads_get_through(transport):
    async def items():
        for number in range(50):
            yield number, "x" * 10_000

    async with ScriptedHub(transport).serving() as hub, connecting(hub) as connection:
        client = await hub.client()
        await connection.send("Take", items())
        await client.received(Completion)
        sent = [message.item[0] for message in client.got if isinstance(message, StreamItem)]
        assert sent == list(range(50))


@OVER_HTTP
async def test_a_post_that_is_refused_ends_the_connection(transport):
    hub = ScriptedHub(transport)
    async with hub.serving(), connecting(hub) as connection:
        await hub.client()
        await wait_all_tasks_blocked()
        hub.refused = {"POST": 404}
        with pytest.raises(ConnectionClosed, match="status 404"):
            await connection.invoke("Echo")
        with pytest.raises(ConnectionClosed, match="status 404"):
            await connection.wait_closed()
        with pytest.raises(ConnectionClosed):
            await connection.send("Echo")


async def test_a_handshake_that_cannot_be_posted():
    hub = ScriptedHub(SSE)
    hub.refused = {"POST": 500}
    async with hub.serving():
        with pytest.raises(ConnectionClosed, match="status 500"):
            await connecting(hub).__aenter__()


# --- Receiving


@OVER_HTTP
async def test_messages_in_any_division(transport):
    notes = []
    async with ScriptedHub(transport).serving() as hub, connecting(hub) as connection:
        connection.on("note", notes.append)
        client = await hub.client()
        await client.received(Ping) if transport == SSE else None
        client.send(*[Invocation("note", [number]) for number in range(3)])
        client.send_bytes(
            b"" if transport == POLLING else b"raw : comment\n\nevent: x\ndata: 1\n\n"
        )
        if transport == SSE:
            for piece in (b'raw data: {"type":1,"tar', b'raw get":"note",\r', b"raw \ndata: "):
                client.send_bytes(piece)
            client.send_bytes(b'raw "arguments":[3]}\x1e\n\n')
        else:
            client.send(Invocation("note", [3]))
        assert await echo(connection, client, 1) == [1]
    assert notes == [0, 1, 2, 3]


@OVER_HTTP
@pytest.mark.parametrize("close", [Close(), Close("over"), None])
async def test_the_server_ends_it(transport, close):
    async with ScriptedHub(transport).serving() as hub, connecting(hub) as connection:
        client = await hub.client()
        if close is not None:
            client.send(close)
        client.end()
        if close == Close():
            await connection.wait_closed()
        else:
            text = "Server returned an error on close: over" if close else "server has ended"
            with pytest.raises(ConnectionClosed, match=text):
                await connection.wait_closed()


@pytest.mark.parametrize("status", [404, 500, 302])
async def test_a_poll_that_is_refused(status):
    hub = ScriptedHub(POLLING)
    async with hub.serving(), connecting(hub) as connection:
        client = await hub.client()
        await wait_all_tasks_blocked()
        hub.refused = {"GET": status}
        client.send(Ping())
        with pytest.raises(ConnectionClosed, match=f"status {status}"):
            await connection.wait_closed()
    # Who was told so says no more.
    assert "DELETE" not in hub.asked


@OVER_HTTP
async def test_more_at_once_than_the_limit(transport):
    hub = ScriptedHub(transport)
    async with hub.serving(), connecting(hub, max_message_size=1000) as connection:
        client = await hub.client()
        client.send(Invocation("note", ["x" * 1000]))
        with pytest.raises(ConnectionClosed, match=r"(more than 1000|1000B)"):
            await connection.wait_closed()


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", "text/html, not events"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "answered with nothing"),
        (b"HTTP/1.1 204 No\r\n\r\n", "status 204"),
        (b"nonsense\r\n\r\n", "bad HTTP"),
        (b"", "unanswered"),
        (None, "did not answer in 15 s"),
    ],
)
async def test_what_are_no_events(head, text, autojump_clock):
    class Odd(ScriptedHub):
        async def _serve_events(self, stream, data):
            if head is None:
                await trio.sleep_forever()
            await stream.send_all(head)

    async with Odd(SSE).serving() as hub:
        with pytest.raises(ConnectionClosed, match=text):
            await connecting(hub).__aenter__()
        hub._nursery.cancel_scope.cancel()


async def test_what_the_first_poll_brings_is_not_lost():
    class Hasty(ScriptedHub):
        async def _handle_long_polling(self, request):
            response = await super()._handle_long_polling(request)
            client = await self.client()
            if self.asked.count(f"GET {POLLING}") == 1:
                client.send_bytes = lambda data: None  # no second response
                response.body = b"{}\x1e"
            elif client.hello:
                client.__dict__.pop("send_bytes", None)
            return response

    async with Hasty(POLLING).serving() as hub, connecting(hub) as connection:
        assert await echo(connection, await hub.client(), 1) == [1]


# --- Time


async def test_long_polling_has_no_pings_and_no_server_timeout(autojump_clock):
    async with ScriptedHub(POLLING).serving() as hub, connecting(hub) as connection:
        client = await hub.client()
        await trio.sleep(250)
        assert client.got == []
        # A poll that nobody answers is made anew after 100 s.
        assert hub.asked.count(f"GET {POLLING}") >= 4
        assert connection.state is ConnectionState.CONNECTED


async def test_server_sent_events_have_both(autojump_clock):
    async with ScriptedHub(SSE).serving() as hub, connecting(hub) as connection:
        client = await hub.client()
        await trio.sleep(29)
        assert client.got == [Ping(), Ping()]
        client.send_bytes(b"raw :\n")  # a part of nothing is life too
        await trio.sleep(29)
        assert connection.state is ConnectionState.CONNECTED
        with pytest.raises(ServerTimeoutError):
            await connection.wait_closed()
        assert client.ended


@OVER_HTTP
async def test_a_handshake_that_is_not_answered(transport, autojump_clock):
    class Silent(ScriptedHub):
        def _opened(self, transport, request):
            client = super()._opened(transport, request)
            client.take = client.bodies.append
            return client

    async with Silent(transport).serving() as hub:
        with pytest.raises(HandshakeError, match="did not answer the handshake"):
            await connecting(hub).__aenter__()


# --- The end


@OVER_HTTP
async def test_leaving_says_so(transport):
    async with ScriptedHub(transport).serving() as hub:
        async with connecting(hub) as connection:
            client = await hub.client()
            await connection.send("Last", 1)
        await wait_all_tasks_blocked()
        assert client.got[-2:] == [Invocation("Last", [1]), Close()]
        assert client.ended
    assert hub.asked[-1] == ("DELETE" if transport == POLLING else "POST")


@OVER_HTTP
@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
async def test_leaving_is_bounded_where_the_server_answers_nothing(transport, how, autojump_clock):
    hub = ScriptedHub(transport)
    async with hub.serving():
        with trio.CancelScope() as scope:
            async with connecting(hub):
                await hub.client()
                await wait_all_tasks_blocked()
                hub.post_turns = trio.Semaphore(0)
                start = trio.current_time()
                if how == "is cancelled":
                    scope.cancel()
        assert 4.9 < trio.current_time() - start < 5.1
        hub._nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ALL)
@pytest.mark.parametrize("steps", range(12))
async def test_a_cancelled_connect_leaves_nothing_open(transport, steps):
    """The checks are in ``serving``."""
    async with ScriptedHub(transport).serving() as hub:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel():
                    for _ in range(3 * steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                async with connecting(hub):
                    await trio.sleep_forever()


@OVER_HTTP
async def test_a_flusher_that_is_cancelled_first(transport):
    flusher = Flusher()
    async with ScriptedHub(transport).serving() as hub, trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        async with connecting(hub, flusher=flusher) as connection:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), pytest.raises(ConnectionClosed):
                await connection.invoke("A")


@OVER_HTTP
async def test_every_request_has_the_token(transport):
    hub = ScriptedHub(transport)
    options = {"access_token": "s3cret", "headers": [("X-Own", "1")]}
    async with hub.serving(), connecting(hub, **options) as connection:
        assert await echo(connection, await hub.client(), 1) == [1]
    assert {request.header("authorization") for request in hub.requests} == {"Bearer s3cret"}
    assert {request.header("x-own") for request in hub.requests} == {"1"}
    assert {request.header("x-requested-with") for request in hub.requests} == {"XMLHttpRequest"}


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [("json", "text/plain;charset=UTF-8"), ("messagepack", "application/octet-stream")],
)
async def test_what_a_post_says_it_has(protocol, kind):
    async with ScriptedHub(POLLING).serving() as hub, connecting(hub, protocol=protocol):
        await hub.client()
    posts = [request for request in hub.requests if request.method == "POST"][1:]
    assert {request.header("content-type") for request in posts} == {kind}


async def test_logs_and_errors_hold_no_secrets(caplog):
    caplog.set_level("DEBUG", "signalr_trio")
    hub = ScriptedHub(*ALL)
    hub.refused = {f"GET {WEBSOCKETS}": 503}
    async with hub.serving():
        connection = HubConnection(f"{URL}?access_token=s3cret", network=hub, reconnect=None)
        async with connection:
            hub.refused = {"POST": 500}
            with pytest.raises(ConnectionClosed) as caught:
                await connection.invoke("A")
    assert caplog.records
    for text in [caplog.text, str(caught.value), repr(connection)]:
        assert "s3cret" not in text
