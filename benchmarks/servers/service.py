"""Ours: the service alone. Hub servers need the connection string that it prints."""

from __future__ import annotations

import json

import trio

from signalr_trio import open_service


async def main() -> None:
    async with open_service(port=0) as service:
        said = {"port": service.port, "connection_string": service.connection_string}
        print(json.dumps(said), flush=True)
        await trio.sleep_forever()


trio.run(main)
