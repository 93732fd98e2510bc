"""Ours: a hub server of a service elsewhere. Prints the report of its shutdown at the end."""

from __future__ import annotations

import argparse
import json
import sys

import attrs
import trio

from benchmarks.servers.hubs import identify, map_hubs
from signalr_trio import GracefulShutdown, HubServer, serve


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("connection_string")
    parser.add_argument("--server-id")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--shutdown-mode", default="migrate_clients")
    parser.add_argument("--shutdown-timeout", type=float, default=60.0)
    args = parser.parse_args()
    shutdown = GracefulShutdown(args.shutdown_mode, timeout=args.shutdown_timeout)
    server = map_hubs(
        HubServer(args.connection_string, server_id=args.server_id, shutdown=shutdown)
    )
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[int | None]) -> None:
            report = await serve(server, port=args.port, identify=identify, task_status=task_status)
            json.dump({"report": attrs.asdict(report)}, sys.stdout, default=lambda one: one.value)
            print(flush=True)

        port = await nursery.start(run)
        print(json.dumps({"port": port}), flush=True)


trio.run(main)
