"""python-socketio on uvicorn, on the event loop that the argument names."""

from __future__ import annotations

import json
import socket
import sys

import socketio
import uvicorn

sio = socketio.AsyncServer(async_mode="asgi")


@sio.event
async def echo(sid: str, text: str) -> str:
    return text


@sio.event
async def bcast(sid: str, text: str) -> None:
    await sio.emit("bcast", text)


@sio.event
async def join(sid: str, room: str) -> None:
    await sio.enter_room(sid, room)


@sio.event
async def group(sid: str, room: str, text: str) -> None:
    await sio.emit("group", text, to=room)


listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
config = uvicorn.Config(
    socketio.ASGIApp(sio), loop=sys.argv[1], log_level="error", ws_per_message_deflate=False
)


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)


Server(config).run([listener])
