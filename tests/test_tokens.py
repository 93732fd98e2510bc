"""Tokens: what is in them, which are good, and that nobody is told why one is not."""

from __future__ import annotations

import time

import jwt
import pytest

from signalr_trio.tokens import (
    NAME_IDENTIFIER,
    TokenRefused,
    claims_of,
    make_token,
    user_id_of,
    verify_request_token,
    verify_token,
)

KEY = "an access key of forty characters or so."
OTHER = "another access key of forty characters.."
AUDIENCE = "http://localhost/client/?hub=chat"


def signed(key: str = KEY, algorithm: str = "HS256", **fields: object) -> str:
    payload = {"exp": int(time.time()) + 60, "aud": AUDIENCE, **fields}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm)


def refused(token: str, *keys: str) -> str:
    with pytest.raises(TokenRefused) as info:
        verify_token(token, keys or (KEY,), AUDIENCE)
    return str(info.value)


def test_what_we_sign_we_accept() -> None:
    token = make_token(KEY, AUDIENCE, [(NAME_IDENTIFIER, "ann"), ("role", "a"), ("role", "b")])
    payload = verify_token(token, [KEY], AUDIENCE)
    assert (payload["nameid"], payload["role"], payload["aud"]) == ("ann", ["a", "b"], AUDIENCE)
    assert payload["exp"] - payload["nbf"] == 3600


@pytest.mark.parametrize("keys", [[KEY, OTHER], [OTHER, KEY]])
def test_any_of_the_keys_is_good(keys: list[str]) -> None:
    assert verify_token(signed(), keys, AUDIENCE)


def test_no_other_key_is() -> None:
    assert refused(signed(), OTHER) == "its signature fits no access key"


def test_without_a_key_nothing_is_good() -> None:
    with pytest.raises(TokenRefused, match="no access key"):
        verify_token(signed(), [], AUDIENCE)


@pytest.mark.parametrize(
    "audience",
    [
        AUDIENCE,
        "https://the.load.balancer:8443/client/?hub=chat",
        "http://localhost/CLIENT/?hub=Chat",
        ["http://elsewhere/", AUDIENCE],
    ],
)
def test_the_audience_is_path_and_query_whatever_the_host(audience: object) -> None:
    assert verify_token(signed(aud=audience), [KEY], AUDIENCE)


@pytest.mark.parametrize(
    "audience",
    [
        "http://localhost/server/?hub=chat",
        "http://localhost/client/?hub=news",
        "http://localhost/client/",
        "",
        [],
        7,
    ],
)
def test_another_audience_is_refused(audience: object) -> None:
    # PyJWT itself refuses what is neither a string nor a list of them.
    assert "audience" in refused(signed(aud=audience)).lower()


@pytest.mark.parametrize("behind", ["#x", "\n", "\t", "?", "&"])
def test_nothing_of_what_is_asked_for_is_left_out(behind: str) -> None:
    """A name of a hub may have anything in it, once it is decoded."""
    with pytest.raises(TokenRefused):
        verify_token(signed(), [KEY], AUDIENCE + behind)


@pytest.mark.parametrize(
    ("asked", "good"),
    [
        ("/api/v1/hubs/chat/users/a%20b", True),
        ("/api/v1/hubs/chat/users/a%20b/", True),
        ("/api/v1/hubs/chat/users/a%20b?application=x", True),
        ("/api/v1/hubs/chat/users/a%20b#/groups/g", False),
        ("/api/v1/hubs/chat/users/a%20bc", False),
        ("/API/v1/hubs/chat/users/a%20b", False),
        ("/x://h/api/v1/hubs/chat/users/a%20b", False),
    ],
)
def test_the_audience_of_a_call_is_its_url(asked: str, good: bool) -> None:
    token = signed(aud="http://host/api/v1/hubs/chat/users/a b")
    if good:
        assert verify_request_token(token, [KEY], asked)
    else:
        with pytest.raises(TokenRefused):
            verify_request_token(token, [KEY], asked)


def test_an_expired_token_is_refused_with_five_minutes_of_leeway() -> None:
    now = int(time.time())
    assert refused(signed(exp=now - 400)) == "it has expired"
    assert verify_token(signed(exp=now - 200), [KEY], AUDIENCE)


def test_a_token_of_the_future_is_refused_with_five_minutes_of_leeway() -> None:
    now = int(time.time())
    assert "not a valid token" in refused(signed(nbf=now + 400))
    assert verify_token(signed(nbf=now + 200), [KEY], AUDIENCE)


@pytest.mark.parametrize("missing", ["exp", "aud"])
def test_a_token_without_an_end_or_an_audience_is_refused(missing: str) -> None:
    assert missing in refused(signed(**{missing: None}))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é"])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert "not a valid token" in refused(token)


def test_a_token_that_says_it_needs_no_signature_is_refused() -> None:
    assert "not a valid token" in refused(jwt.encode({"aud": AUDIENCE}, None, algorithm="none"))


def test_a_reason_is_one_line_whatever_the_token_says() -> None:
    names = jwt.encode({}, KEY, "HS256", headers={"crit": ["a\nWARNING b"], "a\nWARNING b": 1})
    assert "\n" not in refused(names)


def test_a_reason_says_nothing_of_the_keys() -> None:
    for reason in (refused(signed(), OTHER), refused("x", OTHER), refused(signed(aud="x"))):
        assert KEY not in reason
        assert OTHER not in reason


def test_short_claim_names_become_long_again_in_order() -> None:
    claims = claims_of({"nameid": "ann", "role": ["a", "b"], "size": 38, "old": True, "x": "y"})
    assert claims == [
        (NAME_IDENTIFIER, "ann"),
        ("http://schemas.microsoft.com/ws/2008/06/identity/claims/role", "a"),
        ("http://schemas.microsoft.com/ws/2008/06/identity/claims/role", "b"),
        ("size", "38"),
        ("old", "true"),
        ("x", "y"),
    ]


def test_claims_survive_a_token() -> None:
    claims = [(NAME_IDENTIFIER, "ann"), ("a", "1"), ("a", "2"), ("a", "3"), ("b", "é")]
    payload = verify_token(make_token(KEY, AUDIENCE, claims), [KEY], AUDIENCE)
    assert claims_of(payload)[: len(claims)] == claims


def test_half_characters_in_claims_are_replaced() -> None:
    """They get into a token by the escapes of JSON, and no hub server could be told of them."""
    claims = [("a\ud83d", "x\ud83d"), ("b", "\ud83d\ude00"), ("c", "\udc00")]
    payload = verify_token(make_token(KEY, AUDIENCE, claims), [KEY], AUDIENCE)
    assert claims_of(payload)[:3] == [("a\ufffd", "x\ufffd"), ("b", "\U0001f600"), ("c", "\ufffd")]
    assert claims_of({"d": {"e": "\ud83d"}}) == [("d", '{"e":"\ufffd"}')]


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ([], None),
        ([("a", "b")], None),
        ([(NAME_IDENTIFIER, "ann")], "ann"),
        ([(NAME_IDENTIFIER, "ann"), (NAME_IDENTIFIER, "bob")], "ann"),
        ([(NAME_IDENTIFIER, "ann"), ("asrs.s.uid", "the real one")], "the real one"),
    ],
)
def test_the_user_id(claims: list[tuple[str, str]], user: str | None) -> None:
    assert user_id_of(claims) == user
