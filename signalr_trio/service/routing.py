"""What the service does with each message of a hub server.

Sends (7 to 10, 13, 14) go to clients wherever they are attached, also in a hand-over, and never
wait. Group membership goes by connection id, or by user id for the user forms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from signalr_trio.link.release import released, state_in
from signalr_trio.protocol import service_messages as m
from signalr_trio.service.sending import close, send

if TYPE_CHECKING:
    from signalr_trio.service.server_connection import ServerConnection

__all__ = ["HANDLERS"]

log = logging.getLogger("signalr_trio.service")


# -- sends ------------------------------------------------------------------------------------


def _to_connections(one: ServerConnection, message: m.MultiConnectionData) -> None:
    send(one.hub.clients(message.connection_list), message.payloads)


def _to_user(one: ServerConnection, message: m.UserData) -> None:
    send(one.hub.clients_of(message.user_id), message.payloads)


def _to_users(one: ServerConnection, message: m.MultiUserData) -> None:
    users = dict.fromkeys(message.user_list)
    send([session for user in users for session in one.hub.clients_of(user)], message.payloads)


def _to_all(one: ServerConnection, message: m.BroadcastData) -> None:
    send(list(one.hub.sessions.values()), message.payloads, message.excluded_list)


def _to_group(one: ServerConnection, message: m.GroupBroadcastData) -> None:
    members = one.hub.groups.members(message.group_name)
    if message.excluded_user_list:
        users = frozenset(message.excluded_user_list)
        members = [session for session in members if session.user_id not in users]
    send(members, message.payloads, message.excluded_list)


def _to_groups(one: ServerConnection, message: m.MultiGroupBroadcastData) -> None:
    groups = one.hub.groups
    members = dict.fromkeys(
        session for group in message.group_list for session in groups.members(group)
    )
    send(list(members), message.payloads)


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


# -- the connection itself --------------------------------------------------------------------


def _ping(one: ServerConnection, message: m.Ping) -> None:
    if (value := message.get(m.SHUTDOWN)) is not None:
        if value.startswith("fin:"):
            one.take_fin(value)
    elif message.get("status") is not None:
        one.link.send(m.Ping.of("status", "1" if one.hub.sessions else "0"))
    elif message.get("servers") is not None:
        one.link.send(m.Ping.of("servers", one.service.servers_of(one.hub)))
    elif (value := message.get("echo")) is not None:
        one.link.send(m.Ping.of("echo", value))


def _flow_control(one: ServerConnection, message: m.ConnectionFlowControl) -> None:
    """An agreed server asks for a pause of what one client sends, or for its end."""
    session = one.sessions.get(message.connection_id)
    if session is None or not one.server.releases:
        return
    if message.operation == m.FlowControlOperation.PAUSE:
        session.pause()
    elif message.operation == m.FlowControlOperation.RESUME:
        session.resume()


def _no_client_results(one: ServerConnection, message: m.ClientInvocation) -> None:
    """An answer at once is better than none: the caller would wait for ever."""
    one.link.send(
        m.ErrorCompletion(
            message.invocation_id,
            message.connection_id,
            message.caller_server_id,
            "This service does not support client results yet.",
        )
    )


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
    m.ClientInvocation: _no_client_results,
    m.AccessKeyRequest: _access_key,
    m.ServiceError: _service_error,
}
