"""The accounts of the load: what was sent, what was answered, and what went wrong.

Clients report what they see, on their side of the wire; the judgement is made here, the same for
all kinds of clients. Numbers count from 1 on each connection and in each lane, so a client that
loses its connection begins anew, and what it waited for is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs

__all__ = ["LANES", "Account", "Counts", "Ledger", "percentile"]

#: Calls run one after the other on the hub; streams and uploads beside them.
LANES = ("call", "stream", "upload")


@attrs.define
class Counts:
    """Totals, of one client or of all."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    """Answered with an error."""
    lost: int = 0
    """Sent, and neither answered nor failed."""
    duplicated: int = 0
    """Answers to messages that had been answered, or failed."""
    out_of_order: int = 0
    """Answers before an earlier one, or to messages that the hub saw in another order."""
    disconnects: int = 0
    broadcasts: int = 0

    @property
    def outstanding(self) -> int:
        return self.sent - self.answered - self.failed - self.lost

    def add(self, other: Counts) -> None:
        for field in attrs.fields_dict(Counts):
            setattr(self, field, getattr(self, field) + getattr(other, field))


@attrs.frozen
class _Message:
    at: float
    delay: float
    in_restart: bool


@attrs.define
class _Lane:
    pending: dict[int, _Message] = attrs.field(factory=dict[int, _Message])
    answered_at: float = 0.0


class Account:
    """What one client has seen. Times in seconds, by whatever clock the client has."""

    def __init__(self, ledger: Ledger) -> None:
        self.counts = Counts()
        self.connected_now = False
        self.server = ""
        """The server of the last answer."""
        self.steady_pause = 0.0
        """The longest pause while nothing was restarted."""
        self.restart_pause = 0.0
        self.faults: list[str] = []
        """What went wrong, in words; the first few."""
        self._announced: set[str] = set()
        self._disconnected_at: float | None = None
        self._ledger = ledger
        self._lanes = {lane: _Lane() for lane in LANES}

    def connected(self, at: float) -> None:
        self.connected_now = True
        if self._disconnected_at is not None:
            self._paused(at - self._disconnected_at)

    def disconnected(self, at: float) -> None:
        """The connection was lost, and with it what it was waiting for."""
        if self.connected_now:
            self.connected_now = False
            self.counts.disconnects += 1
            self.server = ""
            self._disconnected_at = at
        self._write_off("when its connection was lost")

    def sent(self, lane: str, number: int, delay: float, at: float) -> None:
        """A message for which the hub is to take ``delay``."""
        self.counts.sent += 1
        self._lanes[lane].pending[number] = _Message(at, delay, self._ledger.restarting)

    def answered(self, lane: str, number: int, server: str, before: int, at: float) -> None:
        """An answer came; ``before`` is the number that the hub saw before this one."""
        pending = self._lanes[lane].pending
        self.server = server
        message = pending.get(number)
        if message is None:
            self.counts.duplicated += 1
            self._fault(f"{lane} {number}: answered again, by {server}")
            return
        if before != number - 1 or next(iter(pending)) != number:
            self.counts.out_of_order += 1
            self._fault(
                f"{lane} {number}: {server} saw it after {before}; "
                f"the client waited for {next(iter(pending))}"
            )
        del pending[number]
        self.counts.answered += 1
        if lane == "call":
            self._measure(message, at)

    def failed(self, lane: str, number: int, error: str) -> None:
        """An error came instead of an answer."""
        if self._lanes[lane].pending.pop(number, None) is None:
            self.counts.duplicated += 1
            self._fault(f"{lane} {number}: answered again, with an error: {error}")
        else:
            self.counts.failed += 1
            self._fault(f"{lane} {number}: failed: {error}")

    def misplaced(self, what: str) -> None:
        """Parts of a stream or an upload are missing, or came in another order."""
        self.counts.out_of_order += 1
        self._fault(what)

    def announced(self, server: str) -> None:
        """A broadcast came; each server makes one."""
        if server in self._announced:
            self.counts.duplicated += 1
            self._fault(f"broadcast of {server}: came again")
        else:
            self._announced.add(server)
            self.counts.broadcasts += 1

    def close(self) -> None:
        """The load is over: what has no answer now is lost."""
        self._write_off("at the end")

    def _measure(self, message: _Message, at: float) -> None:
        """How much later the answer came than the hub's work explains, call after call."""
        lane = self._lanes["call"]
        pause = at - max(message.at, lane.answered_at) - message.delay
        lane.answered_at = at
        self._paused(pause, in_restart=message.in_restart)

    def _paused(self, pause: float, *, in_restart: bool = False) -> None:
        if in_restart or self._ledger.restarting:
            self.restart_pause = max(self.restart_pause, pause)
        else:
            self.steady_pause = max(self.steady_pause, pause)

    def _write_off(self, when: str) -> None:
        for name, lane in self._lanes.items():
            if lane.pending:
                self.counts.lost += len(lane.pending)
                self._fault(f"{name} {min(lane.pending)} to {max(lane.pending)}: no answer {when}")
        self._lanes = {lane: _Lane() for lane in LANES}

    def _fault(self, text: str) -> None:
        if len(self.faults) < 10:
            self.faults.append(text)


class Ledger:
    """The accounts of all clients."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []
        self.restarting = False
        """Whether servers are being replaced now: pauses are accounted apart."""

    def open_account(self) -> Account:
        account = Account(self)
        self.accounts.append(account)
        return account

    def totals(self) -> Counts:
        totals = Counts()
        for account in self.accounts:
            totals.add(account.counts)
        return totals

    @property
    def connected(self) -> int:
        return sum(account.connected_now for account in self.accounts)

    def clients_per_server(self) -> Counter[str]:
        """By the last answers."""
        return Counter(account.server for account in self.accounts if account.connected_now)

    def faults(self) -> list[str]:
        """What went wrong, by client."""
        return [
            f"client {index}, {fault}"
            for index, account in enumerate(self.accounts)
            for fault in account.faults
        ]

    def restart_pauses(self) -> list[float]:
        return sorted(account.restart_pause for account in self.accounts)

    def steady_pauses(self) -> list[float]:
        return sorted(account.steady_pause for account in self.accounts)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank of sorted values; 0 if there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0
