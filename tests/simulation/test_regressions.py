"""What the simulation found in the product, as the scenarios to which the findings shrank."""

from __future__ import annotations

import pytest

from tests.simulation.plan import Call, ClientPlan, Event, Scenario, ServerPlan
from tests.simulation.world import run


def _keeps_every_promise(scenario: Scenario) -> None:
    outcome = run(scenario)
    assert outcome.violation is None, "\n".join(map(repr, outcome.trace))


def test_a_close_that_comes_after_on_disconnected_began_moves_nobody() -> None:
    """The client was released, although its hub had been told that it leaves for good."""
    _keeps_every_promise(
        Scenario(
            65,
            servers=(
                ServerPlan("s0", "s0", timeout=1.0),
                # It comes when the time of the other one is up.
                ServerPlan("s1", "s1", starts=1.6),
            ),
            clients=(ClientPlan("c2", on_disconnected=(("state", 100), ("sleep", 0.5))),),
            events=(Event(0.5, "shutdown", "s0"),),
        )
    )


def test_a_call_that_is_late_is_failed_only_if_its_client_leaves() -> None:
    """The polite budget was over, its one target too: an error, and later the result as well."""
    _keeps_every_promise(
        Scenario(
            2285,
            service={"polite_budget": 2.0},
            servers=(
                ServerPlan("s1", "s1-sdk", kind="sdk"),
                ServerPlan("s2", "s2", starts=0.15),
            ),
            clients=(ClientPlan("c2", calls=(Call(0.614, "up", (("sleep", 10.907),)),)),),
            events=(
                Event(0.21298854614151108, "shutdown", "s1"),
                Event(1.7162715341515122, "shutdown", "s2"),
            ),
        )
    )


def test_nothing_follows_a_close() -> None:
    """An SDK server in mode Off says Close, and sends go on until its connections end."""
    _keeps_every_promise(
        Scenario(
            938,
            servers=(
                ServerPlan("s0", "s0-sdk", kind="sdk", connections=2, mode="off"),
                ServerPlan("s1", "s1"),
            ),
            clients=tuple(
                ClientPlan(
                    f"c{i}", on_disconnected=(("sleep", 0.1 * i), ("all",)), calls=(Call(0.9),)
                )
                for i in range(4)
            ),
            events=(Event(1.0, "shutdown", "s0"),),
        )
    )


def _second_opening(seed: int) -> Scenario:
    """The target's server connection is lost while ``on_connected`` runs on it, and the service
    chooses another connection of the same server."""
    slow = (("sleep", 0.6),)
    return Scenario(
        seed,
        servers=(
            ServerPlan("s0", "s0"),
            ServerPlan("s1", "s1", connections=2),
            ServerPlan("s2", "s2", starts=3.0),
        ),
        clients=(ClientPlan("c0", on_connected=slow), ClientPlan("c1", on_connected=slow)),
        events=(
            Event(1.5, "shutdown", "s0"),
            Event(1.9, "cut_link", "s1"),
            Event(6.0, "shutdown", "s1"),
        ),
    )


@pytest.mark.parametrize("seed", range(4, 9))
def test_a_client_that_is_lost_answers_no_handshake(seed: int) -> None:
    """The first ``on_connected`` answered for the second, on the connection made anew."""
    _keeps_every_promise(_second_opening(seed))


def test_a_client_that_is_opened_again_ends_where_it_was() -> None:
    """The service noticed the loss first; the old client connection was never told, and the
    shutdown waited for it until its time was up."""
    _keeps_every_promise(_second_opening(28))


def test_a_client_that_is_bound_is_not_moved_when_its_server_is_lost() -> None:
    """An SDK server ended while the service waited for a call of the client."""
    _keeps_every_promise(
        Scenario(
            151,
            servers=(
                ServerPlan("s0", "s0"),
                ServerPlan("s1", "s1-sdk", kind="sdk", starts=0.17, timeout=1.5),
            ),
            clients=(
                ClientPlan(
                    "c1", connects=0.9, sticky=True, calls=(Call(1.0, steps=(("sleep", 5.0),)),)
                ),
                ClientPlan("c2"),
            ),
            events=(Event(1.145, "shutdown", "s1"),),
        )
    )


def test_the_last_client_is_kept_no_longer_than_the_budget() -> None:
    """It was kept until the others had come to their new server, whose ``on_connected`` is slow."""
    _keeps_every_promise(
        Scenario(
            1105,
            service={"polite_budget": 2.0},
            servers=(
                ServerPlan("s0", "s0-sdk", kind="sdk", connections=3),
                ServerPlan("target", "target", starts=0.2),
            ),
            clients=(
                ClientPlan("c1"),
                ClientPlan("c2", on_connected=(("sleep", 6.0),)),
            ),
            events=(Event(0.65, "shutdown", "s0"),),
        )
    )


def test_who_waits_for_a_server_keeps_nobody_from_going() -> None:
    """It had the only slot, and an SDK server kept a client that is bound until its time was up."""
    _keeps_every_promise(
        Scenario(
            70979,
            service={"slots": 1},
            servers=(
                ServerPlan(
                    "s0",
                    "s0-sdk",
                    kind="sdk",
                    connections=3,
                    hooks=((("all",),), (("sleep", 0.005),)),
                ),
                ServerPlan("target", "target"),
            ),
            clients=(
                ClientPlan("c0"),
                ClientPlan(
                    "c2",
                    connects=0.2896710154437001,
                    on_connected=(("group", "b"), ("join", "a")),
                ),
                ClientPlan("c3", slow_handshake=0.41604047913414643),
                ClientPlan("c4", sticky=True),
            ),
            events=(
                Event(0.3951613266846664, "shutdown", "s0"),
                Event(1.4060504530705622, "kill", "target"),
            ),
        )
    )


def test_nothing_is_sent_on_a_connection_that_is_being_closed() -> None:
    """A send of a background task in the last stage was lost without a word."""
    at = 1.5
    _keeps_every_promise(
        Scenario(
            11241,
            full=True,
            latency=0.2,
            servers=(ServerPlan("s0", "s0"), ServerPlan("s1", "s1", connections=2)),
            clients=(ClientPlan("c0"), ClientPlan("c1")),
            events=(
                Event(at, "shutdown", "s1"),
                *(
                    Event(at + 0.1 * i, "background", "s1", steps=(("user", "c0"), ("all",)))
                    for i in range(1, 40)
                ),
            ),
        )
    )


def test_a_link_that_fell_silent_is_not_closed_politely() -> None:
    """Given up, its close waited 5 s for an answer, in the middle of which the server stopped."""
    _keeps_every_promise(
        Scenario(
            802378,
            full=True,
            servers=(ServerPlan("s0", "s0", stop_timeout=0.5),),
            clients=(ClientPlan("c1"),),
            events=(
                Event(0.4588452622859694, "silence_link", whom="s0", lossy=True),
                Event(0.8557575028385411, "shutdown", whom="s0"),
            ),
        )
    )


def test_a_client_that_fell_silent_does_not_hold_up_an_embedded_service() -> None:
    """Its WebSocket was closed politely when the time for that was over: for 5 s."""
    _keeps_every_promise(
        Scenario(
            8608,
            full=True,
            embedded=True,
            servers=(ServerPlan("s0", "s0", timeout=1.5, stop_timeout=0.5),),
            clients=(ClientPlan("c1"),),
            events=(
                Event(0.478, "silence_client", whom="c1", lossy=True),
                Event(0.549, "shutdown", whom="s0"),
            ),
        )
    )


def test_the_questions_of_a_server_that_has_gone_are_forgotten() -> None:
    """The service awaited the answer for as long as the client stayed."""
    _keeps_every_promise(
        Scenario(
            1025,
            full=True,
            servers=(ServerPlan("s0", "s0"), ServerPlan("n0", "n0", connections=2)),
            clients=(ClientPlan("c1", stateful=True),),
            events=(
                Event(0.3581180557195464, "away", "c1", seconds=7.496),
                Event(
                    0.3790075055163603,
                    "background",
                    "n0",
                    steps=(("all",), ("all",), ("ask", "c1", "stays silent", 0.0, 3.0)),
                ),
                Event(0.5546452720935859, "shutdown", "n0"),
            ),
        )
    )


@pytest.mark.parametrize(
    "client",
    [
        ClientPlan("c0", transport="LongPolling"),
        ClientPlan("c0", stateful=True),
    ],
    ids=["long polling", "stateful reconnect"],
)
def test_a_client_is_told_when_an_embedded_service_is_cancelled(client: ClientPlan) -> None:
    """Its task was none of a request, and was cancelled without a word."""
    _keeps_every_promise(
        Scenario(
            8297,
            full=True,
            embedded=True,
            servers=(ServerPlan("s0", "s0"),),
            clients=(client,),
            events=(Event(3.589652720126947, "cancel", "s0"),),
        )
    )


def test_a_call_that_is_answered_does_not_wait_for_room() -> None:
    """An upload had filled the buffer, and the client was away when it would have had room."""
    _keeps_every_promise(
        Scenario(
            29597,
            full=True,
            latency=0.001,
            servers=(ServerPlan("s0", "s0"),),
            clients=(
                ClientPlan(
                    "c0",
                    stateful=True,
                    calls=(
                        Call(0.14, "up", items=40, gap=0.001, padding=5000),
                        Call(0.17, steps=(("tell",),)),
                    ),
                ),
            ),
            events=(Event(0.25, "away", "c0", seconds=25.0),),
        )
    )


def test_a_stream_that_is_answered_does_not_wait_for_room() -> None:
    """Its items were there, and the connection ended while its call waited for room."""
    _keeps_every_promise(
        Scenario(
            48445,
            full=True,
            servers=(ServerPlan("s0", "s0"),),
            clients=(
                ClientPlan(
                    "c0",
                    stateful=True,
                    calls=(
                        Call(0.47221381752421054, "up", items=40, padding=5000),
                        Call(1.692, "down"),
                    ),
                ),
            ),
            events=(Event(1.7976190348541417, "again", "s0"),),
        )
    )


def test_a_question_is_forgotten_with_the_connection_it_was_asked_on() -> None:
    """The server had come back before the service knew that its connection was lost."""
    _keeps_every_promise(
        Scenario(
            41539,
            servers=(
                ServerPlan("s0", "s0"),
                ServerPlan("s1", "s1", mode="wait_for_clients_close"),
                ServerPlan("s2", "s2"),
            ),
            clients=(ClientPlan("c0"),),
            events=(
                Event(1.227273815972206, "shutdown", "s1"),
                Event(
                    1.812405074531087,
                    "background",
                    "s2",
                    steps=(("user", "c1"), ("ask", "", "stays silent", 0.045, 2.0)),
                ),
                Event(2.676901085953371, "shutdown", "n0"),
                Event(2.8308341448860608, "cut_link", "s2"),
                Event(3.063901085953371, "again", "n0"),
            ),
        )
    )


def test_the_next_call_begins_when_the_one_that_took_a_place_asks() -> None:
    """The client's own task waited for that call to end, and not for its place."""
    _keeps_every_promise(
        Scenario(
            49175,
            servers=(ServerPlan("s2", "s2"),),
            clients=(
                ClientPlan(
                    "c1",
                    calls=(
                        Call(0.017, steps=(("sleep", 3.066), ("fail",))),
                        Call(0.081, steps=(("ask", "c2", "answers", 0.0, 3.0),)),
                        Call(
                            0.148,
                            steps=(("sleep", 0.22), ("ask", "c1", "stays silent", 11.628, 18.683)),
                        ),
                        Call(0.211, "send"),
                    ),
                ),
                ClientPlan("c2", leaves=0.2898429463103662),
            ),
        )
    )


def test_a_client_whose_post_fails_still_hears_the_close() -> None:
    """The service had ended the client, and said so; the answer to its post was there earlier."""
    _keeps_every_promise(
        Scenario(
            1692,
            full=True,
            embedded=True,
            servers=(ServerPlan("s0", "s0", hooks=((("all",), ("fail",)), (("sleep", 0.831),))),),
            clients=(
                ClientPlan("c0", transport="ServerSentEvents"),
                ClientPlan(
                    "c1",
                    connects=0.22487159478627383,
                    transport="ServerSentEvents",
                    calls=(Call(2.267, "send"),),
                ),
            ),
            events=(Event(1.7037288091778606, "shutdown", "s0"),),
        )
    )
