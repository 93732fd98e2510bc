"""Draws from a seed what is to happen in a run."""

from __future__ import annotations

import random
from typing import Any, Final

import attrs

from tests.simulation.features import with_features
from tests.simulation.plan import (
    HUBS,
    OF_CLIENTS,
    Call,
    ClientPlan,
    Event,
    Scenario,
    ServerPlan,
    Steps,
)

__all__ = ["draw"]

#: What cannot befall a server that has the service in it, but it as a whole.
_OF_LINKS: Final = ("cut_link", "silence_link", "kill_service", "stop_service")
_THEMES: Final = 0x5EED


def draw(seed: int) -> Scenario:
    return with_features(_themed(_Draw(seed).scenario()))


def _themed(scenario: Scenario) -> Scenario:
    # Dice of their own: what other seeds mean does not change.
    chance = random.Random(scenario.seed ^ _THEMES)
    theme = chance.random()
    if any(server.kind != "own" for server in scenario.servers):
        return scenario
    if theme < 0.03:
        return _embedded(scenario, chance)
    if theme < 0.07:
        return _with_two_hubs(scenario, chance)
    return attrs.evolve(scenario, full=True) if theme < 0.14 else scenario


def _embedded(scenario: Scenario, chance: random.Random) -> Scenario:
    """One server with a service in it, in any mode; there is nobody to hand over to."""
    mode = chance.choice(("migrate_clients", "wait_for_clients_close", "off"))
    server = attrs.evolve(scenario.servers[0], starts=0.0, mode=mode)
    events = [
        attrs.evolve(event, whom=event.whom if event.what in OF_CLIENTS else server.name)
        for event in scenario.events
        if event.what not in ("shutdown", *_OF_LINKS)
    ]
    events.append(Event(0.5 + chance.random() * 2.0, "shutdown", server.name))
    return attrs.evolve(
        scenario,
        full=True,
        embedded=True,
        servers=(server,),
        # Its port is open when it runs; most come a little later.
        clients=tuple(
            attrs.evolve(client, sticky=False, connects=client.connects + chance.random())
            for client in scenario.clients
        ),
        events=tuple(sorted(events, key=lambda event: event.at)),
    )


def _with_two_hubs(scenario: Scenario, chance: random.Random) -> Scenario:
    """Every server has both, and goes with both."""
    clients = tuple(attrs.evolve(client, hub=chance.choice(HUBS)) for client in scenario.clients)
    return attrs.evolve(scenario, hubs=HUBS, clients=clients)


class _Draw:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._chance = random.Random(seed)
        self._calm = self._maybe(0.4)
        """No faults, and nothing that outlasts a shutdown."""
        self._hooked = self._maybe(0.4)
        self._flooding = self._maybe(0.15)
        self._stubborn = not self._calm and self._maybe(0.15)
        """One client has a call that outlasts everything."""
        self._end = self._chance.choice((1.0, 2.0, 4.0))
        self._moments: list[float] = []
        """When servers go."""

    # -- the whole --------------------------------------------------------------------------

    def scenario(self) -> Scenario:
        servers, events, slow = self._plot()
        self._moments = [event.at for event in events]
        clients = tuple(self._client(f"c{i}") for i in range(self._chance.randint(1, 5)))
        if slow == "backlog":
            clients = tuple(self._with_backlog(client) for client in clients)
        elif slow:
            clients = self._slowed(clients, slow)
        elif not self._calm:
            events += self._faults(servers, clients)
        events += self._background(servers)
        return Scenario(
            self._seed,
            full=self._maybe(0.04) and all(server.kind == "own" for server in servers),
            service=self._service(),
            servers=servers,
            clients=clients,
            events=tuple(sorted(events, key=lambda event: event.at)),
        )

    def _plot(self) -> tuple[tuple[ServerPlan, ...], list[Event], str]:
        """Servers and their ends; and the event of the hub that is slow, if the theme needs one,
        or that the calls are."""
        servers = self._servers()
        theme = self._chance.random() if not self._calm else 1.0
        if theme < 0.08:
            return *self._late_servers(servers), "on_disconnected"
        if theme < 0.24:
            return *self._target_that_loses_a_connection(servers), "on_connected"
        if theme < 0.3:
            return *self._sdk_server_that_goes(servers), "backlog"
        if self._stubborn and theme < 0.6:
            return *self._vanishing_target(servers), ""
        return servers, self._shutdowns(servers), ""

    def _late_servers(
        self, servers: tuple[ServerPlan, ...]
    ) -> tuple[tuple[ServerPlan, ...], list[Event]]:
        """All go at once; another one comes when their time is up."""
        going = tuple(attrs.evolve(one, starts=0.0, timeout=1.5) for one in servers[:2])
        at = 0.3 + self._time() / 4
        starts = at + 1.5 + self._chance.random() * 0.4
        late = ServerPlan("late", "late", starts=starts)
        return (*going, late), [Event(at, "shutdown", one.name) for one in going]

    def _target_that_loses_a_connection(
        self, servers: tuple[ServerPlan, ...]
    ) -> tuple[tuple[ServerPlan, ...], list[Event]]:
        """While ``on_connected`` runs there, and it has other connections."""
        connections = self._chance.choice((1, 1, 2))
        target = ServerPlan("target", "target", starts=0.2, connections=connections)
        at = 1.0 + self._time() / 4
        cut = at + self._chance.random() * 0.8
        third = ServerPlan("third", "third", starts=self._late_start(cut))
        events = [
            Event(at, "shutdown", servers[0].name),
            Event(cut, "cut_link", target.name),
            Event(max(cut, third.starts) + self._time(), "shutdown", target.name),
        ]
        return (attrs.evolve(servers[0], starts=0.0), target, third), events

    def _sdk_server_that_goes(
        self, servers: tuple[ServerPlan, ...]
    ) -> tuple[tuple[ServerPlan, ...], list[Event]]:
        first = attrs.evolve(servers[0], id=f"{servers[0].name}-sdk", kind="sdk", timeout=30.0)
        first = attrs.evolve(first, mode="migrate_clients", starts=0.0)
        target = ServerPlan("target", "target", starts=0.2)
        return (first, target), [Event(0.5 + self._time() / 4, "shutdown", first.name)]

    def _with_backlog(self, client: ClientPlan) -> ClientPlan:
        """More than an SDK server takes from its pipe behind a call that is slow."""
        at, kind = self._moment(), self._chance.choice(("send", "send", "call"))
        slow = Call(at, kind, (("sleep", 0.5 + self._chance.random()),))
        rest = (Call(at, kind, padding=30_000) for _ in range(self._chance.choice((3, 6))))
        return attrs.evolve(client, calls=(slow, *rest))

    def _late_start(self, moment: float) -> float:
        return moment + self._time() if self._maybe(0.7) else 1.0

    def _slowed(self, clients: tuple[ClientPlan, ...], what: str) -> tuple[ClientPlan, ...]:
        pause = ("sleep", 0.3 + self._chance.random() * 0.5)
        return tuple(
            attrs.evolve(client, **{what: (*getattr(client, what), pause)}) for client in clients
        )

    def _vanishing_target(
        self, servers: tuple[ServerPlan, ...]
    ) -> tuple[tuple[ServerPlan, ...], list[Event]]:
        """An SDK server goes, and while its calls are waited for its one target does too."""
        first = attrs.evolve(servers[0], id=f"{servers[0].name}-sdk", kind="sdk", timeout=30.0)
        first = attrs.evolve(first, mode="migrate_clients", starts=0.0)
        target = ServerPlan("target", "target", starts=0.2)
        at = 0.3 + self._time() / 4
        events = [
            Event(at, "shutdown", first.name),
            Event(at + 1.0 + self._time(), "shutdown", target.name),
        ]
        return (first, target), events

    def _service(self) -> dict[str, Any]:
        options: dict[str, Any] = {"slots": self._chance.choice((1, 1, 2, 64))}
        if self._flooding:
            options["hold_limit"] = self._chance.choice((200, 2000, 1 << 20))
            options["hold_total"] = self._chance.choice((500, 5000, 1 << 28))
            options["link_high_water"] = self._chance.choice((500, 8 << 20))
            options["hurry_full"] = self._chance.choice((0.3, 2.0))
            options["client_timeout"] = self._chance.choice((1.5, 30.0))
        if not self._calm:
            options["polite_budget"] = self._chance.choice((2.0, 8.0, 20.0))
        return options

    def _servers(self) -> tuple[ServerPlan, ...]:
        count = self._chance.choice((1, 2, 2, 2, 3, 3))
        all_own = self._maybe(0.75)
        plans = [self._server(f"s{i}", f"s{i}", 0.0, all_own) for i in range(count)]
        for i in range(self._chance.choice((0, 0, 1, 2))):
            id = self._chance.choice([f"s{i}" for i in range(count)] + [f"n{i}"] * count)
            plans.append(self._server(f"n{i}", id, self._time(), all_own))
        return tuple(plans)

    def _server(self, name: str, id: str, starts: float, own: bool) -> ServerPlan:
        chance = self._chance
        kind = "own" if own or self._maybe(0.5) else "sdk"
        return ServerPlan(
            name,
            # Nameless servers of one id are one server, as far as anyone can tell.
            id if kind == "own" else f"{name}-sdk",
            kind=kind,
            starts=starts,
            connections=chance.choice((1, 1, 2, 3)),
            parallel=chance.choice((1, 1, 1, 3)),
            mode=chance.choice(
                ("migrate_clients",) * 6 + ("wait_for_clients_close", "off") * (not self._calm)
            ),
            timeout=30.0 if self._calm else chance.choice((1.5, 10.0, 30.0)),
            stop_timeout=chance.choice((0.5, 5.0)),
            inbox_pause=chance.choice((100, 2000)) if self._flooding else 1 << 20,
            hooks=tuple(self._hook() for _ in range(chance.choice((0, 0, 1, 2)))),
        )

    # -- clients ----------------------------------------------------------------------------

    def _client(self, name: str) -> ClientPlan:
        chance = self._chance
        calls = [self._call() for _ in range(chance.choice((0, 2, 5, 10, 15)))]
        if self._maybe(0.2):
            calls = self._at_once(calls)
        if self._maybe(0.15):
            calls = [Call(call.at, "send", call.steps) for call in calls]
        if self._flooding:
            calls += self._flood()
        if self._stubborn and name == "c0":
            calls.append(
                Call(self._time() / 2, chance.choice(("call", "send")), (("sleep", 20.0),))
            )
        connects = 0.0 if self._maybe(0.7) else self._moment()
        return ClientPlan(
            name,
            connects=connects,
            leaves=connects + self._time() if self._maybe(0.2) else None,
            says_close=self._maybe(0.5),
            slow_handshake=self._time() / 2 if self._maybe(0.1) else 0.0,
            protocol=chance.choice(("json", "json", "messagepack")),
            sticky=not self._calm and self._maybe(0.05),
            pings=not self._maybe(0.1),
            stops_reading=(self._time(), self._time()) if self._maybe(0.05) else None,
            on_connected=self._hub_event() if self._hooked else (),
            on_disconnected=self._hub_event(leaving=True) if self._hooked else (),
            calls=tuple(sorted(calls, key=lambda call: call.at)),
        )

    def _call(self) -> Call:
        chance = self._chance
        kind = chance.choice(("call",) * 6 + ("send", "down", "up"))
        at = round(self._moment(), 3)
        if kind == "down":
            cancel = self._length() if self._maybe(0.2) else None
            items = chance.choice((0, 1, 5, 20))
            return Call(at, kind, self._steps(), items, self._length() / 10, cancel)
        if kind == "up":
            items = chance.choice((0, 1, 5, 20))
            return Call(at, kind, self._steps(), items, self._length() / 10)
        return Call(at, kind, self._steps())

    def _at_once(self, calls: list[Call]) -> list[Call]:
        """So that most of them wait, where they are or on their way."""
        begins = self._moment()
        return [attrs.evolve(call, at=begins + i * 0.005) for i, call in enumerate(calls)]

    def _flood(self) -> list[Call]:
        at = self._time()
        padding = self._chance.choice((50, 300))
        flood = [Call(at, "call", padding=padding) for _ in range(self._chance.choice((5, 20)))]
        slow = Call(at, "call", (("sleep", self._length() * 2),))
        upload = Call(at, "up", (("sleep", self._length()),), 10, 0.1, padding=padding)
        return [slow, upload, *flood]

    def _steps(self) -> Steps:
        steps = [self._step() for _ in range(self._chance.choice((0, 0, 1, 1, 2, 3)))]
        if self._maybe(0.05):
            steps.append(("fail",))
        if not self._calm and self._maybe(0.02):
            steps.insert(self._chance.randint(0, len(steps)), ("abort",))
        return tuple(steps)

    def _step(self) -> tuple[Any, ...]:
        what = self._chance.choice(
            ("sleep", "sleep", "sleep", "tell", "tell", "join", "leave", "group", "all", "user")
        )
        if what == "sleep":
            return (what, self._length())
        if what in ("join", "leave", "group"):
            return (what, self._chance.choice("ab"))
        if what == "user":
            return (what, f"c{self._chance.randrange(4)}")
        return (what,)

    def _hub_event(self, *, leaving: bool = False) -> Steps:
        steps = [self._step() for _ in range(self._chance.choice((0, 1, 2)))]
        if leaving:
            if self._maybe(0.7):
                steps.insert(0, ("state", self._chance.choice((1, 100, 16000))))
            if self._maybe(0.1):
                steps.append(("fail",))
        elif not self._calm and self._maybe(0.05):
            steps.append(("fail",))
        return tuple(steps)

    def _hook(self) -> Steps:
        steps = [("all",)] if self._maybe(0.5) else []
        if self._maybe(0.5):
            steps.append(("sleep", self._length()))
        if self._maybe(0.3):
            steps.append(("fail",))
        return tuple(steps)

    # -- what befalls them ------------------------------------------------------------------

    def _shutdowns(self, servers: tuple[ServerPlan, ...]) -> list[Event]:
        events: list[Event] = []
        together = self._time() if self._maybe(0.2) else None
        for server in servers:
            if not self._maybe(0.6):
                continue
            at = server.starts + (together or self._time())
            if not self._calm and self._maybe(0.1):
                events.append(Event(at, self._chance.choice(("again", "cancel")), server.name))
                continue
            events.append(Event(at, "shutdown", server.name))
            if not self._calm and self._maybe(0.15):
                what = self._chance.choice(("again", "cancel"))
                events.append(Event(at + self._length(), what, server.name))
        if self._calm and len(events) >= len([one for one in servers if not one.starts]):
            events.pop()
        return events

    def _background(self, servers: tuple[ServerPlan, ...]) -> list[Event]:
        events: list[Event] = []
        for _ in range(self._chance.choice((0, 1, 3))):
            steps = tuple(
                step for _ in range(3) if (step := self._step())[0] in ("group", "all", "user")
            )
            events.append(
                Event(self._time(), "background", self._chance.choice(servers).name, steps=steps)
            )
        return events

    def _faults(
        self, servers: tuple[ServerPlan, ...], clients: tuple[ClientPlan, ...]
    ) -> list[Event]:
        """Anywhere, and where they hurt: just after something else has happened."""
        events: list[Event] = []
        for _ in range(self._chance.choice((0, 1, 1, 2, 3))):
            what = self._chance.choice(
                ("kill",) * 3
                + ("cut_link",) * 4
                + ("silence_link", "kill_service", "stop_service")
                + ("cut_client",) * 3
                + ("silence_client",)
            )
            whom = ""
            if what in ("kill", "cut_link", "silence_link"):
                whom = self._chance.choice(servers).name
            elif what.endswith("client"):
                whom = self._chance.choice(clients).name
            at = self._time()
            if self._moments and self._maybe(0.5):
                at = self._chance.choice(self._moments) + self._chance.random() * 0.4
            events.append(Event(at, what, whom, lossy=self._maybe(0.5)))
        return events

    # -- dice -------------------------------------------------------------------------------

    def _maybe(self, odds: float) -> bool:
        return self._chance.random() < odds

    def _time(self) -> float:
        return self._chance.random() * self._end

    def _moment(self) -> float:
        """Anywhere, and where it hurts: about when a server goes."""
        if not self._moments or self._maybe(0.5):
            return self._time()
        return max(0.0, self._chance.choice(self._moments) + self._chance.random() * 0.6 - 0.4)

    def _length(self) -> float:
        """Of a pause in application code: mostly short."""
        longest = (0.05, 0.5, 1.0) if self._calm else (0.05, 0.5, 2.0, 12.0)
        return round(self._chance.random() * self._chance.choice(longest), 3)
