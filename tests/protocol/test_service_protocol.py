"""The service protocol against the SDK's own bytes, bad bytes and arbitrary bytes.

``tests/data/vectors/service_protocol*.json`` hold bodies and what they mean (from azure-signalr's
MIT-licensed tests, or read from its source), ``tests/data/transcripts/frames.json`` every distinct
body that a hub server on SDK 1.34 was seen to send, by the scenario it was first seen in.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol import service_protocol as protocol
from signalr_trio.protocol.framing import unframe

_DATA = Path(__file__).parent.parent / "data"


def _load(name: str) -> Any:
    return json.loads((_DATA / name).read_text())


_VECTORS = [
    case
    for name in ("service_protocol", "service_protocol_extra")
    for case in _load(f"vectors/{name}.json")
]
_EXPECTED = [case for case in _VECTORS if case["fields"] is not None]
_CURRENT = [case for case in _EXPECTED if not case["compat"]]
_REJECTED = [case for case in _VECTORS if case.get("expect") == "error"]
_IGNORED = [case for case in _VECTORS if case.get("expect") == "ignored"]
_FRAMES = [
    (scenario, body)
    for scenario, bodies in _load("transcripts/frames.json").items()
    for body in bodies
]


_CLASSES = {
    cls
    for cls in vars(m).values()
    if isinstance(cls, type) and issubclass(cls, m.ServiceMessage) and cls is not m.ServiceMessage
}


def _name(case: Any) -> str:
    return case["name"]


def _body(case: Any) -> bytes:
    return base64.b64decode(case["base64"])


def _plain(value: Any) -> Any:
    """The vectors' notation for binary, undone."""
    if isinstance(value, dict):
        if set(value) == {"b64"}:
            return base64.b64decode(value["b64"])
        return {key: _plain(item) for key, item in value.items()}
    return value


def _message(case: Any) -> m.ServiceMessage:
    """The message that the vector's fields describe."""
    fields = {name: _plain(value) for name, value in case["fields"].items()}
    if "claims" in fields:
        fields["claims"] = [tuple(claim) for claim in fields["claims"]]
    if case["type"] == "connection_data":
        fields["data_type"] = fields.pop("type")
    if case["type"] == "ping":
        fields = {"values": tuple(fields["messages"])}
    if case["type"] == "refresh_auth":
        fields["expire_time"] = msgpack.Timestamp(*fields["expire_time"])
    return getattr(m, case["type"].title().replace("_", ""))(**fields)


def _frame(body: bytes) -> bytes:
    """The body after its length, in seven bit groups, the lowest first."""
    prefix, length = [], len(body)
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*prefix, length]) + body


def _pack(*values: object) -> bytes:
    return msgpack.packb(values)


# --------------------------------------------------------------------------------- the SDK's bytes


@pytest.mark.parametrize("case", _EXPECTED, ids=_name)
def test_reads_what_the_sdk_reads(case: Any) -> None:
    assert protocol.parse(_body(case)) == _message(case)


@pytest.mark.parametrize("case", _CURRENT, ids=_name)
def test_writes_what_the_sdk_writes(case: Any) -> None:
    assert protocol.write(_message(case)) == _frame(_body(case))


@pytest.mark.parametrize("case", _REJECTED, ids=_name)
def test_rejects_what_the_sdk_rejects(case: Any) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse(_body(case))


@pytest.mark.parametrize("case", _IGNORED, ids=_name)
def test_ignores_unknown_types(case: Any) -> None:
    assert protocol.parse(_body(case)) is None


def test_the_vectors_cover_every_message() -> None:
    classes = {type(_message(case)) for case in _CURRENT}
    assert classes == _CLASSES
    assert {case["type_id"] for case in _CURRENT} == set(range(1, 44))


def test_payload_of_many_bytes() -> None:
    case = next(case for case in _VECTORS if "generate" in case)
    message = m.ConnectionData("abc", b"a" * 70_000)
    frame = protocol.write(message)
    prefix = bytes.fromhex(case["length_prefix_hex"])
    assert frame.startswith(prefix)
    body = frame[len(prefix) :]
    assert (len(body), hashlib.sha256(body).hexdigest()) == (case["body_len"], case["body_sha256"])
    assert protocol.parse(memoryview(body)) == message


def test_recorded_frames_come_out_as_they_went_in() -> None:
    different = [
        (scenario, body)
        for scenario, body in _FRAMES
        if (message := protocol.parse(base64.b64decode(body))) is None
        or protocol.write(message) != _frame(base64.b64decode(body))
    ]
    assert different == []
    assert len(_FRAMES) > 900


def test_enums_are_written_as_their_numbers() -> None:
    request = m.HandshakeRequest(
        connection_type=m.ConnectionType.WEAK, migration_level=m.MigrationLevel.ANY
    )
    assert unframe(protocol.write(request)) == _pack(1, 1, 2, "", 2, {}, False)
    data = m.ConnectionData("c", b"x", m.DataMessageType.CLOSE)
    assert unframe(protocol.write(data)) == _pack(6, "c", b"x", {5: 4})


# --------------------------------------------------------------------------- what may be left out

# The shortest array that is read, for each type id; the rest of the elements is optional.
_SHORTEST = (
    {1: 2, 2: 2, 3: 1, 4: 3, 5: 3, 6: 3, 7: 3, 8: 3, 9: 3, 10: 3, 11: 3, 12: 3, 13: 4, 14: 3, 15: 2}
    | {16: 3, 17: 3, 18: 4, 19: 4, 20: 4, 21: 4, 22: 6, 23: 4, 24: 4, 25: 4, 26: 5, 27: 5, 28: 4}
    | {29: 6, 30: 4, 31: 4, 32: 5, 33: 5, 34: 6, 35: 7, 36: 6, 37: 5, 38: 3, 39: 4, 40: 6, 41: 6}
    | {42: 4, 43: 4}
)


def _elements(case: Any) -> list[object]:
    return msgpack.unpackb(_body(case), strict_map_key=False)


@pytest.mark.parametrize("type_id", _SHORTEST)
def test_shortest_array(type_id: int) -> None:
    values = _elements(next(case for case in _CURRENT if case["type_id"] == type_id))
    for length in range(1, len(values) + 1):
        body = msgpack.packb(values[:length])
        if length < _SHORTEST[type_id]:
            with pytest.raises(ProtocolError, match="is missing from an array of length"):
                protocol.parse(body)
        else:
            assert protocol.parse(body) is not None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_pack(13, "g", [], {}, {}, ["u"]), m.GroupBroadcastData("g", [], {})),
        (_pack(4, "c", {}, {"h": ["v"]}), m.OpenConnection("c")),
        (_pack(1, 1, 2), m.HandshakeRequest()),
        (_pack(1, 1, 0, "", 1), m.HandshakeRequest(target="", migration_level=1)),
        (_pack(6, "c", None), m.ConnectionData("c", b"")),
        (_pack(8, "u", {"json": None}), m.UserData("u", {"json": b""})),
    ],
)
def test_short_and_nil_forms(body: bytes, message: m.ServiceMessage) -> None:
    assert protocol.parse(body) == message


@pytest.mark.parametrize("case", [case for case in _CURRENT if case["type_id"] != 3], ids=_name)
def test_more_elements_and_bytes_behind_are_ignored(case: Any) -> None:
    values = msgpack.unpackb(_body(case), strict_map_key=False, object_pairs_hook=_Pairs)
    longer = _packb([*values, "new", {1: [2]}]) + b"\xc1trailing"
    assert protocol.parse(longer) == _message(case)


# Where the extensions stand, if not last; 3, 15 and 39 have none that are read.
_EXTENSIONS_AT = {1: 5, 2: 2, 13: 4, 20: 4, 40: 1}


@pytest.mark.parametrize("type_id", sorted(set(_SHORTEST) - {3, 15, 39}))
def test_extensions_are_read_from_where_they_begin(type_id: int) -> None:
    values = _elements(next(case for case in _CURRENT if case["type_id"] == type_id))
    at = _EXTENSIONS_AT.get(type_id, len(values) - 1)
    with pytest.raises(ProtocolError, match="extensions must be a map, not string"):
        protocol.parse(msgpack.packb([*values[:at], "x"]))


class _Pairs(list[tuple[object, object]]):
    """A map with repeats."""


def _packb(values: list[object]) -> bytes:
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(len(values))
    for value in values:
        if isinstance(value, _Pairs):
            packer.pack_map_pairs([(k, dict(v) if isinstance(v, _Pairs) else v) for k, v in value])
        else:
            packer.pack(value)
    return packer.bytes()


# -------------------------------------------------------------------------------------- extensions


@pytest.mark.parametrize("strange", ["x", None, [1, [2]], {"a": {}}, b"", 1.5])
@pytest.mark.parametrize("key", [2, 4, 0, 99, -1])
def test_extensions_of_no_use_are_skipped_with_their_value(key: int, strange: object) -> None:
    body = _pack(6, "c", b"x", {key: strange, 1: 7, 5: 2, 6: True})
    assert protocol.parse(body) == m.ConnectionData("c", b"x", 2, True, 7)


def test_the_protocol_extension_wins_over_the_element() -> None:
    completion = protocol.parse(_pack(35, "i", "c", "s", "json", b"x", {3: "messagepack"}))
    assert completion == m.ClientCompletion("i", "c", "s", "messagepack", b"x")


def test_ttl_zero_is_written() -> None:
    frame = protocol.write(m.UserJoinGroup("u", "g", ttl=0))
    assert unframe(frame) == _pack(16, "u", "g", {2: 0})


# -------------------------------------------------------------------------------------- bad bodies


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "must be MessagePack: "),
        (b"\xc1", "must be MessagePack: "),
        (b"\x93\x06", "must be MessagePack: "),
        (b"\xdd\xff\xff\xff\xff\x06", "must be MessagePack: "),
        (b"\x94\x06\xc6\xff\xff\xff\xffc", "must be MessagePack: "),
        (b"\x91" * 100_000, "must be MessagePack: "),
        (b"\x93\x0f\xa1\xff", "must be MessagePack: "),
        (b"\x92\x0f\xa1\xff", "must be MessagePack: "),
        (b"\x92\x2a\xd7\xff" + b"\xff" * 8, "must be MessagePack: "),
        (msgpack.packb({}), "must be an array with a type id"),
        (msgpack.packb(6), "must be an array with a type id"),
        (_pack(), "must be an array with a type id"),
        (_pack(True, "x"), "type id must be an int, not bool"),
        (_pack([6], "x"), "type id must be an int, not array"),
        (_pack({}, "x"), "type id must be an int, not map"),
        (_pack(4, 5, {}), "open_connection: connection_id must be a string, not int"),
        (_pack(6, "c", "text", {}), "connection_data: payload must be binary, not string"),
        (_pack(6, b"c", b"", {}), "connection_data: connection_id must be a string, not binary"),
        (_pack(6, "c", b"", []), "connection_data: extensions must be a map, not array"),
        (_pack(6, "c", b"", {"5": 1}), "extensions must have ints as keys, not string"),
        (_pack(6, "c", b"", {5: True}), "extensions member data_type must be an int32, not bool"),
        (_pack(6, "c", b"", {5: 2**31}), "extensions member data_type must be an int32, not 2147"),
        (_pack(6, "c", b"", {6: 1}), "extensions member is_partial must be a bool, not int"),
        (_pack(6, "c", b"", {1: -1}), "extensions member tracing_id must be a uint64, not -1"),
        (_pack(6, "c"), "connection_data: payload is missing from an array of length 2"),
        (_pack(7, None, {}), "multi_connection_data: connection_list must be an array, not nil"),
        (_pack(7, ["c", 1], {}), "connection_list must be a string, not int"),
        (_pack(8, "u", {1: b""}), "user_data: payloads must be a string, not int"),
        (_pack(8, "u", {"json": [b""]}), "user_data: payloads must be binary, not array"),
        (b"\x93\x08\xa1u\x82\xa1j\xc0\xa1j\xc0", "user_data: payloads must not have a name twice"),
        (_pack(5, "c", "", {"H": [], "h": []}), "headers must not have a name twice"),
        (_pack(5, "c", "", {None: []}), "headers must be a string, not nil"),
        (_pack(4, "c", {"sub": 1}), "open_connection: claims must be a string, not int"),
        (_pack(11, "c", None), "join_group: group_name must be a string, not nil"),
        (_pack(20, 1.0, 1, ""), "ack: ack_id must be an int32, not float"),
        (_pack(20, 2**31, 1, ""), "ack: ack_id must be an int32, not 2147483648"),
        (_pack(3, "a", 1), "ping: values must be a string or nil, not int"),
        (_pack(39, "c", 3, 1), "connection_flow_control: connection_type must be 1 or 2, not 3"),
        (_pack(39, "c", 1, 0), "connection_flow_control: operation must be 1 to 4, not 0"),
        (_pack(41, "t", {}, 1, 1, {}), "refresh_auth: expire_time must be a timestamp, not int"),
    ],
)
def test_bad_bodies_say_what_is_wrong(body: bytes, text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.parse(body)
    assert text in str(caught.value)


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.builds(msgpack.Timestamp, st.integers(0, 2**40), st.integers(0, 999_999_999))
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(-1, 8), inner, max_size=4)
    ),
    max_leaves=6,
)


def _parse_or_reject(body: bytes) -> m.ServiceMessage | None:
    try:
        return protocol.parse(body)
    except ProtocolError:
        return None


@settings(max_examples=500)
@given(st.integers(1, 43), st.lists(_VALUES, max_size=7))
def test_any_values_are_a_message_or_a_protocol_error(type_id: int, values: list[object]) -> None:
    message = _parse_or_reject(msgpack.packb([type_id, *values]))
    # Nil as a handshake's target is read, for old servers' sake, but never written.
    if message is not None and not isinstance(message, m.HandshakeRequest):
        assert protocol.parse(unframe(protocol.write(message))) == message


@settings(max_examples=500)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    _parse_or_reject(body)
    _parse_or_reject(b"\x94\x06" + body)


@settings(max_examples=500)
@given(st.sampled_from(_CURRENT), st.data())
def test_damaged_messages_are_a_message_or_a_protocol_error(case: Any, data: st.DataObject) -> None:
    body = bytearray(_body(case))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    message = _parse_or_reject(bytes(body))
    assert message is None or protocol.write(message)


# ------------------------------------------------------------------------- the messages themselves


@pytest.mark.parametrize(
    ("ping", "value"),
    [
        (m.Ping(), None),
        (m.Ping.of(m.SHUTDOWN, m.FIN_MIGRATE), "fin:1"),
        (m.Ping.of(m.STATUS, "1", m.SHUTDOWN, m.FINACK), "finack"),
        (m.Ping.of(m.SHUTDOWN, m.FIN_OFF, m.SHUTDOWN, m.FIN_WAIT), "fin:0"),
        (m.Ping.of(m.ECHO, m.SHUTDOWN, m.SHUTDOWN), None),
        (m.Ping.of(m.SHUTDOWN, None), None),
    ],
)
def test_ping_value_of_a_key(ping: m.Ping, value: str | None) -> None:
    assert ping.get(m.SHUTDOWN) == value


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ({}, None),
        ({"Asrs-Migrate-To": ["b"]}, "b"),
        ({"x": ["1"], "ASRS-MIGRATE-TO": ["b", "c"]}, "b"),
        ({"asrs-migrate-to": [None]}, None),
        ({"asrs-migrate-to": []}, None),
    ],
)
def test_header_names_compare_without_case(
    headers: dict[str, list[str | None]], value: str | None
) -> None:
    assert m.header(headers, m.MIGRATE_TO) == value


def test_empty_collections_are_not_shared() -> None:
    m.OpenConnection("a").headers["h"] = []
    assert m.OpenConnection("b").headers == {}
    for cls in _CLASSES:
        for field in attrs.fields(cls):
            assert not isinstance(field.default, (list, dict))


# ------------------------------------------------------------------------------- payloads of an ack

_MODELS = [case for case in _VECTORS if "payload_model" in case]


@pytest.mark.parametrize("case", _MODELS, ids=_name)
def test_ack_payloads(case: Any) -> None:
    payload, model = _plain(case["fields"]["payload"]), case["payload_model"]
    if model["type"] == "claims":
        claims = [tuple(claim) for claim in model["claims"]]
        assert protocol.read_claims(payload) == claims
        assert protocol.write_claims(claims) == payload
    else:
        members = [tuple(member) for member in model["members"]]
        page = m.GroupMemberPage(members, model["continuation_token"])
        assert protocol.read_group_member_page(payload) == page
        assert protocol.write_group_member_page(page) == payload


def test_a_member_without_user() -> None:
    page = m.GroupMemberPage([("c", None)])
    payload = protocol.write_group_member_page(page)
    assert payload == _pack([["c", None]], None)
    assert protocol.read_group_member_page(payload) == page


def test_no_claims_are_nil() -> None:
    assert protocol.write_claims([]) == b"\xc0"
    assert protocol.read_claims(b"\xc0") == protocol.read_claims(b"\x80") == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc0",
        _pack(),
        _pack([]),
        _pack({}, None),
        _pack([], 1),
        _pack(["c"], None),
        _pack([[]], None),
        _pack([["c"]], None),
        _pack([["c", 1]], None),
        _pack([[None, "u"]], None),
    ],
)
def test_bad_group_member_pages(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.read_group_member_page(payload)


@pytest.mark.parametrize(
    "payload", [b"", _pack(), msgpack.packb({"a": None}), msgpack.packb({1: ""})]
)
def test_bad_claims(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.read_claims(payload)
