"""The application under test: a hub whose methods do what the plan of their client says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any, ClassVar

import attrs
import trio

from signalr_trio.errors import ClientResultError, HubError
from signalr_trio.hub import ConnectionMigrationFeature, Hub, HubContext
from tests.simulation.ledger import Ledger, ServerRun
from tests.simulation.plan import Steps

__all__ = ["HERE", "Chat", "Here", "News", "perform_hook", "perform_outside"]


@attrs.frozen
class Here:
    """Which server a piece of hub code runs on."""

    ledger: Ledger
    server: ServerRun


HERE: ContextVar[Here] = ContextVar("simulation_here")


class Chat(Hub):
    #: As the service knows it.
    name: ClassVar = "chat"

    _number: int | None = None
    """Of the call, where it is one."""

    async def on_connected(self) -> None:
        here, name = HERE.get(), self._name
        feature = self.context.features.get(ConnectionMigrationFeature)
        spell = here.ledger.connecting(here.server, name, feature, self.context.connection_id)
        self.context.items["spell"] = spell
        try:
            await self._perform(here.ledger.clients[name].plan.on_connected)
        except HubError:
            here.ledger.clients[name].harm("on_connected raised")
            raise
        here.ledger.connected(spell, name)

    async def on_disconnected(self, error: Exception | None) -> None:
        here, name = HERE.get(), self._name
        feature = self.context.features.get(ConnectionMigrationFeature)
        if feature is not None and not here.server.own:
            # An SDK server leaves the feature of the arrival there.
            feature = feature if feature.migrate_from == here.server.plan.id else None
        spell = self.context.items["spell"]
        here.ledger.disconnecting(spell, name, feature)
        try:
            await self._perform(here.ledger.clients[name].plan.on_disconnected)
        finally:
            here.ledger.disconnected(spell, name, feature)

    async def call(self, number: int, steps: list[list[Any]], padding: str) -> list[Any]:
        here = HERE.get()
        self._begun(number)
        try:
            answers = await self._perform(steps)
            if here.ledger.clients[self._name].plan.calls[number].kind == "send":
                return []
            return [number, here.ledger.emitting(here.server, self._name), *answers]
        finally:
            self._ended(number)

    async def down(
        self, number: int, steps: list[list[Any]], items: int, gap: float
    ) -> AsyncIterator[list[Any]]:
        here = HERE.get()
        self._begun(number)
        padding = ["-" * step[1] for step in steps if step[0] == "padded"]
        try:
            await self._perform(steps)
            for _ in range(items):
                await trio.sleep(gap)
                own = here.ledger.emitting(here.server, self._name)
                yield [number, own, *padding]
        finally:
            self._ended(number)

    async def up(
        self, number: int, steps: list[list[Any]], items: AsyncIterator[list[Any]]
    ) -> list[Any]:
        here = HERE.get()
        self._begun(number)
        try:
            async for index, _ in items:
                here.ledger.item_taken(here.server, self._name, number, index)
            answers = await self._perform(steps)
            return [number, here.ledger.emitting(here.server, self._name), *answers]
        finally:
            self._ended(number)

    def _ended(self, number: int) -> None:
        here = HERE.get()
        aborted = self.context.aborted.is_set()
        here.ledger.ended(here.server, self._name, number, aborted=aborted)

    @property
    def _name(self) -> str:
        return self.context.user_id or ""

    def _begun(self, number: int) -> None:
        # Each call has a hub of its own.
        self._number = number
        HERE.get().ledger.begun(self.context.items["spell"], self._name, number)

    async def _perform(self, steps: Steps | list[list[Any]]) -> list[Any]:
        """Gives back what clients answered."""
        answers: list[Any] = []
        for what, *values in steps:
            if what == "tell":
                await self._tell()
            elif what in ("join", "leave"):
                await self._change_group(values[0], joins=what == "join")
            elif what == "abort":
                HERE.get().ledger.clients[self._name].harm("aborted")
                self.context.abort()
            elif what == "state":
                feature = self.context.features.get(ConnectionMigrationFeature)
                if feature is not None:
                    feature.state = "x" * values[0]
            elif what == "ask":
                here = HERE.get()
                if self._number is not None and here.server.own:
                    here.ledger.gives_up_place(self._name, self._number)
                answers += await _ask(self, self.name, self._name, values)
            else:
                await _perform_anywhere(self, self.name, what, values)
        return answers

    async def _tell(self) -> None:
        here, name = HERE.get(), self._name
        number = here.ledger.emitting(here.server, name)
        try:
            await self.clients.caller.send("own", number)
        except BaseException as error:
            here.ledger.not_emitted(here.server, name, number, error)
            raise

    async def _change_group(self, group: str, *, joins: bool) -> None:
        here, name, id = HERE.get(), self._name, self.context.connection_id
        here.ledger.group_changing(here.server, name, group, joins=joins)
        if joins:
            await self.groups.add_to_group(id, group)
        else:
            await self.groups.remove_from_group(id, group)
        here.ledger.group_changed(here.server, name, group, inside=joins)


class News(Chat):
    """Another hub of the same servers; what is sent in one does not reach the other."""

    name: ClassVar = "news"


async def perform_outside(context: HubContext, steps: Steps) -> None:
    """Steps of a background task, which belongs to ``Chat`` as hooks do."""
    for what, *values in steps:
        await _perform_anywhere(context, Chat.name, what, values)


async def perform_hook(context: HubContext, *, steps: Steps) -> None:
    here = HERE.get()
    here.ledger.hook(here.server, begins=True)
    try:
        await perform_outside(context, steps)
    finally:
        here.ledger.hook(here.server, begins=False)


async def _perform_anywhere(
    sender: Hub | HubContext, hub: str, what: str, values: list[Any]
) -> None:
    if what == "sleep":
        await trio.sleep(values[0])
    elif what == "fail":
        raise HubError("as planned")
    elif what == "ask":
        await _ask(sender, hub, None, values)
    elif what in ("all", "group", "user"):
        await _share(sender, hub, what, values[0] if values else None)
    elif what != "padded":
        raise ValueError(f"there is no step {what!r}")


async def _ask(
    sender: Hub | HubContext, hub: str, asker: str | None, values: list[Any]
) -> list[Any]:
    """What the client answers, or the text of its error; nothing on a server of the SDK."""
    here = HERE.get()
    if not here.server.own:
        return []
    questions = here.ledger.questions
    question = questions.asking(here.server, hub, asker, values)
    proxy = sender.clients.client(question.client.connection_id or "nobody")
    arguments = (question.number, question.reaction, question.delay)
    try:
        answer = await proxy.invoke("ask", *arguments, timeout=question.timeout)
    except ClientResultError as error:
        questions.ended(question, error)
        return [str(error)]
    except BaseException as error:
        questions.ended(question, error)
        raise
    questions.ended(question, answer)
    return [answer]


async def _share(sender: Hub | HubContext, hub: str, kind: str, whom: str | None) -> None:
    here = HERE.get()
    number = here.ledger.sharing(here.server, hub, kind, whom)
    proxy = sender.clients.all
    if whom is not None:
        proxy = sender.clients.group(whom) if kind == "group" else sender.clients.user(whom)
    try:
        await proxy.send("shared", number)
    except BaseException:
        here.ledger.not_shared(number)
        raise
