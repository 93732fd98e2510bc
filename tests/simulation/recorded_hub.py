"""The application of the recordings: what its hub does when it is called, and what it notes.

It was an ASP.NET Core app; this one has those of its methods that the recordings in
``transcripts`` call, under the same names.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import trio

from signalr_trio.errors import ConnectionClosed, HubError
from signalr_trio.hub import ConnectionMigrationFeature, Hub, HubClients, HubContext

__all__ = ["Note", "RecordedHub", "make_hook", "perform"]

#: (client, what, details)
Note = Callable[[str, str, object], None]


#: Seconds by which timers of .NET were late, for each millisecond and at the most.
_LATE = 0.00003
_LATEST = 0.003


class RecordedHub(Hub):
    def __init__(self, note: Note, background: trio.Nursery) -> None:
        self._note = note
        self._background = background

    def _notes(self, what: str, details: object = None) -> None:
        self._note(self.context.connection_id, what, details)

    def _asked(self, name: str) -> str | None:
        """Clients say in their query what hub events are to do."""
        return parse_qs(self.context.query_string.removeprefix("?")).get(name, [None])[0]

    @property
    def _migration(self) -> dict[str, str] | None:
        feature = self.context.features.get(ConnectionMigrationFeature)
        return feature and {"from": feature.migrate_from, "to": feature.migrate_to}

    async def _wait(self, milliseconds: int) -> None:
        if milliseconds:
            await trio.sleep(milliseconds / 1000 + min(milliseconds * _LATE, _LATEST))

    # -- hub events -------------------------------------------------------------------------

    async def on_connected(self) -> None:
        self._notes("OnConnected", {"migration": self._migration})
        id = self.context.connection_id
        if fails := self._asked("failconnect"):
            raise HubError("no entry, says the hub") if fails == "hub" else _failure()
        await self._wait(int(self._asked("slowconnect") or 0))
        if self._asked("hello"):
            await self.clients.caller.send("hello", id)
        if group := self._asked("joinonconnect"):
            await self.groups.add_to_group(id, group)
            self._notes("joined", group)
        self._notes("OnConnected.end")

    async def on_disconnected(self, error: Exception | None) -> None:
        aborted = self.context.aborted.is_set()
        self._notes("OnDisconnected", {"migration": self._migration, "aborted": aborted})
        await self._wait(int(self._asked("slowdisc") or 0))
        if self._asked("faildisc"):
            raise _failure()
        if bye := self._asked("bye"):
            whom = self.clients.all if bye == "all" else self.clients.caller
            await whom.send("bye", self.context.connection_id)
        self._notes("OnDisconnected.end")

    # -- calls ------------------------------------------------------------------------------

    async def Echo(self, text: str | None) -> str:
        self._notes("Echo", text)
        return f"echo {text or ''}"

    async def Note(self, text: str) -> None:
        self._notes("Note", text)

    async def Void(self, text: str) -> None:
        self._notes("Void", text)

    async def VoidAsync(self, text: str) -> None:
        self._notes("VoidAsync", text)

    async def Add(self, a: int, b: int) -> int:
        return a + b

    async def WhoAmI(self) -> dict[str, Any]:
        return {}

    async def ThrowHub(self, text: str) -> None:
        raise HubError(text)

    async def Throw(self, text: str) -> None:
        raise _failure()

    async def Abort(self) -> None:
        self._notes("Abort")
        self.context.abort()

    async def AbortLater(self, milliseconds: int) -> None:
        self._notes("AbortLater")
        self._background.start_soon(self._abort_after, milliseconds)

    async def _abort_after(self, milliseconds: int) -> None:
        await self._wait(milliseconds)
        self.context.abort()

    async def Slow(self, milliseconds: int, tag: str) -> str:
        aborted = self.context.aborted
        self._notes("Slow.start", tag)
        await self.clients.caller.send("progress", tag, "start")
        with trio.move_on_after(milliseconds / 1000):
            if not self._asked("obey"):
                await trio.sleep_forever()
            await aborted.wait()
            self._notes("Slow.cancelled", tag)
            raise _failure()
        self._notes("Slow.send", {"tag": tag, "aborted": aborted.is_set()})
        await self.clients.caller.send("progress", tag, "end")
        await self.clients.all.send("all", tag)
        await self.clients.group("g").send("group", tag)
        self._notes("Slow.sent", tag)
        return f"slow {tag}"

    async def Join(self, group: str) -> None:
        await self._change("Join", self.groups.add_to_group(self.context.connection_id, group))

    async def Leave(self, group: str) -> None:
        await self._change(
            "Leave", self.groups.remove_from_group(self.context.connection_id, group)
        )

    async def _change(self, name: str, change: Awaitable[None]) -> None:
        try:
            await change
        except ConnectionClosed:
            self._notes(f"{name}.failed", {})
            raise
        self._notes(name, {})

    async def Send(self, kind: str, names: list[str], text: str) -> None:
        clients = self.clients
        if kind == "Others":
            await clients.others.send("msg", text)
        elif kind == "Caller":
            await clients.caller.send("msg", text)
        elif kind == "OthersInGroup":
            await clients.others_in_group(names[0]).send("msg", text)
        else:
            await _send(clients, kind, names, text)

    # -- streams ----------------------------------------------------------------------------

    async def Count(self, items: int, milliseconds: int) -> AsyncGenerator[int]:
        self._notes("Count.start", items)
        cancelled = True
        try:
            async for item in self._count(items, milliseconds):
                yield item
            cancelled = False
        finally:
            self._notes("Count.end", {"cancelled": cancelled})

    async def CountChannel(self, items: int, milliseconds: int) -> AsyncGenerator[int]:
        try:
            async for item in self._count(items, milliseconds):
                yield item
        finally:
            self._note("", "CountChannel.end", None)

    async def _count(self, items: int, milliseconds: int) -> AsyncGenerator[int]:
        for item in range(items):
            yield item
            await self._wait(milliseconds)

    async def CountFail(self, items: int) -> AsyncGenerator[int]:
        async for item in self._count(items, 5):
            yield item
        raise HubError("stream broke")

    async def CountFailPlain(self, items: int) -> AsyncGenerator[int]:
        async for item in self._count(items, 5):
            yield item
        raise _failure()

    async def Upload(self, name: str, items: AsyncIterator[str]) -> str:
        self._notes("Upload.start", name)
        got: list[str] = []
        try:
            async for item in items:
                if not isinstance(item, str):
                    raise HubError("Failed to bind Stream message.")
                self._notes("Upload.item", item)
                got.append(item)
        except (HubError, ConnectionClosed):
            self._notes("Upload.failed", {"got": got})
            raise
        self._notes("Upload.end", got)
        return f"{name}:{'+'.join(got)}"

    async def Pipe(self, items: AsyncIterator[str]) -> AsyncGenerator[str]:
        async for item in items:
            yield f"re {item}"


def _failure() -> ConnectionClosed:
    """Any exception but a HubException."""
    return ConnectionClosed("as planned")


async def perform(context: HubContext, what: str) -> None:
    """Outside of calls: what an operator of the app had it do, as ``Group {"a": "g1", ..}``."""
    operation, _, rest = what.partition(" ")
    given = json.loads(rest)
    names, text = given.get("id", []), given.get("b", "")
    if "a" in given:
        names = [given["a"], *names]
    try:
        if operation == "Add":
            await context.groups.add_to_group(given["a"], text)
        elif operation == "Remove":
            await context.groups.remove_from_group(given["a"], text)
        elif operation == "BurstMixed":
            await _burst(context, given["a"], int(text))
        else:
            await _send(context.clients, operation, names, text)
    except ConnectionClosed:
        return


async def _burst(context: HubContext, id: str, rounds: int) -> None:
    for number in range(rounds):
        await context.clients.group("g").send("msg", f"g{number}")
        await context.clients.client(id).send("msg", f"c{number}")
        await context.clients.all.send("msg", f"a{number}")


async def _send(clients: HubClients, kind: str, names: list[str], text: str) -> None:
    proxies = {
        "All": lambda: clients.all,
        "AllExcept": lambda: clients.all_except(names),
        "Client": lambda: clients.client(names[0]),
        "Clients": lambda: clients.clients(names),
        "User": lambda: clients.user(names[0]),
        "Users": lambda: clients.users(names),
        "Group": lambda: clients.group(names[0]),
        "Groups": lambda: clients.groups(names),
        "GroupExcept": lambda: clients.group_except(names[0], names[1:]),
    }
    await proxies[kind]().send("msg", text)


def make_hook(what: str, number: int, note: Note) -> Callable[[HubContext], Awaitable[None]]:
    """A shutdown hook: ``broadcast``, ``slow:800`` or ``throw``."""
    kind, _, milliseconds = what.partition(":")

    async def hook(context: HubContext) -> None:
        note("", "hook.start", None)
        await trio.sleep(int(milliseconds or 0) / 1000)
        if kind == "broadcast":
            await context.clients.all.send("shutdown", f"hook{number} of Chat")
        note("", "hook.end", None)
        if kind == "throw":
            raise _failure()

    return hook
