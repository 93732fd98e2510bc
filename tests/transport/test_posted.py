"""Posted: what a client posts, and what is kept of it."""

from __future__ import annotations

import pytest

from signalr_trio.errors import ConnectionClosed
from signalr_trio.transport.posted import Posted


async def test_what_came_before_the_end_is_received_and_nothing_else_is_kept() -> None:
    """Nobody receives behind the end: a client that goes on posting would fill the memory."""
    posted = Posted()
    await posted.post(b"a")
    posted.end("the end")
    await posted.post(b"b")
    assert await posted.receive() == b"a"
    with pytest.raises(ConnectionClosed, match="the end"):
        await posted.receive()
