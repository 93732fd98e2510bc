"""The hub handshake, against vectors.

A case of ``handshake.json`` is a ``wire`` text without its record separator and the ``message`` that
it means; ``direction`` says whether it is read, written or both, ``error`` whether it is refused.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.handshake import (
    HandshakeRequest,
    HandshakeResponse,
    parse_request,
    parse_response,
    split_handshake,
    write_request,
    write_response,
)

CASES = json.loads((Path(__file__).parents[1] / "data/vectors/handshake.json").read_bytes())
PARSE = {"request": parse_request, "response": parse_response}
WRITE = {"request": write_request, "response": write_response}


def _message(fields):
    if fields["type"] == "handshake_request":
        return HandshakeRequest(fields["protocol"], fields["version"])
    return HandshakeResponse(fields["error"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_vector(case):
    wire, kind = case["wire"].encode(), case["kind"]
    if not case["terminated"]:
        assert split_handshake(wire) is None
        return
    frame = wire + b"\x1e"
    if case["error"] is not None:
        with pytest.raises(ProtocolError):
            PARSE[kind](frame)
        return
    message = _message(case["message"])
    if case["direction"] != "write":
        assert PARSE[kind](frame) == message
    if case["direction"] != "parse":
        assert WRITE[kind](message) == frame


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"protocol":"json","version":1.0}', "'version' to be of type Number"),
        ('{"protocol":"json","version":"1"}', "'version' to be of type Number"),
        ('{"protocol":"json","version":true}', "'version' to be of type Number"),
        ('{"protocol":"json","version":2147483648}', "'version' to be of type Number"),
        ('{"type":6}', "Missing required property 'protocol'"),
    ],
)
def test_bad_request(text, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        parse_request(text.encode() + b"\x1e")


def test_versions_are_the_callers_to_judge():
    assert parse_request(b'{"version":-1,"protocol":"MessagePack"}\x1e') == HandshakeRequest(
        "MessagePack", -1
    )


def test_a_hub_message_is_no_response():
    with pytest.raises(ProtocolError, match="Expected a handshake response"):
        parse_response(b'{"type":7,"error":"no"}\x1e')


@pytest.mark.parametrize("parse", [parse_request, parse_response])
@pytest.mark.parametrize("frame", [b"", b"{}", b"\x1e", b'{"error":"\xff"}\x1e'])
def test_bad_frame(parse, frame):
    with pytest.raises(ProtocolError):
        parse(frame)


@pytest.mark.parametrize(
    ("buffer", "parts"),
    [
        (b"", None),
        (b'{"protocol"', None),
        (b"{}\x1e", (b"{}\x1e", b"")),
        (b'{}\x1e{"type":6}\x1e{', (b"{}\x1e", b'{"type":6}\x1e{')),
    ],
)
def test_split_handshake(buffer, parts):
    assert split_handshake(buffer) == parts


@given(st.binary())
def test_garbage_is_refused(data):
    for parse in (parse_request, parse_response):
        with contextlib.suppress(ProtocolError):
            parse(data + b"\x1e")
