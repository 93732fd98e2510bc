"""A service or a hub server of ours as a process that writes events as the .NET peer does.

``python -m tests.interop.server service``, or ``... hub --name old [--connection-string TEXT]``.
One JSON object a line on stdout; ``ev`` says what happened.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
from functools import partial
from typing import Any

import trio

from signalr_trio import GracefulShutdown, HubContext, HubServer, open_service, serve
from signalr_trio.connection_string import DEVELOPMENT
from tests.interop.hub import Note, identify, make_hub


class Printer:
    """The host of the hub: what is noted becomes an event."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = trio.Event()

    def note(self, note: Note) -> None:
        fields = note.value if isinstance(note.value, dict) else {}
        if isinstance(note.value, tuple):
            fields = dict(zip(("migrate_from", "migrate_to"), note.value, strict=True))
        tell(note.what, id=note.connection_id, **fields)


def tell(ev: str, **fields: Any) -> None:
    print(json.dumps({"ev": ev, **fields}), flush=True)


async def run_service() -> None:
    async with open_service(DEVELOPMENT, port=0) as running:
        tell("started", port=running.port, connection_string=running.connection_string)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                break


async def run_hub_server(name: str, connection_string: str | None, mode: str) -> None:
    options = GracefulShutdown(mode, timeout=60)
    server = HubServer(connection_string, server_id=name, shutdown=options)
    hub = make_hub(Printer(name))
    server.map(hub, "/test")

    @server.on_shutdown(hub)
    async def offline(context: HubContext) -> None:
        tell("shutdown_begin", mode=mode)

    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[int]) -> None:
            report = await serve(server, port=0, identify=identify, task_status=task_status)
            tell("shutdown_end", dropped=report.dropped, text=str(report))

        tell("started", port=await nursery.start(run))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("service")
    hub = kinds.add_parser("hub")
    hub.add_argument("--name", required=True)
    hub.add_argument("--connection-string", help="none: the service is embedded")
    hub.add_argument("--mode", default="migrate_clients")
    given = parser.parse_args()
    # Clients make mistakes on purpose here; what comes of them is theirs to tell.
    logging.getLogger("signalr_trio").setLevel(logging.CRITICAL)
    if given.kind == "service":
        trio.run(run_service)
    else:
        trio.run(partial(run_hub_server, given.name, given.connection_string, given.mode))


if __name__ == "__main__":
    main()
