"""The official JavaScript client with ``signalr-trio service --mode serverless``, as a process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgpack
import pytest
import trio
from harness.process import signalr_trio
from harness.upstreams import application

from signalr_trio.connection_string import parse_connection_string
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import Completion, HubMessage
from signalr_trio.tokens import NAME_IDENTIFIER, make_token
from signalr_trio.transport.http import Request, Response
from signalr_trio.transport.http_client import http_request
from tests.interop.client_process import CallFailed, ClientProcess

KEY = "serverlesstestkey012345678901234567890123"
SECOND_KEY = "anothertestkey012345678901234567890123456"
ENDPOINT = parse_connection_string(f"Endpoint=http://localhost;AccessKey={KEY}")
PATIENCE = 30


@asynccontextmanager
async def service(app_port: int) -> AsyncIterator[int]:
    async with signalr_trio(
        "service", "--mode", "serverless", "--port", "0",
        "--connection-string", f"Endpoint=http://localhost;AccessKey={KEY};Version=1.0;",
        "--secondary-key", SECOND_KEY,
        "--upstream", f"http://127.0.0.1:{app_port}/joined/{{event}};category=connections",
        "--upstream", f"http://127.0.0.1:{app_port}/{{hub}}/{{event}};event=echo,fail,tell",
    ) as running:  # fmt: skip
        found = await running.read_until(r"listens on http://127\.0\.0\.1:(\d+)")
        yield int(found[1])


def invocation(request: Request) -> tuple[str, list[object]]:
    """The invocation id and the arguments of a message."""
    if request.header("content-type") == "application/json":
        fields = json.loads(request.body)
        return fields["invocationId"], fields["arguments"]
    elements = msgpack.unpackb(request.body)
    return elements[2], elements[4]


def answer(request: Request, message: HubMessage) -> Response:
    is_json = request.header("content-type") == "application/json"
    protocol = HUB_PROTOCOLS["json" if is_json else "messagepack"]
    return Response(200, protocol.write(message))


async def echo(request: Request) -> Response:
    id, [value] = invocation(request)
    return answer(request, Completion(id, value))


async def fail(request: Request) -> Response:
    id, _ = invocation(request)
    return answer(request, Completion(id, error="no such luck"))


async def tell(port: int, request: Request) -> Response:
    """Answers the caller by REST, in the middle of its call."""
    id, [text] = invocation(request)
    connection_id = request.header("x-asrs-connection-id")
    url = f"http://127.0.0.1:{port}/api/v1/hubs/test/connections/{connection_id}"
    body = json.dumps({"target": "told", "arguments": [text]}).encode()
    headers = [("Authorization", f"Bearer {make_token(KEY, url)}")]
    sent = await http_request("POST", url, headers=headers, body=body)
    return answer(request, Completion(id, sent.status))


async def test_a_client_without_a_hub_server(javascript: ClientProcess, protocol: str) -> None:
    with trio.fail_after(PATIENCE):
        async with application() as app, service(app.port) as port:
            app.answers = {"echo": echo, "fail": fail, "tell": partial(tell, port)}
            token = make_token(KEY, ENDPOINT.client_audience("test"), [(NAME_IDENTIFIER, "ann")])
            url = f"http://127.0.0.1:{port}/client/?hub=test&room=1"
            client = await javascript.connect(url, token=token, protocol=protocol, on=["told"])

            value = {"text": "Grüße 🎉", "items": [1, None, 1.5]}
            assert await client.invoke("echo", value) == value
            with pytest.raises(CallFailed, match="no such luck"):
                await client.invoke("fail")
            with pytest.raises(CallFailed, match="no upstream is set for it"):
                await client.invoke("other")
            stream = await client.stream("echo", 1)
            with pytest.raises(CallFailed, match="there are no streams in serverless mode"):
                await stream.result()
            assert await client.invoke("tell", "hello") == 202
            assert await client.sends("told", 1) == [["hello"]]
            assert client.lifecycle == []

            await client.stop()
            await app.until("disconnected")
    assert [one.path for one in app.requests] == [
        "/joined/connected",
        "/test/echo",
        "/test/fail",
        "/test/tell",
        "/joined/disconnected",
    ]
    for request in app.requests:
        assert request.header("x-asrs-connection-id") == app.requests[0].header(
            "x-asrs-connection-id"
        )
        assert request.header("x-asrs-user-id") == "ann"
        assert request.header("x-asrs-client-query") == "?room=1"
        assert (request.header("x-asrs-signature") or "").count("sha256=") == 2
