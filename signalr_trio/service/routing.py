"""What the service does with each message of a hub server.

Sends (7 to 10, 13, 14) go to clients wherever they are attached, also in a hand-over, and never
wait. Group membership goes by connection id, or by user id for the user forms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from signalr_trio.errors import ProtocolError
from signalr_trio.link.release import released, state_in
from signalr_trio.protocol import service_messages as m
from signalr_trio.protocol.service_protocol import write_claims, write_group_member_page
from signalr_trio.service.client_results import ServerQuestion
from signalr_trio.service.filters import parse_filter
from signalr_trio.service.groups import LARGEST_PAGE
from signalr_trio.service.sending import close, send
from signalr_trio.tokens import user_id_of

if TYPE_CHECKING:
    from signalr_trio.service.server_connection import ServerConnection
    from signalr_trio.service.session import ClientSession

__all__ = ["HANDLERS"]

log = logging.getLogger("signalr_trio.service")

_Send = (
    m.MultiConnectionData
    | m.UserData
    | m.MultiUserData
    | m.BroadcastData
    | m.GroupBroadcastData
    | m.MultiGroupBroadcastData
)

# -- sends ------------------------------------------------------------------------------------


def _send(
    one: ServerConnection,
    message: _Send,
    sessions: Iterable[ClientSession],
    excluded: Collection[str] = (),
) -> None:
    if message.filter is not None:
        try:
            chosen = parse_filter(message.filter)
        except ProtocolError as fault:
            # It names who may hear it; sent without, it would reach others too.
            log.warning("%r: a send reaches nobody: %s", one, fault)
            return
        sessions = [session for session in sessions if chosen(session)]
    send(sessions, message.payloads, excluded)


def _to_connections(one: ServerConnection, message: m.MultiConnectionData) -> None:
    _send(one, message, one.hub.clients(dict.fromkeys(message.connection_list)))


def _to_user(one: ServerConnection, message: m.UserData) -> None:
    _send(one, message, one.hub.clients_of(message.user_id))


def _to_users(one: ServerConnection, message: m.MultiUserData) -> None:
    users = dict.fromkeys(message.user_list)
    _send(one, message, [session for user in users for session in one.hub.clients_of(user)])


def _to_all(one: ServerConnection, message: m.BroadcastData) -> None:
    _send(one, message, list(one.hub.sessions.values()), message.excluded_list)


def _to_group(one: ServerConnection, message: m.GroupBroadcastData) -> None:
    members = one.hub.groups.members(message.group_name)
    if message.excluded_user_list:
        users = frozenset(message.excluded_user_list)
        members = [session for session in members if session.user_id not in users]
    _send(one, message, members, message.excluded_list)


def _to_groups(one: ServerConnection, message: m.MultiGroupBroadcastData) -> None:
    groups = one.hub.groups
    members = dict.fromkeys(
        session for group in message.group_list for session in groups.members(group)
    )
    _send(one, message, list(members))


# -- groups -----------------------------------------------------------------------------------


def _ack(one: ServerConnection, ack_id: int, found: bool) -> None:
    one.link.send(m.Ack(ack_id, m.AckStatus.OK if found else m.AckStatus.NOT_FOUND))


def _join(one: ServerConnection, message: m.JoinGroup | m.JoinGroupWithAck) -> None:
    session = one.hub.sessions.get(message.connection_id)
    if session is not None:
        one.hub.groups.join(session, message.group_name)
    if isinstance(message, m.JoinGroupWithAck):
        _ack(one, message.ack_id, session is not None)


def _leave(one: ServerConnection, message: m.LeaveGroup | m.LeaveGroupWithAck) -> None:
    session = one.hub.sessions.get(message.connection_id)
    if session is not None:
        if message.group_name is None:
            one.hub.groups.leave_all(session)
        else:
            one.hub.groups.leave(session, message.group_name)
    if isinstance(message, m.LeaveGroupWithAck):
        _ack(one, message.ack_id, session is not None)


def _user_join(one: ServerConnection, message: m.UserJoinGroup | m.UserJoinGroupWithAck) -> None:
    one.hub.groups.user_join(message.user_id, message.group_name, message.ttl)
    if isinstance(message, m.UserJoinGroupWithAck):
        _ack(one, message.ack_id, found=True)


def _user_leave(one: ServerConnection, message: m.UserLeaveGroup | m.UserLeaveGroupWithAck) -> None:
    one.hub.groups.user_leave(message.user_id, message.group_name)
    if isinstance(message, m.UserLeaveGroupWithAck):
        _ack(one, message.ack_id, found=True)


# -- questions --------------------------------------------------------------------------------


def _is_user_in_group(one: ServerConnection, message: m.CheckUserInGroupWithAck) -> None:
    _ack(one, message.ack_id, one.hub.has_in_group(message.user_id, message.group_name))


def _is_group(one: ServerConnection, message: m.CheckGroupExistenceWithAck) -> None:
    _ack(one, message.ack_id, bool(one.hub.groups.members(message.group_name)))


def _is_connection(one: ServerConnection, message: m.CheckConnectionExistenceWithAck) -> None:
    _ack(one, message.ack_id, message.connection_id in one.hub.sessions)


def _is_user(one: ServerConnection, message: m.CheckUserExistenceWithAck) -> None:
    _ack(one, message.ack_id, message.user_id in one.hub.users)


# -- clients ----------------------------------------------------------------------------------


def _close(one: ServerConnection, message: m.CloseConnection) -> None:
    """The server closes a client, or releases it for its hand-over."""
    session = one.sessions.get(message.connection_id)
    if session is None:
        one.dropped += 1
        return
    if released(message) and session.hand_over is not None:
        session.hand_over.source_released(state_in(message.headers))
        return
    one.detach(session)
    if session.hand_over is not None:
        session.hand_over.server_closed()
    session.server_closed(message.error_message)


def _close_any(one: ServerConnection, message: m.CloseConnectionWithAck) -> None:
    found = one.hub.clients([message.connection_id])
    close(found, message.reason)
    _ack(one, message.ack_id, bool(found))


def _close_everyone(one: ServerConnection, message: m.CloseConnectionsWithAck) -> None:
    close(list(one.hub.sessions.values()), message.reason, message.excluded_list)
    _ack(one, message.ack_id, found=True)


def _close_user(one: ServerConnection, message: m.CloseUserConnectionsWithAck) -> None:
    close(one.hub.clients_of(message.user_id), message.reason, message.excluded_list)
    _ack(one, message.ack_id, found=True)


def _close_group(one: ServerConnection, message: m.CloseGroupConnectionsWithAck) -> None:
    members = one.hub.groups.members(message.group_name)
    close(members, message.reason, message.excluded_list)
    _ack(one, message.ack_id, found=True)


# -- client results ---------------------------------------------------------------------------


def _invoke_client(one: ServerConnection, message: m.ClientInvocation) -> None:
    question = ServerQuestion(one, message)
    session = one.hub.sessions.get(message.connection_id)
    if session is None:
        question.fail(f"Connection '{message.connection_id}' does not exist.")
    else:
        session.ask(question, message.payloads)


def _result_is_settled(
    one: ServerConnection, message: m.ClientCompletion | m.ErrorCompletion
) -> None:
    """A server had the answer in its line, or has stopped waiting. It never answers for a client,
    since none is told that another asked."""
    session = one.hub.sessions.get(message.connection_id)
    if session is not None:
        session.asks_no_more(one.server, message.invocation_id)


# -- members and claims -----------------------------------------------------------------------


def _members(one: ServerConnection, message: m.GroupMemberQuery) -> None:
    """One page of a group's members; the token for the next is the last id of this one."""
    sizes = [size for size in (message.top, message.max_page_size) if size is not None]
    size = min(sizes, default=LARGEST_PAGE)
    if size < 1:
        log.warning("%r: a group member query for %d members", one, size)
        one.link.send(m.Ack(message.ack_id, m.AckStatus.INTERNAL_SERVER_ERROR))
        return
    after = message.continuation_token or ""
    found, more = one.hub.groups.page(message.group_name, after, size)
    members = [(each.id, each.user_id) for each in found]
    page = m.GroupMemberPage(members, members[-1][0] if more else None)
    payload = write_group_member_page(page)
    one.link.send(m.Ack(message.ack_id, m.AckStatus.OK, payload=payload))


def _refresh_auth(one: ServerConnection, message: m.RefreshAuth) -> None:
    """A client has logged in anew. It stays who it is: sends and groups go by its user."""
    session = one.hub.tokens.get(message.connection_token)
    if session is None:
        _ack(one, message.ack_id, found=False)
    elif user_id_of(message.claims) != session.user_id:
        log.warning("client %s: new claims of another user were refused", session.id)
        one.link.send(m.Ack(message.ack_id, m.AckStatus.FORBIDDEN))
    else:
        former = write_claims(session.claims)
        session.update_claims(message.claims, message.expire_time)
        one.link.send(m.Ack(message.ack_id, m.AckStatus.OK, payload=former))


def _claims(one: ServerConnection, message: m.GetConnectionClaims) -> None:
    session = one.hub.tokens.get(message.connection_token)
    if session is None:
        _ack(one, message.ack_id, found=False)
    else:
        payload = write_claims(session.claims)
        one.link.send(m.Ack(message.ack_id, m.AckStatus.OK, payload=payload))


def _no_claims_update(one: ServerConnection, message: m.UpdateConnectionClaims) -> None:
    """It goes from the service to a server, never back; claims change by message 41."""
    log.warning("%r: an update of the claims of client %s was refused", one, message.connection_id)


# -- the connection itself --------------------------------------------------------------------


def _ping(one: ServerConnection, message: m.Ping) -> None:
    """Only questions are answered. Counts of the server's clients, and what is unknown, show that
    it lives, as every message does."""
    if (value := message.get(m.SHUTDOWN)) is not None:
        if value.startswith("fin:"):
            one.take_fin(value)
    elif message.get(m.STATUS) is not None:
        one.link.send(_status(one))
    elif message.get(m.SERVERS) is not None:
        one.link.send(m.Ping.of(m.SERVERS, one.service.servers_of(one.hub)))
    elif (value := message.get(m.ECHO)) is not None:
        one.link.send(m.Ping.of(m.ECHO, value))


def _status(one: ServerConnection) -> m.Ping:
    """Whether the hub has clients, and the service's figures. It has no capacity to tell."""
    return m.Ping.of(
        *(m.STATUS, "1" if one.hub.sessions else "0"),
        *(m.CLIENT_COUNT, str(one.service.client_count)),
        *(m.SERVER_COUNT, str(one.service.server_connection_count)),
    )


def _flow_control(one: ServerConnection, message: m.ConnectionFlowControl) -> None:
    """An agreed server asks for a pause of what one client sends, or for its end."""
    session = one.sessions.get(message.connection_id)
    if session is None or not one.server.releases:
        return
    if message.operation == m.FlowControlOperation.PAUSE:
        session.pause()
    elif message.operation == m.FlowControlOperation.RESUME:
        session.resume()


def _access_key(one: ServerConnection, message: m.AccessKeyRequest) -> None:
    one.link.send(
        m.AccessKeyResponse(
            message.kid,
            None,
            "NotSupported",
            "This service knows access keys only, not Entra ID. Put an AccessKey in the "
            "connection string.",
        )
    )


def _service_error(one: ServerConnection, message: m.ServiceError) -> None:
    log.warning("%r reports: %s", one, message.error_message)


def _take_data(one: ServerConnection, message: m.ConnectionData) -> None:
    one.take_data(message)


#: Message class -> what is done with it. Every handler is synchronous.
HANDLERS: dict[type[Any], Callable[[ServerConnection, Any], None]] = {
    m.ConnectionData: _take_data,
    m.MultiConnectionData: _to_connections,
    m.UserData: _to_user,
    m.MultiUserData: _to_users,
    m.BroadcastData: _to_all,
    m.GroupBroadcastData: _to_group,
    m.MultiGroupBroadcastData: _to_groups,
    m.JoinGroup: _join,
    m.JoinGroupWithAck: _join,
    m.LeaveGroup: _leave,
    m.LeaveGroupWithAck: _leave,
    m.UserJoinGroup: _user_join,
    m.UserJoinGroupWithAck: _user_join,
    m.UserLeaveGroup: _user_leave,
    m.UserLeaveGroupWithAck: _user_leave,
    m.CheckUserInGroupWithAck: _is_user_in_group,
    m.CheckGroupExistenceWithAck: _is_group,
    m.CheckConnectionExistenceWithAck: _is_connection,
    m.CheckUserExistenceWithAck: _is_user,
    m.CloseConnection: _close,
    m.CloseConnectionWithAck: _close_any,
    m.CloseConnectionsWithAck: _close_everyone,
    m.CloseUserConnectionsWithAck: _close_user,
    m.CloseGroupConnectionsWithAck: _close_group,
    m.Ping: _ping,
    m.ConnectionFlowControl: _flow_control,
    m.ClientInvocation: _invoke_client,
    m.ClientCompletion: _result_is_settled,
    m.ErrorCompletion: _result_is_settled,
    m.GroupMemberQuery: _members,
    m.RefreshAuth: _refresh_auth,
    m.GetConnectionClaims: _claims,
    m.UpdateConnectionClaims: _no_claims_update,
    m.AccessKeyRequest: _access_key,
    m.ServiceError: _service_error,
}
