"""P1: what the service reads from a client reaches exactly one server, once, in order."""

from __future__ import annotations

from collections import Counter

import trio
from harness.clients import JSON, Client
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from signalr_trio import Hub
from signalr_trio.protocol.messages import Invocation, StreamItem
from signalr_trio.service.options import ServiceOptions


def numbers(frames: list[bytes]) -> list[int]:
    """The first argument of each call among ``frames``."""
    messages = [JSON.parse(frame) for frame in frames]
    return [one.arguments[0] for one in messages if isinstance(one, Invocation)]  # type: ignore[misc]


async def test_p1_each_message_reaches_exactly_one_server_in_order(autojump_clock) -> None:
    """One hand-over, with messages before it, in every phase of it, and after it."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        b.answers = False
        client.send("f", 0)
        await settle()
        a.fin()
        client.send("f", 1)
        await settle()
        client.send("f", 2)
        await settle()
        a.connections[0].release("c")
        await settle()
        client.send("f", 3)
        await settle()
        b.connections[0].answer("c")
        client.send("f", 4)
        await settle()
        client.send("f", 5)
        await settle()
        assert numbers(a.data_of("c") + b.data_of("c")) == [0, 1, 2, 3, 4, 5]
        assert numbers(b.data_of("c"))[-4:] == [2, 3, 4, 5]


async def test_p1_nothing_reaches_the_new_server_before_the_old_one_has_released(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        for number in range(20):
            client.send("f", number)
        await trio.sleep(25)
        assert "c" not in b.opened
        a.connections[0].release("c")
        await settle()
        assert numbers(b.data_of("c")) == list(range(20))
        order = [(server, what) for server, what, id, _ in cluster.journal if id == "c"]
        assert order.index(("A", "release")) < order.index(("B", "open"))


async def test_p1_what_belongs_to_a_call_on_the_old_server_goes_there_past_what_is_held(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        b = await cluster.scripted("B")
        client.invoke("old", "upload", streams=["s-old"])
        client.stream("counter", "count")
        await settle()
        a.fin()
        await settle()
        began_at_a = len(a.data_of("c"))
        client.invoke("new", "upload", streams=["s-new"])
        client.item("s-old", 1)
        client.item("s-new", 2)
        client.complete("s-old")
        client.cancel("counter")
        client.complete("s-new")
        await settle()
        passed = [JSON.peek(frame)[:2] for frame in a.data_of("c")[began_at_a:]]
        assert passed == [(2, "s-old"), (3, "s-old"), (5, "counter")]
        a.connections[0].release("c")
        await settle()
        held = [JSON.peek(frame)[:2] for frame in b.data_of("c")]
        assert held == [(1, "new"), (2, "s-new"), (3, "s-new")]


# -- any schedule -----------------------------------------------------------------------------

CHAT = st.lists(
    st.sampled_from(
        ["call", "call", "answered call", "item", "item", "ping", "split call", "settle", 0.03, 1.5]
    ),
    max_size=4,
)
TURNS = ["fin", "new server", "release", "lose target", "answer"]
#: The turns that a hand-over takes, in an order in which it gets somewhere, and in any other;
#: numbers are virtual seconds.
STEPS = st.builds(
    lambda pairs: [step for chat, turn in pairs for step in (*chat, turn)],
    st.one_of(
        st.tuples(*(st.tuples(CHAT, st.sampled_from([turn, "settle"])) for turn in TURNS * 2)),
        st.lists(st.tuples(CHAT, st.sampled_from(TURNS)), max_size=12),
    ),
)


class Schedule:
    """Plays steps against scripted own servers, and then brings it to its end."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self.cluster = cluster
        self.client = client
        self.servers: list[ScriptedServer] = []
        self.said: list[bytes] = []

    async def play(self, step: str | float) -> None:
        if isinstance(step, float):
            await trio.sleep(step)
        elif step == "settle":
            await settle()
        elif step == "new server":
            await self.add_server()
        elif step in ("call", "answered call", "item", "split call"):
            self.speak(step)
        elif step == "ping":
            self.client.ping()
        elif step == "fin":
            self.servers[0].fin()
        elif step == "release":
            self.release()
        elif step == "answer":
            self.answer()
        elif step == "lose target":
            await self.lose_target()

    async def add_server(self) -> None:
        if len(self.servers) < 5:
            first = not self.servers
            server = await self.cluster.scripted(f"S{len(self.servers)}", answers=first)
            self.servers.append(server)

    def speak(self, step: str) -> None:
        number = len(self.said)
        if step == "item":
            frame = JSON.write(StreamItem("upload-of-a", number))
        else:
            id = str(number) if step == "answered call" else None
            frame = JSON.write(Invocation("f", [number], id))
        self.said.append(frame)
        middle = len(frame) // 2 if step == "split call" else len(frame)
        for piece in (frame[:middle], frame[middle:]):
            if piece:
                self.client.transport.put(piece)

    def release(self) -> None:
        """Whoever was told to let the client go does so: once."""
        for server in self.servers:
            for connection in server.connections:
                if connection.migrating_closes_of("c") and not self.has_released(server):
                    connection.release("c")

    def has_released(self, server: ScriptedServer) -> bool:
        return any(one[:3] == (server.id, "release", "c") for one in self.cluster.journal)

    def answer(self) -> None:
        for server in self.servers[1:]:
            for connection in server.connections:
                if "c" in connection.opened and not server.answers and not connection.ended:
                    server.answers = True
                    connection.answer("c")

    async def lose_target(self) -> None:
        """A server that has not answered yet goes without a word."""
        for server in self.servers[1:]:
            for connection in server.connections:
                if "c" in connection.opened and not server.answers:
                    await connection.lose()

    async def finish(self) -> None:
        """Everybody does what is expected of him until nothing is left to do."""
        await self.add_server()
        for _ in range(6):
            await settle()
            self.release()
            await settle()
            self.answer()
            await settle()

    def check(self) -> None:
        received = [frame for server in self.servers for frame in server.data_of("c")]
        assert self.client.close is None
        assert Counter(received) == Counter(self.said)
        for server in self.servers:
            places = [self.said.index(frame) for frame in server.data_of("c")]
            assert places == sorted(places)
        if self.has_released(self.servers[0]):
            order = [one[:2] for one in self.cluster.journal if one[2] == "c"]
            released = order.index(("S0", "release"))
            assert {server for server, what in order[:released] if what != "close"} <= {"S0"}


@given(steps=STEPS)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_p1_holds_for_any_schedule_of_a_hand_over(steps: list[str | float]) -> None:
    async def scenario() -> None:
        # Time passes here, and a hand-over without a target must not give up meanwhile.
        async with open_cluster(ServiceOptions(target_wait=10_000)) as cluster:
            schedule = Schedule(cluster, Client())
            await schedule.add_server()
            schedule.client = await cluster.client()
            for step in steps:
                await schedule.play(step)
            await schedule.finish()
            schedule.check()

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


async def test_p1_with_real_servers_across_a_chain_of_shutdowns(autojump_clock) -> None:
    """Every call of a busy client runs once, in order, whatever server runs it."""
    ran: list[int] = []

    class Chat(Hub):
        async def note(self, number: int) -> int:
            await trio.sleep(0.01)
            ran.append(number)
            return number

    async with open_cluster() as cluster:
        servers = [await cluster.serve(Chat, id="S0")]
        client = await cluster.client()
        for number in range(60):
            client.invoke(str(number), "note", number)
            if number % 20 == 10:
                servers.append(await cluster.serve(Chat, id=f"S{len(servers)}"))
                servers[-2].request_shutdown()
            elif number % 20 == 19:
                await trio.sleep(1)
        assert ran == list(range(60))
        assert {id: one.result for id, one in client.completions.items()} == {
            str(number): number for number in range(60)
        }
        for server in servers[:-1]:
            assert (await server.shutdown()).migrated == 1
