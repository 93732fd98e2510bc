"""The routes of the REST API, and what each does.

Paths, parameters and status codes are those of ``docs/swagger`` in Azure/azure-signalr: v1 below
``/api/v1/hubs/{hub}``, 2022-06-01 to 2024-12-01 below ``/api/hubs/{hub}``. Either answers to the
routes of the other as well, and ``/:send`` may be left out: official emulator.

``/api/auth/accessKey`` is none of the routes: it is for servers that log in with Entra ID, and this
service knows access keys only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode, urlsplit

import attrs

from signalr_trio.connection_string import Endpoint
from signalr_trio.errors import ProtocolError
from signalr_trio.protocol.messages import Completion
from signalr_trio.service.groups import LARGEST_PAGE
from signalr_trio.service.rest.call import (
    Call,
    CallRefused,
    hub_name,
    invalid,
    json_response,
)
from signalr_trio.service.rest.commands import execute
from signalr_trio.service.rest.invoke import invoke
from signalr_trio.service.rest.payload import encode, read_item_payloads, read_payloads
from signalr_trio.service.sending import close, send
from signalr_trio.tokens import NAME_IDENTIFIER, make_token
from signalr_trio.transport.http import MAX_BODY, Pending, Request, Response

if TYPE_CHECKING:
    from signalr_trio.service.service import Service
    from signalr_trio.service.session import ClientSession

__all__ = ["RestApi"]

log = logging.getLogger("signalr_trio.service")

_VERSION = re.compile(r"\d{4}-\d\d-\d\d(-preview)?")
_OLDEST = "2022-06-01"
#: Minutes that a token of ``:generateToken`` is good for, unless the call says otherwise.
_TOKEN_LIFETIME = 60


# -- whom a call is about ---------------------------------------------------------------------

_Audience = Callable[[Call], "list[ClientSession]"]


def _everyone(call: Call) -> list[ClientSession]:
    return list(call.hub.sessions.values())


def _connection(call: Call) -> list[ClientSession]:
    return call.hub.clients([call.connection])


def _user(call: Call) -> list[ClientSession]:
    return call.hub.clients_of(call.user)


def _group(call: Call) -> list[ClientSession]:
    return call.hub.groups.members(call.group)


# -- what is done; None is the success that the route stands for ------------------------------

_Answer = Response | Pending | None


def _send(audience: _Audience, call: Call) -> None:
    found = audience(call)
    try:
        payloads = read_payloads(call.request.header("content-type"), call.request.body)
    except ProtocolError as fault:
        raise invalid(str(fault)) from None
    send(found, payloads, call.excluded)


def _send_item(call: Call) -> None:
    """An item of a stream that the client awaits, whoever it asked for it."""
    found, stream, completed = _connection(call), call.stream, call.flag("completed")
    try:
        content_type = call.request.header("content-type")
        payloads = read_item_payloads(content_type, call.request.body, stream)
    except ProtocolError as fault:
        raise invalid(str(fault)) from None
    send(found, payloads)
    if completed:
        send(found, encode(Completion(stream)))


def _complete_stream(call: Call) -> None:
    """The error is ``error`` in the SDK, and ``reason`` in the swagger file."""
    found, request = _connection(call), call.request
    error = request.param("error") or request.param("reason") or None
    send(found, encode(Completion(call.stream, error=error)))


def _close(audience: _Audience, call: Call) -> None:
    close(audience(call), call.reason, call.excluded)


def _exists(audience: _Audience, code: str, call: Call) -> None:
    if not audience(call):
        raise CallRefused(404, "There is none of that name in the hub.", code=code)


def _join(call: Call) -> None:
    group = call.group
    found = _connection(call)
    if not found:
        raise CallRefused(404, "There is no such connection.", code="Error.Connection.NotExisted")
    call.hub.groups.join(found[0], group)


def _leave(call: Call) -> None:
    """Who has gone is in no group either: for the SDK a 404 would be a failure."""
    group = call.group
    for session in _connection(call):
        call.hub.groups.leave(session, group)


def _leave_all(call: Call) -> None:
    for session in _connection(call):
        call.hub.groups.leave_all(session)


def _user_join(call: Call) -> None:
    call.hub.groups.user_join(call.user, call.group, call.number("ttl", 0))


def _user_leave(call: Call) -> None:
    call.hub.groups.user_leave(call.user, call.group)


def _user_leave_all(call: Call) -> None:
    call.hub.groups.user_leave(call.user, None)


def _is_user_in_group(call: Call) -> None:
    if not call.hub.has_in_group(call.user, call.group):
        raise CallRefused(404, "The user is not in the group.", code="Info.User.NotInGroup")


def _list_members(call: Call) -> Response:
    """A page of the members; the token for the next is the last id of this one."""
    size = call.number("maxpagesize", 1, LARGEST_PAGE) or LARGEST_PAGE
    top = call.number("top", 0)
    after = call.request.param("continuationToken") or ""
    page, more = call.hub.groups.page(call.group, after, size if top is None else min(size, top))
    answer: dict[str, object] = {"value": [_member(one) for one in page]}
    rest = None if top is None else top - len(page)
    if more and rest != 0:
        answer["nextLink"] = _next_link(call, page[-1].id, rest)
    return json_response(answer)


def _member(session: ClientSession) -> dict[str, str]:
    user = {} if session.user_id is None else {"userId": session.user_id}
    return {"connectionId": session.id, **user}


def _next_link(call: Call, after: str, rest: int | None) -> str:
    """Absolute, under the name that the caller knows the service by."""
    request, own = call.request, urlsplit(call.endpoint.url)
    dropped = ("top", "continuationtoken", "access_token")
    query = [(name, value) for name, value in request.query if name.lower() not in dropped]
    if rest is not None:
        query.append(("top", str(rest)))
    query.append(("continuationToken", after))
    host = request.header("host") or own.netloc
    return f"{own.scheme}://{host}{request.raw_path}?{urlencode(query)}"


def _generate_token(call: Call) -> Response:
    """A token for a client; its audience is the URL that ``client_negotiate_url`` leads to."""
    minutes = call.number("minutesToExpire", 1) or _TOKEN_LIFETIME
    user = call.request.param("userId")
    claims = [(NAME_IDENTIFIER, user)] if user else []
    audience = call.endpoint.client_audience(call.hub.name)
    token = make_token(call.endpoint.access_key, audience, claims, lifetime=60 * minutes)
    return json_response({"token": token})


# -- routes -----------------------------------------------------------------------------------


@attrs.frozen
class _Route:
    methods: tuple[str, ...]
    template: tuple[str, ...]
    handle: Callable[[Call], _Answer]
    success: int
    success_v1: int

    def match(self, path: list[str]) -> dict[str, str] | None:
        """The names in a path; None if it is another route's."""
        if len(path) != len(self.template):
            return None
        names: dict[str, str] = {}
        for part, found in zip(self.template, path, strict=True):
            if part.startswith("{"):
                names[part[1:-1]] = found
            elif part != found.lower():
                return None
        return names


def _route(
    methods: str,
    template: str,
    handle: Callable[[Call], _Answer],
    success: int,
    success_v1: int | None = None,
) -> _Route:
    parts = tuple(template.split("/")[1:])
    return _Route(tuple(methods.split()), parts, handle, success, success_v1 or success)


_TO_GROUP, _TO_USER, _TO_ONE = "/groups/{group}", "/users/{user}", "/connections/{connection}"
_TO_STREAM = f"{_TO_ONE}/streams/{{stream}}"
_GROUP_EXISTS = partial(_exists, _group, "Warning.Group.NotExisted")
_USER_EXISTS = partial(_exists, _user, "Warning.User.NotExisted")
_CONNECTION_EXISTS = partial(_exists, _connection, "Warning.Connection.NotExisted")

#: Methods, path, what is done, and the status of its success; the last one that of v1.
#: GET is in the swagger of v1 only, but the newest SDK uses it with 2024-12-01.
_ROUTES = (
    _route("POST", "", partial(_send, _everyone), 202),
    _route("POST", "/:send", partial(_send, _everyone), 202),
    _route("POST", _TO_GROUP, partial(_send, _group), 202),
    _route("POST", f"{_TO_GROUP}/:send", partial(_send, _group), 202),
    _route("POST", _TO_USER, partial(_send, _user), 202),
    _route("POST", f"{_TO_USER}/:send", partial(_send, _user), 202),
    _route("POST", _TO_ONE, partial(_send, _connection), 202),
    _route("POST", f"{_TO_ONE}/:send", partial(_send, _connection), 202),
    _route("POST", "/:closeconnections", partial(_close, _everyone), 204),
    _route("POST", f"{_TO_GROUP}/:closeconnections", partial(_close, _group), 204),
    _route("POST", f"{_TO_USER}/:closeconnections", partial(_close, _user), 204),
    _route("DELETE", _TO_ONE, partial(_close, _connection), 200, 202),
    _route("HEAD GET", _TO_GROUP, _GROUP_EXISTS, 200),
    _route("HEAD GET", _TO_USER, _USER_EXISTS, 200),
    _route("HEAD GET", _TO_ONE, _CONNECTION_EXISTS, 200),
    _route("PUT", f"{_TO_GROUP}{_TO_ONE}", _join, 200),
    _route("PUT", f"{_TO_ONE}{_TO_GROUP}", _join, 200),
    _route("DELETE", f"{_TO_GROUP}{_TO_ONE}", _leave, 200),
    _route("DELETE", f"{_TO_ONE}{_TO_GROUP}", _leave, 200),
    _route("DELETE", f"{_TO_ONE}/groups", _leave_all, 200),
    _route("HEAD GET", f"{_TO_USER}{_TO_GROUP}", _is_user_in_group, 200),
    _route("HEAD GET", f"{_TO_GROUP}{_TO_USER}", _is_user_in_group, 200),
    _route("PUT", f"{_TO_USER}{_TO_GROUP}", _user_join, 200, 202),
    _route("PUT", f"{_TO_GROUP}{_TO_USER}", _user_join, 200, 202),
    _route("DELETE", f"{_TO_USER}{_TO_GROUP}", _user_leave, 204, 202),
    _route("DELETE", f"{_TO_GROUP}{_TO_USER}", _user_leave, 204, 202),
    _route("DELETE", f"{_TO_USER}/groups", _user_leave_all, 204, 200),
    _route("GET", f"{_TO_GROUP}/connections", _list_members, 200),
    _route("POST", "/:generatetoken", _generate_token, 200),
    _route("POST", f"{_TO_ONE}/:invoke", invoke, 200),
    _route("POST", f"{_TO_STREAM}/:send", _send_item, 202),
    _route("POST", f"{_TO_STREAM}/:complete", _complete_stream, 202),
    _route("POST", "/:execute", execute, 202),
)


class RestApi:
    """Answers the calls below ``/api/``. ``may_call`` judges their tokens."""

    def __init__(
        self, service: Service, endpoint: Endpoint, may_call: Callable[[Request], bool]
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._may_call = may_call

    def answer(self, request: Request) -> Response | Pending:
        try:
            answer = self._answer(request)
        except CallRefused as refused:
            return _refuse(request, refused)
        if isinstance(answer, Pending):
            return Pending(partial(_answer_later, request, answer.respond))
        return answer

    def _answer(self, request: Request) -> Response | Pending:
        is_v1, name, path = _split(request.raw_path)
        found = [(route, names) for route in _ROUTES if (names := route.match(path)) is not None]
        if not found:
            raise _no_route()
        asked = [one for one in found if request.method in one[0].methods]
        if not asked:
            raise _wrong_method([route for route, _ in found])
        if not self._may_call(request):
            return Response(401)
        if self._service.stopping:
            raise CallRefused(503, "The service is stopping.")
        if len(request.body) > MAX_BODY:
            raise CallRefused(413, f"The body has more than {MAX_BODY} bytes.")
        if not is_v1:
            _check_version(request)
        route, names = asked[0]
        hub = self._service.hub(hub_name(request, name))
        answer = route.handle(Call(request, hub, self._endpoint, names))
        return answer or Response(route.success_v1 if is_v1 else route.success)


async def _answer_later(request: Request, respond: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await respond()
    except CallRefused as refused:
        return _refuse(request, refused)


def _refuse(request: Request, refused: CallRefused) -> Response:
    # What a client says is a payload, and not for the log.
    reason = "the client's error" if refused.status == 502 else refused
    log.info("%s %s: %d: %s", request.method, request.raw_path, refused.status, reason)
    return refused.response(in_text=request.path.lower().startswith("/api/v1/"))


def _split(raw_path: str) -> tuple[bool, str, list[str]]:
    """Whether it is a path of v1, the hub, and the path behind it."""
    segments = [unquote(segment) for segment in raw_path.rstrip("/").split("/")]
    match [segment.lower() for segment in segments[:4]]:
        case ["", "api", "v1", "hubs"] if len(segments) > 4:
            return True, segments[4], segments[5:]
        case ["", "api", "hubs", _]:
            return False, segments[3], segments[4:]
        case _:
            raise _no_route()


def _no_route() -> CallRefused:
    return CallRefused(404, "The REST API has no such path.")


def _wrong_method(routes: list[_Route]) -> CallRefused:
    allowed = ", ".join(dict.fromkeys(method for route in routes for method in route.methods))
    return CallRefused(405, f"This path is for {allowed}.", allow=allowed)


def _check_version(request: Request) -> None:
    version = request.param("api-version")
    if version is None or not _VERSION.fullmatch(version) or version < _OLDEST:
        raise invalid(f"The query parameter 'api-version' must be {_OLDEST} or later.")
