"""The trio client answers a hub that asks it, over WebSockets: embedded, and through a service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from signalr_trio import (
    ConnectionState,
    Hub,
    HubConnection,
    HubError,
    HubServer,
    open_service,
    serve,
)

PATIENCE = 20


class Test(Hub):
    __test__ = False

    async def ask(self, client: str, target: str, *values: Any) -> Any:
        return await self.clients.client(client).invoke(target, *values, timeout=PATIENCE)

    async def double(self, value: Any) -> Any:
        return value * 2


@attrs.define
class Point:
    x: int
    y: int


@pytest.fixture(params=["embedded", "service"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        string = None
        if request.param == "service":
            string = (await stack.enter_async_context(open_service(port=0))).connection_string
        server = HubServer(string)
        server.map(Test, "/test")
        async with trio.open_nursery() as nursery:
            port = await nursery.start(partial(serve, server, port=0, signals=False))
            yield f"http://127.0.0.1:{port}/test"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_answers(url: str, protocol: str) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            HubConnection(url, protocol=protocol) as asked,
            HubConnection(url, protocol="json") as asker,
        ):

            async def ask_back(value: int) -> int:
                return await asked.invoke("Double", value)

            def fail() -> None:
                raise ValueError("no such luck")

            asked.on("Echo", lambda *values: values)
            asked.on("Point", lambda x, y: Point(x, y))
            asked.on("Nothing", lambda: None)
            asked.on("AskBack", ask_back)
            asked.on("Fail", fail)
            id = asked.connection_id
            assert id is not None
            for one in (asked, asker):
                ask = partial(one.invoke, "Ask", id)
                assert await ask("Echo", 1, None, "ü") == [1, None, "ü"]
                assert await ask("Point", 1, 2) == {"x": 1, "y": 2}
                assert await ask("Nothing") is None
                assert await ask("AskBack", 21) == 42
                with pytest.raises(HubError, match="HubException: no such luck"):
                    await ask("Fail")
                with pytest.raises(HubError, match="Client didn't provide a result"):
                    await ask("NoSuchHandler")
            assert asked.state is ConnectionState.CONNECTED


async def test_an_asked_client_that_leaves(url: str) -> None:
    with trio.fail_after(PATIENCE):
        async with HubConnection(url) as asker, trio.open_nursery() as nursery:

            async def ask(id: str) -> None:
                with pytest.raises(HubError, match=f"Connection '{id}' is disconnected"):
                    await asker.invoke("Ask", id, "Wait")

            async with HubConnection(url) as asked:
                waiting = trio.Event()

                async def wait() -> None:
                    waiting.set()
                    await trio.sleep_forever()

                asked.on("Wait", wait)
                assert asked.connection_id is not None
                nursery.start_soon(ask, asked.connection_id)
                await waiting.wait()
