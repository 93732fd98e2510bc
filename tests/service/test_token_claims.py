"""What a client's token tells the service: the claims ``asrs.s.*`` of the official SDK.

``tests/data/transcripts/tokens.json`` has what SDK 1.34 puts into the tokens of clients (without
the times), and the query that it sends them with, by scenario.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from harness.clients import HELLO, Client
from harness.cluster import Cluster, open_cluster, settle
from harness.memory_network import MemoryNetwork
from msgpack import Timestamp

from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.protocol.messages import Close
from signalr_trio.protocol.service_messages import (
    DIAGNOSTIC_CLIENT,
    NO_EXPIRY,
    RefreshAuth,
    header,
)
from signalr_trio.service import token_claims
from signalr_trio.service.front_door import open_service
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.token_claims import Sticky
from signalr_trio.tokens import Claims, claims_of, make_token, user_id_of, verify_token
from signalr_trio.transport.http_client import http_request

TOKENS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "transcripts" / "tokens.json").read_text()
)
ENDPOINT = parse_connection_string(DEVELOPMENT)
KEY = "the access key of this test, which is long enough for HS512: 64 bytes or more"
ALL_TRANSPORTS = frozenset({"WebSockets", "ServerSentEvents", "LongPolling"})
PREFERS_B = [("asrs.s.sn", "B"), ("asrs.s.ssticky", "Preferred")]
REQUIRES_B = [("asrs.s.sn", "B"), ("asrs.s.ssticky", "Required")]


def claims_in(scenario: str) -> Claims:
    """As the service reads them from the token, signed as in the recording."""
    recorded = TOKENS[scenario]
    payload = recorded["payload"]
    now = int(time.time())
    signed = jwt.encode(payload | {"nbf": now, "exp": now + 60}, KEY, algorithm=recorded["alg"])
    hub = recorded["query"][0][1]
    return claims_of(verify_token(signed, [KEY], f"https://other-name/client/?hub={hub}"))


def told(claims: Claims) -> dict[str, object]:
    return {
        "sticky": token_claims.sticky(claims),
        "handshake_timeout": token_claims.handshake_timeout(claims),
        "poll_interval": token_claims.poll_interval(claims),
        "transports": token_claims.transports(claims),
        "is_diagnostic": token_claims.is_diagnostic(claims),
    }


NOTHING = told([])


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", TOKENS)
def test_the_tokens_of_the_sdk(scenario: str) -> None:
    expected = NOTHING
    if scenario.startswith("negotiate_sticky"):
        payload = TOKENS[scenario]["payload"]
        required = payload["asrs.s.ssticky"] == "Required"
        expected = NOTHING | {"sticky": Sticky(payload["asrs.s.sn"], required)}
    elif scenario.startswith("negotiate_options"):
        transports = frozenset({"WebSockets"})
        expected = {"sticky": None, "handshake_timeout": 20, "transports": transports}
        expected |= {"poll_interval": 7, "is_diagnostic": True}
    assert told(claims_in(scenario)) == expected


@pytest.mark.parametrize(
    ("scenario", "user_id"),
    [
        ("negotiate_basic: anonymous, negotiateVersion=1", None),
        ("negotiate_claims: name identifier and roles", "u1"),
        ("negotiate_claims: short JWT names", "n2"),
        ("negotiate_claims: user id with odd characters", "a b/c?d&e=é"),
        # The SDK puts its own before what the application says.
        ("negotiate_claims_provider: user u1 with a role", "u1"),
    ],
)
def test_the_user_of_a_token(scenario: str, user_id: str | None) -> None:
    assert user_id_of(claims_in(scenario)) == user_id


@pytest.mark.parametrize(
    "claims",
    [
        [("asrs.s.sn", "B")],
        [("asrs.s.ssticky", "Required")],
        [("asrs.s.sn", ""), ("asrs.s.ssticky", "Required")],
        [("asrs.s.sn", "B"), ("asrs.s.ssticky", "Disabled")],
        [("asrs.s.cht", "0")],
        [("asrs.s.cht", "31")],
        [("asrs.s.cht", "-5")],
        [("asrs.s.cht", "soon")],
        [("asrs.s.cht", "")],
        [("asrs.s.cht", "1_0")],
        [("asrs.s.cht", "٣")],
        [("asrs.s.cht", "9" * 5000)],
        [("asrs.s.ttl", "0")],
        [("asrs.s.ttl", "301")],
        [("asrs.s.htt", "all")],
        [("asrs.s.dc", "false")],
        [("asrs.s.dc", "")],
    ],
)
def test_what_makes_no_sense_counts_as_absent(claims: Claims) -> None:
    assert told(claims) == NOTHING


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("0", set()),
        ("1", {"WebSockets"}),
        ("6", {"ServerSentEvents", "LongPolling"}),
        ("15", ALL_TRANSPORTS),
    ],
)
def test_transports(flags: str, names: set[str]) -> None:
    assert token_claims.transports([("asrs.s.htt", flags)]) == names


def test_the_end_of_a_login() -> None:
    """It ends the connection only where the SDK was told so (``CloseOnAuthenticationExpiration``)."""
    end = ("asrs.s.aeo", str(int(time.time()) + 100))
    left = token_claims.expires_in([end, ("asrs.s.coae", "true")])
    assert left is not None
    assert 90 < left <= 100
    for claims in (
        [end],
        [("asrs.s.coae", "true")],
        [("asrs.s.aeo", "x"), ("asrs.s.coae", "true")],
    ):
        assert token_claims.expires_in(claims) is None
    assert token_claims.expires_in(claims_in("negotiate_close_on_auth: expires in 100 s"))
    assert token_claims.expires_in(claims_in("negotiate_options: user u1")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [("x", "x"), (7, "7"), (True, "true"), (None, ""), ({"a": ["é", 1]}, '{"a":["é",1]}')],
)
def test_values_that_are_no_strings_are_their_json(value: Any, text: str) -> None:
    assert claims_of({"k": value}) == [("k", text)]


async def test_all_claims_go_on_to_the_hub_server(autojump_clock) -> None:
    """Its SDK looks for its own: authentication type, name and role type, detailed errors."""
    names = {
        "negotiate_claims: authentication type, name type, role type",
        "negotiate_options: user u1",
    }
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        for name in names:
            claims = claims_in(name)
            await cluster.client(name, claims=claims)
            assert a.opened[name].claims == claims


# -- sticky servers ---------------------------------------------------------------------------


async def crowded(cluster: Cluster) -> None:
    """Three clients on B, so that A is the one with the fewest."""
    await cluster.scripted("B")
    for number in range(3):
        await cluster.client(f"crowd-{number}")


@pytest.mark.parametrize(
    ("claims", "server"),
    [([], "A"), (PREFERS_B, "B"), (REQUIRES_B, "B")],
    ids=["disabled", "preferred", "required"],
)
async def test_a_client_goes_to_the_server_that_it_is_stuck_to(
    autojump_clock, claims: Claims, server: str
) -> None:
    async with open_cluster() as cluster:
        await crowded(cluster)
        await cluster.scripted("A")
        await cluster.client("c", claims=claims)
        assert cluster.service.hub("chat").sessions["c"].last_server == server


async def test_a_preferred_server_that_is_not_there_is_done_without(autojump_clock) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c", claims=PREFERS_B)
        assert client.response == {}
        assert "c" in a.opened


@pytest.mark.parametrize("goes", [False, True], ids=["absent", "going"])
async def test_a_required_server_that_cannot_be_had(autojump_clock, goes: bool) -> None:
    """No other will do; a new negotiate names one that lives."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        if goes:
            b = await cluster.scripted("B")
            b.fin()
            await settle()
        client = await cluster.client("c", claims=REQUIRES_B)
        await trio.sleep(ServiceOptions().connect_wait + 1)
        assert client.over.is_set()
        assert client.response is not None
        assert "bound to is not connected" in client.response["error"]
        assert a.opened == {}


async def test_a_required_server_is_waited_for(autojump_clock) -> None:
    async with open_cluster() as cluster:
        await cluster.scripted("A")
        await cluster.client("c", claims=REQUIRES_B)
        await trio.sleep(ServiceOptions().connect_wait - 1)
        b = await cluster.scripted("B")
        assert list(b.opened) == ["c"]


async def test_a_client_that_prefers_its_server_is_moved_when_that_goes(autojump_clock) -> None:
    async with open_cluster() as cluster:
        b = await cluster.scripted("B")
        b.auto_release = True
        client = await cluster.client("c", claims=PREFERS_B)
        a = await cluster.scripted("A")
        b.fin()
        await trio.sleep(1)
        assert "c" in a.opened
        assert client.close is None


# -- the rest ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "seconds"),
    [
        ([], ServiceOptions().handshake_timeout),
        ([("asrs.s.cht", "3")], 3),
        ([("asrs.s.cht", "30")], 30),
    ],
)
async def test_the_time_for_the_handshake(autojump_clock, claims: Claims, seconds: float) -> None:
    async with open_cluster() as cluster:
        client = await cluster.client(claims=claims, hello=HELLO[:3])
        began = trio.current_time()
        await client.over.wait()
        assert trio.current_time() - began == seconds


@pytest.mark.parametrize(("claims", "seconds"), [([], 12), ([("asrs.s.ttl", "3")], 3)])
async def test_the_time_until_the_next_poll(autojump_clock, claims: Claims, seconds: float) -> None:
    """Shorter than that for the handshake, which such a client has not begun."""
    network = MemoryNetwork()
    async with open_service(network=network) as running:
        token = make_token(ENDPOINT.access_key, ENDPOINT.client_audience("chat"), claims)
        ask = partial(http_request, headers=[("Authorization", f"Bearer {token}")], network=network)
        path = f"{ENDPOINT.url}/client/negotiate?hub=chat&negotiateVersion=1"
        id = json.loads((await ask("POST", path)).body)["connectionToken"]
        assert (await ask("GET", f"{ENDPOINT.url}/client/?hub=chat&id={id}")).status == 200
        await trio.sleep(seconds - 0.5)
        assert running.service.client_count == 1
        await trio.sleep(2.5)
        assert running.service.client_count == (0 if claims else 1)


@pytest.mark.parametrize(("claims", "value"), [([], None), ([("asrs.s.dc", "true")], "true")])
async def test_a_diagnostic_client_is_opened_as_one(
    autojump_clock, claims: Claims, value: str | None
) -> None:
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        await cluster.client(claims=claims)
        assert header(a.opened["c"].headers, DIAGNOSTIC_CLIENT) == value


# -- the end of a login -----------------------------------------------------------------------


def expiring(seconds: float) -> Claims:
    return [("asrs.s.coae", "true"), ("asrs.s.aeo", str(int(time.time() + seconds)))]


async def lives_for(client: Client) -> float:
    began = trio.current_time()
    with trio.fail_after(1000):
        await client.over.wait()
    return trio.current_time() - began


async def test_a_login_that_ends_ends_the_connection(autojump_clock) -> None:
    """With the Close of ASP.NET Core; its server is told, and nobody else notices."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c", claims=expiring(100))
        other = await cluster.client("other", claims=[expiring(100)[1]])
        assert 98 <= await lives_for(client) <= 102
        assert client.close == Close(None, True)
        assert len(a.connections[0].closes_of("c")) == 1
        assert other.close is None


async def test_a_login_that_has_ended_already(autojump_clock) -> None:
    async with open_cluster() as cluster:
        await cluster.scripted("A")
        client = await cluster.client("c", claims=expiring(-100))
        assert await lives_for(client) <= 1
        assert client.close == Close(None, True)


async def test_a_new_login_puts_off_the_end(autojump_clock) -> None:
    """Message 41; and one that does not end takes it away."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        clients = [await cluster.client(id, claims=expiring(100)) for id in "cd"]
        await trio.sleep(90)
        later = Timestamp(int(time.time()) + 200, 0)
        a.connections[0].send(RefreshAuth("c", [], later, 1))
        a.connections[0].send(RefreshAuth("d", [], NO_EXPIRY, 2))
        assert 198 <= await lives_for(clients[0]) <= 202
        assert clients[0].close == Close(None, True)
        await trio.sleep(1000)
        assert clients[1].close is None


async def test_a_login_that_ends_in_a_hand_over(autojump_clock) -> None:
    """The old server is told that the client has gone; the hand-over is carried through."""
    async with open_cluster() as cluster:
        a = await cluster.scripted("A")
        client = await cluster.client("c", claims=expiring(10))
        b = await cluster.scripted("B")
        a.fin()
        await trio.sleep(20)
        assert client.close == Close(None, True)
        a.connections[0].release("c")
        await trio.sleep(1)
        assert "c" in b.opened
        assert len(b.connections[0].closes_of("c")) == 1
        assert client.over.is_set()
