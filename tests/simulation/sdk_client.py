"""A client connection of an SDK server: a pipe in, a pipe out, and its hub between them.

What is odd here is so in the recordings that ``test_sdk_server`` replays.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from signalr_trio.errors import ConnectionClosed, HubError, ProtocolError
from signalr_trio.hub import (
    ConnectionMigrationFeature,
    GroupManager,
    Hub,
    HubCallerClients,
    HubCallerContext,
)
from signalr_trio.protocol.encodings import HUB_PROTOCOLS, hub_protocol
from signalr_trio.protocol.handshake import (
    HandshakeResponse,
    parse_request,
    split_handshake,
    write_response,
)
from signalr_trio.protocol.messages import (
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    StreamInvocation,
    StreamItem,
)
from signalr_trio.protocol.service_messages import (
    MIGRATE_FROM,
    CloseConnection,
    ConnectionData,
    DataMessageType,
    OpenConnection,
    ServiceMessage,
    header,
)
from signalr_trio.server.identity import user_claims
from signalr_trio.tokens import user_id_of
from tests.simulation.sdk_sends import Sender

if TYPE_CHECKING:
    from tests.simulation.sdk_server import SdkServer, ServerConnection

__all__ = ["SdkClient"]

_PIPE = 64 * 1024
_ENDED = "Connection closed with an error."
_NO_METHOD = HubError("Method does not exist.")
_GONE = "The underlying connection was closed."


class SdkClient:
    """From an OpenConnection to the end of ``on_disconnected``."""

    def __init__(
        self, server: SdkServer, connection: ServerConnection, message: OpenConnection
    ) -> None:
        self.server = server
        self.connection = connection
        self.id = message.connection_id
        self.name = user_id_of(message.claims) or ""
        self.over = trio.Event()
        self._protocol = HUB_PROTOCOLS[message.protocol or "json"]
        self._arrives_from = header(message.headers, MIGRATE_FROM)
        self._inbox = _Inbox()
        self._free = trio.Semaphore(server.options.parallel)
        self._uploads: dict[str, _Upload] = {}
        self._streams: dict[str, trio.CancelScope] = {}
        self._outbox, self._written = trio.open_memory_channel[ServiceMessage](math.inf)
        self._silent = trio.Event()
        """Set when what the hub answers no longer goes into the outbox."""
        self._forwards = True
        """Whether what is in the outbox still goes out."""
        self._tells_end = True
        """Whether the service has to be told of the end."""
        self._said_goodbye = False
        self._context = HubCallerContext(
            connection_id=self.id,
            user_id=user_id_of(message.claims),
            claims=user_claims(message.claims),
            query_string=message.query_string or "",
            headers=message.headers,
            abort=self._abort,
        )

    # -- from the service -------------------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        self._inbox.put(payload)

    def close(self, migrates_to: str | None = None) -> None:
        """The client has gone or, if it migrates, is to go without another word."""
        self._tells_end = False
        if migrates_to is not None:
            self._forwards = False
            here = self.server.options.server_id
            self._context.features.set(ConnectionMigrationFeature(here, migrates_to))
        else:
            self._context.features.remove(ConnectionMigrationFeature)
        self._inbox.end()

    def lose(self) -> None:
        """Its server connection has ended. The feature of its arrival is still there."""
        self._tells_end = False
        self._inbox.end()

    # -- its life ---------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forward)
            if await self._shakes_hands():
                nursery.start_soon(self._keep_alive)
                await self._live()
            self._end_output()
        self.over.set()

    async def _live(self) -> None:
        if self._arrives_from is not None:
            here = self.server.options.server_id
            self._context.features.set(ConnectionMigrationFeature(self._arrives_from, here))
        try:
            await self._hub().on_connected()
        except (HubError, ConnectionClosed) as error:
            self._write(Close(_text(_ENDED, error)))
            return
        error = await self._dispatch()
        self._write(Close(error, not self._said_goodbye))
        self._silent.set()
        self._end_calls()
        try:
            await self._hub().on_disconnected(None)
        except (HubError, ConnectionClosed):
            return

    async def _shakes_hands(self) -> bool:
        """One who has migrated hears nothing of it, whichever way it goes."""
        buffer, split, error = b"", None, "Handshake was canceled."
        with trio.move_on_after(self.server.options.handshake_timeout):
            while split is None:
                data = await self._inbox.take()
                if not data:
                    return False
                buffer += data
                split = split_handshake(buffer)
            error = self._check_request(split[0])
            self._inbox.put_back(split[1])
        if self._arrives_from is None:
            response = write_response(HandshakeResponse(error))
            self._put(response, DataMessageType.HANDSHAKE)
        return error is None

    def _check_request(self, request: bytes) -> str | None:
        try:
            name = parse_request(request).protocol
        except ProtocolError as error:
            return str(error)
        return None if hub_protocol(name) else f"The protocol '{name}' is not supported."

    def _abort(self) -> None:
        self._write(Close())
        self._end_output()
        self._end_calls()
        self._inbox.end()

    def _end_calls(self) -> None:
        """Methods run on, and nobody hears what they answer."""
        self._context.aborted.set()
        for scope in self._streams.values():
            scope.cancel()
        for upload in self._uploads.values():
            upload.end(ConnectionClosed(_GONE))

    def _hub(self) -> Hub:
        hub = self.server.make_hub()
        sender = Sender(self.server, self)
        hub.context = self._context
        hub.clients = HubCallerClients(sender, self.id)
        hub.groups = GroupManager(sender)
        return hub

    # -- out --------------------------------------------------------------------------------

    def _write(self, message: HubMessage) -> None:
        kind = DataMessageType.INVOCATION
        if isinstance(message, Close):
            kind = DataMessageType.CLOSE
        elif isinstance(message, Ping):
            kind = DataMessageType.OTHER
        self._put(self._protocol.write(message), kind)

    def _put(self, payload: bytes, kind: int) -> None:
        if not self._silent.is_set():
            self._outbox.send_nowait(ConnectionData(self.id, payload, kind))

    def _end_output(self) -> None:
        """Whoever ends what the service has not ended tells it so; once."""
        self._silent.set()
        if self._tells_end:
            self._tells_end = False
            self._outbox.send_nowait(CloseConnection(self.id))
        self._outbox.close()

    async def _forward(self) -> None:
        """A task of its own: what the hub sends goes past the outbox, and may be sooner."""
        message: ServiceMessage | None = None
        async for message in self._written:
            await trio.sleep(self.server.lag())
            if isinstance(message, CloseConnection):
                # From then on the service may open the id again.
                self.server.forget(self)
            if self._forwards:
                self.connection.send(message)
        if not isinstance(message, CloseConnection):
            self.server.forget(self)

    async def _keep_alive(self) -> None:
        """Whether or not it is silent."""
        while not self._silent.is_set():
            with trio.move_on_after(self.server.keep_alive()):
                await self._silent.wait()
            self._write(Ping())

    # -- in ---------------------------------------------------------------------------------

    async def _dispatch(self) -> str | None:
        """Until the input ends; all that is in the pipe is taken before. Returns an error."""
        splitter = self._protocol.splitter(None)
        while data := await self._inbox.take():
            try:
                for frame in splitter.feed(data):
                    if self._protocol.is_ping(frame):
                        self.server.watch.pinged(self)
                    message = self._protocol.parse(frame)
                    if isinstance(message, Close):
                        self._said_goodbye = True
                        return None
                    if message is not None:
                        await self._take(message)
            except ProtocolError:
                return _ENDED
        return None

    async def _take(self, message: HubMessage) -> None:
        if isinstance(message, (Invocation, StreamInvocation)):
            await self._begin(message)
        elif isinstance(message, StreamItem) and message.invocation_id in self._uploads:
            self._uploads[message.invocation_id].put(message.item)
        elif isinstance(message, Completion) and message.invocation_id in self._uploads:
            error = None if message.error is None else HubError(message.error)
            self._uploads.pop(message.invocation_id).end(error)
        elif isinstance(message, CancelInvocation) and message.invocation_id in self._streams:
            self._streams[message.invocation_id].cancel()

    async def _begin(self, message: Invocation | StreamInvocation) -> None:
        """What cannot be called is told at once; streams and uploads need no free place."""
        method = self.server.find(message.target)
        problem = self._problem(message, method)
        nursery = self.server.methods
        if problem is not None or method is None:
            self._complete(message, error=problem)
            return
        call = partial(method, self._hub(), *message.arguments, *self._open_uploads(message))
        # They begin in order; in which order they go on is theirs.
        if isinstance(message, StreamInvocation):
            await nursery.start(self._stream, message, call)
        elif message.stream_ids:
            await nursery.start(self._invoke, message, call)
        else:
            await self._free.acquire()
            await nursery.start(self._invoke_one, message, call)

    def _problem(
        self, message: Invocation | StreamInvocation, method: Callable[..., Any] | None
    ) -> str | None:
        name = message.target
        failed = f"Failed to invoke '{name}' due to an error on the server."
        if method is None:
            return _text(failed, _NO_METHOD)
        streams = inspect.isasyncgenfunction(method)
        if streams and isinstance(message, Invocation):
            tail = f"the streaming '{name}' method with a non-streaming invocation."
            return f"The client attempted to invoke {tail}"
        if not streams and isinstance(message, StreamInvocation):
            tail = f"the non-streaming '{name}' method with a streaming invocation."
            return f"The client attempted to invoke {tail}"
        try:
            inspect.signature(method).bind(None, *message.arguments, *message.stream_ids)
        except TypeError:
            return failed
        return None

    # -- calls ------------------------------------------------------------------------------

    async def _invoke_one(
        self,
        message: Invocation,
        call: Callable[[], Awaitable[Any]],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            await self._invoke(message, call, task_status=task_status)
        finally:
            self._free.release()

    async def _invoke(
        self,
        message: Invocation,
        call: Callable[[], Awaitable[Any]],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        task_status.started()
        try:
            result = await call()
        except (HubError, ConnectionClosed) as error:
            text = f"An unexpected error occurred invoking '{message.target}' on the server."
            self._complete(message, error=_text(text, error))
        else:
            self._complete(message, result=result)

    async def _stream(
        self,
        message: StreamInvocation,
        call: Callable[[], AsyncGenerator[Any]],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        task_status.started()
        id, error = message.invocation_id, None
        with trio.CancelScope() as scope:
            self._streams[id] = scope
            try:
                async with aclosing(call()) as items:
                    async for item in items:
                        self._write(StreamItem(id, item))
            except (HubError, ConnectionClosed) as raised:
                error = _text("An error occurred on the server while streaming results.", raised)
        del self._streams[id]
        self._write(Completion(id, error=error))

    def _open_uploads(self, message: Invocation | StreamInvocation) -> list[_Upload]:
        uploads = [_Upload() for _ in message.stream_ids]
        self._uploads |= zip(message.stream_ids, uploads, strict=True)
        return uploads

    def _complete(
        self,
        message: Invocation | StreamInvocation,
        *,
        result: object = None,
        error: str | None = None,
    ) -> None:
        if message.invocation_id:
            self._write(Completion(message.invocation_id, result, error))


class _Inbox:
    """The hub's input. The pipe is full at 64 KiB; what waits outside of it is lost at the end."""

    def __init__(self) -> None:
        self._outside: deque[bytes] = deque()
        self._pipe: deque[bytes] = deque()
        self._size = 0
        """Of the pipe, with what was taken last: the hub may not be through with it."""
        self._taken = 0
        self._ended = False
        self._news = trio.lowlevel.ParkingLot()

    def put(self, data: bytes) -> None:
        if not self._ended:
            self._outside.append(data)
            self._move()

    def put_back(self, data: bytes) -> None:
        if data:
            self._pipe.appendleft(data)

    def end(self) -> None:
        self._ended = True
        self._outside.clear()
        self._news.unpark_all()

    async def take(self) -> bytes:
        """All that is in the pipe; empty at the end. What was taken before is done with."""
        await trio.lowlevel.checkpoint()
        self._size -= self._taken
        self._taken = 0
        self._move()
        while not self._pipe and not self._ended:
            await self._news.park()
        data = b"".join(self._pipe)
        self._pipe.clear()
        self._taken = len(data)
        return data

    def _move(self) -> None:
        while self._outside and self._size < _PIPE:
            data = self._outside.popleft()
            self._pipe.append(data)
            self._size += len(data)
        self._news.unpark_all()


class _Upload(AsyncIterator[Any]):
    """A stream from the client, as its method sees it."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Any](math.inf)
        self._error: Exception | None = None
        self._ended = False

    def put(self, item: object) -> None:
        if not self._ended:
            self._send.send_nowait(item)

    def end(self, error: Exception | None) -> None:
        self._ended = True
        self._error = error
        self._send.close()

    async def __anext__(self) -> Any:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None


def _text(what: str, error: Exception) -> str:
    """Only a HubException's own text is told."""
    return f"{what} HubException: {error}" if isinstance(error, HubError) else what
