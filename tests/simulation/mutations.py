"""Deliberate bugs, one line each, and whether the simulation finds them.

``python -m tests.simulation.mutations`` hunts for each from seed 0 on, and prints within how many
seeds it is found; ``--write`` keeps that for the test, ``--markdown`` prints it as a table. Each
hunt has a process of its own, in which the module is changed as it is imported: no file is written.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

__all__ = ["MUTATIONS", "Found", "Mutation", "hunt_all", "known_seeds"]

_KNOWN: Final = Path(__file__).with_name("mutations.json")
#: What the product and the simulation import, imported once for all hunts.
_WARM: Final = ("attrs", "cattrs", "h11", "jwt", "msgpack", "orjson", "trio", "trio.testing")


class Mutation(NamedTuple):
    name: str
    module: str
    """Below ``signalr_trio``."""
    old: str
    """Once in the module."""
    new: str


class Found(NamedTuple):
    mutation: str
    seeds: int
    """How many were played; 0: none found it."""
    seed: int
    violation: str


MUTATIONS: Final[Sequence[Mutation]] = [
    # -- what is held -----------------------------------------------------------------------
    Mutation(
        "the first held message is swallowed",
        "service.hold",
        "frames = [frame for frame, _ in self._frames]\n",
        "frames = [frame for frame, _ in self._frames][1:]\n",
    ),
    Mutation(
        "held messages are forwarded in the wrong order",
        "service.hold",
        "frames = [frame for frame, _ in self._frames]\n",
        "frames = [frame for frame, _ in self._frames][::-1]\n",
    ),
    Mutation(
        "everything passes the hold",
        "service.hold",
        "return self.passing and self._is_part_of_older_call(peek)",
        "return self.passing",
    ),
    Mutation(
        "items pass although their call is held",
        "service.hold",
        "return peek.type in PARTS_OF_CALLS and peek.invocation_id not in self._ids",
        "return peek.type in PARTS_OF_CALLS",
    ),
    Mutation(
        "nothing passes the hold",
        "service.hold",
        "return self.passing and self._is_part_of_older_call(peek)",
        "return False",
    ),
    Mutation(
        "the hold is not bounded",
        "service.session",
        "return hold.size > options.hold_limit or self.service.held_size > options.hold_total",
        "return False",
    ),
    Mutation(
        "the room of a hold is not given back",
        "service.session",
        "self.service.give_back(hold.size)",
        "pass",
    ),
    Mutation(
        "a client is not read again after a full hold",
        "service.session",
        "        self.resume_reading()\n        return hold.take()",
        "        return hold.take()",
    ),
    Mutation(
        "a client times out while it is not read",
        "service.session",
        "        self._stalled = True\n",
        "        self._stalled = False\n",
    ),
    Mutation(
        "pings are passed on",
        "service.session",
        "messages = [frame for frame in frames if not is_ping(frame)]",
        "messages = frames",
    ),
    Mutation(
        "pings are held",
        "service.session",
        "messages = [frame for frame in frames if not is_ping(frame)]",
        "messages = [frame for frame in frames if self._hold is not None or not is_ping(frame)]",
    ),
    Mutation(
        "a hold begins without a target",
        "service.draining",
        "        connection.hub: service.has_server(connection.hub, leaving=server)\n",
        "        connection.hub: [one.begin_hold() for one in connection.sessions.values()]\n"
        "        and service.has_server(connection.hub, leaving=server)\n",
    ),
    Mutation(
        "held messages are kept after the first one went to the target",
        "service.hand_over",
        "            target.open(session, migrate_from=self._from, state=self._state)\n",
        "            target.open(session, migrate_from=self._from, state=self._state)\n"
        "            for frame, _ in session._hold._frames:\n"
        "                target.send_data(session.id, frame)\n",
    ),
    Mutation(
        "a server is not hurried by a full hold",
        "service.hand_over",
        "(full or old) and not self._hurried",
        "False",
    ),
    Mutation(
        "what is sent before the handshake is lost",
        "service.session",
        "        early, self._early = self._early, None\n",
        "        early = self._early = None\n",
    ),
    Mutation(
        "the hold begins too late",
        "service.hand_over",
        "        self._session.begin_hold()\n        if not",
        "        if not",
    ),
    # -- the hand-over ----------------------------------------------------------------------
    Mutation(
        "an abort is taken for a release",
        "link.release",
        "return header(message.headers, _RELEASED) is not None",
        "return True",
    ),
    Mutation(
        "the release is sent before the last completion",
        "server.client_connection",
        "                self._departure = ConnectionMigrationFeature(self.hub.server_id, target)\n",
        "                self._departure = ConnectionMigrationFeature(self.hub.server_id, target)\n"
        "                self.connection.send(release(self.id, None))\n",
    ),
    Mutation(
        "a group is left behind the release",
        "server.sending",
        "        await self._hub.acks.ask(\n"
        "            self._connection(), lambda id: LeaveGroupWithAck(connection_id, group, id)\n",
        "        await self._hub.acks.ask(\n"
        "            self._hub.connections[-1], lambda id: None or "
        "LeaveGroupWithAck(connection_id, group, id)\n"
        "        ) if len(self._hub.connections) < 2 else self._hub.connections[-1].send(\n"
        "            LeaveGroupWithAck(connection_id, group, 1 << 30)\n",
    ),
    Mutation(
        "a client that leaves meanwhile is not carried through",
        "service.hand_over",
        "return self._phase not in (_Phase.WAITING_FOR_CALLS, _Phase.OVER)",
        "return False",
    ),
    Mutation(
        "the state is dropped when another server is chosen",
        "service.hand_over",
        "target.open(session, migrate_from=self._from, state=self._state)",
        "target.open(session, migrate_from=self._from, state=self._state); self._state = None",
    ),
    Mutation(
        "the state does not travel",
        "link.release",
        "        headers |= state_header(state)\n",
        "        pass\n",
    ),
    Mutation(
        "no other server is chosen when the target is lost",
        "service.hand_over",
        "        if self._phase is _Phase.WAITING_FOR_ANSWER:\n            # It got",
        "        if False:\n            # It got",
    ),
    Mutation(
        "an own server's answer is not waited for",
        "service.hand_over",
        "            answers = target.server.releases\n",
        "            answers = False\n",
    ),
    Mutation(
        "an SDK server's answer is waited for",
        "service.hand_over",
        "            answers = target.server.releases\n",
        "            answers = True\n",
    ),
    Mutation(
        "the first message of any target is swallowed",
        "service.hand_over",
        "        session.attached()\n",
        "        session.attached()\n"
        "        session.server_data = lambda message: delattr(session, 'server_data')\n",
    ),
    Mutation(
        "the answer to the second handshake reaches the client",
        "service.hand_over",
        "            self._attach()\n        return True",
        "            self._attach()\n        return False",
    ),
    Mutation(
        "the handshake request is not sent again",
        "service.server_connection",
        "self.send_data(session.id, session.handshake_frame)",
        "migrate_from or self.send_data(session.id, session.handshake_frame)",
    ),
    Mutation(
        "the server of origin is not named",
        "service.server_connection",
        "MIGRATE_FROM: [migrate_from]}",
        "MIGRATE_FROM: [self.server.id]}",
    ),
    Mutation(
        "a slot is not given back while a call runs",
        "service.hand_over",
        "            return\n        self._slot.give_back()\n        await self._while(phase)",
        "            return\n        await self._while(phase)",
    ),
    Mutation(
        "who waits for a server keeps its slot",
        "service.hand_over",
        "self._slot.give_back()  # others",
        "pass  # others",
    ),
    Mutation(
        "groups are lost in the hand-over",
        "service.hand_over",
        "            session.connection.detach(session)\n        self._move_on(_Phase.LEFT)",
        "            session.connection.detach(session)\n"
        "            session.hub.groups.leave_all(session)\n        self._move_on(_Phase.LEFT)",
    ),
    Mutation(
        "a crash of the old server is not noticed in a hand-over",
        "service.hand_over",
        "            self._move_on(_Phase.OVER)\n            session.drop(_LOST)\n",
        "            pass\n",
    ),
    # -- which server -----------------------------------------------------------------------
    Mutation(
        "a draining server is picked",
        "service.service",
        "if server.draining or (leaving",
        "if (leaving",
    ),
    Mutation(
        "FINACK passes an open that is in line",
        "service.session",
        "        connection.open(self)\n",
        "        await trio.sleep(0.3)\n        connection.open(self)\n",
    ),
    Mutation(
        "a client that is bound is handed over",
        "service.session",
        'return ("asrs.s.ssticky", "Required") in self.claims',
        "return False",
    ),
    Mutation(
        "a client that is bound is kept where there is no other server",
        "service.draining",
        "return not server.releases",
        "return not server.releases and elsewhere",
    ),
    Mutation(
        "a client that is bound is kept by its own server",
        "server.client_connection",
        'self.is_bound = ("asrs.s.ssticky", "Required") in message.claims',
        "self.is_bound = False",
    ),
    Mutation(
        "draining is per connection",
        "service.service",
        "if server.draining or (leaving",
        "if connection.migration_asked or (leaving",
    ),
    Mutation(
        "clients move although the server only waits",
        "service.server_connection",
        'if value == "fin:1":',
        'if value != "fin:0":',
    ),
    # -- the end of a server ----------------------------------------------------------------
    Mutation(
        "nobody tells the clients of a lost server",
        "service.session",
        "        else:\n            self.drop(_SERVER_LOST)",
        "        else:\n            self._end()",
    ),
    Mutation(
        "the clients of a lost server stay",
        "service.session",
        "        else:\n            self.drop(_SERVER_LOST)",
        "        else:\n            pass",
    ),
    Mutation(
        "sends follow a Close",
        "service.session",
        "if self.gone or self._close_passed:",
        "if self.gone:",
    ),
    Mutation(
        "a client opened again does not end where it was",
        "server.served_hub",
        "            before.connection_lost()\n",
        "            pass\n",
    ),
    Mutation(
        "a client that is lost answers for the next",
        "server.client_connection",
        "self.connection.agreed and self.end is None:",
        "self.connection.agreed:",
    ),
    Mutation(
        "a call that the hub did not end in time is answered twice",
        "service.hand_over",
        "        if target is None:\n            return\n        self._fail_late_calls()\n",
        "        self._fail_late_calls()\n        if target is None:\n            return\n",
    ),
    # -- SDK servers ------------------------------------------------------------------------
    Mutation(
        "an SDK server is not asked politely",
        "service.hand_over",
        "        if not self._source.server.releases:\n            await self._wait_for_calls()\n",
        "",
    ),
    Mutation(
        "calls without an id are not waited for",
        "service.open_calls",
        "return self._last_send > self._completed",
        "return False",
    ),
    Mutation(
        "the budget of an SDK server has no end",
        "service.hand_over",
        "            with trio.move_on_at(deadline):\n",
        "            if True:\n",
    ),
    Mutation(
        "what the old SDK server still says is let through",
        "service.server_connection",
        "        session = self.sessions.get(message.connection_id)\n        if session is None:",
        "        session = self.hub.sessions.get(message.connection_id)\n        if session is None:",
    ),
    # -- the hub server ---------------------------------------------------------------------
    Mutation(
        "a second completion",
        "server.calls",
        "                self._client.send(Completion(call.invocation_id, result))\n",
        "                self._client.send(Completion(call.invocation_id, result))\n"
        "                self._client.send(Completion(call.invocation_id, result))\n",
    ),
    Mutation(
        "the migrating close discards queued calls",
        "server.client_connection",
        "                self._departure = ConnectionMigrationFeature(self.hub.server_id, target)\n",
        "                self._departure = ConnectionMigrationFeature(self.hub.server_id, target)\n"
        "                self._calls.discard_waiting()\n",
    ),
    Mutation(
        "an item passes its own queued call",
        "server.calls",
        "        self._uploads |= call.uploads\n",
        "        self._uploads |= call.uploads if not self._waiting else {}\n",
    ),
    Mutation(
        "aborted is set by the close",
        "server.client_connection",
        "                self._departure = ConnectionMigrationFeature(self.hub.server_id, target)\n",
        "                self._departure = ConnectionMigrationFeature(self.hub.server_id, target)\n"
        "                self.context.aborted.set()\n",
    ),
    Mutation(
        "the feature is not set",
        "server.client_connection",
        "features.set(self._departure)\n",
        "features.get(ConnectionMigrationFeature)\n",
    ),
    Mutation(
        "the feature is not there on arrival",
        "server.client_connection",
        "features.set(self._arrival)\n",
        "features.get(ConnectionMigrationFeature)\n",
    ),
    Mutation(
        "a client moves although on_disconnected was not told so",
        "server.client_connection",
        "            if not self._disconnecting:\n",
        "            if True:\n",
    ),
    Mutation(
        "on_disconnected does not wait for calls that run beside",
        "server.calls",
        "        if self._beside:\n            self._all_ended",
        "        if False:\n            self._all_ended",
    ),
    Mutation(
        "calls that never begin get no completion",
        "server.calls",
        "            self._fail(call, _TIME_IS_UP)\n            self._drop(call)",
        "            self._drop(call)",
    ),
    Mutation(
        "the service is not told to go on after a pause",
        "server.client_connection",
        "            self._ask(FlowControlOperation.RESUME)\n",
        "            pass\n",
    ),
    Mutation(
        "the service is not asked for a pause",
        "server.client_connection",
        "            wanted = 2 if self._calls.unread_size > options.inbox_pause else 1\n",
        "            wanted = 0\n",
    ),
    Mutation(
        "calls begin in the wrong order",
        "server.calls",
        "        call = self._waiting.popleft()\n        self._shrink(call.size)\n        return",
        "        call = self._waiting.pop()\n        self._shrink(call.size)\n        return",
    ),
    # -- the shutdown -----------------------------------------------------------------------
    Mutation(
        "FINACK is not waited for",
        "server.service_connection",
        "        while not self._finack.is_set():\n            self.send",
        "        while not self._finack.is_set():\n            self._finack.set()\n"
        "            self.send",
    ),
    Mutation(
        "clients move before the hooks have run",
        "server.shutdown",
        "        return FIN_WAIT\n",
        "        return FIN_MIGRATE\n",
    ),
    Mutation(
        "one scope around the stages",
        "server.hub_server",
        "                    with self._patience:\n",
        "                    self._patience.deadline = (\n"
        "                        trio.current_time() + self.shutdown_options.timeout - 0.001)\n"
        "                    with self._patience:\n",
    ),
    Mutation(
        "the hooks have no limit",
        "server.shutdown",
        "self._stage(HOOKS, self._options.timeout / 2)",
        "self._stage(HOOKS, self._options.timeout * 9)",
    ),
    Mutation(
        "a hook that raises ends the hooks",
        "server.shutdown",
        '                    log.error("shutdown hook %s of hub %s failed"',
        '                    return log.error("shutdown hook %s of hub %s failed"',
    ),
    Mutation(
        "the tasks of server connections are not shielded",
        "server.service_connection",
        "self.scope = trio.CancelScope(shield=True)",
        "self.scope = trio.CancelScope()",
    ),
    Mutation(
        "the line is not flushed at the end",
        "link.websocket",
        "        await self._websocket.aclose(code, reason, timeout=timeout)\n",
        "        self._websocket.abort()\n",
    ),
    Mutation(
        "a second signal skips nothing",
        "server.hub_server",
        "        self._patience.cancel()\n",
        "        pass\n",
    ),
    Mutation(
        "on_disconnected has no limit in the last stage",
        "server.client_connection",
        "        self.last_scope.deadline = deadline\n",
        "        pass\n",
    ),
    Mutation(
        "a client that left is not reported",
        "server.shutdown",
        "            self.left += 1\n",
        "            pass\n",
    ),
    Mutation(
        "a client that moved is reported twice",
        "server.shutdown",
        "            self.migrated += 1\n",
        "            self.migrated += 2\n",
    ),
    Mutation(
        "a client of a lost connection is not told to end",
        "server.service_connection",
        "                client.connection_lost()\n",
        "                pass\n",
    ),
    # -- several hubs, and the service in the same process ----------------------------------
    Mutation(
        "all hubs share their clients",
        "service.service",
        "        return self._hubs[name]\n",
        "        return next(iter(self._hubs.values()))\n",
    ),
    Mutation(
        "clients of an embedded service are not told to go",
        "server.shutdown",
        "                        client.drop(_EMBEDDED)\n",
        "                        pass\n",
    ),
    # -- the client -------------------------------------------------------------------------
    Mutation(
        "the client gives out the items of a stream in the wrong order",
        "client.calls",
        "        self._items.append(item)\n",
        "        self._items.appendleft(item)\n",
    ),
    Mutation(
        "the client's calls wait on when its connection is lost",
        "client.session",
        "                one.fail(_lost(error))\n",
        "                pass\n",
    ),
    Mutation(
        "the client runs its handlers side by side",
        "client.session",
        "                self._invocations.put(message)\n",
        "                self._nursery.start_soon(self._handlers.handle, message)\n",
    ),
    Mutation(
        "the client does not cancel a stream that it leaves",
        "client.session",
        "                    self.write(CancelInvocation(call_id))\n",
        "                    pass\n",
    ),
    Mutation(
        "the client hears of no errors of its calls",
        "client.calls",
        "            self._error = HubError(completion.error)\n",
        "            pass\n",
    ),
    # -- results of clients -----------------------------------------------------------------
    Mutation(
        "an answer goes to the client's own server",
        "service.client_results",
        "        question.answer(self._session.protocol.name, frame)\n        return True",
        "        return False",
    ),
    Mutation(
        "a client that goes leaves its questions open",
        "service.session",
        "            self.awaited.fail(f\"Connection '{self.id}' is disconnected.\")",
        "            pass",
    ),
    Mutation(
        "a client that is not there is asked all the same",
        "service.routing",
        "        question.fail(f\"Connection '{message.connection_id}' does not exist.\")",
        "        pass",
    ),
    Mutation(
        "a lost server connection leaves its questions open",
        "server.client_results",
        "            if question.connection is connection:",
        "            if False:",
    ),
    Mutation(
        "the service is not told that nobody waits any more",
        "server.client_results",
        "            question.forget(id)",
        "            pass",
    ),
    Mutation(
        "questions of a server have one id",
        "server.client_results",
        '        id = f"{self._hub.instance}-{next(self._ids)}"',
        '        id = f"{self._hub.instance}"',
    ),
    Mutation(
        "an answer waits in the hold",
        "service.session",
        "        if self.awaited is not None and self._is_awaited(self.awaited, message, peek):",
        "        if self._hold is None and self.awaited and self._is_awaited(self.awaited, message, peek):",
    ),
    # -- transports that post ---------------------------------------------------------------
    Mutation(
        "a poll that comes in between takes nothing away",
        "transport.long_polling",
        "            self._outbox.clear()\n            self._look_whether_over()\n",
        "            self._look_whether_over()\n",
    ),
    Mutation(
        "a poll that waits is not woken",
        "transport.long_polling",
        "            self._outbox += payload\n            self._news.unpark_all()",
        "            self._outbox += payload",
    ),
    Mutation(
        "the last messages to one who polls are lost",
        "transport.long_polling",
        "        self._ended = True\n",
        "        self._ended = True\n        self._outbox.clear()\n",
    ),
    Mutation(
        "nobody minds who polls no more",
        "transport.long_polling",
        "now - self._since > self._patience",
        "False",
    ),
    Mutation(
        "of two posts the first is lost",
        "transport.posted",
        "            self._data += data\n",
        "            self._data[:] = data\n",
    ),
    Mutation(
        "what was posted is received twice",
        "transport.posted",
        "        self._data.clear()\n",
        "",
    ),
    Mutation(
        "nobody is told that who reads events has left",
        "service.client_door",
        '        connection.posted.end("the client has left")\n',
        "        pass\n",
    ),
    # -- stateful reconnect -----------------------------------------------------------------
    Mutation(
        "nothing is sent again",
        "transport.stateful",
        'self._write(self._protocol.write(Sequence(number)) + b"".join(frames))',
        "self._write(self._protocol.write(Sequence(number)))",
    ),
    Mutation(
        "what comes again is taken again",
        "protocol.message_buffer",
        "        if number <= self._last:\n            return False",
        "        if number <= self._last:\n            return True",
    ),
    Mutation(
        "the sequence of the other side is not heeded",
        "protocol.message_buffer",
        "        self._next = number\n\n",
        "        pass\n\n",
    ),
    Mutation(
        "a message too many is forgotten at an acknowledgement",
        "protocol.message_buffer",
        "min(number - first + 1, len(self._unacked))",
        "min(number - first + 2, len(self._unacked))",
    ),
    Mutation(
        "what waits for room is sent first",
        "transport.stateful",
        "            frame, type = self._waiting.popleft()\n",
        "            frame, type = self._waiting.pop()\n",
    ),
    Mutation(
        "what waits for room is never sent",
        "transport.stateful",
        "                self._send_waiting(buffer)\n",
        "                pass\n",
    ),
    Mutation(
        "nothing is acknowledged",
        "transport.stateful",
        "            if number is not None:\n                self._write",
        "            if False:\n                self._write",
    ),
    Mutation(
        "the first lost WebSocket is the last",
        "transport.stateful",
        "        is_plain = self._is_answered and self._buffer is None\n",
        "        is_plain = True\n",
    ),
    Mutation(
        "a client has half of the window",
        "transport.stateful",
        "now - self._away_since > self._window",
        "now - self._away_since > self._window / 2",
    ),
    Mutation(
        "a client that is back is still thought to be away",
        "transport.stateful",
        "        self._away_since = None\n        if self._buffer is not None:\n            self._incoming",
        "        if self._buffer is not None:\n            self._incoming",
    ),
]


#: What a scenario needs to have in it for a bug of that module; others need not be played.
_NEEDS: Final[Mapping[str, str]] = {
    "service.client_results": "'ask'",
    "server.client_results": "'ask'",
    "server.sending": "'ask'",
    "service.client_door": "transport=",
    "transport.long_polling": "transport='LongPolling'",
    "transport.posted": "transport=",
    "transport.stateful": "stateful=True",
    "protocol.message_buffer": "stateful=True",
}


class _Mutant(MetaPathFinder):
    """Imports one module with a line changed."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation
        self._name = f"signalr_trio.{mutation.module}"

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._mutation)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, mutation: Mutation) -> None:
        super().__init__(name, path)
        self._mutation = mutation

    def get_code(self, fullname: str):  # type: ignore[no-untyped-def]
        source = self.get_data(self.path).decode()
        times = source.count(self._mutation.old)
        if times != 1:
            raise ValueError(f"mutation {self._mutation.name!r}: found {times} times")
        changed = source.replace(self._mutation.old, self._mutation.new)
        return compile(changed, self.path, "exec", dont_inherit=True)


def known_seeds() -> dict[str, int]:
    """For each mutation the first seed that found it, when that was last written down."""
    return json.loads(_KNOWN.read_text())


def hunt_all(
    mutations: Sequence[Mutation], limit: int, jobs: int, known: Mapping[str, int]
) -> Iterator[Found]:
    """Looks at the seed that is known for each, then at up to ``limit`` from 0 on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_WARM))
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        hunts = [pool.submit(_hunt, one, limit, known.get(one.name)) for one in mutations]
        for hunt in as_completed(hunts):
            yield hunt.result()


def _hunt(mutation: Mutation, limit: int, known: int | None) -> Found:
    """To be called in a fresh process."""
    assert "signalr_trio" not in sys.modules
    sys.meta_path.insert(0, _Mutant(mutation))
    try:
        from tests.simulation.scenario import draw
        from tests.simulation.shrink import as_python
        from tests.simulation.world import run
    except ValueError as error:
        return Found(mutation.name, 0, 0, str(error))

    first = [] if known is None else [known]
    for count, seed in enumerate(itertools.chain(first, range(limit)), 1):
        scenario = draw(seed)
        if _NEEDS.get(mutation.module, "") not in as_python(scenario):
            continue
        violation = run(scenario).violation
        if violation is not None:
            return Found(mutation.name, count, seed, violation)
    return Found(mutation.name, 0, 0, "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations")
    parser.add_argument("--seeds", type=int, default=2000, help="the most for each")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="those with this in their names")
    parser.add_argument("--new", action="store_true", help="those without a seed that is kept")
    parser.add_argument("--markdown", action="store_true", help="prints what is known as a table")
    parser.add_argument("--write", action="store_true", help="keeps the seeds that were found")
    options = parser.parse_args()
    if options.markdown:
        print(_as_markdown(known_seeds()))
        return 0
    seeds = known_seeds() if options.new or options.only else {}
    chosen = [one for one in MUTATIONS if options.only in one.name]
    chosen = [one for one in chosen if not (options.new and one.name in seeds)]
    began = time.monotonic()
    missing = len(chosen)
    for found in hunt_all(chosen, options.seeds, options.jobs, {}):
        how = f"{found.seeds:5} seeds" if found.seeds else "  NOT FOUND"
        print(f"{how}  {found.mutation}: {found.violation[:90]!r}", flush=True)
        if found.seeds:
            seeds[found.mutation] = found.seed
            missing -= 1
    print(f"{len(chosen) - missing} of {len(chosen)} found in {time.monotonic() - began:.0f} s")
    if options.write:
        known = {one.name: seeds[one.name] for one in MUTATIONS if one.name in seeds}
        _KNOWN.write_text(json.dumps(known, indent=1) + "\n")
    return missing > 0


def _as_markdown(known: Mapping[str, int]) -> str:
    rows = [f"| {one.name} | {known[one.name] + 1} |" for one in MUTATIONS if one.name in known]
    return "\n".join(["| the bug | seeds |", "|---|---:|", *rows])


if __name__ == "__main__":
    sys.exit(main())
