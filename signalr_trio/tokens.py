"""JSON Web Tokens between clients, hub servers and the service (RFC 7519, HS256).

A token has *short* claim names (``nameid``, ``role``); what a hub sees has the *long* ones that
.NET uses. ``claims_of`` turns them back, which the service owes to .NET hub servers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import jwt

from signalr_trio.errors import SignalRError
from signalr_trio.texts import sendable

__all__ = [
    "NAME_IDENTIFIER",
    "Claims",
    "TokenRefused",
    "claims_of",
    "make_token",
    "user_id_of",
    "verify_request_token",
    "verify_token",
]

Claims = list[tuple[str, str]]

NAME_IDENTIFIER = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier"
_LONG_NAMES = {
    "nameid": NAME_IDENTIFIER,
    "unique_name": "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name",
    "email": "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress",
    "role": "http://schemas.microsoft.com/ws/2008/06/identity/claims/role",
}
_SHORT_NAMES = {long: short for short, long in _LONG_NAMES.items()}
_LIFETIME = 3600
#: Clocks of two machines differ; .NET allows five minutes.
_LEEWAY = 300


class TokenRefused(SignalRError):
    """Why a token was refused: for the log, never for the caller."""


def make_token(
    key: str,
    audience: str,
    claims: Iterable[tuple[str, str]] = (),
    *,
    lifetime: float = _LIFETIME,
) -> str:
    """Signs a token. Claim types that occur more than once become a list, as in .NET."""
    now = int(time.time())
    payload: dict[str, Any] = {}
    for name, value in claims:
        short = _SHORT_NAMES.get(name, name)
        if short not in payload:
            payload[short] = value
        elif isinstance(payload[short], list):
            payload[short].append(value)
        else:
            payload[short] = [payload[short], value]
    payload |= {
        "nbf": now,
        "iat": now,
        "exp": now + int(lifetime),
        "aud": audience,
        "iss": "azure-signalr",
    }
    return jwt.encode(payload, key, algorithm="HS256")  # pyright: ignore[reportUnknownMemberType]


def verify_token(token: str, keys: Sequence[str], audience: str) -> Mapping[str, Any]:
    """The payload of a token that one of ``keys`` signed for ``audience``.

    Of the audience, a URL, path and query must be the same. A service is reached under many names
    (localhost, that of a container, that of a load balancer), and the caller's connection string
    may have any of them.

    Raises TokenRefused with the reason, of which the caller is told nothing.
    """
    payload = _signed_payload(token, keys)
    expected = _resource(audience.lower())
    if not any(_resource(one.lower()) == expected for one in _audiences(payload)):
        raise _another_audience(payload, audience)
    return payload


def verify_request_token(token: str, keys: Sequence[str], url: str) -> Mapping[str, Any]:
    """The payload of a token that one of ``keys`` signed for a REST call of ``url``.

    The audience is the URL: without a query in the documentation and in the newest SDK, with
    ``application`` and ``api-version`` in older ones. What it has of a query, the call must have.

    Raises TokenRefused with the reason, of which the caller is told nothing.
    """
    payload = _signed_payload(token, keys)
    asked = _resource(url)
    if not any(_covers(_resource(one), asked) for one in _audiences(payload)):
        raise _another_audience(payload, url)
    return payload


def _signed_payload(token: str, keys: Sequence[str]) -> Mapping[str, Any]:
    reason = "no access key to verify with"
    for key in keys:
        try:
            payload: Mapping[str, Any] = jwt.decode(  # pyright: ignore[reportUnknownMemberType]
                token,
                key,
                algorithms=["HS256", "HS512"],
                leeway=_LEEWAY,
                options={
                    "require": ["exp", "aud"],
                    "verify_aud": False,
                    "verify_iat": False,
                    "verify_sub": False,
                },
            )
        except jwt.InvalidSignatureError:
            reason = "its signature fits no access key"
        except jwt.ExpiredSignatureError:
            raise TokenRefused("it has expired") from None
        except jwt.PyJWTError as error:
            raise TokenRefused(f"it is not a valid token: {str(error)!r}") from None
        else:
            return payload
    raise TokenRefused(reason)


def _audiences(payload: Mapping[str, Any]) -> list[str]:
    found = payload["aud"]
    return [str(one) for one in (cast("list[Any]", found) if isinstance(found, list) else [found])]


def _another_audience(payload: Mapping[str, Any], expected: str) -> TokenRefused:
    return TokenRefused(f"its audience is {payload['aud']!r}, not {expected!r}")


def _resource(url: str) -> tuple[str, str]:
    """Path and query, to the letter: ``urlsplit`` leaves out line breaks, and all behind a ``#``."""
    path, _, query = url.partition("?")
    if not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path, query


def _covers(audience: tuple[str, str], asked: tuple[str, str]) -> bool:
    same_path = _segments(audience[0]) == _segments(asked[0])
    return same_path and set(parse_qsl(audience[1])) <= set(parse_qsl(asked[1]))


def _segments(path: str) -> list[str]:
    """What is encoded, and whether a slash is at the end, is left to who writes a URL."""
    return [unquote(segment) for segment in path.rstrip("/").split("/")]


def claims_of(payload: Mapping[str, Any]) -> Claims:
    """The payload as a list of claims in order, short names turned back into long ones.

    Lone surrogates, which the escapes of JSON can hide in a token, are read as U+FFFD: nobody could
    be told of such a claim.
    """
    claims: Claims = []
    for name, value in payload.items():
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        claims += [(_LONG_NAMES.get(name, sendable(name)), _text(item)) for item in values]
    return claims


def user_id_of(claims: Claims) -> str | None:
    """``asrs.s.uid``, else the name identifier."""
    found = dict(reversed(claims))
    return found.get("asrs.s.uid") or found.get(NAME_IDENTIFIER)


def _text(value: Any) -> str:
    """As .NET reads it: what is no string counts as its JSON, null as empty."""
    if isinstance(value, str):
        return sendable(value)
    if value is None:
        return ""
    return sendable(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
