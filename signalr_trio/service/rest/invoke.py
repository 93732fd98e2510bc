"""``:invoke``: a method of one client is called, and the call is answered with its result.

The answer is JSON, or, where the caller accepts ``application/octet-stream`` as the SDK does, the
client's completion as it came, with the name of its hub protocol in ``X-ASRS-Protocol``.
"""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING

import attrs
import orjson
import trio

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.messages import Completion, NoResult
from signalr_trio.service.rest.call import Call, CallRefused, invalid
from signalr_trio.service.rest.payload import read_invocation
from signalr_trio.transport.http import Pending, Response

if TYPE_CHECKING:
    from signalr_trio.service.server_connection import ServerConnection
    from signalr_trio.service.session import ClientSession

__all__ = ["invoke"]

#: Seconds that a client has to answer. The SDK gives up a REST call after 100 s.
_PATIENCE = 30.0
_NOT_THERE = "Error.Connection.NotExisted"


class _Question:
    """A question whose end the call waits for (``service.client_results.Question``)."""

    server = None
    noted_at = 0.0

    def __init__(self, id: str) -> None:
        self.id = id
        self.ended = trio.Event()
        self.completion: tuple[str, bytes] | None = None
        """The client's hub protocol, and what it sent."""
        self.error = ""
        """Why there is no completion."""

    def is_lost_with(self, connection: ServerConnection) -> bool:
        return False

    def answer(self, protocol: str, payload: bytes) -> None:
        self.completion = protocol, payload
        self.ended.set()

    def fail(self, error: str) -> None:
        self.error = error
        self.ended.set()


def invoke(call: Call) -> Pending:
    """Calls the client and waits: for its answer, its end, the end of the caller, or 30 s."""
    return Pending(partial(_invoke, call))


async def _invoke(call: Call) -> Response:
    session = call.hub.sessions.get(call.connection)
    if session is None:
        raise CallRefused(404, "There is no such connection.", code=_NOT_THERE)
    question = _Question(session.service.new_id())
    payload = _payload(call, session, question.id)
    try:
        session.ask(question, {session.protocol.name: payload})
        with trio.move_on_after(_PATIENCE):
            await question.ended.wait()
    finally:
        session.asks_no_more(None, question.id)
    if not question.ended.is_set():
        raise CallRefused(504, f"The client did not answer in {_PATIENCE:g} s.")
    if question.completion is None:
        raise CallRefused(404, question.error, code=_NOT_THERE)
    accepted = (call.request.header("accept") or "").lower()
    if "application/octet-stream" in accepted:
        return _as_it_came(*question.completion)
    return _in_json(*question.completion)


def _payload(call: Call, session: ClientSession, id: str) -> bytes:
    request, protocol = call.request, session.protocol
    try:
        invocation = read_invocation(request.header("content-type"), request.body, protocol.name)
        return protocol.write(attrs.evolve(invocation, invocation_id=id))
    except (ProtocolError, TypeError, ValueError) as fault:
        raise invalid(str(fault)) from None


def _as_it_came(protocol: str, payload: bytes) -> Response:
    headers = [("Content-Type", "application/octet-stream"), ("X-ASRS-Protocol", protocol)]
    return Response(200, payload, headers)


def _in_json(protocol: str, payload: bytes) -> Response:
    completion = HUB_PROTOCOLS[protocol].parse(payload)
    assert isinstance(completion, Completion)
    if completion.error is not None:
        raise CallRefused(502, completion.error)
    has_none = isinstance(completion.result, NoResult)
    try:
        body = orjson.dumps(
            {} if has_none else {"result": completion.result},
            default=_plain,
            option=orjson.OPT_NON_STR_KEYS,
        )
    except TypeError as fault:
        raise CallRefused(502, f"The client's result cannot be written in JSON: {fault}") from None
    return Response(200, body, [("Content-Type", "application/json; charset=utf-8")])


def _plain(value: object) -> object:
    """Bytes, which MessagePack has and JSON has not, as .NET writes them."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"a value of type {type(value).__name__}")
