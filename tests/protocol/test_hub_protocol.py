"""Both encodings of the hub protocol: vectors, round trips, bad input, peeking.

A case of ``hub_protocol_json.json`` has a ``wire`` text without its record separator, one of
``hub_protocol_msgpack.json`` a ``base64`` body without its length prefix. ``message`` is what it
means, ``direction`` whether it is read, written or both. ``error`` is the reason why it is refused,
except ``ignored_unknown_type`` (the message is skipped) and ``binding_*``: there the fault shows
only against parameter types, and ``message``, if there, is what a parser without types reads.
MessagePack values: ``{"f32": x}`` is a float32, ``{"timestamp": s}`` the extension type, ``{"b64":
..}`` bytes. ``framed_size`` counts the framing.
"""

from __future__ import annotations

import base64
import datetime
import enum
import json
import math
import uuid
from collections import OrderedDict
from pathlib import Path

import attrs
import cattrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalr_trio.client.conversion import as_mapping
from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.encodings import HUB_PROTOCOLS, hub_protocol
from signalr_trio.protocol.framing import LengthPrefixed, RecordSeparated, prefixed
from signalr_trio.protocol.hub_protocol import Peek
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.protocol.messages import (
    NO_RESULT,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
)

JSON = JsonProtocol()
MSGPACK = MessagePackProtocol()
BOTH = pytest.mark.parametrize("protocol", [JSON, MSGPACK], ids=["json", "messagepack"])
VECTORS = Path(__file__).parents[1] / "data/vectors"
# .NET answers a call without a method's name as it answers one of an unknown method, although its
# parser would refuse it: no name is bound to parameters before the parser comes to look at it.
LENIENT = {"Derived_invocation_target_empty"}


def _cases():
    for case in json.loads((VECTORS / "hub_protocol_json.json").read_bytes()):
        if case["name"] not in LENIENT:
            frame = case["wire"].encode() + b"\x1e"
            yield pytest.param(JSON, frame, case, id=f"json-{case['name']}")
    for case in json.loads((VECTORS / "hub_protocol_msgpack.json").read_bytes()):
        frame = prefixed(base64.b64decode(case["base64"]))
        yield pytest.param(MSGPACK, frame, case, id=f"messagepack-{case['name']}")


def _value(value):
    """A value of a vector as the parser reads it."""
    if isinstance(value, list):
        return [_value(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"f32"}:
        return value["f32"]
    if value.keys() == {"b64"}:
        return base64.b64decode(value["b64"])
    if value.keys() == {"timestamp"}:
        return datetime.datetime.fromtimestamp(value["timestamp"], datetime.UTC)
    return {key: _value(inner) for key, inner in value.items()}


def _call(fields, kind):
    return kind(
        target=fields["target"],
        arguments=_value(fields["arguments"]),
        invocation_id=fields["invocation_id"],
        stream_ids=tuple(fields["stream_ids"]),
        headers=fields["headers"] or None,
    )


def _completion(fields):
    result = _value(fields["result"]) if fields["has_result"] else NO_RESULT
    headers = fields["headers"] or None
    return Completion(fields["invocation_id"], result, fields["error"], headers)


MESSAGES = {
    "invocation": lambda f: _call(f, Invocation),
    "stream_invocation": lambda f: _call(f, StreamInvocation),
    "stream_item": lambda f: StreamItem(
        f["invocation_id"], _value(f["item"]), f["headers"] or None
    ),
    "completion": _completion,
    "cancel_invocation": lambda f: CancelInvocation(f["invocation_id"], f["headers"] or None),
    "ping": lambda f: Ping(),
    "close": lambda f: Close(f["error"], f["allow_reconnect"]),
    "ack": lambda f: Ack(f["sequence_id"]),
    "sequence": lambda f: Sequence(f["sequence_id"]),
}


TYPES = {
    Invocation: 1,
    StreamItem: 2,
    Completion: 3,
    StreamInvocation: 4,
    CancelInvocation: 5,
    Ping: 6,
    Close: 7,
    Ack: 8,
    Sequence: 9,
}


def _peek_of(message):
    """What peek has to say about a message that was parsed."""
    invocation_id = getattr(message, "invocation_id", None)
    return Peek(TYPES[type(message)], invocation_id, getattr(message, "stream_ids", ()))


@pytest.mark.parametrize(("protocol", "frame", "case"), list(_cases()))
def test_vector(protocol, frame, case):
    if case.get("message") is not None:
        message = MESSAGES[case["message"]["type"]](case["message"])
        if case["direction"] != "write":
            assert protocol.parse(frame) == message
            assert protocol.peek(frame) == _peek_of(message)
            assert protocol.is_ping(frame) == isinstance(message, Ping)
        # A float32 comes out as float64, the only float that Python has.
        if case["direction"] != "parse" and '{"f32"' not in json.dumps(case["message"]):
            assert protocol.write(message) == frame
            assert len(frame) == case.get("framed_size", len(frame))
    elif case["error"] == "ignored_unknown_type":
        assert protocol.parse(frame) is None
        assert protocol.peek(frame).invocation_id is None
        assert not protocol.is_ping(frame)
    else:
        with pytest.raises(ProtocolError):
            protocol.parse(frame)
        assert not protocol.is_ping(frame)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":6}{"type":7}', Ping()),
        ('{"type":6}//c', Ping()),
        (' {"type" : 6}\r\n', Ping()),
        ('{"type":7,"type":6}', Ping()),
        ('{"arguments":[],"target":"t","type":1}', Invocation("t", [])),
        ('{"type":1,"target":"t","arguments":[],"invocationId":""}', Invocation("t", [])),
        ('{"type":1,"target":"","arguments":[]}', Invocation("", [])),
        ('{"type":1,"target":"t","arguments":[1e400]}', Invocation("t", [math.inf])),
        ('{"type":1,"target":"t","arguments":["\\ud83d"]}', Invocation("t", ["\ufffd"])),
        (
            '{"type":1,"target":"t","arguments":[{"\\ude00":["\\ud83d\\ude00\\ud83d"]}]}',
            Invocation("t", [{"\ufffd": ["\U0001f600\ufffd"]}]),
        ),
        ('{"type":3,"invocationId":"\\u0031","result":1}', Completion("1", 1)),
        ('{"type":2,"invocationId":"1","item":0,"invocationId":"2"}', StreamItem("2", 0)),
        ('{"type":2,"invocationId":"1","item":0,"\\u0074ype":5}', CancelInvocation("1")),
        ('{"type":3,"invocationId":"1","result":{"type":2}}', Completion("1", {"type": 2})),
        ('{"type":2,"invocationId":"é","item":"x\\ny"}', StreamItem("é", "x\ny")),
    ],
)
def test_json_is_read_like_system_text_json(text, message):
    frame = text.encode() + b"\x1e"
    assert JSON.parse(frame) == message
    assert JSON.peek(frame) == _peek_of(message)
    assert JSON.is_ping(frame) == isinstance(message, Ping)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Error reading JSON"),
        ("not json", "Error reading JSON"),
        ('{"type":6,}', "Error reading JSON"),
        ('{"type":6}'[:-1], "Error reading JSON"),
        ('{"type":2,"invocationId":"1","item":NaN}', "NaN is no JSON value"),
        ("[" * 100_000, "Error reading JSON"),
        ("[]", "Unexpected JSON Token Type 'Array'"),
        ("null", "Unexpected JSON Token Type 'Null'"),
        ('{"protocol":"json","version":1}', "Missing required property 'type'"),
        ('{"type":true}', "Expected 'type' to be of type Number"),
        ('{"type":1.0}', "Expected 'type' to be of type Number"),
        ('{"type":1,"arguments":[]}', "Missing required property 'target'"),
        ('{"type":1,"target":null,"arguments":[]}', "Expected 'target' to be of type String"),
        ('{"type":1,"target":"t"}', "Missing required property 'arguments'"),
        ('{"type":1,"target":"t","arguments":null}', "Expected 'arguments' to be of type Array"),
        (
            '{"type":1,"invocationId":null,"target":"t","arguments":[]}',
            "Expected 'invocationId' to be of type String",
        ),
        ('{"type":1,"target":"t","arguments":[],"streamIds":null}', "Expected 'streamIds'"),
        ('{"type":1,"target":"t","arguments":[],"streamIds":[1]}', "each of 'streamIds'"),
        ('{"type":1,"target":"t","arguments":[],"headers":null}', "Expected 'headers'"),
        ('{"type":3,"invocationId":"1","error":null}', "Expected 'error' to be of type String"),
        ('{"type":8,"sequenceId":9223372036854775808}', "Expected 'sequenceId'"),
    ],
)
def test_bad_json(text, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        JSON.parse(text.encode() + b"\x1e")


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([1, {}, "", "t", [{1: b"x"}], []], Invocation("t", [{1: b"x"}])),
        ([6, 1], Ping()),
        ([7, None], Close()),
        ([2, {"a": "b"}, "1", [None], 5], StreamItem("1", [None], {"a": "b"})),
    ],
)
@pytest.mark.parametrize("tail", [b"", b"\xc1\xff"])
def test_messagepack_is_read_like_dotnet(elements, message, tail):
    frame = prefixed(msgpack.packb(elements) + tail)
    over_long = bytes((frame[0] | 0x80, 0x80, 0)) + frame[1:]
    for spelling in (frame, over_long):
        assert MSGPACK.parse(spelling) == message
        assert MSGPACK.peek(spelling) == _peek_of(message)
        assert MSGPACK.is_ping(spelling) == isinstance(message, Ping)


@pytest.mark.parametrize(
    "elements",
    [
        [],
        {},
        6,
        [True],
        [1.0],
        [1, None, "1", "t", [], []],
        [1, {}, 1, "t", [], []],
        [1, {}, "1", "t", {}, []],
        [1, {}, "1", "t", [], None],
        [1, {1: "a"}, "1", "t", [], []],
        [2, {}, "1"],
        [3, {}, "1"],
        [3, {}, "1", 4],
        [3, {}, "1", 3],
        [7],
        [7, 1],
        [7, None, 1],
    ],
    ids=repr,
)
def test_bad_messagepack(elements):
    with pytest.raises(ProtocolError):
        MSGPACK.parse(prefixed(msgpack.packb(elements)))


@pytest.mark.parametrize("body", ["", "c1", "91", "9106ff"[:2], "dc", "d90a41"])
def test_bad_messagepack_bytes(body):
    frame = prefixed(bytes.fromhex(body))
    for read in (MSGPACK.parse, MSGPACK.peek):
        with pytest.raises(ProtocolError):
            read(frame)


@BOTH
@pytest.mark.parametrize("frame", [b"", b"\x1e", b'{"type":6}', b"\x03\x91\x06", b"\x80"])
def test_bad_frame(protocol, frame):
    for read in (protocol.parse, protocol.peek):
        with pytest.raises(ProtocolError):
            read(frame)
    assert not protocol.is_ping(frame)


class Colour(enum.IntEnum):
    RED = 1


@attrs.define
class Point:
    x: float


NOON = datetime.datetime(2024, 1, 2, 12, 30)
UTC_NOON = NOON.replace(tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "in_json", "in_messagepack"),
    [
        (b"\x01\x02\x03", "AQID", b"\x01\x02\x03"),
        (bytearray(b"\x01"), "AQ==", b"\x01"),
        (Colour.RED, 1, "RED"),
        (NOON, "2024-01-02T12:30:00Z", UTC_NOON),
        (UTC_NOON, "2024-01-02T12:30:00Z", UTC_NOON),
        (NOON.date(), "2024-01-02", "2024-01-02"),
        (NOON.time(), "12:30:00", "12:30:00"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1)), str(uuid.UUID(int=1))),
        ((1, (2,)), [1, [2]], [1, [2]]),
        (OrderedDict(a=1), {"a": 1}, {"a": 1}),
        ({1: None}, {"1": None}, {1: None}),
        ([Point(1.5), None], [{"x": 1.5}, None], [{"x": 1.5}, None]),
    ],
    ids=repr,
)
def test_values_that_are_written_in_another_form(value, in_json, in_messagepack):
    message = Completion("1", value)
    assert JsonProtocol(attrs.asdict).parse(JsonProtocol(attrs.asdict).write(message)) == (
        Completion("1", in_json)
    )
    binary = MessagePackProtocol(attrs.asdict)
    assert binary.parse(binary.write(message)) == Completion("1", in_messagepack)


class Target(enum.StrEnum):
    SAY_HELLO = "sayHello"


@BOTH
@pytest.mark.parametrize("kind", [Invocation, StreamInvocation])
def test_a_target_is_a_string(protocol, kind):
    """An enum of strings stands for its value, as everywhere in Python."""
    message = protocol.parse(protocol.write(_call_of(kind, Target.SAY_HELLO)))
    assert message == _call_of(kind, "sayHello")
    with pytest.raises(TypeError, match="'target' must be str, not int"):
        protocol.write(_call_of(kind, 5))


def _call_of(kind, target):
    return Invocation(target, [], "1") if kind is Invocation else StreamInvocation("1", target, [])


@BOTH
@pytest.mark.parametrize("value", [object(), {1, 2}, Point(1), [2**70], {"a": "\ud800"}], ids=repr)
def test_values_that_cannot_be_written(protocol, value):
    with pytest.raises((TypeError, ValueError)):
        protocol.write(Completion("1", value))
    assert protocol.parse(protocol.write(Completion("1", 1))) == Completion("1", 1)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused_in_json_only(number):
    json_protocol = JsonProtocol(attrs.asdict)
    for value in (number, [None, (number,)], {"a": number}, Point(number)):
        with pytest.raises(ValueError, match="JSON cannot hold"):
            json_protocol.write(StreamItem("1", value))
    written = MSGPACK.parse(MSGPACK.write(StreamItem("1", number)))
    assert isinstance(written, StreamItem)
    assert repr(written.item) == repr(number)


def _identity(value):
    """As cattrs answers for what it has no rule for, datetimes among them."""
    return value


@pytest.mark.parametrize("hook", [None, attrs.asdict, as_mapping, _identity])
@pytest.mark.parametrize(
    "value",
    [
        b"x",
        bytearray(b"x"),
        memoryview(b"x"),
        UTC_NOON,
        UTC_NOON.date(),
        UTC_NOON.time(),
        uuid.UUID(int=1),
        Colour.RED,
    ],
    ids=repr,
)
def test_a_null_beside_it_keeps_no_value_from_being_written(hook, value):
    """JSON with a null in it is searched for numbers that are not finite: for these alone."""
    protocol = JsonProtocol(hook)
    alone = protocol.parse(protocol.write(StreamItem("1", value)))
    beside = protocol.parse(protocol.write(StreamItem("1", [None, {"a": value}])))
    assert isinstance(alone, StreamItem)
    assert beside == StreamItem("1", [None, {"a": alone.item}])


@pytest.mark.parametrize("hook", [None, as_mapping, _identity, cattrs.Converter().unstructure])
def test_the_type_that_cannot_be_written_is_named(hook):
    with pytest.raises(TypeError, match="frozenset"):
        JsonProtocol(hook).write(StreamItem("1", [frozenset("a")]))


def test_numbers_that_are_not_finite_are_found_in_enums():
    class Limit(enum.Enum):
        NONE = math.inf

    with pytest.raises(ValueError, match="JSON cannot hold"):
        JSON.write(StreamItem("1", Limit.NONE))


def test_invalid_utf_8_in_messagepack_is_replaced():
    body = msgpack.packb([2, {}, "1", "xy"]).replace(b"xy", b"x\xff")
    assert MSGPACK.parse(prefixed(body)) == StreamItem("1", "x\ufffd")


def test_an_error_comes_before_a_result():
    message = Completion("1", result=1, error="no")
    for protocol in (JSON, MSGPACK):
        assert protocol.parse(protocol.write(message)) == Completion("1", error="no")


@BOTH
def test_peek_does_not_read_the_values_of_a_large_message(protocol):
    values = ["x" * 2000, {"a": 1}]
    for message in (
        Completion("12", values),
        StreamItem("12", values),
        Invocation("t", values, "12", ("3", "4")),
        Invocation("t", values),
        StreamInvocation("12", "t", values, ("3",), {"a": "b"}),
    ):
        assert protocol.peek(protocol.write(message)) == _peek_of(message)
    frame = protocol.write(Completion("12", values))
    broken = frame[:-3] + b"\x1e" if protocol is JSON else prefixed(frame[2:-3])
    assert protocol.peek(broken) == Peek(3, "12")
    with pytest.raises(ProtocolError):
        protocol.parse(broken)


def test_encodings_by_name():
    assert set(HUB_PROTOCOLS) == {"json", "messagepack"}
    for name, spelling in (("json", "JSON"), ("messagepack", "MessagePack")):
        protocol = hub_protocol(spelling)
        assert protocol is HUB_PROTOCOLS[name]
        assert protocol.name == name
        assert protocol.version == 2
    assert hub_protocol("nosuch") is None
    assert isinstance(JSON.splitter(None), RecordSeparated)
    assert isinstance(MSGPACK.splitter(None), LengthPrefixed)
    assert (JSON.binary, MSGPACK.binary) == (False, True)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
HEADERS = st.none() | st.dictionaries(TEXT, TEXT, min_size=1, max_size=3)
IDS = st.lists(ID, max_size=3).map(tuple)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
VALUES = st.lists(VALUE, max_size=4)
MESSAGE = st.one_of(
    st.builds(Invocation, TEXT, VALUES, st.none() | ID, IDS, HEADERS),
    st.builds(StreamInvocation, ID, TEXT, VALUES, IDS, HEADERS),
    st.builds(StreamItem, ID, VALUE, HEADERS),
    st.builds(Completion, ID, VALUE | st.just(NO_RESULT), st.none(), HEADERS),
    st.builds(Completion, ID, st.just(NO_RESULT), TEXT, HEADERS),
    st.builds(CancelInvocation, ID, HEADERS),
    st.just(Ping()),
    st.builds(Close, st.none() | TEXT, st.booleans()),
    st.builds(Ack, st.integers(0, 2**63 - 1)),
    st.builds(Sequence, st.integers(0, 2**63 - 1)),
)


@BOTH
@given(message=MESSAGE)
def test_round_trip(protocol, message):
    frame = protocol.write(message)
    assert protocol.splitter(None).feed(frame) == [frame]
    assert protocol.parse(frame) == message
    assert protocol.peek(frame) == _peek_of(message)
    assert protocol.is_ping(frame) == isinstance(message, Ping)


def _read_or_refuse(protocol, frame):
    """Whatever the bytes: a message that peek sees in the same way, or a ProtocolError."""
    try:
        message = protocol.parse(frame)
    except ProtocolError:
        message = None
    else:
        if message is not None:
            assert protocol.peek(frame) == _peek_of(message)
            assert protocol.is_ping(frame) == isinstance(message, Ping)
    try:
        protocol.peek(frame)
    except ProtocolError:
        assert message is None


@given(st.binary() | st.binary().map(lambda tail: b"\x96\x01\x80\xa11\xa1t" + tail))
def test_garbage_in_messagepack(body):
    _read_or_refuse(MSGPACK, body)
    _read_or_refuse(MSGPACK, prefixed(body))


FRAGMENT = st.sampled_from(
    rb'{"type":  "invocationId":"1"  "target":"t"  "arguments":[  ]  }  ,  3  "type":1  "'
    rb'  {"type":3,"invocationId":"1"  \u0031  null  1  {  ,"item":'.split(b"  ")
)


@given(st.binary() | st.lists(FRAGMENT, max_size=12).map(b"".join))
def test_garbage_in_json(text):
    _read_or_refuse(JSON, text)
    _read_or_refuse(JSON, text + b"\x1e")


@BOTH
@given(data=st.data())
def test_a_damaged_message(protocol, data):
    frame = bytearray(protocol.write(data.draw(MESSAGE)))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    _read_or_refuse(protocol, bytes(frame))
