"""What a server is, and when it is offline (rules 1, 2 and 4)."""

from __future__ import annotations

import pytest
import trio
from harness.cluster import open_cluster, settle


async def test_every_fin_is_answered_at_once_repeats_too(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", connections=2)
        first, second = a.connections
        for value in ("fin:2", "fin:2", "fin:1", "fin:1"):
            first.fin(value)
        await settle()
        assert (first.finacks, second.finacks) == (4, 0)
        second.fin("fin:1")
        await settle()
        assert (first.finacks, second.finacks) == (4, 1)


@pytest.mark.parametrize("value", ["fin:0", "fin:2"])
async def test_clients_stay_with_a_server_that_is_merely_offline(
    autojump_clock, value: str
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client()
        await cluster.scripted("B")
        a.fin(value)
        await trio.sleep(60)
        assert a.connections[0].closes_of("c") == []
        client.send("f")
        await settle()
        assert len(a.data_of("c")) == 1


async def test_a_restart_under_the_same_id_is_another_server(autojump_clock) -> None:
    """Own servers say which process they are."""
    async with open_cluster() as cluster:
        old = await cluster.scripted("A", instance="1")
        await cluster.client()
        old.fin()
        new = await cluster.scripted("A", instance="2")
        await settle()
        assert old.connections[0].migrating_closes_of("c") == ["A"]
        old.connections[0].release("c")
        await settle()
        assert "c" in new.opened


async def test_a_connection_of_the_same_process_belongs_to_the_server_that_goes(
    autojump_clock,
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client()
        a.fin()
        late = a.connect()
        await trio.sleep(60)
        assert late.is_up
        assert a.connections[0].closes_of("c") == []


async def test_a_nameless_late_comer_takes_none_of_the_old_ones_clients_for_a_while(
    autojump_clock,
) -> None:
    """It may be a connection of the very process that goes; new clients may come to it."""
    async with open_cluster() as cluster:
        old = await cluster.scripted("A", own=False)
        await cluster.client()
        old.fin()
        await trio.sleep(1.5)
        new = await cluster.scripted("A", own=False)
        await cluster.client("new")
        await trio.sleep(4.5)
        assert list(new.opened) == ["new"]
        assert old.connections[0].closes_of("c") == []
        await trio.sleep(2)
        assert "c" in new.opened


async def test_a_released_client_waits_for_a_nameless_late_comer(autojump_clock) -> None:
    """The same where the client is with no server meanwhile."""
    async with open_cluster() as cluster:
        old = await cluster.scripted("A", own=False)
        client = await cluster.client()
        old.fin()
        await old.connections[0].lose()
        await settle()
        new = await cluster.scripted("A", own=False)
        assert new.opened == {}
        await trio.sleep(6.5)
        assert "c" in new.opened
        assert client.close is None


async def test_an_own_server_is_drained_when_it_has_asked_on_all_its_connections(
    autojump_clock,
) -> None:
    """Rule 4: then all that its hooks sent has passed."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", connections=2)
        await cluster.client()
        await cluster.scripted("B")
        a.fin("fin:2")
        await trio.sleep(3)
        a.connections[0].fin("fin:1")
        await trio.sleep(0.9)
        assert a.one_with("c").closes_of("c") == []
        a.connections[1].fin("fin:1")
        await settle()
        assert len(a.one_with("c").closes_of("c")) == 1


@pytest.mark.parametrize("lost", [False, True])
async def test_a_connection_that_does_not_ask_holds_up_the_rest_for_a_second_at_the_most(
    autojump_clock, lost: bool
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", connections=2)
        await cluster.client()
        await cluster.scripted("B")
        asking = a.one_with("c")
        (silent,) = [one for one in a.connections if one is not asking]
        asking.fin("fin:1")
        await settle()
        assert asking.closes_of("c") == []
        if lost:
            await silent.lose()
            await settle()
        else:
            await trio.sleep(1.01)
        assert len(asking.closes_of("c")) == 1


async def test_the_moment_of_an_sdk_server_for_its_hooks(autojump_clock) -> None:
    """Its hooks run after FINACK, and nothing shows when they are over."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A", own=False)
        await cluster.client()
        await cluster.scripted("B")
        a.fin()
        await trio.sleep(0.9)
        assert a.connections[0].closes_of("c") == []
        await trio.sleep(0.2)
        assert a.connections[0].migrating_closes_of("c") == ["B"]
