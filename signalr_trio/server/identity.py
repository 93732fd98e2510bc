"""Who a client is: the claims that travel with its token, and those that a hub sees."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from signalr_trio.tokens import Claims

__all__ = ["Identity", "token_claims", "user_claims"]

_SERVICE = "asrs.s."
_USER = "asrs.u."
_RESERVED = frozenset(
    "aud exp iat nbf iss actort acr azp c_hash jti nonce".split()  # noqa: SIM905
)


@attrs.frozen
class Identity:
    """What an application knows of a client at negotiate. No user id: an anonymous client."""

    user_id: str | None = None
    claims: Sequence[tuple[str, str]] = ()


def token_claims(identity: Identity) -> Claims:
    """The claims of a client's token: the application's own, where they could be mistaken for
    the token's, under a prefix."""
    claims = [
        (f"{_USER}{name}" if name in _RESERVED else name, value) for name, value in identity.claims
    ]
    if identity.user_id is None:
        return claims
    # The first one counts.
    return [(f"{_SERVICE}uid", identity.user_id), *claims]


def user_claims(claims: Claims) -> Claims:
    """What a hub sees of the claims in OpenConnection."""
    return [
        (name.removeprefix(_USER), value)
        for name, value in claims
        if not name.startswith(_SERVICE) and name not in _RESERVED
    ]
