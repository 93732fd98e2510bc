"""The model of an SDK server does what the official SDK was seen to do.

``transcripts`` are recordings of Microsoft.Azure.SignalR 1.34.0 against a scripted service. What
the service said goes into the model at the recorded time; what the model says on each connection,
and what its hub sees of each client, has to be what was recorded: the same frames and events, in
order, each at its time. What may differ is said by ``_is_left_out``, ``_sends_anywhere``,
``_origin`` and the tables; of payloads, only the JSON form of a send is compared.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.simulation.replay import Event, Recording, load, replay

#: Each has other races inside the model.
SEEDS = range(5)
#: Milliseconds by which the real process may be later than the model: it compiles what it runs
#: for the first time. And by how much it may be earlier, since the model has its lag.
SLOWNESS, HASTE = 200.0, -20.0
#: When an ack that never comes is given up is chance.
CHANCE = {"groups_hub": 2000.0, "groups_hubcontext": 2000.0}
#: What is nearer to each other than this, in milliseconds, and not of one origin, is a race.
RACE = 60.0

#: How many recordings there are.
ALL = 148
#: The recordings that are not here, by what the model lacks for them.
LEFT_OUT = {
    "client results": """client_results client_results_hub client_results_remote
        handover_client_result handover_client_result_paused""",
    "flow control, which the service does not use towards these servers": """
        control_offline_server_connection handover_backlog_paused handover_burst_paused
        handover_echo_just_before_paused handover_idle_paused handover_invocation_aborts_paused
        handover_invocation_long_paused handover_invocation_paused
        handover_partial_just_before_paused handover_queued_paused handover_slowdisc_paused
        handover_split_just_before_paused handover_stream_paused handover_upload_paused pause_odd
        pause_offline_resume_other pause_resume_other pause_resume_same pause_then_offline
        shutdown_migrate_paused""",
    "pings and errors that the service does not send": """control_pings control_tracing
        crash_service_error handover_echo_barrier""",
    "negotiate: the world sends clients straight to the service": """
        negotiate_application_name negotiate_basic negotiate_claims negotiate_claims_provider
        negotiate_claims_provider_null negotiate_client_endpoint negotiate_close_on_auth
        negotiate_culture negotiate_expires_only negotiate_handshake_timeout_bad
        negotiate_https_endpoint negotiate_no_service negotiate_options negotiate_stateful
        negotiate_stateful_service_option negotiate_sticky_preferred negotiate_sticky_required""",
    "a second hub or endpoint": """endpoints_scale endpoints_secondary endpoints_two
        shutdown_two_hubs shutdown_two_hubs_hook_throws startup_2hubs""",
    "payloads that no client gets past the service, and texts of ASP.NET Core": """
        client_bad_handshake client_big_result client_detailed_errors client_garbage
        client_stateful client_unknown_messages sends_two_protocols""",
    "bytes on the line: the link is the product's own": """framing_odd malformed
        malformed_prefix_huge malformed_prefix_overflow malformed_prefix_six_bytes
        malformed_prefix_truncated""",
    "attempts that fail: the recorded pauses between them are chance": """crash_backoff
        crash_handshake_error crash_refuse_401 crash_refuse_404 crash_refuse_429
        crash_refuse_500 crash_refuse_503 crash_refuse_drop crash_refuse_hang
        shutdown_no_service""",
    "what happens in them is chance": """handover_same_server idle_silent_service""",
    "only their beginnings were kept, and figures": """handover_stream_fast order_races
        sends_backpressure shutdown_migrate_1000 shutdown_off_1000""",
}

_SENDS = {7, 8, 9, 10, 13, 14, 18, 19}
_PING, _DATA, _CLOSE_CONNECTION = 3, 6, 5
_STREAM_ITEM = 2
_NAMES = sorted(path.stem for path in (Path(__file__).parent / "transcripts").glob("*.json"))


@attrs.frozen
class Entry:
    t: float
    where: Hashable
    """A server connection, or a client of the hub."""
    origin: Hashable
    """What is of one origin there is in order."""
    what: Any


@pytest.mark.parametrize("name", _NAMES)
def test_the_model_does_as_the_sdk_did(name: str) -> None:
    recording = load(name)
    expected = _entries(recording, recording.events)
    for seed in SEEDS:
        _compare(recording, expected, _entries(recording, replay(recording, seed)))


def test_every_recording_is_replayed_or_left_out_for_a_reason() -> None:
    left_out = [name for names in LEFT_OUT.values() for name in names.split()]
    assert len({*left_out, *_NAMES}) == len(left_out) + len(_NAMES) == ALL


def test_sends_overtake_what_the_hub_answers_and_never_their_own_completion() -> None:
    """The SDK's send in ``OnConnected`` came before the handshake's answer 51 times of 60."""
    orders = {tuple(_first_answers(seed)) for seed in range(30)}
    assert orders == {(_DATA, 7, _DATA), (7, _DATA, _DATA)}


def _first_answers(seed: int) -> list[int]:
    """Types of messages: a greeting in ``OnConnected``, and one call."""
    return [event["m"][0] for event in replay(load("client_basics"), seed)[1:] if "m" in event][:3]


def test_a_client_is_pinged_every_so_often_whether_or_not_it_is_silent() -> None:
    recording = load("client_hub_keepalive")
    for events in (recording.events, replay(recording, 0)):
        said = [event for event in events if event["d"] == "<" and "m" in event]
        times = [event["t"] for event in said if event["m"][:2] == [_DATA, "silent"]]
        assert len(times) > 5
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert all(2000 <= gap <= 3200 for gap in gaps), gaps


def _compare(recording: Recording, expected: list[Entry], found: list[Entry]) -> None:
    for where in dict.fromkeys(entry.where for entry in [*expected, *found]):
        here = [entry for entry in expected if entry.where == where]
        there = [entry for entry in found if entry.where == where]
        pairs = _pair(here, there)
        for one, other in pairs:
            late, chance = one.t - other.t, CHANCE.get(recording.name, 0.0)
            assert HASTE - chance <= late <= SLOWNESS + chance, (one, other)
        for i, (one, other) in enumerate(pairs):
            for next, other_next in pairs[i + 1 :]:
                if next.t - one.t >= RACE:
                    assert other.t <= other_next.t, (one, next)


def _pair(expected: list[Entry], found: list[Entry]) -> list[tuple[Entry, Entry]]:
    """Each recorded entry with the model's, origin by origin, in recorded order."""
    queues: dict[Hashable, list[Entry]] = {}
    for entry in found:
        queues.setdefault(entry.origin, []).append(entry)
    for origin in dict.fromkeys(entry.origin for entry in [*expected, *found]):
        here = [entry.what for entry in expected if entry.origin == origin]
        assert [entry.what for entry in queues.get(origin, [])] == here, origin
    return [(entry, queues[entry.origin].pop(0)) for entry in expected]


# -- what is compared ---------------------------------------------------------------------------


def _entries(recording: Recording, events: Iterable[Event]) -> list[Entry]:
    anywhere = _sends_anywhere(recording)
    ended: set[int] = set()
    entries: list[Entry] = []
    ending = False
    for event in events:
        if event["d"] == "app":
            # Who still gets a hub event in a process that ends is chance.
            if not ending or event["e"] == "process.end":
                entries.append(_hub_entry(event))
        elif event.get("ws") in ("close", "tcp end", "tcp drop"):
            # One that is killed closes nothing.
            if event["c"] not in ended and event["d"] == "<":
                ending = True
                entries.append(Entry(event["t"], event["c"], "connection", "close"))
            ended.add(event["c"])
        elif event["d"] == "<" and "m" in event and not _is_left_out(recording, event):
            entries.append(_frame_entry(event, anywhere))
    return entries


def _sends_anywhere(recording: Recording) -> bool:
    """What is sent outside of calls, or in those whose connection is lost, goes on any other."""
    return any("hooks" in server["options"] for server in recording.servers) or any(
        event.get("text", "").startswith("ctl") or event.get("ws") == "tcp drop"
        for event in recording.events
    )


def _is_left_out(recording: Recording, event: Event) -> bool:
    """Pings at times that are chance: of a client, and of a server for the service's status.

    Answers to pings that were trimmed from the recording. A FIN in the moment the time is up.
    """
    message = event["m"]
    if message[0] == _DATA:
        return _plain(message[2]) == [{"type": 6}]
    if message[0] != _PING:
        return False
    if "shutdown" not in message:
        return "status" in message or recording.trimmed
    asked = next(one["t"] for one in recording.events if one["d"] == "note")
    timeout = float(recording.servers[0]["options"].get("shutdown-timeout", 30))
    return event["t"] - asked > timeout * 1000 - RACE


def _frame_entry(event: Event, anywhere: bool) -> Entry:
    t, where, message = event["t"], event["c"], _plain(event["m"])
    if message[0] == _PING:
        return Entry(t, where, "pings", message)
    if message[0] in (_DATA, _CLOSE_CONNECTION):
        return Entry(t, where, _origin(message), message)
    if message[0] in _SENDS and anywhere:
        return Entry(t, "any", ("sends", message[0], str(message[1])), message)
    return Entry(t, where, "sends" if message[0] in _SENDS else "connection", message)


def _origin(message: list[Any]) -> Hashable:
    """Streams of one client run beside each other."""
    client = message[1]
    if message[0] == _DATA and message[2][0].get("type") == _STREAM_ITEM:
        return (client, message[2][0]["invocationId"])
    # Opened again in the moment of its close: two objects answer.
    return (client, str(message[-1])) if client == "reopen" else client


def _hub_entry(event: Event) -> Entry:
    what, client, details = event["e"], event.get("id", ""), event.get("data")
    if isinstance(details, str):
        details = details[:60]
    if isinstance(details, dict):
        details = {name: value for name, value in details.items() if name != "produced"}
    return Entry(
        event["t"], ("hub", client), what.split(".")[0].replace("Dis", ""), [what, details]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "bin" in value:
        return [_hub_message(record) for record in value["bin"].split("\x1e")[:-1]]
    if "json" in value:
        return _plain(value["json"])
    return value


def _hub_message(record: str) -> Any:
    message = json.loads(record)
    if isinstance(message.get("result"), dict):
        message["result"] = {}
    return message
