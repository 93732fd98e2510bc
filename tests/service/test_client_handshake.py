"""The hub handshake of a client with the service, and the pieces its messages come in."""

from __future__ import annotations

import pytest
import trio
from harness.clients import HELLO, JSON, Client
from harness.cluster import Cluster, open_cluster, settle

from signalr_trio.protocol.handshake import HandshakeRequest, write_request
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import Invocation
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.server_connection import ServerConnection
from signalr_trio.transport.long_polling import LongPollingTransport
from signalr_trio.transport.posted import Posted


async def refusal(cluster: Cluster, hello: bytes) -> str:
    """The error with which a client that says ``hello`` is refused."""
    client = await cluster.client(hello=hello)
    assert client.over.is_set()
    assert client.transport.closed
    assert client.response is not None
    assert client.received == []
    return client.response["error"]


async def test_the_request_opens_the_client_on_a_server_and_is_passed_on(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        hello = b'{ "version":1,"protocol":"JSON", "more": [1] }\x1e'
        client = await cluster.client(hello=hello)
        assert a.opened["c"].protocol == "json"
        assert a.connections[0].payloads_of("c") == [hello]
        assert client.response == {}


async def test_the_response_is_the_servers(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.answers = False
        client = await cluster.client()
        assert client.transport.sent == []
        a.connections[0].answer("c")
        await settle()
        assert client.response == {}


async def test_a_request_may_come_in_pieces_and_with_messages_behind_it(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        call = JSON.write(Invocation("f", []))
        client = await cluster.client(hello=HELLO[:7])
        assert a.opened == {}
        client.transport.put(HELLO[7:] + call + call[:5])
        client.transport.put(call[5:])
        await settle()
        assert a.data_of("c") == [call, call]


async def test_messagepack_is_binary_from_the_second_message_on(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client(hello=write_request(HandshakeRequest("messagepack", 1)))
        assert client.transport.binary
        call = MessagePackProtocol().write(Invocation("f", []))
        client.transport.put(call)
        await settle()
        assert a.connections[0].payloads_of("c")[1:] == [call]


@pytest.mark.parametrize(
    ("hello", "error"),
    [
        (b"{}\x1e", "An unexpected error occurred during connection handshake."),
        (b"\x1e", "An unexpected error occurred during connection handshake."),
        (b"GET / HTTP/1.1\x1e", "An unexpected error occurred during connection handshake."),
        (b'{"protocol":"json"}\x1e', "An unexpected error occurred during connection handshake."),
        (b'{"protocol":"blazorpack","version":1}\x1e', "'blazorpack' is not supported."),
        (b'{"protocol":"json","version":3}\x1e', "does not support version 3 of the 'json'"),
    ],
)
async def test_a_bad_request_is_refused_with_a_text(
    autojump_clock, hello: bytes, error: str
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        assert error in await refusal(cluster, hello)
        assert a.opened == {}


async def test_a_client_that_says_nothing_is_refused_in_time(autojump_clock) -> None:
    async with open_cluster() as cluster:
        client = await cluster.client(hello=HELLO[:5])
        began = trio.current_time()
        await client.over.wait()
        assert trio.current_time() - began == ServiceOptions().handshake_timeout
        assert client.response == {"error": "Handshake was canceled."}


async def test_a_request_without_an_end_is_refused_at_the_largest_size(autojump_clock) -> None:
    async with open_cluster(ServiceOptions(max_message_size=100)) as cluster:
        await cluster.scripted("A")
        assert await refusal(cluster, b"x" * 101) == "Handshake was canceled."


async def test_a_client_that_leaves_before_its_request_leaves_nothing_behind(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        client = await cluster.client(hello=b"{")
        client.leave()
        await settle()
        assert client.over.is_set()
        assert client.transport.sent == []
        assert cluster.service.client_count == 0


async def test_a_client_that_is_closed_as_its_server_comes_is_with_no_server(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DELETE of a client that polls, say: in the step in which the wait for a server ends."""
    async with open_cluster() as cluster:
        client = await cluster.client()
        service = cluster.service
        (session,) = service._sessions
        connection_ready = service.connection_ready

        def ready(connection: ServerConnection) -> None:
            connection_ready(connection)
            session.close()

        monkeypatch.setattr(service, "connection_ready", ready)
        a = await cluster.scripted("A")
        assert client.over.is_set()
        assert a.opened == {}
        assert service.hub("chat").sessions == {}
        assert a.connections[0].received[1:] == []


async def test_the_server_refuses_the_client(autojump_clock) -> None:
    """The client gets the server's response and nothing behind it."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        a.answers = False
        client = await cluster.client()
        connection = a.connections[0]
        connection.answer("c", "The protocol is not known here.")
        connection.send(plain_close("c"))
        await settle()
        assert client.response == {"error": "The protocol is not known here."}
        assert client.received == []
        assert client.over.is_set()


# -- messages ---------------------------------------------------------------------------------


async def test_only_whole_messages_are_forwarded(autojump_clock) -> None:
    """Rule 9: a message that the client never ends reaches no server."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        call = JSON.write(Invocation("f", [1]))
        for byte in call[:-1]:
            client.transport.put(bytes([byte]))
        await settle()
        assert len(a.connections[0].payloads_of("c")) == 1
        client.transport.put(call[-1:] + call + b'{"type":')
        await settle()
        client.leave()
        await settle()
        assert a.data_of("c") == [call, call]


async def test_a_message_over_the_largest_size_closes_the_client_with_a_text(
    autojump_clock,
) -> None:
    async with open_cluster(ServiceOptions(max_message_size=100)) as cluster:
        a = await cluster.scripted("A")
        client, other = await cluster.client(), await cluster.client("other")
        client.send("f", "x" * 100)
        other.send("f", 1)
        await settle()
        assert client.close is not None
        assert "maximum message size of 100B was exceeded" in (client.close.error or "")
        assert a.data_of("c") == []
        assert len(a.connections[0].closes_of("c")) == 1
        assert len(a.data_of("other")) == 1
        assert isinstance(other, Client)
        assert other.close is None


def plain_close(id: str, error: str = ""):
    from signalr_trio.protocol.service_messages import CloseConnection

    return CloseConnection(id, error)


async def test_a_log_line_is_one_line(autojump_clock, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the client calls its protocol."""
    caplog.set_level("DEBUG", "signalr_trio.service")
    async with open_cluster() as cluster:
        await cluster.scripted("A")
        hello = write_request(HandshakeRequest("json\nWARNING all is well", 1))
        assert "is not supported" in await refusal(cluster, hello)
        assert "all is well" in caplog.text
        assert all("\n" not in record.getMessage() for record in caplog.records)


async def test_a_client_that_is_closed_as_its_request_comes_is_not_opened(autojump_clock) -> None:
    """Nobody would ever take it away again: one that polls posts, and says DELETE at once."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        posted = Posted()
        session = cluster.service.new_client(
            "chat", LongPollingTransport(posted), connection_id="c", claims=[]
        )
        cluster.nursery.start_soon(session.run)
        await settle()
        await posted.post(HELLO)
        session.close()
        await settle()
        assert a.opened == {}
        assert cluster.service.hub("chat").sessions == {}
