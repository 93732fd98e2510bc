"""A floor: trio-websocket without a hub. Messages with e come back, those with b go to all."""

from __future__ import annotations

import json

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

connections: set[WebSocketConnection] = set()


async def talk(request: WebSocketRequest) -> None:
    connection = await request.accept()
    connections.add(connection)
    try:
        while True:
            message = await connection.get_message()
            if message[0] == "e":
                await connection.send_message(message)
            else:
                for each in list(connections):
                    await each.send_message(message)
    except ConnectionClosed:
        pass
    finally:
        connections.discard(connection)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, talk, "127.0.0.1", 0, None)
        print(json.dumps({"port": server.port}), flush=True)


trio.run(main)
