"""One connection of the client, over a transport in memory and on a clock of its own."""

from __future__ import annotations

import datetime
import json
import logging
import math
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from signalr_trio.client.conversion import ValueConverter, as_it_is, as_mapping
from signalr_trio.client.handlers import Handlers, Mailbox
from signalr_trio.client.session import Session, SessionEnd, Timing, shake_hands
from signalr_trio.errors import (
    ConfigurationError,
    ConnectionClosed,
    HandshakeError,
    HubError,
    ProtocolError,
    ServerTimeoutError,
)
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import (
    NO_RESULT,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Ping,
    StreamInvocation,
    StreamItem,
)

JSON = JsonProtocol(as_mapping)
MSGPACK = MessagePackProtocol(as_mapping)
UTC = datetime.UTC
BOTH = pytest.mark.parametrize("protocol", [JSON, MSGPACK], ids=["json", "messagepack"])


class FakeTransport:
    """The transport, and the server behind it."""

    def __init__(self, protocol=JSON):
        self.protocol = protocol
        self.sent = []
        self.times = []
        self.aborted = False
        self.buffered = 0
        self.inherent_keep_alive = False
        self.room = trio.Event()
        self._to_client, self._from_server = trio.open_memory_channel(math.inf)

    def send(self, payload, *, text=False):
        assert text is not self.protocol.binary
        self.sent.append(self.protocol.parse(payload))
        self.times.append(trio.current_time())

    async def receive(self):
        try:
            return await self._from_server.receive()
        except trio.EndOfChannel:
            raise ConnectionClosed("lost") from None

    async def drained(self, limit=0):
        await trio.lowlevel.checkpoint()
        if self.buffered > limit:
            await self.room.wait()

    def abort(self):
        self.aborted = True

    def serve(self, *messages):
        self._to_client.send_nowait(b"".join(self.protocol.write(one) for one in messages))

    def serve_bytes(self, data):
        self._to_client.send_nowait(data)

    def lose(self):
        self._to_client.close()

    def sent_of(self, kind):
        return [message for message in self.sent if isinstance(message, kind)]


class Running:
    """A session that runs, and what belongs to it."""

    def __init__(self, protocol=JSON, timing=None):
        self.transport = FakeTransport(protocol)
        self.handlers = Handlers(ValueConverter())
        self.end = None
        self.session = Session(
            self.transport,
            protocol,
            handlers=self.handlers,
            invocations=Mailbox(self.handlers.handle),
            timing=timing or Timing(math.inf, math.inf),
        )
        self.on = partial(self.handlers.add, types=())

    async def run(self, nursery, received=b""):
        nursery.start_soon(self.session._invocations.run)
        self.end = await self.session.run(received)


@asynccontextmanager
async def running(protocol=JSON, timing=None, received=b""):
    one = Running(protocol, timing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run, nursery, received)
        await wait_all_tasks_blocked()
        yield one
        nursery.cancel_scope.cancel()


async def outcome(call):
    """What a call gives back or raises."""
    try:
        return await call
    except Exception as error:
        return error


@asynccontextmanager
async def asking(function, *arguments):
    """Runs a call beside the block; yields a list for its outcome."""
    results = []

    async def ask():
        results.append(await outcome(function(*arguments)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        yield results
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


# --- The handshake


class Bytes(FakeTransport):
    def send(self, payload, *, text=False):
        assert text
        self.sent.append(payload)


async def test_the_handshake_gives_back_what_came_behind_the_response():
    transport = Bytes()
    for piece in (b"{", b'}\x1e{"type":6}', b"\x1e"):
        transport.serve_bytes(piece)
    rest = await shake_hands(transport, MSGPACK, timeout=15, max_size=None)
    assert rest == b'{"type":6}'
    assert transport.sent == [b'{"protocol":"messagepack","version":1}\x1e']


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b'{"error":"The protocol is not supported."}\x1e', "The protocol is not supported."),
        (b'{"type":6}\x1e', "Expected a handshake response from the server."),
        (b"nonsense\x1e", "Error reading JSON"),
        (b"x" * 101, "more than 100 bytes"),
        (b"{}", "did not answer the handshake in 15 s"),
    ],
)
async def test_a_handshake_that_fails(answer, error, autojump_clock):
    transport = Bytes()
    transport.serve_bytes(answer)
    with pytest.raises(HandshakeError, match=error):
        await shake_hands(transport, JSON, timeout=15, max_size=100)


async def test_a_connection_lost_in_the_handshake():
    transport = Bytes()
    transport.lose()
    with pytest.raises(ConnectionClosed):
        await shake_hands(transport, JSON, timeout=15, max_size=None)


# --- Time


async def test_pings_are_sent_after_silence_only(autojump_clock):
    async with running(timing=Timing(15, math.inf)) as one:
        await trio.sleep(20)
        one.session.write(Invocation("a", []))
        await trio.sleep(16)
    times = [
        (time, type(message))
        for message, time in zip(one.transport.sent, one.transport.times, strict=True)
    ]
    start = times[0][0]
    assert [(round(time - start), kind) for time, kind in times] == [
        (0, Ping),
        (15, Ping),
        (20, Invocation),
        (35, Ping),
        (36, Close),
    ]


async def test_silence_of_the_server_ends_the_session(autojump_clock):
    async with running(timing=Timing(15, 30)) as one, asking(one.session.invoke, "A", []) as got:
        await trio.sleep(29)
        one.transport.serve_bytes(b'{"ty')  # part of a message is life too
        await trio.sleep(29)
        assert one.end is None
        await trio.sleep(1.01)
        assert one.end is not None
    assert one.end.allow_reconnect
    assert isinstance(one.end.error, ServerTimeoutError)
    assert str(one.end.error).startswith("Server timeout (30 s) elapsed without receiving")
    assert one.transport.aborted
    assert isinstance(got[0], ServerTimeoutError)
    assert one.transport.sent_of(Close) == []


# --- Calls


@BOTH
@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (Completion("1", 42), 42),
        (Completion("1", {"a": [1, "x", None]}), {"a": [1, "x", None]}),
        (Completion("1", None), None),
        (Completion("1", NO_RESULT), None),
        (Completion("1", error="it failed"), HubError("it failed")),
        (Completion("1", error=""), HubError("")),
    ],
)
async def test_results(protocol, completion, expected):
    async with running(protocol) as one, asking(one.session.invoke, "Echo", ["a", 1]) as got:
        one.transport.serve(Completion("99", "nobody's"), completion)
    assert one.transport.sent[1] == Invocation("Echo", ["a", 1], "1")
    assert (type(got[0]), str(got[0])) == (type(expected), str(expected))


async def test_completions_are_told_apart():
    async with running() as one:
        session, transport = one.session, one.transport
        async with asking(session.invoke, "A", []) as a, asking(session.invoke, "B", []) as b:
            transport.serve(Completion("2", "b"), StreamItem("1", 0), Completion("1", "a"))
    assert (a, b) == (["a"], ["b"])


@pytest.mark.parametrize("value", [object(), math.nan])
async def test_an_argument_that_cannot_be_sent_harms_nothing(value):
    async with running() as one:
        with pytest.raises((TypeError, ValueError)):
            await one.session.invoke("A", [value])
        async with asking(one.session.invoke, "B", []) as got:
            one.transport.serve(Completion("2", "fine"))
        assert got == ["fine"]
        assert one.session._pending == {}


async def test_objects_are_sent_by_their_fields():
    @attrs.define
    class Point:
        x: int
        y: int

    async with running() as one:
        await one.session.send("Draw", [Point(1, 2)])
        assert one.transport.sent[-1].arguments == [{"x": 1, "y": 2}]


async def test_a_cancelled_invoke_leaves_nothing_behind():
    async with running() as one:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.session.invoke, "A", [])
                await wait_all_tasks_blocked()
                scope.cancel()
        assert one.session._pending == {}
        one.transport.serve(Completion("1", "late"))
        async with asking(one.session.invoke, "B", []) as got:
            one.transport.serve(Completion("2", "next"))
        assert got == ["next"]


async def test_invoke_is_paced_by_its_answer():
    """The answer says that it was read; room for more is for whoever sends more to wait for."""
    async with running() as one:
        one.transport.buffered = 1_000_000
        async with asking(one.session.invoke, "A", []) as got:
            assert got == []
            one.transport.serve(Completion("1", 1))
        assert got == [1]


async def test_uploads_wait_while_the_socket_is_slow():
    async with running() as one:
        one.transport.buffered = 1_000_000
        async with asking(one.session.send, "A", [numbers(3)]) as got:
            assert len(one.transport.sent_of(StreamItem)) == 1
            one.transport.room.set()
        assert got == [None]
        assert len(one.transport.sent_of(StreamItem)) == 3


async def test_send_waits_while_the_socket_is_slow():
    async with running() as one:
        one.transport.buffered = 1_000_000
        async with asking(one.session.send, "A", []) as got:
            assert one.transport.sent[-1] == Invocation("A", [])
            assert got == []
            one.transport.room.set()
        assert got == [None]


# --- Streams from the server


async def collect(session, take=None):
    items = []
    async with session.stream("Count", [3], as_it_is) as stream:
        async for item in stream:
            items.append(item)
            if len(items) == take:
                break
    return items


@BOTH
async def test_a_stream(protocol):
    async with running(protocol) as one, asking(collect, one.session) as got:
        one.transport.serve(StreamItem("1", 0), StreamItem("1", None))
        await wait_all_tasks_blocked()
        one.transport.serve(StreamItem("1", 2), Completion("1"))
    assert one.transport.sent_of(StreamInvocation) == [StreamInvocation("1", "Count", [3])]
    assert one.transport.sent_of(CancelInvocation) == []
    assert got == [[0, None, 2]]


async def test_a_stream_that_is_left_early_is_cancelled():
    async with running() as one, asking(collect, one.session, 1) as got:
        one.transport.serve(StreamItem("1", 0), StreamItem("1", 1))
        await wait_all_tasks_blocked()
        assert one.transport.sent[-1] == CancelInvocation("1")
        one.transport.serve(StreamItem("1", 2), Completion("1"))
    assert got == [[0]]


async def test_a_stream_that_ends_with_an_error_gives_its_items_first():
    items = []

    async def iterate(session):
        async with session.stream("Count", [], as_it_is) as stream:
            async for item in stream:
                items.append(item)

    async with running() as one, asking(iterate, one.session) as got:
        one.transport.serve(StreamItem("1", 0), Completion("1", error="half way"))
    assert items == [0]
    assert isinstance(got[0], HubError)
    assert str(got[0]) == "half way"


async def test_a_stream_outside_of_its_block_is_closed():
    async with running() as one:
        async with one.session.stream("Count", [], as_it_is) as stream:
            one.transport.serve(StreamItem("1", 0))
            await wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await anext(stream)


async def test_an_item_of_another_type():
    async with running() as one:
        async with one.session.stream("Count", [], ValueConverter().to(int)) as stream:
            one.transport.serve(StreamItem("1", 7), StreamItem("1", "7"))
            assert await anext(stream) == 7
            with pytest.raises(ProtocolError, match="no int"):
                await anext(stream)
        assert one.end is None


# --- Uploads


async def numbers(n, then=None):
    for number in range(n):
        yield number
    if then is not None:
        raise then


@BOTH
async def test_uploads(protocol):
    send, receive = trio.open_memory_channel(9)
    async with (
        running(protocol) as one,
        asking(one.session.invoke, "Sum", [numbers(2), "x", receive]) as got,
    ):
        assert one.transport.sent[1:] == [
            Invocation("Sum", ["x"], "1", ("2", "3")),
            StreamItem("2", 0),
            StreamItem("2", 1),
            Completion("2"),
        ]
        await send.send("c")
        await send.aclose()
        await wait_all_tasks_blocked()
        assert one.transport.sent[5:] == [StreamItem("3", "c"), Completion("3")]
        one.transport.serve(Completion("1", 3))
    assert got == [3]


async def test_an_upload_that_raises_fails_the_call_on_both_sides():
    boom = ValueError("boom")
    async with running() as one, asking(one.session.invoke, "Sum", [numbers(1, boom)]) as got:
        pass
    assert got == [boom]
    assert Completion("2", error="Stream errored by client: 'boom'") in one.transport.sent
    assert one.end is None or one.end.error is None


async def test_an_item_that_cannot_be_sent_fails_the_call():
    async def bad():
        yield object()

    async with running() as one, asking(one.session.send, "Sum", [bad()]) as got:
        pass
    assert isinstance(got[0], TypeError)
    assert one.transport.sent_of(Completion)[0].error.startswith("Stream errored by client")


class Speechless(Exception):
    def __str__(self):
        raise LookupError("broken")


@BOTH
@pytest.mark.parametrize("error", [OSError("x\udcff"), Speechless()], ids=repr)
async def test_an_error_whose_text_cannot_be_sent_harms_nobody_else(protocol, error):
    async def numbers():
        yield 1
        raise error

    async def fail(*_):
        raise error

    async with running(protocol) as one:
        one.on("Ask", fail)
        one.transport.serve(Invocation("Ask", [], "s1"))
        with pytest.raises(type(error)):
            await one.session.invoke("Sum", [numbers()])
        await wait_all_tasks_blocked()
        told = one.transport.sent_of(Completion)
        assert {completion.invocation_id for completion in told} >= {"s1", "2"}
        assert all(completion.error for completion in told)
        assert one.end is None


async def test_a_result_that_the_hook_fails_on_is_an_error_of_that_call(caplog):
    class Odd:
        pass

    def hook(value):
        raise KeyError("no rule for it")

    async with running(MessagePackProtocol(hook)) as one:
        one.on("Ask", Odd)
        one.transport.serve(Invocation("Ask", [], "s1"))
        await wait_all_tasks_blocked()
        (told,) = one.transport.sent_of(Completion)
        assert told.error == "The client's result cannot be sent: 'no rule for it'"
        assert one.end is None


async def test_a_cancelled_call_cancels_its_uploads():
    ended = []

    async def endless():
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async with running() as one, asking(one.session.invoke, "Sum", [endless()]):
        pass
    assert ended == [True]
    assert Completion("2", error="Stream canceled by client.") in one.transport.sent


async def test_the_end_of_a_call_ends_its_uploads():
    async with running() as one:
        never, receive = trio.open_memory_channel(0)
        async with asking(one.session.invoke, "First", [receive]) as got:
            one.transport.serve(Completion("1", "enough"))
        with pytest.raises(trio.BrokenResourceError):
            await never.send("more")
        await never.aclose()
        assert got == ["enough"]
        assert one.transport.sent[-1] == Completion("2", error="Stream canceled by client.")


async def test_send_returns_when_its_uploads_have_ended():
    send, receive = trio.open_memory_channel(9)
    async with running() as one, asking(one.session.send, "Take", [receive]) as got:
        assert one.transport.sent[-1] == Invocation("Take", [], None, ("1",))
        assert got == []
        await send.aclose()
        await wait_all_tasks_blocked()
        assert got == [None]
        assert one.session._pending == {}


# --- Handlers


@BOTH
async def test_handlers_run_in_order_and_match_without_case(protocol):
    log = []

    async def slow(*arguments):
        log.append(("slow", *arguments))
        await wait_all_tasks_blocked()
        log.append("slow ends")

    async with running(protocol) as one:
        one.on("Draw", slow)
        second = one.on("dRAW", lambda *arguments: log.append(("quick", *arguments)))
        one.transport.serve(Invocation("draw", [1]), Invocation("nobody", []))
        one.transport.serve(Invocation("DRAW", [2, "x"]))
        for _ in range(3):
            await wait_all_tasks_blocked()
        second.remove()
        second.remove()
        one.transport.serve(Invocation("draw", []))
        for _ in range(2):
            await wait_all_tasks_blocked()
    first, last = [("slow", 1), "slow ends", ("quick", 1)], [("slow",), "slow ends"]
    assert log == [*first, ("slow", 2, "x"), "slow ends", ("quick", 2, "x"), *last]


async def test_a_handler_may_invoke():
    results = []
    async with running() as one:

        async def ask(value):
            results.append(await one.session.invoke("Echo", [value]))

        one.on("ask", ask)
        one.transport.serve(Invocation("ask", ["a"]), Invocation("ask", ["b"]))
        await wait_all_tasks_blocked()
        assert one.transport.sent_of(Invocation) == [Invocation("Echo", ["a"], "1")]
        one.transport.serve(Completion("1", "A"))
        await wait_all_tasks_blocked()
        one.transport.serve(Completion("2", "B"))
        await wait_all_tasks_blocked()
    assert results == ["A", "B"]


async def test_a_slow_handler_does_not_hold_up_results_and_items():
    async with running() as one:
        one.on("slow", trio.sleep_forever)
        one.transport.serve(Invocation("slow", []), Invocation("slow", []))
        async with asking(one.session.invoke, "A", []) as result:
            one.transport.serve(Completion("1", "result"))
        async with asking(collect, one.session) as items:
            one.transport.serve(StreamItem("2", "item"), Completion("2"))
    assert (result, items) == (["result"], [["item"]])


async def test_a_handler_that_raises_is_logged_and_harms_nobody(caplog):
    got = []

    def bad():
        raise ValueError("bad handler")

    async with running() as one:
        one.on("a", bad)
        one.on("a", lambda: got.append("second"))
        one.transport.serve(Invocation("a", []), Invocation("a", []))
        await wait_all_tasks_blocked()
        assert one.end is None
    assert got == ["second"] * 2
    assert [(r.name, r.levelno, str(r.exc_info[1])) for r in caplog.records] == [
        ("signalr_trio.client", logging.ERROR, "bad handler")
    ] * 2


async def test_arguments_become_the_types_that_were_asked_for():
    @attrs.define
    class Point:
        x: int
        y: float

    got = []
    async with running() as one:
        one.handlers.add("move", lambda *arguments: got.append(arguments), [Point, bytes])
        one.transport.serve(Invocation("move", [{"x": 1, "y": 2}, "aGk=", "rest"]))
        one.transport.serve(Invocation("move", [{"x": 3, "y": 4}]))
        await wait_all_tasks_blocked()
    assert got == [(Point(1, 2.0), b"hi", "rest"), (Point(3, 4.0),)]


def gives(value):
    return lambda *_: value


def raises(error):
    def handler(*_):
        raise error

    return handler


async def gives_later(*arguments):
    await trio.lowlevel.checkpoint()
    return list(arguments)


@pytest.mark.parametrize(
    ("handlers", "completion"),
    [
        ([], Completion("s1", error="Client didn't provide a result.")),
        ([gives_later], Completion("s1", [1])),
        ([gives(None)], Completion("s1", None)),
        ([gives(None), gives(7), gives(None)], Completion("s1", 7)),
        ([gives(1), gives(2)], Completion("s1", error="Client provided multiple results.")),
        ([raises(ValueError("no"))], Completion("s1", error="no")),
        ([raises(KeyError())], Completion("s1", error="KeyError")),
        ([raises(ValueError("no")), gives(3)], Completion("s1", 3)),
        ([gives(object())], Completion("s1", error="The client's result cannot be sent: ")),
    ],
)
async def test_client_results(handlers, completion):
    async with running() as one:
        one.on("block", trio.sleep_forever)
        for handler in handlers:
            one.on("ask", handler)
        one.transport.serve(Invocation("block", []), Invocation("ASK", [1], "s1"))
        await wait_all_tasks_blocked()
        (sent,) = one.transport.sent_of(Completion)
    if completion.error and completion.error.endswith(" "):
        assert sent.error.startswith(completion.error)
    else:
        assert sent == completion


# --- The end


@pytest.mark.parametrize(
    ("close", "text", "allow_reconnect"),
    [
        (Close(), None, False),
        (Close(None, True), None, True),
        (Close("why"), "Server returned an error on close: why", False),
        (Close("why", True), "Server returned an error on close: why", True),
    ],
)
async def test_close_by_the_server(close, text, allow_reconnect):
    async with running() as one, asking(one.session.invoke, "A", []) as got:
        late = []
        one.on("late", lambda: late.append(1))
        one.transport.serve(close, Completion("1", "too late"), Invocation("late", []))
    assert late == []
    assert one.end.allow_reconnect is allow_reconnect
    assert (one.end.error and str(one.end.error)) == text
    assert isinstance(got[0], ConnectionClosed)
    assert str(got[0]) == (
        text or "Invocation canceled due to the underlying connection being closed."
    )
    # Who has heard Close says none.
    assert one.transport.sent_of(Close) == []
    with pytest.raises(ConnectionClosed):
        await one.session.invoke("B", [])


@pytest.mark.parametrize("data", [b"\x1e", b'{"type":3}\x1e', b'{"type":1,"target":1}\x1e'])
async def test_what_is_no_hub_message_ends_the_session(data):
    async with running() as one, asking(one.session.invoke, "A", []) as got:
        one.transport.serve_bytes(data)
    assert one.end.allow_reconnect
    assert "the server sent what is no hub message" in str(one.end.error)
    assert isinstance(one.end.error.__cause__, ProtocolError)
    assert isinstance(got[0], ConnectionClosed)


async def test_messages_that_are_not_known_are_skipped():
    async with running() as one, asking(one.session.invoke, "A", []) as got:
        one.transport.serve_bytes(b'{"type":99}\x1e')
        one.transport.serve(StreamItem("8", 1), CancelInvocation("9"), Ping(), Completion("1", 5))
    assert got == [5]


async def test_a_loss_fails_everything_that_waits():
    async with running() as one:
        session = one.session
        never, receive = trio.open_memory_channel(0)
        async with (
            asking(session.invoke, "A", []) as invoked,
            asking(session.invoke, "A", [numbers(1)]) as uploading,
            asking(collect, session) as streamed,
            asking(session.send, "Take", [receive]) as sent,
        ):
            one.transport.lose()
        await never.aclose()
    for (error,) in (invoked, uploading, streamed, sent):
        assert isinstance(error, ConnectionClosed)
        assert str(error) == "lost"
    assert one.end == SessionEnd(one.end.error, allow_reconnect=True)


async def test_a_cancelled_session_says_close():
    async with running() as one:
        pass
    assert one.transport.sent == [Ping(), Close()]


async def test_what_came_with_the_handshake_response_is_handled():
    received = json.dumps({"type": 7}).encode() + b"\x1e"
    async with running(received=received) as one:
        assert one.end == SessionEnd(None, allow_reconnect=False)


# --- Conversion


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 5, 5),
        (int, "5", None),
        (int, True, None),
        (float, 5, 5.0),
        (float, "5", None),
        (str, "a", "a"),
        (str, None, None),
        (bool, False, False),
        (bool, 0, None),
        (bytes, "aGk=", b"hi"),
        (bytes, b"hi", b"hi"),
        (bytes, "?", None),
        (bytes, 5, None),
        (datetime.datetime, "2024-05-06T07:08:09Z", datetime.datetime(2024, 5, 6, 7, 8, 9, 0, UTC)),
        (datetime.datetime, 5, None),
        (datetime.date, "2024-05-06", datetime.date(2024, 5, 6)),
        (list[int], [1, 2], [1, 2]),
        (list[int], 7, None),
        (int | None, None, None),
    ],
)
def test_values_become_the_type_or_are_refused(kind, value, expected):
    convert = ValueConverter().to(kind)
    if (expected is None and value is not None) or (kind is str and value is None):
        with pytest.raises(ProtocolError, match="the server's value is no"):
            convert(value)
    else:
        assert convert(value) == expected


def test_a_type_that_nothing_becomes():
    with pytest.raises(ConfigurationError, match="nothing can be converted to FakeTransport"):
        ValueConverter().to(FakeTransport)
