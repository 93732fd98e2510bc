"""The scenarios, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["FILES", "differences", "read_topic", "written"]

_FOLDER = Path(__file__).parent.parent / "data" / "client_transcripts"
FILES = sorted(_FOLDER.glob("*.json"))


def read_topic(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def written(topic: dict[str, Any]) -> str:
    """One step a line."""
    scenarios = ",\n".join(map(_scenario, topic["scenarios"]))
    return f'{{"topic": {json.dumps(topic["topic"])}, "scenarios": [\n{scenarios}\n]}}\n'


def _scenario(scenario: dict[str, Any]) -> str:
    head = {key: value for key, value in scenario.items() if key != "steps"}
    steps = ",\n".join(f"    {_line(step)}" for step in scenario["steps"])
    return f'  {_line(head)[:-1]}, "steps": [\n{steps}\n  ]}}'


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def differences(scenario: dict[str, Any], received: list[Any]) -> list[dict[str, Any]]:
    """Where something else came than was recorded; a step of -1 is what nobody has read."""
    steps = scenario["steps"]
    wanted = [step.get("received") for step in steps]
    found = [
        {"scenario": scenario["name"], "step": index, "what": steps[index]["step"], "came": came}
        for index, (want, came) in enumerate(zip(wanted, received[:-1], strict=True))
        if want != came
    ]
    if received[-1]:
        found.append({"scenario": scenario["name"], "step": -1, "came": received[-1]})
    return found
