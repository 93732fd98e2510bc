"""Values between what the encodings of the hub protocol have and the types of an application."""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import cattrs

from signalr_trio.errors import ProtocolError

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
    """Makes results, items and arguments what the application has asked for (cattrs)."""

    def __init__(self) -> None:
        self._converter = cattrs.Converter(detailed_validation=False)
        self._converter.register_structure_hook(bytes, _bytes)
        self._converter.register_structure_hook(datetime.datetime, _datetime)
        self._converter.register_structure_hook(datetime.date, _date)

    def to(self, kind: type[T]) -> Callable[[object], T]:
        """A function that makes a ``kind`` of a value; it raises ProtocolError where it cannot."""
        structure = self._converter.structure

        def convert(value: object) -> T:
            try:
                return structure(value, kind)
            except Exception as error:
                name = getattr(kind, "__qualname__", str(kind))
                raise ProtocolError(f"the server's value is no {name}: {error!r}") from error

        return convert


def _bytes(value: object, _: object) -> bytes:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else _is(value, bytes)


def _datetime(value: object, _: object) -> datetime.datetime:
    if isinstance(value, str):
        return datetime.datetime.fromisoformat(value)
    return _is(value, datetime.datetime)


def _date(value: object, _: object) -> datetime.date:
    return (
        datetime.date.fromisoformat(value) if isinstance(value, str) else _is(value, datetime.date)
    )


def _is(value: object, kind: type[T]) -> T:
    if isinstance(value, kind):
        return value
    raise TypeError(f"expected {kind.__name__}, not {type(value).__name__}")
