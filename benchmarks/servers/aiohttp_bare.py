"""A ceiling: aiohttp's WebSocket without a hub. Messages with e come back, with b go to all."""

from __future__ import annotations

import asyncio
import json

from aiohttp import WSMsgType, web

connections: set[web.WebSocketResponse] = set()


async def talk(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(compress=False)
    await connection.prepare(request)
    connections.add(connection)
    try:
        async for message in connection:
            if message.type is not WSMsgType.TEXT:
                continue
            if message.data[0] == "e":
                await connection.send_str(message.data)
            else:
                for each in list(connections):
                    await each.send_str(message.data)
    finally:
        connections.discard(connection)
    return connection


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", talk)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
