"""Stateful reconnect: two sides over sockets that are lost at any moment, and the single rules."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.message_buffer import BUFFER_LIMIT, COUNTED, MessageBuffer
from signalr_trio.protocol.messages import MessageType


class Side:
    """One side, with what it has been given and the line of its socket to the other side."""

    def __init__(self, name):
        self.name = name
        self.buffer = MessageBuffer(limit=20)
        self.sent = []
        self.got = []
        self.line = []  # on the way to the other side
        self.most = 20 + 15

    def send(self, size):
        frame = f"{self.name}{len(self.sent)}:".encode().ljust(size, b"x")
        self.sent.append(frame)
        self.buffer.sent(frame)
        self.line.append(frame)

    def acknowledge(self):
        number = self.buffer.take_ack()
        if number is not None:
            self.line.append(("ack", number))

    def open(self):
        number, frames = self.buffer.resend()
        self.line = [("sequence", number), *frames]

    def take(self, other):
        match other.line.pop(0):
            case ("ack", number):
                self.buffer.acked(number)
            case ("sequence", number):
                self.buffer.sequence(number)
            case frame:
                if self.buffer.received():
                    self.got.append(frame)


class TwoSides(RuleBasedStateMachine):
    """Nothing is lost, doubled or reordered, whatever the sockets swallow."""

    def __init__(self):
        super().__init__()
        self.sides = Side("a"), Side("b")

    def side(self, first):
        return self.sides if first else self.sides[::-1]

    @rule(first=st.booleans(), size=st.integers(0, 15))
    def send(self, first, size):
        side, _ = self.side(first)
        if not side.buffer.full:
            side.send(size)

    @rule(first=st.booleans())
    def acknowledge(self, first):
        self.side(first)[0].acknowledge()

    @precondition(lambda self: any(side.line for side in self.sides))
    @rule(first=st.booleans())
    def deliver(self, first):
        side, other = self.side(first)
        if other.line:
            side.take(other)

    @rule()
    def lose_the_socket(self):
        for side in self.sides:
            side.open()
            side.most += 15  # one message more

    @invariant()
    def each_message_comes_once_and_in_order(self):
        for first in (True, False):
            side, other = self.side(first)
            assert side.got == other.sent[: len(side.got)]

    @invariant()
    def what_is_kept_is_bounded(self):
        for side in self.sides:
            kept = list(side.buffer._unacked)
            assert side.buffer.unacked_bytes == sum(map(len, kept)) <= side.most

    def teardown(self):
        """With one more socket that holds, all arrives, and nothing is kept any more."""
        self.lose_the_socket()
        for _ in range(2):
            for first in (True, False):
                side, other = self.side(first)
                while other.line:
                    side.take(other)
                side.acknowledge()
        for first in (True, False):
            side, other = self.side(first)
            assert side.got == other.sent
            assert side.buffer.unacked_bytes == 0
            assert side.buffer.resend() == (len(side.sent) + 1, [])


TestTwoSides = TwoSides.TestCase


def test_what_is_counted():
    assert {int(kind) for kind in COUNTED} == {1, 2, 3, 4, 5}
    assert MessageType.PING not in COUNTED
    assert 3 in COUNTED  # plain numbers, as ``peek`` gives them


@pytest.mark.parametrize(
    ("acks", "resent"),
    [
        ([], (1, [b"1", b"2", b"3"])),
        ([0], (1, [b"1", b"2", b"3"])),
        ([-5], (1, [b"1", b"2", b"3"])),
        ([1], (2, [b"2", b"3"])),
        ([2, 1, 2], (3, [b"3"])),
        ([3], (4, [])),
        ([99], (4, [])),
    ],
)
def test_acknowledgements_free_what_they_cover(acks, resent):
    buffer = MessageBuffer()
    for frame in (b"1", b"2", b"3"):
        buffer.sent(frame)
    for number in acks:
        buffer.acked(number)
    assert buffer.resend() == resent
    buffer.sent(b"4")
    assert buffer.resend() == (resent[0], [*resent[1], b"4"])


def test_the_message_that_crosses_the_limit_is_the_last():
    buffer = MessageBuffer()
    buffer.sent(bytes(BUFFER_LIMIT))
    assert not buffer.full
    buffer.sent(b"x")
    assert buffer.full
    buffer.acked(1)
    assert not buffer.full


def test_one_more_message_behind_a_resend():
    """Where the acknowledgement was lost, it is the only way to another one."""
    buffer = MessageBuffer(limit=1)
    buffer.sent(b"ab")
    assert buffer.full
    buffer.resend()
    assert not buffer.full
    buffer.sent(b"c")
    assert buffer.full


@pytest.mark.parametrize(
    ("sequence", "new"),
    [
        (0, [False, False, False, False, True]),
        (1, [False, False, False, True]),
        (3, [False, True]),
        (4, [True]),
        (None, [True]),  # without a Sequence the count goes on, as in ASP.NET Core
    ],
)
def test_a_sequence_says_what_comes_again(sequence, new):
    buffer = MessageBuffer()
    assert [buffer.received() for _ in range(3)] == [True] * 3
    if sequence is not None:
        buffer.sequence(sequence)
    assert [buffer.received() for _ in new] == new


def test_a_sequence_beyond_what_was_received():
    buffer = MessageBuffer()
    buffer.received()
    with pytest.raises(ProtocolError, match="Sequence ID greater than"):
        buffer.sequence(3)
    buffer.sequence(2)


def test_a_sequence_cut_short_by_another_loss():
    """The peer has had the acknowledgement of all, though not all came again."""
    buffer = MessageBuffer()
    for _ in range(5):
        buffer.received()
    assert buffer.take_ack() == 5
    buffer.sequence(1)
    assert not buffer.received()
    buffer.sequence(6)
    assert buffer.received()


def test_an_acknowledgement_is_due_for_what_came_again_as_well():
    buffer = MessageBuffer()
    assert buffer.take_ack() is None
    buffer.received()
    buffer.received()
    assert buffer.take_ack() == 2
    assert buffer.take_ack() is None
    buffer.sequence(1)
    assert buffer.take_ack() is None
    assert not buffer.received()
    assert buffer.take_ack() == 2
