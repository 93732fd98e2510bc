"""Server-sent events and long polling over HTTP in memory, as ASP.NET Core SignalR answers them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from harness.clients import HELLO, JSON
from harness.cluster import Cluster, settle
from harness.memory_network import MemoryNetwork
from harness.raw_http import RawHttp, Reply

from signalr_trio import ConnectionMigrationFeature, GracefulShutdown, Hub, HubServer
from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import Close, Completion, HubMessage, Invocation, Ping
from signalr_trio.service.front_door import open_service
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.service import Service
from signalr_trio.service.session import ClientSession
from signalr_trio.tokens import make_token
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import connect_websocket

ENDPOINT = parse_connection_string(DEVELOPMENT)
MSGPACK = MessagePackProtocol()
PORT = 8888
SHORT_LIMIT = 70_000
EVENTS = {"Accept": "text/event-stream"}
#: What no answer to a poll may be without.
NOT_KEPT = {
    "cache-control": "no-cache, no-store",
    "expires": "Thu, 01 Jan 1970 00:00:00 GMT",
    "pragma": "no-cache",
}
CONVERSATION = "ServerSentEvents", "LongPolling"


class Chat(Hub):
    left: list[tuple[str, str | None]]

    async def on_disconnected(self, error: Exception | None) -> None:
        feature = self.context.features.get(ConnectionMigrationFeature)
        to = feature.migrate_to if feature is not None else None
        type(self).left.append((self.context.connection_id, to))

    async def echo(self, value: Any) -> Any:
        return value

    async def slow(self, value: Any) -> Any:
        await trio.sleep(1)
        return value

    async def go(self) -> None:
        self.context.abort()


@attrs.define
class House:
    """A service with hub server A."""

    network: MemoryNetwork
    cluster: Cluster
    hub: type[Chat]
    a: HubServer

    @property
    def service(self) -> Service:
        return self.cluster.service

    async def wire(self) -> RawHttp:
        return await RawHttp.connect(self.network, PORT)

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        wire = await self.wire()
        sent = {**authorized(), **(headers or {})}
        reply = await wire.ask(method, target, body=body, headers=sent)
        await wire.drop()
        return reply

    async def negotiate(self) -> str:
        """The path of a connection that is yet to be made."""
        reply = await self.ask("POST", "/client/negotiate?hub=chat&negotiateVersion=1")
        return f"/client/?hub=chat&id={json.loads(reply.body)['connectionToken']}"

    async def talk(self, transport: str) -> Talk:
        """A client whose handshake is through."""
        talk: Talk
        if transport == "LongPolling":
            talk = Polling(self, await self.negotiate())
            await talk.poll()
        else:
            talk = Listening(self, await self.negotiate(), await self.wire())
            await talk.open()
        await talk.post(HELLO)
        assert await talk.hear() == b"{}\x1e"
        return talk


class Talk:
    """A client on one of the two."""

    def __init__(self, house: House, path: str) -> None:
        self.house = house
        self.path = path
        self.splitter = JSON.splitter(None)

    async def post(self, data: bytes) -> None:
        assert (await self.house.ask("POST", self.path, data)).status == 200

    async def call(self, id: str, target: str, *arguments: Any) -> None:
        await self.post(JSON.write(Invocation(target, arguments, id)))

    async def hear(self) -> bytes | None:
        """What comes next; None: nothing will any more."""
        raise NotImplementedError

    async def messages(self, count: int) -> list[HubMessage]:
        """The next messages, but pings."""
        found: list[HubMessage] = []
        while len(found) < count:
            heard = await self.hear()
            assert heard is not None
            parsed = [JSON.parse(frame) for frame in self.splitter.feed(heard)]
            found += [one for one in parsed if one is not None and not isinstance(one, Ping)]
        return found

    async def drop(self) -> None:
        raise NotImplementedError


class Polling(Talk):
    async def poll(self) -> Reply:
        reply = await self.house.ask("GET", self.path)
        assert {name: reply.headers.get(name) for name in NOT_KEPT} == NOT_KEPT
        return reply

    async def hear(self) -> bytes | None:
        reply = await self.poll()
        assert reply.headers["content-type"] == (
            "application/octet-stream" if reply.body else "text/plain"
        )
        return None if reply.status == 204 else reply.body

    async def drop(self) -> None:
        """It is gone when it has not polled for a while."""
        await trio.sleep(17)


class Listening(Talk):
    def __init__(self, house: House, path: str, wire: RawHttp) -> None:
        super().__init__(house, path)
        self.wire = wire

    async def open(self) -> None:
        await self.wire.send("GET", self.path, headers={**EVENTS, **authorized()})
        head = await self.wire.head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream"
        assert head.headers["cache-control"] == "no-cache,no-store"
        assert await self.wire.piece() == b":\r\n"

    async def hear(self) -> bytes | None:
        event = b""
        while not event.endswith(b"\r\n\r\n"):
            piece = await self.wire.piece()
            if piece is None:
                assert not event
                return None
            event += piece
        assert event.startswith(b"data: ")
        return event[6:-4].replace(b"\r\ndata: ", b"\n")

    async def drop(self) -> None:
        await self.wire.drop()
        await trio.sleep(0.1)


def authorized() -> dict[str, str]:
    token = make_token(ENDPOINT.access_key, ENDPOINT.client_audience("chat"))
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def house(autojump_clock) -> AsyncIterator[House]:
    network = MemoryNetwork()
    hub = type("Chat", (Chat,), {"left": []})
    async with (
        open_service(network=network, options=ServiceOptions(max_message_size=200_000)) as running,
        trio.open_nursery() as nursery,
    ):
        cluster = Cluster(running.service, nursery)
        shutdown = GracefulShutdown("migrate_clients", timeout=20)
        yield House(network, cluster, hub, await cluster.serve(hub, id="A", shutdown=shutdown))
        nursery.cancel_scope.cancel()


# -- a conversation ---------------------------------------------------------------------------


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_a_conversation(autojump_clock, house: House, transport: str) -> None:
    talk = await house.talk(transport)
    await talk.call("1", "Echo", "Grüße")
    await talk.call("2", "Echo", "x" * 100_000)
    assert await talk.messages(2) == [
        Completion("1", "Grüße"),
        Completion("2", "x" * 100_000),
    ]
    await talk.call("3", "Go")
    (last,) = await talk.messages(1)
    assert isinstance(last, Close)
    assert await talk.hear() is None
    await settle()
    assert (await house.ask("POST", talk.path, b"late")).status == 404
    assert len(house.hub.left) == 1


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_messages_may_come_in_pieces(autojump_clock, house: House, transport: str) -> None:
    """Half of one in a post; and many in one."""
    talk = await house.talk(transport)
    calls = b"".join(JSON.write(Invocation("Echo", [n], str(n))) for n in range(5))
    await talk.post(calls[:10])
    await talk.post(calls[10:])
    assert await talk.messages(5) == [Completion(str(n), n) for n in range(5)]


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_a_client_that_goes_is_gone(autojump_clock, house: House, transport: str) -> None:
    talk = await house.talk(transport)
    assert house.service.client_count == 1
    await talk.drop()
    await settle()
    assert len(house.hub.left) == 1
    assert house.service.client_count == 0
    assert (await house.ask("POST", talk.path, b"late")).status == 404


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_a_bad_message_closes_that_client(
    autojump_clock, house: House, transport: str
) -> None:
    talk = await house.talk(transport)
    other = await house.talk(transport)
    await talk.post(b"no JSON\x1e")
    (last,) = await talk.messages(1)
    assert isinstance(last, Close)
    assert last.error is not None
    assert await talk.hear() is None
    await other.call("1", "Echo", 1)
    assert await other.messages(1) == [Completion("1", 1)]


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_a_handshake_that_never_comes(autojump_clock, house: House, transport: str) -> None:
    path = await house.negotiate()
    talk = (
        Polling(house, path)
        if transport == "LongPolling"
        else Listening(house, path, await house.wire())
    )
    await (talk.poll() if isinstance(talk, Polling) else talk.open())
    assert await talk.hear() == b'{"error":"Handshake was canceled."}\x1e'
    assert await talk.hear() is None


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_what_is_posted_before_the_first_get_is_kept(
    autojump_clock, house: House, transport: str
) -> None:
    path = await house.negotiate()
    assert (await house.ask("POST", path, HELLO)).status == 200
    talk: Talk
    if transport == "LongPolling":
        talk = Polling(house, path)
        await talk.poll()
    else:
        talk = Listening(house, path, await house.wire())
        await talk.open()
    assert await talk.hear() == b"{}\x1e"


@asynccontextmanager
async def unread_client(house: House, transport: str) -> AsyncIterator[Talk]:
    """A client that is not read for the block, since the holds are full."""
    talk = await house.talk(transport)
    session = next(iter(house.service.hub("chat").sessions.values()))
    size = session.service.options.hold_total + 1
    session.pause()
    session.service.held_size += size
    # One is read before the hold is looked at.
    await talk.post(JSON.write(Invocation("Echo", ["read"])))
    await settle()
    yield talk
    session.service.give_back(size)
    session.resume()


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_posts_that_wait_go_with_who_posted(
    autojump_clock, house: House, transport: str
) -> None:
    """Else requests of clients that hung up would pile up, whole, while the session is not read."""
    async with unread_client(house, transport) as talk:
        before = count_tasks()
        wires = [await house.wire() for _ in range(3)]
        for wire in wires:
            body = JSON.write(Invocation("Echo", ["x" * SHORT_LIMIT]))
            await wire.send("POST", talk.path, body=body, headers=authorized())
        await settle()
        assert count_tasks() > before
        for wire in wires:
            await wire.drop()
        await settle()
        assert count_tasks() == before


def count_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("stateful", ["", "&useStatefulReconnect=true"])
async def test_what_is_posted_before_a_websocket_waits_for_nobody(
    autojump_clock, house: House, stateful: str
) -> None:
    """Nobody will ever receive it: its request would stay for good."""
    query = f"hub=chat&negotiateVersion=1{stateful}"
    negotiated = await house.ask("POST", f"/client/negotiate?{query}")
    path = f"/client/?hub=chat&id={json.loads(negotiated.body)['connectionToken']}"
    flusher = Flusher()
    answered = trio.Event()

    async def post() -> None:
        await house.ask("POST", path, b"x" * SHORT_LIMIT)
        answered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        nursery.start_soon(post)
        await settle()
        assert not answered.is_set()
        with trio.fail_after(60):
            async with connect_websocket(
                f"http://localhost:{PORT}{path}",
                flusher=flusher,
                headers=list(authorized().items()),
                network=house.network,
            ):
                await answered.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_posts_wait_while_the_client_is_not_read(
    autojump_clock, house: House, transport: str
) -> None:
    """Its post is answered when there is room again."""
    done = trio.Event()

    async def post(talk: Talk) -> None:
        await talk.post(JSON.write(Invocation("Echo", ["x" * SHORT_LIMIT])))
        done.set()

    async with trio.open_nursery() as nursery:
        async with unread_client(house, transport) as talk:
            nursery.start_soon(post, talk)
            await trio.sleep(1)
            assert not done.is_set()
        await done.wait()


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_a_post_may_have_four_times_the_largest_message(
    autojump_clock, house: House, transport: str
) -> None:
    """One that has more is as if it never was."""
    talk = await house.talk(transport)
    size = house.service.options.max_message_size
    text = "x" * (size - len(JSON.write(Invocation("Echo", [""], "1"))))
    data = b"".join(JSON.write(Invocation("Echo", [text], str(n))) for n in range(4))
    assert len(data) == 4 * size
    assert (await house.ask("POST", talk.path, data + JSON.write(Ping()))).status == 413
    assert (await house.ask("POST", talk.path, data)).status == 200
    assert await talk.messages(4) == [Completion(str(n), text) for n in range(4)]


# -- in a hand-over ---------------------------------------------------------------------------


@pytest.mark.parametrize("transport", CONVERSATION)
async def test_a_hand_over(autojump_clock, house: House, transport: str) -> None:
    """A call is running, and others follow: the client notices nothing."""
    talk = await house.talk(transport)
    idle = await house.talk(transport)
    await house.cluster.serve(Chat, id="B")
    await talk.call("1", "Slow", "on A")
    house.a.request_shutdown()
    await trio.sleep(0.1)
    for n in range(2, 5):
        await talk.call(str(n), "Echo", n)
    expected = [Completion("1", "on A"), *(Completion(str(n), n) for n in range(2, 5))]
    assert await talk.messages(4) == expected
    await idle.call("1", "Echo", "there")
    assert await idle.messages(1) == [Completion("1", "there")]
    report = await house.a.shutdown()
    assert report.migrated == 2
    assert [to for _, to in house.hub.left] == ["B", "B"]


# -- long polling -----------------------------------------------------------------------------


async def test_the_first_poll_is_answered_at_once(autojump_clock, house: House) -> None:
    reply = await Polling(house, await house.negotiate()).poll()
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-type"] == "application/octet-stream"


async def test_a_poll_without_messages(autojump_clock, house: House) -> None:
    talk = await house.talk("LongPolling")
    began = trio.current_time()
    assert await talk.hear() == b""
    assert trio.current_time() - began == pytest.approx(90, abs=1)
    await talk.call("1", "Echo", 1)
    assert await talk.messages(1) == [Completion("1", 1)]


async def test_a_second_poll_ends_the_first(autojump_clock, house: House) -> None:
    talk = await house.talk("LongPolling")
    assert isinstance(talk, Polling)
    wires = [await house.wire() for _ in range(2)]
    for wire in wires:
        await wire.send("GET", talk.path, headers=authorized())
        await settle()
    assert (await wires[0].reply()).status == 204
    await talk.call("1", "Echo", 1)
    reply = await wires[1].reply()
    assert JSON.parse(reply.body) == Completion("1", 1)


async def test_what_comes_while_a_poll_is_dropped_is_in_the_next(
    autojump_clock, house: House
) -> None:
    talk = await house.talk("LongPolling")
    wire = await house.wire()
    await wire.send("GET", talk.path, headers=authorized())
    await settle()
    await wire.drop()
    await settle()
    await talk.call("1", "Echo", 1)
    await settle()
    assert await talk.messages(1) == [Completion("1", 1)]


async def test_requests_follow_each_other_on_a_connection(autojump_clock, house: House) -> None:
    """Also where the next was sent before the answer to the poll had come."""
    talk = await house.talk("LongPolling")
    wire = await house.wire()
    await wire.send("GET", talk.path, headers=authorized())
    await settle()
    await talk.call("1", "Echo", 1)
    assert JSON.parse((await wire.reply()).body) == Completion("1", 1)
    await talk.call("2", "Echo", 2)
    reply = await wire.ask("GET", talk.path, headers=authorized())
    assert JSON.parse(reply.body) == Completion("2", 2)


async def test_delete_ends_it(autojump_clock, house: House) -> None:
    talk = await house.talk("LongPolling")
    wire = await house.wire()
    await wire.send("GET", talk.path, headers=authorized())
    await settle()
    reply = await house.ask("DELETE", talk.path)
    assert (reply.status, reply.body, reply.headers["content-type"]) == (202, b"", "text/plain")
    assert JSON.parse((await wire.reply()).body) == Close(None, allow_reconnect=True)
    for method in ("GET", "POST", "DELETE"):
        assert (await house.ask(method, talk.path)).status == 404
    assert len(house.hub.left) == 1


async def test_messagepack_over_polls(autojump_clock, house: House) -> None:
    talk = Polling(house, await house.negotiate())
    await talk.poll()
    await talk.post(write_request(HandshakeRequest("messagepack", 1)))
    assert await talk.hear() == b"{}\x1e"
    await talk.post(MSGPACK.write(Invocation("Echo", [b"\x00\xff"], "1")))
    assert MSGPACK.parse(await talk.hear() or b"") == Completion("1", b"\x00\xff")


async def test_no_pings_over_polls(autojump_clock, house: House) -> None:
    talk = await house.talk("LongPolling")
    assert await talk.hear() == b""


@asynccontextmanager
async def stopping(seconds: float) -> AsyncIterator[House]:
    """A service that takes so long to stop."""
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        async with open_service(network=network) as running:
            cluster = Cluster(running.service, nursery)
            hub = type("Chat", (Chat,), {"left": []})
            yield House(network, cluster, hub, await cluster.serve(hub, id="A"))
            began = trio.current_time()
        assert trio.current_time() == began + seconds
        nursery.cancel_scope.cancel()


async def test_an_error_of_our_own_ends_one_client(
    autojump_clock, house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever transport it has: the session of one that polls is in nobody's request."""
    pass_on = ClientSession._pass_on

    def fail(session: ClientSession, messages: list[bytes]) -> None:
        if any(b"boom" in message for message in messages):
            raise RuntimeError("a bug of ours")
        pass_on(session, messages)

    monkeypatch.setattr(ClientSession, "_pass_on", fail)
    talks = [await house.talk(transport) for transport in CONVERSATION]
    other = await house.talk("LongPolling")
    for talk in talks:
        await talk.call("1", "boom")
    await trio.sleep(6)
    await other.call("1", "Echo", 7)
    assert await other.messages(1) == [Completion("1", 7)]
    assert caplog.text.count("RuntimeError: a bug of ours") == len(talks)
    assert house.service.client_count == 1


def assert_is_farewell(reply: Reply) -> None:
    close = JSON.parse(reply.body)
    assert isinstance(close, Close)
    assert close.allow_reconnect


async def test_a_service_that_stops_says_so_to_who_polls(autojump_clock) -> None:
    """And does not wait for these clients to come once more."""
    async with stopping(seconds=0) as house:
        wires: list[RawHttp] = []
        for _ in range(10):
            talk = await house.talk("LongPolling")
            wires.append(await house.wire())
            await wires[-1].send("GET", talk.path, headers=authorized())
        await settle()
    for wire in wires:
        assert_is_farewell(await wire.reply())


async def test_a_service_that_stops_waits_for_the_next_poll(autojump_clock) -> None:
    async with stopping(seconds=1) as house, trio.open_nursery() as nursery:
        talk = await house.talk("LongPolling")
        wire = await house.wire()

        async def come_later() -> None:
            await trio.sleep(1)
            assert_is_farewell(await wire.ask("GET", talk.path, headers=authorized()))

        house.cluster.nursery.start_soon(come_later)
        nursery.cancel_scope.cancel()


async def test_a_service_that_stops_does_not_wait_for_ever(autojump_clock) -> None:
    async with stopping(seconds=2) as house:
        await house.talk("LongPolling")


async def test_whom_a_service_that_stops_does_not_wait_for(autojump_clock) -> None:
    """They have left, or had their Close before, or are not connected."""
    async with stopping(seconds=0) as house:
        for _ in range(2):
            gone = await house.talk("LongPolling")
            assert (await house.ask("DELETE", gone.path)).status == 202
        told = await house.talk("LongPolling")
        await told.call("1", "Go")
        assert [type(one) for one in await told.messages(1)] == [Close]
        await house.negotiate()


async def test_who_has_its_close_may_ask_once_more(autojump_clock, house: House) -> None:
    """As long as the service does not stop: 204, then 404."""
    talk = await house.talk("LongPolling")
    await talk.call("1", "Go")
    await talk.messages(1)
    assert await talk.hear() is None
    await settle()
    assert (await house.ask("GET", talk.path)).status == 404


async def test_a_client_that_was_deleted_leaves_nothing(autojump_clock, house: House) -> None:
    """Also where no poll waits for its Close."""
    talk = await house.talk("LongPolling")
    assert (await house.ask("DELETE", talk.path)).status == 202
    await settle()
    assert house.service.client_count == 0


# -- server-sent events -----------------------------------------------------------------------


async def test_events_have_pings(autojump_clock, house: House) -> None:
    talk = await house.talk("ServerSentEvents")
    assert await talk.hear() == JSON.write(Ping())


async def test_who_sends_on_and_then_goes_is_gone(autojump_clock, house: House) -> None:
    """What comes behind the request for events is not read for ever, and the end comes behind it."""
    talk = await house.talk("ServerSentEvents")
    assert isinstance(talk, Listening)
    for _ in range(5):
        await talk.wire.send_more(b"x" * 16384)
    await talk.wire.drop()
    await trio.sleep(40)
    assert house.service.client_count == 0
    assert len(house.hub.left) == 1


async def test_messagepack_is_refused_on_events(autojump_clock, house: House) -> None:
    path = await house.negotiate()
    talk = Listening(house, path, await house.wire())
    await talk.open()
    await talk.post(write_request(HandshakeRequest("messagepack", 1)))
    error = (
        "Cannot use the 'messagepack' protocol on the current transport. "
        "The transport does not support 'Binary' transfer format."
    )
    assert json.loads((await talk.hear() or b"").rstrip(b"\x1e")) == {"error": error}
    assert await talk.hear() is None


async def test_the_connection_goes_on_behind_the_last_event(autojump_clock, house: House) -> None:
    talk = await house.talk("ServerSentEvents")
    assert isinstance(talk, Listening)
    await talk.call("1", "Go")
    await talk.messages(1)
    assert await talk.hear() is None
    assert (await talk.wire.ask("GET", "/api/health")).status == 200


# -- requests that mean nothing ---------------------------------------------------------------

POLL: dict[str, str] = {}
WRONG = [
    ("GET", "/client/?hub=chat", POLL, 400, "Connection ID required"),
    ("GET", "/client/?hub=chat&id=", POLL, 400, "Connection ID required"),
    ("GET", "/client/?hub=chat", EVENTS, 400, "Connection ID required"),
    ("POST", "/client/?hub=chat", POLL, 400, "Connection ID required"),
    ("DELETE", "/client/?hub=chat", POLL, 400, "Connection ID required"),
    ("GET", "/client/?hub=chat&id=x", POLL, 404, "No Connection with that ID"),
    ("GET", "/client/?hub=chat&id=x", EVENTS, 404, "No Connection with that ID"),
    ("GET", "{new}&id=x", POLL, 404, "No Connection with that ID"),
    ("POST", "/client/?hub=chat&id=x", POLL, 404, "No Connection with that ID"),
    ("DELETE", "/client/?hub=chat&id=x", POLL, 404, "No Connection with that ID"),
    ("GET", "{polling}", EVENTS, 400, "Cannot change transports mid-connection"),
    ("GET", "{events}", POLL, 400, "Cannot change transports mid-connection"),
    ("GET", "{events}", EVENTS, 409, ""),
    ("DELETE", "{new}", POLL, 400, "Cannot terminate this connection using the DELETE endpoint."),
    (
        "DELETE",
        "{events}",
        POLL,
        400,
        "Cannot terminate this connection using the DELETE endpoint.",
    ),
    ("PUT", "{polling}", POLL, 405, ""),
    ("HEAD", "{events}", POLL, 405, ""),
]


@pytest.mark.parametrize(("method", "target", "headers", "status", "text"), WRONG)
async def test_requests_that_mean_nothing(
    autojump_clock,
    house: House,
    method: str,
    target: str,
    headers: dict[str, str],
    status: int,
    text: str,
) -> None:
    """Each is told so, and disturbs no connection."""
    polling = await house.talk("LongPolling")
    events = await house.talk("ServerSentEvents")
    paths = {"polling": polling.path, "events": events.path, "new": await house.negotiate()}
    reply = await house.ask(method, target.format(**paths), headers=headers)
    assert (reply.status, reply.body.decode()) == (status, text)
    assert reply.headers["content-type"] == "text/plain"
    for talk in (polling, events):
        await talk.call("1", "Echo", 1)
        assert await talk.messages(1) == [Completion("1", 1)]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_every_request_needs_its_token(autojump_clock, house: House, method: str) -> None:
    talk = await house.talk("LongPolling")
    wire = await house.wire()
    assert (await wire.ask(method, talk.path)).status == 401
    await talk.call("1", "Echo", 1)
    assert await talk.messages(1) == [Completion("1", 1)]


async def test_an_id_that_nobody_came_for(autojump_clock, house: House) -> None:
    path = await house.negotiate()
    assert (await house.ask("POST", path, HELLO)).status == 200
    await trio.sleep(17)
    assert (await house.ask("GET", path)).status == 404
    assert not house.service.http_connections


async def test_transports_that_are_not_offered(autojump_clock) -> None:
    network = MemoryNetwork()
    options = ServiceOptions(transports=("LongPolling",))
    async with (
        open_service(network=network, options=options) as running,
        trio.open_nursery() as nursery,
    ):
        cluster = Cluster(running.service, nursery)
        house = House(network, cluster, Chat, await cluster.serve(Chat, id="A"))
        reply = await house.ask("POST", "/client/negotiate?hub=chat&negotiateVersion=1")
        offered = json.loads(reply.body)["availableTransports"]
        assert offered == [{"transport": "LongPolling", "transferFormats": ["Text", "Binary"]}]
        reply = await house.ask("GET", await house.negotiate(), headers=EVENTS)
        assert reply.status == 404
        assert b"ServerSentEvents transport not supported" in reply.body
        nursery.cancel_scope.cancel()
