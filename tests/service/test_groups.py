"""Group membership, and the questions and orders that are answered by an ack (rule 20)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing
from harness.census import names_in
from harness.clients import JSON, Client, claims_for
from harness.cluster import Cluster, open_cluster, settle
from harness.servers import ScriptedServer
from hypothesis import given
from hypothesis import strategies as st

from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol.messages import Invocation
from signalr_trio.protocol.service_protocol import read_group_member_page
from signalr_trio.service.groups import Groups

OK, NOT_FOUND = m.AckStatus.OK, m.AckStatus.NOT_FOUND
PAYLOADS = {"json": JSON.write(Invocation("hi", []))}


@attrs.frozen
class Room:
    cluster: Cluster
    a: ScriptedServer
    clients: dict[str, Client]

    async def ask(self, message: m.ServiceMessage) -> int:
        """The status of the ack; fails if there is not exactly one."""
        connection = self.a.connections[0]
        before = len(connection.of(m.Ack))
        connection.send(message)
        await settle()
        (ack,) = connection.of(m.Ack)[before:]
        assert ack.ack_id == message.ack_id  # type: ignore[attr-defined]
        return ack.status

    async def tell(self, message: m.ServiceMessage) -> None:
        """For messages without an ack: there must be none."""
        before = len(self.a.connections[0].of(m.Ack))
        self.a.connections[0].send(message)
        await settle()
        assert len(self.a.connections[0].of(m.Ack)) == before

    async def members(self, group: str) -> str:
        """Who hears a send to the group, in one string."""
        before = {id: len(client.calls) for id, client in self.clients.items()}
        await self.tell(m.GroupBroadcastData(group, [], PAYLOADS))
        counts = {id: len(client.calls) - before[id] for id, client in self.clients.items()}
        assert set(counts.values()) <= {0, 1}
        return "".join(id for id, count in counts.items() if count)


@pytest.fixture
async def room(autojump_clock) -> AsyncIterator[Room]:
    """Clients 1 and 2 of ann, 3 of bob."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        users = {"1": "ann", "2": "ann", "3": "bob"}
        clients = {id: await cluster.client(id, claims=claims_for(users[id])) for id in users}
        yield Room(cluster, a, clients)


async def test_joining_and_leaving(autojump_clock, room: Room) -> None:
    await room.tell(m.JoinGroup("1", "g"))
    assert await room.ask(m.JoinGroupWithAck("3", "g", 7)) == OK
    assert await room.ask(m.JoinGroupWithAck("3", "g", 8)) == OK
    assert await room.members("g") == "13"
    await room.tell(m.LeaveGroup("1", "g"))
    assert await room.members("g") == "3"
    assert await room.ask(m.LeaveGroupWithAck("3", "g", 9)) == OK
    assert await room.ask(m.LeaveGroupWithAck("3", "never", 10)) == OK
    assert await room.members("g") == ""


async def test_leaving_all_groups(autojump_clock, room: Room) -> None:
    for group in "gh":
        await room.tell(m.JoinGroup("1", group))
        await room.tell(m.JoinGroup("2", group))
    await room.tell(m.LeaveGroup("1", None))
    assert await room.ask(m.LeaveGroupWithAck("2", None, 1)) == OK
    assert await room.members("g") == await room.members("h") == ""


async def test_for_an_id_that_is_gone_no_membership_is_made(autojump_clock, room: Room) -> None:
    """Rule 20: ack 2; also when the id comes again."""
    room.clients["1"].leave()
    await settle()
    assert await room.ask(m.JoinGroupWithAck("1", "g", 1)) == NOT_FOUND
    assert await room.ask(m.LeaveGroupWithAck("1", "g", 2)) == NOT_FOUND
    await room.tell(m.JoinGroup("1", "g"))
    room.clients["1"] = await room.cluster.client("1")
    assert await room.members("g") == ""


async def test_a_client_that_goes_is_in_no_group(autojump_clock, room: Room) -> None:
    await room.tell(m.JoinGroup("1", "g"))
    assert await room.ask(m.CheckGroupExistenceWithAck("g", 1)) == OK
    room.clients["1"].leave()
    await settle()
    assert await room.ask(m.CheckGroupExistenceWithAck("g", 2)) == NOT_FOUND


async def test_groups_go_on_in_a_hand_over(autojump_clock, room: Room) -> None:
    """Rule 20: by connection id, from whichever server, at any time."""
    await room.cluster.scripted("B")
    room.a.fin()
    await settle()
    assert room.a.connections[0].migrating_closes_of("1")
    assert await room.ask(m.JoinGroupWithAck("1", "g", 1)) == OK
    room.a.connections[0].release("1")
    await settle()
    assert await room.members("g") == "1"
    assert await room.ask(m.LeaveGroupWithAck("1", "g", 2)) == OK
    assert await room.members("g") == ""


async def test_a_user_is_in_a_group_with_all_connections_later_ones_too(
    autojump_clock, room: Room
) -> None:
    await room.tell(m.UserJoinGroup("ann", "g"))
    assert await room.ask(m.UserJoinGroupWithAck("bob", "g", 1)) == OK
    room.clients["4"] = await room.cluster.client("4", claims=claims_for("ann"))
    assert await room.members("g") == "1234"
    # Once, also where it is in the group by its connection as well.
    await room.tell(m.JoinGroup("1", "g"))
    assert await room.members("g") == "1234"
    assert await room.ask(m.UserLeaveGroupWithAck("bob", "g", 2)) == OK
    await room.tell(m.UserLeaveGroup("ann", None))
    assert await room.members("g") == "1"


async def test_a_membership_with_a_time_ends(autojump_clock, room: Room) -> None:
    await room.tell(m.UserJoinGroup("ann", "g", ttl=10))
    await trio.sleep(9)
    assert await room.members("g") == "12"
    await trio.sleep(2)
    assert await room.members("g") == ""


async def test_memberships_that_have_ended_take_no_room(autojump_clock, room: Room) -> None:
    """Whose group nobody asks for again: a group for each visit of a user, say."""
    await room.tell(m.UserJoinGroup("guest", "room-ended", ttl=10))
    await room.tell(m.UserJoinGroup("guest", "room-lasting", ttl=3600))
    await room.tell(m.UserJoinGroup("guest", "room-ever"))
    await trio.sleep(120)
    groups = room.cluster.service.hub("chat").groups
    assert names_in([groups], "room-") == {"room-lasting", "room-ever"}
    await room.tell(m.UserLeaveGroup("guest", None))
    assert names_in([groups], "room-") == set()


async def test_a_membership_without_time_is_for_who_is_there(autojump_clock, room: Room) -> None:
    assert await room.ask(m.UserJoinGroupWithAck("ann", "g", 1, ttl=0)) == OK
    room.clients["4"] = await room.cluster.client("4", claims=claims_for("ann"))
    assert await room.members("g") == "12"


USERS, GROUPS = st.sampled_from(["ann", "bob"]), st.sampled_from("ghi")
CHANGES = st.one_of(
    st.tuples(st.just("join"), USERS, GROUPS, st.sampled_from([None, 1, 5])),
    st.tuples(st.just("leave"), USERS, st.none() | GROUPS),
    st.tuples(st.just("connection joins"), USERS, GROUPS),
    st.tuples(st.just("sleep"), st.sampled_from([0.5, 2, 100])),
)


@attrs.frozen(eq=False)
class Member:
    user_id: str
    joined: dict[str, None] = attrs.field(factory=dict)


@given(st.lists(CHANGES, max_size=30))
def test_who_is_in_which_group_is_what_was_said(changes: list) -> None:
    trio.run(_follow, changes, clock=trio.testing.MockClock(autojump_threshold=0))


async def _follow(changes: list) -> None:
    members = {user: Member(user) for user in ("ann", "bob")}
    groups = Groups({user: {member: None} for user, member in members.items()})
    ends: dict[tuple[str, str], float] = {}
    for what, *change in changes:
        if what == "join":
            user, group, ttl = change
            groups.user_join(user, group, ttl)
            ends[user, group] = trio.current_time() + ttl if ttl else float("inf")
        elif what == "leave":
            groups.user_leave(*change)
            gone = [one for one in ends if one[0] == change[0] and change[1] in (None, one[1])]
            for one in gone:
                del ends[one]
        elif what == "connection joins":
            groups.join(members[change[0]], change[1])
        else:
            await trio.sleep(*change)
            groups.tick(trio.current_time())
        inside = {one for one, end in ends.items() if end > trio.current_time()}
        inside |= {(user, group) for user, member in members.items() for group in member.joined}
        for user, member in members.items():
            assert set(groups.of(member)) == {group for one, group in inside if one == user}
        for group in "ghi":
            found = {member.user_id for member in groups.members(group)}
            assert found == {user for user, one in inside if one == group}


async def test_questions(autojump_clock, room: Room) -> None:
    await room.tell(m.JoinGroup("1", "g"))
    asked = [
        (m.CheckUserInGroupWithAck("ann", "g", 1), OK),
        (m.CheckUserInGroupWithAck("bob", "g", 2), NOT_FOUND),
        (m.CheckGroupExistenceWithAck("g", 3), OK),
        (m.CheckGroupExistenceWithAck("h", 4), NOT_FOUND),
        (m.CheckConnectionExistenceWithAck("1", 5), OK),
        (m.CheckConnectionExistenceWithAck("9", 6), NOT_FOUND),
        (m.CheckUserExistenceWithAck("ann", 7), OK),
        (m.CheckUserExistenceWithAck("eve", 8), NOT_FOUND),
    ]
    assert [await room.ask(message) for message, _ in asked] == [status for _, status in asked]


CLOSES = [
    (m.CloseConnectionWithAck("2", "because", 1), "2"),
    (m.CloseConnectionsWithAck("because", 1, ["1"]), "23"),
    (m.CloseUserConnectionsWithAck("ann", "because", 1, ["2"]), "1"),
    (m.CloseGroupConnectionsWithAck("g", "because", 1), "13"),
    (m.CloseGroupConnectionsWithAck("g", "because", 1, ["3"]), "1"),
]


@pytest.mark.parametrize(("message", "expected"), CLOSES)
async def test_orders_to_close(
    autojump_clock, room: Room, message: m.ServiceMessage, expected: str
) -> None:
    await room.tell(m.JoinGroup("1", "g"))
    await room.tell(m.JoinGroup("3", "g"))
    assert await room.ask(message) == OK
    closed = [id for id, client in room.clients.items() if client.over.is_set()]
    assert "".join(closed) == expected
    for id in closed:
        close = room.clients[id].close
        assert close is not None
        assert close.error == "because"
        assert len(room.a.connections[0].closes_of(id)) == 1


async def test_an_order_to_close_who_is_not_there(autojump_clock, room: Room) -> None:
    assert await room.ask(m.CloseConnectionWithAck("9", "because", 1)) == NOT_FOUND


# -- pages of members (message 40) ----------------------------------------------------------------


async def pages(
    room: Room, *, top: int | None = None, size: int | None = None
) -> list[list[tuple[str, str | None]]]:
    """All pages, as the SDK asks for them: until there is no token, or ``top`` is used up."""
    found: list[list[tuple[str, str | None]]] = []
    token = None
    while True:
        query = m.GroupMemberQuery("g", 1, top, token, size)
        assert await room.ask(query) == OK
        payload = room.a.connections[0].of(m.Ack)[-1].payload
        assert payload is not None
        page = read_group_member_page(payload)
        found.append(page.members)
        token = page.continuation_token
        top = None if top is None else top - len(page.members)
        if token is None or top == 0:
            return found


async def test_members_of_a_group(autojump_clock, room: Room) -> None:
    one, two, three = ("1", "ann"), ("2", "ann"), ("3", "bob")
    assert await pages(room) == [[]]
    await room.tell(m.JoinGroup("3", "g"))
    await room.tell(m.UserJoinGroup("ann", "g"))
    await room.tell(m.JoinGroup("1", "g"))
    assert await pages(room) == [[one, two, three]]
    assert await pages(room, size=2) == [[one, two], [three]]
    assert await pages(room, size=3) == [[one, two, three]]
    assert await pages(room, top=2) == [[one, two]]
    assert await pages(room, top=3, size=1) == [[one], [two], [three]]
    assert await pages(room, top=500, size=500) == [[one, two, three]]


async def test_a_page_has_200_members_at_most(autojump_clock, room: Room) -> None:
    for number in range(201):
        await room.cluster.client(f"m{number:03}", claims=claims_for("many"))
    await room.tell(m.UserJoinGroup("many", "g"))
    assert [len(page) for page in await pages(room, size=1000)] == [200, 1]


@pytest.mark.parametrize(("top", "size"), [(0, None), (-1, 5), (5, 0), (None, -(2**31))])
async def test_a_page_of_nothing_is_refused(
    autojump_clock, room: Room, top: int | None, size: int | None
) -> None:
    query = m.GroupMemberQuery("g", 1, top, None, size)
    assert await room.ask(query) == m.AckStatus.INTERNAL_SERVER_ERROR
