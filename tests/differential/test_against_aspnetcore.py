"""The recordings against ASP.NET Core itself: it does what they say, so the player is right."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import pytest
import trio
from peers import needs_dotnet_peer

from .player import play
from .scenarios import FILES, differences, read_topic
from .servers import aspnetcore


@needs_dotnet_peer
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
async def test_every_recording_is_true(path: Any) -> None:
    """Scenarios with the same options share a peer; those that are "virtual" would take too long."""
    by_options: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for scenario in read_topic(path)["scenarios"]:
        if not scenario.get("virtual"):
            by_options[tuple(scenario["options"])].append(scenario)
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        for options, scenarios in by_options.items():
            nursery.start_soon(partial(_play_all, options, scenarios, found))
    assert found == []


async def _play_all(
    options: tuple[str, ...], scenarios: list[dict[str, Any]], found: list[Any]
) -> None:
    for shutting_down in (False, True):
        group = [one for one in scenarios if _shuts_down(one) is shutting_down]
        # One that shuts the server down has one of its own.
        for some in [[one] for one in group] if shutting_down else [group]:
            async with aspnetcore(options) as place:
                for scenario in some:
                    found += differences(scenario, await play(place, scenario))


def _shuts_down(scenario: dict[str, Any]) -> bool:
    return any("shutdown" in step for step in scenario["steps"])
