"""Clients of other makers, in a process of their own that is driven over its stdin and stdout.

One JSON object a line, in both directions: a request ``{id, op, connection, ...}`` is answered by
``{id, result}`` or ``{id, error}``; what happens by itself is told as ``{connection, event, ...}``.
``javascript/client.mjs`` and the programs in ``python/`` are the other end.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

__all__ = ["CallFailed", "ClientProcess", "Connection", "Stream", "Upload", "client_process"]

#: Seconds for an answer, or for something that is waited for.
PATIENCE = 60


class CallFailed(Exception):
    """What the client was asked to do failed; the text is that of its Error."""


class ClientProcess:
    """A process with any number of connections."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._writing = trio.Lock()
        self._waiting: dict[int, tuple[Connection, list[Any]]] = {}
        self._connections: dict[str, Connection] = {}

    async def connect(self, url: str, *, on: Sequence[str] = (), **options: Any) -> Connection:
        """Starts a connection; ``on`` are the targets of which it is to tell.

        Options: ``protocol`` ("json" or "messagepack"), ``transport`` ("WebSockets",
        "ServerSentEvents", "LongPolling"), ``token``, ``reconnect`` (delays in ms), ``stateful``
        (reconnect), ``cuttable`` (adds its name to the URL), ``handlers``: how it answers the server, by target ("echo", "throw", "ask
        back": with what the hub's ``Echo`` returns, "when told": at the next send to ``told``).
        Raises CallFailed.
        """
        connection = Connection(self, f"c{next(self._numbers)}")
        self._connections[connection.name] = connection
        connection.id = await connection.request("start", url=url, targets=list(on), **options)
        return connection

    async def post(
        self, connection: Connection, answers: list[Any], op: str, **fields: Any
    ) -> None:
        """Writes a request; what comes of it is put in ``answers``, a CallFailed if it failed."""
        number = next(self._numbers)
        self._waiting[number] = connection, answers
        request = {"id": number, "op": op, "connection": connection.name, **encode(fields)}
        line = json.dumps(request) + "\n"
        assert self._process.stdin is not None
        async with self._writing:
            await self._process.stdin.send_all(line.encode())

    def new_name(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"

    async def read(self) -> None:
        assert self._process.stdout is not None
        buffer = bytearray()
        async for data in self._process.stdout:
            buffer += data
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                self._take(decode(json.loads(line)))
        raise RuntimeError("the clients' process has ended; why is on its stderr")

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            failed = "error" in message
            answer = CallFailed(message["error"]) if failed else message.get("result")
            connection, answers = self._waiting.pop(message["id"])
            answers.append(answer)
        else:
            connection = self._connections[message["connection"]]
            connection.take(message)
        connection.news.unpark_all()


class Connection:
    """One HubConnection of the official client."""

    def __init__(self, process: ClientProcess, name: str) -> None:
        self._process = process
        self.name = name
        self.id = ""
        self.news = trio.lowlevel.ParkingLot()
        self.lifecycle: list[tuple[str, str | None]] = []
        """``close``, ``reconnecting``, ``reconnected``, in order, with the text of their Error."""
        self.received: list[tuple[str, list[Any]]] = []
        """Target and arguments of each send that came."""
        self.results: list[Any] = []
        """Of the calls that were begun with ``begin``, in the order of their completions."""
        self._streams: dict[str, Stream] = {}

    def take(self, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "send":
            self.received.append((message["target"], message["args"]))
        elif "stream" in message:
            self._streams[message["stream"]].take(message)
        else:
            self.lifecycle.append((event, message.get("error")))
            self.id = message.get("connectionId", self.id)

    async def request(self, op: str, **fields: Any) -> Any:
        """Raises CallFailed; waits however long it takes."""
        answers: list[Any] = []
        await self._process.post(self, answers, op, **fields)
        while not answers:
            await self.news.park()
        if isinstance(answers[0], CallFailed):
            raise answers[0]
        return answers[0]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():
                await self.news.park()

    async def sends(self, target: str, count: int) -> list[list[Any]]:
        """Waits for so many sends; the arguments of all that came."""
        await self.until(lambda: len(self.sent(target)) >= count)
        return self.sent(target)

    def sent(self, target: str) -> list[list[Any]]:
        return [arguments for name, arguments in self.received if name == target]

    async def ended(self) -> str | None:
        """Waits for ``onclose``; the text of its Error."""
        await self.until(lambda: self.lifecycle and self.lifecycle[-1][0] == "close")
        return self.lifecycle[-1][1]

    async def invoke(self, target: str, *args: Any) -> Any:
        """The result. Raises CallFailed with the error of the completion."""
        return await self.request("invoke", target=target, args=args)

    async def begin(self, target: str, *args: Any, results: list[Any] | None = None) -> None:
        """Begins an invocation; ``results`` (if not the given ones, those of the connection) then
        has its result, or a CallFailed."""
        into = self.results if results is None else results
        await self._process.post(self, into, "invoke", target=target, args=args)

    async def outcome(self, count: int) -> list[Any]:
        """Waits until so many calls that were begun have ended; their ``results``."""
        await self.until(lambda: len(self.results) >= count)
        return self.results

    async def send(self, target: str, *args: Any) -> None:
        """An invocation without an id."""
        await self.request("send", target=target, args=args)

    async def stream(self, target: str, *args: Any) -> Stream:
        stream = Stream(self, self._process.new_name("s"))
        self._streams[stream.name] = stream
        await self.request("stream", target=target, args=args, stream=stream.name)
        return stream

    def upload(self) -> Upload:
        """A stream to the server: an argument of a call that takes one."""
        return Upload(self, self._process.new_name("u"))

    async def cut(self, url: str, *, stateful: bool = False) -> None:
        """Breaks its sockets (if ``cuttable``), as a network that fails does; it reconnects by way of ``url``, or
        (``stateful``) to where it was."""
        await self.request("cut", url=url, stateful=stateful)

    async def stop(self) -> None:
        await self.request("stop")


class Stream:
    """A stream from the server."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name
        self.items: list[Any] = []
        self.ended = False
        self.error: str | None = None

    def take(self, message: dict[str, Any]) -> None:
        if message["event"] == "item":
            self.items.append(message["item"])
        else:
            self.ended = True
            self.error = message.get("error")

    async def has(self, count: int) -> None:
        """Waits for so many items."""
        await self._connection.until(lambda: len(self.items) >= count)

    async def result(self) -> list[Any]:
        """All items, when the stream has ended. Raises CallFailed if it ended with an error."""
        await self._connection.until(lambda: self.ended)
        if self.error is not None:
            raise CallFailed(self.error)
        return self.items

    async def cancel(self) -> None:
        await self._connection.request("cancel", stream=self.name)


class Upload:
    """A stream to the server; items are sent once a call has taken it."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name

    async def item(self, item: Any) -> None:
        await self._connection.request("item", upload=self.name, item=item)

    async def end(self) -> None:
        await self._connection.request("end", upload=self.name)

    async def fail(self, error: str) -> None:
        await self._connection.request("end", upload=self.name, error=error)


def encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Upload):
        return {"$upload": value.name}
    if isinstance(value, (list, tuple)):
        return [encode(one) for one in value]
    if isinstance(value, dict):
        return {key: encode(one) for key, one in value.items()}
    return value


def decode(value: Any) -> Any:
    if isinstance(value, list):
        return [decode(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$bigint" in value:
        return int(value["$bigint"])
    return {key: decode(one) for key, one in value.items()}


@asynccontextmanager
async def client_process(command: Sequence[str]) -> AsyncIterator[ClientProcess]:
    """Runs a process of clients for the block."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                deliver_cancel=_kill,
            )
        )
        running = ClientProcess(process)
        nursery.start_soon(running.read)
        try:
            yield running
        finally:
            nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    process.kill()
