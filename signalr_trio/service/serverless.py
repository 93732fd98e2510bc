"""Serverless and classic mode: who serves the clients that no hub server has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from signalr_trio.errors import ConfigurationError
from signalr_trio.link.link import Link
from signalr_trio.service.options import ServiceMode, ServiceOptions
from signalr_trio.service.service import Service
from signalr_trio.upstream import Upstream, open_upstreams
from signalr_trio.upstream.webhook import Answer, Send, UpstreamFailed, Webhook

__all__ = ["checked_mode", "serverless"]

_SERVER_ID = "serverless"


def checked_mode(mode: ServiceMode | str, upstreams: Sequence[Upstream]) -> ServiceMode:
    """Raises ConfigurationError for a mode that there is not, or that has no use for upstreams."""
    try:
        found = ServiceMode(mode)
    except ValueError:
        known = ", ".join(one.value for one in ServiceMode)
        raise ConfigurationError(f"service mode {mode!r} is not one of {known}") from None
    if upstreams and found is ServiceMode.DEFAULT:
        raise ConfigurationError(
            "in default mode hub servers serve the clients: upstreams need mode serverless or classic"
        )
    return found


@asynccontextmanager
async def upstream_sender(
    upstreams: Sequence[Upstream], options: ServiceOptions
) -> AsyncGenerator[Send]:
    """What posts to the upstreams.

    Raises ConfigurationError if it is not installed and there are any.
    """
    if not upstreams:
        yield _nowhere
        return
    try:
        from signalr_trio.upstream.sender import open_sender
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"upstreams need {missing.name}: pip install 'signalr-trio[serverless]'"
        ) from None
    timeout, connections = options.upstream_timeout, options.upstream_connections
    async with open_sender(timeout=timeout, connections=connections) as send:
        yield send


async def _nowhere(webhook: Webhook) -> Answer:
    raise UpstreamFailed(f"there is no upstream for {webhook.shown_url}")


@asynccontextmanager
async def serverless(
    service: Service,
    upstreams: Sequence[Upstream],
    keys: Sequence[str],
    send: Send,
    background: trio.Nursery,
) -> AsyncGenerator[None]:
    """During the block clients without a hub server are served, if the mode of ``service`` is so.

    The block is to contain ``service.running()``, so that its last words are heard.
    """
    if service.mode is ServiceMode.DEFAULT:
        yield
        return

    def join(hub: str, link: Link) -> None:
        serve = partial(service.serve_server, server_id=_SERVER_ID, cid=service.new_id())
        background.start_soon(serve, hub, link)

    async with open_upstreams(upstreams, keys=keys, send=send, join=join) as server:
        service.serve_without_server = server.serve
        yield
