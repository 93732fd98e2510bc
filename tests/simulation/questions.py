"""What hubs asked of clients, and whether each question came to the one end that it should.

An answer has to be the one that this client gave to this question. Whatever else a question ends
with has to name something that had happened by then: its client was gone, or could not answer in
time; the server that asked was hurried, lost its connections, or was stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from signalr_trio.errors import ConnectionClosed
from tests.simulation.absences import PATIENCE
from tests.simulation.plan import BACK

if TYPE_CHECKING:
    from tests.simulation.ledger import ClientRun, Ledger, ServerRun

__all__ = ["Question", "Questions"]

#: To a client and back, where all is slow, and what it sends is behind something else.
_THERE_AND_BACK: Final = 2.5
#: To the service and back.
_ROUND_TRIP: Final = 0.7
#: Seconds after which what is held for a client makes the service hurry its old server.
_HURRY_AGE: Final = 10.0
_FAILURE: Final = "as planned"
_TIMED_OUT: Final = "did not answer within"
_GONE: Final = "is disconnected."
_UNKNOWN: Final = "does not exist."
_HURRIED: Final = "The client is moving to another server"


@attrs.define(eq=False)
class Question:
    number: int
    server: ServerRun
    hub: str
    client: ClientRun
    """Who is asked."""
    asker: str | None
    """The client whose hub asks; None outside of hubs."""
    reaction: str
    delay: float
    timeout: float
    asked_at: float
    is_known: bool
    """Whether the client had been seen by a hub, so that its id was known."""
    arrived_at: float | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    answer: Any = None
    """What the client gave, or the text of its error."""
    outcome: Any = None
    """The answer that came, or the error that was raised."""

    @property
    def deadline(self) -> float:
        return self.asked_at + self.timeout


class Questions:
    """All questions of a run."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._all: list[Question] = []

    # -- who asks ---------------------------------------------------------------------------

    def asking(self, server: ServerRun, hub: str, asker: str | None, step: list[Any]) -> Question:
        whom, reaction, delay, timeout = step
        client = self._ledger.clients[whom or asker or next(iter(self._ledger.clients))]
        now = trio.current_time()
        number = len(self._all)
        plan = (reaction, delay, timeout)
        is_known = client.connection_id is not None
        question = Question(number, server, hub, client, asker, *plan, now, is_known)
        self._all.append(question)
        if not server.dead:
            self._ledger.note("asks", server.name, number, client.name)
        return question

    def ended(self, question: Question, outcome: Any) -> None:
        question.outcome = outcome
        question.ended_at = trio.current_time()
        if not question.server.dead:
            what = type(outcome).__name__ if isinstance(outcome, BaseException) else outcome
            self._ledger.note("asked", question.number, what)

    @property
    def open(self) -> list[int]:
        return [one.number for one in self._all if one.ended_at is None and not one.server.dead]

    def open_of(self, server: ServerRun) -> list[int]:
        return [one.number for one in self._all if one.ended_at is None and one.server is server]

    def awaits(self, name: str) -> bool:
        """Whether somebody asks that client, or has until just now, or could not tell the service
        that it does not any more."""
        now = trio.current_time()
        return any(
            one.ended_at is None or one.ended_at + _ROUND_TRIP > now or one.server.silent
            for one in self._all
            if one.client.name == name
        )

    # -- who is asked -----------------------------------------------------------------------

    def came(self, client: ClientRun, number: int) -> Question:
        """A client was asked."""
        question = self._all[number]
        self._check(question.client is client, question, "came to", client.name)
        self._check(question.arrived_at is None, question, "came twice")
        self._check(client.plan.hub == question.hub, question, "came from hub", question.hub)
        question.arrived_at = trio.current_time()
        self._ledger.note("is asked", client.name, number)
        return question

    def answers(self, number: int) -> Any:
        """A client answers what it was asked, with this; an error where it is a string."""
        question = self._all[number]
        fails = question.reaction == "fails"
        question.answer = _FAILURE if fails else [number, question.client.name]
        question.answered_at = trio.current_time()
        self._ledger.note("answers", question.client.name, number)
        return question.answer

    def told(self, client: ClientRun, answers: list[Any]) -> None:
        """The result of a call has these answers in it, and the texts of errors."""
        for answer in answers:
            if isinstance(answer, list):
                question = self._all[answer[0]]
                same = question.outcome == answer and question.asker == client.name
                self._check(same, question, client.name, "was told", answer)

    # -- the end ----------------------------------------------------------------------------

    def judge(self) -> None:
        """Everyone has been taken down."""
        for question in self._all:
            if question.server.dead:
                continue
            self._check(question.ended_at is not None, question, "has no end")
            if isinstance(question.outcome, BaseException):
                why = self._why_unanswered(question, question.outcome)
                self._check(why is not None, question, "ended with", repr(question.outcome))
            elif question.ended_at is not None:
                same = question.answered_at is not None and question.outcome == question.answer
                self._check(same, question, "was answered", question.outcome)
                self._check_pace(question)

    def _check_pace(self, question: Question) -> None:
        """An answer is waited for, whatever happens to its client on its way."""
        took = (question.ended_at or 0.0) - (question.answered_at or 0.0)
        slow = self._ledger.is_flooding or self._was_away(question) or self._faults(question)
        self._check(took <= _THERE_AND_BACK or slow, question, "was answered after", took, "s")

    def _why_unanswered(self, question: Question, error: BaseException) -> str | None:
        text = str(error)
        if isinstance(error, ConnectionClosed):
            return self._faults(question) or self._stops(question)
        if not isinstance(error, Exception):
            return self._faults(question) or self._stops(question) or self._why_cancelled(question)
        if question.answered_at is not None and text == question.answer:
            return "the client said so"
        if self._was_heard(question):
            return None
        if _TIMED_OUT in text:
            return self._why_late(question)
        if _UNKNOWN in text and question.hub != question.client.plan.hub:
            return "it is in another hub"
        if text.endswith((_GONE, _UNKNOWN)):
            return self._why_gone(question)
        if text.startswith(_HURRIED):
            return self._why_hurried(question)
        return None

    def _was_heard(self, question: Question) -> bool:
        """Whether its answer had the time to come, and nothing kept it."""
        if question.answered_at is None or question.ended_at is None:
            return False
        in_time = question.answered_at + _THERE_AND_BACK < question.ended_at
        kept = self._ledger.is_flooding or self._was_away(question) or self._faults(question)
        return in_time and not kept and question.client.cut_at is None

    def _why_late(self, question: Question) -> str | None:
        client, deadline = question.client, question.deadline
        early = question.ended_at is not None and question.ended_at < deadline - 0.001
        if early:
            return None
        if question.timeout < _ROUND_TRIP:
            return "not even the service could answer so soon"
        if question.server.silent:
            return "its server was not told that a connection was lost"
        if not question.is_known or question.hub != client.plan.hub:
            return None
        if self._ledger.is_flooding:
            return "it may not be read"
        if gone := self._known_to_be_gone(client):
            # Then it has to be told so.
            return "it has just gone" if gone > deadline else None
        if (
            question.reaction == "stays silent"
            or question.delay + _THERE_AND_BACK > question.timeout
        ):
            return "it does not answer in time"
        if client.answered_at is None or client.answered_at + _THERE_AND_BACK > deadline:
            return "it had hardly shaken hands"
        pause = client.plan.stops_reading
        if pause is not None and pause[0] <= deadline and sum(pause) >= question.asked_at:
            return "it does not read"
        if self._was_away(question):
            return "it was away"
        return "it was cut off" if client.cut_at is not None else None

    def _known_to_be_gone(self, client: ClientRun) -> float | None:
        """From when on the service knows that it is gone."""
        ends = [t for t in (client.left_at, client.ended_at) if t is not None]
        lost = client.cut_at is not None or client.losses or self._ledger.service_fault_at
        return None if lost or not ends else min(ends) + _THERE_AND_BACK

    def _why_gone(self, question: Question) -> str | None:
        client, ended = question.client, question.ended_at or 0.0
        there = question.is_known and client.answered_at is not None
        if not there or (client.answered_at or 0.0) > question.asked_at:
            return "it was not there yet"
        # The service and its servers may know before it does.
        times = {
            "it left": client.left_at,
            "it was cut off": client.cut_at,
            "it was closed": None if client.ended_at is None else client.ended_at - _THERE_AND_BACK,
            "its hub closed it": client.harmed_at,
        }
        for why, when in times.items():
            if when is not None and when <= ended:
                return why
        return self._faults(question) or self._was_away(question)

    def _why_hurried(self, question: Question) -> str | None:
        """What the client sent was held for too long, while its call waited for itself."""
        asked, ended = question.server.asked_at, question.ended_at or 0.0
        if question.asker != question.client.name or asked is None:
            return None
        old = ended - asked >= _HURRY_AGE
        return "it kept itself from moving" if old or self._ledger.is_flooding else None

    def _why_cancelled(self, question: Question) -> str | None:
        """A stream ends when its client wants no more of it, or is not there."""
        asker = self._ledger.clients.get(question.asker or "")
        if asker is None or not any(call.call.kind == "down" for call in asker.calls.values()):
            return None
        return "a stream that nobody reads"

    def _faults(self, question: Question) -> str | None:
        """Of the server that asked; its own clients are gone with a connection."""
        ended = question.ended_at or 0.0
        crashed, fault = question.server.crashed_at, self._ledger.service_fault_at
        if crashed is not None and crashed <= ended:
            return "its server lost a connection"
        return "the service went" if fault is not None and fault <= ended else None

    def _stops(self, question: Question) -> str | None:
        server = question.server
        asked = server.asked_at is not None or server.hurried_at is not None
        return "its server was stopped" if asked else None

    def _was_away(self, question: Question) -> str | None:
        client = question.client
        left = client.left_at or client.ended_at
        for since, until in client.losses:
            if left is not None and since - BACK <= left <= until + BACK:
                # Nobody was told, and its window has yet to end.
                until = since + PATIENCE
            if since <= (question.ended_at or since) and until + BACK >= question.asked_at:
                return "it was away"
        return None

    def _check(self, kept: bool, question: Question, *details: object) -> None:
        name = question.client.name
        self._ledger.check(kept, "results", "question", question.number, "to", name, *details)
