"""What a client's token tells the service itself: the claims ``asrs.s.*`` of the official SDK (1.34).

All of them go on to the hub server with the rest, which reads what is meant for it. A value that
makes no sense counts as absent: who signed the token may be newer than this service.
"""

from __future__ import annotations

import time

import attrs

from signalr_trio.tokens import Claims

__all__ = [
    "Sticky",
    "expires_in",
    "handshake_timeout",
    "is_diagnostic",
    "poll_interval",
    "sticky",
    "transports",
]

_TRANSPORTS = {"WebSockets": 1, "ServerSentEvents": 2, "LongPolling": 4}
"""ASP.NET Core's ``HttpTransportType``."""
#: Seconds; the SDK sends no others.
_HANDSHAKE_TIMEOUTS = range(1, 31)
_POLL_INTERVALS = range(1, 301)


@attrs.frozen
class Sticky:
    """The server that negotiated for the client, and wants it (``ServerStickyMode``)."""

    server_id: str
    required: bool
    """No other server may have the client, at any time."""


def sticky(claims: Claims) -> Sticky | None:
    """``asrs.s.sn`` with ``asrs.s.ssticky``; None: any server will do."""
    server_id, mode = _value(claims, "asrs.s.sn"), _value(claims, "asrs.s.ssticky")
    if server_id and mode in ("Preferred", "Required"):
        return Sticky(server_id, mode == "Required")
    return None


def handshake_timeout(claims: Claims) -> int | None:
    """``asrs.s.cht``: seconds for the hub handshake; None: the service's default."""
    seconds = _number(claims, "asrs.s.cht")
    return seconds if seconds in _HANDSHAKE_TIMEOUTS else None


def poll_interval(claims: Claims) -> int | None:
    """``asrs.s.ttl``: seconds in which the next poll must come, of a client that polls; None: the
    service's default."""
    seconds = _number(claims, "asrs.s.ttl")
    return seconds if seconds in _POLL_INTERVALS else None


def transports(claims: Claims) -> frozenset[str]:
    """``asrs.s.htt``: the names of the transports that the client may use; all, if it is absent."""
    flags = _number(claims, "asrs.s.htt")
    return frozenset(name for name, flag in _TRANSPORTS.items() if flags is None or flags & flag)


def is_diagnostic(claims: Claims) -> bool:
    """``asrs.s.dc``: the hub server traces the messages of this client."""
    return _value(claims, "asrs.s.dc") == "true"


def expires_in(claims: Claims) -> float | None:
    """``asrs.s.coae`` with ``asrs.s.aeo``: in how many seconds the login ends, and the connection
    with it; None: never (``CloseOnAuthenticationExpiration`` is off)."""
    end = _number(claims, "asrs.s.aeo")
    if end is None or _value(claims, "asrs.s.coae") != "true":
        return None
    return end - time.time()


def _value(claims: Claims, name: str) -> str | None:
    return next((value for key, value in claims if key == name), None)


def _number(claims: Claims, name: str) -> int | None:
    text = _value(claims, name) or ""
    # int() takes more than digits, and is slow for very many of them.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
