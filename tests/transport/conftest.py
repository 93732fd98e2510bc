"""A running flusher for every test of this directory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from signalr_trio.transport.stream import Flusher


@pytest.fixture
async def flusher() -> AsyncIterator[Flusher]:
    flusher = Flusher()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        yield flusher
        nursery.cancel_scope.cancel()
