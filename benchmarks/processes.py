"""The processes of a benchmark: each pinned to its core, each ended by who started it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import attrs
import orjson
import trio

__all__ = ["Cores", "ServerFailed", "ServerProcess", "memory_of", "pinned", "run_server"]

ROOT = Path(__file__).parent.parent
_PATIENCE = 60.0
_PIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execvp(sys.argv[2], sys.argv[2:])"


class ServerFailed(Exception):
    """A server did not come up, or said something that it should not."""


@attrs.frozen
class Cores:
    """Who runs where; None: anywhere, for want of a second core, or of a way to pin."""

    server: int | None
    load: int | None
    other: int | None
    """For a hub server that is not to disturb its service."""

    @classmethod
    def choose(cls) -> Cores:
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, None, None)
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return cls(None, None, None)
        return cls(cores[0], cores[1], cores[2] if len(cores) > 2 else cores[1])


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    """The command that runs ``command`` on one core."""
    return list(command) if core is None else [sys.executable, "-c", _PIN, str(core), *command]


@attrs.define(eq=False)
class ServerProcess:
    """A server that is up; what it says is a JSON object a line."""

    process: trio.Process
    started: dict[str, Any]
    """What it said first: its port."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    last: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """What it said last."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return self.started["port"]

    def terminate(self) -> None:
        self.process.terminate()


@asynccontextmanager
async def run_server(command: Sequence[str], core: int | None) -> AsyncGenerator[ServerProcess]:
    """Runs a server for the block. Raises ServerFailed if it does not come up."""
    environment = {**os.environ, "DOTNET_EnableDiagnostics": "0", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as complaints:
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    pinned(command, core),
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    check=False,
                    env=environment,
                    deliver_cancel=_kill,
                )
            )
            try:
                first, rest = await _first_line(process)
                server = ServerProcess(process, first)
                nursery.start_soon(_read_on, server, rest)
                yield server
            except Exception as error:
                error.add_note(f"{' '.join(command)} says:\n{_tail(complaints)}")
                raise
            finally:
                nursery.cancel_scope.cancel()


async def _first_line(process: trio.Process) -> tuple[dict[str, Any], bytes]:
    assert process.stdout is not None
    said = b""
    with trio.move_on_after(_PATIENCE):
        async for data in process.stdout:
            said += data
            line, end, rest = said.partition(b"\n")
            if end:
                return orjson.loads(line), rest
    raise ServerFailed(f"a server is not up: {process.args}")


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    return "\n".join(file.read().decode(errors="replace").splitlines()[-20:])


async def _read_on(server: ServerProcess, said: bytes) -> None:
    assert server.process.stdout is not None
    async for data in server.process.stdout:
        said += data
        *lines, said = said.split(b"\n")
        if lines:
            server.last = orjson.loads(lines[-1])
    server.ended.set()


async def _kill(process: trio.Process) -> None:
    process.kill()


def memory_of(pids: Sequence[int]) -> int:
    """Bytes: the proportional set size where the kernel tells it, else the resident set."""
    return sum(map(_memory_of_one, pids))


def _memory_of_one(pid: int) -> int:
    for file, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    raise ServerFailed(f"process {pid} does not tell how much memory it has")
