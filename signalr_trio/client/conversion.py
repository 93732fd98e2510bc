"""Values between what the encodings of the hub protocol have and the types of an application."""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import cattrs

from signalr_trio.errors import ConfigurationError, ProtocolError

__all__ = ["ValueConverter", "as_it_is", "as_mapping"]

T = TypeVar("T")


def as_it_is(value: Any) -> Any:
    """The conversion to no type."""
    return value


def as_mapping(value: object) -> object:
    """An attrs or dataclass instance as a dict of its fields: the encodings' ``default``.

    Raises TypeError for anything else.
    """
    kind = type(value)
    if attrs.has(kind):
        return {field.name: getattr(value, field.name) for field in attrs.fields(kind)}
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
    raise TypeError(f"a value of type {kind.__qualname__} cannot be sent")


class ValueConverter:
    """Makes results, items and arguments what the application has asked for (cattrs).

    Strict like .NET: a number is not made of a string, nor a string of null. In JSON, bytes are
    base64 and dates ISO 8601.
    """

    def __init__(self) -> None:
        self._converter = cattrs.Converter(detailed_validation=False)
        register = self._converter.register_structure_hook
        for plain in (bool, str):
            register(plain, _is)
        register(int, _int)
        register(float, _float)
        register(bytes, _bytes)
        register(datetime.datetime, _datetime)
        register(datetime.date, _date)

    def to(self, kind: type[T]) -> Callable[[object], T]:
        """A function that makes a ``kind`` of a value; it raises ProtocolError where it cannot.

        Raises ConfigurationError for a type that no value can be converted to.
        """
        name = getattr(kind, "__name__", str(kind))
        try:
            structure = self._converter.get_structure_hook(kind)
        except Exception as error:
            raise ConfigurationError(f"nothing can be converted to {name}: {error!r}") from error

        def convert(value: object) -> T:
            try:
                return structure(value, kind)
            except Exception as error:
                raise ProtocolError(f"the server's value is no {name}: {error!r}") from error

        return convert


def _is(value: object, kind: type[T]) -> T:
    if isinstance(value, kind):
        return value
    raise _wrong(value, kind.__name__)


def _int(value: object, _: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(value, "int")


def _float(value: object, _: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _wrong(value, "float")


def _bytes(value: object, _: object) -> bytes:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else _is(value, bytes)


def _datetime(value: object, kind: type[datetime.datetime]) -> datetime.datetime:
    return kind.fromisoformat(value) if isinstance(value, str) else _is(value, kind)


def _date(value: object, kind: type[datetime.date]) -> datetime.date:
    return kind.fromisoformat(value) if isinstance(value, str) else _is(value, kind)


def _wrong(value: object, expected: str) -> TypeError:
    return TypeError(f"expected {expected}, not {type(value).__name__}")
