"""P10, while all goes on: who comes to the service and is no client in the end leaves nothing.

Requests that are not finished, connections that are negotiated and not made, or made and not used.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
import trio
from harness.house import ENDPOINT, LONG, PORT, House, leaves_nothing, open_house
from trio.testing import MockClock

from signalr_trio import Hub
from signalr_trio.tokens import make_token


class Work(Hub):
    pass


def request(method: str, query: str = "", *headers: str, length: int = 0, path: str = "") -> bytes:
    token = make_token(ENDPOINT.access_key, ENDPOINT.client_audience("work"))
    lines = [
        f"{method} /client/{path}?hub=work{query} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        f"Content-Length: {length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


UPGRADE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
EVENTS = ("Accept: text/event-stream",)
STATEFUL = "&useStatefulReconnect=true"
HELLO, LASTING = (b'{"protocol":"json","version":%d}\x1e' % version for version in (1, 2))


def frame(payload: bytes) -> bytes:
    """A masked text frame."""
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


async def negotiated(house: House, query: str = "") -> str:
    """The part of the query that names a connection which is yet to be made."""
    asked = request("POST", f"&negotiateVersion=1{query}", path="negotiate")
    stream = await house.network.connect("localhost", PORT)
    await stream.send_all(asked)
    head, _, body = bytes(await stream.receive_some()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    await trio.aclose_forcefully(stream)
    return f"&id={orjson.loads(body)['connectionToken']}"


#: What is asked for with it (None: nothing is negotiated), and what is sent, each on a connection
#: of its own, a second after the one before.
VISITS: dict[str, tuple[str | None, Callable[[str], list[bytes]]]] = {
    "nothing": (None, lambda _: [b""]),
    "no whole head": (None, lambda _: [b"GET /client/?hub"]),
    "no whole body": (None, lambda _: [request("POST", length=100, path="negotiate") + b"abc"]),
    "no HTTP": (None, lambda _: [bytes(range(256))]),
    "a request": (None, lambda _: [request("GET", path="nosuch")]),
    "negotiate": ("", lambda _: []),
    "negotiate, stateful": (STATEFUL, lambda _: []),
    "a WebSocket without a word": ("", lambda id: [request("GET", id, *UPGRADE)]),
    "half a frame": ("", lambda id: [request("GET", id, *UPGRADE) + frame(HELLO)[:9]]),
    "no frame": ("", lambda id: [request("GET", id, *UPGRADE) + b"\xff" * 50]),
    "a hello": ("", lambda id: [request("GET", id, *UPGRADE) + frame(HELLO) + PINGED]),
    "a bad hello": ("", lambda id: [request("GET", id, *UPGRADE) + frame(b"hello\x1e")]),
    "stateful": (STATEFUL, lambda id: [request("GET", id, *UPGRADE) + frame(LASTING) + PINGED]),
    "stateful, without a word": (STATEFUL, lambda id: 2 * [request("GET", id, *UPGRADE)]),
    "stateful, twice": (
        STATEFUL,
        lambda id: [
            request("GET", id, *UPGRADE) + frame(LASTING) + PINGED,
            request("GET", id, *UPGRADE),
        ],
    ),
    "events without a word": ("", lambda id: [request("GET", id, *EVENTS)]),
    "events": ("", lambda id: [request("GET", id, *EVENTS), posted(id, HELLO + PING)]),
    "events, and much behind": (
        "",
        lambda id: [request("GET", id, *EVENTS) + bytes(100_000), posted(id, HELLO + PING)],
    ),
    "a poll": ("", lambda id: [request("GET", id)]),
    "a poll and a hello": ("", lambda id: [request("GET", id), posted(id, HELLO)]),
    "polls": ("", lambda id: [request("GET", id), posted(id, HELLO), *3 * [request("GET", id)]]),
    "polls and an end": (
        "",
        lambda id: [
            *(request("GET", id), posted(id, HELLO), request("GET", id)),
            request("DELETE", id),
        ],
    ),
    "a post for nobody": ("", lambda id: [posted(id, bytes(200_000))]),
}


PING = b'{"type":6}\x1e'
PINGED = frame(PING)


def posted(id: str, data: bytes) -> bytes:
    return request("POST", id, length=len(data)) + data


@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "silent"])
@pytest.mark.parametrize("visit", VISITS)
async def test_p10_who_only_looked_in(autojump_clock: MockClock, visit: str, dropped: bool) -> None:
    """A connection that is neither used nor closed is given up in time."""
    query, sent_with = VISITS[visit]
    async with open_house(Work) as house:

        async def a_round(name: str) -> None:
            id = "" if query is None else await negotiated(house, query)
            streams: list[trio.abc.Stream] = []
            for sent in sent_with(id):
                streams.append(await house.network.connect("localhost", PORT))
                await streams[-1].send_all(sent)
                await trio.sleep(1)
            if not dropped:
                await trio.sleep(2 * LONG)
                assert not house.running.service.client_count
                assert not house.running.service.http_connections
            for stream in streams:
                await trio.aclose_forcefully(stream)

        await leaves_nothing(house, a_round)
