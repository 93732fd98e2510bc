"""The server's end of a server connection: kept up until this server goes offline."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import trio

from signalr_trio.errors import (
    ConfigurationError,
    ConnectionClosed,
    ProtocolError,
    SignalRError,
)
from signalr_trio.link.link import Link
from signalr_trio.protocol.service_messages import (
    ECHO,
    FINACK,
    INSTANCE_ID,
    OFFLINE,
    SHUTDOWN,
    TARGET,
    Ack,
    ClientCompletion,
    ClientInvocation,
    CloseConnection,
    ConnectionData,
    ConnectionFlowControl,
    ConnectionType,
    ErrorCompletion,
    FlowControlConnectionType,
    FlowControlOperation,
    HandshakeRequest,
    HandshakeResponse,
    MigrationLevel,
    OpenConnection,
    Ping,
    ServiceMapping,
    ServiceMessage,
    UpdateConnectionClaims,
    header,
)

if TYPE_CHECKING:
    from signalr_trio.server.served_hub import ServedHub

__all__ = ["Connector", "ServiceConnection"]

log = logging.getLogger("signalr_trio.server")

#: Opens a link for a hub: (hub name, id of the server connection, service instance or None).
Connector = Callable[[str, str, str | None], AbstractAsyncContextManager[Link]]

_HANDSHAKE_TIMEOUT = 15.0
_PING_AFTER = 5.0
_FIN_AGAIN = 5.0
_LONGEST_DELAY = 60.0
#: Seconds; a connection that was up for less is made again later, as if it had not been up.
_LASTING = 1.0
_LITTLE = 16 * 1024


class ServiceConnection:
    """One server connection of a hub.

    ``run`` makes it, serves it, and makes it again when it is lost: at once if it was up for a
    second, else after 1, 2, 4 .. 60 s plus up to a second. Its scope is shielded, since client
    connections that end in order still need it; the server cancels it when they are over.
    """

    def __init__(
        self,
        hub: ServedHub,
        connector: Connector,
        *,
        cid: str,
        migrates: bool,
        chance: random.Random,
        target: str | None = None,
    ) -> None:
        self.hub = hub
        self.id = cid
        self.target = target
        """The service instance that asked for this connection (on demand): not made again."""
        self.scope = trio.CancelScope(shield=True)
        self.first_try = trio.Event()
        """Set when the connection is up, or could not be made at once."""
        self._connector = connector
        self._migrates = migrates
        self._chance = chance
        self._link: Link | None = None
        self._attempt = trio.CancelScope()
        self._offline = False
        self._shaken = False
        self._silenced = False
        self._finack = trio.Event()
        self._up_at = 0.0
        self._heard_at = 0.0
        self._pinged_at = 0.0

    def __repr__(self) -> str:
        return f"<server connection {self.id}, hub {self.hub.name}>"

    @property
    def is_up(self) -> bool:
        """Whether it can be sent on."""
        return self._link is not None and self._shaken and not self._silenced

    @property
    def agreed(self) -> bool:
        """Whether the service is ours, and waits for releases."""
        return self._link is not None and self._link.agreement is not None

    @property
    def embedded(self) -> bool:
        agreement = self._link.agreement if self._link is not None else None
        return agreement is not None and agreement.embedded

    # -- out --------------------------------------------------------------------------------

    def send(self, message: ServiceMessage) -> None:
        """Puts a message in line; dropped when the connection is lost, as what was in it is."""
        if self._link is not None and not self._silenced:
            self._link.send(message)

    async def drained(self) -> None:
        """Waits while the line is full.

        Always a checkpoint, but others get their turn only when there is something to send for
        them: what is sent in one go leaves in one go.
        """
        link = self._link
        if link is None or link.buffered <= _LITTLE:
            await trio.lowlevel.checkpoint_if_cancelled()
        elif link.buffered <= self.hub.options.link_high_water:
            await trio.lowlevel.checkpoint()
        else:
            await link.drained(self.hub.options.link_high_water)

    async def aclose(self, *, timeout: float) -> None:
        """Sends what is in line and closes, within ``timeout``; it is not made again.

        What would be sent behind the end is refused at once, not lost.
        """
        self._offline = self._silenced = True
        if self._link is not None:
            await self._link.aclose(timeout=timeout)

    # -- the task ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps the connection up until ``scope`` is cancelled, or it is lost after going offline."""
        with self.scope:
            delay = 0.0
            while not self._offline:
                lasted = False
                self._attempt = trio.CancelScope()
                with self._attempt:
                    if delay:
                        await trio.sleep(delay + self._chance.random())
                    lasted = await self._connect_and_serve()
                self.first_try.set()
                if self.target is not None:
                    break
                delay = 0.0 if lasted else min(max(delay * 2, 1.0), _LONGEST_DELAY)
        if self.target is not None:
            self.hub.connections.remove(self)
        self.first_try.set()
        self._finack.set()

    async def _connect_and_serve(self) -> bool:
        """Whether the connection was up, and not for a moment only."""
        try:
            async with self._connector(self.hub.name, self.id, self.target) as link:
                return await self._serve(link)
        except ConfigurationError:
            raise  # no attempt will mend it
        except (SignalRError, OSError) as error:
            level = logging.WARNING if self._speaks_for_all else logging.DEBUG
            log.log(level, "%r cannot be made: %s", self, error)
            return False

    @property
    def _speaks_for_all(self) -> bool:
        """Whether what befalls it is worth saying: where none is up, one tells for all."""
        connections = self.hub.connections
        return connections[0] is self or any(one.is_up for one in connections)

    async def _serve(self, link: Link) -> bool:
        level = MigrationLevel.SHUTDOWN_ONLY if self._migrates else MigrationLevel.OFF
        kind = ConnectionType.DEFAULT if self.target is None else ConnectionType.ON_DEMAND
        stateful = self.hub.options.allow_stateful_reconnects
        link.send(HandshakeRequest(1, kind, self.target, level, stateful))
        self._link = link
        self._heard_at = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, link, nursery.cancel_scope)
                try:
                    await self._receive(link)
                except (ConnectionClosed, ProtocolError) as end:
                    log.log(
                        logging.DEBUG if self._offline else logging.WARNING, "%r: %s", self, end
                    )
                nursery.cancel_scope.cancel()
            return self._shaken and trio.current_time() - self._up_at >= _LASTING
        finally:
            self._lost()

    async def _receive(self, link: Link) -> None:
        while True:
            messages = await link.receive()
            self._heard_at = trio.current_time()
            for message in messages:
                if self._shaken:
                    self._dispatch(message)
                else:
                    self._take_handshake(message)
            if self._heard_at - self._pinged_at > _PING_AFTER:
                # As the SDK does: an answer to what came, never more often than this.
                self._pinged_at = self._heard_at
                link.send(Ping())

    def _take_handshake(self, message: ServiceMessage) -> None:
        if not isinstance(message, HandshakeResponse):
            raise ProtocolError(f"{type(message).__name__} came before the handshake was answered")
        if message.error_message:
            raise ConnectionClosed(f"the service refused the handshake: {message.error_message}")
        self._shaken = True
        self._up_at = self._heard_at
        self.first_try.set()
        log.info("%r is up", self)

    async def _watch(self, link: Link, scope: trio.CancelScope) -> None:
        began = trio.current_time()
        timeout = self.hub.options.server_timeout
        while True:
            deadline = self._heard_at + timeout if self._shaken else began + _HANDSHAKE_TIMEOUT
            if trio.current_time() >= deadline:
                log.warning("%r: nothing came from the service for too long: given up", self)
                scope.cancel()
                # Closed politely, it would wait for an answer from who does not answer.
                await link.aclose(timeout=0)
            await trio.sleep_until(deadline)

    def _lost(self) -> None:
        self._link = None
        self._shaken = self._silenced = False
        self._finack.set()
        self.hub.acks.connection_lost(self)
        self.hub.results.connection_lost(self)
        for client in list(self.hub.clients.values()):
            if client.connection is self:
                client.connection_lost()

    # -- offline ----------------------------------------------------------------------------

    async def go_offline(self, fin: str) -> None:
        """Sends FIN until FINACK has come, or the connection is lost; makes it never again."""
        if not self._take_offline():
            return
        self._finack = trio.Event()
        while not self._finack.is_set():
            self.send(Ping.of(SHUTDOWN, fin))
            with trio.move_on_after(_FIN_AGAIN):
                await self._finack.wait()

    def stop(self, fin: str) -> None:
        """As ``go_offline``, but does not wait; does nothing if that was begun before."""
        if not self._offline and self._take_offline():
            self.send(Ping.of(SHUTDOWN, fin))

    def _take_offline(self) -> bool:
        """It is not made again; whether there is a connection to say so on."""
        self._offline = True
        if self._link is None:
            self._attempt.cancel()
        return self._link is not None

    # -- in ---------------------------------------------------------------------------------

    def _dispatch(self, message: ServiceMessage) -> None:
        if isinstance(message, ConnectionData):
            if (client := self.hub.clients.get(message.connection_id)) is not None:
                client.receive(message.payload)
        elif isinstance(message, OpenConnection):
            self.hub.open(self, message)
        elif isinstance(message, CloseConnection):
            if (client := self.hub.clients.get(message.connection_id)) is not None:
                client.close(message)
        elif isinstance(message, Ping):
            self._take_ping(message)
        elif isinstance(message, Ack):
            self.hub.acks.answered(message)
        elif isinstance(message, ConnectionFlowControl):
            self._take_flow_control(message)
        elif isinstance(message, (ClientCompletion, ErrorCompletion)):
            self.hub.results.settled(message)
        elif isinstance(message, ClientInvocation):
            self.hub.results.asked_elsewhere(message)
        elif isinstance(message, ServiceMapping):
            self.hub.results.mapped(message)
        elif isinstance(message, UpdateConnectionClaims):
            if (client := self.hub.clients.get(message.connection_id)) is not None:
                client.update_claims(message.claims)
        else:
            log.debug("%r: no use for %s", self, type(message).__name__)

    def _take_ping(self, message: Ping) -> None:
        if message.get(SHUTDOWN) == FINACK:
            self._finack.set()
        elif (echo := message.get(ECHO)) is not None:
            self.send(Ping.of(ECHO, echo))
        elif (target := message.get(TARGET)) is not None:
            self.hub.open_on_demand(target)
        elif (instance := message.get(OFFLINE)) is not None:
            self._end_clients_of(instance)

    def _end_clients_of(self, instance: str) -> None:
        """An instance of the service has gone, and with it the clients that came through it."""
        self.hub.results.instance_lost(instance)
        for client in list(self.hub.clients.values()):
            found = header(client.context.headers, INSTANCE_ID) or ""
            if client.connection is self and (not instance or found == instance):
                client.gone()

    def _take_flow_control(self, message: ConnectionFlowControl) -> None:
        if message.connection_type == FlowControlConnectionType.SERVER:
            if message.operation == FlowControlOperation.OFFLINE:
                # Nothing more is sent here; what comes in still counts.
                self._silenced = True
            return
        client = self.hub.clients.get(message.connection_id)
        if client is None:
            return
        if message.operation == FlowControlOperation.PAUSE:
            client.pause()
        elif message.operation == FlowControlOperation.RESUME:
            client.resume(self)
