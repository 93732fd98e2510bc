"""The processes that the tests run, where it matters in which order they tell what happens."""

from __future__ import annotations

import sys

from tests.peers import Peer, run_peer


async def test_a_first_client_can_come_before_the_server_says_that_it_has_started() -> None:
    tells = ['{"ev": "connected", "id": "c"}', '{"ev": "started", "port": 5000}']
    async with run_peer(Peer, [sys.executable, "-c", f"print(*{tells}, sep='\\n')"]) as peer:
        assert peer.url == "http://127.0.0.1:5000"
