"""``python -m examples.rolling_restart``: see the package."""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import orjson
import trio
from rich.console import Console

from examples.rolling_restart.fleet import ChildFailed
from examples.rolling_restart.report import as_json, show
from examples.rolling_restart.rollout import MODES, Options, Rollout
from examples.rolling_restart.screen import LiveScreen, PlainScreen

_DEFAULTS = Options()
_WAIT_TIMEOUT = 5.0
_INTERRUPTED = 130
_WIDTH = 100
_STOPPING = [signal.SIGINT, signal.SIGTERM]


def _check_folder(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Now, and not when there is a result to write."""
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}", context, parameter)
    return path


@click.command(context_settings={"show_default": True})
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
    default=_DEFAULTS.mode,
    help="What a hub server does with its clients: hand them over, keep them, or close them.",
)
@click.option("--clients", type=click.IntRange(0), default=_DEFAULTS.clients, help="Trio clients.")
@click.option(
    "--js-clients",
    type=click.IntRange(0),
    default=_DEFAULTS.js_clients,
    help="Official JavaScript clients, installed at the first run.",
)
@click.option("--no-js", is_flag=True, help="No JavaScript clients; Node is not needed.")
@click.option(
    "--servers", type=click.IntRange(1), default=_DEFAULTS.servers, help="Hub servers to replace."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=_DEFAULTS.seconds,
    help="Load before the first restart, and after the last.",
)
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(0.1),
    show_default=f"{_DEFAULTS.shutdown_timeout:g}; {_WAIT_TIMEOUT:g} with --mode wait",
    help="Seconds that a hub server has for its clients.",
)
@click.option(
    "--large-every",
    type=click.IntRange(0),
    default=_DEFAULTS.large_every,
    help="Of so many calls of a client one has 256 KiB; 0: none.",
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, help="Of what the clients draw by lot.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_check_folder,
    help="For the result.",
)
@click.option(
    "--logs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what the processes log; otherwise it is thrown away.",
)
@click.option("--plain", is_flag=True, help="Lines instead of a picture, as without a terminal.")
def main(
    *,
    no_js: bool,
    js_clients: int,
    shutdown_timeout: float | None,
    json_file: Path | None,
    logs: Path | None,
    plain: bool,
    **others: Any,
) -> None:
    """A rolling restart under load: each hub server is replaced while its clients keep talking.

    Ends with exit code 0 if all that the mode promises was kept, 1 if not.
    """
    timeout = _WAIT_TIMEOUT if others["mode"] == "wait" else _DEFAULTS.shutdown_timeout
    options = Options(
        js_clients=0 if no_js else js_clients,
        shutdown_timeout=shutdown_timeout or timeout,
        **others,
    )
    console = _console()
    with ExitStack() as stack:
        if logs is None:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs.mkdir(parents=True, exist_ok=True)
        try:
            result = trio.run(_run, options, logs, console, plain or not console.is_terminal)
        except* SystemExit:
            sys.exit(1)  # rich ends so when nobody reads what it prints
        except* (ChildFailed, OSError) as group:
            raise click.ClickException(str(_first(group))) from None
    if result is None:
        console.print("interrupted; everything has been stopped")
        sys.exit(_INTERRUPTED)
    show(console, result)
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    sys.exit(0 if result["promises_kept"] else 1)


def _console() -> Console:
    """As wide as the terminal; a file gets lines that hold the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


async def _run(
    options: Options, logs: Path, console: Console, plain: bool
) -> dict[str, Any] | None:
    """The result; None when a signal came before the end."""
    rollout = Rollout(options, logs)
    screen = (PlainScreen if plain else LiveScreen)(console, rollout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_signals, nursery.cancel_scope)
        async with screen.shown():
            await rollout.run(screen)
        nursery.cancel_scope.cancel()
        return as_json(rollout)
    return None


async def _watch_signals(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(*_STOPPING) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    main()
