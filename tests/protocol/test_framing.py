"""Framing: vectors, limits, any division of a stream into pieces.

A case of ``framing.json`` is a stream (``data``), the bodies in it (``messages``) and what is left
over (``rest``), or a body's ``length`` and its prefix. The error ``incomplete`` means that more
data are needed, which is no failure.
"""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol import framing
from signalr_trio.protocol.framing import LengthPrefixed, RecordSeparated, prefixed, unframe

CASES = json.loads((Path(__file__).parents[1] / "data/vectors/framing.json").read_bytes())
STREAMS = [case for case in CASES if "data" in case]
PREFIXES = [case for case in CASES if "prefix_hex" in case]
SPLITTERS = {"binary": LengthPrefixed, "text": RecordSeparated}


def _bytes(value):
    return base64.b64decode(value["b64"])


def _feed(splitter, pieces):
    return [frame for piece in pieces for frame in splitter.feed(piece)]


def _body(case, frame):
    return bytes(unframe(frame)) if case["framing"] == "binary" else frame[:-1]


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case["name"])
def test_stream_vector(case):
    splitter = SPLITTERS[case["framing"]](None)
    if case["error"] == "too_large":
        with pytest.raises(ProtocolError):
            splitter.feed(_bytes(case["data"]))
        return
    frames = splitter.feed(_bytes(case["data"]))
    assert [_body(case, frame) for frame in frames] == [_bytes(m) for m in case["messages"]]
    assert splitter.pending == len(_bytes(case["rest"]))
    if case["direction"] == "both" and case["framing"] == "binary":
        assert b"".join(prefixed(_bytes(m)) for m in case["messages"]) == _bytes(case["data"])


@pytest.mark.parametrize("case", PREFIXES, ids=lambda case: case["name"])
def test_prefix_vector(case):
    prefix, length = bytes.fromhex(case["prefix_hex"]), case["length"]
    if length <= 2**20:
        body = bytes(length)
        assert [bytes(unframe(f)) for f in LengthPrefixed(None).feed(prefix + body)] == [body]
        if case["direction"] == "both":
            assert prefixed(body) == prefix + body
    else:  # too large to be made
        assert framing._write_prefix(length) == prefix
        assert framing._read_prefix(prefix, 0) == (length, len(prefix))


@pytest.mark.parametrize("splitter", [RecordSeparated, LengthPrefixed])
def test_one_whole_frame_is_not_copied(splitter):
    frame = prefixed(b"x" * 300) if splitter is LengthPrefixed else b"x" * 300 + b"\x1e"
    (out,) = splitter(None).feed(frame)
    assert out is frame


@pytest.mark.parametrize(
    ("splitter", "frame"),
    [
        (RecordSeparated, b"x" * 32767 + b"\x1e"),
        (LengthPrefixed, prefixed(b"x" * 32765)),
    ],
)
def test_the_limit_counts_the_framing(splitter, frame):
    size = len(frame)
    assert splitter(size).feed(frame * 3) == [frame] * 3
    for pieces in ([frame], [frame[:100], frame[100:]], [frame * 2]):
        with pytest.raises(ProtocolError, match=f"maximum message size of {size - 1}B"):
            _feed(splitter(size - 1), pieces)


def test_an_unfinished_record_over_the_limit_is_refused():
    splitter = RecordSeparated(10)
    assert splitter.feed(b"x" * 10) == []
    with pytest.raises(ProtocolError):
        splitter.feed(b"x")


@pytest.mark.parametrize("pieces", [[b"\x8b\x00"], [b"\x8b", b"\x00"]])
def test_an_announced_length_over_the_limit_is_refused_at_once(pieces):
    with pytest.raises(ProtocolError):
        _feed(LengthPrefixed(12), pieces)


def test_a_bad_length_in_pieces():
    splitter = LengthPrefixed(None)
    assert splitter.feed(b"\xff\xff\xff\xff") == []
    with pytest.raises(ProtocolError, match="over 2GB"):
        splitter.feed(b"\x08")


@pytest.mark.parametrize("frame", [b"", b"\x80", b"\x02a", b"\x01ab", b"\x80\x80\x80\x80\x80"])
def test_unframe_refuses_a_prefix_that_does_not_fit(frame):
    with pytest.raises(ProtocolError):
        unframe(frame)


def test_unframe_of_a_large_frame_is_a_view():
    frame = prefixed(b"x" * 5000)
    body = unframe(frame)
    assert isinstance(body, memoryview)
    assert body.obj is frame


def _pieces(data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.binary(max_size=200)), st.lists(st.integers(0, 2**20)))
def test_any_division_of_length_prefixed(bodies, cuts):
    frames = [prefixed(body) for body in bodies]
    splitter = LengthPrefixed(None)
    out = _feed(splitter, _pieces(b"".join(frames), cuts))
    assert out == frames
    assert [bytes(unframe(frame)) for frame in out] == bodies
    assert splitter.pending == 0


@given(st.binary(max_size=300).map(lambda b: b.replace(b"0", b"\x1e")), st.lists(st.integers(0)))
def test_any_division_of_records(data, cuts):
    splitter = RecordSeparated(None)
    out = _feed(splitter, _pieces(data, cuts))
    *whole, rest = data.split(b"\x1e")
    assert out == [record + b"\x1e" for record in whole]
    assert splitter.pending == len(rest)


@given(st.binary(max_size=100), st.integers(1, 40), st.integers(1, 100))
def test_length_prefixed_garbage_in_pieces_is_as_in_one(data, limit, step):
    def run(pieces):
        splitter = LengthPrefixed(limit)
        try:
            return _feed(splitter, pieces), splitter.pending
        except ProtocolError:
            return None

    assert run([data]) == run([data[i : i + step] for i in range(0, len(data), step)])
