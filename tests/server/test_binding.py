"""How the arguments of a call become those of a hub method, and which methods a hub has."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import attrs
import pytest

from signalr_trio import ConfigurationError, Hub, HubServer
from signalr_trio.server.binding import BindingError, HubMethod, hub_methods, make_converter

UTC = datetime.UTC


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


@attrs.define
class Point:
    x: int
    y: int = 0


@dataclass
class Line:
    points: list[Point]
    colour: Colour = Colour.RED
    note: str | None = None


ID = uuid.uuid4()


class Values(Hub):
    async def any(self, value: Any) -> None: ...
    async def untyped(self, value) -> None: ...  # type: ignore[no-untyped-def]
    async def int(self, value: int) -> None: ...
    async def float(self, value: float) -> None: ...
    async def str(self, value: str) -> None: ...
    async def bool(self, value: bool) -> None: ...
    async def bytes(self, value: bytes) -> None: ...
    async def datetime(self, value: datetime.datetime) -> None: ...
    async def enum(self, value: Colour) -> None: ...
    async def optional(self, value: int | None) -> None: ...
    async def literal(self, value: Literal["a", "b"]) -> None: ...
    async def date(self, value: datetime.date) -> None: ...
    async def uuid(self, value: uuid.UUID) -> None: ...
    async def decimal(self, value: decimal.Decimal) -> None: ...
    async def union(self, value: int | str) -> None: ...
    async def ints(self, value: list[int]) -> None: ...
    async def list(self, value: list) -> None: ...  # type: ignore[type-arg]
    async def map(self, value: dict[str, Point]) -> None: ...
    async def attrs(self, value: Point) -> None: ...
    async def dataclass(self, value: Line) -> None: ...


VALUES = hub_methods(Values, make_converter())


@pytest.mark.parametrize(
    ("method", "given", "bound"),
    [
        ("any", {"a": [1, None]}, {"a": [1, None]}),
        ("untyped", "x", "x"),
        ("int", 1 << 62, 1 << 62),
        ("float", 1.5, 1.5),
        ("float", 2, 2.0),
        ("str", "", ""),
        ("bool", False, False),
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("bytes", "AP8=", b"\x00\xff"),
        ("datetime", "2026-01-02T03:04:05Z", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (
            "datetime",
            datetime.datetime(2026, 1, 2, tzinfo=UTC),
            datetime.datetime(2026, 1, 2, tzinfo=UTC),
        ),
        ("enum", 1, Colour.RED),
        ("enum", "RED", Colour.RED),
        ("enum", "blue", Colour.BLUE),
        ("optional", None, None),
        ("optional", 3, 3),
        ("literal", "b", "b"),
        ("date", "2026-01-02", datetime.date(2026, 1, 2)),
        ("uuid", str(ID), ID),
        ("decimal", "1.10", decimal.Decimal("1.10")),
        ("decimal", 3, decimal.Decimal(3)),
        ("union", 3, 3),
        ("union", "3", "3"),
        ("ints", [1, 2], [1, 2]),
        ("list", [1, "a"], [1, "a"]),
        ("map", {"a": {"x": 1, "y": 2}}, {"a": Point(1, 2)}),
        ("attrs", {"x": 1}, Point(1)),
        ("attrs", {"x": 1, "z": 5}, Point(1)),
        (
            "dataclass",
            {"points": [{"x": 1}], "colour": "blue", "note": None},
            Line([Point(1)], Colour.BLUE),
        ),
    ],
)
def test_a_value_of_the_annotated_type_is_made(method: str, given: object, bound: object) -> None:
    (value,) = VALUES[method].bind([given], [])
    assert value == bound
    assert type(value) is type(bound)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("int", "5"),
        ("int", 1.0),
        ("int", True),
        ("int", None),
        ("float", "1.5"),
        ("float", True),
        ("str", 5),
        ("str", None),
        ("bool", 1),
        ("bool", "true"),
        ("bytes", "no base64!"),
        ("bytes", 5),
        ("datetime", "yesterday"),
        ("datetime", 0),
        ("enum", 2),
        ("enum", "GREEN"),
        ("enum", None),
        ("optional", "3"),
        ("literal", "c"),
        ("date", "tomorrow"),
        ("uuid", "no id"),
        ("uuid", 5),
        ("decimal", "much"),
        ("decimal", True),
        ("union", 1.5),
        ("ints", [1, "2"]),
        ("ints", "12"),
        ("ints", {"1": 2}),
        ("ints", None),
        ("list", "abc"),
        ("map", []),
        ("map", {"a": {"y": 2}}),
        ("attrs", {"x": "1"}),
        ("attrs", [1, 2]),
        ("dataclass", {"points": [{}]}),
    ],
)
def test_a_value_of_another_type_is_refused(method: str, given: object) -> None:
    with pytest.raises(BindingError, match="Argument 1"):
        VALUES[method].bind([given], [])


class Signatures(Hub):
    async def none(self) -> None: ...
    async def two(self, a: int, b: int) -> None: ...
    async def default(self, a: int, b: int = 2) -> None: ...
    async def rest(self, a: int, *more: int) -> None: ...
    async def option(self, a: int, *, b: int = 2, **c: int) -> None: ...
    async def upload(self, a: int, items: AsyncIterator[int], b: int = 2) -> None: ...
    async def uploads(self, one: AsyncIterator[int], other: AsyncIterator) -> None: ...  # type: ignore[type-arg]


SIGNATURES = hub_methods(Signatures, make_converter())
STREAM, OTHER = object(), object()


@pytest.mark.parametrize(
    ("method", "given", "streams", "bound"),
    [
        ("none", [], [], []),
        ("two", [1, 2], [], [1, 2]),
        ("default", [1], [], [1]),
        ("default", [1, 3], [], [1, 3]),
        ("rest", [1], [], [1]),
        ("rest", [1, 2, 3], [], [1, 2, 3]),
        ("option", [1], [], [1]),
        ("upload", [1], [STREAM], [1, STREAM]),
        ("upload", [1, 3], [STREAM], [1, STREAM, 3]),
        ("uploads", [], [STREAM, OTHER], [STREAM, OTHER]),
    ],
)
def test_arguments_find_their_parameters(
    method: str, given: list[object], streams: list[Any], bound: list[object]
) -> None:
    assert SIGNATURES[method].bind(given, streams) == bound


@pytest.mark.parametrize(
    ("method", "given", "text"),
    [
        ("none", [1], "provides 1 argument.* expects 0"),
        ("two", [1], "provides 1 argument.* expects 2"),
        ("two", [1, 2, 3], "provides 3 argument.* expects 2"),
        ("default", [], "provides 0 argument.* expects 1 to 2"),
        ("rest", [], "provides 0 argument.* expects at least 1"),
        ("rest", [1, "2"], "Argument 2: expected int, not str"),
        ("option", [1, 2], "provides 2 argument.* expects 1"),
    ],
)
def test_a_wrong_number_of_arguments_is_refused(
    method: str, given: list[object], text: str
) -> None:
    with pytest.raises(BindingError, match=text):
        SIGNATURES[method].bind(given, [])


# -- which methods there are ----------------------------------------------------------------


def methods_of(hub_class: type[Hub]) -> dict[str, HubMethod]:
    return hub_methods(hub_class, make_converter())


def test_public_coroutine_methods_are_called_by_name_without_case_or_underscores() -> None:
    class Base(Hub):
        async def inherited(self) -> None: ...

    class Chat(Base):
        async def broadcast_message(self) -> None: ...
        async def numbers(self) -> AsyncIterator[int]:
            yield 1

        async def _private(self) -> None: ...
        @staticmethod
        async def helper(key: str) -> None: ...
        @classmethod
        async def of_the_class(cls) -> None: ...
        def plain(self) -> None: ...
        async def on_connected(self) -> None: ...
        async def on_disconnected(self, error: Exception | None) -> None: ...

    methods = methods_of(Chat)
    assert set(methods) == {"inherited", "broadcastmessage", "numbers"}
    assert [name for name, method in methods.items() if method.streams] == ["numbers"]


def test_what_every_hub_has_cannot_be_called() -> None:
    assert methods_of(Hub) == {}


def test_two_methods_of_one_name_on_the_wire_clash() -> None:
    class Chat(Hub):
        async def say_it(self) -> None: ...
        async def sayIt(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"say_it.*same name|sayIt.*same name"):
        HubServer("").map(Chat, "/chat")


def test_a_keyword_that_no_client_can_give_is_refused() -> None:
    class Chat(Hub):
        async def say(self, *, text: str) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Chat\.say: .* text by name"):
        HubServer("").map(Chat, "/chat")


def test_annotations_that_mean_nothing_are_refused() -> None:
    class Chat(Hub):
        async def say(self, text: NoSuchType) -> None: ...  # noqa: F821  # type: ignore

    with pytest.raises(ConfigurationError, match=r"Chat\.say: .*NoSuchType"):
        HubServer("").map(Chat, "/chat")


def test_a_type_of_which_no_value_can_be_made_is_refused() -> None:
    class Chat(Hub):
        async def say(self, text: Hub) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Chat\.say, parameter text"):
        HubServer("").map(Chat, "/chat")


class Chat(Hub):
    pass


class News(Hub):
    pass


@pytest.mark.parametrize(
    ("hub", "path", "text"),
    [
        (News, "/CHAT/", "is the path of Chat already"),
        (Chat, "/other", "hub chat is mapped to /chat already"),
        (News, "news", "must begin with /"),
    ],
)
def test_hubs_that_clash_are_refused(hub: type[Hub], path: str, text: str) -> None:
    server = HubServer("")
    server.map(Chat, "/chat")
    with pytest.raises(ConfigurationError, match=text):
        server.map(hub, path)


def test_a_hub_context_is_there_for_mapped_hubs_alone() -> None:
    server = HubServer("")
    server.map(Chat, "/chat")
    assert server.hub_context(Chat) is server.hub_context(Chat)
    with pytest.raises(ConfigurationError, match="News is not mapped"):
        server.hub_context(News)
