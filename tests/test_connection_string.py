"""Connection strings: what is read from them, what is wrong with them, and which URLs follow."""

from __future__ import annotations

import pytest

from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.errors import ConfigurationError

KEY = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH"


def test_the_development_string_is_the_emulators() -> None:
    found = parse_connection_string(DEVELOPMENT)
    assert (found.url, found.port, found.access_key) == ("http://localhost:8888", 8888, KEY)


@pytest.mark.parametrize(
    ("text", "url", "port"),
    [
        ("Endpoint=http://h;AccessKey=k", "http://h", 80),
        ("Endpoint=https://h;AccessKey=k;Version=1.0;", "https://h", 443),
        ("Endpoint=https://h/;AccessKey=k", "https://h", 443),
        ("Endpoint=http://h:81;AccessKey=k", "http://h:81", 81),
        ("Endpoint=http://h:81;Port=82;AccessKey=k", "http://h:82", 82),
        ("Endpoint=http://[::1];Port=82;AccessKey=k", "http://[::1]:82", 82),
        (" endpoint = http://h ; ACCESSKEY = k ;; version=1.1-preview", "http://h", 80),
    ],
)
def test_the_endpoint(text: str, url: str, port: int) -> None:
    found = parse_connection_string(text)
    assert (found.url, found.port, found.access_key) == (url, port, "k")


def test_a_key_may_hold_equals_signs() -> None:
    assert parse_connection_string("Endpoint=http://h;AccessKey=a+b/c==").access_key == "a+b/c=="


def test_audiences_are_without_the_port_and_never_of_another_road() -> None:
    found = parse_connection_string(
        "Endpoint=https://h;Port=8443;AccessKey=k;"
        "ClientEndpoint=https://clients:1;ServerEndpoint=http://servers/x/"
    )
    assert found.client_audience("chat") == "https://h/client/?hub=chat"
    assert found.server_audience("chat") == "https://h/server/?hub=chat"
    assert found.client_negotiate_url("chat", "a=b") == "https://clients:1/client/?hub=chat&a=b"
    assert found.server_connection_url("chat", "7") == "http://servers/x/server/?hub=chat&cid=7"


def test_urls_without_another_road() -> None:
    found = parse_connection_string("Endpoint=http://[::1]:81;AccessKey=k")
    assert found.client_audience("chat") == "http://[::1]/client/?hub=chat"
    assert found.client_negotiate_url("a b") == "http://[::1]:81/client/?hub=a%20b"
    url = found.server_connection_url("chat", "7", "instance/1")
    assert url == "http://[::1]:81/server/?hub=chat&cid=7&target=instance%2F1"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "'Endpoint' is missing"),
        ("AccessKey=k", "'Endpoint' is missing"),
        ("Endpoint=http://h", "'AccessKey' is missing"),
        ("Endpoint=http://h;AccessKey=", "'AccessKey' is missing"),
        ("Endpoint=http://h;AuthType=azure.msi;ClientId=x", "Entra ID is not supported"),
        ("Endpoint=h;AccessKey=k", "Endpoint must be http"),
        ("Endpoint=ftp://h;AccessKey=k", "Endpoint must be http"),
        ("Endpoint=http://h:x;AccessKey=k", "Endpoint has a bad host or port"),
        ("Endpoint=http://[::1;AccessKey=k", "Endpoint has a bad host or port"),
        ("Endpoint=http://h;AccessKey=k;ClientEndpoint=h", "ClientEndpoint must be http"),
        ("Endpoint=http://h;AccessKey=k;ServerEndpoint=h", "ServerEndpoint must be http"),
        ("Endpoint=http://h?x=1;AccessKey=k", "Endpoint must be http"),
        ("Endpoint=http://h/#x;AccessKey=k", "Endpoint must be http"),
        ("Endpoint=http://ann:pw@h;AccessKey=k", "Endpoint must be http"),
        (
            "Endpoint=http://h;AccessKey=k;ServerEndpoint=http://h/a?b",
            "ServerEndpoint must be http",
        ),
        ("Endpoint=http://h;AccessKey=k;Port=0", "Port must be 1 to 65535"),
        ("Endpoint=http://h;AccessKey=k;Port=65536", "Port must be 1 to 65535"),
        ("Endpoint=http://h;AccessKey=k;Port=eight", "Port must be 1 to 65535"),
        ("Endpoint=http://h;AccessKey=k;Version=2.0", "Version must be 1.x"),
        ("Endpoint=http://h;AccessKey=k;Endpoint=http://i", "'Endpoint' is given twice"),
        ("Endpoint=http://h;AccessKey=k;Acesskey=k", "'Acesskey' is not a known key"),
    ],
)
def test_what_is_wrong_is_named(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        parse_connection_string(text)


@pytest.mark.parametrize(
    "text",
    [
        f"Endpoint=http://h;AccessKey={KEY};Version=9",
        f"Endpoint=h;AccessKey={KEY}",
        f"Endpoint=h,AccessKey={KEY}",
        f"Endpoint=http://h:AccessKey={KEY}",
        f"Endpoint=http://h;AccessKey={KEY};AccessKey={KEY}",
        f"Endpoint=http://h;AccessKey={KEY};Port=x",
        f"Endpoint=http://h;AccessKey={KEY};Colour=red",
    ],
)
def test_an_error_never_shows_the_key(text: str) -> None:
    with pytest.raises(ConfigurationError) as info:
        parse_connection_string(text)
    assert KEY not in str(info.value)


def test_the_key_is_not_in_the_repr() -> None:
    assert KEY not in repr(parse_connection_string(DEVELOPMENT))
