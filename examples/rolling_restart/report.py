"""The result: figures, which promises were kept, and both as a table or as JSON."""

from __future__ import annotations

from typing import Any

import attrs
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from examples.rolling_restart.ledger import percentile
from examples.rolling_restart.rollout import MODES, Rollout

__all__ = ["as_json", "broken_promises", "show"]

_PROMISES = {
    "migrate_clients": "nothing lost, nothing twice, all in order, no client disconnected.",
    "wait_for_clients_close": "clients kept until the timeout, then all back; nothing twice.",
    "off": "clients all back, nothing twice, all in order. What was under way is lost.",
}
STAGES = ("offline", "hooks", "clients", "stop")
_PAUSE = (
    "  Pause: the longest of each client. By how much an answer came later than\n"
    "  the hub's work for this call and those before it explains, or how long the\n"
    "  client was without a connection."
)


def broken_promises(rollout: Rollout) -> list[str]:
    """What the mode promises and did not hold, in words."""
    broken = [f"{name} had not ended when its time was up" for name in rollout.hung]
    for server in rollout.replaced:
        if server.exit_code != 0:
            broken.append(f"{server.server_id} ended with exit code {server.exit_code}")
        elif server.report is None:
            broken.append(f"{server.server_id} wrote no report")
    counts = rollout.ledger.totals()
    must_be_zero = ["duplicated", "out_of_order"]
    if rollout.options.mode == "migrate":
        must_be_zero += ["lost", "failed", "disconnects"]
        broken += _not_migrated(rollout)
        expected = len(rollout.ledger.accounts) * len(rollout.replaced)
        if counts.broadcasts != expected:
            broken.append(f"{expected - counts.broadcasts} broadcasts of {expected} are missing")
    broken += [
        f"{getattr(counts, name)} {name.replace('_', ' ')}"
        for name in must_be_zero
        if getattr(counts, name)
    ]
    away = len(rollout.ledger.accounts) - rollout.ledger.connected
    if away:
        broken.append(f"{away} clients did not come back")
    return broken


def _not_migrated(rollout: Rollout) -> list[str]:
    """Servers that did something else with a client than hand it over."""
    broken: list[str] = []
    for server in rollout.replaced:
        report = server.report or {}
        others = _left(report) + _dropped(report)
        if others:
            broken.append(f"{server.server_id} did not hand over {others} clients")
        late = [stage["name"] for stage in report.get("stages", ()) if stage["timed_out"]]
        if late:
            broken.append(f"{server.server_id}: stage {', '.join(late)} timed out")
    return broken


def _left(report: dict[str, Any]) -> int:
    return report["left"] + report["aborted"] if report else 0


def _dropped(report: dict[str, Any]) -> int:
    return sum(report["dropped"].values()) if report else 0


def as_json(rollout: Rollout) -> dict[str, Any]:
    """Everything the tables show. Times in seconds."""
    ledger, options = rollout.ledger, rollout.options
    broken = broken_promises(rollout)
    return {
        "mode": MODES[options.mode],
        "promises_kept": not broken,
        "broken": broken,
        "faults": ledger.faults()[:50],
        "clients": {"trio": options.clients, "javascript": rollout.js_clients},
        "messages": attrs.asdict(ledger.totals()),
        "migrated": sum((server.report or {}).get("migrated", 0) for server in rollout.replaced),
        "pause": {
            "steady": _percentiles(ledger.steady_pauses()),
            "restart": _percentiles(ledger.restart_pauses()),
        },
        "servers": [
            {"id": server.server_id, "exit_code": server.exit_code, "report": server.report}
            for server in rollout.replaced
        ],
        "seed": options.seed,
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(values, share), 4) for name, share in shares.items()}


def show(console: Console, result: dict[str, Any]) -> None:
    """Writes the tables and the verdict."""
    console.print(_messages(result), _servers(result), highlight=False)
    if result["promises_kept"]:
        console.print(Text(f"  Kept: {_PROMISES[result['mode']]}", style="bold green"))
        return
    console.print(Text(f"  Broken: {'; '.join(result['broken'])}", style="bold red"))
    for fault in result["faults"]:
        console.print(Text(f"  {fault}", style="red"), highlight=False, soft_wrap=True)


def _messages(result: dict[str, Any]) -> RenderableType:
    counts, clients, pause = result["messages"], result["clients"], result["pause"]
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    both = clients["trio"] + clients["javascript"]
    kinds = f"{clients['trio']} trio, {clients['javascript']} JavaScript"
    table.add_row("shutdown mode", "", result["mode"])
    table.add_row("clients", f"{both:,}", kinds)
    table.add_row("messages sent", f"{counts['sent']:,}", "calls, streams, uploads")
    table.add_row("answered", f"{counts['answered']:,}", "")
    table.add_row("answered with an error", *_bad(counts["failed"]))
    table.add_row("lost", *_bad(counts["lost"]))
    table.add_row("duplicated", *_bad(counts["duplicated"]))
    table.add_row("out of order", *_bad(counts["out_of_order"]))
    table.add_row("broadcasts received", f"{counts['broadcasts']:,}", "per client and restart")
    table.add_row("disconnects", *_bad(counts["disconnects"]))
    table.add_row("clients migrated", f"{result['migrated']:,}", "as the servers report")
    for phase, what in (("restart", "pause in the restarts"), ("steady", "pause without")):
        figures = pause[phase]
        text = " / ".join(f"{figures[name] * 1000:.0f}" for name in ("p50", "p99", "max"))
        table.add_row(what, f"{text} ms", "p50 / p99 / max")
    return Group(table, Text(_PAUSE, style="dim"))


def _bad(count: int) -> tuple[Text, str]:
    return Text(f"{count:,}", style="bold red" if count else "green"), ""


def _servers(result: dict[str, Any]) -> RenderableType:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("shutdown (s)", style="bold", no_wrap=True)
    for stage in STAGES:
        table.add_column(stage, justify="right", no_wrap=True)
    for heading in ("migrated", "left", "dropped"):
        table.add_column(heading, justify="right")
    for server in result["servers"]:
        report = server["report"]
        if report is None:
            table.add_row(server["id"], *["-"] * 7)
            continue
        times = {stage["name"]: _time(stage) for stage in report["stages"]}
        counts = report["migrated"], _left(report), _dropped(report)
        stages = [times.get(stage, "-") for stage in STAGES]
        table.add_row(server["id"], *stages, *map(str, counts))
    return table


def _time(stage: dict[str, Any]) -> str:
    return f"{stage['duration']:.3f}{'!' if stage['timed_out'] else ''}"
