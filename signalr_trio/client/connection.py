"""The SignalR client: one hub connection, which reconnects by itself.

::

    async with HubConnection("http://localhost:5000/chat") as connection:
        connection.on("broadcastMessage", print)
        answer = await connection.invoke("Echo", "a", 1)

Its behaviour is that of the official JavaScript and .NET clients, in trio's style. All of its
tasks live in one nursery, that of the block; inside it there is one scope per physical connection.
"""

from __future__ import annotations

import enum
import logging
import math
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, TypeVar, cast, overload

import trio

from signalr_trio.client.calls import ItemStream
from signalr_trio.client.connector import TRANSPORTS, Connected, Connector
from signalr_trio.client.conversion import ValueConverter, as_it_is, as_mapping
from signalr_trio.client.handlers import Handler, Handlers, Mailbox, Subscription, call
from signalr_trio.client.negotiate import AccessToken, Headers
from signalr_trio.client.session import Session, SessionEnd, Timing
from signalr_trio.errors import ConfigurationError, ConnectionClosed, SignalRError
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol
from signalr_trio.transport.endpoint import without_token
from signalr_trio.transport.network import TCP, Network
from signalr_trio.transport.stream import Flusher

__all__ = ["ConnectionState", "HubConnection"]

T = TypeVar("T")

#: Bytes of one message from the server; the official clients have no limit at all.
MAX_MESSAGE_SIZE: Final = 16 * 1024 * 1024
_PROTOCOLS: Final = {"json": JsonProtocol, "messagepack": MessagePackProtocol}
_logger = logging.getLogger("signalr_trio.client")


class ConnectionState(enum.Enum):
    """The states of the official clients."""

    DISCONNECTED = "Disconnected"
    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    RECONNECTING = "Reconnecting"
    DISCONNECTING = "Disconnecting"


class HubConnection:
    """A connection to a hub, for one ``async with`` block.

    Entering the block connects. It raises NegotiateError, HandshakeError, ConnectionClosed or
    ConfigurationError where that fails; there is no second attempt then. Leaving it says Close
    and closes the WebSocket, which takes seven seconds at the most, and waits for the handlers of
    ``on_close``, ``on_reconnecting`` and ``on_reconnected`` that run. When the connection ends for
    good inside the block, the block goes on: ``wait_closed``, ``on_close`` and the next call tell.

    Handlers can be registered before the block is entered, so that no message is missed. Numbers
    and names that cannot work raise ConfigurationError at once.

    Args:
        url: of the hub, http or https.
        protocol: ``"json"`` or ``"messagepack"``, or an encoding with a hook of your own.
        access_token: bearer token for all requests, or an async callable that gives one; it is
            called each time a connection is made.
        headers: further headers of all requests: a mapping, or pairs.
        reconnect: seconds before each attempt after a loss; empty or None: no attempts.
        keep_alive: a ping is sent after so many seconds without anything sent.
        server_timeout: the connection is lost after so many seconds without anything received.
        handshake_timeout: seconds for the hub handshake.
        max_message_size: bytes of one message from the server (or of what it sends at once),
            None for no limit.
        transports: those that may be used, of ``"WebSockets"``, ``"ServerSentEvents"`` (without
            messagepack) and ``"LongPolling"``; tried in the server's order until one works.
        skip_negotiate: open a WebSocket straight away; the connection id stays unknown.
        stateful_reconnect: where the server offers it, a WebSocket that is lost is replaced, and
            calls, streams and messages go on as if it had not been; the state stays Connected. A
            reconnect follows only where that does not succeed.
        flusher: one that runs in a nursery outside of the block, to be shared by many connections.
        network: what makes the connections; TCP unless said otherwise.
        ssl_context: for https, instead of the default one.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: str | HubProtocol = "json",
        access_token: AccessToken = None,
        headers: Mapping[str, str] | Headers = (),
        reconnect: Sequence[float] | None = (0, 2, 10, 30),
        keep_alive: float = 15,
        server_timeout: float = 30,
        handshake_timeout: float = 15,
        max_message_size: int | None = MAX_MESSAGE_SIZE,
        transports: Sequence[str] = TRANSPORTS,
        skip_negotiate: bool = False,
        stateful_reconnect: bool = False,
        flusher: Flusher | None = None,
        network: Network = TCP,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        _require_above_zero(
            keep_alive=keep_alive,
            server_timeout=server_timeout,
            handshake_timeout=handshake_timeout,
            max_message_size=math.inf if max_message_size is None else max_message_size,
        )
        self._url = url
        self._delays = tuple(reconnect or ())
        if not all(delay >= 0 for delay in self._delays):
            raise ConfigurationError(f"reconnect must be seconds from 0 on, not {reconnect!r}")
        self._timing = Timing(keep_alive, server_timeout)
        self._own_flusher = flusher is None
        self._flusher = Flusher() if flusher is None else flusher
        self._connector = Connector(
            url=url,
            protocol=_encoding(protocol),
            access_token=access_token,
            headers=_pairs(headers),
            transports=transports,
            skip_negotiate=skip_negotiate,
            stateful_reconnect=stateful_reconnect,
            handshake_timeout=handshake_timeout,
            max_message_size=max_message_size,
            flusher=self._flusher,
            network=network,
            ssl_context=ssl_context,
        )

        self._converter = ValueConverter()
        self._handlers = Handlers(self._converter)
        self._invocations = Mailbox(self._handlers.handle)
        # Told in a task of their own, for they may make calls, and wait as long as they like.
        self._notices: Mailbox[tuple[Handler, object]] = Mailbox(_tell)
        self._on_reconnecting: list[Handler] = []
        self._on_reconnected: list[Handler] = []
        self._on_close: list[Handler] = []

        self._state = ConnectionState.DISCONNECTED
        self._connection_id: str | None = None
        self._session: Session | None = None
        self._error: ConnectionClosed | None = None
        self._closed = trio.Event()
        self._all_told = trio.Event()
        self._stop = trio.CancelScope()
        # Shielded: connections still have to say Close when all else is cancelled.
        self._flushing = trio.CancelScope(shield=True)
        self._block: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<HubConnection {without_token(self._url)} {self._state.value}>"

    @property
    def state(self) -> ConnectionState:
        return self._state

    @property
    def connection_id(self) -> str | None:
        """The public id of the physical connection; None while there is none, or it is unknown."""
        return self._connection_id

    def on(self, target: str, handler: Handler, *, types: Sequence[type[Any]] = ()) -> Subscription:
        """Call ``handler(*arguments)`` for each invocation of ``target`` by the server.

        It may be async. Invocations are handled in order, each after all handlers of the one
        before have returned; those the server wants a result of run at once, beside them, and
        what the handler gives back is the result. Handlers go on over a reconnect, and end with
        the block. ``types`` are what the arguments are to be converted to;
        one that arguments do not fit is logged, like a handler that raises.
        """
        return self._handlers.add(target, handler, types)

    def on_reconnecting(self, handler: Handler) -> Subscription:
        """Call ``handler(error)`` when the connection was lost and attempts begin."""
        return _listen(self._on_reconnecting, handler)

    def on_reconnected(self, handler: Handler) -> Subscription:
        """Call ``handler(connection_id)`` when there is a connection again."""
        return _listen(self._on_reconnected, handler)

    def on_close(self, handler: Handler) -> Subscription:
        """Call ``handler(error)`` when the connection has ended for good.

        ``error`` is None where the block was left, or the server has said Close without an error.
        Not called when the block is cancelled from outside.
        """
        return _listen(self._on_close, handler)

    @overload
    async def invoke(self, target: str, *arguments: object, result_type: type[T]) -> T: ...
    @overload
    async def invoke(self, target: str, *arguments: object, result_type: None = None) -> Any: ...
    async def invoke(
        self, target: str, *arguments: object, result_type: type[Any] | None = None
    ) -> Any:
        """Call a hub method and wait for its result.

        Arguments that are async iterables are uploaded as streams; an error that one raises is
        raised here. Being cancelled stops the waiting and the uploads, not the hub method.

        Raises:
            HubError: with the text that the server sent.
            ConnectionClosed: there is no connection, or it ended while waiting.
            ProtocolError: the result is no ``result_type``; the connection lives.
            ConfigurationError: nothing can be converted to ``result_type``.
            TypeError, ValueError: an argument cannot be sent.
        """
        convert = as_it_is if result_type is None else self._converter.to(result_type)
        return convert(await self._open_session().invoke(target, arguments))

    async def send(self, target: str, *arguments: object) -> None:
        """Call a hub method without waiting for it; only for the socket, and for uploads.

        Raises:
            ConnectionClosed: there is no connection, or it ended while waiting.
            TypeError, ValueError: an argument cannot be sent.
        """
        await self._open_session().send(target, arguments)

    @overload
    def stream(
        self, target: str, *arguments: object, item_type: type[T]
    ) -> AbstractAsyncContextManager[ItemStream[T]]: ...
    @overload
    def stream(
        self, target: str, *arguments: object, item_type: None = None
    ) -> AbstractAsyncContextManager[ItemStream[Any]]: ...
    def stream(
        self, target: str, *arguments: object, item_type: type[Any] | None = None
    ) -> AbstractAsyncContextManager[ItemStream[Any]]:
        """Call a hub method that streams; ``async with`` gives an async iterator of its items.

        Leaving the block before the end cancels the stream on the server. For errors see
        :class:`ItemStream`; entering raises those of :meth:`send`.
        """
        convert = as_it_is if item_type is None else self._converter.to(item_type)
        return self._open_session().stream(target, arguments, convert)

    async def wait_closed(self) -> None:
        """Wait until the connection has ended for good.

        Raises:
            ConnectionClosed: it ended with an error.
        """
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    async def __aenter__(self) -> HubConnection:
        if self._block is not None:
            raise RuntimeError("a HubConnection is for one block only")
        self._state = ConnectionState.CONNECTING
        self._block = trio.open_nursery()
        self._nursery = await self._block.__aenter__()
        if self._own_flusher:
            self._nursery.start_soon(self._flush)
        self._nursery.start_soon(self._invocations.run)
        self._nursery.start_soon(self._tell_all)
        try:
            await self._nursery.start(self._run)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.cancel()
        if not self._closed.is_set():
            self._state = ConnectionState.DISCONNECTING
        try:
            await self._all_told.wait()
        except trio.Cancelled:
            if error is None:
                raise
            # The error of the block goes on; its place must not be taken.
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """End all tasks of the block; what they have to send they send, shielded and bounded."""
        assert self._block is not None
        assert self._nursery is not None
        # The shield keeps this nursery's exit from adding a Cancelled of an outer scope to what
        # the block raises, which would make a group of it.
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel()
        await self._block.__aexit__(None, None, None)

    def _open_session(self) -> Session:
        if self._session is None:
            raise ConnectionClosed(
                "Cannot send data if the connection is not in the 'Connected' State, "
                f"but '{self._state.value}'."
            )
        return self._session

    async def _flush(self) -> None:
        with self._flushing:
            await self._flusher.run()

    async def _tell_all(self) -> None:
        await self._notices.run()
        self._all_told.set()

    def _notify(self, handlers: list[Handler], argument: object) -> None:
        for handler in tuple(handlers):
            self._notices.put((handler, argument))

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The life of the connection: one physical connection after the other."""
        try:
            with self._stop:
                end = await self._connect_and_serve(task_status.started)
                while self._delays and end.allow_reconnect:
                    self._state = ConnectionState.RECONNECTING
                    self._notify(self._on_reconnecting, end.error)
                    end = await self._reconnect()
                self._error = end.error
        finally:
            self._flushing.cancel()
            self._state = ConnectionState.DISCONNECTED
            self._closed.set()
        self._notify(self._on_close, self._error)
        self._notices.close()

    async def _connect_and_serve(self, on_connected: Callable[[], None]) -> SessionEnd:
        """One physical connection, from negotiate to its end. Raises only before it is up."""
        async with self._connector.connect() as connected:
            session = self._session = self._make_session(connected)
            self._connection_id = connected.connection_id
            self._state = ConnectionState.CONNECTED
            on_connected()
            try:
                return await session.run(connected.received)
            finally:
                self._session = self._connection_id = None

    def _make_session(self, connected: Connected) -> Session:
        return Session(
            connected.transport,
            self._connector.protocol,
            handlers=self._handlers,
            invocations=self._invocations,
            timing=self._timing,
            max_size=self._connector.max_message_size,
        )

    async def _reconnect(self) -> SessionEnd:
        """Attempt after attempt; the end of the connection that was made at last."""
        last: SignalRError | None = None
        for attempt, delay in enumerate(self._delays, 1):
            await trio.sleep(delay)
            try:
                return await self._connect_and_serve(self._reconnected)
            except SignalRError as error:
                _logger.info("attempt %d to reconnect %r has failed: %s", attempt, self, error)
                last = error
        error = ConnectionClosed(
            f"Reconnect retries have been exhausted after {len(self._delays)} failed attempts. "
            f"The last one: {last}",
            allow_reconnect=False,
        )
        error.__cause__ = last
        return SessionEnd(error, allow_reconnect=False)

    def _reconnected(self) -> None:
        self._notify(self._on_reconnected, self._connection_id)


def _pairs(headers: Mapping[str, str] | Headers) -> tuple[tuple[str, str], ...]:
    if isinstance(headers, Mapping):
        return tuple(cast("Mapping[str, str]", headers).items())
    return tuple(headers)


def _require_above_zero(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ConfigurationError(f"{name} must be above 0, not {value!r}")


def _encoding(protocol: str | HubProtocol) -> HubProtocol:
    if not isinstance(protocol, str):
        return protocol
    encoding = _PROTOCOLS.get(protocol.lower())
    if encoding is None:
        raise ConfigurationError(f"{protocol!r} is no hub protocol: {' or '.join(_PROTOCOLS)}")
    return encoding(as_mapping)


def _listen(handlers: list[Handler], handler: Handler) -> Subscription:
    handlers.append(handler)
    return Subscription(lambda: handlers.remove(handler))


async def _tell(notice: tuple[Handler, object]) -> None:
    handler, argument = notice
    try:
        await call(handler, argument)
    except Exception:
        _logger.exception("a handler of the connection's state has failed")
