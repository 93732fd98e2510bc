"""Moves the clients of a server that goes, a bounded number at a time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from signalr_trio.service.hand_over import HandOver, Slot

if TYPE_CHECKING:
    from signalr_trio.service.server_connection import Server
    from signalr_trio.service.service import Service
    from signalr_trio.service.session import ClientSession

__all__ = ["drain"]

#: Own servers ask on each of their connections; one that is late does not hold up the rest.
_ALL_ASKED = 1.0


async def drain(service: Service, server: Server) -> None:
    """Hands over every client of ``server`` that may move, until the last connection has gone.

    A client that may not move yet, or for which there is no target, stays where it is and is
    served: this looks again whenever something has changed.
    """
    await _wait_for_hooks(service, server)
    while server.connections:
        moved = False
        for session in _next_to_move(service, server):
            await service.slots.acquire()
            slot = Slot(service.slots)
            elsewhere = service.has_server(session.hub, leaving=server)
            if _may_move(server, session, elsewhere=elsewhere):
                session.nursery.start_soon(HandOver(session, slot).run)
                moved = True
            else:
                slot.give_back()
        if not moved:
            await server.look_again.park()


async def _wait_for_hooks(service: Service, server: Server) -> None:
    """An own server says on each connection that its hooks are over; of others we cannot know."""
    if server.releases:
        with trio.move_on_after(_ALL_ASKED):
            await server.all_asked.wait()
    else:
        await trio.sleep_until(server.finack_at + service.options.polite_grace)


def _next_to_move(service: Service, server: Server) -> list[ClientSession]:
    """The clients that may move now, one of each connection in turn.

    A server that does not release keeps one client until the others are done: as long as it is
    there, the SDK closes no connection, and so lets the ``OnDisconnected`` of the others end. It
    is kept as long as the budget lasts: the others may be slow to get elsewhere.
    """
    queues = [list(connection.sessions.values()) for connection in server.connections]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    # Asked once for each hub: of thousands of clients, here is where all others would wait.
    elsewhere = {
        connection.hub: service.has_server(connection.hub, leaving=server)
        for connection in server.connections
    }
    movable = [
        session
        for session in in_turn
        if session is not None and _may_move(server, session, elsewhere=elsewhere[session.hub])
    ]
    others_first = not server.releases and not _is_budget_over(service, server)
    if others_first and (len(movable) > 1 or server.moving):
        return movable[:-1]
    return movable


def _is_budget_over(service: Service, server: Server) -> bool:
    return trio.current_time() - (server.fin_at or 0.0) >= service.options.polite_budget


def _may_move(server: Server, session: ClientSession, *, elsewhere: bool) -> bool:
    """Whether a client that was with ``server`` is to leave it now.

    ``elsewhere``: whether there is another server for the clients of its hub.
    """
    connection = session.connection
    if connection is None or connection.server is not server or not session.may_move:
        return False
    if session.is_bound:
        # An own server lets it go by itself; for another we do, when its calls have ended.
        return not server.releases
    return elsewhere
