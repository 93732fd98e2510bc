"""What the official client can do: each feature once, to be run undisturbed or cut in two.

A feature does half of what it is about, awaits ``case.middle()``, in which the replacement of its hub
server may begin, and does the rest while that goes on. It must not notice. Methods of the hub are those of the .NET peer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import pytest

from tests.interop.client_process import CallFailed, Connection

__all__ = ["FEATURES", "Case", "Feature"]

#: Above 64 KiB, so that frames have their longest header, and more than one read takes.
LARGE = "große Nachricht " * 15_000
#: Above the limit of 1 MiB that all deployments have.
TOO_LARGE = "x" * (1 << 21)
UNICODE = (
    'Grüße, 世界 🎉 \U0001f469\u200d\U0001f680 e\u0301, \x00\x1e \u2028 "quoted" \\ line\nfeed'
)
VALUES = [
    *[None, True, False, 0, -1, 127, -32769, 2**53 - 1, 1.5, -1e-7, "", "text"],
    *[[], [1, [2, ["three", None]], True], {}],
    {"name": "Ada", "home": {"street": "St James's Sq", "number": 12}, "tags": ["x", "y"]},
]


class Case(Protocol):
    """A feature that is being run."""

    name: str
    """Nobody else's: for groups, users and targets of its own."""
    moving: bool
    """Whether the hub server is stopped in the middle."""
    url: str
    """Where a client that has lost its connection negotiates."""
    refuses: bool
    """Whether, after the middle, no new client is served any more."""

    async def middle(self) -> None: ...
    async def event(self, ev: str, **fields: object) -> None:
        """Waits until a hub server has told so."""
        ...


@attrs.frozen
class Feature:
    name: str
    run: Callable[..., Awaitable[None]]
    """Called with the case and its connections."""
    users: Sequence[str] = ("",)
    """A connection for each, whose user is the case's name and this."""
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """Of all its connections."""
    lasts: bool = True
    """Whether its connections outlive it, with ids and all."""
    only_on: tuple[str, ...] = ()
    """The transports, or the protocols, that have it, if not all do."""


FEATURES: dict[str, Feature] = {}


def feature(name: str, *, users: Sequence[str] = ("",), lasts: bool = True, **options: Any) -> Any:
    only_on = options.pop("only_on", ())

    def register(run: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        FEATURES[name] = Feature(name, run, users, options, lasts, only_on)
        return run

    return register


# -- calls and sends ------------------------------------------------------------------------------


@feature("invoke")
async def invoke(case: Case, client: Connection) -> None:
    """Calls before, in and after the middle: each has its own result, in order."""
    assert [await client.invoke("Echo", value) for value in VALUES] == VALUES
    assert await client.invoke("Add", 2, 3) == 5
    assert await client.invoke("Void") is None
    for n in range(20):
        await client.begin("Echo", n)
    await case.middle()
    for n in range(20, 40):
        await client.begin("Echo", n)
    assert await client.outcome(40) == list(range(40))


@feature("invoke: errors")
async def invoke_errors(case: Case, client: Connection) -> None:
    await _errors(client)
    await case.middle()
    await _errors(client)


async def _errors(client: Connection) -> None:
    with pytest.raises(CallFailed, match=r"HubException: no such luck$"):
        await client.invoke("ThrowHub", "no such luck")
    with pytest.raises(CallFailed, match=r"unexpected error .* 'Throw' on the server\.$"):
        await client.invoke("Throw", "a secret of the server")
    with pytest.raises(CallFailed, match="Method does not exist"):
        await client.invoke("NoSuchMethod")
    for wrong in ([1], [1, "2"]):
        with pytest.raises(CallFailed, match="Failed to invoke 'Add' due to an error"):
            await client.invoke("Add", *wrong)


@feature("send", on=["told"])
async def send(case: Case, client: Connection) -> None:
    """What has no completion arrives once and in order all the same."""
    for n in range(20):
        await client.send("SendTo", "Caller", [], [], "told", [n])
    await case.middle()
    for n in range(20, 40):
        await client.send("SendTo", "Caller", [], [], "told", [n])
    await client.sends("told", 40)
    await client.invoke("Void")
    assert client.sent("told") == [[n] for n in range(40)]


@feature("receive", users="ab", on=["told", "*told"])
async def receive(case: Case, client: Connection, sender: Connection) -> None:
    """From another client; and what is for all, or for all others."""
    target = f"{case.name}told"
    for half in ("before", "after"):
        await sender.send("SendTo", "Client", [client.id], [], "told", [half, VALUES])
        await sender.send("SendTo", "All", [], [], target, [half])
        await sender.send("SendTo", "Others", [], [], target, [half])
        # An SDK server keeps no order between sends of different kinds.
        count = 1 if half == "before" else 2
        await client.sends("told", count)
        await client.sends(target, 2 * count)
        await sender.sends(target, count)
        if half == "before":
            await case.middle()
    assert client.sent("told") == [["before", VALUES], ["after", VALUES]]
    assert client.sent(target) == [["before"], ["before"], ["after"], ["after"]]
    assert sender.sent(target) == [["before"], ["after"]]


@feature("group", users="abc", on=["told"])
async def group(case: Case, sender: Connection, member: Connection, leaver: Connection) -> None:
    """Who has joined stays in it, who has left stays out."""
    name = f"{case.name} group"
    for one in (sender, member, leaver):
        await one.invoke("Join", name)
    await leaver.invoke("Leave", name)
    await sender.send("SendTo", "Group", [name], [], "told", [1])
    await member.sends("told", 1)
    await case.middle()
    await sender.send("SendTo", "Group", [name], [], "told", [2])
    await sender.send("SendTo", "OthersInGroup", [name], [], "told", [3])
    assert sorted(await member.sends("told", 3)) == [[1], [2], [3]]
    assert await sender.sends("told", 2) == [[1], [2]]
    await sender.send("SendTo", "Client", [leaver.id], [], "told", ["end"])
    assert await leaver.sends("told", 1) == [["end"]]


@feature("user", users=("Ömer 世界", "Ömer 世界", "other"), on=["told"])
async def user(case: Case, first: Connection, second: Connection, other: Connection) -> None:
    """Every connection of a user, also one whose name is not ASCII."""
    name = f"{case.name}Ömer 世界"
    assert (await first.invoke("WhoAmI"))["userId"] == name
    await other.send("SendTo", "User", [name], [], "told", [1])
    await first.sends("told", 1)
    await case.middle()
    assert (await first.invoke("WhoAmI"))["userId"] == name
    await other.send("SendTo", "User", [name], [], "told", [2])
    for one in (first, second):
        assert await one.sends("told", 2) == [[1], [2]]
    await other.send("SendTo", "Caller", [], [], "told", ["end"])
    assert await other.sends("told", 1) == [["end"]]


# -- streams --------------------------------------------------------------------------------------


@feature("stream down")
async def stream_down(case: Case, client: Connection) -> None:
    """It runs through the middle; others begin after it."""
    await _broken_stream(client)
    numbers = await client.stream("Count", 100, 25 if case.moving else 0)
    await numbers.has(1)
    await case.middle()
    await client.begin("Echo", "beside")
    assert await numbers.result() == list(range(100))
    assert await client.outcome(1) == ["beside"]
    await _broken_stream(client)
    assert await (await client.stream("Count", 0, 0)).result() == []


async def _broken_stream(client: Connection) -> None:
    broken = await client.stream("CountThenThrow", 3)
    with pytest.raises(CallFailed, match=r"HubException: thrown after 3$"):
        await broken.result()
    assert broken.items == [0, 1, 2]


@feature("stream up")
async def stream_up(case: Case, client: Connection) -> None:
    """Items of a call that began before the middle belong to it, those of a later one to that."""
    first, failing = client.upload(), client.upload()
    await client.begin("Sum", first)
    await client.begin("Sum", failing)
    for number in range(10):
        await first.item(number)
    await case.middle()
    second, third = client.upload(), client.upload()
    await client.begin("ConcatWith", second, "|", third)
    for number in range(10):
        await first.item(number)
        await second.item(str(number))
        await third.item("abcdefghij"[number])
    await third.end()
    await second.end()
    await failing.fail("out of numbers")
    await first.end()
    outcome = await client.outcome(3)
    failed = [str(one) for one in outcome if isinstance(one, CallFailed)]
    assert [one for one in outcome if isinstance(one, int)] == [2 * sum(range(10))]
    assert "0,1,2,3,4,5,6,7,8,9|a,b,c,d,e,f,g,h,i,j" in outcome
    assert len(failed) == 1
    assert "out of numbers" in failed[0]


@feature("stream up and down")
async def stream_both_ways(case: Case, client: Connection) -> None:
    upload = client.upload()
    echo = await client.stream("EchoStream", upload)
    for count, value in enumerate(VALUES, start=1):
        await upload.item(value)
        await echo.has(count)
    await case.middle()
    for value in VALUES:
        await upload.item(value)
    await upload.end()
    assert await echo.result() == [*VALUES, *VALUES]


@feature("cancel")
async def cancel(case: Case, client: Connection) -> None:
    """The hub method that is cancelled ends, wherever it runs."""
    endless = await client.stream("Count", 1_000_000, 20)
    await endless.has(2)
    await case.middle()
    await client.begin("Echo", "beside")
    await endless.cancel()
    await case.event("stream_end", id=client.id, method="Count", cancelled=True)
    assert await client.outcome(1) == ["beside"]


@feature(
    "client result",
    users="abcd",
    on=["told"],
    handlers={"Name": "echo", "AskBack": "ask back", "Throw": "throw", "Wait": "when told"},
)
async def client_result(
    case: Case, asked: Connection, idle: Connection, asker: Connection, teller: Connection
) -> None:
    """Of the caller and of others; three are still awaited in the middle."""
    await _results(asked, asker)
    await asked.begin("AskCaller", "Wait", "itself")
    await asker.begin("AskClient", asked.id, "Wait", "of one that is busy")
    await asker.begin("AskClient", idle.id, "Wait", "of one that is idle")
    await asked.sends("Wait", 2)
    await idle.sends("Wait", 1)
    await case.middle()
    await asked.begin("Echo", 1)
    # When this has come back who tells has moved, and who is idle (unless an SDK server asked it);
    # who has a call that awaits a result has not.
    await teller.invoke("Void")
    for one in (asked, idle):
        await teller.send("SendTo", "Client", [one.id], [], "told", [])
    assert set(await asked.outcome(2)) == {"itself", 1}
    assert set(await asker.outcome(2)) == {"of one that is busy", "of one that is idle"}
    await _results(asked, asker)


async def _results(asked: Connection, asker: Connection) -> None:
    for value in VALUES:
        assert await asker.invoke("AskClient", asked.id, "Name", value) == value
    assert await asked.invoke("AskCaller", "AskBack", "Ada") == "Ada"
    for target in ("Throw", "NoSuchHandler"):
        with pytest.raises(CallFailed, match="HubException"):
            await asker.invoke("AskClient", asked.id, target, 1)


# -- the end of a connection, and its return ------------------------------------------------------


@feature("reconnect", lasts=False, reconnect=[0, 100, 300, 1000, 3000], cuttable=True)
async def reconnect(case: Case, client: Connection) -> None:
    """A client that lost its connection comes back as a new one."""
    before = client.id
    await client.invoke("Echo", 1)
    await case.middle()
    await client.cut(case.url)
    if case.refuses:
        await client.ended()
        assert [event for event, _ in client.lifecycle] == ["reconnecting", "close"]
        return
    await client.until(lambda: len(client.lifecycle) >= 2)
    assert [event for event, _ in client.lifecycle] == ["reconnecting", "reconnected"]
    assert client.id != before
    assert (await client.invoke("WhoAmI"))["connectionId"] == client.id


@feature("stateful reconnect", stateful=True, cuttable=True, only_on=("WebSockets",))
async def stateful_reconnect(case: Case, client: Connection) -> None:
    """A client that lost its socket goes on with the same connection, and nothing is missing."""
    upload = client.upload()
    echo = await client.stream("EchoStream", upload)
    await upload.item("before")
    await echo.has(1)
    await case.middle()
    for n in range(20):
        await client.begin("Echo", n)
        await upload.item(n)
        if n % 10 == 5:
            await client.cut(case.url, stateful=True)
    await upload.end()
    assert await echo.result() == ["before", *range(20)]
    assert await client.outcome(20) == list(range(20))


@feature("close by the server", lasts=False)
async def close_by_server(case: Case, client: Connection) -> None:
    """Of a client that sends too much: it is told why it ends."""
    await client.invoke("Echo", "still allowed")
    await case.middle()
    await client.begin("Echo", TOO_LARGE)
    error = await client.ended()
    assert "Server returned an error on close: Connection closed with an error." in str(error)
    assert [event for event, _ in client.lifecycle] == ["close"]


@feature("abort", lasts=False, reconnect=[0])
async def abort(case: Case, client: Connection) -> None:
    """The hub ends the connection; such a client does not reconnect."""
    await client.invoke("Echo", 1)
    await case.middle()
    await client.send("Abort")
    assert await client.ended() is None
    assert client.lifecycle == [("close", None)]
    await case.event("disconnected", id=client.id)


# -- what is said ---------------------------------------------------------------------------------


@feature("large messages", on=["told"])
async def large_messages(case: Case, client: Connection) -> None:
    for count in (1, 2):
        assert await client.invoke("Echo", LARGE) == LARGE
        await client.send("SendTo", "Caller", [], [], "told", [LARGE])
        assert await client.sends("told", count) == [[LARGE]] * count
        upload = client.upload()
        echo = await client.stream("EchoStream", upload)
        await upload.item(LARGE)
        await echo.has(1)
        if count == 1:
            await case.middle()
        await upload.item(LARGE)
        await upload.end()
        assert await echo.result() == [LARGE, LARGE]


@feature("binary", on=["told"], only_on=("messagepack",))
async def binary(case: Case, client: Connection) -> None:
    data = [b"", bytes(range(256)), bytes(100_000)]
    for half in ("before", "after"):
        assert [await client.invoke("Echo", one) for one in data] == data
        await client.send("SendTo", "Caller", [], [], "told", data)
        upload = client.upload()
        echo = await client.stream("EchoStream", upload)
        await upload.item(data[1])
        await echo.has(1)
        if half == "before":
            await case.middle()
        await upload.item(data[2])
        await upload.end()
        assert await echo.result() == data[1:]
    assert await client.sends("told", 2) == [data, data]


@feature("Unicode", on=["grüße 世界"])
async def text_of_all_languages(case: Case, client: Connection) -> None:
    """In values, keys, names of groups and targets."""
    name = f"{case.name} {UNICODE}"
    await client.invoke("Join", name)
    for half in ("before", "after"):
        value = {UNICODE: [UNICODE, half]}
        assert await client.invoke("Echo", value) == value
        await client.send("SendTo", "Group", [name], [], "grüße 世界", [UNICODE])
        with pytest.raises(CallFailed) as failure:
            await client.invoke("ThrowHub", UNICODE)
        assert UNICODE in str(failure.value)
        if half == "before":
            await case.middle()
    assert await client.sends("grüße 世界", 2) == [[UNICODE], [UNICODE]]
