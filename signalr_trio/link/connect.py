"""Opens links from a hub server to a service elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from signalr_trio.connection_string import Endpoint
from signalr_trio.errors import ConfigurationError
from signalr_trio.link.link import Link
from signalr_trio.link.websocket import WebSocketLink, agreement_header, agreement_in
from signalr_trio.tokens import NAME_IDENTIFIER, make_token
from signalr_trio.transport.network import TCP, Network
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import UpgradeRefused, connect_websocket

__all__ = ["websocket_connector"]

_USER_AGENT = "signalr_trio"
_UNAUTHORIZED = 401


def websocket_connector(
    endpoint: Endpoint,
    *,
    server_id: str,
    instance: str,
    flusher: Flusher,
    network: Network = TCP,
) -> Callable[[str, str, str | None], AbstractAsyncContextManager[Link]]:
    """A connector for ``HubServer.run``: each link is a WebSocket to ``endpoint``.

    The agreement on releasing holds where the service answers our header with its own; the
    instance id in it is the one that we sent.

    Raises ConfigurationError for a server id that cannot be in a header.
    """
    printable = server_id.isascii() and server_id.isprintable()
    if not printable or not server_id or server_id != server_id.strip():
        raise ConfigurationError(
            f"the server id {server_id!r} must be printable ASCII: it is sent in a header"
        )

    @asynccontextmanager
    async def connect(hub: str, cid: str, target: str | None) -> AsyncGenerator[Link]:
        token = make_token(
            endpoint.access_key, endpoint.server_audience(hub), [(NAME_IDENTIFIER, server_id)]
        )
        headers = [
            ("Authorization", f"Bearer {token}"),
            ("X-ASRS-Server-Id", server_id),
            ("Asrs-User-Agent", _USER_AGENT),
            agreement_header(instance),
        ]
        url = endpoint.server_connection_url(hub, cid, target)
        try:
            async with connect_websocket(
                url, headers=headers, flusher=flusher, max_message_size=None, network=network
            ) as websocket:
                yield WebSocketLink(websocket, agreement_in(websocket.response_headers))
        except UpgradeRefused as refused:
            if refused.status != _UNAUTHORIZED:
                raise
            text = f"{refused}: another access key than the service's, or a clock that is wrong"
            raise UpgradeRefused(text, status=refused.status) from refused

    return connect
