"""Posts webhooks: kept connections, a bounded number of them, and limits of time and size."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpcore
import trio

from signalr_trio.upstream.webhook import Answer, Send, UpstreamFailed, Webhook

__all__ = ["open_sender"]

log = logging.getLogger("signalr_trio.upstream")

#: An answer may have so many bytes, as with the official emulator.
MAX_BODY = 16 << 20
#: Seconds that a connection is kept without a request; servers close theirs later than this.
_KEPT = 4.0


@asynccontextmanager
async def open_sender(
    *,
    timeout: float,
    connections: int,
    backend: httpcore.AsyncNetworkBackend | None = None,
) -> AsyncGenerator[Send]:
    """Posts webhooks during the block.

    ``timeout`` is for a whole answer, in seconds; so long a webhook may also wait for one of the
    ``connections``. Redirects are not followed, cookies not kept. ``backend`` makes connections in
    the place of TCP.
    """
    async with httpcore.AsyncConnectionPool(
        max_connections=connections, keepalive_expiry=_KEPT, network_backend=backend
    ) as pool:

        async def send(webhook: Webhook) -> Answer:
            with trio.move_on_after(timeout):
                try:
                    return await _post(pool, webhook)
                except UpstreamFailed:
                    raise
                except Exception as error:
                    # Errors of httpcore have no common root, and none of them may end more than
                    # this webhook.
                    log.debug("%s: %r", webhook.shown_url, error)
                    raise UpstreamFailed(_why(error)) from error
            raise UpstreamFailed(f"the upstream did not answer in {timeout:g} s")

        yield send


async def _post(pool: httpcore.AsyncConnectionPool, webhook: Webhook) -> Answer:
    body = bytearray()
    async with pool.stream(
        "POST", webhook.url, headers=webhook.headers, content=webhook.body
    ) as response:
        # Cancelled, not left: httpcore has generators in generators, which end only from within.
        with trio.CancelScope() as enough:
            async for data in response.aiter_stream():
                body += data
                if len(body) > MAX_BODY:
                    enough.cancel()
        if len(body) > MAX_BODY:
            raise UpstreamFailed("response too large")
        return Answer(response.status, bytes(body))


def _why(error: Exception) -> str:
    if isinstance(error, (httpcore.ConnectError, OSError, UnicodeError)):
        return "the upstream cannot be reached"
    if isinstance(error, (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)):
        return "the upstream ended the connection, or its answer is not HTTP"
    return f"{type(error).__name__}: it could not be posted"
