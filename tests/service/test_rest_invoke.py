"""``:invoke`` of the REST API: whatever becomes of the question, the call is answered once."""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any

import msgpack
import pytest
import trio
from harness.clients import JSON
from harness.cluster import settle
from harness.room import ENDPOINT, MSGPACK, Room, open_room
from harness.servers import ScriptedServer

from signalr_trio.protocol.messages import NO_RESULT, Completion, Invocation
from signalr_trio.service.session import ClientSession
from signalr_trio.tokens import make_token
from signalr_trio.transport.http import Response

NAME = b'{"target":"Name","arguments":[1]}'
FRAMED = "application/octet-stream"


def path_to(id: str) -> str:
    return f"/api/hubs/chat/connections/{id}/:invoke?api-version=2024-12-01"


class Asked:
    """A call of ``:invoke`` that is under way."""

    def __init__(self, room: Room, nursery: trio.Nursery, id: str, **options: Any) -> None:
        self.room = room
        self.client = id
        self.response: Response | None = None
        self.ended_at = 0.0
        self.ended = trio.Event()
        nursery.start_soon(self._call, options)

    async def _call(self, options: dict[str, Any]) -> None:
        body = options.pop("body", NAME)
        self.response = await self.room.call("POST", path_to(self.client), body, **options)
        self.ended_at = trio.current_time()
        self.ended.set()

    async def answer(self, result: Any = NO_RESULT, error: str | None = None) -> Completion:
        completion = Completion(await self.room.question(self.client), result, error)
        self.room.say(self.client, completion)
        await self.ended.wait()
        return completion

    @property
    def status(self) -> int:
        assert self.response is not None
        return self.response.status

    @property
    def json(self) -> Any:
        assert self.response is not None
        assert self.response.header("content-type") == "application/json; charset=utf-8"
        return json.loads(self.response.body)


def session_of(room: Room, id: str) -> ClientSession:
    return room.running.service.hub("chat").sessions[id]


STAMP = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
RESULTS = [
    ("1", "Ann", {"result": "Ann"}),
    ("2", "Ann", {"result": "Ann"}),
    ("1", None, {"result": None}),
    ("2", NO_RESULT, {}),
    ("1", {"a": [1, 2.5, True]}, {"result": {"a": [1, 2.5, True]}}),
    (
        "2",
        {1: b"\x00\xff", "t": STAMP},
        {"result": {"1": "AP8=", "t": "2026-07-01T00:00:00+00:00"}},
    ),
]


@pytest.mark.parametrize(("id", "result", "expected"), RESULTS)
async def test_the_result_in_json(room: Room, id: str, result: Any, expected: Any) -> None:
    async with trio.open_nursery() as nursery:
        asked = Asked(room, nursery, id)
        await asked.answer(result)
    assert (asked.status, asked.json) == (200, expected)
    assert room.heard == {id: [[1]]}
    assert session_of(room, id).awaited is None


@pytest.mark.parametrize("id", ["1", "2"])
@pytest.mark.parametrize(("result", "error"), [("Ann", None), (NO_RESULT, "I won't")])
async def test_the_completion_as_the_sdk_wants_it(
    room: Room, id: str, result: Any, error: str | None
) -> None:
    """It reads the client's own message; an error in it is the SDK's to raise."""
    async with trio.open_nursery() as nursery:
        asked = Asked(room, nursery, id, accept=f"{FRAMED}; q=1")
        completion = await asked.answer(result, error)
    response = asked.response
    assert response is not None
    assert (response.status, response.header("content-type")) == (200, FRAMED)
    assert response.header("x-asrs-protocol") == room.protocol(id).name
    assert room.protocol(id).parse(response.body) == completion


@pytest.mark.parametrize("id", ["1", "2"])
async def test_a_call_that_the_sdk_has_encoded(room: Room, id: str) -> None:
    call = Invocation("Name", ["a"])
    body = msgpack.packb({"json": JSON.write(call), "messagepack": MSGPACK.write(call)})
    async with trio.open_nursery() as nursery:
        asked = Asked(room, nursery, id, body=body, content_type=FRAMED)
        await asked.answer("Ann")
    assert asked.json == {"result": "Ann"}
    assert room.heard == {id: [["a"]]}


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (NO_RESULT, "I won't", "I won't"),
        (msgpack.ExtType(5, b"x"), None, "The client's result cannot be written in JSON"),
        ({b"key": 1}, None, "The client's result cannot be written in JSON"),
    ],
)
async def test_a_client_that_gives_no_result(
    room: Room, result: Any, error: str | None, message: str
) -> None:
    async with trio.open_nursery() as nursery:
        asked = Asked(room, nursery, "2")
        await asked.answer(result, error)
    assert asked.status == 502
    assert asked.json["message"].startswith(message)


async def test_what_a_client_says_is_not_in_the_log(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "signalr_trio")
    async with trio.open_nursery() as nursery:
        await Asked(room, nursery, "1").answer(error="private")
    assert "/connections/1/:invoke: 502" in caplog.text
    assert "private" not in caplog.text


async def test_a_client_that_is_not_there(room: Room) -> None:
    response = await room.call("POST", path_to("9"), NAME)
    assert response.status == 404
    assert response.header("x-ms-error-code") == "Error.Connection.NotExisted"


@pytest.mark.parametrize("how", ["leaves", "is closed", "sends garbage"])
async def test_a_client_that_goes(room: Room, how: str) -> None:
    async with trio.open_nursery() as nursery:
        asked = Asked(room, nursery, "1")
        id = await room.question("1")
        if how == "leaves":
            room.clients["1"].leave()
        elif how == "is closed":
            await room.call("DELETE", "/api/v1/hubs/chat/connections/1")
        else:
            garbage = b'{"type":3,"invocationId":"%s","result":1,"error":"both"}\x1e' % id.encode()
            room.clients["1"].transport.put(garbage)
    assert asked.status == 404
    assert asked.json["message"] == "Connection '1' is disconnected."


async def test_a_client_that_does_not_answer(autojump_clock, room: Room) -> None:
    """What it says later is for its server, as all else."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        asked = Asked(room, nursery, "1")
        id = await room.question("1")
    assert asked.status == 504
    assert asked.ended_at - began == pytest.approx(30, abs=0.1)
    assert session_of(room, "1").awaited is None
    room.say("1", Completion(id, "late"))
    await settle()
    assert [JSON.parse(frame) for frame in room.server.data_of("1")] == [Completion(id, "late")]


@pytest.mark.parametrize("own", [True, False], ids=["own", "SDK"])
async def test_the_clients_server_has_no_part_in_it(autojump_clock, room: Room, own: bool) -> None:
    """Nor has the one that it moves to meanwhile."""
    service = room.running.service
    async with trio.open_nursery() as nursery:
        b = ScriptedServer(service, nursery, "B", own=own)
        b.auto_release = True
        room.server.auto_release = True
        b.connect("chat")
        await settle()
        asked = Asked(room, nursery, "1")
        await room.question("1")
        room.server.fin()
        await trio.sleep(5)
        assert session_of(room, "1").last_server == "B"
        room.seen.clear()
        await asked.answer("Ann")
        assert asked.json == {"result": "Ann"}
        assert b.data_of("1") == room.server.data_of("1") == []
        nursery.cancel_scope.cancel()


async def test_a_client_without_a_hub_server(autojump_clock) -> None:
    async with open_room("serverless") as room, trio.open_nursery() as nursery:
        asked = Asked(room, nursery, "1")
        await asked.answer("Ann")
        assert asked.json == {"result": "Ann"}


async def test_an_answer_passes_what_is_held(room: Room) -> None:
    async with trio.open_nursery() as nursery:
        ScriptedServer(room.running.service, nursery, "B").connect("chat")
        await settle()
        room.server.fin()
        await settle()
        room.say("1", Invocation("Held", []))
        asked = Asked(room, nursery, "1")
        await asked.answer("Ann")
        assert asked.json == {"result": "Ann"}
        assert room.server.data_of("1") == []
        nursery.cancel_scope.cancel()


async def test_many_calls_at_once_each_have_their_own_answer(room: Room) -> None:
    async with trio.open_nursery() as nursery:
        asked = [Asked(room, nursery, "1", body=b'{"target":"%d"}' % i) for i in range(10)]
        await settle()
        questions = [one for one in room.received("1") if isinstance(one, Invocation)]
        assert len({one.invocation_id for one in questions}) == 10
        for one in reversed(questions):
            assert one.invocation_id is not None
            room.say("1", Completion(one.invocation_id, one.target))
    assert [one.json for one in asked] == [{"result": str(i)} for i in range(10)]


async def test_a_caller_that_hangs_up(room: Room) -> None:
    """The question is forgotten; what the caller sent behind its call is read and left alone."""
    path = path_to("1")
    token = make_token(ENDPOINT.access_key, f"http://localhost{path.partition('?')[0]}")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(NAME)}\r\n"
    head += f"Authorization: Bearer {token}\r\n\r\n"
    stream = await room.network.connect("localhost", 8888)
    await stream.send_all(head.encode() + NAME + b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
    await room.question("1")
    assert session_of(room, "1").awaited is not None
    await stream.aclose()
    await settle()
    assert session_of(room, "1").awaited is None
    assert (await room.call("GET", "/api/health")).status == 200


async def test_calls_one_after_the_other_on_one_connection(room: Room) -> None:
    """Also where the next call comes while the first one waits."""
    path = path_to("1")
    token = make_token(ENDPOINT.access_key, f"http://localhost{path.partition('?')[0]}")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(NAME)}\r\n"
    head += f"Authorization: Bearer {token}\r\n\r\n"
    stream = await room.network.connect("localhost", 8888)
    for _ in range(2):
        await stream.send_all(head.encode() + NAME)
        await settle()
    with trio.fail_after(20):
        for result in ("first", "second"):
            room.say("1", Completion(await room.question("1"), result))
            assert f'{{"result":"{result}"}}'.encode() in bytes(await stream.receive_some())
    await stream.aclose()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b""),
        ("application/json", b'{"target":1}'),
        (FRAMED, b"\x80"),
        (FRAMED, msgpack.packb({"messagepack": MSGPACK.write(Invocation("Name", []))})),
        (FRAMED, msgpack.packb({"json": JSON.write(Completion("1", 1))})),
    ],
)
async def test_a_bad_body_is_400_and_nobody_hears_of_it(room: Room, kind: str, body: bytes) -> None:
    response = await room.call("POST", path_to("1"), body, content_type=kind)
    assert response.status == 400
    assert response.header("x-ms-error-code") == "Error.Request.Invalid"
    assert room.received("1") == []
    assert session_of(room, "1").awaited is None
