"""Ours, embedded: hub server and service in one process."""

from __future__ import annotations

import json

import trio

from benchmarks.servers.hubs import identify, map_hubs
from signalr_trio import HubServer, serve


async def main() -> None:
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[int | None]) -> None:
            server = map_hubs(HubServer())
            await serve(server, port=0, identify=identify, task_status=task_status)

        port = await nursery.start(run)
        print(json.dumps({"port": port}), flush=True)


trio.run(main)
