"""Negotiate: from the URL of a hub to where its transports are opened, and the token for it.

Source: TransportProtocols.md of dotnet/aspnetcore, and the official JavaScript client.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeAlias, cast
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import attrs
import orjson

from signalr_trio.errors import ConfigurationError, NegotiateError, ProtocolError
from signalr_trio.transport.endpoint import without_token
from signalr_trio.transport.http import Response
from signalr_trio.transport.http_client import http_request
from signalr_trio.transport.network import TCP, Network

__all__ = ["AccessToken", "Address", "Headers", "Offer", "locate", "without_negotiate"]

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
class Offer:
    """A transport that the server offers, by the names of TransportProtocols.md."""

    transport: str
    transfer_formats: tuple[str, ...]


@attrs.frozen
class Address:
    """What negotiate has found. ``headers`` and ``connect_url`` hold secrets: not to be shown."""

    url: str
    """Of the hub, where redirects have led."""
    headers: list[tuple[str, str]] = attrs.field(repr=False)
    """For all requests, with the token."""
    connect_url: str = attrs.field(repr=False)
    """For the transport, with the id of the connection."""
    connection_id: str | None = None
    """The public one; None where negotiate was skipped: the server has not said it."""
    offers: tuple[Offer, ...] = ()
    """The server's transports in its order."""
    stateful_reconnect: bool = False
    """It was asked for, and the server will keep the connection for its next WebSocket."""


@attrs.frozen
class _Redirect:
    url: str
    access_token: str | None = attrs.field(repr=False)


async def without_negotiate(
    url: str, *, access_token: AccessToken, headers: Headers = ()
) -> Address:
    """Where a WebSocket is opened straight away. Raises as :func:`locate`."""
    return Address(url, _with_token(list(headers), await _token(access_token)), url)


async def locate(
    url: str,
    *,
    access_token: AccessToken,
    headers: Headers = (),
    stateful_reconnect: bool = False,
    network: Network = TCP,
    ssl_context: ssl.SSLContext | None = None,
) -> Address:
    """Negotiate with the hub at ``url``, an http or https URL, following redirects.

    Raises:
        ConfigurationError: ``url`` or the token cannot work.
        NegotiateError: negotiate was refused or its answer is of no use, or there is no token
            because its callback failed.
        ConnectionClosed: nobody answers.
    """
    token = await _token(access_token)
    own = list(headers)
    for hop in range(_MAX_REDIRECTS):
        target = _negotiate_url(url, stateful_reconnect=stateful_reconnect)
        response = await _ask(
            target, _with_token(own, token), network, ssl_context, redirected=hop > 0
        )
        answer = _read_answer(response, url, _with_token(own, token))
        if isinstance(answer, Address):
            return answer
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
    target: str,
    headers: list[tuple[str, str]],
    network: Network,
    ssl_context: ssl.SSLContext | None,
    *,
    redirected: bool,
) -> Response:
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


def _negotiate_url(url: str, *, stateful_reconnect: bool) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # http_request says what is wrong with it
    path = parts.path + ("negotiate" if parts.path.endswith("/") else "/negotiate")
    target = urlunsplit(parts._replace(path=path, fragment=""))
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if "negotiateVersion" not in names:
        target = _with_query(target, "negotiateVersion=1")
    if stateful_reconnect and "useStatefulReconnect" not in names:
        target = _with_query(target, "useStatefulReconnect=true")
    return target


def _with_query(url: str, pair: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{pair}"


def _read_answer(
    response: Response, url: str, headers: list[tuple[str, str]]
) -> _Redirect | Address:
    fields = _read_fields(response, url)
    if "ProtocolVersion" in fields:
        raise NegotiateError(_ASPNET)
    if error := fields.get("error"):
        raise NegotiateError(str(error))
    if target := _text(fields, "url"):
        return _Redirect(target, _text(fields, "accessToken"))
    connection_id = _text(fields, "connectionId")
    version = fields.get("negotiateVersion")
    token = _text(fields, "connectionToken") if version else connection_id
    if not connection_id or not token:
        raise NegotiateError(f"{without_token(url)} answered negotiate without a connection id")
    return Address(
        url=url,
        headers=headers,
        connect_url=_with_query(url, f"id={quote(token, safe='')}"),
        connection_id=connection_id,
        offers=tuple(_read_offers(fields.get("availableTransports"))),
        stateful_reconnect=fields.get("useStatefulReconnect") is True,
    )


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


def _read_offers(transports: object) -> Iterator[Offer]:
    """The transports in the answer; what is none is skipped."""
    for one in cast("list[object]", transports) if isinstance(transports, list) else []:
        if not isinstance(one, dict):
            continue
        fields = cast("dict[str, object]", one)
        name, formats = fields.get("transport"), fields.get("transferFormats")
        if isinstance(name, str) and isinstance(formats, list):
            texts = [text for text in cast("list[object]", formats) if isinstance(text, str)]
            yield Offer(name, tuple(texts))
