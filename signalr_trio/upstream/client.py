"""A client without a hub server: its events go to the upstreams, one after the other."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import attrs

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.encodings import HUB_PROTOCOLS
from signalr_trio.protocol.handshake import HandshakeResponse, write_response
from signalr_trio.protocol.messages import (
    Close,
    Completion,
    HubMessage,
    Invocation,
    StreamInvocation,
)
from signalr_trio.protocol.service_messages import (
    Claims,
    CloseConnection,
    ConnectionData,
    ConnectionFlowControl,
    DataMessageType,
    FlowControlConnectionType,
    FlowControlOperation,
    OpenConnection,
)
from signalr_trio.upstream.rules import CONNECTIONS, MESSAGES, find_url
from signalr_trio.upstream.webhook import (
    CONNECTED_BODY,
    JSON_TYPE,
    Event,
    UpstreamFailed,
    Webhook,
    answer_frame,
    disconnected_body,
    invocation_body,
    invocation_type,
    webhook_headers,
)

if TYPE_CHECKING:
    from signalr_trio.upstream.serving import ServerlessHub

__all__ = ["ServerlessClient"]

log = logging.getLogger("signalr_trio.upstream")

#: When more bytes wait for the upstreams, the service is asked to hold what the client sends.
_PAUSE = 1 << 20
#: What an event weighs beside its body.
_OVERHEAD = 200
_ERROR = "Connection closed with an error."
_NO_STREAMS = "Invocation failed, there are no streams in serverless mode"
_NO_UPSTREAM = "Invocation failed, no upstream is set for it"


@attrs.frozen
class _Waiting:
    """An event on its way, and the invocation that wants an answer, if one does."""

    event: Event
    url: str
    invocation_id: str | None = None

    @property
    def size(self) -> int:
        return len(self.event.body) + _OVERHEAD


class ServerlessClient:
    """One client. Only while something is on its way does it have a task.

    So its events reach the upstreams in order: ``connected`` is answered before the first message
    is posted, and ``disconnected`` comes last.
    """

    def __init__(self, hub: ServerlessHub, opened: OpenConnection) -> None:
        self.hub = hub
        self.id = opened.connection_id
        self.claims: Claims = opened.claims
        self.query_string = opened.query_string or ""
        self._protocol = HUB_PROTOCOLS[opened.protocol or "json"]
        self._splitter = self._protocol.splitter(None)
        self._answered = False
        self._ended = False
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        self._paused = False
        self._at_work = False

    @property
    def hub_name(self) -> str:
        return self.hub.name

    # -- from the service: synchronous --------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        """What the client sent. First comes its handshake request, which the service has checked."""
        if not self._answered:
            self._answered = True
            self._send(write_response(HandshakeResponse()), DataMessageType.HANDSHAKE)
            self._put(CONNECTIONS, "connected", JSON_TYPE, CONNECTED_BODY)
            return
        try:
            for frame in self._splitter.feed(payload):
                if not self._ended:
                    self._take(self._protocol.parse(frame), frame)
        except ProtocolError as fault:
            log.warning("client %s of hub %s: %s", self.id, self.hub_name, fault)
            self._close(f"{_ERROR} {fault}", reason=str(fault))

    def gone(self, error: str | None = None) -> None:
        """The client has left, or is lost."""
        if not self._ended:
            self._ended = True
            self.hub.clients.pop(self.id, None)
            body = disconnected_body(error)
            self._put(CONNECTIONS, "disconnected", JSON_TYPE, body)

    def _take(self, message: HubMessage | None, frame: bytes) -> None:
        if isinstance(message, StreamInvocation) or (
            isinstance(message, Invocation) and message.stream_ids
        ):
            log.info("client %s of hub %s: %s", self.id, self.hub_name, _NO_STREAMS)
            self._fail(message.invocation_id, _NO_STREAMS)
        elif isinstance(message, Invocation):
            kind, body = invocation_type(self._protocol), invocation_body(self._protocol, frame)
            if not self._put(MESSAGES, message.target, kind, body, message.invocation_id):
                self._fail(message.invocation_id, _NO_UPSTREAM)
        elif isinstance(message, Close):
            self._close("", reason=message.error)
        # What belongs to streams is of no use, there being none. Results of the client that
        # somebody awaits the service has taken out.

    def _close(self, error: str, *, reason: str | None) -> None:
        self.hub.link.send(CloseConnection(self.id, error))
        self.gone(reason)

    # -- to the upstreams ---------------------------------------------------------------------

    def _put(
        self,
        category: str,
        name: str,
        content_type: str,
        body: bytes,
        invocation_id: str | None = None,
    ) -> bool:
        """Puts an event in line; False if it belongs to no upstream."""
        url = find_url(self.hub.upstreams, self.hub_name, category, name)
        if url is None:
            return False
        waiting = _Waiting(Event(category, name, content_type, body), url, invocation_id)
        self._waiting.append(waiting)
        self._size += waiting.size
        if self._size > _PAUSE and not self._paused:
            self._paused = True
            self._ask(FlowControlOperation.PAUSE)
        if not self._at_work:
            self._at_work = True
            self.hub.start_soon(self._work)
        return True

    async def _work(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            await self._deliver(waiting)
            self._size -= waiting.size
            if self._paused and self._size <= _PAUSE // 2:
                self._paused = False
                self._ask(FlowControlOperation.RESUME)
        self._at_work = False

    async def _deliver(self, waiting: _Waiting) -> None:
        event = waiting.event
        headers = webhook_headers(self, event, self.hub.keys)
        webhook = Webhook(waiting.url, headers, event.body)
        try:
            answer = await self.hub.send(webhook)
        except UpstreamFailed as failure:
            self._warn(webhook, str(failure))
            self._fail(waiting.invocation_id, f"Invocation failed, {failure}")
            return
        if answer.status not in (200, 204):
            self._warn(webhook, f"answered with status {answer.status}")
        if waiting.invocation_id is not None:
            self._send(answer_frame(self._protocol, waiting.invocation_id, answer))

    def _warn(self, webhook: Webhook, what: str) -> None:
        log.warning("client %s of hub %s: %s: %s", self.id, self.hub_name, webhook.shown_url, what)

    # -- to the client ------------------------------------------------------------------------

    def _fail(self, invocation_id: str | None, error: str) -> None:
        if invocation_id is not None:
            self._send(self._protocol.write(Completion(invocation_id, error=error)))

    def _send(self, frame: bytes, kind: DataMessageType = DataMessageType.INVOCATION) -> None:
        self.hub.link.send(ConnectionData(self.id, frame, kind))

    def _ask(self, operation: FlowControlOperation) -> None:
        self.hub.link.send(
            ConnectionFlowControl(self.id, FlowControlConnectionType.CLIENT, operation)
        )
