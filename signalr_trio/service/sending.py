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
        protocol = session.protocol
        made = shared.get(protocol.name)
        if made is None:
            payload = payloads.get(protocol.name)
            if payload is None:
                log.warning("a send has no payload for protocol %s: not sent", protocol.name)
                continue
            made = shared[protocol.name] = SharedPayload(payload, binary=protocol.binary)
        session.deliver(made)


def close(
    sessions: Iterable[ClientSession], reason: str | None, excluded: Collection[str] = ()
) -> None:
    """Says Close to each, with the reason; it may reconnect."""
    for session in sessions:
        if session.id not in excluded:
            session.close(reason)
