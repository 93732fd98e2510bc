"""The hub server that is replaced: answers each numbered message with its number.

::

    signalr-trio run examples.rolling_restart.hub:server --connection-string ...

Every answer is ``[lane, number, server id, number before]``. A client numbers its messages in
three lanes (calls, streams, uploads), and the hub remembers the last number of each. What it
remembers moves with the client, so that a message that was lost, run twice or overtaken in a
hand-over shows in the answer to the next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

from signalr_trio import ConnectionMigrationFeature, Hub, HubContext, HubServer

server = HubServer()


class Chat(Hub):
    """Answers numbered messages, each after the delay in seconds that the client asks for."""

    async def on_connected(self) -> None:
        migration = self.context.features.get(ConnectionMigrationFeature)
        seen = None if migration is None else migration.state
        self.context.items["seen"] = seen or {}

    async def on_disconnected(self, error: Exception | None) -> None:
        migration = self.context.features.get(ConnectionMigrationFeature)
        if migration is not None:
            migration.state = self.context.items["seen"]

    async def say(self, number: int, delay: float, text: str) -> list[Any]:
        answer = self._answer("call", number)
        await trio.sleep(delay)
        return answer

    async def note(self, number: int, delay: float, text: str) -> None:
        """Called without waiting for a completion; the answer is a send."""
        answer = self._answer("call", number)
        await trio.sleep(delay)
        await self.clients.caller.send("noted", answer)

    async def count(self, number: int, delay: float, items: int) -> AsyncIterator[Any]:
        """A stream of 0, 1, 2, ..., spread over the delay, with the answer as its last item."""
        answer = self._answer("stream", number)
        for item in range(items):
            await trio.sleep(delay / items)
            yield item
        yield answer

    async def collect(self, number: int, items: AsyncIterator[int]) -> list[Any]:
        """An upload of 0, 1, 2, ...; the answer has behind it how many came, all in order."""
        answer = self._answer("upload", number)
        count = 0
        async for item in items:
            if item != count:
                break
            count += 1
        return [*answer, count]

    def _answer(self, lane: str, number: int) -> list[Any]:
        seen = self.context.items["seen"]
        before, seen[lane] = seen.get(lane, 0), number
        return [lane, number, server.server_id, before]


server.map(Chat, "/chat")


@server.on_shutdown(Chat)
async def announce(chat: HubContext) -> None:
    """Everybody is told, wherever they are: once per restart."""
    await chat.clients.all.send("restarting", server.server_id)
