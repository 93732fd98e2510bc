"""The calls of a client: what runs when, how each ends, and what its caller is told."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import ClassVar

import attrs
import pytest
import trio
from harness.scripted_service import ScriptedClient, Served, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from signalr_trio import Hub, HubError, HubOptions
from signalr_trio.protocol.messages import Completion, Invocation, StreamItem

UNEXPECTED = "An unexpected error occurred invoking '{}' on the server."
FAILED = "Failed to invoke '{}' due to an error on the server."


class Gates:
    """Methods wait at a gate until the test opens it."""

    def __init__(self) -> None:
        self._gates: dict[str, trio.Event] = {}
        self.begun: list[str] = []

    def gate(self, name: str) -> trio.Event:
        return self._gates.setdefault(name, trio.Event())

    async def wait(self, name: str) -> None:
        self.begun.append(name)
        await self.gate(name).wait()

    def open(self, name: str) -> None:
        self.gate(name).set()


@attrs.define
class Broken:
    """Its conversion fails in a way of its own."""

    value: int = 0

    def __getattribute__(self, name: str) -> object:
        if name == "value":
            raise LookupError("broken")
        return object.__getattribute__(self, name)


@attrs.define
class Picky:
    """No value is good enough."""

    error: ClassVar[Exception] = ValueError()

    def __attrs_post_init__(self) -> None:
        raise self.error


class Unsendable:
    pass


class Speechless(Exception):
    """Says nothing, whoever asks."""

    def __str__(self) -> str:
        raise LookupError("broken")


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def calls_hub(gates: Gates) -> type[Hub]:
    class Calls(Hub):
        async def add(self, one: int, other: int) -> int:
            return one + other

        async def nothing(self) -> None:
            pass

        async def wait(self, name: str) -> str:
            await gates.wait(name)
            return name

        async def fail(self) -> None:
            raise ValueError("a secret")

        async def fail_openly(self) -> None:
            raise HubError("my text")

        async def infinity(self) -> float:
            return math.inf

        async def unsendable(self) -> Unsendable:
            return Unsendable()

        async def too_big(self) -> int:
            return 1 << 70

        async def count(self, number: int) -> AsyncIterator[int]:
            for index in range(number):
                yield index

        async def count_slowly(self, name: str) -> AsyncIterator[str]:
            yield "first"
            await gates.wait(name)
            yield "last"

        async def count_and_fail(self) -> AsyncIterator[int]:
            yield 0
            raise HubError("no more")

        async def count_and_break(self) -> AsyncIterator[int]:
            yield 0
            raise ValueError("a secret")

        async def stream_unsendable(self) -> AsyncIterator[object]:
            yield Unsendable()

        async def total(self, numbers: AsyncIterator[int]) -> int:
            return sum([number async for number in numbers])

        async def first(self, numbers: AsyncIterator[int]) -> int:
            async for number in numbers:
                return number
            return -1

        async def double(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
            async for number in numbers:
                yield 2 * number

        async def both(self, one: AsyncIterator[int], other: AsyncIterator[int]) -> int:
            return sum([number async for number in one]) + sum([number async for number in other])

        async def scaled(self, numbers: AsyncIterator[int], factor: int) -> list[int]:
            return [factor * number async for number in numbers]

    return Calls


async def _one_client(served: Served) -> ScriptedClient:
    return await served.service.connected()


# -- how a call ends ------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_result_is_the_completion(
    autojump_clock: MockClock, calls_hub: type[Hub], protocol: str
) -> None:
    async with serving(calls_hub) as served:
        client = await served.service.connected(protocol=protocol)
        assert await client.result(client.invoke("add", 1, 2)) == 3


async def test_a_method_without_a_result_completes_with_null(
    autojump_clock: MockClock, calls_hub: type[Hub]
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        id = client.invoke("nothing")
        assert await client.completion(id) == Completion(id, None)


@pytest.mark.parametrize("id", [None, ""])
async def test_a_call_without_an_id_is_never_answered(
    autojump_clock: MockClock, calls_hub: type[Hub], id: str | None
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        for target in ("add", "fail", "nosuch", "infinity"):
            client.send(Invocation(target, [1, 2] if target == "add" else [], id))
        await client.result(client.invoke("add", 1, 2))
        assert len(client.messages) == 1


async def test_ids_may_repeat_for_plain_calls(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.send(Invocation("wait", ["a"], "7"), Invocation("add", [1, 2], "7"))
        gates.open("a")
        await served.service.until(lambda: len(client.completions("7")) == 2)
        assert [one.result for one in client.completions("7")] == ["a", 3]


@pytest.mark.parametrize(
    ("target", "arguments", "detailed", "error"),
    [
        ("NoSuch", [], False, f"{FAILED} HubException: Method does not exist."),
        ("", [], False, f"{FAILED} HubException: Method does not exist."),
        ("Fail", [], False, UNEXPECTED),
        ("fail", [], True, f"{UNEXPECTED} ValueError: a secret"),
        ("fail_openly", [], False, f"{UNEXPECTED} HubException: my text"),
        ("failOpenly", [], True, f"{UNEXPECTED} HubException: my text"),
        ("infinity", [], False, UNEXPECTED),
        ("unsendable", [], False, UNEXPECTED),
        (
            "Count",
            [3],
            False,
            "The client attempted to invoke the streaming '{}' method with a non-streaming "
            "invocation.",
        ),
        (
            "Total",
            [],
            False,
            f"{UNEXPECTED} HubException: Client sent 0 stream(s), Hub method expects 1.",
        ),
    ],
)
async def test_error_texts_are_those_of_aspnet_core(
    autojump_clock: MockClock,
    calls_hub: type[Hub],
    target: str,
    arguments: list[object],
    detailed: bool,
    error: str,
) -> None:
    async with serving(calls_hub, options=HubOptions(detailed_errors=detailed)) as served:
        client = await _one_client(served)
        assert await client.error(client.invoke(target, *arguments)) == error.format(target)


@pytest.mark.parametrize("target", ["too_big", "unsendable"])
async def test_a_result_that_messagepack_cannot_hold_fails_the_call_alone(
    autojump_clock: MockClock, calls_hub: type[Hub], target: str
) -> None:
    async with serving(calls_hub) as served:
        client = await served.service.connected(protocol="messagepack")
        assert await client.error(client.invoke(target)) == UNEXPECTED.format(target)
        assert await client.result(client.invoke("add", 1, 2)) == 3


async def test_a_conversion_that_fails_in_its_own_way_fails_the_call_alone(
    autojump_clock: MockClock,
) -> None:
    class Chat(Hub):
        async def get(self) -> Broken:
            return Broken()

    async with serving(Chat) as served:
        for protocol in ("json", "messagepack"):
            client = await served.service.connected(protocol, protocol=protocol)
            assert await client.error(client.invoke("get")) == UNEXPECTED.format("get")


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (HubError("no file x\udcff"), "HubException: no file x\ufffd"),
        (OSError("no file x\udcff"), "OSError: no file x\ufffd"),
        (Speechless(), "Speechless: Speechless, whose text cannot be had"),
    ],
    ids=repr,
)
async def test_an_error_whose_text_cannot_be_sent_fails_the_call_alone(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    error: Exception,
    text: str,
) -> None:
    """Names of files, for one, may have bytes in them that are no UTF-8."""

    class Chat(Hub):
        async def on_connected(self) -> None:
            if self.context.connection_id == "refused":
                raise error

        async def get(self) -> None:
            raise error

        async def count(self) -> AsyncIterator[int]:
            yield 1
            raise error

        async def take(self, picky: Picky) -> None:
            """No call gets here."""

    monkeypatch.setattr(Picky, "error", error)
    async with serving(Chat, options=HubOptions(detailed_errors=True)) as served:
        client = await served.service.connected(protocol=protocol)
        assert await client.error(client.invoke("get")) == f"{UNEXPECTED.format('get')} {text}"
        error_of_stream = await client.error(client.stream("count"))
        assert error_of_stream.endswith(f"streaming results. {text}")
        said = text.partition(": ")[2]
        assert (await client.error(client.invoke("take", {}))).endswith(f"Argument 1: {said}")
        refused = served.service.open("refused", protocol=protocol)
        await refused.ended()
        assert refused.hub_close.error == f"Connection closed with an error. {text}"


async def test_a_hub_that_cannot_be_made_fails_the_call_alone(autojump_clock: MockClock) -> None:
    class Moody(Hub):
        made = 0

        def __init__(self) -> None:
            Moody.made += 1
            if Moody.made in (2, 3):
                raise ValueError("not today")

        async def on_connected(self) -> None:
            """Made for this as well."""

        async def get(self) -> int:
            return 1

        async def count(self) -> AsyncIterator[int]:
            yield 1

    async with serving(Moody) as served:
        client = await _one_client(served)
        assert await client.error(client.invoke("get")) == UNEXPECTED.format("get")
        error = await client.error(client.stream("count"))
        assert error == "An error occurred on the server while streaming results."
        assert await client.result(client.invoke("get")) == 1


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (
            "Add",
            "The client attempted to invoke the non-streaming 'Add' method with a streaming "
            "invocation.",
        ),
        ("nosuch", FAILED.format("nosuch") + " HubException: Method does not exist."),
        (
            "count_and_fail",
            "An error occurred on the server while streaming results. HubException: no more",
        ),
        ("count_and_break", "An error occurred on the server while streaming results."),
        ("stream_unsendable", "An error occurred on the server while streaming results."),
    ],
)
async def test_error_texts_of_streams(
    autojump_clock: MockClock, calls_hub: type[Hub], target: str, error: str
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        assert await client.error(client.stream(target)) == error


# -- order ----------------------------------------------------------------------------------


async def test_plain_calls_run_one_after_the_other(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        ids = [client.invoke("wait", name) for name in "abc"]
        await wait_all_tasks_blocked()
        assert gates.begun == ["a"]
        for name in "cba":
            gates.open(name)
        await client.completion(ids[-1])
        assert gates.begun == ["a", "b", "c"]
        assert [message.result for message in client.messages] == ["a", "b", "c"]


async def test_as_many_run_side_by_side_as_the_options_say(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub, options=HubOptions(max_parallel_invocations=2)) as served:
        client = await _one_client(served)
        for name in "abcd":
            client.invoke("wait", name)
        await wait_all_tasks_blocked()
        assert gates.begun == ["a", "b"]
        gates.open("b")
        await wait_all_tasks_blocked()
        assert gates.begun == ["a", "b", "c"]


async def test_streams_and_uploads_run_beside_a_plain_call(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        plain = client.invoke("wait", "a")
        stream = client.stream("count", 2)
        upload = client.invoke("total", streams=["u"])
        client.item("u", 5)
        client.end_upload("u")
        assert await client.result(upload) == 5
        await client.completion(stream)
        assert not client.completions(plain)


@pytest.mark.parametrize("places", [2, 3, 5])
async def test_all_places_are_taken_by_calls_that_come_one_by_one(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates, places: int
) -> None:
    options = HubOptions(max_parallel_invocations=places)
    async with serving(calls_hub, options=options) as served:
        client = await _one_client(served)
        names = [str(number) for number in range(places + 1)]
        for name in names:
            client.invoke("wait", name)
            await wait_all_tasks_blocked()
        assert gates.begun == names[:-1]


async def test_the_same_stream_id_twice_is_an_error_of_that_call(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        error = await client.error(client.invoke("both", streams=["u", "u"]))
        assert error.endswith("HubException: Client sent the same stream id twice.")
        assert await client.result(client.invoke("add", 1, 2)) == 3


async def test_what_stands_behind_a_call_that_waits_for_a_place_waits_too(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.invoke("wait", "a")
        client.invoke("wait", "b")
        stream = client.stream("count", 1)
        await wait_all_tasks_blocked()
        assert not client.messages
        gates.open("a")
        await client.completion(stream)
        assert gates.begun == ["a", "b"]


async def test_a_call_that_cannot_be_bound_is_answered_at_once(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.invoke("wait", "a")
        client.invoke("wait", "b")
        assert (await client.error(client.invoke("add"))).startswith(FAILED.format("add"))


async def test_clients_do_not_wait_for_each_other(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        one, other = await served.service.connected("c1"), await served.service.connected("c2")
        one.invoke("wait", "a")
        assert await other.result(other.invoke("add", 1, 2)) == 3


async def test_sends_of_a_call_come_before_its_completion(autojump_clock: MockClock) -> None:
    class Chat(Hub):
        async def greet(self) -> str:
            await self.clients.caller.send("hello")
            return "done"

    async with serving(Chat) as served:
        client = await _one_client(served)
        id = client.invoke("greet")
        await client.completion(id)
        kinds = [type(one.message).__name__ for one in served.service.log[-2:]]
        assert kinds == ["MultiConnectionData", "ConnectionData"]


# -- streams to the client ------------------------------------------------------------------


async def test_items_in_order_and_then_a_completion(
    autojump_clock: MockClock, calls_hub: type[Hub]
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        id = client.stream("count", 3)
        await client.completion(id)
        items = [StreamItem(id, index) for index in range(3)]
        assert client.messages == [*items, Completion(id)]


async def test_a_cancelled_stream_ends_without_an_error(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        id = client.stream("count_slowly", "a")
        await served.service.until(lambda: client.items(id))
        client.cancel(id)
        assert await client.completion(id) == Completion(id)
        gates.open("a")
        await client.result(client.invoke("add", 1, 2))
        assert client.items(id) == ["first"]


async def test_a_cancel_passes_calls_that_wait(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        id = client.stream("count_slowly", "s")
        await served.service.until(lambda: client.items(id))
        client.invoke("wait", "a")
        client.invoke("wait", "b")
        client.cancel(id)
        await client.completion(id)


async def test_a_stream_cancelled_before_it_begins_runs_not(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.invoke("wait", "a")
        client.invoke("wait", "b")
        id = client.stream("count_slowly", "s")
        client.cancel(id)
        gates.open("a")
        gates.open("b")
        assert await client.completion(id) == Completion(id)
        assert "s" not in gates.begun


async def test_the_id_of_a_running_stream_is_taken(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.stream("count_slowly", "s", id="7")
        client.stream("count", 3, id="7")
        assert await client.error("7") == "Invocation ID '7' is already in use."
        client.cancel("7")
        await served.service.until(lambda: len(client.completions("7")) == 2)
        assert client.items("7") == ["first"]
        client.stream("count", 1, id="7")
        await served.service.until(lambda: len(client.completions("7")) == 3)


async def test_a_cancel_of_a_plain_call_does_nothing(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        id = client.invoke("wait", "a")
        client.cancel(id)
        client.cancel("unknown")
        gates.open("a")
        assert await client.result(id) == "a"


# -- streams from the client ----------------------------------------------------------------


async def test_an_upload_reaches_its_method(
    autojump_clock: MockClock, calls_hub: type[Hub]
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        id = client.invoke("scaled", 10, streams=["u"])
        for number in (1, 2, 3):
            client.item("u", number)
        client.end_upload("u")
        assert await client.result(id) == [10, 20, 30]


async def test_an_upload_and_a_stream_in_one_call(
    autojump_clock: MockClock, calls_hub: type[Hub]
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.send_bytes(
            b'{"type":4,"target":"double","arguments":[],"streamIds":["u"],"invocationId":"d"}\x1e'
        )
        client.item("u", 4)
        await served.service.until(lambda: client.items("d"))
        client.end_upload("u")
        await client.completion("d")
        assert client.items("d") == [8]


async def test_items_pass_calls_that_wait(
    autojump_clock: MockClock, calls_hub: type[Hub], gates: Gates
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        upload = client.invoke("total", streams=["u"])
        client.invoke("wait", "a")
        client.invoke("wait", "b")
        client.item("u", 5)
        client.end_upload("u")
        assert await client.result(upload) == 5


@pytest.mark.parametrize(
    ("item", "end_error", "text"),
    [("no number", None, "Failed to bind Stream message."), (1, "I gave up", "I gave up")],
)
async def test_an_upload_that_fails_raises_in_its_method(
    autojump_clock: MockClock, calls_hub: type[Hub], item: object, end_error: str | None, text: str
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        id = client.invoke("total", streams=["u"])
        client.item("u", item)
        client.end_upload("u", end_error)
        assert await client.error(id) == f"{UNEXPECTED.format('total')} HubException: {text}"


async def test_items_for_nobody_are_ignored(
    autojump_clock: MockClock, calls_hub: type[Hub]
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.item("u", 1)
        client.end_upload("u")
        id = client.invoke("first", streams=["u"])
        client.item("u", 2)
        assert await client.result(id) == 2
        client.item("u", 3)
        assert await client.result(client.invoke("add", 1, 2)) == 3


async def test_a_second_upload_takes_over_the_id(
    autojump_clock: MockClock, calls_hub: type[Hub]
) -> None:
    async with serving(calls_hub) as served:
        client = await _one_client(served)
        client.invoke("total", streams=["u"])
        later = client.invoke("total", streams=["u"])
        client.item("u", 5)
        client.end_upload("u")
        assert await client.result(later) == 5
