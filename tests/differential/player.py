"""Plays a scenario against a server, and says what came at each step.

The steps are described in ``tests/data/client_transcripts/README.md``. Nothing here knows which
server it is; the *place* does: how it is reached, how it is told to stop, and whether time is real.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import attrs
import h11
import msgpack
import trio
from trio.testing import wait_all_tasks_blocked

from .items import NOISE, Names, brief, brief_list, hub_messages, without_ids
from .wire import Events, Exchange, WebSocket, drop

__all__ = ["UNKNOWN", "Place", "Step", "play"]

Step = dict[str, Any]

_UPGRADE = [
    ["Upgrade", "websocket"],
    ["Connection", "Upgrade"],
    ["Sec-WebSocket-Version", "13"],
    ["Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="],
]
#: Seconds for something that is to come, where time jumps: what is late is a difference. Steps that
#: need more say so ("within").
_PATIENCE = 1.5
#: The same where time is real, and the machine may be busy.
_REAL_PATIENCE = 15
#: What is received at a step that was not recorded yet.
UNKNOWN = "?"
#: Each step has one of these, and there is a method for it.
_KINDS = {
    *("negotiate", "connect", "upgrade", "events", "frame", "timed", "http", "more", "answer"),
    *("drop", "wait", "outside", "shutdown", "read"),
}
#: How bodies are framed, what runs there and when: nothing a client could mind.
_UNSEEN = frozenset({"date", "server", "content-length", "transfer-encoding"})
_POLLED = "application/octet-stream"


class Place(Protocol):
    """A server that scenarios are played against."""

    virtual: bool
    """Whether time jumps; else it is real, and dear."""
    tokens: Mapping[str, str]
    """Bearer tokens for the server: ``good``, ``expired``, ``bad``."""

    async def connect(self) -> trio.abc.Stream: ...

    def target(self, target: str) -> str:
        """The target of a request, as this server wants it."""
        ...

    async def send_to_all(self, target: str, arguments: list[Any]) -> None:
        """Calls a method on all clients of the hub Test, from outside of it."""
        ...

    def shut_down(self) -> None:
        """As SIGTERM does."""
        ...


async def play(place: Place, scenario: Mapping[str, Any]) -> list[Any]:
    """What was received at each step, None where nothing could be; then what nobody has read."""
    async with trio.open_nursery() as nursery:
        player = _Player(place, nursery, keeps_noise=scenario.get("timers", False))
        try:
            received = [await player.do(step) for step in scenario["steps"]]
            received.append(None if scenario.get("leaves_more") else await player.left())
        finally:
            nursery.cancel_scope.cancel()
            await player.close()
    return received


@attrs.define(eq=False)
class _Player:
    place: Place
    nursery: trio.Nursery
    keeps_noise: bool
    ids: dict[str, str] = attrs.field(factory=dict)
    names: Names = attrs.field(factory=Names)
    open: dict[str, WebSocket | Events] = attrs.field(factory=dict)
    asked: dict[str, Exchange] = attrs.field(factory=dict)
    answers: dict[str, Any] = attrs.field(factory=dict)
    news: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    """Of answers."""
    streams: list[trio.abc.Stream] = attrs.field(factory=list)

    async def do(self, step: Step) -> Any:
        (kind,) = _KINDS & step.keys()
        return await getattr(self, f"_{kind}")(step)

    # -- connecting -------------------------------------------------------------------------

    async def _negotiate(self, step: Step) -> None:
        target = f"{step.get('hub', '/test')}/negotiate?{step.get('query', 'negotiateVersion=1')}"
        exchange = await self._begin(f"POST {target}", [["Content-Length", "0"]], [])
        await exchange.head()
        self._keep_ids(step["negotiate"], await exchange.body())

    def _keep_ids(self, name: str, body: bytes) -> None:
        answer = json.loads(body)
        self.ids[f"{name}.id"] = answer["connectionId"]
        self.ids[name] = answer.get("connectionToken", answer["connectionId"])

    async def _connect(self, step: Step) -> None:
        """A WebSocket whose handshake is through, unless there is no "protocol"."""
        how = step["connect"]
        answers = how.get("answers", True)
        socket = await self._websocket(
            f"GET {how.get('target', '/test')}", [], answers, self._patience
        )
        assert isinstance(socket, WebSocket), f"refused: {socket}"
        self.open[step["on"]] = socket
        if "protocol" in how:
            hello = json.dumps({"protocol": how["protocol"], "version": how.get("version", 1)})
            await socket.send({"op": "text"}, f"{hello}\x1e".encode())
            kind = "binary" if how["protocol"] == "messagepack" else "text"
            assert await self._take(socket, 1) == [f"{kind} {{}}"]

    async def _upgrade(self, step: Step) -> Any:
        """Headers of the step go with the usual ones, or stand for them."""
        opened = await self._websocket(
            step["upgrade"],
            step.get("headers", []),
            step.get("answers", True),
            step.get("within", self._patience),
        )
        if isinstance(opened, WebSocket):
            self.open[step["on"]] = opened
            return {"status": 101}
        self.open.pop(step.get("on", ""), None)
        return opened

    async def _websocket(
        self, request: str, headers: list[Any], answers: bool, within: float
    ) -> WebSocket | Any:
        usual = [] if any(name == "Upgrade" for name, _ in headers) else _UPGRADE
        exchange = await self._begin(request, [*usual, *headers], [])
        with trio.move_on_after(within):
            head = await exchange.head()
            if head.status_code != 101:
                return await self._shown(exchange, head)
            _check_upgrade(head)
            socket = WebSocket(exchange.stream, exchange.rest, answers)
            self.nursery.start_soon(socket.read)
            return socket
        return {"status": None}

    async def _events(self, step: Step) -> Any:
        headers = [["Accept", "text/event-stream"]]
        exchange = await self._begin(step["events"], step.get("headers", headers), [])
        head = await exchange.head()
        if head.status_code != 200:
            return await self._shown(exchange, head)
        events = self.open[step["on"]] = Events(exchange)
        self.nursery.start_soon(events.read)
        return {"status": 200, "headers": _headers(head)}

    # -- frames -----------------------------------------------------------------------------

    async def _frame(self, step: Step) -> None:
        frame = step["frame"]
        socket = self.open.get(step["on"])
        if not isinstance(socket, WebSocket):
            return  # It was refused: the next read says so.
        with suppress(trio.BrokenResourceError):  # the next read says so
            await socket.send(frame, self._payload(frame))

    def _payload(self, frame: Step) -> bytes:
        if "echo" in frame:
            return _echo(*frame["echo"])
        if "packed" in frame:
            return b"".join(map(self._packed, frame["packed"]))
        if frame["op"] == "close" and "code" in frame:
            return frame["code"].to_bytes(2, "big") + frame.get("reason", "").encode()
        return self._data(frame.get("data", ""))

    def _packed(self, message: list[Any]) -> bytes:
        message = [self.names.real(one) if isinstance(one, str) else one for one in message]
        body: bytes = msgpack.packb(message)
        assert len(body) < 128
        return bytes([len(body)]) + body

    def _data(self, data: Any) -> bytes:
        """A text, ``{"hex"}``, or a list of texts and ``[text, count]``."""
        if isinstance(data, str):
            return self.names.in_sent(data).encode()
        if isinstance(data, dict):
            return bytes.fromhex(data["hex"])
        return "".join(one if isinstance(one, str) else one[0] * one[1] for one in data).encode()

    async def _timed(self, step: Step) -> None:
        """Frames at times: [[seconds since the first, data], ...]."""
        begin = trio.current_time()
        for at, data in step["timed"]:
            await trio.sleep_until(begin + at)
            await self._frame({"on": step["on"], "frame": {"op": "text", "data": data}})

    async def _read(self, step: Step) -> list[str]:
        wanted = step["received"]
        count = 0 if wanted == UNKNOWN else step.get("count", len(wanted))
        within = step.get("within", 1.0 if wanted == UNKNOWN else None)
        if step["read"] not in self.open:
            return ["not open"]
        if step.get("to_end"):
            count = 1_000_000
        items = await self._take(self.open[step["read"]], count, within)
        racy = step.get("racy")
        if racy and not self.place.virtual and racy not in items:
            items.insert(-1, racy)  # A reset that follows at once may overtake it.
        return brief_list(items)

    async def _take(
        self, source: WebSocket | Events, count: int, within: float | None = None
    ) -> list[str]:
        """The items that are wanted, and what else comes in the same moment."""
        inbox = source.inbox
        wanted = count or 1_000_000
        patience = within or (self._patience if count else self._moment)
        with trio.move_on_after(patience):
            await inbox.until(lambda: len(self._told(inbox.items)) >= wanted)
        if self.place.virtual:
            await wait_all_tasks_blocked()
        told = [self.names.in_received(item) for item in self._told(inbox.items)]
        inbox.items.clear()
        return told

    def _told(self, items: list[str]) -> list[str]:
        return items if self.keeps_noise else [one for one in items if not NOISE.match(one)]

    @property
    def _patience(self) -> float:
        return _PATIENCE if self.place.virtual else _REAL_PATIENCE

    @property
    def _moment(self) -> float:
        """How long nothing is to come."""
        return 0.3 if self.place.virtual else 0.06

    async def left(self) -> dict[str, list[str]]:
        await trio.sleep(self._moment)
        left = {name: await self._take(one, 0) for name, one in self.open.items()}
        return {name: items for name, items in left.items() if items not in ([], ["end"])}

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            for stream in self.streams:
                await drop(stream, "close")

    # -- requests ---------------------------------------------------------------------------

    async def _begin(
        self,
        request: str,
        headers: list[Any],
        pieces: list[bytes],
        *,
        version: str = "1.1",
        goes_on: bool = False,
    ) -> Exchange:
        method, target = self._filled(request).split(" ", 1)
        filled = [[name, self._filled(value)] for name, value in headers]
        exchange = Exchange(await self.place.connect())
        self.streams.append(exchange.stream)
        await exchange.send(
            f"{method} {self.place.target(target)}", filled, pieces, version=version
        )
        if not goes_on:
            await exchange.end_request()
        return exchange

    def _filled(self, text: str) -> str:
        """With ids and tokens in their places."""
        known = {**self.ids, **self.place.tokens}
        return re.sub(r"\{([\w.]+)\}", lambda match: known[match[1]], text)

    async def _http(self, step: Step) -> Any:
        body = self._data(step.get("body", ""))
        headers = list(step.get("headers", []))
        goes_on = "pieces" in step
        if goes_on:
            headers.append(["Transfer-Encoding", "chunked"])
        elif body or step["http"].startswith(("POST", "PUT")):
            headers.append(["Content-Length", str(len(body))])
        pieces = [self._data(one) for one in step["pieces"]] if goes_on else [body] if body else []
        version = step.get("version", "1.1")
        exchange = await self._begin(
            step["http"], headers, pieces, version=version, goes_on=goes_on
        )
        if "as" in step:
            self.asked[step["as"]] = exchange
            self.nursery.start_soon(self._await_answer, step["as"], exchange)
            await self._let_it_begin()
            return None
        with trio.move_on_after(step.get("within", self._patience)):
            answer = await self._answered(exchange)
            raw = answer.pop("raw")
            if "keep" in step:
                self._keep_ids(step["keep"], raw)
            return answer
        return {"status": None}

    async def _let_it_begin(self) -> None:
        """A request that waits at the server is there before the next step."""
        if self.place.virtual:
            await wait_all_tasks_blocked()
        else:
            await trio.sleep(0.06)

    async def _await_answer(self, name: str, exchange: Exchange) -> None:
        try:
            answer = await self._answered(exchange)
            answer.pop("raw")
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            answer = {"status": "no answer"}
        self.answers[name] = answer
        self.news.unpark_all()

    async def _more(self, step: Step) -> None:
        """More of a body that goes on; "end" if that was all."""
        exchange = self.asked[step["more"]]
        for piece in step.get("pieces", []):
            await exchange.send_more(self._data(piece))
        if step.get("end"):
            await exchange.end_request()
        await self._let_it_begin()

    async def _answer(self, step: Step) -> Any:
        name = step["answer"]
        wanted = step["received"] == UNKNOWN or step["received"]["status"] is not None
        within = step.get("within") or (self._patience if wanted else self._moment)
        with trio.move_on_after(within):
            while name not in self.answers:
                await self.news.park()
        return self.answers.pop(name, {"status": None})

    async def _answered(self, exchange: Exchange) -> dict[str, Any]:
        head = await exchange.head()
        return await self._shown(exchange, head, raw=True)

    async def _shown(self, exchange: Exchange, head: Any, *, raw: bool = False) -> dict[str, Any]:
        body = await exchange.body()
        shown: dict[str, Any] = {"status": head.status_code, "headers": _headers(head)}
        if body and ["content-type", _POLLED] in shown["headers"]:
            items = hub_messages(body, binary=not body.endswith(b"\x1e"))
            shown["messages"] = [self.names.in_received(item) for item in self._told(items)]
        elif body:
            shown["body"] = brief(without_ids(body.decode()))
        return {**shown, "raw": body} if raw else shown

    # -- the rest ---------------------------------------------------------------------------

    async def _drop(self, step: Step) -> None:
        name, how = step["drop"], step.get("how", "reset")
        if name in self.asked:
            await drop(self.asked.pop(name).stream, how)
            self.answers.pop(name, None)
        elif name in self.open:
            await drop(self.open[name].stream, how)
            if how != "fin":
                del self.open[name]
        await self._let_it_begin()
        if not self.place.virtual:
            await trio.sleep(0.3)  # The server has noticed.

    async def _wait(self, step: Step) -> None:
        await trio.sleep(step["wait"])

    async def _outside(self, step: Step) -> None:
        await self.place.send_to_all(*step["outside"])

    async def _shutdown(self, step: Step) -> None:
        self.place.shut_down()


def _echo(first: int, end: int) -> bytes:
    """An invocation of EchoString with each of these characters."""
    text = json.dumps("".join(map(chr, range(first, end))), ensure_ascii=first < 0x100)
    return (
        f'{{"type":1,"invocationId":"1","target":"EchoString","arguments":[{text}]}}\x1e'.encode()
    )


def _headers(head: h11.Response | h11.InformationalResponse) -> list[list[str]]:
    found = [[name.decode(), value.decode()] for name, value in head.headers]
    return sorted(one for one in found if one[0] not in _UNSEEN)


def _check_upgrade(head: h11.Response | h11.InformationalResponse) -> None:
    headers = [[name, value.lower()] for name, value in _headers(head)]
    assert headers == [
        ["connection", "upgrade"],
        ["sec-websocket-accept", "s3pplmbitxaq9kygzzhzrbk+xoo="],
        ["upgrade", "websocket"],
    ]
