"""The encodings of the hub protocol, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.json import JsonProtocol
from signalr_trio.protocol.messagepack import MessagePackProtocol

__all__ = ["HUB_PROTOCOLS", "hub_protocol"]

_PROTOCOLS: Final[tuple[HubProtocol, ...]] = (JsonProtocol(), MessagePackProtocol())

HUB_PROTOCOLS: Final[Mapping[str, HubProtocol]] = MappingProxyType(
    {protocol.name: protocol for protocol in _PROTOCOLS}
)
"""Each encoding, without a hook for unknown values, by its name in lower case."""


def hub_protocol(name: str) -> HubProtocol | None:
    """The encoding of that name, in any case, as in a handshake request; None if there is none."""
    return HUB_PROTOCOLS.get(name.lower())
