"""The claims of a client that is there: messages 41 to 43."""

from __future__ import annotations

import pytest
import trio
from harness.clients import claims_for
from harness.cluster import open_cluster, settle
from harness.servers import ScriptedConnection, ScriptedServer
from msgpack import Timestamp

from signalr_trio.protocol.service_messages import (
    NO_EXPIRY,
    Ack,
    AckStatus,
    Claims,
    GetConnectionClaims,
    RefreshAuth,
    ServiceMessage,
    UpdateConnectionClaims,
)
from signalr_trio.protocol.service_protocol import read_claims

OLD = claims_for("ann", ("role", "user"), ("asrs.s.derror", "True"), ("asrs.s.aeo", "50"))
NEW = claims_for("ann", ("role", "admin"), ("role", "user"))


async def ask(one: ScriptedConnection, message: ServiceMessage) -> tuple[int, Claims | None]:
    """Status and claims of the ack; there must be exactly one."""
    before = len(one.of(Ack))
    one.send(message)
    await settle()
    (ack,) = one.of(Ack)[before:]
    assert ack.ack_id == 7
    return ack.status, None if ack.payload is None else read_claims(ack.payload)


def updates(server: ScriptedServer) -> list[UpdateConnectionClaims]:
    return [update for one in server.connections for update in one.of(UpdateConnectionClaims)]


async def test_the_claims_of_a_client(autojump_clock) -> None:
    """Whichever server asks."""
    async with open_cluster() as cluster:
        await cluster.scripted("A")
        await cluster.client("c", claims=OLD)
        b = await cluster.scripted("B")
        assert await ask(b.connections[0], GetConnectionClaims("c", 7)) == (AckStatus.OK, OLD)


async def test_a_client_that_is_not_there(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        other = await cluster.scripted("B", hub="other")
        client = await cluster.client("c", claims=OLD)
        one, elsewhere = a.connections[0], other.connections[0]
        gone = AckStatus.NOT_FOUND, None
        assert await ask(one, GetConnectionClaims("nobody", 7)) == gone
        assert await ask(one, RefreshAuth("nobody", NEW, NO_EXPIRY, 7)) == gone
        assert await ask(elsewhere, GetConnectionClaims("c", 7)) == gone
        client.leave()
        await settle()
        assert await ask(one, GetConnectionClaims("c", 7)) == gone


@pytest.mark.parametrize("expires", [Timestamp(99, 5), NO_EXPIRY])
async def test_a_new_login(autojump_clock, expires: Timestamp) -> None:
    """The former claims come back, the client's server is told of the new ones."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client("c", claims=OLD)
        b = await cluster.scripted("B")
        asked = RefreshAuth("c", [("asrs.s.aeo", "1"), *NEW], expires, 7)
        assert await ask(b.connections[0], asked) == (AckStatus.OK, OLD)
        end = [("asrs.s.aeo", "99")] if expires != NO_EXPIRY else []
        claims = [*NEW, *end, ("asrs.s.derror", "True")]
        assert updates(a) == [UpdateConnectionClaims("c", claims)]
        assert updates(b) == []
        assert await ask(b.connections[0], GetConnectionClaims("c", 7)) == (AckStatus.OK, claims)


@pytest.mark.parametrize("claims", [claims_for("bob"), []])
async def test_a_client_stays_who_it_is(autojump_clock, claims: Claims) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client("c", claims=OLD)
        refused = AckStatus.FORBIDDEN, None
        assert await ask(a.connections[0], RefreshAuth("c", claims, NO_EXPIRY, 7)) == refused
        assert await ask(a.connections[0], GetConnectionClaims("c", 7)) == (AckStatus.OK, OLD)
        assert updates(a) == []


async def test_a_hand_over_takes_the_claims_of_now(autojump_clock) -> None:
    """Rule 22."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client("c", claims=OLD)
        b = await cluster.scripted("B")
        a.fin()
        await settle()
        assert a.connections[0].migrating_closes_of("c") == ["B"]
        await ask(b.connections[0], RefreshAuth("c", NEW, NO_EXPIRY, 7))
        a.connections[0].release("c")
        await trio.sleep(1)
        assert b.opened["c"].claims == [*NEW, ("asrs.s.derror", "True")]


async def test_no_server_tells_the_service_of_new_claims(autojump_clock, caplog) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client("c", claims=OLD)
        a.connections[0].send(UpdateConnectionClaims("c", NEW))
        await settle()
        assert await ask(a.connections[0], GetConnectionClaims("c", 7)) == (AckStatus.OK, OLD)
        assert "update of the claims of client c was refused" in caplog.text
