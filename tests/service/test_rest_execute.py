"""``:execute`` of the REST API, and the filters that choose its clients."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from harness.room import Room

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.messages import Close
from signalr_trio.service.filters import parse_filter
from signalr_trio.transport.http import Response

JOIN = {"type": "JoinGroup", "group": "h"}
SEND = {"type": "SendMessage", "message": {"target": "hi", "arguments": [1]}}


async def execute(room: Room, commands: Any, filter: str = "") -> Response:
    url = f"/api/hubs/chat/:execute?api-version=2024-12-01&filter={quote(filter)}"
    return await room.call("POST", url, json.dumps(commands).encode())


def members(room: Room, group: str) -> str:
    found = room.running.service.hub("chat").groups.members(group)
    return "".join(sorted(one.id for one in found))


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("", "1234"),
        ("startswith(userId, 'a')", "12"),
        ("userId eq null", "4"),
        ("'g' in groups and connectionId ne '4'", "1"),
        ("false", ""),
    ],
)
async def test_the_filter_chooses(room: Room, filter: str, expected: str) -> None:
    response = await execute(room, [SEND, JOIN], filter)
    assert (response.status, response.body) == (202, b"")
    assert room.heard == {id: [[1]] for id in expected}
    assert members(room, "h") == expected


async def test_each_command(room: Room) -> None:
    """In order, and whom they are for does not change on the way."""
    leave = {"type": "LeaveGroup", "group": "g"}
    close = {"Type": "CloseConnection", "Reason": "because"}
    assert (await execute(room, [JOIN, leave, SEND, close], "'g' in groups")).status == 202
    assert members(room, "h") == members(room, "g") == ""
    assert room.closed == "14"
    assert room.heard == {"1": [[1]], "4": [[1]]}
    for id in "14":
        assert room.received(id)[-1] == Close("because", allow_reconnect=True)


async def test_closing_without_a_reason(room: Room) -> None:
    await execute(room, [{"type": "CloseConnection"}], "connectionId eq '1'")
    assert room.received("1") == [Close(None, allow_reconnect=True)]


@pytest.mark.parametrize(
    "bad",
    [
        1,
        {},
        {"type": "Dance"},
        {"type": ["JoinGroup"]},
        {"type": "JoinGroup"},
        {"type": "JoinGroup", "group": " "},
        {"type": "LeaveGroup", "group": "x" * 1025},
        {"type": "LeaveGroup", "group": 1},
        {"type": "SendMessage"},
        {"type": "SendMessage", "message": {"target": ""}},
        {"type": "CloseConnection", "reason": 1},
    ],
)
async def test_a_bad_command_undoes_them_all(room: Room, bad: Any) -> None:
    response = await execute(room, [SEND, JOIN, bad])
    assert response.status == 400
    assert response.header("x-ms-error-code") == "Error.Request.Invalid"
    assert (room.heard, members(room, "h")) == ({}, "")


async def test_a_body_that_is_no_list(room: Room) -> None:
    assert (await execute(room, SEND)).status == 400


async def test_a_bad_filter_says_where(room: Room) -> None:
    response = await execute(room, [SEND], "userId is 'ann'")
    assert response.status == 400
    assert "at 7" in json.loads(response.body)["message"]
    assert room.heard == {}


# -- filters ----------------------------------------------------------------------------------


@attrs.frozen
class One:
    id: str = "c-1"
    user_id: str | None = "Ann-1"
    groups: tuple[str, ...] = ("g", "it's")


NOBODY = One("c-2", None, ())


@pytest.mark.parametrize(
    ("filter", "ann", "nobody"),
    [
        ("true", True, True),
        ("FALSE", False, False),
        ("null", False, False),
        ("userId eq 'Ann-1'", True, False),
        ("USERID EQ 'ann-1'", False, False),
        ("tolower(userId) eq 'ann-1'", True, False),
        ("toupper( userId )eq'ANN-1'", True, False),
        ("userId ne null", True, False),
        ("null eq userId", False, True),
        ("userId gt 'Ann'", True, False),
        ("userId lt 'Ann'", False, False),
        ("connectionId le 'c-1'", True, False),
        ("'c-2' ge connectionId", True, True),
        ("'g' in groups", True, False),
        ("'it''s' in (groups)", True, False),
        ("userId in groups", False, False),
        ("userId in ('bob', 'Ann-1')", True, False),
        ("userId in ('bob', null)", False, True),
        ("(userId) in ('bob')", False, False),
        ("length(userId) gt 4", True, False),
        ("length(userId) gt 5", False, False),
        ("length(groups) eq +2", True, False),
        ("length(groups) gt -1", True, True),
        ("startswith(userId, 'Ann') and endswith(userId, '1')", True, False),
        ("contains(userId,'n-')", True, False),
        ("indexof(userId,'-') eq 3", True, False),
        ("indexof(userId,'?') eq -1", True, False),
        ("substring(userId,4) eq '1'", True, False),
        ("substring(userId,1,2) eq 'nn'", True, False),
        ("substring(userId,9,-2) eq ''", True, False),
        ("trim(concat(' ', userId)) eq 'Ann-1'", True, False),
        ("not startswith(userId, 'A')", False, True),
        ("not ('g' in groups)", False, True),
        ("not not true", True, True),
        ("not true eq false", True, True),
        ("true or true and false", True, True),
        ("(true or true) and false", False, False),
        ("false and false or true", True, True),
        ("true and true and false", False, False),
        ("startswith(userId,'A') eq true", True, False),
        ("userId eq 'x' or (not (startswith(userId,'y')))", True, True),
    ],
)
def test_filters(filter: str, ann: bool, nobody: bool) -> None:
    predicate = parse_filter(filter)
    assert (predicate(One()), predicate(NOBODY)) == (ann, nobody)


@pytest.mark.parametrize(
    "filter",
    [
        " ",
        "userId",
        "userId eq",
        "userId eq 'x",
        "userId eq 1",
        "eq 'x'",
        "'x' eq 'x' eq 'x'",
        "true true",
        "true and",
        "true and 1",
        "1 or true",
        "groups eq groups",
        "'g' in userId",
        "1 in groups",
        "'g' in ()",
        "'g' in ('a'",
        "'g' in ('a' 'b')",
        "userId in ('a', 1)",
        "not length(userId) gt 5",
        "not 'x'",
        "length(1) eq 1",
        "length('a', 'b') eq 1",
        "substring(userId) eq 'x'",
        "startswith(userId, 1)",
        "startswith userId",
        "frobnicate(userId)",
        "user eq 'x'",
        "true)",
        "(true",
        "true; true",
        "length(userId) gt 12345678901",
        "(" * 51 + "true" + ")" * 51,
        "not " * 51 + "true",
        "tolower(" * 51 + "userId" + ")" * 51 + " eq 'x'",
        "true or " * 501 + "true",
    ],
)
def test_what_is_no_filter(filter: str) -> None:
    with pytest.raises(ProtocolError, match="'filter'"):
        parse_filter(filter)


def test_filters_as_deep_and_as_long_as_they_may_be() -> None:
    assert parse_filter("(" * 50 + "true" + ")" * 50)(NOBODY)
    assert parse_filter("false or " * 499 + "true")(NOBODY)
