"""One HTTP connection, piece by piece: requests that wait, responses that go on, a client that drops."""

from __future__ import annotations

import attrs
import h11
import trio

from signalr_trio.transport.network import Network

__all__ = ["RawHttp", "Reply"]


@attrs.frozen
class Reply:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""


class RawHttp:
    """A client's side of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    @classmethod
    async def connect(cls, network: Network, port: int) -> RawHttp:
        return cls(await network.connect("localhost", port))

    async def ask(
        self, method: str, target: str, *, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        await self.send(method, target, body=body, headers=headers)
        return await self.reply()

    async def send(
        self, method: str, target: str, *, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """A request, whose answer is not waited for."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        sent = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
        request = h11.Request(method=method, target=target, headers=list(sent.items()))
        events = [request, h11.Data(data=body), h11.EndOfMessage()]
        await self._stream.send_all(b"".join(self._h11.send(event) or b"" for event in events))

    async def reply(self) -> Reply:
        """A whole answer."""
        head = await self.head()
        pieces = b""
        while (piece := await self.piece()) is not None:
            pieces += piece
        return attrs.evolve(head, body=pieces)

    async def head(self) -> Reply:
        event = await self._next()
        assert isinstance(event, h11.Response)
        names = {name.decode(): value.decode() for name, value in event.headers}
        return Reply(event.status_code, names)

    async def piece(self) -> bytes | None:
        """What comes next of the body; None at its end."""
        event = await self._next()
        if isinstance(event, h11.EndOfMessage):
            return None
        assert isinstance(event, h11.Data)
        return bytes(event.data)

    async def _next(self) -> h11.Event:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(bytes(await self._stream.receive_some(65536)))
        assert isinstance(event, h11.Event)
        return event

    async def send_more(self, data: bytes) -> None:
        """Whatever it is, behind the last request."""
        await self._stream.send_all(data)

    async def drop(self) -> None:
        await trio.aclose_forcefully(self._stream)
