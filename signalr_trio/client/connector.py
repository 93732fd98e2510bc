"""Makes physical connections to one hub: negotiate, a transport that works, the handshake.

Source: TransportProtocols.md of dotnet/aspnetcore, and the official JavaScript client.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Final, TypeAlias

import attrs

from signalr_trio.client.negotiate import AccessToken, Address, Headers, locate, without_negotiate
from signalr_trio.client.session import shake_hands
from signalr_trio.client.transports.long_polling import open_long_polling
from signalr_trio.client.transports.server_sent_events import open_server_sent_events
from signalr_trio.client.transports.stateful import StatefulTransport, stateful
from signalr_trio.client.transports.transport import Target, Transport
from signalr_trio.client.transports.websocket import WebSocketTransport, open_websocket
from signalr_trio.errors import ConfigurationError, ConnectionClosed, NegotiateError
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.message_buffer import STATEFUL_VERSION
from signalr_trio.transport.endpoint import without_token
from signalr_trio.transport.network import Network
from signalr_trio.transport.stream import Flusher

__all__ = ["TRANSPORTS", "Connected", "Connector"]

_Opener: TypeAlias = Callable[[Target], AbstractAsyncContextManager[Transport]]

_WEBSOCKETS: Final = "WebSockets"
_OPENERS: Final[Mapping[str, _Opener]] = MappingProxyType(
    {
        _WEBSOCKETS: open_websocket,
        "ServerSentEvents": open_server_sent_events,
        "LongPolling": open_long_polling,
    }
)
TRANSPORTS: Final = tuple(_OPENERS)
"""The names of all transports, as in TransportProtocols.md."""

#: RFC 9110, 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_logger = logging.getLogger("signalr_trio.client")


@attrs.frozen
class Connected:
    """A physical connection after the handshake."""

    transport: Transport
    connection_id: str | None
    received: bytes = attrs.field(repr=False)
    """What came behind the handshake response."""


@attrs.frozen(kw_only=True)
class Connector:
    """For the fields see :class:`HubConnection`. Raises ConfigurationError for what cannot be."""

    url: str
    protocol: HubProtocol
    access_token: AccessToken = attrs.field(repr=False)
    headers: Sequence[tuple[str, str]] = attrs.field(repr=False)
    transports: Sequence[str]
    skip_negotiate: bool
    stateful_reconnect: bool
    handshake_timeout: float
    max_message_size: int | None
    flusher: Flusher
    network: Network
    ssl_context: ssl.SSLContext | None

    def __attrs_post_init__(self) -> None:
        unknown = [name for name in self.transports if name not in _OPENERS]
        if unknown or not self.transports or isinstance(self.transports, str):
            raise ConfigurationError(
                f"transports={self.transports!r}: a tuple of {', '.join(TRANSPORTS)}"
            )
        for name, value in self.headers:
            if not _is_header(name, value):
                raise ConfigurationError(f"the header {name!r} is none that HTTP has")
        if self.skip_negotiate and _WEBSOCKETS not in self.transports:
            raise ConfigurationError("without negotiate there are only WebSockets")
        if self.skip_negotiate and self.stateful_reconnect:
            raise ConfigurationError("a stateful reconnect needs the id that negotiate gives")
        if self.stateful_reconnect and self.protocol.version < STATEFUL_VERSION:
            raise ConfigurationError(f"{self.protocol.name!r} has no stateful reconnect")

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Connected, None]:
        """Connect; leaving the block closes the transport.

        Raises:
            ConfigurationError: the URL, the token or a header cannot work.
            NegotiateError: negotiate was refused, or offers no transport that we can use.
            HandshakeError: the handshake was refused, or not answered in time.
            ConnectionClosed: nobody answers, or no transport works.
        """
        async with AsyncExitStack() as stack:
            address, transport = await self._open(stack)
            # Only WebSockets can be replaced.
            resumable = (
                self.stateful_reconnect
                and address.stateful_reconnect
                and isinstance(transport, WebSocketTransport)
            )
            received = await shake_hands(
                transport,
                self.protocol,
                version=STATEFUL_VERSION if resumable else 1,
                timeout=self.handshake_timeout,
                max_size=self.max_message_size,
            )
            if resumable:
                assert isinstance(transport, WebSocketTransport)
                lasting = StatefulTransport(
                    transport,
                    partial(open_websocket, self._target(address)),
                    self.protocol,
                    max_size=self.max_message_size,
                    received=received,
                    url=without_token(address.url),
                )
                transport = await stack.enter_async_context(stateful(lasting))
                received = b""
            yield Connected(transport, address.connection_id, received)

    async def _open(self, stack: AsyncExitStack) -> tuple[Address, Transport]:
        """Open the first of the server's transports that works, on ``stack``."""
        if self.skip_negotiate:
            address = await without_negotiate(
                self.url, access_token=self.access_token, headers=self.headers
            )
            return address, await stack.enter_async_context(open_websocket(self._target(address)))
        address = await self._negotiate(self.url, self.access_token, self.headers)
        failures: list[str] = []
        last: ConnectionClosed | None = None
        for offer in address.offers:
            problem = self._unusable(offer.transport, offer.transfer_formats)
            if problem is not None:
                failures.append(problem)
                continue
            if last is not None:
                # An id serves one transport only; and where redirects have led, we stay.
                address = await self._negotiate(address.url, None, address.headers)
            try:
                opening = _OPENERS[offer.transport](self._target(address))
                return address, await stack.enter_async_context(opening)
            except ConnectionClosed as error:
                _logger.info("%s does not work: %s", offer.transport, error)
                failures.append(f"'{offer.transport}' failed: {error}")
                last = error
        raise _no_transport(failures, last)

    async def _negotiate(self, url: str, token: AccessToken, headers: Headers) -> Address:
        return await locate(
            url,
            access_token=token,
            headers=headers,
            stateful_reconnect=self.stateful_reconnect,
            network=self.network,
            ssl_context=self.ssl_context,
        )

    def _unusable(self, transport: str, transfer_formats: Sequence[str]) -> str | None:
        """Why we do not try that transport."""
        if transport not in _OPENERS:
            return f"'{transport}' is not known to this client"
        if transport not in self.transports:
            return f"'{transport}' is disabled by the client"
        wanted = "Binary" if self.protocol.binary else "Text"
        if wanted not in transfer_formats:
            return f"'{transport}' does not support {wanted}, which the hub protocol needs"
        return None

    def _target(self, address: Address) -> Target:
        return Target(
            url=address.connect_url,
            headers=address.headers,
            binary=self.protocol.binary,
            max_message_size=self.max_message_size,
            flusher=self.flusher,
            network=self.network,
            ssl_context=self.ssl_context,
        )


def _is_header(name: object, value: object) -> bool:
    """RFC 9110, 5.1 and 5.5, without bytes beyond ASCII. The value may be a secret."""
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    plain = value.replace("\t", " ")
    return _TOKEN.fullmatch(name) is not None and plain.isascii() and plain.isprintable()


def _no_transport(
    failures: list[str], last: ConnectionClosed | None
) -> NegotiateError | ConnectionClosed:
    why = ". ".join(failures) or "it offers none"
    if last is None:
        return NegotiateError(
            f"None of the transports supported by the client are supported by the server: {why}."
        )
    error = ConnectionClosed(
        f"Unable to connect to the server with any of the available transports. {why}."
    )
    error.__cause__ = last
    return error
