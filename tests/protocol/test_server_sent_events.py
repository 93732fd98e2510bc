"""Server-sent events: the rules of the WHATWG, in any division into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.server_sent_events import EventParser

STREAMS = [
    (b"data: {}\x1e\r\n\r\n", [b"{}\x1e"]),
    (b":\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data:a\n\n", [b"a"]),
    (b"data: a\n\n", [b"a"]),
    (b"data:  a\n\n", [b" a"]),
    (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
    (b"data: a\ndata: b\ndata:c\n\n", [b"a\nb\nc"]),
    (b"data: a\r\ndata: b\rdata\n\n", [b"a\nb\n"]),
    (b"data\n\n", []),
    (b"data:\n\n", []),
    (b"data\ndata\n\n", [b"\n"]),
    (b"\n\n\r\n: comment\n\n", []),
    (b": comment\ndata: a\n: data: x\n\n", [b"a"]),
    (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
    (b"id: 7\nretry: 10\ndata: a\nnonsense\nDATA: b\n data: c\n\n", [b"a"]),
    (b"event: message\ndata: a\n\n", [b"a"]),
    (b"event: other\ndata: a\n\ndata: b\n\n", [b"b"]),
    (b"event: other\nevent:\ndata: a\n\n", [b"a"]),
    (b"data: a: b:c\n\n", [b"a: b:c"]),
    (b"data: \xff\xc3\xbc\n\n", [b"\xff\xc3\xbc"]),
    (b"data: a\n\ndata: unfinished\n", [b"a"]),
]


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_a_stream(stream, events):
    assert EventParser().feed(stream) == events
    parser = EventParser()
    assert [event for byte in stream for event in parser.feed(bytes([byte]))] == events


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 40)))
def test_any_division_into_pieces(stream, cuts):
    data, events = stream
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parser = EventParser()
    pieces = [data[start:end] for start, end in pairwise(ends)]
    assert [event for piece in pieces for event in parser.feed(piece)] == events


@given(st.lists(st.text(), max_size=5), st.sampled_from([b"\r", b"\n", b"\r\n"]))
def test_what_is_written_is_read(texts, end):
    lines = [text.encode() for text in texts]
    flat = [line.replace(b"\r", b" ").replace(b"\n", b" ") for line in lines]
    stream = b"".join(b"data: " + line + end for line in flat) + end
    whole = b"\n".join(flat)
    assert EventParser().feed(stream) == ([whole] if whole else [])


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + b"x" * 101 + b"\n\n"],
        [b"data: ", b"x" * 101],
        [b"data: " + b"x" * 60 + b"\n"] * 2,
        [b"x" * 120],
    ],
)
def test_an_event_over_the_limit(pieces):
    *before, last = pieces
    parser = EventParser(max_size=100)
    for piece in before:
        parser.feed(piece)
    with pytest.raises(ProtocolError, match="100B"):
        parser.feed(last)


def test_lines_without_data_count_too():
    """They become line feeds of the event, and each is kept."""
    parser = EventParser(max_size=100)
    parser.feed(b"data:\n" * 101)
    with pytest.raises(ProtocolError, match="100B"):
        parser.feed(b"data:\n")
    assert EventParser(max_size=100).feed(b"data:\n" * 101 + b"\n") == [b"\n" * 100]


def test_the_limit_is_for_one_event():
    parser = EventParser(max_size=100)
    event = b"x" * 90
    assert parser.feed((b"data: " + event + b"\n\n") * 3) == [event] * 3
