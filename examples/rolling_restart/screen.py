"""What is seen while it runs: a picture that is kept up to date, or plain lines."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from examples.rolling_restart.rollout import MODES, Rollout

__all__ = ["LiveScreen", "PlainScreen"]

_BAR = 30
_HISTORY = 40
_LINES = 4
_SPARKS = " ▁▂▃▄▅▆▇█"
_STYLES = {"up": "green", "starting": "cyan", "shutting down": "yellow", "gone": "dim"}


class _Rate:
    """Answers per second, now and of late."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self._answered = 0
        self._at = trio.current_time()
        self.history: deque[float] = deque(maxlen=_HISTORY)

    def sample(self) -> None:
        answered, now = self._rollout.ledger.totals().answered, trio.current_time()
        if now > self._at:
            self.history.append((answered - self._answered) / (now - self._at))
            self._answered, self._at = answered, now

    @property
    def now(self) -> float:
        """The mean of the last second or so."""
        last = list(self.history)[-3:]
        return sum(last) / len(last) if last else 0.0


class PlainScreen:
    """A line for each event, and a status line now and then."""

    def __init__(self, console: Console, rollout: Rollout) -> None:
        self._console = console
        self._rollout = rollout
        self._began = trio.current_time()

    def says(self, text: str) -> None:
        elapsed = trio.current_time() - self._began
        self._console.print(Text(f"{elapsed:6.2f} s  {text}"), soft_wrap=True)

    @asynccontextmanager
    async def shown(self) -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_now_and_then)
            yield
            nursery.cancel_scope.cancel()

    async def _tell_now_and_then(self) -> None:
        rate = _Rate(self._rollout)
        while True:
            await trio.sleep(3)
            rate.sample()
            counts = self._rollout.ledger.totals()
            if counts.sent:
                self.says(
                    f"  {rate.history[-1]:,.0f} messages/s, {counts.answered:,} answered, "
                    f"{counts.outstanding} under way, {counts.lost} lost, "
                    f"{counts.disconnects} disconnects"
                )


class LiveScreen:
    """The picture, drawn anew a few times a second."""

    def __init__(self, console: Console, rollout: Rollout) -> None:
        self._console = console
        self._rollout = rollout
        self._began = trio.current_time()
        self._rate = _Rate(rollout)
        self._told: deque[tuple[float, str]] = deque(maxlen=_LINES)

    def says(self, text: str) -> None:
        self._told.append((trio.current_time() - self._began, text))

    @asynccontextmanager
    async def shown(self) -> AsyncGenerator[None]:
        # No thread of rich's own, and gone at the end: the result takes its place.
        live = Live(console=self._console, auto_refresh=False, transient=True)
        with live:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._draw_on_and_on, live)
                yield
                nursery.cancel_scope.cancel()

    async def _draw_on_and_on(self, live: Live) -> None:
        while True:
            self._rate.sample()
            live.update(self._picture(), refresh=True)
            await trio.sleep(0.3)

    def _picture(self) -> RenderableType:
        parts = [self._title(), self._servers(), self._figures(), self._events()]
        return Padding(Group(*parts), (1, 2))

    def _title(self) -> RenderableType:
        options, elapsed = self._rollout.options, int(trio.current_time() - self._began)
        title = Table.grid(expand=True)
        title.add_column(no_wrap=True)
        title.add_column(justify="right", no_wrap=True)
        clients = f"{options.clients} trio"
        if self._rollout.js_clients:
            clients += f" + {self._rollout.js_clients} JavaScript"
        name = Text("Rolling restart", style="bold")
        name.append(f"   {MODES[options.mode]}, {clients} clients", style="dim")
        title.add_row(name, Text(f"{elapsed // 60}:{elapsed % 60:02}", style="bold"))
        return title

    def _servers(self) -> RenderableType:
        servers, options = self._rollout.servers, self._rollout.options
        clients = self._rollout.ledger.clients_per_server()
        most = max(clients.values(), default=1)
        table = Table(box=box.SIMPLE, padding=(0, 1))
        table.add_column("hub server", width=12, no_wrap=True)
        table.add_column("", width=14, no_wrap=True)
        table.add_column("clients", width=7, justify="right")
        table.add_column("", width=_BAR, no_wrap=True)
        for index in range(2 * options.servers):
            if index >= len(servers):
                table.add_row("", "", "", "")
                continue
            server = servers[index]
            count, style = clients[server.server_id], _STYLES[server.state]
            bar = Text("█" * round(_BAR * count / most), style=style)
            shown = "" if server.state == "gone" else str(count)
            table.add_row(Text(server.server_id, style), Text(server.state, style), shown, bar)
        return table

    def _figures(self) -> RenderableType:
        counts = self._rollout.ledger.totals()
        most = max(self._rate.history, default=0) or 1
        sparks = "".join(_SPARKS[round(8 * rate / most)] for rate in self._rate.history)
        table = Table.grid(padding=(0, 1))
        for label, figure in ((4, 9), (10, 9), (12, 8), (11, 6)):
            table.add_column(width=label, no_wrap=True)
            table.add_column(width=figure, no_wrap=True, justify="right")
        pairs = [
            ("sent", counts.sent),
            ("answered", counts.answered),
            ("under way", counts.outstanding),
            ("errors", counts.failed),
            ("lost", counts.lost),
            ("duplicated", counts.duplicated),
            ("out of order", counts.out_of_order),
            ("disconnects", counts.disconnects),
        ]
        for row in (pairs[:4], pairs[4:]):
            bad = row is not pairs[:4] and row[0][0] == "lost"
            table.add_row(*[cell for name, count in row for cell in _figure(name, count, bad=bad)])
        line = Text("messages/s  ", style="dim")
        line.append(f"{self._rate.now:6,.0f}  ", style="bold")
        line.append(sparks, style="cyan")
        return Group(table, Text(), line, Text())

    def _events(self) -> RenderableType:
        lines = [
            Text(f"{at:5.1f} s  {text}", style="bold" if last else "dim", no_wrap=True)
            for last, (at, text) in (
                (index == len(self._told) - 1, told) for index, told in enumerate(self._told)
            )
        ]
        return Group(*lines, *[Text()] * (_LINES - len(lines)))


def _figure(name: str, count: int, *, bad: bool) -> tuple[Text, Text]:
    style = ("bold red" if count else "green") if bad else "bold"
    return Text(name, style="dim"), Text(f"{count:,}", style=style)
