"""The requests of clients on the path of a hub: the transports, as ASP.NET Core SignalR answers them.

A GET connects, or polls; a POST sends, a DELETE ends, on the transports that are not WebSockets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from signalr_trio.service.http_connection import HttpConnection
from signalr_trio.service.negotiation import method_not_allowed, offered, text_response
from signalr_trio.service.service import Service
from signalr_trio.service.session import ClientSession
from signalr_trio.service.token_claims import poll_interval
from signalr_trio.tokens import Claims
from signalr_trio.transport import server_sent_events
from signalr_trio.transport.client_transport import ClientTransport, WebSocketTransport
from signalr_trio.transport.http import (
    Answer,
    Pending,
    Request,
    Response,
    ResponseBody,
    Streaming,
    Upgrade,
)
from signalr_trio.transport.long_polling import LongPollingTransport, Nothing
from signalr_trio.transport.server_sent_events import EventStreamTransport
from signalr_trio.transport.stateful import StatefulTransport
from signalr_trio.transport.websocket import WebSocket

__all__ = ["ClientRequest", "serve_client"]

_PLAIN = ("Content-Type", "text/plain")
_BINARY = ("Content-Type", "application/octet-stream")
_NOT_KEPT = (
    ("Cache-Control", "no-cache, no-store"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("Pragma", "no-cache"),
)
_NO_ID = "Connection ID required"
_UNKNOWN_ID = "No Connection with that ID"


@attrs.define(eq=False)
class ClientRequest:
    """A request on the path of a hub, and what the door that let it in knows about the client."""

    request: Request
    hub: str
    claims: Claims
    """Of the request itself; those that were negotiated win."""
    query_string: str = ""
    """The client's own, with a question mark, as the hub server shall see it."""

    def new_session(
        self, service: Service, transport: ClientTransport, connection: HttpConnection | None
    ) -> ClientSession:
        """``connection``: as it was negotiated; None if it was not."""
        session = service.new_client(
            self.hub,
            transport,
            connection_id=service.new_id() if connection is None else connection.id,
            claims=(connection and connection.claims) or self.claims,
            token=connection and connection.token,
            query_string=self.query_string,
            headers=_forwarded(self.request),
        )
        if connection is not None:
            connection.connected(transport, session)
        return session


async def serve_client(service: Service, client: ClientRequest, *, accepting: bool) -> Answer:
    """The answer to any request. ``accepting``: whether new connections may be made (else 503)."""
    method, request = client.request.method, client.request
    if method not in ("GET", "POST", "DELETE"):
        return method_not_allowed()
    transport = _asked_for(request) if method == "GET" else None
    if transport is not None and transport not in offered(service, client.claims):
        return _text(transport, 404, f"{transport} transport not supported by this end point type")
    ids = [value for name, value in request.query if name.lower() == "id"]
    connection = service.http_connections.get(ids[0]) if len(ids) == 1 else None
    if connection is not None and connection.hub != client.hub:
        connection = None
    if connection is None:
        if any(ids):
            return _unknown_id(transport)
        if transport != "WebSockets":
            return _text(transport, 400, _NO_ID)
        return _websocket(service, client, None) if accepting else Response(503)
    if method == "POST":
        return await _post(service, connection, request.body)
    if method == "DELETE":
        return _delete(service, connection)
    if connection.transport is not None:
        return _again(service, connection, connection.transport, transport)
    return _connect(service, client, connection, transport) if accepting else Response(503)


def _asked_for(request: Request) -> str:
    """The transport that a GET means."""
    accepted = (request.header("accept") or "").lower()
    if "text/event-stream" in [one.strip() for one in accepted.split(",")]:
        return "ServerSentEvents"
    return "WebSockets" if request.wants_websocket else "LongPolling"


# -- a first GET ----------------------------------------------------------------------------


def _connect(
    service: Service, client: ClientRequest, connection: HttpConnection, transport: str | None
) -> Answer:
    if transport == "WebSockets":
        return _websocket(service, client, connection)
    if transport == "ServerSentEvents":
        return _event_stream(service, client, connection)
    polled = LongPollingTransport(connection.posted, poll_interval(client.claims))
    session = client.new_session(service, polled, connection)
    # It outlives any of its requests.
    service.serve_apart(session)
    return Response(200, headers=[_BINARY, *_NOT_KEPT])


def _websocket(
    service: Service, client: ClientRequest, connection: HttpConnection | None
) -> Upgrade:
    def serve(websocket: WebSocket) -> Awaitable[None]:
        if connection is not None and connection.stateful:
            return _serve_stateful(service, client, connection, websocket)
        return client.new_session(service, WebSocketTransport(websocket), connection).run()

    return _upgrade(service, serve)


def _upgrade(service: Service, serve: Callable[[WebSocket], Awaitable[None]]) -> Upgrade:
    return Upgrade(serve, max_message_size=service.options.max_read)


def _serve_stateful(
    service: Service, client: ClientRequest, connection: HttpConnection, websocket: WebSocket
) -> Awaitable[None]:
    options = service.options
    transport = StatefulTransport(
        window=options.reconnect_window, max_message_size=options.max_message_size
    )
    # It outlives its WebSockets.
    service.serve_apart(client.new_session(service, transport, connection))
    return transport.carry(websocket)


def _event_stream(service: Service, client: ClientRequest, connection: HttpConnection) -> Streaming:
    def serve(body: ResponseBody) -> Awaitable[None]:
        transport = EventStreamTransport(body, connection.posted)
        return client.new_session(service, transport, connection).run()

    def left() -> None:
        connection.posted.end("the client has left")

    return Streaming(serve, left, headers=server_sent_events.HEADERS)


# -- later requests -------------------------------------------------------------------------


def _again(
    service: Service, connection: HttpConnection, current: ClientTransport, transport: str | None
) -> Answer:
    """A GET on a connection that has its transport."""
    if current.name != transport:
        return _text(transport, 400, "Cannot change transports mid-connection")
    if isinstance(current, StatefulTransport) and current.may_go_on:
        return _upgrade(service, current.carry)
    if isinstance(current, LongPollingTransport):
        return _poll(service, current)
    ends = connection.session is not None and connection.session.gone
    return _unknown_id(transport) if ends else Response(409, headers=[_PLAIN])


def _poll(service: Service, transport: LongPollingTransport) -> Pending:
    async def respond() -> Response:
        found = await transport.poll(service.options.poll_timeout)
        if isinstance(found, bytes):
            return Response(200, found, [_BINARY, *_NOT_KEPT])
        return Response(200 if found is Nothing.IN_TIME else 204, headers=[_PLAIN, *_NOT_KEPT])

    return Pending(respond)


async def _post(service: Service, connection: HttpConnection, data: bytes) -> Response | Pending:
    if isinstance(connection.transport, (WebSocketTransport, StatefulTransport)):
        return text_response(405, "POST requests are not allowed for WebSocket connections.")
    if len(data) > service.options.max_read:
        return Response(413, headers=[_PLAIN])

    async def respond() -> Response:
        await connection.posted.post(data)
        return Response(200, headers=[_PLAIN])

    # What waits is watched, which costs a task: it is not kept for who has left.
    return await respond() if connection.posted.has_room(len(data)) else Pending(respond)


def _delete(service: Service, connection: HttpConnection) -> Response:
    if connection.session is None or not isinstance(connection.transport, LongPollingTransport):
        error = "Cannot terminate this connection using the DELETE endpoint."
        return text_response(400, error)
    connection.session.close()
    # A poll that waits takes the Close; for whoever comes later there is nothing.
    connection.transport.deleted()
    service.http_connections.pop(connection.token, None)
    return Response(202, headers=[_PLAIN])


def _unknown_id(transport: str | None) -> Response:
    if transport == "WebSockets":
        return Response(404, _UNKNOWN_ID.encode())
    return _text(transport, 404, _UNKNOWN_ID)


def _text(transport: str | None, status: int, text: str) -> Response:
    """An error; of a poll it is not kept either."""
    headers = _NOT_KEPT if transport == "LongPolling" else ()
    return Response(status, text.encode(), [_PLAIN, *headers])


def _forwarded(request: Request) -> dict[str, list[str | None]]:
    address = request.header("x-forwarded-for") or request.client
    return {} if address is None else {"X-Forwarded-For": [address]}
