"""Each step of a hand-over times each thing that can go wrong in it: a table, every row of it run.

Client c is with A, B is the target, and C could take over too. c has sent two messages that are
held (in the steps in which something is held). When the fault has happened the servers that are
left play on: A releases, B and C answer. Then all has come to rest, and one of four things is true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from harness.clients import JSON, Client
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedServer

from signalr_trio.protocol.messages import Invocation

HELD = [JSON.write(Invocation("held", [number])) for number in (1, 2)]


@attrs.define
class Stage:
    """The people of one row."""

    cluster: Cluster
    a: ScriptedServer
    b: ScriptedServer
    c: ScriptedServer
    client: Client

    async def say_held(self) -> None:
        for message in HELD:
            self.client.transport.put(message)
        await settle()

    async def ask(self) -> None:
        self.a.fin()
        await settle()

    async def release(self) -> None:
        self.a.connections[0].release("c")
        await settle()


# -- the steps: each leads to a moment in a hand-over -----------------------------------------


async def asked(stage: Stage) -> None:
    """A has asked for the migration: hold and close are one step of the service."""
    await stage.ask()


async def holding(stage: Stage) -> None:
    await stage.ask()
    await stage.say_held()


async def released(stage: Stage) -> None:
    """A has let c go; B has been opened and not answered."""
    await holding(stage)
    await stage.release()


async def answered(stage: Stage) -> None:
    """B has answered, and got what was held: first and last in one step of the service."""
    await released(stage)
    stage.b.connections[0].answer("c")
    await settle()


async def attached(stage: Stage) -> None:
    """All is over, and A has gone."""
    await answered(stage)
    await stage.a.connections[0].lose()
    await settle()


STEPS = {step.__name__: step for step in (asked, holding, released, answered, attached)}


# -- the faults -------------------------------------------------------------------------------


async def client_leaves(stage: Stage) -> None:
    stage.client.leave()


async def a_dies(stage: Stage) -> None:
    await stage.a.connections[0].lose()


async def b_dies(stage: Stage) -> None:
    await stage.b.connections[0].lose()


async def fin_of_b(stage: Stage) -> None:
    stage.b.fin()


async def a_aborts(stage: Stage) -> None:
    """The hub on A closes the client, if A still has it."""
    from signalr_trio.protocol.service_messages import CloseConnection

    stage.a.connections[0].send(CloseConnection("c", ""))


async def second_signal(stage: Stage) -> None:
    """A stops at once: it releases what was asked to move, and closes its connections."""
    stage.a.connections[0].release("c")
    await settle()
    await stage.a.connections[0].lose()


async def service_stops(stage: Stage) -> None:
    stage.cluster.nursery.start_soon(stage.cluster.stop)


Fault = Callable[[Stage], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        client_leaves,
        a_dies,
        b_dies,
        fin_of_b,
        a_aborts,
        second_signal,
        service_stops,
    )
}

ON_B, ON_C, CLOSED, LEFT = "is with B", "is with C", "was told Close", "left, and all know"

#: step -> fault -> what is true at the end.
EXPECTED: dict[str, dict[str, str]] = {
    "asked": {
        "client_leaves": LEFT, "a_dies": CLOSED, "b_dies": ON_C, "fin_of_b": ON_C,
        "a_aborts": CLOSED, "second_signal": ON_B, "service_stops": CLOSED,
    },
    "holding": {
        "client_leaves": LEFT, "a_dies": CLOSED, "b_dies": ON_C, "fin_of_b": ON_C,
        "a_aborts": CLOSED, "second_signal": ON_B, "service_stops": CLOSED,
    },
    "released": {
        "client_leaves": LEFT, "a_dies": ON_B, "b_dies": ON_C, "fin_of_b": ON_C,
        "a_aborts": ON_B, "second_signal": ON_B, "service_stops": CLOSED,
    },
    "answered": {
        "client_leaves": LEFT, "a_dies": ON_B, "b_dies": CLOSED, "fin_of_b": ON_C,
        "a_aborts": ON_B, "second_signal": ON_B, "service_stops": CLOSED,
    },
    "attached": {
        "client_leaves": LEFT, "a_dies": ON_B, "b_dies": CLOSED, "fin_of_b": ON_C,
        "a_aborts": ON_B, "second_signal": ON_B, "service_stops": CLOSED,
    },
}  # fmt: skip


async def play_on(stage: Stage) -> None:
    """Whoever is left does what it owes: A and B release, B and C answer."""
    for _ in range(4):
        await settle()
        for server in (stage.a, stage.b):
            connection = server.connections[0]
            if connection.migrating_closes_of("c") and not connection.ended:
                released = [one for one in server.journal if one[:3] == (server.id, "release", "c")]
                if not released:
                    connection.release("c")
        for server in (stage.b, stage.c):
            opens = [one for one in server.journal if one[:3] == (server.id, "open", "c")]
            answers = stage_answers(server)
            if len(opens) > answers and not server.connections[0].ended:
                server.connections[0].answer("c")
                server.journal.append((server.id, "answer", "c", None))
    await settle()


def stage_answers(server: ScriptedServer) -> int:
    return len([one for one in server.journal if one[:3] == (server.id, "answer", "c")])


def has_client(server: ScriptedServer) -> bool:
    """Whether, by what the service has told it, the server has c now."""
    last = [what for id, what, client, _ in server.journal if (id, client) == (server.id, "c")]
    return "open" in last and "close" not in last and "release" not in last


@pytest.mark.parametrize(("step", "fault"), [(step, fault) for step in STEPS for fault in FAULTS])
async def test_a_fault_in_a_step(autojump_clock, step: str, fault: str) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        c = await cluster.scripted("C")
        b.answers = c.answers = False
        stage = Stage(cluster, a, b, c, client)

        await STEPS[step](stage)
        if step in ("answered", "attached"):
            b.journal.append(("B", "answer", "c", None))
        await FAULTS[fault](stage)
        await play_on(stage)
        with trio.move_on_after(60):
            if fault == "service_stops":
                await client.over.wait()

        expected = EXPECTED[step][fault]
        got = [server.data_of("c") for server in (a, b, c)]
        # Whatever happened, no message went to two servers, and none changed places.
        held = HELD if step != "asked" else []
        everything = [message for messages in got for message in messages]
        assert len(everything) == len(set(everything))
        if expected == CLOSED:
            close = client.close
            assert client.over.is_set()
            assert close is not None or fault == "a_aborts"
            assert fault == "a_aborts" or (close is not None and close.allow_reconnect)
            assert everything in ([], held)
        elif expected == LEFT:
            assert client.over.is_set()
            assert client.close is None
            assert everything == held
            assert not has_client(a)
            assert not has_client(b)
        else:
            assert not client.over.is_set()
            assert client.close is None
            winner = b if expected == ON_B else c
            last = JSON.write(Invocation("last", []))
            client.transport.put(last)
            await settle()
            assert winner.data_of("c")[-1] == last
            # B's client moves on when B goes, and takes nothing of it along.
            assert [message for messages in got for message in messages] == held
            assert cluster.service.client_count == 1
        assert cluster.service.held_size == 0
