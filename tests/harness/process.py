"""The command line as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

__all__ = ["Running", "signalr_trio"]

ROOT = Path(__file__).parent.parent.parent


class Running:
    """A ``signalr-trio`` process, and what it has printed so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""

    async def read_until(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout is not None
        while (found := re.search(pattern, self.output)) is None:
            data = await self.process.stdout.receive_some()
            assert data, f"ended without {pattern!r}: {self.output}"
            self.output += data.decode()
        return found

    async def ends(self) -> int:
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            self.output += data.decode()
        return await self.process.wait()


@asynccontextmanager
async def signalr_trio(*arguments: str) -> AsyncIterator[Running]:
    command = [sys.executable, "-u", "-m", "signalr_trio", *arguments, "--log-level", "warning"]
    process = await trio.lowlevel.open_process(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        with trio.fail_after(30):
            yield Running(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()
