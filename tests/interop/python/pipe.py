"""What the programs in this folder have in common: one JSON object a line, in both directions.

The same as ``javascript/client.mjs`` speaks, with JSON values only; ``client_process.py`` is at the
other end.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

__all__ = ["read", "tell"]

_writing = threading.Lock()


def tell(**message: Any) -> None:
    """Writes an answer (``id``) or an event (``connection``, ``event``), from any thread."""
    with _writing:
        print(json.dumps(message), flush=True)


def read() -> dict[str, Any] | None:
    """Waits for the next request; None: there will be no more."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None
