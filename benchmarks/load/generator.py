"""Compiles the load generator, runs it on its own core, and says what to do and when."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import trio

from benchmarks.load.plan import Plan
from benchmarks.processes import pinned

__all__ = ["LoadFailed", "LoadGenerator", "compile_load_generator", "open_load_generator"]

_SOURCE = Path(__file__).with_name("load.c")
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


class LoadFailed(Exception):
    """The load generator cannot run, or an answer was wrong, doubled or missing."""


def compile_load_generator() -> Path:
    """The executable; compiled where its source has changed. Raises LoadFailed."""
    name = hashlib.sha256(_SOURCE.read_bytes() + repr(_FLAGS).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "signalr-trio-load"
    executable = cache / name
    if executable.exists():
        return executable
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LoadFailed("the load generator is written in C, and there is no C compiler (cc) here")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / "load"
        command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LoadFailed(f"{compiler} cannot compile {_SOURCE.name}:\n{done.stderr}")
        made.replace(executable)
    return executable


class LoadGenerator:
    """A load generator that runs. Its methods raise LoadFailed when an answer is not right."""

    def __init__(self, process: trio.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._rest = bytearray()

    async def open(self) -> dict[str, Any]:
        """Opens all connections: seconds, the time each took (ms), lengths of what was captured."""
        await self.say("open")
        return await self._hear()

    async def ask(self) -> bytes:
        """Makes one request; the reply as it came."""
        await self.say("ask")
        return bytes.fromhex((await self._hear())["reply"])

    async def begin(self, rate: float | None = None) -> None:
        """The load begins: as fast as answers come, or so many requests a second."""
        await self.say("begin" if rate is None else f"rate {rate}")

    async def mark(self) -> dict[str, Any]:
        """Ends a phase and begins another; what happened in the one that ends."""
        await self.say("mark")
        return (await self._hear())["phase"]

    async def back(self, count: int) -> None:
        """Waits until so many connections that were lost in this phase are open again."""
        await self.say(f"back {count}")
        await self._hear()

    async def stop(self) -> int:
        """Sends no more, and waits for what is missing; how many answers were checked in all."""
        await self.say("stop")
        return (await self._hear())["done"]["checked"]

    async def say(self, command: str) -> None:
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(f"{command}\n".encode())
        except trio.BrokenResourceError:
            await self._hear()

    async def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            data = await self._process.stdout.receive_some()
            if not data:
                raise LoadFailed(f"the load generator has ended ({await self._process.wait()})")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        heard = orjson.loads(line)
        if "failed" in heard:
            raise LoadFailed(heard["failed"])
        return heard


@asynccontextmanager
async def open_load_generator(plan: Plan, core: int | None) -> AsyncGenerator[LoadGenerator]:
    """Runs a load generator for the block. LoadFailed leaves it as it is, in no group."""
    command = pinned([str(compile_load_generator())], core)
    failed: LoadFailed | None = None
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                deliver_cancel=_kill,
            )
        )
        assert process.stdin is not None
        try:
            await process.stdin.send_all(plan.encode())
            yield LoadGenerator(process)
        except LoadFailed as error:
            failed = error
        finally:
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _kill(process: trio.Process) -> None:
    process.kill()
