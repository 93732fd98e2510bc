"""The client of the package ``pysignalr``, which runs on asyncio, in a pipe."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from pipe import read, tell
from pysignalr.client import SignalRClient


class Connection:
    def __init__(self, name: str, url: str, targets: list[str]) -> None:
        self.name = name
        self._client = SignalRClient(url)
        self._opened = asyncio.Event()
        self._client.on_open(self._open)
        self._client.on_close(self._close)
        # Errors come here and to the call's own callback, which is the one that is wanted.
        self._client.on_error(self._ignore)
        for target in targets:
            self._client.on(target, partial(self._receive, target))
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._running = asyncio.create_task(self._run())
        await asyncio.wait_for(self._opened.wait(), 30)

    async def stop(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])

    async def invoke(self, target: str, args: list[Any]) -> Any:
        """Raises RuntimeError with the error of the completion."""
        completed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def complete(message: Any) -> None:
            completed.set_result(message)

        await self._client.send(target, args, complete)
        message = await completed
        if message.error:
            raise RuntimeError(message.error)
        return message.result

    async def send(self, target: str, args: list[Any]) -> None:
        await self._client.send(target, args)

    async def stream(self, target: str, args: list[Any], name: str) -> None:
        async def item(value: Any) -> None:
            self._tell("item", stream=name, item=value)

        async def complete(_: Any) -> None:
            self._tell("complete", stream=name)

        async def fail(message: Any) -> None:
            self._tell("failed", stream=name, error=message.error)

        await self._client.stream(target, args, item, complete, fail)

    async def _run(self) -> None:
        try:
            await self._client.run()
        except Exception as error:
            self._tell("close", error=repr(error))

    async def _open(self) -> None:
        if self._opened.is_set():
            self._tell("reconnected")
        self._opened.set()

    async def _close(self) -> None:
        self._tell("reconnecting")

    async def _ignore(self, _: Any) -> None:
        pass

    async def _receive(self, target: str, args: list[Any]) -> None:
        self._tell("send", target=target, args=args)

    def _tell(self, event: str, **more: Any) -> None:
        tell(connection=self.name, event=event, **more)


async def answer(connections: dict[str, Connection], request: dict[str, Any]) -> Any:
    name = request["connection"]
    match request["op"]:
        case "start":
            connections[name] = Connection(name, request["url"], request["targets"])
            await connections[name].start()
            return (await connections[name].invoke("WhoAmI", []))["connectionId"]
        case "invoke":
            return await connections[name].invoke(request["target"], request["args"])
        case "send":
            return await connections[name].send(request["target"], request["args"])
        case "stream":
            target, args = request["target"], request["args"]
            return await connections[name].stream(target, args, request["stream"])
        case "stop":
            return await connections[name].stop()
        case other:
            raise ValueError(f"unknown: {other}")


async def take(connections: dict[str, Connection], request: dict[str, Any]) -> None:
    try:
        tell(id=request["id"], result=await answer(connections, request))
    except Exception as error:
        tell(id=request["id"], error=str(error))


async def main() -> None:
    # It warns of each message for all that one client has no handler for.
    logging.disable()
    connections: dict[str, Connection] = {}
    tasks: set[asyncio.Task[None]] = set()
    while (request := await asyncio.to_thread(read)) is not None:
        # In order, as far as a call is sent: a task runs at once, and sends in its first step.
        task = asyncio.create_task(take(connections, request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


asyncio.run(main())
