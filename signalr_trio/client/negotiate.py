"""Negotiate: from the URL of a hub to the URL of a WebSocket and the token for it.

Source: TransportProtocols.md of dotnet/aspnetcore, and the official JavaScript client.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias, cast
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import attrs
import orjson

from signalr_trio.errors import ConfigurationError, NegotiateError, ProtocolError
from signalr_trio.transport.endpoint import without_token
from signalr_trio.transport.http import Response, http_request
from signalr_trio.transport.network import TCP, Network

__all__ = ["AccessToken", "Address", "Headers", "locate"]

AccessToken: TypeAlias = str | Callable[[], Awaitable[str | None]] | None
"""A bearer token, or what is asked for one each time a connection is made."""

Headers: TypeAlias = Iterable[tuple[str, str]]

#: The official clients give up after as many answers that lead elsewhere.
_MAX_REDIRECTS: Final = 100
_NOT_SIGNALR: Final = (
    "Either this is not a SignalR endpoint or there is a proxy blocking the connection."
)
_ASPNET: Final = (
    "Detected a connection attempt to an ASP.NET SignalR Server. "
    "This client only supports connecting to an ASP.NET Core SignalR Server."
)


@attrs.frozen
class Address:
    """Where and how to open the WebSocket. ``headers`` hold the token: not to be shown."""

    url: str
    headers: list[tuple[str, str]] = attrs.field(repr=False)
    connection_id: str | None = None
    """None where negotiate was skipped: the server has not said it."""


@attrs.frozen
class _Redirect:
    url: str
    access_token: str | None = attrs.field(repr=False)


async def locate(
    url: str,
    *,
    access_token: AccessToken,
    headers: Headers = (),
    binary: bool,
    skip_negotiate: bool = False,
    network: Network = TCP,
    ssl_context: ssl.SSLContext | None = None,
) -> Address:
    """Find the WebSocket of the hub at ``url``, an http or https URL, following redirects.

    Raises:
        ConfigurationError: ``url`` or the token cannot work.
        NegotiateError: negotiate was refused or its answer is of no use, or there is no token
            because its callback failed.
        ConnectionClosed: nobody answers.
    """
    token = await _token(access_token)
    own = list(headers)
    if skip_negotiate:
        return Address(url, _with_token(own, token))
    for hop in range(_MAX_REDIRECTS):
        response = await _ask(
            url, _with_token(own, token), network, ssl_context, redirected=hop > 0
        )
        answer = _read_answer(response, url, binary=binary)
        if not isinstance(answer, _Redirect):
            connection_id, connection_token = answer
            target = _with_query(url, f"id={quote(connection_token, safe='')}")
            return Address(target, _with_token(own, token), connection_id)
        url, token = answer.url, answer.access_token or token
    raise NegotiateError("Negotiate redirection limit exceeded.")


async def _token(access_token: AccessToken) -> str | None:
    if access_token is None or isinstance(access_token, str):
        return access_token
    try:
        return await access_token()
    except Exception as error:
        raise NegotiateError(f"the access token could not be had: {error!r}") from error


def _with_token(headers: list[tuple[str, str]], token: str | None) -> list[tuple[str, str]]:
    if not token:
        return headers
    if not token.isascii() or any(character <= " " for character in token):
        raise ConfigurationError("the access token has blanks or characters that are not ASCII")
    return [*headers, ("Authorization", f"Bearer {token}")]


async def _ask(
    url: str,
    headers: list[tuple[str, str]],
    network: Network,
    ssl_context: ssl.SSLContext | None,
    *,
    redirected: bool,
) -> Response:
    target = _negotiate_url(url)
    own = [("Content-Type", "text/plain;charset=UTF-8"), ("X-Requested-With", "XMLHttpRequest")]
    try:
        return await http_request(
            "POST", target, headers=[*own, *headers], network=network, ssl_context=ssl_context
        )
    except ProtocolError as error:
        raise NegotiateError(str(error)) from error
    except ConfigurationError as error:
        if not redirected:
            raise
        raise NegotiateError(f"negotiate leads to a URL that is none: {error}") from error


def _negotiate_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # http_request says what is wrong with it
    path = parts.path + ("negotiate" if parts.path.endswith("/") else "/negotiate")
    target = urlunsplit(parts._replace(path=path, fragment=""))
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    return target if "negotiateVersion" in names else _with_query(target, "negotiateVersion=1")


def _with_query(url: str, pair: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{pair}"


def _read_answer(response: Response, url: str, *, binary: bool) -> _Redirect | tuple[str, str]:
    """A redirect, or the connection's public id and the token that is its id in requests."""
    fields = _read_fields(response, url)
    if "ProtocolVersion" in fields:
        raise NegotiateError(_ASPNET)
    if error := fields.get("error"):
        raise NegotiateError(str(error))
    if target := _text(fields, "url"):
        return _Redirect(target, _text(fields, "accessToken"))
    _require_websockets(fields.get("availableTransports"), "Binary" if binary else "Text")
    connection_id = _text(fields, "connectionId")
    version = fields.get("negotiateVersion")
    token = _text(fields, "connectionToken") if version else connection_id
    if not connection_id or not token:
        raise NegotiateError(f"{without_token(url)} answered negotiate without a connection id")
    return connection_id, token


def _read_fields(response: Response, url: str) -> dict[str, object]:
    shown = without_token(url)
    if response.status != 200:
        hint = f" {_NOT_SIGNALR}" if response.status == 404 else ""
        raise NegotiateError(f"{shown} answered negotiate with status {response.status}.{hint}")
    try:
        fields: object = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise NegotiateError(f"{shown} did not answer negotiate with a JSON object. {_NOT_SIGNALR}")
    return cast("dict[str, object]", fields)


def _text(fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise NegotiateError(f"'{name}' in the answer to negotiate is not a string")


def _require_websockets(transports: object, transfer_format: str) -> None:
    offered = cast("list[object]", transports) if isinstance(transports, list) else []
    for one in offered:
        if not isinstance(one, dict):
            continue
        fields = cast("dict[str, object]", one)
        formats = fields.get("transferFormats")
        if fields.get("transport") == "WebSockets" and isinstance(formats, list):
            if transfer_format in formats:
                return
            raise NegotiateError(
                f"'WebSockets' does not support {transfer_format}, which the hub protocol needs"
            )
    raise NegotiateError("the server does not offer 'WebSockets', the transport of this client")
