"""Plays a scenario: the real service, hub servers and clients on a network in memory."""

from __future__ import annotations

import logging
import random
import signal
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial, partialmethod

import attrs
import orjson
import trio

from signalr_trio.background import open_background
from signalr_trio.client import HubConnection
from signalr_trio.connection_string import DEVELOPMENT, parse_connection_string
from signalr_trio.errors import ConnectionClosed, NegotiateError, SignalRError
from signalr_trio.hosting import serve
from signalr_trio.link.link import Agreement, Link
from signalr_trio.link.websocket import WebSocketLink
from signalr_trio.protocol.hub_protocol import HubProtocol
from signalr_trio.protocol.messages import HubMessage, Invocation, Ping, StreamInvocation
from signalr_trio.protocol.service_messages import OpenConnection
from signalr_trio.server import GracefulShutdown, HubOptions, HubServer, ShutdownReport
from signalr_trio.server.client_connection import ClientConnection
from signalr_trio.server.identity import Identity
from signalr_trio.server.negotiate import NegotiateRequest
from signalr_trio.server.served_hub import ServedHub
from signalr_trio.server.service_connection import ServiceConnection
from signalr_trio.service.front_door import open_service
from signalr_trio.service.options import ServiceOptions
from signalr_trio.service.service import Service
from signalr_trio.tokens import NAME_IDENTIFIER, make_token
from signalr_trio.transport.http_client import http_request
from signalr_trio.transport.stream import Flusher
from signalr_trio.transport.websocket import connect_websocket
from tests.simulation.app import HERE, Chat, Here, News, perform_hook, perform_outside
from tests.simulation.client import SERVER_TIMEOUT, Client, Connected
from tests.simulation.determinism import run_deterministically
from tests.simulation.ledger import ClientRun, Ledger, ServerRun, Violation
from tests.simulation.network import SimulatedNetwork, Socket, Transport
from tests.simulation.plan import ClientPlan, Event, Scenario, ServerPlan
from tests.simulation.product_client import ProductClient
from tests.simulation.sdk_client import SdkClient
from tests.simulation.sdk_server import SdkOptions, SdkServer

__all__ = ["Outcome", "run"]

SERVICE = "service"
#: After the last thing that is planned, everything has to have come to rest within this.
LIVENESS = 120.0
_PORT = 8888
#: Seconds of CPU for one scenario; a hundred times what it takes.
_PATIENCE = 20.0
#: Seconds after which the service has heard of a pause, and what it had sent has come.
_PAUSED = 2.0
#: What a held message counts for beside its bytes.
_HELD_BESIDE = 256
_END_OF_TRACEBACK = 1500
_ENDPOINT = parse_connection_string(DEVELOPMENT)
_HUBS = {hub.name: hub for hub in (Chat, News)}


@attrs.frozen
class Outcome:
    digest: str
    trace: list[tuple[object, ...]]
    violation: str | None
    seconds: float
    """Of the simulated clock."""


def run(scenario: Scenario) -> Outcome:
    """Plays a scenario to its end; the same scenario gives the same trace, always."""
    world = World(scenario)
    # A loop that never gives time a chance to pass would never end.
    signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE)
    signal.signal(signal.SIGVTALRM, _lose_patience)
    logging.disable(logging.CRITICAL)
    violation: str | None = None
    with _probes():
        try:
            run_deterministically(scenario.seed, world.main)
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            where = "".join(traceback.format_exception(error))
            violation = f"crash: {_leaves(error)}\n{where[-_END_OF_TRACEBACK:]}"
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            logging.disable(logging.NOTSET)
    ledger = world.ledger
    if ledger.violation is not None and not violation:
        violation = str(ledger.violation)
    return Outcome(ledger.digest, ledger.trace, violation, world.ended_at)


def _lose_patience(*_: object) -> None:
    raise Violation("liveness: nothing but spinning")


class World:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.ledger = Ledger(scenario)
        self.ended_at = 0.0
        self._chance = random.Random(scenario.seed)
        self._network = SimulatedNetwork(random.Random(scenario.seed + 1), scenario.latency)
        self._service: _RunningService | None = None
        self._servers: dict[str, _RunningServer] = {}
        self._clients: dict[str, Client | ProductClient] = {}
        self._flusher = Flusher()

    # -- the whole --------------------------------------------------------------------------

    async def main(self) -> None:
        with trio.fail_after(self.scenario.ends + 3 * LIVENESS):
            async with open_background() as background:
                if self.scenario.full:
                    background.start_soon(self._flusher.run)
                async with trio.open_nursery() as nursery:
                    if not self.scenario.embedded:
                        await self._start_service(nursery)
                    self._begin(nursery)
                    await self._come_to_rest()
                    self.ledger.judge()
                    await self._take_down()
        self.ledger.judge_the_end()
        self.ended_at = trio.current_time()

    def _begin(self, nursery: trio.Nursery) -> None:
        for server in self.scenario.servers:
            run = self.ledger.server_made(server)
            nursery.start_soon(self._run_server, run)
        for client in self.scenario.clients:
            nursery.start_soon(self._run_client, client)
        for event in self.scenario.events:
            nursery.start_soon(self._play, event)

    async def _come_to_rest(self) -> None:
        await trio.sleep_until(self.scenario.ends + 0.5)
        limit = trio.current_time() + LIVENESS
        while not self.ledger.at_rest and trio.current_time() < limit:  # noqa: ASYNC110
            await trio.sleep(0.5)
        self.ledger.check(self.ledger.at_rest, "liveness", self.ledger.unrest())
        # What was sent last is still on its way.
        await trio.sleep(2.0)

    def _check_questions(self) -> None:
        """Nobody asks any more: the service awaits no answers, nor does a server."""
        service = self._service
        for session in () if service is None else service.service._sessions:
            asked = self.ledger.questions.awaits(session.user_id or "")
            told = session.gone or not session.awaited or asked
            self.ledger.check(told, "results", session.user_id, "is awaited by nobody")
        for running in self._servers.values():
            server = running.server
            if isinstance(server, HubServer) and not running.run.dead:
                asked = [id for hub in server.hubs for id in hub.results._open]
                same = len(asked) == len(self.ledger.questions.open_of(running.run))
                self.ledger.check(same, "results", running.run.name, "waits for", asked)

    async def _take_down(self) -> None:
        """Everyone leaves in order, and nothing is left."""
        self._check_questions()
        for client in self._clients.values():
            client.leave(says_close=False)
        await trio.sleep(2.0)
        service = self._service
        if service is not None and not self._is_dead(SERVICE):
            with trio.move_on_after(2 * service.service.options.target_wait):
                while service.service.client_count:  # noqa: ASYNC110
                    await trio.sleep(1.0)
            held = service.service.held_size
            self.ledger.check(held == 0, "P8", held, "bytes are held for nobody")
            # The service does not mind the silence of one that it has not heard a ping of: that of
            # our client, which begins with one, may have been lost on the way.
            sessions = service.service._sessions
            left = sum(one._pings or one._transport.inherent_keep_alive for one in sessions)
            lost = [one for one in self.ledger.clients.values() if one.cut_at or one.losses]
            unheard = len(sessions) - left
            self.ledger.check(left == 0, "P10", left, "clients are left in the service")
            text = (unheard, "clients are left in the service, of", len(lost), "that were lost")
            self.ledger.check(unheard <= len(lost), "P10", *text)
        for running in self._servers.values():
            if running.server is not None:
                run = running.run
                if run.asked_at is None:
                    self.ledger.asked(run)
                running.server.request_shutdown()
        for running in self._servers.values():
            with trio.move_on_after(LIVENESS) as scope:
                await running.over.wait()
            name = running.run.name
            self.ledger.check(not scope.cancelled_caught, "P7", name, "does not stop")
            running.scope.cancel()
        if service is not None:
            service.stop.set()

    def _is_dead(self, host: str) -> bool:
        return host in self._network.dead

    # -- the service ------------------------------------------------------------------------

    async def _start_service(self, nursery: trio.Nursery) -> None:
        options = ServiceOptions(**self.scenario.service)
        start = self._run_full_service if self.scenario.full else self._run_service
        self._service = await nursery.start(start, options)

    async def _run_service(
        self, options: ServiceOptions, *, task_status: trio.TaskStatus[_RunningService]
    ) -> None:
        service = Service(options, chance=self._chance)
        async with open_background() as acceptor:
            running = _RunningService(service, acceptor)
            with running.scope:
                async with service.running():
                    task_status.started(running)
                    await running.stop.wait()

    async def _run_full_service(
        self, options: ServiceOptions, *, task_status: trio.TaskStatus[_RunningService]
    ) -> None:
        network = self._network.host(SERVICE)
        scope, stop = trio.CancelScope(), trio.Event()
        with scope:
            async with open_service(options=options, network=network, chance=self._chance) as door:
                task_status.started(_RunningService(door.service, None, scope, stop))
                await stop.wait()

    # -- servers ----------------------------------------------------------------------------

    async def _run_server(self, run: ServerRun) -> None:
        await trio.sleep_until(run.plan.starts)
        if run.dead:
            run.ended_at = trio.current_time()
            return
        running = self._servers[run.name] = _RunningServer(run)
        HERE.set(Here(self.ledger, run))
        report: ShutdownReport | None = None
        with running.scope:
            try:
                if run.own:
                    await self._run_own_server(running)
                else:
                    running.server = server = self._make_sdk_server(run)
                    await server.run()
            finally:
                if isinstance(running.server, HubServer):
                    report = running.server.report
                self.ledger.server_ended(run, report)
                running.over.set()

    async def _run_own_server(self, running: _RunningServer) -> ShutdownReport:
        plan = running.run.plan
        server = HubServer(
            None if self.scenario.embedded else DEVELOPMENT,
            server_id=plan.id,
            shutdown=GracefulShutdown(
                plan.mode, timeout=plan.timeout, stop_timeout=plan.stop_timeout
            ),
            options=HubOptions(
                max_parallel_invocations=plan.parallel,
                inbox_pause=plan.inbox_pause,
                server_connections=plan.connections,
            ),
            chance=self._chance,
        )
        for name in self.scenario.hubs:
            server.map(_HUBS[name], f"/{name}")
        for steps in plan.hooks:
            server.on_shutdown(Chat)(partial(perform_hook, steps=steps))
        running.server = server
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_until_up, running)
            if self.scenario.full:
                report = await self._serve(server, plan)
            else:
                connect = partial(self._connect_own_server, server, plan)
                report = await server.run(connect)
            nursery.cancel_scope.cancel()
        return report

    async def _serve(self, server: HubServer, plan: ServerPlan) -> ShutdownReport:
        network = self._network.host(plan.name)
        if not self.scenario.embedded:
            return await serve(server, port=None, signals=False, network=network)
        options = ServiceOptions(**self.scenario.service)
        return await serve(
            server,
            port=_PORT,
            identify=_identify,
            signals=False,
            service_options=options,
            network=network,
        )

    def _make_sdk_server(self, run: ServerRun) -> SdkServer:
        plan = run.plan
        return SdkServer(
            SdkOptions(
                plan.id, plan.connections, plan.mode, plan.timeout, plan.parallel, stateful=True
            ),
            Chat,
            partial(self._connect_server, plan, Chat.name, agreement=None),
            _SdkWatch(self.ledger, run),
            self._chance,
            [partial(perform_hook, steps=steps) for steps in plan.hooks],
        )

    async def _wait_until_up(self, running: _RunningServer) -> None:
        server = running.server
        assert isinstance(server, HubServer)
        while True:
            links = [link for hub in server.hubs for link in hub.connections]
            if links and all(link.is_up for link in links):
                self.ledger.server_up(running.run)
                return
            await trio.sleep(0.05)

    @asynccontextmanager
    async def _connect_own_server(
        self, server: HubServer, plan: ServerPlan, hub: str, cid: str, target: str | None
    ) -> AsyncGenerator[Link]:
        agreement = Agreement(server.instance)
        async with self._connect_server(plan, hub, cid, agreement) as link:
            yield link

    @asynccontextmanager
    async def _connect_server(
        self, plan: ServerPlan, hub: str, cid: str, agreement: Agreement | None
    ) -> AsyncGenerator[Link]:
        """A server connection without HTTP: bytes of service messages on a pipe."""
        await trio.sleep(0.001)
        service = self._service
        connection = self._network.connect(plan.name, SERVICE)
        if service is None or service.stop.is_set() or service.acceptor is None:
            raise OSError("the service is not there")
        near = Socket(connection.back, connection.there)
        far = Socket(connection.there, connection.back)
        link = WebSocketLink(far, agreement)  # type: ignore[arg-type]
        service.acceptor.start_soon(self._accept_server, service, hub, link, plan.id, cid)
        try:
            yield WebSocketLink(near, agreement)  # type: ignore[arg-type]
        finally:
            await near.aclose()

    async def _accept_server(
        self, running: _RunningService, hub: str, link: Link, server_id: str, cid: str
    ) -> None:
        try:
            await running.service.serve_server(hub, link, server_id=server_id, cid=cid)
        finally:
            await link.aclose()

    # -- clients ----------------------------------------------------------------------------

    async def _run_client(self, plan: ClientPlan) -> None:
        run = self.ledger.clients[plan.name]
        await trio.sleep_until(plan.connects)
        try:
            if self.scenario.full and plan.behaves:
                connect = partial(self._connect_product_client, plan)
                client = self._clients[plan.name] = ProductClient(self.ledger, run, connect)
                await client.play()
                return
            async with self._connect_client(plan, run) as connection:
                client = self._clients[plan.name] = Client(self.ledger, run, connection)
                await client.play()
        except (OSError, ConnectionClosed, NegotiateError, SignalRError) as error:
            if run.ended_at is None:
                self.ledger.client_ended(run, type(error).__name__)

    @asynccontextmanager
    async def _connect_client(self, plan: ClientPlan, run: ClientRun) -> AsyncGenerator[Connected]:
        if self.scenario.full:
            async with self._connect_full_client(plan) as connection:
                yield connection
            return
        service = self._service
        connection = self._network.connect(plan.name, SERVICE)
        if service is None or service.stop.is_set() or service.acceptor is None:
            raise OSError("the service is not there")
        far = Transport(connection.there, connection.back)
        far.on_read = partial(self._check_reading, service.service, far)
        id = service.service.new_id()
        service.acceptor.start_soon(self._accept_client, service, far, id, plan)
        near = Socket(connection.back, connection.there)
        yield near

    def _check_reading(self, service: Service, transport: Transport) -> None:
        """The service reads no client whose hold is full, and counts what it holds."""
        options, held = service.options, 0
        for session in service._sessions:
            early = session.gone or session._early_size <= options.hold_limit
            self.ledger.check(early, "P8", session.user_id, "is not answered and sent too much")
            hold = session._hold
            if hold is None:
                continue
            held += sum(_HELD_BESIDE + len(frame) for frame, _ in hold._frames)
            if session._transport is transport:
                full = hold.size > options.hold_limit or service.held_size > options.hold_total
                self.ledger.check(not full, "P8", session.user_id, "is read with a full hold")
        self.ledger.check(held == service.held_size, "P8", held, "are held, not", service.held_size)
        for server in service._servers:
            found = sum(len(one.sessions) for one in server.connections)
            self.ledger.check(
                found == server.clients, "P8", found, "are with", server.id, "not", server.clients
            )

    async def _accept_client(
        self, running: _RunningService, transport: Transport, id: str, plan: ClientPlan
    ) -> None:
        claims = _claims(plan)
        new_client = running.service.new_client
        await new_client(plan.hub, transport, connection_id=id, claims=claims).run()

    def _connect_product_client(self, plan: ClientPlan, protocol: HubProtocol) -> HubConnection:
        path, query, token = self._address(plan)
        return HubConnection(
            f"http://localhost:{_PORT}{path}/{query}",
            protocol=protocol,
            access_token=token,
            reconnect=None,
            keep_alive=self.scenario.service.get("client_timeout", SERVER_TIMEOUT) / 3,
            server_timeout=SERVER_TIMEOUT,
            handshake_timeout=SERVER_TIMEOUT,
            transports=(plan.transport,),
            stateful_reconnect=plan.stateful,
            network=self._network.host(plan.name),
        )

    def _address(self, plan: ClientPlan) -> tuple[str, str, str]:
        """Path and query of a client's requests, and its token."""
        if self.scenario.embedded:
            return f"/{plan.hub}", "?", plan.name
        audience = _ENDPOINT.client_audience(plan.hub)
        token = make_token(_ENDPOINT.access_key, audience, _claims(plan))
        return "/client", f"?hub={plan.hub}", token

    @asynccontextmanager
    async def _connect_full_client(self, plan: ClientPlan) -> AsyncGenerator[Connected]:
        network = self._network.host(plan.name)
        path, query, token = self._address(plan)
        headers = [("Authorization", f"Bearer {token}")]
        url = f"http://localhost:{_PORT}{path}"
        answer = await http_request(
            "POST",
            f"{url}/negotiate{query}&negotiateVersion=1",
            headers=headers,
            network=network,
        )
        if answer.status != 200:
            raise NegotiateError(f"status {answer.status}")
        id = orjson.loads(answer.body)["connectionToken"]
        async with connect_websocket(
            f"{url}/{query}&id={id}", headers=headers, flusher=self._flusher, network=network
        ) as websocket:
            yield websocket

    # -- events -----------------------------------------------------------------------------

    async def _play(self, event: Event) -> None:
        await trio.sleep_until(event.at)
        running = self._servers.get(event.whom)
        if event.what in ("shutdown", "again", "cancel", "background"):
            if running is not None and running.server is not None and not running.over.is_set():
                await self._play_on(event, running)
        elif event.what in ("kill_service", "stop_service"):
            await self._end_service(event)
        else:
            await self._break(event, running)

    async def _play_on(self, event: Event, running: _RunningServer) -> None:
        server, run = running.server, running.run
        assert server is not None
        if event.what == "shutdown":
            self.ledger.asked(run)
            server.request_shutdown()
        elif event.what == "again":
            run.hurried_at = trio.current_time()
            self.ledger.note("again", run.name)
            server.stop_now()
        elif event.what == "cancel":
            run.hurried_at = trio.current_time()
            self.ledger.note("cancel", run.name)
            running.scope.cancel()
        elif isinstance(server, HubServer):
            HERE.set(Here(self.ledger, run))
            try:
                await perform_outside(server.hub_context(Chat), event.steps)
            except ConnectionClosed:
                self.ledger.note("no connection", run.name)

    async def _end_service(self, event: Event) -> None:
        service = self._service
        assert service is not None
        self.ledger.fault(event.what, SERVICE)
        if event.what == "stop_service":
            service.stop.set()
        else:
            self._network.kill(SERVICE, lossy=event.lossy)
            service.scope.cancel()

    async def _break(self, event: Event, running: _RunningServer | None) -> None:
        host = event.whom
        if host not in self.ledger.servers and host not in self.ledger.clients:
            return  # A scenario that was made smaller.
        if event.what == "kill":
            self.ledger.fault(event.what, host)
            self._network.kill(host, lossy=event.lossy)
            if running is not None:
                running.scope.cancel()
            return
        run = self.ledger.clients.get(host)
        if event.what == "away" or (event.what == "cut_client" and run is not None and run.lasting):
            assert run is not None
            self._send_away(event, run)
            return
        connections = self._network.of(host)
        if run is not None and run.plan.transport != "WebSockets":
            connections = [one for one in connections if one.is_open]
        elif run is not None:
            # The one before it was for negotiate.
            connections = connections[-1:]
        if not connections:
            return
        connection = self._chance.choice(connections)
        self.ledger.fault(event.what, host)
        if event.what.startswith("silence"):
            connection.fall_silent()
        elif event.lossy:
            connection.reset()
        else:
            connection.die()

    def _send_away(self, event: Event, run: ClientRun) -> None:
        """Cuts all connections of a client, which can make no other for a while."""
        connections = [one for one in self._network.of(run.name) if one.is_open]
        lasting = run.lasting and run.answered
        if run.ended_at is not None or not (connections or lasting):
            return
        until = trio.current_time() + event.seconds
        self._network.away[run.name] = max(until, self._network.away.get(run.name, until))
        if lasting:
            self.ledger.away(run, self._network.away[run.name])
        else:
            self.ledger.fault("cut_client", run.name)
        for connection in connections:
            if event.lossy:
                connection.reset()
            elif lasting:
                connection.tear()
            else:
                connection.die()


def _claims(plan: ClientPlan) -> list[tuple[str, str]]:
    sticky = [("asrs.s.ssticky", "Required")] if plan.sticky else []
    return [(NAME_IDENTIFIER, plan.name), *sticky]


def _identify(request: NegotiateRequest) -> Identity:
    """An embedded server takes a client's word for its name."""
    name = (request.header("authorization") or "").removeprefix("Bearer ")
    return Identity(claims=((NAME_IDENTIFIER, name),))


@attrs.define(eq=False)
class _RunningService:
    service: Service
    acceptor: trio.Nursery | None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    stop: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class _RunningServer:
    run: ServerRun
    server: HubServer | SdkServer | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen
class _SdkWatch:
    """What the ledger wants to know of an SDK server."""

    ledger: Ledger
    run: ServerRun

    def up(self) -> None:
        self.ledger.server_up(self.run)

    def opened(self, client: SdkClient, before: SdkClient | None) -> None:
        self.ledger.opened(self.run, client.name, answered_all_fins=False)
        again = before is not None and before.connection is client.connection
        self.ledger.check(not again, "P1", client.name, "was opened twice on", self.run.name)

    def pinged(self, client: SdkClient) -> None:
        self.ledger.check(False, "rule 11", client.name, "a ping was passed on")


class _probes:
    """Watches what no hub and no client sees: what reaches a hub server."""

    def __enter__(self) -> None:
        self._open, self._take = ServedHub.open, ClientConnection._take
        ServedHub.open = partialmethod(_probe_open, self._open)  # type: ignore[method-assign]
        ClientConnection._take = partialmethod(_probe_take, self._take)  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        ServedHub.open = self._open  # type: ignore[method-assign]
        ClientConnection._take = self._take  # type: ignore[method-assign]


def _probe_open(
    hub: ServedHub,
    open: Callable[[ServedHub, ServiceConnection, OpenConnection], None],
    connection: ServiceConnection,
    message: OpenConnection,
) -> None:
    here = HERE.get(None)
    if here is not None:
        names = [value for kind, value in message.claims if kind == NAME_IDENTIFIER]
        asked = here.server.asked_at is not None
        answered = asked and all(one._finack.is_set() for one in hub.connections)
        here.ledger.opened(here.server, names[0], answered_all_fins=answered)
    open(hub, connection, message)


def _probe_take(
    client: ClientConnection,
    take: Callable[[ClientConnection, HubMessage, int], None],
    message: HubMessage,
    size: int,
) -> None:
    here = HERE.get(None)
    if here is not None:
        name, waiting = client.context.user_id, client._calls.waiting_size
        ledger = here.ledger
        ledger.check(not isinstance(message, Ping), "rule 11", name, "a ping was passed on")
        begins = isinstance(message, (Invocation, StreamInvocation))
        # What is held for one that leaves, or is closed, goes where it belongs.
        stays = ledger.clients[name or ""].stays and ledger.service_fault_at is None
        begins = begins and stays
        if waiting <= client.hub.options.inbox_pause:
            client.context.items.pop("full_since", None)
        elif begins:
            since = client.context.items.setdefault("full_since", trio.current_time())
            fed = trio.current_time() - since > _PAUSED
            ledger.check(not fed, "rule 33", name, "is sent calls although it asked for a pause")
    take(client, message, size)


def _leaves(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_leaves(one) for one in error.exceptions)
    if isinstance(error, Violation):
        return str(error)
    return repr(error)
