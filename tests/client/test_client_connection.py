"""The life of a hub connection, against a scripted server on loopback."""

from __future__ import annotations

from copy import copy

import attrs
import pytest
import trio
from scripted import Peer, ScriptedServer, answer, echo, serving

from signalr_trio.client import ConnectionState, HubConnection
from signalr_trio.errors import (
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    NegotiateError,
    ProtocolError,
)
from signalr_trio.protocol.messages import Close, Completion, Invocation, Ping
from signalr_trio.transport.stream import Flusher

AT_ONCE = (0, 0, 0.01, 0.05)


async def lose(peer: Peer) -> None:
    await peer.receive(Ping)  # sent after the handshake
    peer.websocket.abort()
    await trio.sleep_forever()


async def lose_at_a_call(peer: Peer) -> None:
    await peer.receive(Invocation)
    peer.websocket.abort()
    await trio.sleep_forever()


def say(*messages, then=echo):
    async def script(peer: Peer) -> None:
        peer.send(*messages)
        await then(peer)

    return script


async def leave(_: Peer) -> None:
    """The server closes the WebSocket."""


class Notices:
    """What the connection tells."""

    def __init__(self, connection):
        self.log = []
        self.reconnected = trio.Event()
        self.again = trio.Event()
        connection.on_reconnecting(lambda error: self.log.append(("reconnecting", error)))
        connection.on_reconnected(self._reconnected)
        connection.on_close(lambda error: self.log.append(("close", error)))

    async def _reconnected(self, connection_id):
        await trio.lowlevel.checkpoint()
        self.log.append(("reconnected", connection_id))
        (self.again if self.reconnected.is_set() else self.reconnected).set()

    @property
    def names(self):
        return [name for name, _ in self.log]


async def test_states_and_a_proper_end():
    async with serving(ScriptedServer(say(Invocation("hello", ["world"])))) as server:
        connection = HubConnection(server.url)
        notices = Notices(connection)
        greeted = trio.Event()
        connection.on("Hello", lambda _: greeted.set())
        assert connection.state is ConnectionState.DISCONNECTED
        async with connection as entered:
            assert entered is connection
            assert connection.state is ConnectionState.CONNECTED
            assert connection.connection_id == "c1"
            assert await connection.invoke("Echo", 1, "a") == [1, "a"]
            await connection.send("Echo", 2)
            await greeted.wait()
        assert connection.state is ConnectionState.DISCONNECTED
        assert connection.connection_id is None
        await connection.wait_closed()
        with pytest.raises(ConnectionClosed, match="'Disconnected'"):
            await connection.invoke("Echo")
        with pytest.raises(RuntimeError):
            await connection.__aenter__()
    assert notices.log == [("close", None)]
    assert server.codes == [1000]


async def test_leaving_says_close_and_fails_what_waits():
    called = trio.Event()
    seen = []

    async def script(peer):
        await peer.receive(Invocation)
        called.set()
        seen.append(await peer.receive(Close))

    async def wait(connection):
        with pytest.raises(ConnectionClosed):
            await connection.invoke("Never")
        seen.append("failed")

    async with (
        serving(ScriptedServer(script)) as server,
        trio.open_nursery() as nursery,
        HubConnection(server.url) as connection,
    ):
        nursery.start_soon(wait, connection)
        await called.wait()
    assert sorted(seen, key=str) == [Close(), "failed"]
    assert server.codes == [1000]


@pytest.mark.parametrize("flush_own", [True, False])
async def test_leaving_when_cancelled_is_as_proper(flush_own):
    seen = []

    async def script(peer):
        seen.append(await peer.receive(Close))

    async with serving(ScriptedServer(script)) as server, trio.open_nursery() as nursery:
        flusher = None if flush_own else Flusher()
        if flusher is not None:
            nursery.start_soon(flusher.run)
        with trio.CancelScope() as scope:
            async with HubConnection(server.url, flusher=flusher):
                scope.cancel()
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    assert scope.cancelled_caught
    assert seen == [Close()]
    assert server.codes == [1000]


async def raise_when_cancelled(url, error):
    with trio.CancelScope() as scope:
        async with HubConnection(url):
            scope.cancel()
            raise error


async def test_an_error_of_the_block_comes_out_as_it_is():
    async with serving(ScriptedServer()) as server:
        boom = KeyError("boom")
        with pytest.raises(KeyError) as caught:
            async with HubConnection(server.url):
                raise boom
        assert caught.value is boom
        with pytest.raises(KeyError):
            await raise_when_cancelled(server.url, boom)
    assert server.codes == [1000, 1000]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"answers": [answer(404, b"")]}, NegotiateError),
        ({"handshake_response": b'{"error":"no"}\x1e'}, HandshakeError),
        ({"handshake_response": b""}, HandshakeError),
        ({"scripts": [leave], "handshake_response": b"{"}, ConnectionClosed),
    ],
)
async def test_a_start_that_fails(change, error):
    server = ScriptedServer()
    for name, value in change.items():
        setattr(server, name, copy(value))
    async with serving(server):
        connection = HubConnection(server.url, handshake_timeout=0.2, reconnect=AT_ONCE)
        notices = Notices(connection)
        with pytest.raises(error):
            await connection.__aenter__()
        assert connection.state is ConnectionState.DISCONNECTED
    assert notices.log == []
    assert server.clients <= 1


async def test_nobody_there():
    async with serving(ScriptedServer()) as server:
        pass
    with pytest.raises(ConnectionClosed):
        await HubConnection(server.url).__aenter__()


def test_what_cannot_work():
    with pytest.raises(ConfigurationError, match="'nosuch' is no hub protocol"):
        HubConnection("http://a/b", protocol="nosuch")
    assert "hidden" not in repr(HubConnection("http://a/b?access_token=hidden"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep_alive", 0),
        ("keep_alive", float("nan")),
        ("server_timeout", -1),
        ("handshake_timeout", 0),
        ("max_message_size", 0),
        ("reconnect", [0, -1]),
        ("reconnect", [float("nan")]),
    ],
)
def test_numbers_that_cannot_work(name, value):
    """No keep-alive time would be a task that never waits, and -1 an error at the first loss."""
    with pytest.raises(ConfigurationError, match=name):
        HubConnection("http://a/b", **{name: value})


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "secret\r\nB: c"},
        {"X": "secret\u4e2d"},
        {"X y": "secret"},
        {"\u00e9": "1"},
        {"": "1"},
        {"X": 5},
    ],
    ids=repr,
)
@pytest.mark.parametrize("skip_negotiate", [True, False])
def test_headers_that_http_does_not_have(headers, skip_negotiate):
    """A WebSocket on its own would only say that the server had ended the connection."""
    with pytest.raises(ConfigurationError, match="header") as raised:
        HubConnection("http://a/b", headers=headers, skip_negotiate=skip_negotiate)
    assert "secret" not in str(raised.value)


def test_one_subscription_removes_no_other():
    """The same handler may be registered twice, and each of them be removed more than once."""
    connection = HubConnection("http://a/b")
    first = connection.on_close(print)
    connection.on_close(print)
    first.remove()
    first.remove()
    assert connection._on_close == [print]


def test_nothing_is_kept_of_targets_without_handlers():
    """Some applications have a target for each question they ask."""
    connection = HubConnection("http://a/b")
    for number in range(3):
        subscriptions = [connection.on(f"answer{number}", print) for _ in range(2)]
        for one in subscriptions:
            one.remove()
    assert connection._handlers._by_target == {}


async def test_headers_may_be_a_mapping():
    async with (
        serving(ScriptedServer()) as server,
        HubConnection(server.url, headers={"X-One": "1", "X-Two": "2"}) as connection,
    ):
        await connection.invoke("Echo")
        for request in server.requests:
            assert (request.header("x-one"), request.header("x-two")) == ("1", "2")


async def test_a_loss_is_followed_by_a_reconnect():
    async with serving(ScriptedServer(lose_at_a_call, echo)) as server:
        async with HubConnection(server.url, reconnect=AT_ONCE) as connection:
            notices = Notices(connection)
            with pytest.raises(ConnectionClosed):
                await connection.invoke("Lose")
            await notices.reconnected.wait()
            assert await connection.invoke("Echo", 1) == [1]
            assert connection.connection_id == "c2"
        assert notices.names == ["reconnecting", "reconnected", "close"]
        assert isinstance(notices.log[0][1], ConnectionClosed)
        assert notices.log[1:] == [("reconnected", "c2"), ("close", None)]


async def test_calls_while_there_is_no_connection():
    async with (
        serving(ScriptedServer(lose)) as server,
        HubConnection(server.url, reconnect=[1000]) as connection,
    ):
        lost = trio.Event()
        connection.on_reconnecting(lambda _: lost.set())
        await lost.wait()
        assert connection.state is ConnectionState.RECONNECTING
        assert connection.connection_id is None
        with pytest.raises(ConnectionClosed, match="'Reconnecting'"):
            await connection.invoke("A")
        with pytest.raises(ConnectionClosed, match="'Reconnecting'"):
            await connection.send("A")
        with pytest.raises(ConnectionClosed, match="'Reconnecting'"):
            async with connection.stream("A"):
                pass


async def test_who_is_told_of_the_reconnect_may_invoke():
    async with (
        serving(ScriptedServer(lose, echo)) as server,
        HubConnection(server.url, reconnect=AT_ONCE) as connection,
    ):
        joined = trio.Event()

        async def join(connection_id):
            assert await connection.invoke("Join", connection_id) == ["c2"]
            joined.set()

        connection.on_reconnected(join)
        await joined.wait()


async def test_attempts_fail_until_one_does_not():
    server = ScriptedServer(lose_at_a_call, leave, echo)
    async with serving(server):
        async with HubConnection(server.url, reconnect=AT_ONCE) as connection:
            notices = Notices(connection)
            server.answers = [answer(503, b""), answer(error="not yet")]
            await connection.send("Lose")
            # After the two that negotiate refuses comes one that the server leaves at once.
            await notices.again.wait()
            assert await connection.invoke("Echo") == []
        assert notices.names == [*["reconnecting", "reconnected"] * 2, "close"]


async def test_attempts_come_to_an_end():
    server = ScriptedServer(lose_at_a_call)
    async with serving(server):
        async with HubConnection(server.url, reconnect=(0, 0)) as connection:
            notices = Notices(connection)
            server.answers = [answer(503, b"")] * 2
            await connection.send("Lose")
            with pytest.raises(ConnectionClosed, match=r"after 2 failed attempts.* 503"):
                await connection.wait_closed()
            assert connection.state is ConnectionState.DISCONNECTED
            with pytest.raises(ConnectionClosed, match="'Disconnected'"):
                await connection.invoke("A")
        assert notices.names == ["reconnecting", "close"]
        assert "exhausted" in str(notices.log[1][1])


@pytest.mark.parametrize("reconnect", [None, ()])
async def test_without_automatic_reconnect_a_loss_is_the_end(reconnect):
    async with (
        serving(ScriptedServer(lose)) as server,
        HubConnection(server.url, reconnect=reconnect) as connection,
    ):
        notices = Notices(connection)
        with pytest.raises(ConnectionClosed):
            await connection.wait_closed()
    assert notices.names == ["close"]
    assert server.clients == 1


@pytest.mark.parametrize(
    ("close", "reconnects", "text"),
    [
        (Close(), False, None),
        (Close("over"), False, "Server returned an error on close: over"),
        (Close(None, allow_reconnect=True), True, None),
        (Close("later", allow_reconnect=True), True, "Server returned an error on close: later"),
    ],
)
async def test_close_says_whether_to_reconnect(close, reconnects, text):
    async with serving(ScriptedServer(say(close), echo)) as server:
        connection = HubConnection(server.url, reconnect=AT_ONCE)
        notices = Notices(connection)
        async with connection:
            if reconnects:
                await notices.reconnected.wait()
                assert await connection.invoke("Echo", 1) == [1]
            elif text is None:
                await connection.wait_closed()
            else:
                with pytest.raises(ConnectionClosed, match=text):
                    await connection.wait_closed()
    name, error = notices.log[0]
    assert name == ("reconnecting" if reconnects else "close")
    assert (error and str(error)) == text


async def test_handlers_and_what_is_queued_outlive_a_connection():
    done = trio.Event()
    log = []

    async def slow(number):
        log.append(number)
        if number == 1:
            await reconnected.wait()
        if number == 3:
            done.set()

    script = say(Invocation("n", [1]), Invocation("n", [2]), then=leave)
    async with serving(ScriptedServer(script, say(Invocation("n", [3])))) as server:
        connection = HubConnection(server.url, reconnect=AT_ONCE)
        connection.on("n", slow)
        reconnected = Notices(connection).reconnected
        async with connection:
            await done.wait()
    assert log == [1, 2, 3]


async def test_a_callback_that_raises_is_logged(caplog):
    async with serving(ScriptedServer()) as server:
        connection = HubConnection(server.url)
        removed = connection.on_close(lambda _: pytest.fail("was removed"))
        connection.on_close(lambda _: 1 / 0)
        notices = Notices(connection)
        removed.remove()
        async with connection:
            pass
    assert notices.names == ["close"]
    assert [type(record.exc_info[1]) for record in caplog.records] == [ZeroDivisionError]


async def test_tokens_are_fetched_for_each_connection_and_sent_in_the_header():
    count = 0

    async def fetch():
        nonlocal count
        count += 1
        return f"token{count}"

    async with serving(ScriptedServer(lose, echo)) as server:
        connection = HubConnection(
            server.url, access_token=fetch, headers=[("X-Own", "1")], reconnect=AT_ONCE
        )
        notices = Notices(connection)
        async with connection:
            await notices.reconnected.wait()
    assert [(one.method, one.header("authorization")) for one in server.requests] == [
        ("POST", "Bearer token1"),
        ("GET", "Bearer token1"),
        ("POST", "Bearer token2"),
        ("GET", "Bearer token2"),
    ]
    assert {one.header("x-own") for one in server.requests} == {"1"}
    assert [one.param("id") for one in server.requests if one.method == "GET"] == ["t1", "t2"]


async def test_negotiate_skipped():
    async with (
        serving(ScriptedServer()) as server,
        HubConnection(server.url, skip_negotiate=True) as connection,
    ):
        assert await connection.invoke("Echo", 1) == [1]
        assert connection.connection_id is None
    assert [one.method for one in server.requests] == ["GET"]


async def test_results_become_what_was_asked_for():
    @attrs.define
    class Answer:
        value: int
        parts: list[str] = attrs.Factory(list)

    async def script(peer):
        while True:
            call = await peer.receive(Invocation)
            peer.send(Completion(call.invocation_id, *call.arguments))

    async with (
        serving(ScriptedServer(script)) as server,
        HubConnection(server.url) as connection,
    ):
        sent = Answer(7, ["a"])
        assert await connection.invoke("Same", sent, result_type=Answer) == sent
        with pytest.raises(ProtocolError, match="no Answer"):
            await connection.invoke("Same", {"value": "x"}, result_type=Answer)
        assert await connection.invoke("Same", 1, result_type=int) == 1


async def test_a_message_over_the_limit_ends_the_connection():
    async def script(peer):
        call = await peer.receive(Invocation)
        peer.send(Completion(call.invocation_id, "x" * 2000))
        await peer.receive()

    async with (
        serving(ScriptedServer(script)) as server,
        HubConnection(server.url, max_message_size=1000, reconnect=None) as connection,
    ):
        with pytest.raises(ConnectionClosed):
            await connection.invoke("Large")
        with pytest.raises(ConnectionClosed):
            await connection.wait_closed()


async def test_no_task_is_left_over():
    async with serving(ScriptedServer(lose, echo)) as server, trio.open_nursery() as nursery:
        with trio.CancelScope():
            connection = HubConnection(server.url, reconnect=AT_ONCE)
            notices = Notices(connection)
            async with connection:
                await notices.reconnected.wait()
                before = {task.name for task in connection._nursery.child_tasks}
        assert before
        assert not connection._nursery.child_tasks
        assert not nursery.child_tasks
