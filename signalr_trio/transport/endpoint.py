"""Where a URL leads: taking it apart, connecting to it, and naming it without its secrets."""

from __future__ import annotations

import os
import ssl
from typing import cast
from urllib.parse import unquote_plus, urlsplit

import attrs
import trio

from signalr_trio.errors import ConfigurationError, ConnectionClosed
from signalr_trio.transport.network import Network

__all__ = ["Endpoint", "connect", "parse_url", "without_token"]

_SECRETS = frozenset({"access_token", "id"})

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@attrs.define
class Endpoint:
    """The parts of an http, https, ws or wss URL."""

    host: str
    port: int
    tls: bool
    target: str
    """Path and query, as the request line has them."""
    url: str
    """The whole URL without its access token, for messages."""

    @property
    def authority(self) -> str:
        """Value of the Host header; the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> Endpoint:
    """Take a URL apart.

    Raises:
        ConfigurationError: it is not an absolute http, https, ws or wss URL.
    """
    shown = without_token(url)
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as to connect will; its error would be no OSError
    except ValueError as error:
        raise ConfigurationError(f"{shown!r} is not a URL: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ConfigurationError(f"{shown!r} is not an http, https, ws or wss URL with a host")
    if not url.isascii() or any(character <= " " for character in url):
        raise ConfigurationError(f"{shown!r} has characters that a URL must percent-encode")
    return Endpoint(
        host=parts.hostname,
        port=_DEFAULT_PORTS[parts.scheme] if port is None else port,
        tls=parts.scheme in ("https", "wss"),
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        url=shown,
    )


async def connect(
    endpoint: Endpoint, network: Network, ssl_context: ssl.SSLContext | None = None
) -> trio.abc.Stream:
    """Open a connection, with TLS where the URL says so.

    Raises:
        ConnectionClosed: nobody answers there.
    """
    try:
        stream = await network.connect(endpoint.host, endpoint.port)
    except OSError as error:
        raise ConnectionClosed(f"cannot connect to {endpoint.url}: {_why(error)}") from error
    if not endpoint.tls:
        return stream
    context = ssl_context or ssl.create_default_context()
    tls = trio.SSLStream(stream, context, server_hostname=endpoint.host, https_compatible=True)
    try:
        # At once: its errors would not be told from those of a lost connection later.
        await tls.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if not isinstance(error, trio.BrokenResourceError):
            raise
        raise ConnectionClosed(f"no TLS with {endpoint.url}: {error.__cause__}") from error
    return tls


def _why(error: OSError) -> str:
    """trio's own text says only that all attempts have failed."""
    attempts = error.__cause__
    if not isinstance(attempts, BaseExceptionGroup):
        return str(error)
    failed = cast("BaseExceptionGroup[BaseException]", attempts).exceptions
    numbers = {one.errno for one in failed if isinstance(one, OSError)}
    return ", ".join(os.strerror(number) for number in numbers if number) or str(error)


def without_token(url: str) -> str:
    """``url`` (or a request target) without its parameters that let somebody in, and user info.

    They are ``access_token``, and ``id``, the connection token: whoever has it is that client.
    """
    head, mark, query = url.partition("?")
    scheme, colon, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    head = scheme + colon + authority.rpartition("@")[2] + slash + path if colon else head
    kept = [
        pair
        for pair in query.split("&")
        if unquote_plus(pair.partition("=")[0]).lower() not in _SECRETS
    ]
    return head + mark + "&".join(kept) if any(kept) else head
