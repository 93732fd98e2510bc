"""Our servers against the recordings: what differs is what ``docs/differences.md`` justifies."""

from __future__ import annotations

from typing import Any

import pytest

from .known import known_differences, rows_in_use, rows_of_the_document
from .player import play
from .scenarios import FILES, differences, read_topic
from .servers import OURS

SCENARIOS = [
    pytest.param(
        server, topic["topic"], scenario, id=f"{server}-{topic['topic']}-{scenario['name']}"
    )
    for topic in map(read_topic, FILES)
    for scenario in topic["scenarios"]
    for server in (["embedded"] if scenario.get("embedded_only") else OURS)
]


@pytest.mark.parametrize(("server", "topic", "scenario"), SCENARIOS)
async def test_only_what_is_known_differs(
    autojump_clock, server: str, topic: str, scenario: dict[str, Any]
) -> None:
    async with OURS[server](scenario["options"]) as place:
        received = await play(place, scenario)
    found = {one["step"]: one["came"] for one in differences(scenario, received)}
    assert found == known_differences(server, f"{topic}/{scenario['name']}")


def test_each_row_of_the_document_is_about_a_difference() -> None:
    assert rows_of_the_document() == rows_in_use()
