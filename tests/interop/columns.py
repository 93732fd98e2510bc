"""What of SignalR is run: the columns and cells of the table, and what the spec leaves out of it."""

from __future__ import annotations

import attrs

from tests.interop.deployments import DEPLOYMENTS, Kind
from tests.interop.features import FEATURES

__all__ = ["CLIENTS", "Cell", "Column", "cells", "columns", "left_out"]

#: What our service offers.
TRANSPORTS = ("WebSockets",)
ALL_TRANSPORTS = ("WebSockets", "ServerSentEvents", "LongPolling")
#: Features that it does not have yet.
MISSING = frozenset({"stateful reconnect"})
PROTOCOLS = ("json", "messagepack")
#: What each client is asked to do: all, or what it can.
CLIENTS: dict[str, tuple[str, ...]] = {
    "JavaScript": tuple(FEATURES),
    "signalrcore": ("invoke", "stream down", "group"),
    "pysignalr": ("invoke", "stream down", "group"),
}


@attrs.frozen
class Column:
    client: str
    transport: str
    protocol: str
    deployment: str

    @property
    def kind(self) -> Kind:
        return DEPLOYMENTS[self.deployment]


@attrs.frozen
class Cell:
    feature: str
    column: Column
    moving: bool
    """Whether the hub server is stopped in the middle of the feature."""

    @property
    def id(self) -> str:
        column = self.column
        words = [column.deployment, column.client, column.transport, column.protocol, self.feature]
        return "-".join([*words, *(["hand-over"] if self.moving else [])]).replace(" ", "-")


def columns() -> list[Column]:
    found: list[Column] = []
    for name, kind in DEPLOYMENTS.items():
        for transport in _transports(kind):
            for protocol in PROTOCOLS:
                if (transport, protocol) != ("ServerSentEvents", "messagepack"):
                    found.append(Column("JavaScript", transport, protocol, name))
        if name in ("fleet", "aspnetcore"):
            others = [client for client in CLIENTS if client != "JavaScript"]
            found += [Column(client, "WebSockets", "json", name) for client in others]
    return found


def _transports(kind: Kind) -> tuple[str, ...]:
    if kind.reference:
        return ALL_TRANSPORTS
    # Where it is the servers that differ, one transport shows what there is to see.
    return TRANSPORTS if kind.undisturbed else TRANSPORTS[:1]


def left_out(feature: str, column: Column) -> str | None:
    """Why the spec, or the deployment, does not have a feature there."""
    only_on = FEATURES[feature].only_on
    if only_on and not {column.transport, column.protocol} & set(only_on):
        return feature
    return None


def cells() -> list[Cell]:
    """All that is run."""
    return [
        Cell(feature, column, moving)
        for column in columns()
        for feature in CLIENTS[column.client]
        if left_out(feature, column) is None and (column.kind.reference or feature not in MISSING)
        for moving in (False, True)
        if (column.kind.replaces if moving else column.kind.undisturbed)
    ]
