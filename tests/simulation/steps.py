"""Each step of a hand-over times each fault, in full: a table of named scenarios.

One client is handed over from ``a`` to ``b``, with a third server there in case. Its hub events
and calls are slow enough that each step has a moment of its own; the fault comes in that moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from tests.simulation.plan import Call, ClientPlan, Event, Scenario, ServerPlan

__all__ = ["FAULTS", "STEPS", "table"]

#: When ``a`` is asked to stop; its FINACK is there, and ``fin:1``, a few milliseconds later.
ASKED: Final = 1.0
#: Step -> the moment in the middle of it.
STEPS: Final[Mapping[str, float]] = {
    "before": ASKED - 0.1,
    "hold": ASKED + 0.0055,
    "close": ASKED + 0.1,  # a call runs on a, until 1.5
    "release": ASKED + 0.7,  # on_disconnected runs on a, until 1.9
    "open": ASKED + 0.905,
    "answer": ASKED + 1.1,  # on_connected runs on b, until 2.3
    "first held message": ASKED + 1.3085,
    "last held message": ASKED + 1.3099,
    "attached": ASKED + 1.5,
}
FAULTS: Final = (
    "none",
    "c leaves",
    "c says close",
    "c is cut",
    "a dies",
    "a's connection is lost",
    "b dies",
    "b's connection is lost",
    "fin of b",
    "the service stops",
    "the service dies",
    "second signal",
    "cancellation",
)


def table() -> dict[str, Scenario]:
    """All of them, by name."""
    return {
        f"{step}: {fault}": _scenario(number, moment, fault)
        for number, (step, moment) in enumerate(STEPS.items())
        for fault in FAULTS
    }


def _scenario(number: int, moment: float, fault: str) -> Scenario:
    hub_event = (("state", 100), ("tell",), ("sleep", 0.4))
    calls = (
        Call(ASKED - 0.2, "call", (("tell",), ("sleep", 0.7), ("tell",))),
        Call(ASKED + 0.05, "up", (("tell",),), items=4, gap=0.1),
        Call(ASKED + 0.2, "call", (("join", "a"), ("group", "a"))),
        Call(ASKED + 0.3, "down", (), items=4, gap=0.1),
        Call(ASKED + 0.4, "send", (("tell",),)),
        Call(ASKED + 1.6, "call", (("group", "a"),)),
    )
    client = ClientPlan("c", on_connected=hub_event[1:], on_disconnected=hub_event, calls=calls)
    events = [Event(ASKED, "shutdown", "a")]
    if fault in ("c leaves", "c says close"):
        client = attrs.evolve(client, leaves=moment, says_close=fault == "c says close")
    elif fault != "none":
        events.append(_event(moment, fault))
    return Scenario(
        number,
        latency=0.001,
        servers=(
            # The client is there before the others have come.
            ServerPlan("a", "a", connections=2, timeout=10.0),
            ServerPlan("b", "b", connections=2, timeout=10.0, starts=0.6),
            ServerPlan("third", "third", starts=0.95),
        ),
        clients=(client,),
        events=tuple(sorted(events, key=lambda event: event.at)),
    )


def _event(moment: float, fault: str) -> Event:
    what, whom = {
        "c is cut": ("cut_client", "c"),
        "a dies": ("kill", "a"),
        "a's connection is lost": ("cut_link", "a"),
        "b dies": ("kill", "b"),
        "b's connection is lost": ("cut_link", "b"),
        "fin of b": ("shutdown", "b"),
        "the service stops": ("stop_service", ""),
        "the service dies": ("kill_service", ""),
        "second signal": ("again", "a"),
        "cancellation": ("cancel", "a"),
    }[fault]
    return Event(moment, what, whom)
