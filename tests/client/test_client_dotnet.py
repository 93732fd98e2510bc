"""The client against the official ASP.NET Core SignalR server."""

from __future__ import annotations

import datetime

import attrs
import jwt
import pytest
import trio
from peers import dotnet_peer, needs_dotnet_peer
from ways import WAYS

from signalr_trio.client import HubConnection
from signalr_trio.errors import ConnectionClosed, HubError, NegotiateError, ServerTimeoutError

pytestmark = needs_dotnet_peer
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
async def peer():
    async with dotnet_peer() as peer:
        yield peer


ALL_TRANSPORTS = pytest.mark.parametrize(
    "transport", ["WebSockets", "ServerSentEvents", "LongPolling"]
)


@pytest.fixture(params=WAYS, ids=lambda way: "-".join(way))
async def connection(peer, request):
    transport, protocol = request.param
    with trio.fail_after(30):
        async with HubConnection(
            f"{peer.url}/test", protocol=protocol, transports=[transport]
        ) as connection:
            who = await connection.invoke("WhoAmI")
            assert transport in (who.get("transport"), who.get("Transport"))
            yield connection


async def numbers(n, then=None):
    for number in range(n):
        yield number
    if then is not None:
        raise then


async def words(*texts):
    for text in texts:
        yield text


async def test_results(connection):
    invoke = connection.invoke
    for value in (
        "ü😀\x1e",
        0,
        -(2**63),
        1.5,
        True,
        None,
        [1, [None]],
        {"a": {"b": 1}},
        "x" * 20000,
    ):
        assert await invoke("Echo", value) == value
    assert await invoke("EchoBytes", b"\x00\xff", result_type=bytes) == b"\x00\xff"
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    assert await invoke("DateEcho", moment, result_type=datetime.datetime) == moment
    assert await invoke("Add", 1, 2) == 3
    assert await invoke("Void") is None
    assert await invoke("void") is None
    assert len(await invoke("Large", 300_000)) == 300_000
    who = await invoke("WhoAmI")
    assert connection.connection_id in (who.get("connectionId"), who.get("ConnectionId"))


async def test_errors(connection):
    for arguments, text in [
        (
            ("ThrowHub", "my text"),
            "An unexpected error occurred invoking 'ThrowHub' on the server. HubException: my text",
        ),
        (("Throw", "x"), "An unexpected error occurred invoking 'Throw' on the server."),
        (
            ("NoSuch",),
            "Failed to invoke 'NoSuch' due to an error on the server. "
            "HubException: Method does not exist.",
        ),
        (("Add", 1), "Failed to invoke 'Add' due to an error on the server."),
        (("Add", "a", "b"), "Failed to invoke 'Add' due to an error on the server."),
        (
            ("Count", 1, 0),
            "The client attempted to invoke the streaming 'Count' method "
            "with a non-streaming invocation.",
        ),
    ]:
        with pytest.raises(HubError) as caught:
            await connection.invoke(*arguments)
        assert str(caught.value) == text


async def test_streams_from_the_server(connection, peer):
    for method in ("Count", "CountChannel"):
        async with connection.stream(method, 300, 0) as items:
            assert [item async for item in items] == list(range(300))
    got = []

    async def collect():
        async with connection.stream("CountThenThrow", 2) as items:
            async for item in items:
                got.append(item)

    with pytest.raises(HubError, match="An error occurred on the server while streaming results"):
        await collect()
    assert got == [0, 1]
    async with connection.stream("Count", 10**6, 1) as items:
        async for item in items:
            if item == 2:
                break
    assert (await peer.event("stream_end", count=2, method="Count"))["cancelled"] is True


async def test_large_uploads_and_many_calls_at_once(connection):
    texts = [str(number) * 20_000 for number in range(10)] * 5

    async def items():
        for text in texts:
            yield text

    async with connection.stream("EchoStream", items()) as stream:
        assert [item async for item in stream] == texts
    results = {}

    async def call(number):
        results[number] = await connection.invoke("Add", number, 1)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(call, number)
    assert results == {number: number + 1 for number in range(100)}


async def test_polls_that_time_out_and_none_that_is_missed():
    async with dotnet_peer("--poll-timeout", "0.2", "--client-timeout", "1") as peer:
        url = f"{peer.url}/test"
        async with HubConnection(url, transports=["LongPolling"], reconnect=None) as connection:
            # Longer than the server waits for a client that it does not hear of.
            assert await connection.invoke("Slow", 2000) == 2000


async def test_a_transport_that_the_server_does_not_have():
    async with dotnet_peer("--transports", "longpolling") as peer:
        async with HubConnection(f"{peer.url}/test") as connection:
            assert (await connection.invoke("WhoAmI"))["transport"] == "LongPolling"
        with pytest.raises(NegotiateError, match="'LongPolling' is disabled"):
            await HubConnection(f"{peer.url}/test", transports=["WebSockets"]).__aenter__()


async def test_streams_to_the_server(connection):
    assert await connection.invoke("Sum", numbers(1000)) == 499500
    send, receive = trio.open_memory_channel(9)
    await send.send(5)
    await send.aclose()
    assert await connection.invoke("SumChannel", receive) == 5
    assert await connection.invoke("ConcatWith", words("a", "b"), "-", words("c")) is not None
    async with connection.stream("EchoStream", numbers(50)) as items:
        assert [item async for item in items] == list(range(50))
    with pytest.raises(ValueError, match="no more"):
        await connection.invoke("Sum", numbers(2, ValueError("no more")))
    with pytest.raises(HubError, match="Client sent 0 stream"):
        await connection.invoke("Sum")


async def test_a_cancelled_invoke(connection):
    with trio.move_on_after(0.05) as scope:
        await connection.invoke("Slow", 300)
    assert scope.cancelled_caught
    assert await connection.invoke("Add", 1, 1) == 2


async def test_sends_from_the_server(connection):
    send, receive = trio.open_memory_channel(99)
    connection.on("note", send.send)
    await connection.send("SendTo", "All", [], [], "NOTE", ["a"])
    await connection.send("SendTo", "Caller", [], [], "note", ["b"])
    assert [await receive.receive() for _ in range(2)] == ["a", "b"]


async def test_a_handler_may_invoke(connection):
    send, receive = trio.open_memory_channel(99)

    async def handler(text):
        await send.send(await connection.invoke("Echo", text))

    connection.on("note", handler)
    await connection.send("SendTo", "Caller", [], [], "note", ["a"])
    assert await receive.receive() == "a"


async def test_client_results(connection):
    async def double(value):
        return value * 2

    def fail(_):
        raise HubError("not now")

    connection.on("double", double)
    connection.on("fail", fail)
    assert await connection.invoke("AskCaller", "double", "ab") == "abab"
    for method, text in [("fail", "not now"), ("nobody", "Client didn't provide a result.")]:
        with pytest.raises(HubError, match=text):
            await connection.invoke("AskCaller", method, "x")


async def test_an_abort_is_a_close_without_reconnect(connection):
    with pytest.raises(ConnectionClosed):
        await connection.invoke("Abort")
    await connection.wait_closed()


@ALL_TRANSPORTS
async def test_the_server_sees_a_clean_end(peer, transport):
    async with HubConnection(f"{peer.url}/test", transports=[transport]) as connection:
        connection_id = connection.connection_id
    event = await peer.event("disconnected", id=connection_id)
    assert event.get("error") is None


@pytest.mark.parametrize("transport", ["WebSockets", "ServerSentEvents"])
async def test_pings_keep_a_connection_alive(transport):
    async with dotnet_peer("--client-timeout", "1.5", "--keep-alive", "0.5") as peer:
        url = f"{peer.url}/test"
        options = {"transports": [transport], "reconnect": None}
        async with HubConnection(url, keep_alive=0.3, **options) as lively:
            # The one that does not ping ends first, so the other has outlived the time-out.
            async with HubConnection(url, keep_alive=100, **options) as idle:
                with trio.fail_after(20), pytest.raises(ConnectionClosed, match="error on close"):
                    await idle.wait_closed()
            assert await lively.invoke("Add", 1, 2) == 3


async def test_a_silent_server_is_given_up():
    async with (
        dotnet_peer("--keep-alive", "100") as peer,
        HubConnection(f"{peer.url}/test", server_timeout=0.3, reconnect=()) as connection,
    ):
        with trio.fail_after(20), pytest.raises(ServerTimeoutError):
            await connection.wait_closed()


@ALL_TRANSPORTS
async def test_a_message_over_the_servers_limit_is_a_close_that_allows_reconnect(peer, transport):
    async with HubConnection(
        f"{peer.url}/test", transports=[transport], reconnect=(0, 0.1)
    ) as connection:
        again = trio.Event()
        connection.on_reconnected(lambda _: again.set())
        with pytest.raises(ConnectionClosed, match="Connection closed with an error"):
            await connection.invoke("Echo", "x" * 40000)
        with trio.fail_after(20):
            await again.wait()
        assert await connection.invoke("Add", 1, 2) == 3


@ALL_TRANSPORTS
@pytest.mark.parametrize("graceful", [True, False])
async def test_a_reconnect_to_the_next_server_on_the_same_port(transport, graceful):
    lost = trio.Event()
    send, reconnected = trio.open_memory_channel(99)
    async with dotnet_peer() as first:
        connection = HubConnection(
            f"{first.url}/test", transports=[transport], reconnect=[0, *[0.05] * 400]
        )
        connection.on_reconnecting(lambda _: lost.set())
        connection.on_reconnected(send.send_nowait)
        async with connection:
            assert await connection.invoke("Echo", 1) == 1
            if graceful:
                first.terminate()
                await lost.wait()
            # Graceful or not: it would wait for a client that it still lets in while it ends.
            first.kill()
            await first.wait()
            with trio.fail_after(30):
                async with dotnet_peer("--urls", f"http://127.0.0.1:{first.port}") as second:
                    new_id = (await second.event("connected"))["id"]
                    while await reconnected.receive() != new_id:
                        pass
                    assert connection.connection_id == new_id
                    assert await connection.invoke("Echo", 2) == 2
                    second.kill()
                    with pytest.raises(ConnectionClosed):
                        await connection.invoke("Slow", 20000)


@ALL_TRANSPORTS
async def test_tokens(transport):
    async with dotnet_peer("--jwt-key", KEY) as peer:
        url = f"{peer.url}/test"
        with pytest.raises(NegotiateError, match="401"):
            await HubConnection(url).__aenter__()

        async def token():
            return jwt.encode({"sub": "ann"}, KEY, algorithm="HS256")

        async with HubConnection(url, access_token=token, transports=[transport]) as connection:
            assert (await connection.invoke("WhoAmI"))["userId"] == "ann"
        async with HubConnection(
            url, access_token=await token(), skip_negotiate=True
        ) as connection:
            assert (await connection.invoke("WhoAmI"))["userId"] == "ann"


@attrs.define
class Home:
    street: str
    number: int


@attrs.define
class Record:
    name: str
    age: int
    home: Home | None
    tags: list[str]


async def test_records():
    record = Record("ann", 7, Home("High Street", 1), ["a"])
    async with dotnet_peer() as peer, HubConnection(f"{peer.url}/test") as connection:
        assert await connection.invoke("RecordEcho", record, result_type=Record) == record
