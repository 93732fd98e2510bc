"""The benchmarks: every scenario runs, and no answer that is not right goes unnoticed."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from benchmarks.load.generator import (
    LoadFailed,
    LoadGenerator,
    compile_load_generator,
    open_load_generator,
)
from benchmarks.load.plan import ID, Channel, Plan, Split, Step, StepKind, first_id
from benchmarks.measure import learned_reply
from benchmarks.protocols import SignalR
from benchmarks.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler for the load generator"
)

Send = Callable[[bytes], Awaitable[None]]
#: Answers a message of the client; the list has all connections, in the order they came.
Answer = Callable[[bytes, Send, list[Send]], Awaitable[None]]


def frame(payload: bytes, first: int = 0x81) -> bytes:
    return bytes([first, len(payload)]) + payload


async def read_message(stream: trio.SocketStream, buffer: bytearray) -> bytes:
    """A masked frame of fewer than 126 bytes; empty at the end of the stream."""
    while len(buffer) < 2 or len(buffer) < 6 + (buffer[1] & 127):
        data = await stream.receive_some()
        if not data:
            return b""
        buffer += data
    size = 6 + (buffer[1] & 127)
    key, masked = buffer[2:6], buffer[6:size]
    assert buffer[1] & 128
    assert any(key)
    del buffer[:size]
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(masked))


async def serve_one(answer: Answer, everybody: list[Send], stream: trio.SocketStream) -> None:
    buffer = bytearray()
    while b"\r\n\r\n" not in buffer:
        buffer += await stream.receive_some()
    del buffer[: buffer.index(b"\r\n\r\n") + 4]
    everybody.append(stream.send_all)
    try:
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        while message := await read_message(stream, buffer):
            await answer(message, stream.send_all, everybody)
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[int]:
    """A WebSocket server as far as the load generator looks; its port."""
    failed: LoadFailed | None = None
    async with trio.open_nursery() as nursery:
        handler = partial(serve_one, answer, [])
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        try:
            yield listeners[0].socket.getsockname()[1]
        except LoadFailed as error:
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


def plan(port: int, **others: Any) -> Plan:
    """Two connections that each talk with themselves."""
    upgrade = Step(StepKind.UPGRADE, b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 101", port=port)
    made = Plan(
        connections=2,
        steps=[upgrade],
        channels=[Channel(0, 0, [0]), Channel(1, 1, [1])],
        request=f"say {ID}".encode(),
        reply=f"said {ID}".encode(),
        patience=0.1,
    )
    return attrs.evolve(made, **others)


async def run(answer: Answer, **others: Any) -> int:
    """Some load, until answers have come that were asked for in answer to others."""
    async with server(answer) as port, open_load_generator(plan(port, **others), None) as load:
        with trio.fail_after(30):
            await load.open()
            await load.begin()
            return await talk(load)


async def talk(load: LoadGenerator) -> int:
    deliveries = 0
    while deliveries < 10:
        deliveries += (await load.mark())["deliveries"]
    return await load.stop()


def reply(message: bytes) -> bytes:
    assert message.startswith(b"say ")
    return b"said " + message[4:]


async def right(message: bytes, send: Send, everybody: list[Send]) -> None:
    await send(frame(reply(message)))


async def wrong(message: bytes, send: Send, everybody: list[Send]) -> None:
    await send(frame(reply(message)[:-1] + b"?"))


async def too_long(message: bytes, send: Send, everybody: list[Send]) -> None:
    await send(frame(reply(message) + b"?"))


async def twice(message: bytes, send: Send, everybody: list[Send]) -> None:
    await send(frame(reply(message)) * 2)


async def to_somebody_else(message: bytes, send: Send, everybody: list[Send]) -> None:
    await everybody[everybody.index(send) - 1](frame(reply(message)))


async def binary(message: bytes, send: Send, everybody: list[Send]) -> None:
    await send(frame(reply(message), 0x82))


async def close_frame(message: bytes, send: Send, everybody: list[Send]) -> None:
    await send(frame(b"", 0x88))


async def nothing(message: bytes, send: Send, everybody: list[Send]) -> None:
    pass


async def in_pieces(message: bytes, send: Send, everybody: list[Send]) -> None:
    """Three fragments with a ping between them, byte by byte."""
    whole = reply(message)
    pieces = [frame(whole[:3], 0x01), frame(b"?", 0x89), frame(b"", 0x00), frame(whole[3:], 0x80)]
    for byte in b"".join(pieces):
        await send(bytes([byte]))


class Pairs:
    """Answers two messages at a time."""

    def __init__(self, answer: Callable[[bytes, bytes], bytes]) -> None:
        self._answer = answer
        self._waiting: dict[Send, bytes] = {}

    async def __call__(self, message: bytes, send: Send, everybody: list[Send]) -> None:
        first = self._waiting.pop(send, None)
        if first is None:
            self._waiting[send] = message
        else:
            await send(self._answer(reply(first), reply(message)))


class TestChecks:
    async def test_right_answers_are_counted(self) -> None:
        assert await run(right) >= 10

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (wrong, "expects the answer to"),
            (too_long, "expects the answer to"),
            (twice, "expects"),
            (to_somebody_else, "expects"),
            (binary, "opcode 2"),
            (close_frame, "close frame"),
        ],
    )
    async def test_any_other_answer_fails_the_run(self, answer: Answer, why: str) -> None:
        with pytest.raises(LoadFailed, match=why):
            await run(answer)

    async def test_missing_answer_fails_the_run(self) -> None:
        async with server(nothing) as port, open_load_generator(plan(port), None) as load:
            await load.open()
            await load.begin()
            with pytest.raises(LoadFailed, match="2 messages are missing answers"):
                await load.stop()

    async def test_answers_in_another_order_fail_the_run(self) -> None:
        swapped = Pairs(lambda first, second: frame(second) + frame(first))
        with pytest.raises(LoadFailed, match="expects the answer to"):
            await run(swapped, window=2)

    async def test_answer_from_nowhere_fails_the_run(self) -> None:
        silent = Plan(connections=1, steps=plan(0).steps)
        steps = [*silent.steps, Step(StepKind.MESSAGE, b"say hello", None)]

        async def greet(message: bytes, send: Send, everybody: list[Send]) -> None:
            await send(frame(b"hello"))

        async with server(greet) as port:
            steps[0] = attrs.evolve(steps[0], port=port)
            greeted = attrs.evolve(silent, steps=steps)
            async with open_load_generator(greeted, None) as load:
                await load.open()
                with pytest.raises(LoadFailed, match="expects nothing; got"):
                    await talk(load)

    async def test_server_that_refuses_fails_the_run(self) -> None:
        async with server(right) as port:
            refusing = plan(port, steps=[attrs.evolve(plan(port).steps[0], expected=b"HTTP/2")])
            async with open_load_generator(refusing, None) as load:
                with pytest.raises(LoadFailed, match="step 0 is refused"):
                    await load.open()

    @pytest.mark.parametrize("receivers", [[0], [0, 1]])
    async def test_each_receiver_must_hear(self, receivers: list[int]) -> None:
        """A broadcast of the first connection: one that misses a receiver is missing."""

        async def to_most(message: bytes, send: Send, everybody: list[Send]) -> None:
            for each in everybody[: len(receivers)]:
                await each(frame(reply(message)))

        channels = [Channel(0, 0, [0, 1])]
        async with (
            server(to_most) as port,
            open_load_generator(plan(port, channels=channels), None) as load,
        ):
            await load.open()
            await load.begin()
            if len(receivers) == 2:
                assert await load.stop() == 2
            else:
                with pytest.raises(LoadFailed, match="1 messages are missing answers"):
                    await load.stop()


class TestFraming:
    async def test_message_may_come_in_fragments(self) -> None:
        async def answer(message: bytes, send: Send, everybody: list[Send]) -> None:
            if message != b"?":  # the pong
                await in_pieces(message, send, everybody)

        assert await run(answer) >= 10

    async def test_messages_may_share_a_websocket_message(self) -> None:
        both = Pairs(lambda first, second: frame(first + b"\x1e" + second + b"\x1e"))
        replies = {"reply": f"said {ID}\x1e".encode(), "split": Split.RECORD_SEPARATOR}
        assert await run(both, window=2, **replies) >= 10

    async def test_messages_may_have_their_lengths_before_them(self) -> None:
        def answer(first: bytes, second: bytes) -> bytes:
            return frame(b"".join(bytes([len(one)]) + one for one in (first, second)))

        replies = {"reply": b"\x11" + f"said {ID}".encode(), "split": Split.VARINT}
        assert await run(Pairs(answer), window=2, **replies) >= 10

    async def test_pings_are_no_answers(self) -> None:
        async def answer(message: bytes, send: Send, everybody: list[Send]) -> None:
            if message != b"pong":
                await send(frame(b"ping") + frame(reply(message)))

        assert await run(answer, ping=b"ping", pong=b"pong") >= 10


async def test_lost_connections_come_back_where_the_plan_says_so() -> None:
    """Everyone is hung up on once; what was on its way is counted as lost, the rest is checked."""
    hung_up: set[int] = set()

    async def answer(message: bytes, send: Send, everybody: list[Send]) -> None:
        place = everybody.index(send)
        if place < 2 and place not in hung_up:
            hung_up.add(place)
            await send(frame(b"bye") + frame(b"", 0x88))
        elif place >= 2:
            await right(message, send, everybody)

    async with server(answer) as port:
        again = plan(port, reconnect=True, goodbye=b"bye")
        async with open_load_generator(again, None) as load:
            await load.open()
            await load.begin()
            with trio.fail_after(30):
                await load.back(2)
                phase = await load.mark()
                assert [phase[what] for what in ("disconnects", "reopened", "lost")] == [2, 2, 2]
                assert await talk(load) >= 10


class TestLearning:
    @pytest.mark.parametrize("encoding", ["json", "messagepack"])
    def test_reply_that_means_something_else_is_refused(self, encoding: str) -> None:
        speech = SignalR(encoding)
        exchange = speech.echo(30)
        with pytest.raises(LoadFailed, match="is b"):
            learned_reply(exchange.request, exchange, first_id())

    def test_number_of_the_message_becomes_a_field(self) -> None:
        number = first_id()
        text = number + "x" * 18
        said = f'{{"type":3,"invocationId":"{number}","result":"{text}"}}\x1e'.encode()
        learned = learned_reply(said, SignalR("json").echo(30), number)
        assert learned.count(ID.encode()) == 2
        assert number.encode() not in learned

    @pytest.mark.parametrize("change", [("x" * 18, "y" * 18), ('"type":3', '"type":1')])
    def test_other_text_or_kind_is_refused(self, change: tuple[str, str]) -> None:
        number = first_id()
        said = f'{{"type":3,"invocationId":"{number}","result":"{number}{"x" * 18}"}}\x1e'
        with pytest.raises(LoadFailed):
            learned_reply(said.replace(*change).encode(), SignalR("json").echo(30), number)


def test_plan_keeps_lengths_right_for_what_comes_into_a_text() -> None:
    """MessagePack says how long a text is: a field is as long as what it stands for."""
    request = SignalR("messagepack").echo(40).request
    filled = request.replace(ID.encode(), first_id().encode())
    assert len(filled) == len(request) == filled[0] + 1


def test_encoded_plan_begins_with_its_figures() -> None:
    encoded = Plan(connections=7, steps=[], window=3).encode()
    assert struct.unpack("=3i", encoded[:12]) == (7, 64, 3)


def test_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(LoadFailed, match="no C compiler"):
        compile_load_generator()


async def test_every_scenario_runs_and_checks_its_answers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--seconds", "1", "--repeat", "1"]
    done = await trio.run_process(
        [*command, "--peers", "ours", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    outcomes = json.loads((tmp_path / "results.json").read_bytes())["outcomes"]
    assert {one["scenario"] for one in outcomes} == {scenario.name for scenario in SCENARIOS}
    cases = {case.title for scenario in SCENARIOS for case in scenario.cases}
    assert {one["case"] for one in outcomes} == cases
    assert all(one["figures"]["checked"] > 0 for one in outcomes)
    moved = [one["figures"] for one in outcomes if one["case"].endswith("migrate_clients")]
    assert [(one["lost"], one["disconnects"]) for one in moved] == [(0, 0)] * 2
    assert "## Hand-over" in (tmp_path / "results.md").read_text()
