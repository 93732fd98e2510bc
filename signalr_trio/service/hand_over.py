"""One client on its way from one hub server to another.

::

    hold -> migrating close -> released by the old server -> opened on the new one -> its answer
         -> what was held, in order -> attached

A server that does not release (every SDK server) is dealt with politely instead: what the client
begins is held until every call that was passed on has had its completion, and only then comes the
close, of which nothing more is heard.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

import trio

from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.handshake import parse_response
from signalr_trio.protocol.service_messages import (
    MIGRATE_TO,
    CloseConnection,
    ConnectionData,
    DataMessageType,
)
from signalr_trio.service.hold import Hold
from signalr_trio.service.open_calls import OpenCalls

if TYPE_CHECKING:
    from signalr_trio.service.server_connection import Server, ServerConnection
    from signalr_trio.service.session import ClientSession

__all__ = ["HandOver", "Slot"]

log = logging.getLogger("signalr_trio.service")

_LOST = "The connection to the hub server was lost."
_NO_TARGET = "The hub server has gone and no other can take over. Connect again."
_BOUND = "The hub server that this client is bound to is shutting down. Connect again."
_TIME_IS_UP = "The hub server is shutting down and this call did not end in time."


class _Phase(enum.Enum):
    WAITING_FOR_CALLS = enum.auto()
    WAITING_FOR_RELEASE = enum.auto()
    LEFT = enum.auto()
    """The old server has let the client go; no other has it yet."""
    WAITING_FOR_ANSWER = enum.auto()
    OVER = enum.auto()


class Slot:
    """A place among the hand-overs that are begun side by side; given back once."""

    def __init__(self, slots: trio.Semaphore | None = None) -> None:
        self._slots = slots

    def give_back(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


class HandOver:
    """What happens to one client between two servers.

    The methods are called by the session and its server connections, in the step in which
    something came in; ``run`` is the task that waits in between, in the session's nursery.
    """

    def __init__(self, session: ClientSession, slot: Slot) -> None:
        assert session.connection is not None
        self._session = session
        self._service = session.service
        self._slot = slot
        self._source: ServerConnection = session.connection
        self._from = self._source.server.id
        self._began = trio.current_time()
        self._phase = _Phase.WAITING_FOR_CALLS
        self._news = trio.lowlevel.ParkingLot()
        self._state: bytes | None = None
        self._hurried = False
        self._expected: Server | None = None
        session.hand_over = self
        self._source.server.moving += 1

    # -- the task ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Carries the client over, unless it leaves before the close, or one server ends it."""
        session = self._session
        try:
            if self._phase is _Phase.WAITING_FOR_CALLS:
                await self._leave_source()
            if self._phase is _Phase.LEFT:
                await self._enter_target()
        finally:
            self._expect(None)
            self._slot.give_back()
            if session.hand_over is self:
                session.hand_over = None
            if self._phase is _Phase.WAITING_FOR_CALLS:
                session.stays()
            session.drop_hold_if_orphaned()
            self._service.progress.unpark_all()
            source = self._source.server
            source.moving -= 1
            if not source.moving or self._phase is _Phase.WAITING_FOR_CALLS:
                source.look_again.unpark_all()

    async def _leave_source(self) -> None:
        self._session.begin_hold()
        if not self._source.server.releases:
            await self._wait_for_calls()
        if self._phase is not _Phase.WAITING_FOR_CALLS or self._session.gone:
            return
        if self._session.is_bound:
            self._fail_late_calls()
            self._session.drop(_BOUND)
            return
        target = self._service.choose_server(self._session.hub, leaving=self._source.server)
        if target is None:
            return
        self._fail_late_calls()
        self._expect(target.server)
        self._move_on(_Phase.WAITING_FOR_RELEASE)
        self._send_close(target.server.id)
        if self._source.server.releases:
            await self._while_in_slot(_Phase.WAITING_FOR_RELEASE)
        else:
            self._leave_behind()
            await trio.sleep(self._service.options.polite_settle)

    async def _wait_for_calls(self) -> None:
        """Until the server owes the client nothing, or its budget is over."""
        calls = self._session.calls
        assert calls is not None
        options = self._service.options
        if calls.unconfirmed:
            self._send_barrier(calls)
        deadline = (self._source.server.fin_at or 0.0) + options.polite_budget
        with trio.move_on_after(options.slot_grace):
            await self._until_quiet(calls)
        if self._waits_for(calls):
            self._slot.give_back()
            with trio.move_on_at(deadline):
                await self._until_quiet(calls)

    def _fail_late_calls(self) -> None:
        """Only of a client that leaves: of one that stays, the server would answer them again."""
        session = self._session
        if session.calls is not None and not self._source.server.releases:
            failed = session.fail_calls(_TIME_IS_UP)
            if failed:
                log.warning(
                    "client %s: %d calls on server %s did not end in time; each was sent an error",
                    *(session.id, failed, self._from),
                )

    async def _until_quiet(self, calls: OpenCalls) -> None:
        while self._waits_for(calls):
            if calls.quiet:
                # The client has answered meanwhile, and the server might lose that with the close.
                self._send_barrier(calls)
            await self._news.park()

    def _waits_for(self, calls: OpenCalls) -> bool:
        waiting = self._phase is _Phase.WAITING_FOR_CALLS and not self._session.gone
        return waiting and (calls.unconfirmed or not calls.quiet)

    def _send_barrier(self, calls: OpenCalls) -> None:
        barrier = calls.barrier(self._session.protocol)
        self._source.send_data(self._session.id, barrier)

    async def _while_in_slot(self, phase: _Phase) -> None:
        """Waits for a server; a slow call of its hub must not keep the others from moving."""
        with trio.move_on_after(self._service.options.slot_grace):
            await self._while(phase)
            return
        self._slot.give_back()
        await self._while(phase)

    async def _while(self, phase: _Phase) -> None:
        while self._phase is phase:
            await self._news.park()

    async def _enter_target(self) -> None:
        session, service, source = self._session, self._service, self._source.server
        while self._phase is _Phase.LEFT:
            # On its way, the client would count against the very server that is expected.
            self._expect(None)
            if not service.has_server(session.hub, leaving=source):
                self._slot.give_back()  # others may have a server to go to
            patience = service.options.target_wait
            target = await service.wait_for_server(session.hub, patience, leaving=source)
            if target is None:
                log.warning("client %s: no server takes over from %s", session.id, self._from)
                session.drop(_NO_TARGET)
                return
            answers = target.server.releases
            if answers:
                self._move_on(_Phase.WAITING_FOR_ANSWER)
            target.open(session, migrate_from=self._from, state=self._state)
            if not answers:
                self._attach()
            await self._while_in_slot(_Phase.WAITING_FOR_ANSWER)

    def _attach(self) -> None:
        """The client is with its new server: what was held goes there, in this very step."""
        self._move_on(_Phase.OVER)
        session = self._session
        session.hand_over = None
        session.attached()
        if not session.gone:
            session.hub.tally.handed_over(trio.current_time() - self._began)
        elif session.connection is not None:
            session.connection.close(session)

    # -- what comes in meanwhile ------------------------------------------------------------

    def calls_ended(self) -> None:
        """The last open call of the client has had its completion."""
        self._news.unpark_all()

    def hurry_if_due(self, hold: Hold, now: float) -> None:
        """Sends the close again when the hold is full or old: the old server then gives up
        what waits for the client's own input."""
        options = self._service.options
        full = hold.full_since is not None and now - hold.full_since >= options.hurry_full
        old = hold.oldest is not None and now - hold.oldest >= options.hurry_age
        if self._phase is _Phase.WAITING_FOR_RELEASE and (full or old) and not self._hurried:
            self._hurried = True
            expected = self._expected
            self._send_close(expected.id if expected is not None else "")

    def source_released(self, state: bytes | None) -> None:
        """The old server is done with the client."""
        if self._phase is _Phase.WAITING_FOR_RELEASE:
            self._state = state
            self._leave_behind()

    def connection_lost(self) -> None:
        """The server connection that the client is with has ended."""
        if self._phase is _Phase.WAITING_FOR_ANSWER:
            # It got nothing of what is held, so another may take over.
            self._leave_behind()
        else:
            self.source_lost()

    def source_lost(self) -> None:
        """The old server's connection ended before it released the client."""
        session = self._session
        if session.calls is None or session.is_bound:
            self._move_on(_Phase.OVER)
            session.drop(_LOST)
            return
        failed = session.fail_calls(_LOST)
        if failed:
            log.warning("client %s: %d calls were lost with %s", session.id, failed, self._from)
        self._leave_behind()

    def server_closed(self) -> None:
        """One of the two servers closed the client."""
        self._move_on(_Phase.OVER)

    def client_left(self) -> bool:
        """The client has gone; whether the hand-over is carried through all the same.

        It is once the old server was told of it: that one learns that the client has gone, and
        releases it as ever.
        """
        if self._phase is _Phase.WAITING_FOR_RELEASE:
            self._source.link.send(CloseConnection(self._session.id))
        self._news.unpark_all()
        return self._phase not in (_Phase.WAITING_FOR_CALLS, _Phase.OVER)

    def takes_answer(self, message: ConnectionData) -> bool:
        """Whether a message is the new server's handshake answer, which is not the client's."""
        if self._phase is not _Phase.WAITING_FOR_ANSWER:
            return False
        if message.data_type != DataMessageType.HANDSHAKE:
            return False
        try:
            error = parse_response(message.payload).error
        except ProtocolError as fault:
            error = str(fault)
        if error:
            self._move_on(_Phase.OVER)
            session = self._session
            if session.connection is not None:
                session.connection.close(session)
            session.drop(error)
        else:
            self._attach()
        return True

    # -- helpers ----------------------------------------------------------------------------

    def _leave_behind(self) -> None:
        """From now on the client is with no server, and all that it sends is held."""
        session = self._session
        session.hold_all()
        if session.connection is not None:
            session.connection.detach(session)
        self._move_on(_Phase.LEFT)

    def _send_close(self, target_id: str) -> None:
        headers: dict[str, list[str | None]] = {MIGRATE_TO: [target_id]}
        self._source.link.send(CloseConnection(self._session.id, headers=headers))

    def _move_on(self, phase: _Phase) -> None:
        self._phase = phase
        self._news.unpark_all()

    def _expect(self, server: Server | None) -> None:
        """Counts the client as on its way to ``server``, and to no other."""
        if self._expected is not None:
            self._expected.incoming -= 1
        self._expected = server
        if server is not None:
            server.incoming += 1
