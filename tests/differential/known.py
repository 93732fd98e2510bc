"""The differences that are known and justified: ``docs/differences.md`` says why, row by row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs

__all__ = ["Known", "known_differences", "rows_in_use", "rows_of_the_document"]

_TABLE = Path(__file__).parent / "differences.json"
_DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "differences.md"
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \|", re.MULTILINE)


@attrs.frozen
class Known:
    """What comes here at one step."""

    row: str
    """Of the document."""
    scenario: str
    """Topic and name."""
    step: int
    """-1: what is left when the scenario is over."""
    came: Any
    only: str | None = None
    """The one of our servers that it is true of; None: of both."""


def known_differences(server: str, scenario: str) -> dict[int, Any]:
    """What comes from this server, by step."""
    return {
        one.step: one.came
        for one in _read()
        if one.scenario == scenario and one.only in (None, server)
    }


def rows_in_use() -> list[str]:
    return sorted({one.row for one in _read()})


def rows_of_the_document() -> list[str]:
    return sorted(_ROW.findall(_DOCUMENT.read_text()))


def _read() -> list[Known]:
    return [Known(**entry) for entry in json.loads(_TABLE.read_text())]
