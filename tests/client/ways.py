"""Over which transports a client speaks which hub protocols."""

from __future__ import annotations

__all__ = ["WAYS"]

WAYS = [
    ("WebSockets", "json"),
    ("WebSockets", "messagepack"),
    ("ServerSentEvents", "json"),
    ("LongPolling", "json"),
    ("LongPolling", "messagepack"),
]
