"""The processes of the demonstration: the service, the hub servers, the JavaScript clients.

Each is a task in somebody's nursery that ends with its process. When the task is cancelled, the
process is asked to stop, and killed if it does not: none outlives the demonstration. They have
sessions of their own, so that a Ctrl-C in the terminal is for the demonstration alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import orjson
import trio

__all__ = ["Child", "ChildFailed", "HubServerProcess", "run_child", "run_service"]

_ROOT = Path(__file__).parents[2]
_SIGNALR_TRIO = (sys.executable, "-m", "signalr_trio")
_URL = re.compile(r"http://[^\s,]+")
_GRACE = 3.0
_KEY = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH"


class ChildFailed(Exception):
    """A process ended that was to stay."""


@attrs.define(eq=False)
class Child:
    """A process that runs."""

    name: str
    process: trio.Process
    may_end: bool = False
    """Whether its end is awaited; otherwise it is an error."""

    def terminate(self) -> None:
        """Asks it to stop (SIGTERM)."""
        self.may_end = True
        self.process.terminate()


async def run_child(
    name: str,
    command: Sequence[str],
    take_line: Callable[[str], None],
    logs: Path,
    *,
    stdin: bool = False,
    task_status: trio.TaskStatus[Child] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Runs a process to its end and returns its exit code; ``take_line`` gets what it prints.

    Raises ChildFailed if it ends and was not to.
    """
    log = logs / f"{name}.log"
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=_ROOT,
            start_new_session=True,
        )
    child = Child(name, process)
    try:
        task_status.started(child)
        await _read_lines(process, take_line)
        code = await process.wait()
    finally:
        await _end(process)
    if not child.may_end:
        raise ChildFailed(f"{name} ended with exit code {code}.\n{_tail(log)}")
    return code


async def _read_lines(process: trio.Process, take_line: Callable[[str], None]) -> None:
    assert process.stdout is not None
    rest = b""
    async for data in process.stdout:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            take_line(line.decode(errors="replace"))


async def _end(process: trio.Process) -> None:
    """The process is no more when this returns."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            process.terminate()
            with trio.move_on_after(_GRACE):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(trio.BrokenResourceError):
                    await stream.aclose()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


async def run_service(logs: Path, *, task_status: trio.TaskStatus[str]) -> None:
    """Runs the service; when it listens, tells the connection string for its hub servers."""

    def take_line(line: str) -> None:
        if found := _URL.search(line):
            task_status.started(f"Endpoint={found[0]};AccessKey={_KEY};Version=1.0;")

    key = f"Endpoint=http://127.0.0.1;AccessKey={_KEY};Version=1.0;"
    command = [*_SIGNALR_TRIO, "service", "--port", "0", "--connection-string", key]
    await run_child("service", command, take_line, logs)


@attrs.define(eq=False)
class HubServerProcess:
    """A hub server, from its start to its report."""

    server_id: str
    state: str = "starting"
    url: str = ""
    exit_code: int | None = None
    report: dict[str, Any] | None = None
    """Its ShutdownReport."""
    gone: trio.Event = attrs.field(factory=trio.Event)
    _child: Child | None = None

    def terminate(self) -> None:
        assert self._child is not None
        self.state = "shutting down"
        self._child.terminate()

    async def run(
        self,
        connection_string: str,
        options: Sequence[str],
        logs: Path,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Runs the process to its end; it has started when it serves."""

        def take_line(line: str) -> None:
            if self.state == "starting" and (found := _URL.search(line)):
                self.url = found[0]
                self.state = "up"
                task_status.started()

        report = logs / f"{self.server_id}.json"
        command = [*_SIGNALR_TRIO, "run", "examples.rolling_restart.hub:server", "--port", "0"]
        command += ["--server-id", self.server_id, "--connection-string", connection_string]
        command += ["--report", str(report), *options]
        async with trio.open_nursery() as nursery:
            self._child = await nursery.start(
                partial(self._run_child, command, take_line, logs, report)
            )

    async def _run_child(
        self,
        command: Sequence[str],
        take_line: Callable[[str], None],
        logs: Path,
        report: Path,
        *,
        task_status: trio.TaskStatus[Child],
    ) -> None:
        self.exit_code = await run_child(
            self.server_id, command, take_line, logs, task_status=task_status
        )
        if report.exists():
            self.report = orjson.loads(report.read_bytes())
        self.state = "gone"
        self.gone.set()
