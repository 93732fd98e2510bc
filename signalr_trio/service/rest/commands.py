"""``:execute``: a list of commands, carried out in one step for every client that a filter lets by.

Types and fields are those of the swagger file of 2024-12-01 (``SignalRCommand``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from signalr_trio.errors import ProtocolError
from signalr_trio.service.filters import parse_filter
from signalr_trio.service.rest.call import Call, group_name, invalid
from signalr_trio.service.rest.payload import message_payloads, read_json
from signalr_trio.service.sending import close, send

if TYPE_CHECKING:
    from signalr_trio.service.service import ServiceHub
    from signalr_trio.service.session import ClientSession

__all__ = ["execute"]

_Command: TypeAlias = "Callable[[ServiceHub, list[ClientSession]], None]"


def execute(call: Call) -> None:
    """Nothing is done unless all of it can be read."""
    try:
        commands = _read_commands(call.request.body)
        text = call.request.param("filter")
        chosen = parse_filter(text) if text else None
    except ProtocolError as fault:
        raise invalid(str(fault)) from None
    sessions = list(call.hub.sessions.values())
    if chosen is not None:
        sessions = [session for session in sessions if chosen(session)]
    for command in commands:
        command(call.hub, sessions)


def _read_commands(body: bytes) -> list[_Command]:
    found = read_json(body)
    if not isinstance(found, list):
        raise ProtocolError("The body must be a JSON array of commands.")
    return [_read_command(one) for one in cast("list[object]", found)]


def _read_command(command: object) -> _Command:
    if not isinstance(command, dict):
        raise ProtocolError("A command must be a JSON object with a 'type'.")
    fields = {name.lower(): value for name, value in cast("dict[str, object]", command).items()}
    type = fields.get("type")
    if not isinstance(type, str) or type not in _READERS:
        raise ProtocolError(f"The 'type' of a command is one of {', '.join(_READERS)}.")
    return _READERS[type](fields)


def _read_send(fields: dict[str, object]) -> _Command:
    payloads = message_payloads(fields.get("message"))
    return lambda _, sessions: send(sessions, payloads)


def _read_join(fields: dict[str, object]) -> _Command:
    group = _group(fields)

    def join(hub: ServiceHub, sessions: list[ClientSession]) -> None:
        for session in sessions:
            hub.groups.join(session, group)

    return join


def _read_leave(fields: dict[str, object]) -> _Command:
    group = _group(fields)

    def leave(hub: ServiceHub, sessions: list[ClientSession]) -> None:
        for session in sessions:
            hub.groups.leave(session, group)

    return leave


def _read_close(fields: dict[str, object]) -> _Command:
    reason = fields.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise ProtocolError("'reason' must be a string.")
    return lambda _, sessions: close(sessions, reason or None)


def _group(fields: dict[str, object]) -> str:
    name = fields.get("group")
    if not isinstance(name, str):
        raise ProtocolError("'group' must be a string.")
    return group_name(name)


_READERS: dict[str, Callable[[dict[str, object]], _Command]] = {
    "SendMessage": _read_send,
    "JoinGroup": _read_join,
    "LeaveGroup": _read_leave,
    "CloseConnection": _read_close,
}
