"""The client of the package ``signalrcore``, which has a thread for each connection, in a pipe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from pipe import read, tell
from signalrcore.hub_connection_builder import HubConnectionBuilder

#: Of completions with an error, which the package gives to one callback for the connection.
Failed = Callable[[str], None]


class Connection:
    def __init__(self, name: str, url: str, targets: list[str]) -> None:
        self.name = name
        self._failing: dict[str, Failed] = {}
        self._hub = (
            HubConnectionBuilder()
            .with_url(url)
            .configure_logging(logging.CRITICAL)
            .with_automatic_reconnect({"type": "raw", "reconnect_interval": 1, "max_attempts": 5})
            .build()
        )
        # The package sends a call before it can be told who is to hear of the answer.
        self._calling = threading.Lock()
        self._hub.on_message = partial(self._take, self._hub.on_message)
        self._opened = threading.Event()
        self._hub.on_open(self._opened.set)
        self._hub.on_close(partial(self._tell, "close"))
        self._hub.on_reconnect(partial(self._tell, "reconnected"))
        self._hub.on_error(self._fail)
        for target in targets:
            self._hub.on(target, partial(self._receive, target))

    def start(self) -> None:
        self._hub.start()
        if not self._opened.wait(30):
            raise TimeoutError("not connected within 30 s")

    def stop(self) -> None:
        """Begins it: the package joins a thread that waits for the server's next message."""
        self._hub.on_close(lambda: None)
        threading.Thread(target=self._hub.stop, daemon=True).start()

    def invoke(
        self, target: str, args: list[Any], done: Callable[[Any], None], failed: Failed
    ) -> None:
        with self._calling:
            result = self._hub.send(target, args, lambda message: done(message.result))
            self._failing[result.invocation_id] = failed

    def stream(self, target: str, args: list[Any], name: str) -> None:
        def tell_stream(event: str, **more: Any) -> None:
            self._tell(event, stream=name, **more)

        callbacks = {
            "next": lambda item: tell_stream("item", item=item),
            "complete": lambda _: tell_stream("complete"),
            "error": lambda error: tell_stream("failed", error=str(error)),
        }
        with self._calling:
            stream = self._hub.stream(target, args)
            stream.subscribe(callbacks)
            self._failing[stream.invocation_id] = lambda error: tell_stream("failed", error=error)

    def _take(self, take: Callable[[list[Any]], None], messages: list[Any]) -> None:
        with self._calling:
            take(messages)

    def _fail(self, message: Any) -> None:
        self._failing.pop(message.invocation_id)(message.error)

    def _receive(self, target: str, args: list[Any]) -> None:
        self._tell("send", target=target, args=args)

    def _tell(self, event: str, **more: Any) -> None:
        tell(connection=self.name, event=event, **more)


def answer(connections: dict[str, Connection], request: dict[str, Any]) -> None:
    number, name = request["id"], request["connection"]
    done = partial(_done, number)

    def failed(error: str) -> None:
        tell(id=number, error=error)

    match request["op"]:
        case "start":
            connection = Connection(name, request["url"], request["targets"])
            connections[name] = connection
            connection.start()
            connection.invoke("WhoAmI", [], lambda who: done(who["connectionId"]), failed)
        case "invoke":
            connections[name].invoke(request["target"], request["args"], done, failed)
        case "send":
            connections[name].invoke(
                request["target"], request["args"], lambda _: None, lambda _: None
            )
            done(None)
        case "stream":
            connections[name].stream(request["target"], request["args"], request["stream"])
            done(None)
        case "stop":
            connections[name].stop()
            done(None)


def _done(number: int, result: Any) -> None:
    tell(id=number, result=result)


def main() -> None:
    connections: dict[str, Connection] = {}
    while (request := read()) is not None:
        try:
            answer(connections, request)
        except Exception as error:
            tell(id=request["id"], error=repr(error))


main()
