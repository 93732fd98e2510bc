"""The stream routes of the REST API: items and the end of a stream, for one client."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from harness.clients import JSON
from harness.room import MSGPACK, Room

from signalr_trio.protocol.messages import Completion, Invocation, StreamItem

STREAM = "/api/hubs/chat/connections/{}/streams/s%2F1/{}?api-version=2024-12-01"
FRAMED = "application/octet-stream"


@pytest.mark.parametrize("id", ["1", "2"])
@pytest.mark.parametrize(
    ("body", "item"), [(b"1", 1), (b'{"a":[null]}', {"a": [None]}), (b'"x"', "x"), (b"null", None)]
)
async def test_items(room: Room, id: str, body: bytes, item: Any) -> None:
    for completed in ("", "&completed=false", "&completed=True"):
        response = await room.call("POST", STREAM.format(id, ":send") + completed, body)
        assert (response.status, response.body) == (202, b"")
    assert room.received(id) == [StreamItem("s/1", item)] * 3 + [Completion("s/1")]
    assert [other for other in room.clients if room.received(other)] == [id]


@pytest.mark.parametrize("id", ["1", "2"])
async def test_items_that_the_sdk_has_encoded(room: Room, id: str) -> None:
    frames = {"json": JSON.write(StreamItem("s/1", "j"))}
    frames["messagepack"] = MSGPACK.write(StreamItem("s/1", "m"))
    body = msgpack.packb(frames)
    response = await room.call("POST", STREAM.format(id, ":send"), body, content_type=FRAMED)
    assert response.status == 202
    assert room.received(id) == [StreamItem("s/1", "j" if id == "1" else "m")]


@pytest.mark.parametrize("id", ["1", "2"])
@pytest.mark.parametrize(
    ("query", "error"),
    [("", None), ("&error=", None), ("&error=broken", "broken"), ("&reason=broken", "broken")],
)
async def test_the_end_of_a_stream(room: Room, id: str, query: str, error: str | None) -> None:
    assert (await room.call("POST", STREAM.format(id, ":complete") + query)).status == 202
    assert room.received(id) == [Completion("s/1", error=error)]


async def test_a_client_that_is_not_there(room: Room) -> None:
    """As with any send."""
    assert (await room.call("POST", STREAM.format("9", ":send"), b"1")).status == 202
    assert (await room.call("POST", STREAM.format("9", ":complete"))).status == 202


@pytest.mark.parametrize(
    ("kind", "body", "query"),
    [
        ("application/json", b"", ""),
        ("application/json", b"{", ""),
        ("application/json", b"1", "&completed=1"),
        (FRAMED, b"1", ""),
        (FRAMED, msgpack.packb({"json": JSON.write(Invocation("hi", []))}), ""),
        (FRAMED, msgpack.packb({"json": JSON.write(StreamItem("other", 1))}), ""),
    ],
)
async def test_a_bad_item_is_400_and_nobody_hears_of_it(
    room: Room, kind: str, body: bytes, query: str
) -> None:
    url = STREAM.format("1", ":send") + query
    response = await room.call("POST", url, body, content_type=kind)
    assert response.status == 400
    assert response.header("x-ms-error-code") == "Error.Request.Invalid"
    assert room.received("1") == []
