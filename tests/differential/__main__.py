"""Records: plays scenarios against ASP.NET Core, and writes what came where a step has "?".

``PYTHONPATH=tests python -m tests.differential`` from the root, with SIGNALR_DOTNET_PEER set.
"""

from __future__ import annotations

import json
from typing import Any

import trio

from .player import UNKNOWN, play
from .scenarios import FILES, read_topic, written
from .servers import aspnetcore


async def record() -> None:
    for path in FILES:
        topic = read_topic(path)
        for scenario in topic["scenarios"]:
            if any(step.get("received") == UNKNOWN for step in scenario["steps"]):
                print(f"{topic['topic']}/{scenario['name']}")
                await _fill(scenario)
        path.write_text(written(topic))


async def _fill(scenario: dict[str, Any]) -> None:
    async with aspnetcore(scenario["options"]) as place:
        *received, left = await play(place, scenario)
    for step, came in zip(scenario["steps"], received, strict=True):
        if step.get("received") == UNKNOWN:
            step["received"] = came
        elif came != step.get("received"):
            print(f"  {step['step']}: {json.dumps(came)} came")
    if left:
        print(f"  not read: {json.dumps(left)}")


if __name__ == "__main__":
    trio.run(record)
