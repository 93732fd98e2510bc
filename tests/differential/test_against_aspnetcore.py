"""The recordings against ASP.NET Core itself: it does what they say, so the player is right."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import pytest
import trio
from peers import needs_dotnet_peer

from .player import Place, play
from .scenarios import FILES, differences, read_topic
from .servers import aspnetcore

Scenario = dict[str, Any]


#: How many run at once; the machine is to keep up with them.
_PEERS = 3
#: What they show is a matter of tenths of a second, which a busy machine does not keep to.
_TIMED = "timers"
#: Scenarios that would take too long, and those that end now this way, now that.
_UNASKED = {"virtual", "races"}


@needs_dotnet_peer
@pytest.mark.parametrize("part", range(3))
async def test_every_recording_is_true(part: int) -> None:
    """Side by side, for time is real here."""
    groups: dict[object, list[Scenario]] = defaultdict(list)
    for topic in map(read_topic, FILES[part::3]):
        for scenario in topic["scenarios"]:
            if topic["topic"] != _TIMED and not _UNASKED & scenario.keys():
                groups[_peer_of(topic["topic"], scenario)].append(scenario)
    found: list[Any] = []
    limit = trio.CapacityLimiter(_PEERS)
    async with trio.open_nursery() as nursery:
        for scenarios in groups.values():
            nursery.start_soon(_play_all, scenarios, limit, found)
    assert found == []


def _peer_of(topic: str, scenario: Scenario) -> object:
    """Scenarios with the same options share a peer, unless they do something to all its clients."""
    is_alone = any("shutdown" in step or "outside" in step for step in scenario["steps"])
    return (topic, scenario["name"] if is_alone else tuple(scenario["options"]))


async def _play_all(
    scenarios: list[Scenario], limit: trio.CapacityLimiter, found: list[Any]
) -> None:
    async with (
        limit,
        aspnetcore(scenarios[0]["options"]) as place,
        trio.open_nursery() as nursery,
    ):
        for scenario in scenarios:
            nursery.start_soon(partial(_play, place, scenario, found))


async def _play(place: Place, scenario: Scenario, found: list[Any]) -> None:
    found += differences(scenario, await play(place, scenario))
