"""One call of the REST API: its parameters, checked when they are asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs
import orjson

from signalr_trio.errors import SignalRError
from signalr_trio.transport.http import Request, Response

if TYPE_CHECKING:
    from signalr_trio.connection_string import Endpoint
    from signalr_trio.service.service import ServiceHub

__all__ = ["Call", "CallRefused", "group_name", "hub_name", "invalid", "json_response"]

#: Level, scope and kind, as in the service's other codes.
_INVALID = "Error.Request.Invalid"

#: Of a hub, and of an application, which is a prefix of it (swagger).
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_`,.\[\]]{0,127}")
_LONGEST_GROUP = 1024
_LONGEST_STREAM = 100
_INT32_MAX = (1 << 31) - 1


class CallRefused(SignalRError):
    """Why a call is answered with an error. Never leaves the REST API."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, allow: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        given = {"x-ms-error-code": code, "Allow": allow}
        self._headers = [(name, value) for name, value in given.items() if value is not None]

    def response(self, *, in_text: bool) -> Response:
        """An ErrorDetail, or text alone as v1 has it (swagger); its code where the SDK looks."""
        message = str(self)
        if in_text:
            headers = [("Content-Type", "text/plain; charset=utf-8")]
            response = Response(self.status, message.encode(), headers)
        else:
            code = {} if self.code is None else {"code": self.code}
            response = json_response({**code, "message": message}, self.status)
        response.headers = [*response.headers, *self._headers]
        return response


@attrs.frozen
class Call:
    """A call whose token is good, of a hub whose name is."""

    request: Request
    hub: ServiceHub
    endpoint: Endpoint
    path_names: dict[str, str]

    @property
    def connection(self) -> str:
        return self._named("connection")

    @property
    def user(self) -> str:
        return self._named("user")

    @property
    def group(self) -> str:
        return group_name(self._named("group"))

    @property
    def stream(self) -> str:
        """The invocation id of a stream."""
        name = self._named("stream")
        if len(name) > _LONGEST_STREAM:
            raise invalid(f"The id of a stream has up to {_LONGEST_STREAM} characters.")
        return name

    @property
    def excluded(self) -> list[str]:
        return [value for name, value in self.request.query if name.lower() == "excluded"]

    @property
    def reason(self) -> str | None:
        return self.request.param("reason") or None

    def number(self, name: str, smallest: int, largest: int = _INT32_MAX) -> int | None:
        """A parameter of the query; None if it is not there."""
        text = self.request.param(name)
        if text is None:
            return None
        # Ten digits hold any int32, and int() is slow for very many.
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
        if not smallest <= number <= largest:
            raise invalid(f"'{name}' must be a number from {smallest} to {largest}.")
        return number

    def flag(self, name: str) -> bool:
        """A parameter of the query; False if it is not there."""
        text = (self.request.param(name) or "false").lower()
        if text not in ("true", "false"):
            raise invalid(f"'{name}' must be true or false.")
        return text == "true"

    def _named(self, kind: str) -> str:
        name = self.path_names[kind]
        if not name or name.isspace():
            raise invalid(f"The {kind} in the path is empty.")
        return name


def hub_name(request: Request, hub: str) -> str:
    """The full name of a hub: with its application before it."""
    application = request.param("application")
    for kind, name in (("hub", hub), ("application", application)):
        if name and not _NAME.fullmatch(name):
            raise invalid(
                f"The name of the {kind} must begin with a letter, and have up to 128 letters, "
                "digits or any of _`,.[] in it."
            )
    if not hub:
        raise invalid("The name of the hub is missing.")
    return f"{application}_{hub}" if application else hub


def group_name(name: str) -> str:
    """The name of a group, if it can be one."""
    if not name or name.isspace() or len(name) > _LONGEST_GROUP:
        raise invalid(
            f"The name of a group has 1 to {_LONGEST_GROUP} characters, and not only white space."
        )
    return name


def invalid(message: str) -> CallRefused:
    return CallRefused(400, message, code=_INVALID)


def json_response(answer: dict[str, object], status: int = 200) -> Response:
    body = orjson.dumps(answer)
    return Response(status, body, [("Content-Type", "application/json; charset=utf-8")])
