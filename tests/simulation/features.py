"""Draws what came into the product later: questions, transports, stateful reconnect.

It is drawn into a scenario that is there, with dice of its own: what other seeds mean does not
change, and in these seeds the rest stays as it was.
"""

from __future__ import annotations

import random
from typing import Any, Final

import attrs

from tests.simulation.plan import Call, ClientPlan, Event, Scenario, ServerPlan, Steps

__all__ = ["with_features"]

_FEATURES: Final = 0xFEA7
#: Bytes that one side of a stateful connection sends without an acknowledgement, twice.
_ITEMS, _ITEM = 40, 5000


def with_features(scenario: Scenario) -> Scenario:
    """As it is, in four of five."""
    chance = random.Random(scenario.seed ^ _FEATURES)
    theme = chance.random()
    own = all(server.kind == "own" for server in scenario.servers)
    if theme > 0.2:
        return scenario
    drawn = _Features(scenario, chance)
    if theme < 0.1 or not own:
        return drawn.with_questions()
    scenario = drawn.with_transports() if theme < 0.15 else drawn.with_losses()
    return _Features(scenario, chance).with_questions() if chance.random() < 0.4 else scenario


class _Features:
    def __init__(self, scenario: Scenario, chance: random.Random) -> None:
        self._scenario = scenario
        self._chance = chance
        self._names = [client.name for client in scenario.clients]
        self._calm = "polite_budget" not in scenario.service
        self._moments = [event.at for event in scenario.events if event.what == "shutdown"]

    # -- questions --------------------------------------------------------------------------

    def with_questions(self) -> Scenario:
        """From calls, hub events, hooks and background tasks."""
        return attrs.evolve(
            self._scenario,
            clients=tuple(self._client_that_asks(one) for one in self._scenario.clients),
            servers=tuple(self._server_that_asks(one) for one in self._scenario.servers),
            events=tuple(self._event_that_asks(one) for one in self._scenario.events),
        )

    def _client_that_asks(self, client: ClientPlan) -> ClientPlan:
        calls = list(client.calls)
        for i in self._chance.sample(range(len(calls)), min(len(calls), 3)):
            calls[i] = attrs.evolve(calls[i], steps=self._asking(calls[i].steps))
        client = attrs.evolve(client, calls=tuple(calls))
        for event in ("on_connected", "on_disconnected"):
            if self._maybe(0.15):
                client = attrs.evolve(client, **{event: self._asking(getattr(client, event))})
        return client

    def _server_that_asks(self, server: ServerPlan) -> ServerPlan:
        if not self._maybe(0.2):
            return server
        return attrs.evolve(server, hooks=(*server.hooks, (self._question(),)))

    def _event_that_asks(self, event: Event) -> Event:
        if event.what != "background":
            return event
        return attrs.evolve(event, steps=(*event.steps, self._question()))

    def _asking(self, steps: Steps) -> Steps:
        place = self._chance.randint(0, len(steps))
        return (*steps[:place], self._question(), *steps[place:])

    def _question(self) -> tuple[Any, ...]:
        chance = self._chance
        whom = "" if self._maybe(0.5) else chance.choice(self._names)
        reaction = chance.choice(("answers",) * 6 + ("fails", "stays silent"))
        longest = (0.0, 0.3) if self._calm else (0.0, 0.0, 0.3, 2.0, 12.0)
        delay = round(chance.random() * chance.choice(longest), 3)
        patience = chance.choice((0.5, 2.0)) if reaction == "stays silent" else delay + 3.0
        if not self._calm and self._maybe(0.1):
            patience = round(chance.random() * 2 * delay, 3) + 0.05
        return ("ask", whom, reaction, delay, round(patience, 3))

    # -- transports -------------------------------------------------------------------------

    def with_transports(self) -> Scenario:
        clients = tuple(self._on_a_transport(client) for client in self._scenario.clients)
        events = list(self._scenario.events)
        if not self._calm and self._maybe(0.5):
            what = self._chance.choice(("cut_client",) * 4 + ("silence_client",))
            whom, lossy = self._chance.choice(self._names), self._maybe(0.5)
            events.append(Event(self._time(), what, whom, lossy=lossy))
        events.sort(key=lambda event: event.at)
        return attrs.evolve(self._scenario, full=True, clients=clients, events=tuple(events))

    def _on_a_transport(self, client: ClientPlan) -> ClientPlan:
        transport = self._chance.choice(
            ("WebSockets",) + ("ServerSentEvents",) * 2 + ("LongPolling",) * 2
        )
        protocol = "json" if transport == "ServerSentEvents" else client.protocol
        return attrs.evolve(_behaving(client), transport=transport, protocol=protocol)

    # -- stateful reconnect -----------------------------------------------------------------

    def with_losses(self) -> Scenario:
        """Clients that go on with another WebSocket, and lose theirs, at any time."""
        service = {
            name: v for name, v in self._scenario.service.items() if name != "client_timeout"
        }
        if self._maybe(0.3):
            service["reconnect_window"] = 6.0
        clients: list[ClientPlan] = []
        events = list(self._scenario.events)
        for client in self._scenario.clients:
            if self._maybe(0.8):
                client = self._lasting(client)
                events += self._losses(client)
            clients.append(client)
        return attrs.evolve(
            self._scenario,
            full=True,
            service=service,
            clients=tuple(clients),
            events=tuple(sorted(events, key=lambda event: event.at)),
        )

    def _lasting(self, client: ClientPlan) -> ClientPlan:
        calls = list(client.calls)
        if self._maybe(0.4):
            calls.append(Call(self._time(), "down", (), 50, self._chance.random() * 0.1))
        if self._maybe(0.4):
            calls.append(Call(self._time(), "up", (), 50, self._chance.random() * 0.1))
        if self._maybe(0.15):
            calls.append(Call(self._time(), "down", (("padded", _ITEM),), _ITEMS, 0.01))
        if self._maybe(0.15):
            calls.append(Call(self._time(), "up", (), _ITEMS, 0.01, padding=_ITEM))
        calls.sort(key=lambda call: call.at)
        return attrs.evolve(_behaving(client), stateful=True, calls=tuple(calls))

    def _losses(self, client: ClientPlan) -> list[Event]:
        events: list[Event] = []
        for _ in range(self._chance.choice((1, 1, 2, 3, 6))):
            at = self._time()
            if self._moments and self._maybe(0.5):
                at = max(
                    0.1, self._chance.choice(self._moments) + self._chance.random() * 0.7 - 0.2
                )
            if events and self._maybe(0.4):
                # While it comes back from the last.
                last = events[-1]
                at = last.at + last.seconds + self._chance.random() * 0.8
            lossy = self._maybe(0.5)
            events.append(Event(at, "away", client.name, lossy=lossy, seconds=self._absence()))
        return events

    def _absence(self) -> float:
        kind = self._chance.random()
        if kind < 0.7:
            return 0.0
        longest = 8.0 if kind < 0.9 else 25.0
        return round(self._chance.random() * longest, 3)

    # -- dice -------------------------------------------------------------------------------

    def _maybe(self, odds: float) -> bool:
        return self._chance.random() < odds

    def _time(self) -> float:
        return self._chance.random() * 4.0


def _behaving(client: ClientPlan) -> ClientPlan:
    return attrs.evolve(client, slow_handshake=0.0, pings=True, stops_reading=None)
