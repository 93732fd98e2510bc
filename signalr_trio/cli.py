"""``signalr-trio``: runs the service, or a hub server. Needs the extra ``cli``."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import orjson
import trio

from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.errors import ConfigurationError
from signalr_trio.hosting import serve
from signalr_trio.server import HubServer, ShutdownMode, ShutdownReport
from signalr_trio.service import RunningService, ServiceMode, ServiceOptions, open_service
from signalr_trio.transport.cors import ANY_ORIGIN
from signalr_trio.upstream import Upstream, parse_upstream

try:
    import click
except ModuleNotFoundError:  # pragma: no cover
    sys.exit("signalr-trio needs its command line extra: pip install 'signalr-trio[cli]'")

__all__ = ["main"]

#: Nearly all that is made here is freed when the last reference goes. With thousands of clients
#: Python's own threshold (700) makes the collector look at all of them again and again.
_GC_THRESHOLD = (20_000, 10, 10)
_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:_-]+")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def _read_origins(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    for text in texts:
        if text != ANY_ORIGIN and not _ORIGIN.fullmatch(text):
            raise click.BadParameter(
                f"{text!r} is not of the form https://host[:port], without a slash at the end",
                context,
                parameter,
            )
    return texts


def _check_report(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Now, and not when the server has shut down and there is a report to write."""
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}", context, parameter)
    return path


_log_level = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is written to stderr.",
)


def _origins(*default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--origin",
        "origins",
        metavar="URL",
        default=default,
        show_default=bool(default),
        multiple=True,
        callback=_read_origins,
        help="Web pages of this origin are let in; can be given again. '*': all.",
    )


_host = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")


def _read_upstreams(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> list[Upstream]:
    try:
        return [parse_upstream(text) for text in texts]
    except ConfigurationError as error:
        raise click.BadParameter(str(error), context, parameter) from None


@click.group(context_settings={"auto_envvar_prefix": "SIGNALR_TRIO", "show_default": True})
@click.version_option(package_name="signalr-trio")
def main() -> None:
    """Azure SignalR Service's Default mode, self-hosted.

    Every option can be given as an environment variable, e.g. SIGNALR_TRIO_SERVICE_PORT.
    """


@main.command()
@click.option(
    "--connection-string",
    metavar="TEXT",
    default=DEVELOPMENT,
    show_default="the official emulator's, for development",
    help="Port to listen on, and the key that clients and servers sign with.",
)
@click.option(
    "--secondary-key",
    metavar="TEXT",
    help="A second key that is accepted too, so that keys can be changed.",
)
@_host
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Instead of the connection string's; 0: any."
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in ServiceMode]),
    default=ServiceMode.DEFAULT.value,
    show_default=True,
    help="Who serves clients: hub servers; upstreams (serverless); or upstreams where there is "
    "no hub server (classic).",
)
@click.option(
    "--upstream",
    "upstreams",
    metavar="URL[;hub=..][;category=..][;event=..]",
    callback=_read_upstreams,
    multiple=True,
    help="Where clients without a hub server have their events posted; can be given again, the "
    "first that matches counts. The URL may have {hub}, {category} and {event}; the patterns are "
    "'*' or names with commas between them.",
)
@click.option(
    "--max-message-size",
    type=click.IntRange(1024),
    default=ServiceOptions().max_message_size,
    show_default=True,
    help="The largest hub message of a client, in bytes.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="A second port, for /metrics in the formats of Prometheus; 0: any.",
)
@_origins(ANY_ORIGIN)
@_log_level
def service(
    connection_string: str,
    secondary_key: str | None,
    host: str,
    port: int | None,
    mode: str,
    upstreams: list[Upstream],
    max_message_size: int,
    metrics_port: int | None,
    origins: tuple[str, ...],
    log_level: str,
) -> None:
    """Run the service: clients and hub servers connect to it.

    Without hub servers, in serverless mode, it posts what clients do to the webhooks of an
    application, as Azure SignalR Service does to its upstream endpoints:

    \b
      signalr-trio service --mode serverless \\
        --upstream 'http://localhost:7071/runtime/webhooks/signalr'
    """
    _log_to_stderr(log_level)
    if connection_string == DEVELOPMENT and host not in ("127.0.0.1", "localhost", "::1"):
        logging.getLogger("signalr_trio.service").warning(
            "everybody knows the development access key; give a --connection-string of your own"
        )
    opened = open_service(
        connection_string,
        host=host,
        port=port,
        secondary_key=secondary_key,
        mode=mode,
        upstreams=upstreams,
        origins=origins,
        metrics_port=metrics_port,
        options=ServiceOptions(max_message_size=max_message_size),
    )
    _run(partial(_serve_service, opened, host))


async def _serve_service(opened: AbstractAsyncContextManager[RunningService], host: str) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with opened as running:
            click.echo(f"The service listens on http://{host}:{running.port}")
            if running.metrics_port is not None:
                click.echo(f"Metrics: http://{host}:{running.metrics_port}/metrics")
            async for number in signals:
                click.echo(f"{signal.Signals(number).name}: stopping")
                break


@main.command(short_help="Run a hub server: a HubServer in a module.")
@click.argument("app", metavar="MODULE:NAME")
@click.option(
    "--connection-string",
    metavar="TEXT",
    help="The service to connect to. Without one here or in the app, the service is embedded.",
)
@_host
@click.option("--port", type=click.IntRange(0, 65535), default=5000, help="For negotiate; 0: any.")
@click.option("--server-id", metavar="TEXT", help="What a migration shows as from and to.")
@click.option(
    "--shutdown-mode",
    type=click.Choice([mode.value for mode in ShutdownMode]),
    help="What SIGTERM does with the clients; the app's own choice if not given.",
)
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(0.1),
    help="Seconds for the first three stages of the shutdown.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_check_report,
    help="File for the report of the shutdown, as JSON.",
)
@_origins()
@_log_level
def run(
    app: str,
    connection_string: str | None,
    host: str,
    port: int,
    server_id: str | None,
    shutdown_mode: str | None,
    shutdown_timeout: float | None,
    report: Path | None,
    origins: tuple[str, ...],
    log_level: str,
) -> None:
    """Run a hub server: NAME in MODULE is a HubServer, or a function that makes one.

    SIGTERM and SIGINT shut it down gracefully; a second one stops it.
    """
    _log_to_stderr(log_level)
    server = _load(app)
    if connection_string is not None:
        server.connection_string = connection_string
    if server_id is not None:
        server.server_id = server_id
    if shutdown_mode is not None:
        server.shutdown_options = attrs.evolve(
            server.shutdown_options, mode=ShutdownMode(shutdown_mode)
        )
    if shutdown_timeout is not None:
        server.shutdown_options = attrs.evolve(server.shutdown_options, timeout=shutdown_timeout)
    serving = partial(serve, server, host=host, port=port, origins=origins)
    _run(partial(_serve_hubs, server, serving, host, report))


async def _serve_hubs(
    server: HubServer,
    serving: Callable[..., Awaitable[ShutdownReport]],
    host: str,
    report_file: Path | None,
) -> None:
    async with trio.open_nursery() as nursery:

        async def run_it(*, task_status: trio.TaskStatus[int | None]) -> None:
            report = await serving(task_status=task_status)
            if report_file is not None:
                report_file.write_bytes(orjson.dumps(attrs.asdict(report)))
            click.echo(f"{server.server_id} has shut down. {report}")

        bound = await nursery.start(run_it)
        hubs = ", ".join(f"http://{host}:{bound}{hub.path}" for hub in server.hubs)
        click.echo(f"{server.server_id} serves {hubs} ({_where(server)})")


def _where(server: HubServer) -> str:
    if server.connection_string is None:
        return "embedded service"
    endpoint = parse_connection_string(server.connection_string)
    url = endpoint.server_url or endpoint.url
    if server.takes_clients:
        return f"connected to the service at {url}"
    return f"not connected yet to the service at {url}: no clients until then"


def _load(app: str) -> HubServer:
    module_name, separator, name = app.partition(":")
    if not separator or not module_name or not name:
        raise click.UsageError(f"{app!r} is not of the form MODULE:NAME, like chat.app:server")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # what the application imports is missing
        raise click.UsageError(f"there is no module {error.name!r} here or installed") from None
    found: Any = getattr(module, name, None)
    if found is None:
        raise click.UsageError(f"module {module_name!r} has no {name!r}")
    if callable(found):
        found = found()
    if not isinstance(found, HubServer):
        raise click.UsageError(f"{app} is a {type(found).__name__}, not a HubServer")
    if not found.hubs:
        raise click.UsageError(f"{app} has no hubs: call map() before it runs")
    return found


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level.upper(), format=_FORMAT, stream=sys.stderr)


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs ``main``; what a person can put right is one line, and exit status 2 or 1."""
    gc.set_threshold(*_GC_THRESHOLD)
    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        error = _only(group)
        if isinstance(error, ConfigurationError):
            raise click.UsageError(str(error)) from None
        if isinstance(error, OSError):
            raise click.ClickException(str(error)) from None
        raise
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _only(error: BaseException) -> BaseException:
    """The one error inside nested groups; the group where there are more."""
    if isinstance(error, BaseExceptionGroup):
        exceptions = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return _only(exceptions[0]) if len(exceptions) == 1 else error  # pyright: ignore[reportUnknownVariableType]
    return error


if __name__ == "__main__":
    main()
