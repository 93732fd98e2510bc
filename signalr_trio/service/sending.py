"""What hub servers and the REST API do to many clients at once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from signalr_trio.transport.client_transport import SharedPayload

if TYPE_CHECKING:
    from signalr_trio.service.session import ClientSession

__all__ = ["close", "send"]

log = logging.getLogger("signalr_trio.service")


def send(
    sessions: Iterable[ClientSession],
    payloads: Mapping[str, bytes],
    excluded: Collection[str] = (),
) -> None:
    """One payload to many: encoded by the sender, framed once for each hub protocol."""
    shared: dict[str, SharedPayload] = {}
    skip = frozenset(excluded)
    for session in sessions:
        if session.id in skip:
            continue
        name = session.protocol.name
        if name not in shared:
            payload = payloads.get(name)
            if payload is None:
                log.warning("a send has no payload for protocol %s: not sent", name)
                continue
            shared[name] = SharedPayload(payload, binary=session.protocol.binary)
        session.deliver(shared[name])


def close(
    sessions: Iterable[ClientSession], reason: str | None, excluded: Collection[str] = ()
) -> None:
    """Says Close to each, with the reason; it may reconnect."""
    for session in sessions:
        if session.id not in excluded:
            session.close(reason)
