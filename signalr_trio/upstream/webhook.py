"""What is posted to an upstream, and what its answer means for the client (sans-IO).

Headers and bodies are those of the official emulator. The Azure Functions trigger needs the body of
``connected`` too, of which the documentation says nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import attrs
import orjson

from signalr_trio.errors import ProtocolError, SignalRError
from signalr_trio.protocol.framing import RECORD_SEPARATOR, prefixed, unframe
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.messages import Completion
from signalr_trio.tokens import Claims, user_id_of

__all__ = [
    "CONNECTED_BODY",
    "JSON_TYPE",
    "Answer",
    "Caller",
    "Event",
    "Send",
    "UpstreamFailed",
    "Webhook",
    "answer_frame",
    "disconnected_body",
    "invocation_body",
    "invocation_type",
    "webhook_headers",
]

JSON_TYPE: Final = "application/json"
_MESSAGEPACK_TYPE: Final = "application/x-msgpack"
CONNECTED_BODY: Final = b'{"type":10}'
_DISCONNECTED_TYPE: Final = 11
#: What HTTP allows in no header, and at neither end of one.
_NO_HEADER_TEXT: Final = re.compile(r"[\x00-\x1f\x7f]|^ +| +$")

Headers = list[tuple[bytes, bytes]]


@attrs.frozen
class Webhook:
    """One POST."""

    url: str = attrs.field(repr=False)
    headers: Headers = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    @property
    def shown_url(self) -> str:
        """For the log: without the query, where an Azure Function has its key."""
        return self.url.partition("?")[0]


@attrs.frozen
class Answer:
    """What an upstream answered: the HTTP status, and the body."""

    status: int
    body: bytes = b""


class UpstreamFailed(SignalRError):
    """An upstream gave no answer; the text says why, without the URL."""


Send = Callable[[Webhook], Awaitable[Answer]]
"""Posts a webhook. Raises UpstreamFailed."""


@attrs.frozen
class Event:
    """Something that happened: ``connected``, ``disconnected``, or the target of a message."""

    category: str
    name: str
    content_type: str
    body: bytes = attrs.field(repr=False)


class Caller(Protocol):
    """The client that an event is about."""

    @property
    def id(self) -> str: ...
    @property
    def hub_name(self) -> str: ...
    @property
    def claims(self) -> Claims: ...
    @property
    def query_string(self) -> str: ...


def disconnected_body(error: str | None) -> bytes:
    """The spelling of the two names is the emulator's."""
    fields: dict[str, object] = {"Type": _DISCONNECTED_TYPE}
    if error is not None:
        fields["Error"] = error
    return orjson.dumps(fields)


def invocation_type(protocol: HubProtocol) -> str:
    return _MESSAGEPACK_TYPE if protocol.binary else JSON_TYPE


def invocation_body(protocol: HubProtocol, frame: bytes) -> bytes:
    """The client's message as it wrote it, without its framing."""
    return bytes(unframe(frame)) if protocol.binary else frame.removesuffix(RECORD_SEPARATOR)


def webhook_headers(caller: Caller, event: Event, keys: Sequence[str]) -> Headers:
    """Who the client is, what happened, and proof that the service says so."""
    fields = {
        "Content-Type": event.content_type,
        "User-Agent": "signalr_trio",
        "X-ASRS-Connection-Id": caller.id,
        "X-ASRS-Hub": caller.hub_name,
        "X-ASRS-Category": event.category,
        "X-ASRS-Event": event.name,
        "X-ASRS-Signature": _signatures(caller.id, keys),
    }
    if user_id := user_id_of(caller.claims):
        fields["X-ASRS-User-Id"] = user_id
    if caller.claims:
        fields["X-ASRS-User-Claims"] = ", ".join(
            f"{name}: {value}" for name, value in caller.claims
        )
    if caller.query_string:
        fields["X-ASRS-Client-Query"] = caller.query_string
    return [(name.encode("ascii"), _header_value(value)) for name, value in fields.items()]


def _signatures(connection_id: str, keys: Sequence[str]) -> str:
    """No space behind the comma: the Azure Functions trigger would not find the second one."""
    data = connection_id.encode()
    digests = [hmac.new(key.encode(), data, hashlib.sha256).hexdigest() for key in keys]
    return ",".join(f"sha256={digest}" for digest in digests)


def _header_value(text: str) -> bytes:
    """UTF-8. Clients and tokens may name things as they like; no line break of theirs ends a header."""
    return _NO_HEADER_TEXT.sub(_percent_encoded, text).encode("utf-8", "replace")


def _percent_encoded(found: re.Match[str]) -> str:
    return "".join(f"%{ord(character):02X}" for character in found[0])


def answer_frame(protocol: HubProtocol, invocation_id: str, answer: Answer) -> bytes:
    """What the client is sent for the answer to its invocation.

    A body is a completion in the hub protocol of the client, as the Azure Functions trigger
    writes it; its framing may be left out.
    """
    if answer.status not in (200, 204):
        return _failure(protocol, invocation_id, f"status code {answer.status}")
    if answer.status == 204 or not answer.body:
        return protocol.write(Completion(invocation_id))
    try:
        frames = protocol.splitter(None).feed(_framed(protocol, answer.body))
        message = protocol.parse(frames[0]) if len(frames) == 1 else None
    except ProtocolError:
        message, frames = None, []
    if isinstance(message, Completion) and message.invocation_id == invocation_id:
        return frames[0]
    return _failure(protocol, invocation_id, "the upstream's answer is not its completion")


def _failure(protocol: HubProtocol, invocation_id: str, why: str) -> bytes:
    return protocol.write(Completion(invocation_id, error=f"Invocation failed, {why}"))


def _framed(protocol: HubProtocol, body: bytes) -> bytes:
    if not protocol.binary:
        return body if body.endswith(RECORD_SEPARATOR) else body + RECORD_SEPARATOR
    try:
        unframe(body)
    except ProtocolError:
        return prefixed(body)
    return body
