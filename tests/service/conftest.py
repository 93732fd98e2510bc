"""What calls of the REST API are made in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from harness.room import Room, open_room


@pytest.fixture
async def room(autojump_clock) -> AsyncIterator[Room]:
    async with open_room() as room:
        yield room
