"""What is to happen in a run, as plain data, so that it can be made smaller and written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

__all__ = [
    "BACK",
    "CRASHES",
    "FAULTS",
    "HUBS",
    "OF_CLIENTS",
    "Call",
    "ClientPlan",
    "Event",
    "Scenario",
    "ServerPlan",
    "Steps",
    "duration",
]

#: What application code does, one after the other: ``("sleep", 0.5)``, ``("join", "a")``, ...
#: ``("ask", "c1", "answers", 0.5, 3.0)``: a client is asked (without a name the one itself), which
#: ``answers``, ``fails`` or ``stays silent`` after 0.5 s; it is waited for 3 s.
#: ``("padded", 5000)``: what a stream gives out is that large.
Steps = tuple[tuple[Any, ...], ...]

CRASHES: Final = ("kill", "cut_link", "silence_link", "kill_service", "stop_service")
OF_CLIENTS: Final = ("cut_client", "silence_client")
#: Faults of the network and of processes; all other events are what the promises are about.
FAULTS: Final = (*CRASHES, *OF_CLIENTS)
HUBS: Final = ("chat", "news")
#: Seconds within which a client with stateful reconnect is back, once it can be, and all is resent.
BACK: Final = 4.0
_SECONDS: Final[Mapping[str, Callable[[tuple[Any, ...]], float]]] = MappingProxyType(
    {"sleep": lambda step: step[1], "ask": lambda step: step[4]}
)


@attrs.frozen
class Call:
    """One invocation of a client. Its number is its place in the plan."""

    at: float
    kind: str = "call"
    """``call``, ``send`` (wants no answer), ``down`` (a stream to the client), ``up``."""
    steps: Steps = ()
    items: int = 0
    gap: float = 0.0
    cancel_after: float | None = None
    padding: int = 0

    @property
    def duration(self) -> float:
        """At the least; queues and the network come on top."""
        own = duration(self.steps)
        return own + self.items * self.gap if self.kind in ("up", "down") else own

    @property
    def busy(self) -> float:
        """As long it keeps the next call waiting: not while it asks a client."""
        return self.duration - duration(tuple(step for step in self.steps if step[0] == "ask"))


@attrs.frozen
class ClientPlan:
    name: str
    connects: float = 0.0
    leaves: float | None = None
    says_close: bool = False
    """Whether it leaves with a hub Close; else the socket just ends."""
    slow_handshake: float = 0.0
    protocol: str = "json"
    hub: str = "chat"
    transport: str = "WebSockets"
    """This, and ``stateful``, is for one that behaves, where there is HTTP."""
    stateful: bool = False
    """Whether it asks for stateful reconnect."""
    sticky: bool = False
    pings: bool = True
    stops_reading: tuple[float, float] | None = None
    """From when and for how long."""
    on_connected: Steps = ()
    on_disconnected: Steps = ()
    calls: tuple[Call, ...] = ()

    @property
    def behaves(self) -> bool:
        """Whether it does nothing that the product's own client would not do."""
        return not self.slow_handshake and self.pings and self.stops_reading is None

    @property
    def work(self) -> float:
        """Seconds that its calls and hub events may take, all in all."""
        return (
            sum(call.duration for call in self.calls)
            + 2 * duration(self.on_connected)
            + 2 * duration(self.on_disconnected)
        )


@attrs.frozen
class ServerPlan:
    name: str
    id: str
    kind: str = "own"
    """``own``, or ``sdk``: a server that does as the official SDK."""
    starts: float = 0.0
    connections: int = 1
    parallel: int = 1
    mode: str = "migrate_clients"
    timeout: float = 30.0
    stop_timeout: float = 5.0
    inbox_pause: int = 1 << 20
    hooks: tuple[Steps, ...] = ()


@attrs.frozen
class Event:
    """``shutdown``, ``again`` (the second signal), ``cancel``, ``background``, ``away``, or a fault.

    ``away``: a client's connections are cut, and for ``seconds`` it can make none. To one that has
    stateful reconnect, and is back in time, that is nothing; to others it is a fault.
    """

    at: float
    what: str
    whom: str = ""
    lossy: bool = False
    steps: Steps = ()
    seconds: float = 0.0


@attrs.frozen
class Scenario:
    seed: int
    full: bool = False
    """Whether HTTP and WebSockets are in it; else links and sessions are on pipes."""
    embedded: bool = False
    """Whether the one server has the service in it; always ``full``."""
    latency: float | None = None
    """Of all connections; without it each has its own."""
    hubs: tuple[str, ...] = HUBS[:1]
    service: dict[str, Any] = attrs.field(factory=dict)
    servers: tuple[ServerPlan, ...] = ()
    clients: tuple[ClientPlan, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def has_faults(self) -> bool:
        return any(event.what in FAULTS for event in self.events)

    @property
    def ends(self) -> float:
        """When all that is planned has begun."""
        times = [0.0]
        times += [one.starts for one in self.servers]
        times += [one.at for one in self.events]
        times += [one.at + one.seconds + BACK for one in self.events if one.what == "away"]
        for client in self.clients:
            times += [client.connects + client.slow_handshake, client.leaves or 0.0]
            times += [call.at + call.duration for call in client.calls]
            times += [sum(client.stops_reading or (0.0,))]
        return max(times)


def duration(steps: Steps) -> float:
    """Seconds; a question may take until nobody waits for its answer any more."""
    return sum(_SECONDS[step[0]](step) for step in steps if step[0] in _SECONDS)
