"""Group membership of one hub: by connection, and by user."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from signalr_trio.service.session import ClientSession

__all__ = ["LARGEST_PAGE", "Groups"]

LARGEST_PAGE = 200
"""Members that are listed at once, at the most."""
#: Memberships that have ended count no more at once, and take room for so many seconds at the most.
_LOOK_EVERY = 60.0


class Groups:
    """Who is in which group. A connection leaves with its client; a user stays until told."""

    def __init__(self, users: Mapping[str, Mapping[ClientSession, None]]) -> None:
        self._users = users
        self._sessions: dict[str, dict[ClientSession, None]] = {}
        self._members: dict[str, dict[str, float | None]] = {}
        """Group -> user id -> when the membership ends (None: never)."""
        self._joined: dict[str, dict[str, None]] = {}
        """User id -> groups, of these memberships."""
        self._timed: dict[str, None] = {}
        """Groups in which a membership may end."""
        self._look_at = 0.0

    def join(self, session: ClientSession, group: str) -> None:
        self._sessions.setdefault(group, {})[session] = None
        session.joined[group] = None

    def leave(self, session: ClientSession, group: str) -> None:
        session.joined.pop(group, None)
        members = self._sessions.get(group)
        if members is not None:
            members.pop(session, None)
            if not members:
                del self._sessions[group]

    def leave_all(self, session: ClientSession) -> None:
        for group in list(session.joined):
            self.leave(session, group)

    def user_join(self, user_id: str, group: str, ttl: float | None) -> None:
        """Takes a user into a group for ``ttl`` seconds, or for good.

        With 0 only the clients that the user has now come in (swagger of the REST API).
        """
        if ttl == 0:
            for session in self._users.get(user_id, ()):
                self.join(session, group)
            return
        ends = None if ttl is None else trio.current_time() + ttl
        self._members.setdefault(group, {})[user_id] = ends
        self._joined.setdefault(user_id, {})[group] = None
        if ends is not None:
            self._timed[group] = None

    def _forget_ended(self, group: str, now: float) -> None:
        for user_id, ends in list(self._members.get(group, {}).items()):
            if ends is not None and ends <= now:
                self.user_leave(user_id, group)

    def user_leave(self, user_id: str, group: str | None) -> None:
        """Takes a user out of a group, or of all groups."""
        joined = self._joined.get(user_id, {})
        for name in list(joined) if group is None else [group]:
            if name in joined:
                del joined[name], self._members[name][user_id]
                if not self._members[name]:
                    del self._members[name]
                    self._timed.pop(name, None)
        if not joined:
            self._joined.pop(user_id, None)

    def members(self, group: str) -> list[ClientSession]:
        """The clients in a group, each once."""
        found = self._sessions.get(group, {})
        if group not in self._members:
            return list(found)
        self._forget_ended(group, trio.current_time())
        merged = dict(found)
        for user_id in self._members.get(group, ()):
            merged |= self._users.get(user_id, {})
        return list(merged)

    def of(self, session: ClientSession) -> Collection[str]:
        """The groups that a client is in: by itself, or with its user."""
        user_id = session.user_id
        if user_id is None or user_id not in self._joined:
            return session.joined
        now = trio.current_time()
        by_user = {
            group
            for group in self._joined[user_id]
            if (ends := self._members[group][user_id]) is None or ends > now
        }
        return by_user.union(session.joined)

    def tick(self, now: float) -> None:
        """Forgets the memberships that have ended: of their groups nobody may ever ask again."""
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY
        for group in list(self._timed):
            self._forget_ended(group, now)
            if all(ends is None for ends in self._members.get(group, {}).values()):
                self._timed.pop(group, None)

    def page(self, group: str, after: str, size: int) -> tuple[list[ClientSession], bool]:
        """The members behind the connection id ``after``, by id; and whether there are more.

        An id marks the place, so who comes or leaves between two pages shifts nothing.
        """
        size = min(size, LARGEST_PAGE)
        later = [one for one in self.members(group) if one.id > after]
        found = heapq.nsmallest(size + 1, later, key=lambda one: one.id)
        return found[:size], len(found) > size
