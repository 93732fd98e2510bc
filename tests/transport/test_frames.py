"""frames: what is encoded any parser reads; what is scanned comes out whole, or goes on untouched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from signalr_trio.transport.frames import (
    BINARY,
    CLOSE,
    TEXT,
    FrameScanner,
    Kind,
    Message,
    Passed,
    apply_mask,
    encode_frame,
)

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 200_000]
PING = 0x9


def scan(data: bytes, *, limit: int | None = None, step: int = 0) -> list[Message | Passed]:
    scanner = FrameScanner(from_client=True, max_message_size=limit)
    step = step or len(data)
    return [item for at in range(0, len(data), step) for item in scanner.feed(data[at : at + step])]


def raw(first: int, payload: bytes, *, mask: bool = True) -> bytes:
    """A frame with any first byte."""
    frame = bytearray(encode_frame(BINARY, payload, mask=mask))
    frame[0] = first
    return bytes(frame)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_wsproto_reads_what_is_encoded(size: int, mask: bool, opcode: int) -> None:
    reader = Connection(ConnectionType.SERVER if mask else ConnectionType.CLIENT)
    reader.receive_data(encode_frame(opcode, b"x" * size, mask=mask))
    events = list(reader.events())
    assert type(events[0]) is (TextMessage if opcode == TEXT else BytesMessage)
    data = "".join if opcode == TEXT else b"".join
    assert len(data(event.data for event in events)) == size  # type: ignore[union-attr]
    assert events[-1].message_finished  # type: ignore[union-attr]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", [True, False])
def test_whole_messages_are_found(size: int, text: bool) -> None:
    frame = encode_frame(TEXT if text else BINARY, b"y" * size, mask=True)
    assert scan(frame + frame) == [(b"y" * size, text)] * 2


def test_masks_are_fresh() -> None:
    frames = {encode_frame(BINARY, b"same", mask=True) for _ in range(20)}
    assert len(frames) == 20


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_twice_gives_the_data_back(data: bytes, key: bytes) -> None:
    masked = apply_mask(data, key)
    assert masked == bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
    assert apply_mask(masked, key) == data


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x81, 0x82, 0x89, 0x8A]),
            st.sampled_from([0, 1, 5, 100, 125]) | st.integers(126, 70_000),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 80_000),
)
def test_it_does_not_matter_how_the_bytes_are_cut(frames: list[tuple[int, int]], step: int) -> None:
    data = b"".join(
        raw(first, b"z" * (size if first < 0x88 else size % 126)) for first, size in frames
    )
    whole, cut = scan(data), scan(data, step=step)
    assert whole == cut
    assert len(whole) == len(frames)


def test_fragments_and_control_frames_go_on_untouched() -> None:
    first, ping, last = raw(0x01, b"ab"), raw(0x80 | PING, b"p"), raw(0x80, b"cd")
    assert scan(first + ping + last + raw(0x82, b"after")) == [
        Passed(first, Kind.PART),
        Passed(ping, Kind.PART),
        Passed(last, Kind.LAST_PART),
        (b"after", False),
    ]


NOT_IN_ORDER = {
    "unmasked": raw(0x82, b"x", mask=False),
    "reserved bit": raw(0xC2, b"x"),
    "reserved opcode": raw(0x83, b"x"),
    "reserved control opcode": raw(0x8B, b"x"),
    "fragmented ping": raw(0x09, b"x"),
    "long ping": raw(0x89, b"x" * 126),
    "continuation of nothing": raw(0x80, b"x"),
    "first fragment of two messages": raw(0x02, b"x") + raw(0x02, b"x"),
    "message amid another": raw(0x02, b"x") + raw(0x82, b"x"),
    "length in too many bytes (2)": b"\x82\xfe\x00\x05" + bytes(4) + b"hello",
    "length in too many bytes (8)": b"\x82\xff" + (5).to_bytes(8, "big") + bytes(4) + b"hello",
    "length with the sign bit": b"\x82\xff\x80" + bytes(7 + 4),
    "text that is not UTF-8": raw(0x81, b"\xff"),
}


@pytest.mark.parametrize("name", NOT_IN_ORDER)
def test_what_is_not_in_order_goes_on_with_all_behind_it(name: str) -> None:
    good = raw(0x82, b"good")
    items = scan(good + NOT_IN_ORDER[name] + good)
    assert items[0] == (b"good", False)
    assert isinstance(items[-1], Passed)
    assert items[-1].kind is Kind.REST
    assert items[-1].data.endswith(good)
    assert (b"good", False) not in items[1:]


@pytest.mark.parametrize("name", NOT_IN_ORDER)
def test_wsproto_refuses_what_is_not_in_order(name: str) -> None:
    reader = Connection(ConnectionType.SERVER)
    reader.receive_data(NOT_IN_ORDER[name])
    assert any(getattr(event, "code", None) in (1002, 1007) for event in reader.events())


def test_after_a_fault_everything_goes_on() -> None:
    scanner = FrameScanner(from_client=True, max_message_size=None)
    scanner.feed(NOT_IN_ORDER["unmasked"])
    good = raw(0x82, b"x")
    assert scanner.feed(good) == [Passed(good, Kind.REST)]


def test_a_client_refuses_masked_frames() -> None:
    scanner = FrameScanner(from_client=False, max_message_size=None)
    plain, masked = raw(0x82, b"x", mask=False), raw(0x82, b"x")
    assert scanner.feed(plain + masked) == [(b"x", False), Passed(masked, Kind.REST)]


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (raw(0x82, b"x" * 100), True),
        (raw(0x82, b"x" * 101), False),
        (raw(0x81, "é".encode() * 51), False),
        (raw(0x02, b"x" * 60) + raw(0x80, b"x" * 40), True),
        (raw(0x02, b"x" * 60) + raw(0x80, b"x" * 41), False),
        (raw(0x02, b"x" * 60) + raw(0x80 | PING, b"x" * 60) + raw(0x80, b"x" * 40), True),
        (raw(0x82, b"x" * 5000)[:4], False),
        # Empty ones take room as well, as long as the message does not end.
        (raw(0x02, b"") + 90 * raw(0x00, b"") + raw(0x80, b""), True),
        (raw(0x02, b"") + 101 * raw(0x00, b""), False),
    ],
)
def test_the_limit_counts_bytes_over_all_fragments(data: bytes, fits: bool) -> None:
    items = scan(data + raw(0x80 | CLOSE, b""), limit=100)
    too_big = Passed(b"", Kind.TOO_BIG)
    assert (too_big not in items) is fits
    if not fits:
        assert items[-1] == too_big
