"""How a server that is ours says that it *released* a client, and hands over its state.

The official protocol has no sign for it. Where both ends agreed on it, the old server answers a
migrating ``CloseConnection`` with one of its own that carries the header below; without the header
it is the hub's abort. The state goes along as base64, and on to the new server in its
``OpenConnection``.
"""

from __future__ import annotations

import base64

from signalr_trio.protocol.service_messages import CloseConnection, Headers, header

__all__ = ["release", "released", "state_header", "state_in"]

_RELEASED = "X-SignalR-Trio-Released"
_STATE = "X-SignalR-Trio-State"


def release(connection_id: str, state: bytes | None) -> CloseConnection:
    """The message with which a server lets a client go to another server."""
    headers: Headers = {_RELEASED: ["1"]}
    if state is not None:
        headers |= state_header(state)
    return CloseConnection(connection_id, headers=headers)


def released(message: CloseConnection) -> bool:
    """Whether a close is a release, and not the hub's abort."""
    return header(message.headers, _RELEASED) is not None


def state_header(state: bytes) -> Headers:
    return {_STATE: [base64.b64encode(state).decode("ascii")]}


def state_in(headers: Headers) -> bytes | None:
    """The state that was handed over; None if there is none, or it cannot be read."""
    text = header(headers, _STATE)
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error is one, and so is that of what is not ASCII
        return None
