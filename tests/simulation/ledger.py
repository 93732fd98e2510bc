"""What was promised, and whether it was kept: checked as things happen, and when all is at rest.

Hub code, clients and the world enter what they see; each entry is a line of the trace. Whatever a
client lost - its connection, a message, a result - has to be explained by something that this run
did to it or to a server that it was with; there is no general excuse.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import attrs
import trio

from signalr_trio.errors import ConnectionClosed
from signalr_trio.hub import ConnectionMigrationFeature
from signalr_trio.protocol.messages import (
    Ack,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    Sequence,
    StreamItem,
)
from signalr_trio.server import ShutdownReport
from tests.simulation.absences import PATIENCE, is_beyond, seconds_away, was_away_at
from tests.simulation.plan import BACK, Call, ClientPlan, Scenario, ServerPlan, Steps, duration
from tests.simulation.questions import Questions

__all__ = ["ClientRun", "Ledger", "ServerRun", "Spell", "Violation"]

#: To the service and back, where all is slow.
ROUND_TRIP = 0.6
#: Round trips, the grace of slots, and the second in which all connections ask for migration.
SLACK = 3.0


class Violation(AssertionError):
    """A promise was broken; the name of the promise comes first."""


#: As long as the service waits for a server that takes a client over.
BETWEEN_SERVERS = 30.0 + SLACK
#: For the tasks of a server to end when its last stage is over.
GRACE = 2.5


def round_trips(steps: Steps) -> float:
    """Seconds that the changes of groups may take."""
    return ROUND_TRIP * sum(step[0] in ("join", "leave") for step in steps)


@attrs.define(eq=False)
class ServerRun:
    plan: ServerPlan
    up_at: float | None = None
    crashed_at: float | None = None
    """It was killed, or a server connection of it was: when first."""
    last_crash_at: float = 0.0
    dead: bool = False
    """It was killed: what it still does, nobody sees."""
    silent: bool = False
    """A server connection of it is half open."""
    asked_at: float | None = None
    hurried_at: float | None = None
    """A second signal, or a cancellation from outside."""
    ended_at: float | None = None
    report: ShutdownReport | None = None
    clients: dict[str, ClientRun] = attrs.field(factory=dict)
    """Everyone who was ever opened here."""
    opens: int = 0
    hooks_begun: int = 0
    hooks_ended: int = 0
    migrated: int = 0

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def own(self) -> bool:
        return self.plan.kind == "own"

    @property
    def gives_up(self) -> bool:
        """A hook that throws ends the shutdown of an SDK server there and then."""
        return not self.own and any(("fail",) in hook for hook in self.plan.hooks)


@attrs.define(eq=False)
class Spell:
    """A client on one server, from ``on_connected`` to the end of ``on_disconnected``."""

    server: ServerRun
    migrated_from: str | None
    came_at: float
    connected: bool = False
    connected_at: float | None = None
    leaving: bool = False
    left_at: float | None = None
    migrates_to: str | None = None
    over_at: float | None = None
    state: Any = None
    first: int | None = None
    last: int = -1
    last_plain: int = -1

    @property
    def over(self) -> bool:
        return self.over_at is not None


@attrs.define(eq=False)
class CallRun:
    number: int
    call: Call
    wire_id: str | None
    sent_at: float
    begun: Spell | None = None
    begun_at: float | None = None
    freed_at: float | None = None
    """When it asked a client, and let the next one begin."""
    ended_at: float | None = None
    items: int = 0
    """Of its upload, taken by the hub."""
    answer: Completion | None = None

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    def runs_between(self, since: float, until: float) -> bool:
        if self.begun_at is None:
            return False
        return self.begun_at < until and (self.ended_at is None or self.ended_at > since)


@attrs.define(eq=False)
class Shared:
    """A send to several, and who has to get it."""

    server: ServerRun
    hub: str
    at: float
    group: str | None
    due: dict[str, None]
    barred: dict[str, int]
    """Who may not get it, with the number of joins that had been begun."""
    settled: bool = True


@attrs.define(eq=False)
class Membership:
    inside: bool = False
    certain: bool = True
    """Not so after changes that overlapped: who was first is not known."""
    pending: int = 0
    joins: int = 0

    @property
    def settled(self) -> bool:
        return self.certain and not self.pending


@attrs.define(eq=False)
class ClientRun:
    plan: ClientPlan
    lasting: bool = False
    """It has stateful reconnect."""
    connection_id: str | None = None
    answered: bool = False
    answered_at: float | None = None
    refused: str | None = None
    left_at: float | None = None
    cut_at: float | None = None
    """A fault of its own connection."""
    silent: bool = False
    """It was half open."""
    losses: list[tuple[float, float]] = attrs.field(factory=list)
    """Of its WebSockets, where that is no fault: when, and until when it could have no other."""
    ended_at: float | None = None
    close: Close | None = None
    calls: dict[int, CallRun] = attrs.field(factory=dict)
    spells: list[Spell] = attrs.field(factory=list)
    active_at: float = 0.0
    """When its hub was last seen to do something for it."""
    departure: Spell | None = None
    """Where it was last let go for another server."""
    servers: dict[ServerRun, float] = attrs.field(factory=dict)
    """Where it was opened, and when first."""
    emitted: int = 0
    due: dict[int, ServerRun] = attrs.field(factory=dict)
    """What its own calls sent to it, and has not come yet."""
    last_own: int = 0
    groups: dict[str, Membership] = attrs.field(factory=dict)
    shared: set[int] = attrs.field(factory=set)
    harmed: str | None = None
    """Application code closed it."""
    harmed_at: float | None = None

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def stays(self) -> bool:
        """Whether nothing is known that may end it."""
        return self.ended_at is None and self.left_at is None and self.cut_at is None

    @property
    def is_open(self) -> bool:
        return self.answered and self.ended_at is None and self.left_at is None

    @property
    def is_whole(self) -> bool:
        """Nothing on its way was lost. A poll or a post that is cut ends its client: one that goes
        on had none just then."""
        if self.cut_at is None:
            return True
        return self.plan.transport != "WebSockets" and not self.silent and self.is_open

    def harm(self, how: str) -> None:
        self.harmed = how
        self.harmed_at = self.harmed_at or trio.current_time()

    def membership(self, group: str) -> Membership:
        return self.groups.setdefault(group, Membership())


class Ledger:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.trace: list[tuple[Any, ...]] = []
        self.servers: dict[str, ServerRun] = {}
        self.clients: dict[str, ClientRun] = {
            plan.name: ClientRun(plan, scenario.full and plan.behaves and plan.stateful)
            for plan in scenario.clients
        }
        self.questions = Questions(self)
        self.service_fault_at: float | None = None
        self.sends: dict[int, Shared] = {}
        self.violation: Violation | None = None

    # -- the trace --------------------------------------------------------------------------

    def note(self, what: str, *details: Any) -> None:
        self.trace.append((round(trio.current_time(), 9), what, *details))

    @property
    def digest(self) -> str:
        lines = "\n".join(map(repr, self.trace))
        return hashlib.sha256(lines.encode()).hexdigest()

    def check(self, kept: bool, promise: str, *details: Any) -> None:
        """The first promise that is broken is the one that counts."""
        if not kept and self.violation is None:
            text = f"{promise}: {' '.join(map(str, details))} (at {trio.current_time():.3f})"
            self.violation = Violation(text)
            self.note("VIOLATION", text)

    # -- servers ----------------------------------------------------------------------------

    def server_made(self, plan: ServerPlan) -> ServerRun:
        run = self.servers[plan.name] = ServerRun(plan)
        return run

    def server_up(self, run: ServerRun) -> None:
        run.up_at = trio.current_time()
        self.note("up", run.name)

    def fault(self, what: str, whom: str) -> None:
        now = trio.current_time()
        self.note("fault", what, whom)
        if what.endswith("service") or (what == "kill" and self.scenario.embedded):
            # An embedded service dies with its server.
            self.service_fault_at = self.service_fault_at or now
        if what.endswith("service"):
            return
        if what.endswith("client"):
            client = self.clients[whom]
            client.cut_at = client.cut_at or now
            client.silent = client.silent or what.startswith("silence")
        else:
            server = self.servers[whom]
            server.crashed_at = server.crashed_at or now
            server.last_crash_at = now
            server.dead = server.dead or what == "kill"
            server.silent = server.silent or what == "silence_link"

    def away(self, client: ClientRun, until: float) -> None:
        """A client that has stateful reconnect has lost its WebSocket."""
        self.note("away", client.name, round(until, 9))
        client.losses.append((trio.current_time(), until))

    def asked(self, run: ServerRun) -> None:
        run.asked_at = trio.current_time()
        self.note("asked", run.name)

    def opened(self, run: ServerRun, name: str, *, answered_all_fins: bool) -> None:
        """A client was opened on a server."""
        if run.dead:
            return
        self.note("open", run.name, name)
        client = self.clients[name]
        self.check(not answered_all_fins, "P6", name, "was opened on", run.name, "after FINACK")
        client.servers.setdefault(run, trio.current_time())
        run.clients[name] = client
        run.opens += 1

    def server_ended(self, run: ServerRun, report: ShutdownReport | None) -> None:
        run.ended_at = now = trio.current_time()
        run.report = report
        self.note("down", run.name, str(report))
        if run.dead:
            return
        plan = run.plan
        took = now - min(t for t in (run.asked_at, run.hurried_at, now) if t is not None)
        limit = plan.timeout + plan.stop_timeout + GRACE
        self.check(took <= limit, "P7", run.name, "took", took, "s to stop")
        if run.hurried_at is not None and run.own:
            took = now - run.hurried_at
            self.check(took <= plan.stop_timeout + GRACE, "P7", run.name, "hurried, took", took)
        if report is not None and run.own:
            self._check_report(run, report)

    def _check_report(self, run: ServerRun, report: ShutdownReport) -> None:
        order = ["offline", "hooks", "clients", "stop"]
        if run.plan.mode == "off":
            order = ["offline", "stop"]
        found = [stage.name for stage in report.stages]
        whole = found == order or run.hurried_at is not None
        self.check(whole, "P7", run.name, "went through", found)
        self.check(found == sorted(found, key=order.index), "P7", run.name, "order", found)
        times = sum(stage.duration for stage in report.stages[:-1])
        self.check(times <= run.plan.timeout + 0.01, "P7", run.name, "stages took", times)
        if times >= run.plan.timeout and run.hurried_at is None:
            told = any(stage.timed_out for stage in report.stages[:-1])
            self.check(told, "P7", run.name, "hides that its time was up:", str(report))
        for stage in report.stages:
            limit = {"offline": 10.0, "hooks": run.plan.timeout / 2}.get(stage.name, times)
            within = stage.duration <= limit + 0.01 or stage.name == "stop"
            self.check(within, "P7", run.name, stage.name, "took", stage.duration)
            if stage.timed_out and stage.name == "clients":
                reason = self._why_slow(run, stage.duration)
                self.check(reason is not None, "P7", run.name, "stage 3 timed out:", str(report))
        self._check_embedded(run, report)
        self._check_count(run, report)
        calm = run.hurried_at is None and run.crashed_at is None and self.service_fault_at is None
        if calm and not report.dropped:
            same = report.migrated == run.migrated
            self.check(same, "P7", run.name, "migrated", run.migrated, "but reports", str(report))
        if calm and run.plan.mode == "migrate_clients" and self.has_steady_target(run):
            self._check_pace(run, _hooks_over(run, report))
        if report.dropped:
            reason = self._why_slow(run, None) or self._why_dropped(run)
            self.check(reason is not None, "P5", run.name, "dropped clients:", str(report))

    def _check_embedded(self, run: ServerRun, report: ShutdownReport) -> None:
        """Where there never is a target, nobody waits for one: calls end, and clients are told."""
        clients = [stage for stage in report.stages if stage.name == "clients"]
        lost = any(client.cut_at is not None for client in self.clients.values())
        if not self.scenario.embedded or run.plan.mode != "migrate_clients" or lost or not clients:
            return
        work = max((self._work(client) for client in run.clients.values()), default=0.0)
        took = clients[0].duration
        self.check(took <= work + SLACK, "P9", run.name, "kept its clients for", took, "s")

    def _check_count(self, run: ServerRun, report: ShutdownReport) -> None:
        """Each client that was here in the last two stages is in the report."""
        if run.asked_at is None or run.hurried_at is not None:
            return
        before = sum(stage.duration for stage in report.stages[:-1] if stage.name != "clients")
        spells = [spell for client in run.clients.values() for spell in client.spells]
        counted = [
            spell
            for spell in spells
            if spell.server is run
            and spell.over_at is not None
            and spell.over_at > run.asked_at + before
        ]
        text = (run.name, "had", len(counted), "to", run.opens, "clients:", str(report))
        self.check(len(counted) <= report.clients <= run.opens, "P7", *text)

    def _check_pace(self, run: ServerRun, hooks_over: float) -> None:
        """No client waits for the calls of another one."""
        for client in run.clients.values():
            for spell in client.spells:
                if spell.server is not run or spell.left_at is None or not spell.migrates_to:
                    continue
                if client.cut_at is not None or self._left_unheard(client):
                    # Its calls may wait for what it says no more.
                    continue
                began = max(hooks_over, spell.connected_at or 0.0)
                took = spell.left_at - began
                work = self._work_between(client, began, spell.left_at)
                work += seconds_away(client.losses)
                text = ("could leave", run.name, "only after", took, "s; its own calls took", work)
                self.check(took <= work + SLACK, "pace", client.name, *text)

    def _work_between(self, client: ClientRun, since: float, until: float) -> float:
        """Seconds that the calls take which ran in that time."""
        calls = [one.call for one in client.calls.values() if one.runs_between(since, until)]
        return sum(call.duration + call.gap + round_trips(call.steps) for call in calls)

    def _left_unheard(self, client: ClientRun) -> bool:
        """Nobody may have been told, since it had no connection just then."""
        left = client.left_at
        return left is not None and any(
            since - BACK <= left <= until + BACK for since, until in client.losses
        )

    def _busy_between(self, client: ClientRun, since: float, until: float) -> float:
        """As above, but for questions to clients: a call that waits for them lets others begin."""
        calls = [one.call for one in client.calls.values() if one.runs_between(since, until)]
        return sum(call.busy + call.gap + round_trips(call.steps) for call in calls)

    def _why_dropped(self, run: ServerRun) -> str | None:
        if any(client.plan.sticky for client in run.clients.values()):
            return "a client that is bound"
        stages = {stage.name: stage for stage in run.report.stages} if run.report else {}
        clients = stages.get("clients")
        if clients is not None and clients.timed_out:
            return self._why_slow(run, clients.duration)
        return None

    def _why_slow(self, run: ServerRun, budget: float | None) -> str | None:
        """Why a shutdown may have left clients behind; None if nothing explains it."""
        if run.hurried_at is not None:
            return "hurried"
        if run.plan.mode != "migrate_clients":
            return f"mode {run.plan.mode}"
        if run.silent:
            return "nobody told it that a connection was lost"
        if not self.has_steady_target(run):
            return "no target"
        if any(client.cut_at is not None for client in run.clients.values()):
            return "a client that was lost, and nobody was told"
        if any(self._left_unheard(client) for client in run.clients.values()):
            return "a client that left while it was away, and nobody was told"
        if budget is not None:
            for client in run.clients.values():
                if self._work(client) > budget - SLACK:
                    return f"{client.name} has work for {self._work(client):.1f} s"
        return None

    def _work(self, client: ClientRun) -> float:
        return client.plan.work + client.plan.slow_handshake + seconds_away(client.losses)

    def _was_away_too_long(self, client: ClientRun) -> bool:
        return is_beyond(client.losses, self.scenario.service.get("reconnect_window", 15.0))

    def has_steady_target(self, run: ServerRun) -> bool:
        """Whether some server could take its clients, all the time."""
        asked = run.asked_at if run.asked_at is not None else trio.current_time()
        ended = run.ended_at if run.ended_at is not None else trio.current_time()
        for other in self.servers.values():
            went = min(
                [t for t in (other.crashed_at, other.asked_at, other.hurried_at) if t is not None],
                default=float("inf"),
            )
            came = other.up_at if other.up_at is not None else float("inf")
            # The last of its clients are on their way when it has ended.
            if other is not run and came <= asked and went > ended + 2.0:
                return True
        return False

    def hook(self, run: ServerRun, *, begins: bool) -> None:
        self.note("hook", run.name, begins)
        run.hooks_begun += begins
        run.hooks_ended += not begins
        if begins:
            self.check(run.hooks_begun == run.hooks_ended + 1, "P7", run.name, "two hooks at once")

    # -- the hub's side ---------------------------------------------------------------------

    def connecting(self, run: ServerRun, name: str, feature: Any, id: str) -> Spell:
        client = self.clients[name]
        spell = Spell(run, feature.migrate_from if feature else None, trio.current_time())
        if run.dead:
            return spell
        self.note("connecting", run.name, name, spell.migrated_from)
        if client.connection_id is None:
            client.connection_id = id
        self.check(client.connection_id == id, "P5", name, "has another connection id")
        before = client.spells[-1] if client.spells else None
        self.check((before is None) == (feature is None), "P4", name, "feature", feature)
        if before is not None and feature is not None:
            self._check_arrival(client, before, spell, feature)
        client.spells.append(spell)
        return spell

    def _check_arrival(
        self, client: ClientRun, before: Spell, spell: Spell, feature: ConnectionMigrationFeature
    ) -> None:
        # An open that was on its way when its connection was cut may come after another server's.
        crashed = before.server.crashed_at is not None or spell.server.crashed_at is not None
        loose = crashed or not before.server.own
        self.check(before.over or loose, "P4", client.name, "came before it had left")
        # It may have crashed before the service knew that the client was there, or before it knew so.
        origin = before.server.plan.id
        unseen = any(
            one.crashed_at is not None and one.plan.id == feature.migrate_from
            for one in self.servers.values()
        )
        same = crashed or unseen or feature.migrate_from == origin
        self.check(same, "P4", client.name, "from", feature)
        self.check(feature.migrate_to == spell.server.plan.id, "P4", client.name, "to", feature)
        self.check(not client.plan.sticky, "P5", client.name, "is bound, and was moved")
        if not self._is_loose(client):
            self._check_origin(client, spell, feature)

    def _check_origin(
        self, client: ClientRun, spell: Spell, feature: ConnectionMigrationFeature
    ) -> None:
        """Whatever became of the targets between, it comes from where it was let go."""
        origin = client.departure
        self.check(origin is not None, "P4", client.name, "came, but had left for good")
        if origin is not None:
            same = feature.migrate_from == origin.server.plan.id
            self.check(same, "P4", client.name, "comes from", feature.migrate_from)
            self.check(feature.state == origin.state, "P4", client.name, "lost its state")

    def connected(self, spell: Spell, name: str) -> None:
        spell.connected = True
        spell.connected_at = self.clients[name].active_at = trio.current_time()
        if not spell.server.dead:
            self.note("connected", spell.server.name, name)

    def disconnecting(self, spell: Spell, name: str, feature: Any) -> None:
        client, run = self.clients[name], spell.server
        if run.dead:
            return
        self.note("disconnecting", run.name, name, feature is not None)
        self.check(spell.connected and not spell.leaving, "P4", name, "left twice, or never came")
        running = [
            one.number for one in client.calls.values() if one.begun is spell and not one.ended
        ]
        self.check(not running or not run.own, "P3", name, "left while calls ran:", running)
        spell.leaving = True
        spell.left_at = trio.current_time()
        if feature is not None:
            run.migrated += 1
            mode = run.plan.mode
            self.check(mode == "migrate_clients", "P5", name, "is migrated in mode", mode)
            self._check_hooks_are_over(run)
        spell.migrates_to = feature.migrate_to if feature is not None else None

    def _check_hooks_are_over(self, run: ServerRun) -> None:
        if run.own and run.hurried_at is None and run.asked_at is not None:
            late = trio.current_time() >= run.asked_at + run.plan.timeout / 2
            over = run.hooks_begun == run.hooks_ended
            done = over and (late or run.hooks_ended == len(run.plan.hooks))
            self.check(done, "P7", run.name, "lets clients move while its hooks run")

    def disconnected(self, spell: Spell, name: str, feature: Any) -> None:
        spell.over_at = self.clients[name].active_at = trio.current_time()
        if spell.server.dead:
            return
        self.note("disconnected", spell.server.name, name)
        if feature is not None:
            spell.state = feature.state
            self.clients[name].departure = spell

    def begun(self, spell: Spell, name: str, number: int) -> None:
        client, run = self.clients[name], spell.server
        if run.dead:
            return
        self.note("begun", run.name, name, number)
        call = client.calls[number]
        self.check(call.begun is None, "P1", name, "call", number, "began twice")
        self.check(spell.connected, "P1", name, "call", number, "began on", run.name, "too soon")
        call.begun = spell
        call.begun_at = client.active_at = trio.current_time()
        self.check(not spell.over or not run.own, "P4", name, "call", number, "after the end")
        spell.first = number if spell.first is None else min(spell.first, number)
        spell.last = max(spell.last, number)
        for earlier in client.spells[: client.spells.index(spell)]:
            self.check(earlier.last < number, "P1", name, "call", number, "overtaken by a server")
        if call.call.kind in ("call", "send"):
            if run.plan.parallel == 1:
                self.check(spell.last_plain < number, "P1", name, "call", number, "out of order")
            spell.last_plain = max(spell.last_plain, number)

    def gives_up_place(self, name: str, number: int) -> None:
        call = self.clients[name].calls[number]
        call.freed_at = call.freed_at or trio.current_time()

    def ended(self, run: ServerRun, name: str, number: int, *, aborted: bool) -> None:
        """A call has ended; ``aborted``: it was told that its client is gone."""
        client = self.clients[name]
        client.calls[number].ended_at = client.active_at = trio.current_time()
        if run.dead:
            return
        self.note("ended", run.name, name, number)
        if aborted and run.own and client.left_at is None:
            told = self.why_closed(client) is not None
            self.check(told, "rule 15", name, "call", number, "was told of its client's end")

    def item_taken(self, run: ServerRun, name: str, number: int, index: int) -> None:
        if run.dead:
            return
        call = self.clients[name].calls[number]
        self.check(call.items == index, "P1", name, "upload", number, "item", index)
        call.items = index + 1

    def emitting(self, run: ServerRun, name: str) -> int:
        """The next number among all that a client's own calls send to it."""
        client = self.clients[name]
        if run.dead:
            return -1
        client.emitted += 1
        client.due[client.emitted] = run
        return client.emitted

    def not_emitted(self, run: ServerRun, name: str, number: int, error: BaseException) -> None:
        """The send raised: it may have gone out, or not."""
        self.clients[name].due.pop(number, None)
        if isinstance(error, ConnectionClosed) and run.own:
            lost = run.crashed_at is not None or self.service_fault_at is not None
            self.check(lost, "P7", run.name, "has no connection to send on for", name)

    # -- groups and shared sends ------------------------------------------------------------

    def group_changing(self, run: ServerRun, name: str, group: str, *, joins: bool) -> None:
        if run.dead:
            return
        membership = self.clients[name].membership(group)
        membership.certain = not membership.pending
        membership.pending += 1
        membership.joins += joins
        if not joins:
            for send in self.sends.values():
                if send.group == group:
                    send.due.pop(name, None)

    def group_changed(self, run: ServerRun, name: str, group: str, *, inside: bool) -> None:
        if run.dead:
            return
        membership = self.clients[name].membership(group)
        membership.pending -= 1
        membership.inside = inside
        self.note("group", name, group, inside)

    def sharing(self, run: ServerRun, hub: str, kind: str, whom: str | None) -> int:
        """A send to several is about to be made; its number."""
        number = len(self.sends)
        due: dict[str, None] = {}
        barred: dict[str, int] = {}
        for client in self.clients.values():
            if client.plan.hub != hub:
                continue
            if kind == "user" and client.name != whom:
                barred[client.name] = 0
            elif kind == "group":
                membership = client.membership(whom or "")
                if membership.inside and membership.settled and client.is_open:
                    due[client.name] = None
                elif not membership.inside and membership.settled:
                    barred[client.name] = membership.joins
            elif client.is_open:
                due[client.name] = None
        self.sends[number] = Shared(
            run, hub, trio.current_time(), whom if kind == "group" else None, due, barred
        )
        self.note("shared", run.name, number, kind, whom)
        return number

    def not_shared(self, number: int) -> None:
        self.sends[number].settled = False

    # -- the client's side ------------------------------------------------------------------

    def client_sends(self, client: ClientRun, number: int, wire_id: str | None) -> CallRun:
        self.note("sends", client.name, number)
        call = client.plan.calls[number]
        run = client.calls[number] = CallRun(number, call, wire_id, trio.current_time())
        return run

    def client_answered(self, client: ClientRun, error: str | None) -> None:
        self.note("handshake", client.name, error)
        self.check(not client.answered, "P5", client.name, "had two handshakes")
        client.answered = error is None
        client.answered_at = trio.current_time() if error is None else None
        client.refused = error

    def client_got(self, client: ClientRun, message: HubMessage) -> None:
        if isinstance(message, (Ping, Ack, Sequence)):
            return
        self.check(client.close is None, "P9", client.name, "got", message, "behind a Close")
        if isinstance(message, Completion):
            self._completed(client, message)
        elif isinstance(message, StreamItem):
            number, own, *_ = message.item
            call = client.calls[number]
            self.check(call.answer is None, "P3", client.name, "item of", number, "after its end")
            self._own(client, own)
        elif isinstance(message, Invocation) and message.target == "own":
            self._own(client, message.arguments[0])
        elif isinstance(message, Invocation) and message.target == "ask":
            self.questions.came(client, message.arguments[0])
        elif isinstance(message, Invocation):
            self._shared(client, message.arguments[0])
        elif isinstance(message, Close):
            self.note("close", client.name, message.error, message.allow_reconnect)
            client.close = message

    def _completed(self, client: ClientRun, message: Completion) -> None:
        self.note("completion", client.name, message.invocation_id, message.error)
        found = [one for one in client.calls.values() if one.wire_id == message.invocation_id]
        self.check(bool(found), "P3", client.name, "completion of nothing", message)
        for call in found:
            self.check(call.answer is None, "P3", client.name, "second completion", message)
            call.answer = message
            self._check_pace_of_delivery(client, call.ended_at, "completion", call.number)
            if isinstance(message.result, list):
                number, own, *answers = message.result
                self.check(number == call.number, "P3", client.name, "result of another call")
                self.questions.told(client, answers)
                self._own(client, own)

    def _own(self, client: ClientRun, number: int) -> None:
        self.note("own", client.name, number)
        crashed = any(server.crashed_at is not None for server in client.servers)
        if not crashed and not self._is_loose(client):
            before = client.last_own
            self.check(number > before, "P2", client.name, "got", number, "after", before)
        self.check(number <= client.emitted, "P2", client.name, "got", number, "from nowhere")
        client.last_own = max(number, client.last_own)
        client.due.pop(number, None)

    def _check_pace_of_delivery(
        self, client: ClientRun, since: float | None, *what: object
    ) -> None:
        """What a server of ours says comes at once to a client that reads."""
        loose = client.plan.stops_reading or client.cut_at is not None or self.is_flooding
        loose = loose or not client.answered_at or self.service_fault_at is not None
        if since is None or loose or not all(server.own for server in self.servers.values()):
            return
        took = trio.current_time() - max(since, client.answered_at or 0.0)
        kept = took <= SLACK + seconds_away(client.losses)
        self.check(kept, "pace", client.name, "had", *what, "only after", took, "s")

    def _shared(self, client: ClientRun, number: int) -> None:
        self.note("got shared", client.name, number)
        self.check(number not in client.shared, "sends", client.name, "got", number, "twice")
        client.shared.add(number)
        send = self.sends[number]
        send.due.pop(client.name, None)
        self._check_pace_of_delivery(client, send.at, "shared", number)
        same = client.plan.hub == send.hub
        self.check(same, "groups", client.name, "got", number, "of hub", send.hub)
        if client.name in send.barred:
            joins = client.membership(send.group).joins if send.group else 0
            strict = joins == send.barred[client.name]
            self.check(not strict, "groups", client.name, "got", number, "but was not meant")

    def client_left(self, client: ClientRun) -> None:
        self.note("leaves", client.name)
        client.left_at = trio.current_time()

    def client_ended(self, client: ClientRun, how: str) -> None:
        """Its connection has ended."""
        self.note("ended", client.name, how)
        client.ended_at = trio.current_time()
        if client.left_at is None:
            reason = self.why_closed(client)
            self.check(reason is not None, "P5", client.name, "was closed:", client.close, how)
            told = client.close is not None or client.refused is not None
            # A Close has no number, and is not said again on another WebSocket.
            away = was_away_at(client.losses, client.ended_at) or self._missed_the_end(client)
            cut = client.cut_at is not None or self.service_fault_at is not None or away
            self.check(told or cut or not client.answered, "P9", client.name, "was told nothing")
            self.note("explained", client.name, reason)
            if client.close is not None and not cut:
                self._check_last_words(client)
                self._check_who_spoke(client, client.close.error or "")

    def _missed_the_end(self, client: ClientRun) -> bool:
        """It was away when the server with the service in it ended."""
        ends = [server.ended_at for server in self.servers.values() if server.ended_at is not None]
        return self.scenario.embedded and any(was_away_at(client.losses, end) for end in ends)

    def _check_last_words(self, client: ClientRun) -> None:
        """A server that closes a client in order has completed what began."""
        for call in client.calls.values():
            server = call.begun.server if call.begun is not None else None
            if server is None or call.wire_id is None or client.harmed is not None:
                continue
            if server.own and server.crashed_at is None:
                text = ("call", call.number, "began and got no completion")
                self.check(call.answer is not None, "P3", client.name, *text)

    def _check_who_spoke(self, client: ClientRun, error: str) -> None:
        """A server of ours that ends in order says so itself; it is not lost to its clients."""
        crashed = any(one.crashed_at is not None or not one.own for one in self.servers.values())
        events = (client.plan.on_connected, client.plan.on_disconnected)
        slowest = max(duration(steps) + round_trips(steps) for steps in events)
        slow = any(slowest > 0.3 * server.plan.stop_timeout for server in client.servers)
        lost = error == "The connection to the hub server was lost."
        self.check(not lost or crashed or slow, "P9", client.name, "was told:", error)

    def _is_loose(self, client: ClientRun) -> bool:
        """SDK servers keep less order."""
        return not all(server.own for server in client.servers)

    # -- explanations -----------------------------------------------------------------------

    def why_closed(self, client: ClientRun) -> str | None:
        if client.cut_at is not None:
            return "its connection was cut"
        if self._was_away_too_long(client):
            return "it was away for too long"
        if self.service_fault_at is not None:
            return "the service went"
        if client.harmed is not None:
            return client.harmed
        for server in client.servers:
            if reason := self._why_dropped_by(client, server):
                return f"{server.name}: {reason}"
        if self._goes_to_a_crashed_sdk_server(client):
            return "its new server crashed"
        if not client.answered and not self._server_was_there(client):
            return "no server"
        if not client.answered and self.is_flooding:
            return "too much was sent to it before"
        if not client.answered and any(self._drops(one) for one in self.servers.values()):
            return "its first server went before it had heard of it"
        return None

    def _why_dropped_by(self, client: ClientRun, server: ServerRun) -> str | None:
        if server.crashed_at is not None and self._was_lost_with(client, server):
            return "crashed"
        if server.asked_at is None and server.hurried_at is None:
            return None
        if server.hurried_at is not None:
            return "hurried"
        if self._let_all_go(server):
            return None if self.has_steady_target(server) else "no target"
        if server.plan.mode != "migrate_clients" or server.gives_up:
            return f"mode {server.plan.mode}, or a hook of it failed"
        if client.plan.sticky:
            return "bound to it"
        if not self.has_steady_target(server):
            return "no target"
        last = max(duration(client.plan.on_disconnected), duration(client.plan.on_connected))
        if last > server.plan.stop_timeout * 0.5:
            return "hub events too slow"
        return "too much work" if self._work(client) > self._budget(server) else None

    def _let_all_go(self, server: ServerRun) -> bool:
        """Whether its shutdown is over, and nobody was in want of time."""
        report = server.report
        if not server.own or report is None or server.plan.mode == "off":
            return False
        if server.hurried_at is not None:
            return False
        return not report.dropped and not any(stage.timed_out for stage in report.stages)

    def _budget(self, server: ServerRun) -> float:
        """Seconds that a client's work may take in a shutdown, at the least."""
        timeout = server.plan.timeout
        polite = self.scenario.service.get("polite_budget", 20.0)
        return (timeout / 2 if server.own else min(timeout, polite)) - SLACK

    def _was_lost_with(self, client: ClientRun, server: ServerRun) -> bool:
        """One that is on its way to an own server goes to another if that crashes."""
        if not server.own or not client.spells or client.spells[0].server is server:
            return True
        return any(
            spell.server is server
            and spell.connected_at is not None
            and spell.connected_at <= server.last_crash_at
            for spell in client.spells
        )

    def _goes_to_a_crashed_sdk_server(self, client: ClientRun) -> bool:
        """The service cannot know whether it has got there."""
        moves = bool(client.spells) and client.spells[-1].migrates_to is not None
        sdk = [server for server in self.servers.values() if not server.own]
        return moves and any(server.crashed_at is not None for server in sdk)

    def _drops(self, server: ServerRun) -> bool:
        """Whether its connections may have ended with opens on their way."""
        off = server.asked_at is not None and server.plan.mode == "off"
        return off or server.crashed_at is not None or server.hurried_at is not None

    def _server_was_there(self, client: ClientRun) -> bool:
        came = client.plan.connects
        for server in self.servers.values():
            went = [server.crashed_at, server.asked_at, server.hurried_at]
            steady = all(time is None or time > trio.current_time() for time in went)
            if server.up_at is not None and server.up_at <= came + 4.0 and steady:
                return True
        return False

    def why_failed(self, client: ClientRun, call: CallRun) -> str | None:
        """Why a call has not had the result that its steps make."""
        if any(step[0] == "fail" for step in call.call.steps):
            return "it fails"
        if self.service_fault_at is not None or client.cut_at is not None:
            return "a fault"
        if self._was_away_too_long(client):
            return "away for too long"
        for server in client.servers:
            if server.crashed_at is not None or server.hurried_at is not None:
                return f"{server.name} crashed, or was hurried"
            may_move = not client.plan.sticky and not self.scenario.embedded
            if server.asked_at is None or (self._let_all_go(server) and may_move):
                continue
            if server.plan.mode != "migrate_clients" or server.gives_up:
                return f"{server.name}: mode {server.plan.mode}, or a hook of it failed"
            if client.plan.sticky or not self.has_steady_target(server):
                return f"{server.name}: {client.name} cannot move"
            if self._work(client) > self._budget(server):
                return f"{server.name}: too much work"
        if call.call.kind in ("up", "down") and self._may_be_hurried(client):
            return "hurried"
        return None

    def _may_be_hurried(self, client: ClientRun) -> bool:
        return self._work(client) > 10.0 - SLACK or self.is_flooding

    # -- the end ----------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Whether nobody waits for anything."""
        for server in self.servers.values():
            ending = server.asked_at is not None or server.hurried_at is not None or server.dead
            if ending and server.ended_at is None:
                return False
        if self.questions.open:
            return False
        return all(self._is_at_rest(client) for client in self.clients.values())

    def _is_at_rest(self, client: ClientRun) -> bool:
        if client.ended_at is not None:
            return True
        if not client.is_open or len(client.calls) < len(client.plan.calls):
            return False
        return not self._waiting(client)

    def _waiting(self, client: ClientRun) -> list[int]:
        """Its calls that are not over."""
        return [
            call.number
            for call in client.calls.values()
            if call.answer is None and not self._is_over(client, call)
        ]

    def _is_over(self, client: ClientRun, call: CallRun) -> bool:
        """A call that wants no answer: it has run, or there is a reason why it never will."""
        if call.wire_id is not None:
            return False
        if call.begun is not None or not self._is_settled(client):
            return call.ended
        return self.why_failed(client, call) is not None

    def _is_settled(self, client: ClientRun) -> bool:
        """Whether what has not begun by now never will."""
        between = bool(client.spells) and client.spells[-1].over
        patience = BETWEEN_SERVERS if between else 2 * SLACK
        return trio.current_time() - client.active_at > patience

    def unrest(self) -> str:
        names = [server.name for server in self.servers.values() if server.ended_at is None]
        waiting = {
            client.name: self._waiting(client)
            for client in self.clients.values()
            if not self._is_at_rest(client)
        }
        asked = self.questions.open
        return f"servers that run: {names}; clients that wait: {waiting}; questions: {asked}"

    def judge(self) -> None:
        """All is at rest: who is still there has lost nothing that is not explained."""
        for client in self.clients.values():
            if client.is_open and client.is_whole:
                self._judge_open(client)
            if client.answered and client.ended_at is not None and client.left_at is None:
                # Now that the reports are there.
                why = self.why_closed(client)
                self.check(why is not None, "P5", client.name, "was closed:", client.close)
            self._judge_spells(client)
            self._judge_pauses(client)
            self._judge_service(client)
            for before, after in pairwise(client.spells):
                self._judge_budget(client, before, after)
            self._judge_bound(client)
            for call in client.calls.values():
                if call.answer is not None and call.answer.error is not None:
                    reason = self.why_failed(client, call)
                    self.check(
                        reason is not None, "P3", client.name, call.number, call.answer.error
                    )
        for number, send in self.sends.items():
            late = send.at > trio.current_time() - 2.0
            if late or not send.settled or send.server.crashed_at is not None:
                continue
            for name in send.due:
                client = self.clients[name]
                lost = client.is_open and client.is_whole and self.service_fault_at is None
                self.check(not lost, "sends", name, "never got", number, send.group)

    def _judge_open(self, client: ClientRun) -> None:
        for call in client.calls.values():
            if call.begun is None and (call.answer is None or call.answer.error is None):
                reason = self.why_failed(client, call)
                self.check(reason is not None, "P1", client.name, "call", call.number, "is lost")
            no_answer = call.wire_id is not None and call.answer is None
            self.check(not no_answer, "P3", client.name, "call", call.number, "has no completion")
        crashed = any(server.crashed_at is not None for server in client.servers)
        # An SDK server whose time is up takes along what it has not sent.
        lost = [
            number for number, server in client.due.items() if server.own or not server.ended_at
        ]
        self.check(not lost or crashed, "P2", client.name, "never got", lost)
        ends = [
            spell
            for spell in client.spells
            if spell.connected
            and not spell.over
            and spell.server.crashed_at is None
            and (spell.server.own or not spell.server.ended_at)
        ]
        twice = len(ends) > 1 and self.service_fault_at is None
        self.check(not twice, "P4", client.name, "is on two servers")

    def _judge_spells(self, client: ClientRun) -> None:
        """Also where a connection was lost: when its calls are over, ``on_disconnected`` comes."""
        if client.silent or self.service_fault_at is not None or not client.spells:
            return
        stays = [
            spell.server
            for spell in client.spells
            if spell.connected and not spell.leaving and not spell.server.dead
        ]
        there = [run.name for run in stays if run.own and not run.silent]
        settled = client.ended_at if client.ended_at is not None else client.spells[-1].came_at
        work = self._work(client) + sum(round_trips(call.steps) for call in client.plan.calls)
        waits = client.lasting or client.plan.transport == "LongPolling"
        lost = client.losses or (client.cut_at is not None and waits)
        patience = SLACK + (PATIENCE if lost else 0.0)
        late = trio.current_time() - settled > work + patience
        allowed = int(client.ended_at is None)
        self.check(len(there) <= allowed or not late, "P4", client.name, "is still on", there)

    def _judge_pauses(self, client: ClientRun) -> None:
        """Without a fault, no call waits for more than those before it and for the hand-over."""
        if self.scenario.has_faults or client.plan.stops_reading or self.is_flooding:
            return
        if client.cut_at is not None:
            return
        for server in self.servers.values():
            gone = server.asked_at is not None or server.hurried_at is not None
            if gone and (not self._let_all_go(server) or not self.has_steady_target(server)):
                return
        for call in client.calls.values():
            if call.begun_at is not None:
                self._judge_pause(client, call, call.begun_at)

    def _judge_pause(self, client: ClientRun, call: CallRun, begun_at: float) -> None:
        before = [one for one in client.calls.values() if one.number < call.number]
        ready = max([call.sent_at, *(one.ended_at for one in before if _ended(one, begun_at))])
        plan = client.plan
        work = self._work_between(client, ready, begun_at)
        if len(client.spells) == 1:
            self._judge_pause_where_it_stays(client, call, begun_at)
        events = (plan.on_connected, plan.on_disconnected)
        hub = sum(duration(steps) + round_trips(steps) for steps in events)
        moves = sum(spell.came_at >= ready - hub - SLACK for spell in client.spells)
        limit = work + (1 + moves) * (hub + SLACK) + seconds_away(client.losses)
        pause = begun_at - ready
        self.check(pause <= limit, "P5", client.name, "call", call.number, "waited", pause, "s")

    def _judge_pause_where_it_stays(
        self, client: ClientRun, call: CallRun, begun_at: float
    ) -> None:
        """Nothing of it was ever held, and who asks a client lets the next call begin."""
        before = [one for one in client.calls.values() if one.number < call.number]
        freed = [one.freed_at or one.ended_at for one in before if _ended(one, begun_at)]
        connected_at = client.spells[0].connected_at
        times = [call.sent_at, connected_at, *freed]
        ready = max(time for time in times if time is not None)
        limit = self._busy_between(client, ready, begun_at) + SLACK + seconds_away(client.losses)
        pause = begun_at - ready
        self.check(pause <= limit, "P5", client.name, "call", call.number, "waited", pause, "s")

    def _judge_budget(self, client: ClientRun, before: Spell, after: Spell) -> None:
        """Nobody is kept longer by a server that does not release."""
        run = before.server
        if run.own or run.asked_at is None or not self.has_steady_target(run):
            return
        budget = self.scenario.service.get("polite_budget", 20.0)
        took = after.came_at - max(run.asked_at, before.connected_at or 0.0)
        # One that fell silent may have been its target, and it never got there.
        silent = any(one.silent for one in self.servers.values())
        faults = silent or any(one.crashed_at is not None for one in client.servers)
        kept = took <= budget + SLACK or faults or self.service_fault_at is not None
        self.check(kept, "pace", client.name, "came from", run.name, "after", took, "s")

    def _judge_bound(self, client: ClientRun) -> None:
        """Who cannot move is not kept until a server that goes has to end (rule 7)."""
        if not client.plan.sticky or self.service_fault_at is not None:
            return
        for run, came in client.servers.items():
            crashed = run.silent or run.crashed_at is not None
            if crashed or run.gives_up or run.plan.mode != "migrate_clients":
                continue
            if run.asked_at is None or (run.own and run.report is None):
                continue
            since = _hooks_over(run, run.report) if run.own and run.report else run.asked_at
            ends = (client.ended_at, client.left_at, client.cut_at, run.hurried_at, run.ended_at)
            until = min(end for end in (*ends, trio.current_time()) if end is not None)
            took = until - max(since, came)
            limit = self._work(client)
            if not run.own:
                limit = self.scenario.service.get("polite_budget", 20.0)
            text = ("is bound, and was kept by", run.name, "for", took, "s")
            self.check(took <= limit + SLACK, "rule 7", client.name, *text)

    def _judge_service(self, client: ClientRun) -> None:
        """As long as a server has not let it go, a client is served there."""
        if client.plan.sticky or client.cut_at is not None or client.harmed is not None:
            return
        if self.is_flooding or self.service_fault_at is not None:
            return
        for spell in client.spells:
            if spell.server.own and spell.server.crashed_at is None:
                self._judge_service_by(spell, client)

    def _judge_service_by(self, spell: Spell, client: ClientRun) -> None:
        run, came = spell.server, spell.connected_at
        ends = (spell.left_at, run.hurried_at, client.ended_at, client.left_at, self._time_up(run))
        until = min(end for end in (*ends, trio.current_time()) if end is not None)
        for call in client.calls.values():
            if call.answer is not None and call.answer.error is not None:
                continue
            if came is None or (call.begun_at is not None and call.begun_at < until):
                continue
            if call.sent_at < came and spell is not client.spells[0]:
                continue
            earlier = [one for one in client.calls.values() if one.number < call.number]
            unfinished = [one.call for one in earlier if not _ended(one, max(call.sent_at, came))]
            ready = max(call.sent_at, came) + SLACK + seconds_away(client.losses)
            busy = sum(one.busy + one.gap + round_trips(one.steps) for one in unfinished)
            due = ready + busy
            if run.asked_at is not None and run.asked_at < due:
                # It may be held until all that began has ended.
                due = ready + busy + sum(one.duration - one.busy for one in unfinished)
            text = ("call", call.number, "was not begun on", run.name, "by", due)
            self.check(due >= until, "rule 6", client.name, *text)

    def _time_up(self, run: ServerRun) -> float | None:
        """When its last stage began."""
        if run.report is None or run.asked_at is None:
            return run.ended_at
        return run.asked_at + sum(stage.duration for stage in run.report.stages[:-1])

    @property
    def is_flooding(self) -> bool:
        return "hold_limit" in self.scenario.service

    def judge_the_end(self) -> None:
        """Everything was taken down: each ``on_connected`` has its ``on_disconnected``."""
        self.questions.judge()
        for client in self.clients.values():
            for spell in client.spells:
                server = spell.server
                if server.dead or not server.own or server.ended_at is None:
                    continue
                slow = duration(client.plan.on_disconnected) > 0.3 * server.plan.stop_timeout
                if spell.connected and not slow:
                    self.check(spell.leaving, "P4", client.name, "never left", server.name)
            for before, after in zip(client.spells, [*client.spells, None][1:], strict=True):
                self._judge_move(client, before, after)

    def _judge_move(self, client: ClientRun, before: Spell, after: Spell | None) -> None:
        if before.migrates_to is None or after is not None or not before.server.own:
            return
        explained = (
            self.service_fault_at is not None
            or any(one.crashed_at or one.hurried_at for one in self.servers.values())
            or not self.has_steady_target(before.server)
            or before.server.report is None
            or bool(before.server.report.dropped)
            or self._why_dropped(before.server) is not None
        )
        self.check(explained, "P4", client.name, "left for", before.migrates_to, "and never came")


def _hooks_over(run: ServerRun, report: ShutdownReport) -> float:
    """When its clients could first be let go."""
    stages = [stage for stage in report.stages if stage.name in ("offline", "hooks")]
    return (run.asked_at or 0.0) + sum(stage.duration for stage in stages)


def _ended(call: CallRun, by: float) -> bool:
    return call.ended_at is not None and call.ended_at <= by
