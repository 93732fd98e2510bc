"""``docs/interop.md``: what was run, in words and in tables."""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

from tests.interop.columns import CLIENTS, Cell, Column, columns, left_out
from tests.interop.deployments import DEPLOYMENTS
from tests.interop.features import FEATURES

__all__ = ["PATH", "render"]

ROOT = Path(__file__).parent.parent.parent
PATH = ROOT / "docs/interop.md"
PACKAGE_JSON = Path(__file__).parent / "javascript/package.json"
PASSED = "✓"

INTRODUCTION = """\
# Interop: clients of other makers

Made by a run: `python -m tests.interop.matrix` (with `SIGNALR_DOTNET_PEER` set to the .NET app server)
runs every cell and writes this file if all of them have passed. `pytest tests/interop/test_matrix.py`
has a test for each cell, and one that fails if this file is not what a run would write.

The clients are unmodified packages, each in a process of its own: the official JavaScript client
({javascript}, in Node), and two Python packages that are not Microsoft's. Service and hub servers are
processes as well; the .NET ones run the official Azure SignalR SDK 1.34.

A cell is one feature (`tests/interop/features.py` has what is done and asserted). It is run undisturbed, and
once more with its hub server stopped in the middle: SIGTERM comes when all features of a deployment have come
halfway, each client has a call under way that the old server has to finish, and the second half runs while
the client is handed over. For all features but those about the end of a connection it is then asserted that
the client has noticed nothing: no `onclose`, no `onreconnecting`, the same connection id, and the new
server's name.

✓ ✓ has passed undisturbed, and with the server stopped in the middle; what a single ✓ is stands above its
table, and why there is a dash in a footnote. MessagePack does not go over server-sent events: they carry text.
"""
HEADINGS = {
    "embedded": "There is no other server: in the middle it begins its shutdown in order "
    "(`wait_for_clients_close`), serves\nits clients to their end, and refuses those that come back.",
    "dotnet-to-ours": "Only with the hand-over.",
    "ours-to-dotnet": "Only with the hand-over.",
    "aspnetcore": "None of our code, only undisturbed: the features are SignalR's, "
    "not merely what we hold to be SignalR.",
}
PYTHON = """\
## Python clients

`signalrcore` {signalrcore} has threads, `pysignalr` {pysignalr} runs on asyncio. Both over WebSockets, in JSON.
"""
FOOTNOTES = """\
[^binary]: JSON has no bytes; ASP.NET Core writes them as base64 text, which is a string to the client.
[^stateful-reconnect]: In the spec for WebSockets only.
"""
MISSING = "[^missing]: Not there yet.\n"


def render(passed: Collection[Cell]) -> str:
    """The text of the file."""
    package = json.loads(PACKAGE_JSON.read_bytes())
    parts = [INTRODUCTION.format(javascript=package["dependencies"]["@microsoft/signalr"])]
    for name, kind in DEPLOYMENTS.items():
        mine = [one for one in columns() if (one.deployment, one.client) == (name, "JavaScript")]
        titles = [f"{one.transport} {_PROTOCOLS[one.protocol]}" for one in mine]
        lines = [f"## {kind.title}\n"]
        if name in HEADINGS:
            lines.append(f"{HEADINGS[name]}\n")
        lines += _table(titles, mine, passed)
        parts.append("\n".join(lines) + "\n")
    mine = [one for one in columns() if one.client != "JavaScript"]
    titles = [f"{one.client}, {one.kind.title}" for one in mine]
    versions = {client: version(client) for client in CLIENTS if client != "JavaScript"}
    parts.append(PYTHON.format(**versions) + "\n" + "\n".join(_table(titles, mine, passed)) + "\n")
    text = "\n".join(parts)
    return f"{text}\n{FOOTNOTES}{MISSING if '[^missing]' in text else ''}"


_PROTOCOLS = {"json": "JSON", "messagepack": "MessagePack"}


def _table(titles: list[str], mine: list[Column], passed: Collection[Cell]) -> list[str]:
    lines = [f"| feature | {' | '.join(titles)} |", f"|---|{'---|' * len(mine)}"]
    for feature in FEATURES:
        if any(feature in CLIENTS[one.client] for one in mine):
            marks = [_mark(feature, one, passed) for one in mine]
            lines.append(f"| {feature} | {' | '.join(marks)} |")
    return lines


def _mark(feature: str, column: Column, passed: Collection[Cell]) -> str:
    if left_out(feature, column):
        return f"–[^{feature.replace(' ', '-')}]"
    runs = [Cell(feature, column, moving) in passed for moving in (False, True)]
    return " ".join(PASSED for run in runs if run) or "–[^missing]"
