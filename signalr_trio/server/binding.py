"""Which methods a hub class offers, and how the arguments of a call become theirs."""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal
import enum
import inspect
import typing
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any, cast

import attrs
import cattrs
from cattrs.cols import list_structure_factory
from cattrs.strategies import configure_union_passthrough

from signalr_trio.errors import ConfigurationError
from signalr_trio.hub import Hub
from signalr_trio.texts import error_text

__all__ = [
    "BindingError",
    "HubMethod",
    "UploadParameter",
    "hub_methods",
    "make_converter",
    "wire_name",
]

_EXACT = (str, int, bool, float)
_UPLOADS = (AsyncIterator, AsyncIterable, AsyncGenerator)


class BindingError(Exception):
    """Why the arguments of a call do not fit its method."""


@attrs.frozen
class UploadParameter:
    """A parameter that is a stream from the client; ``convert`` makes its items."""

    convert: Callable[[Any], Any]


@attrs.frozen
class HubMethod:
    """A method that clients can call."""

    function: Callable[..., Any]
    streams: bool
    """Whether it is an async generator: a stream to the client."""
    parameters: tuple[Callable[[Any], Any] | UploadParameter, ...]
    """For each positional parameter how its value is made."""
    required: int
    """How many arguments there must be, streams not counted."""
    rest: Callable[[Any], Any] | None
    """How each further argument is made, if the method has ``*args``."""
    uploads: tuple[UploadParameter, ...]
    """Those of the parameters that are streams from the client."""
    plain: tuple[Callable[[Any], Any], ...]
    """The others."""

    def bind(self, arguments: Sequence[Any], uploads: Sequence[AsyncIterator[Any]]) -> list[Any]:
        """The arguments for ``function``. Raises BindingError."""
        if self.uploads or len(arguments) != len(self.plain):
            return self._bind_each(arguments, uploads)
        try:
            return [make(value) for make, value in zip(self.plain, arguments, strict=True)]
        except Exception:
            return self._bind_each(arguments, uploads)  # says which one it is

    def _bind_each(
        self, arguments: Sequence[Any], uploads: Sequence[AsyncIterator[Any]]
    ) -> list[Any]:
        given, streams = iter(arguments), iter(uploads)
        bound: list[Any] = []
        taken = 0
        for parameter in self.parameters:
            if isinstance(parameter, UploadParameter):
                bound.append(next(streams))
            elif taken < len(arguments):
                bound.append(_convert(parameter, next(given), taken))
                taken += 1
        if self.rest is not None:
            for value in given:
                bound.append(_convert(self.rest, value, taken))
                taken += 1
        if taken < max(self.required, len(arguments)):
            raise BindingError(
                f"Invocation provides {len(arguments)} argument(s) but target expects "
                f"{self._expected()}."
            )
        return bound

    def _expected(self) -> str:
        most = len(self.plain)
        if self.rest is not None:
            return f"at least {self.required}"
        return str(most) if most == self.required else f"{self.required} to {most}"


def _convert(convert: Callable[[Any], Any], value: Any, index: int) -> Any:
    try:
        return convert(value)
    except Exception as error:
        raise BindingError(f"Argument {index + 1}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return "; ".join(_reason(one) for one in group.exceptions)
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return error_text(error) or type(error).__name__


def wire_name(name: str) -> str:
    """The form in which method names are compared: no case, no underscores."""
    return name.replace("_", "").lower()


def hub_methods(hub_class: type[Hub], converter: cattrs.Converter) -> dict[str, HubMethod]:
    """The methods that clients can call, by ``wire_name``; static ones are not, as in .NET.

    Raises ConfigurationError for two methods with the same name on the wire, or a signature that
    no call can be bound to.
    """
    methods: dict[str, HubMethod] = {}
    names: dict[str, str] = {}
    for name, function in inspect.getmembers(hub_class, inspect.isfunction):
        if name.startswith("_") or hasattr(Hub, name):
            continue
        if isinstance(inspect.getattr_static(hub_class, name), staticmethod):
            continue
        streams = inspect.isasyncgenfunction(function)
        if not streams and not inspect.iscoroutinefunction(function):
            continue
        key = wire_name(name)
        if key in methods:
            raise ConfigurationError(
                f"{hub_class.__name__}: {name} and {names[key]} have the same name for clients"
            )
        methods[key] = _method(hub_class, function, streams, converter)
        names[key] = name
    return methods


def _method(
    hub_class: type[Hub], function: Callable[..., Any], streams: bool, converter: cattrs.Converter
) -> HubMethod:
    where = f"{hub_class.__name__}.{function.__name__}"
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise ConfigurationError(f"{where}: its annotations cannot be resolved: {error}") from error
    parameters: list[Callable[[Any], Any] | UploadParameter] = []
    rest: Callable[[Any], Any] | None = None
    required = 0
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        kind = hints.get(parameter.name, Any)
        name = f"{where}, parameter {parameter.name}"
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = _structure(kind, converter, name)
        elif parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY:
                raise ConfigurationError(f"{where}: clients cannot give {parameter.name} by name")
        elif kind in _UPLOADS or typing.get_origin(kind) in _UPLOADS:
            item, *_ = typing.get_args(kind) or (Any,)
            parameters.append(UploadParameter(_structure(item, converter, name)))
        else:
            parameters.append(_structure(kind, converter, name))
            required += parameter.default is parameter.empty
    uploads = tuple(one for one in parameters if isinstance(one, UploadParameter))
    plain = tuple(one for one in parameters if not isinstance(one, UploadParameter))
    return HubMethod(function, streams, tuple(parameters), required, rest, uploads, plain)


def _structure(kind: Any, converter: cattrs.Converter, name: str) -> Callable[[Any], Any]:
    if kind is Any or kind is object:
        return _as_it_is
    try:
        hook = converter.get_structure_hook(kind)
    except Exception as error:
        raise ConfigurationError(f"{name}: no value can be made for its type: {error}") from error
    # A value of exactly such a type is what its hook would return.
    as_it_is = kind if kind in _EXACT else None
    return lambda value: value if type(value) is as_it_is else hook(value, kind)


def _as_it_is(value: Any) -> Any:
    return value


def make_converter() -> cattrs.Converter:
    """A converter that is as strict as the official server: no ``"5"`` for 5, no 1 for True."""
    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook(int, _int)
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(str, _instance_of(str))
    converter.register_structure_hook(bool, _instance_of(bool))
    converter.register_structure_hook(bytes, _bytes)
    converter.register_structure_hook(datetime.datetime, _datetime)
    for kind in (datetime.date, datetime.time):
        converter.register_structure_hook(kind, _read_by(kind.fromisoformat))
    converter.register_structure_hook(uuid.UUID, _read_by(uuid.UUID))
    converter.register_structure_hook(decimal.Decimal, _decimal)
    configure_union_passthrough(int | float | str | bool | bytes | None, converter)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_structure_hook_factory(_is_list, _list)
    return converter


def _is_list(kind: Any) -> bool:
    return kind is list or typing.get_origin(kind) is list


def _list(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """A text is no list of its characters, nor a map one of its keys."""
    structure = list_structure_factory(kind, converter)

    def check(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise _wrong(value, "an array")
        return structure(value, kind)

    return check


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _wrong(value: Any, expected: str) -> TypeError:
    return TypeError(f"expected {expected}, not {type(value).__name__}")


def _instance_of(kind: type[Any]) -> Callable[[Any, Any], Any]:
    def check(value: Any, _: Any) -> Any:
        if not isinstance(value, kind):
            raise _wrong(value, kind.__name__)
        return value

    return check


def _int(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, "int")
    return value


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, "float")
    return float(value)


def _bytes(value: Any, _: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise _wrong(value, "bytes (base64 in JSON)")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("expected base64") from None


def _datetime(value: Any, _: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if not isinstance(value, str):
        raise _wrong(value, "a date and time (ISO 8601 in JSON)")
    return datetime.datetime.fromisoformat(value)


def _read_by(read: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, kind: type[Any]) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise _wrong(value, f"the text of a {kind.__name__}")
        return read(value)

    return structure


def _decimal(value: Any, _: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _wrong(value, "a number, or its text")
    try:
        return decimal.Decimal(str(value))
    except decimal.InvalidOperation:
        raise ValueError(f"{value!r} is not a number") from None


def _enum(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
        raise
