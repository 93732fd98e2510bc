"""Headers and bodies of webhooks, and what answers mean: bytes in, bytes out."""

from __future__ import annotations

import attrs
import pytest

from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.framing import unframe
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.messages import Completion, HubMessage, Invocation, Ping
from signalr_trio.tokens import NAME_IDENTIFIER, Claims
from signalr_trio.upstream.webhook import (
    Answer,
    Event,
    Webhook,
    answer_frame,
    disconnected_body,
    invocation_body,
    invocation_type,
    webhook_headers,
)

JSON = HUB_PROTOCOLS["json"]
MESSAGEPACK = HUB_PROTOCOLS["messagepack"]
EVENT = Event("messages", "say", "application/json", b"")


@attrs.frozen
class Someone:
    id: str = "c1"
    hub_name: str = "chat"
    claims: Claims = attrs.field(factory=list)
    query_string: str = ""


def headers(someone: Someone, event: Event = EVENT, keys: tuple[str, ...] = ("k",)):
    found = webhook_headers(someone, event, keys)
    assert len(dict(found)) == len(found)
    return {name.decode(): value for name, value in found}


def test_a_client_that_nothing_is_known_of() -> None:
    found = headers(Someone())
    del found["X-ASRS-Signature"]
    assert found == {
        "Content-Type": b"application/json",
        "User-Agent": b"signalr_trio",
        "X-ASRS-Connection-Id": b"c1",
        "X-ASRS-Hub": b"chat",
        "X-ASRS-Category": b"messages",
        "X-ASRS-Event": b"say",
    }


def test_user_claims_and_query() -> None:
    claims = [(NAME_IDENTIFIER, "ann"), ("role", "a"), ("role", "b")]
    found = headers(Someone(claims=claims, query_string="?room=1&x=a%20b"))
    assert found["X-ASRS-User-Id"] == b"ann"
    expected = f"{NAME_IDENTIFIER}: ann, role: a, role: b"
    assert found["X-ASRS-User-Claims"] == expected.encode()
    assert found["X-ASRS-Client-Query"] == b"?room=1&x=a%20b"


def test_signatures() -> None:
    # As ``printf c1 | openssl dgst -sha256 -hmac KEY`` has it.
    one = "sha256=82ee7a700af483eb878e904a2dd2ba0b6c047cc744270edc7d4bddf5b066997d"
    two = "sha256=7463aca459abac995b3f7902e85e09b99fc833f39b7d8c11b72b5a728aa3c6eb"
    found = headers(Someone(), keys=("one", "two"))["X-ASRS-Signature"].decode()
    assert found == f"{one},{two}"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("Grüße 世界", "Grüße 世界".encode()),
        ("a\r\nX-ASRS-User-Id: root", b"a%0D%0AX-ASRS-User-Id: root"),
        ("a\nb\x00c\x7f", b"a%0Ab%00c%7F"),
        ("  a b ", b"%20%20a b%20"),
        ("", b""),
        ("\ud800", b"?"),
    ],
)
def test_no_name_ends_a_header(text: str, sent: bytes) -> None:
    found = headers(
        Someone(claims=[(NAME_IDENTIFIER, f"u{text}u")]), Event("messages", text, "t", b"")
    )
    assert found["X-ASRS-Event"] == sent
    assert b"\n" not in found["X-ASRS-User-Id"] + found["X-ASRS-User-Claims"]


def test_disconnected_bodies() -> None:
    assert disconnected_body(None) == b'{"Type":11}'
    assert disconnected_body("why") == b'{"Type":11,"Error":"why"}'


@pytest.mark.parametrize("protocol", [JSON, MESSAGEPACK], ids=lambda one: one.name)
def test_an_invocation_goes_on_without_its_framing(protocol: HubProtocol) -> None:
    frame = protocol.write(Invocation("say", ["é" * 3000, 1, None], "7"))
    body = invocation_body(protocol, frame)
    if protocol is JSON:
        assert body + b"\x1e" == frame
        assert invocation_type(protocol) == "application/json"
    else:
        assert body == bytes(unframe(frame))
        assert invocation_type(protocol) == "application/x-msgpack"


def test_where_a_webhook_goes_is_shown_without_its_key() -> None:
    webhook = Webhook("http://app/x?code=secret", [], b"payload")
    assert webhook.shown_url == "http://app/x"
    assert "secret" not in repr(webhook)
    assert "payload" not in repr(webhook)


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [JSON, MESSAGEPACK], ids=lambda one: one.name)
@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize(
    "message",
    [
        Completion("7", {"a": [1, None]}),
        Completion("7", "x" * 500),
        Completion("7"),
        Completion("7", error="no"),
    ],
)
def test_a_completion_is_passed_on(protocol: HubProtocol, framed: bool, message: Completion):
    frame = protocol.write(message)
    body = frame if framed else invocation_body(protocol, frame)
    assert answer_frame(protocol, "7", Answer(200, body)) == frame


@pytest.mark.parametrize("protocol", [JSON, MESSAGEPACK], ids=lambda one: one.name)
@pytest.mark.parametrize("answer", [Answer(200), Answer(204), Answer(204, b"x")])
def test_no_body_is_no_result(protocol: HubProtocol, answer: Answer) -> None:
    assert protocol.parse(answer_frame(protocol, "7", answer)) == Completion("7")


@pytest.mark.parametrize("protocol", [JSON, MESSAGEPACK], ids=lambda one: one.name)
@pytest.mark.parametrize("status", [201, 202, 302, 400, 404, 500, 503])
def test_another_status_is_an_error(protocol: HubProtocol, status: int) -> None:
    body = protocol.write(Completion("7", 1))
    message = protocol.parse(answer_frame(protocol, "7", Answer(status, body)))
    assert message == Completion("7", error=f"Invocation failed, status code {status}")


WRONG: list[HubMessage] = [Completion("8", 1), Invocation("say", [], "7"), Ping()]


@pytest.mark.parametrize("protocol", [JSON, MESSAGEPACK], ids=lambda one: one.name)
def test_what_is_not_its_completion_does_not_reach_the_client(protocol: HubProtocol) -> None:
    right = protocol.write(Completion("7", 1))
    bodies = [protocol.write(message) for message in WRONG]
    bodies += [right + right, b"OK", b"[]", b"{}", b"\x1e", b"\xff" * 20, right[:-2] + b"\x00"]
    for body in bodies:
        message = protocol.parse(answer_frame(protocol, "7", Answer(200, body)))
        assert isinstance(message, Completion), body
        assert message.invocation_id == "7"
        assert message.error == "Invocation failed, the upstream's answer is not its completion"
