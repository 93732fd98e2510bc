"""Which upstream an event goes to, and what is said of settings that cannot work."""

from __future__ import annotations

import pytest

from signalr_trio import ConfigurationError, Upstream
from signalr_trio.upstream import parse_upstream
from signalr_trio.upstream.rules import find_url

ANY = Upstream("http://app/{hub}/{category}/{event}")


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        (ANY, "http://app/chat/messages/say"),
        (Upstream("https://app:7071/api?code=k&e={event}"), "https://app:7071/api?code=k&e=say"),
        (Upstream("http://{hub}.app/{hub}/x"), "http://chat.app/chat/x"),
        (Upstream("http://app/", hub="chat"), "http://app/"),
        (Upstream("http://app/", hub="CHAT,news"), "http://app/"),
        (Upstream("http://app/", hub=["news", "chat"]), "http://app/"),
        (Upstream("http://app/", hub="news"), None),
        (Upstream("http://app/", category="messages"), "http://app/"),
        (Upstream("http://app/", category="connections"), None),
        (Upstream("http://app/", category="connections, messages"), "http://app/"),
        (Upstream("http://app/", event="shout, say"), "http://app/"),
        (Upstream("http://app/", event="Say"), None),
        (Upstream("http://app/", event="sa"), None),
        (Upstream("http://app/", event="say", hub="news"), None),
        (Upstream("http://app/", event="shout,*"), "http://app/"),
    ],
)
def test_where_an_event_goes(upstream: Upstream, expected: str | None) -> None:
    assert find_url([upstream], "chat", "messages", "say") == expected


def test_the_first_that_matches_counts() -> None:
    upstreams = [Upstream("http://one/", event="say"), ANY, Upstream("http://never/")]
    assert find_url(upstreams, "chat", "messages", "say") == "http://one/"
    assert find_url(upstreams, "chat", "messages", "x") == "http://app/chat/messages/x"
    assert find_url([], "chat", "messages", "x") is None


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ("a/b", "a%2Fb"),
        ("../admin", "..%2Fadmin"),
        ("a?b=c&d#e", "a%3Fb%3Dc%26d%23e"),
        ("Grüße \r\n%2e", "Gr%C3%BC%C3%9Fe%20%0D%0A%252e"),
        ("{hub}", "%7Bhub%7D"),
        ("a.b_c-d~", "a.b_c-d~"),
    ],
)
def test_what_clients_call_events_stays_in_its_place(event: str, path: str) -> None:
    assert find_url([ANY], "chat", "messages", event) == f"http://app/chat/messages/{path}"


@pytest.mark.parametrize("event", [".", ".."])
def test_an_event_that_would_lead_elsewhere_goes_nowhere(event: str) -> None:
    assert find_url([ANY], "chat", "messages", event) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://app/api", Upstream("http://app/api")),
        (
            "http://app/{event};hub=chat,news;category=messages;event=*",
            Upstream("http://app/{event}", hub="news,chat", category="messages"),
        ),
        (" http://app ; event = connected ", Upstream("http://app", event="connected")),
        ("http://app/?code=a=b%3B;hub=x", Upstream("http://app/?code=a=b%3B", hub="x")),
    ],
)
def test_reading_the_command_line(text: str, expected: Upstream) -> None:
    assert parse_upstream(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not an http or https URL"),
        ("app:7071/api", "'app:7071/api' is not an http or https URL"),
        ("/api", "not an http or https URL"),
        ("ws://app/", "not an http or https URL"),
        ("http://app:port/", "not an http or https URL"),
        ("http://app/a b", "not an http or https URL"),
        ("http://app/ü", "not an http or https URL"),
        ("http://app/{evnt}", r"'\{evnt\}' is none of \{hub\}, \{category\} and \{event\}"),
        ("http://app/{@Microsoft.KeyVault(SecretUri=x)}", "is none of"),
        ("http://app/{hub", "is none of"),
        ("http://app/hub}", "is none of"),
        ("http://{event}.app/", r"\{event\} cannot be in the host"),
        ("http://me:secret@app/", "user name or a password"),
        ("http://app/;hubs=x", "'hubs' is none of hub, category and event"),
        ("http://app/;hub=x;hub=y", "'hub' is given twice"),
        ("http://app/;hub=", "the hub pattern '' has an empty name"),
        ("http://app/;event=a,,b", "the event pattern 'a,,b' has an empty name"),
        ("http://app/;category=message", "there is no category 'message', only connections and"),
    ],
)
def test_a_mistake_is_explained(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        parse_upstream(text)
    assert "secret" not in str(caught.value)


def test_the_key_in_a_query_is_not_shown() -> None:
    assert "secret" not in repr(Upstream("http://app/?code=secret"))
    with pytest.raises(ConfigurationError) as caught:
        parse_upstream("http://app/{x}?code=secret")
    assert "secret" not in str(caught.value)
