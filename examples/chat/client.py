"""A terminal client of the chat: what you type goes to everybody; Ctrl-D leaves.

python -m examples.chat.client http://127.0.0.1:5001/chat Ann
"""

from __future__ import annotations

import sys

import trio

from signalr_trio import HubConnection, SignalRError


async def chat(url: str, name: str) -> None:
    with trio.CancelScope() as leaving:
        async with HubConnection(url) as connection:
            await talk(connection, name, leaving)


async def talk(connection: HubConnection, name: str, leaving: trio.CancelScope) -> None:
    def leave() -> None:
        print("The server is going: goodbye.")
        leaving.cancel()

    connection.on("broadcastMessage", lambda who, text: print(f"{who}: {text}"))
    connection.on("echo", lambda who, text: print(f"({who}: {text})"))
    connection.on("exit", leave)
    connection.on_close(lambda error: print(f"Connection closed. {error or ''}"))
    connection.on_reconnecting(lambda error: print(f"Connection lost: {error}"))
    print(f"Connected as {name}. Say something.")
    # The thread that waits for a line cannot be stopped; it is left behind at the end.
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        await connection.send("BroadcastMessage", name, line.strip())


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        trio.run(chat, sys.argv[1], sys.argv[2])
    except SignalRError as error:
        print(f"No chat: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
