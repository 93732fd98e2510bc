"""Each step of a hand-over times each fault."""

from __future__ import annotations

import pytest

from tests.simulation.plan import Scenario
from tests.simulation.steps import STEPS, table
from tests.simulation.world import run

TABLE = table()


@pytest.mark.parametrize("scenario", TABLE.values(), ids=TABLE.keys())
def test_every_promise_is_kept(scenario: Scenario) -> None:
    outcome = run(scenario)
    assert outcome.violation is None, "\n".join(map(repr, outcome.trace))


def test_the_moments_are_those_of_their_steps() -> None:
    """Without a fault: what has happened by each moment, and what has not."""
    trace = run(TABLE["before: none"]).trace

    def happened(*what: object) -> float:
        return next(float(str(line[0])) for line in trace if line[1 : 1 + len(what)] == what)

    assert STEPS["hold"] < STEPS["close"] < happened("disconnecting", "a", "c")
    assert happened("disconnecting", "a", "c") < STEPS["release"] < happened("disconnected", "a")
    assert happened("disconnected", "a", "c") < STEPS["answer"] < happened("connected", "b", "c")
    assert happened("connected", "b", "c") < STEPS["attached"]
