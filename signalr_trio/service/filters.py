"""The OData filters that choose among clients, of ``:execute`` and of sends: sans-IO.

Source: the grammar in the documentation of Azure Web PubSub ("OData filter syntax"), whose
identifiers are the ones of SignalR's example: ``userId``, ``connectionId``, ``groups``. What a
server's message calls a filter (extension 4) is nowhere said to be another language.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol, TypeAlias

import attrs

from signalr_trio.errors import ProtocolError

__all__ = ["Filter", "parse_filter"]

#: Words and signs of one filter. What is dear to evaluate for each client must be bounded.
_LONGEST: Final = 1000
_DEEPEST: Final = 50

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<int>[+-]?\d{1,10})|(?P<word>[A-Za-z]+)|(?P<sign>[(),]))"
)


class _Client(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def groups(self) -> Collection[str]: ...


Filter: TypeAlias = "Callable[[_Client], bool]"


@attrs.frozen
class _Node:
    """An expression: ``kind`` is bool, int, str, groups or null; null may stand for any of them."""

    kind: str
    value: Callable[[_Client], Any]


@attrs.frozen
class _Token:
    kind: str
    text: str
    start: int


_END: Final = _Token("end", "", 0)


def _user_id(client: _Client) -> str | None:
    return client.user_id


def _id(client: _Client) -> str:
    return client.id


def _groups(client: _Client) -> Collection[str]:
    return client.groups


def _constant(kind: str, value: object) -> _Node:
    return _Node(kind, lambda _: value)


def _substring(text: str, start: int, size: int | None = None) -> str:
    start = max(start, 0)
    return text[start:] if size is None else text[start : start + max(size, 0)]


_NAMES: Final = {
    "userid": _Node("str", _user_id),
    "connectionid": _Node("str", _id),
    "groups": _Node("groups", _groups),
    "true": _constant("bool", True),
    "false": _constant("bool", False),
    "null": _constant("null", None),
}
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}
#: Name -> kind of the result, kinds of the arguments (with ? where one may be left out), and what
#: is done.
_FUNCTIONS: Final[dict[str, tuple[str, tuple[str, ...], Callable[..., Any]]]] = {
    "concat": ("str", ("str", "str"), operator.add),
    "contains": ("bool", ("str", "str"), operator.contains),
    "endswith": ("bool", ("str", "str"), str.endswith),
    "indexof": ("int", ("str", "str"), str.find),
    "length": ("int", ("str or groups",), len),
    "startswith": ("bool", ("str", "str"), str.startswith),
    "substring": ("str", ("str", "int", "int?"), _substring),
    "tolower": ("str", ("str",), str.lower),
    "toupper": ("str", ("str",), str.upper),
    "trim": ("str", ("str",), str.strip),
}


def parse_filter(text: str) -> Filter:
    """A filter in OData, as a predicate of one client.

    A comparison with null is false, but for ``eq`` and ``ne``; a function of null is null.
    Raises ProtocolError, whose text is for the caller.
    """
    parser = _Parser(text)
    value = parser.whole().value
    return lambda client: value(client) is True


class _Parser:
    """Recursive descent; operators from loose to tight: or, and, comparisons and in, not."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def whole(self) -> _Node:
        node = self._bool(self._either())
        if self._next < len(self._tokens):
            raise self._fault("its end")
        return node

    def _either(self) -> _Node:
        return self._chain("or", self._both, any)

    def _both(self) -> _Node:
        return self._chain("and", self._comparison, all)

    def _chain(
        self, word: str, operand: Callable[[], _Node], join: Callable[[list[bool]], bool]
    ) -> _Node:
        first = operand()
        if not self._has(word):
            return first
        values = [self._bool(first).value]
        while self._take(word):
            values.append(self._bool(operand()).value)
        return _Node("bool", lambda client: join([value(client) is True for value in values]))

    def _comparison(self) -> _Node:
        left = self._unary()
        if self._take("in"):
            return self._membership(left)
        for word, compare in _COMPARISONS.items():
            if self._take(word):
                return self._compare(word, compare, left, self._unary())
        return left

    def _compare(
        self, word: str, compare: Callable[[Any, Any], bool], left: _Node, right: _Node
    ) -> _Node:
        self._same_kind(left, right)
        one, other = left.value, right.value
        if word in ("eq", "ne"):
            return _Node("bool", lambda client: compare(one(client), other(client)))

        def ordered(client: _Client) -> bool:
            low, high = one(client), other(client)
            return low is not None and high is not None and compare(low, high)

        return _Node("bool", ordered)

    def _membership(self, left: _Node) -> _Node:
        options = self._list()
        value = left.value
        if len(options) == 1 and options[0].kind == "groups":
            self._expect(left, "str")
            groups = options[0].value
            return _Node("bool", lambda client: value(client) in groups(client))
        for option in options:
            self._same_kind(left, option)
        return _Node("bool", lambda client: value(client) in [one.value(client) for one in options])

    def _list(self) -> list[_Node]:
        if not self._take("("):
            node = self._unary()
            if node.kind != "groups":
                raise self._fault("a list in parentheses, or groups")
            return [node]
        options = [self._inner()]
        while self._take(","):
            options.append(self._inner())
        self._must(")")
        return options

    def _unary(self) -> _Node:
        if self._take("not"):
            value = self._bool(self._nested(self._unary)).value
            return _Node("bool", lambda client: value(client) is not True)
        if self._take("("):
            node = self._inner()
            self._must(")")
            return node
        return self._primary()

    def _inner(self) -> _Node:
        return self._nested(self._either)

    def _nested(self, rule: Callable[[], _Node]) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ProtocolError(f"'filter' is nested more than {_DEEPEST} deep.")
        node = rule()
        self._depth -= 1
        return node

    def _primary(self) -> _Node:
        token = self._tokens[self._next] if self._next < len(self._tokens) else _END
        self._next += 1
        if token.kind == "string":
            return _constant("str", token.text[1:-1].replace("''", "'"))
        if token.kind == "int":
            return _constant("int", int(token.text))
        if token.text in _NAMES:
            return _NAMES[token.text]
        if token.text in _FUNCTIONS and self._take("("):
            return self._call(*_FUNCTIONS[token.text])
        self._next -= 1
        raise self._fault("a value")

    def _call(self, kind: str, expected: tuple[str, ...], apply: Callable[..., Any]) -> _Node:
        given = [self._inner()]
        while self._take(","):
            given.append(self._inner())
        required = sum(not wanted.endswith("?") for wanted in expected)
        if not required <= len(given) <= len(expected):
            raise self._fault(f"{len(expected)} arguments")
        for node, wanted in zip(given, expected, strict=False):
            self._expect(node, wanted.rstrip("?"))
        self._must(")")

        def call(client: _Client) -> Any:
            values = [one.value(client) for one in given]
            return None if None in values else apply(*values)

        return _Node(kind, call)

    # -- kinds ----------------------------------------------------------------------------------

    def _bool(self, node: _Node) -> _Node:
        return self._expect(node, "bool")

    def _expect(self, node: _Node, kind: str) -> _Node:
        if node.kind not in ("null", *kind.split(" or ")):
            raise self._fault(f"a value of type {kind} in front")
        return node

    def _same_kind(self, left: _Node, right: _Node) -> None:
        kinds = {left.kind, right.kind} - {"null"}
        if len(kinds) > 1 or "groups" in kinds:
            raise self._fault("two values of one type in front")

    # -- tokens ---------------------------------------------------------------------------------

    def _has(self, text: str) -> bool:
        return self._next < len(self._tokens) and self._tokens[self._next].text == text

    def _take(self, text: str) -> bool:
        if not self._has(text):
            return False
        self._next += 1
        return True

    def _must(self, text: str) -> None:
        if not self._take(text):
            raise self._fault(f"'{text}'")

    def _fault(self, expected: str) -> ProtocolError:
        rest = self._tokens[self._next :]
        at = rest[0].start if rest else len(self._text)
        return ProtocolError(f"'filter' cannot be read: at {at}, {expected} was expected.")


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ProtocolError(f"'filter' cannot be read: what is at {at} is no word of it.")
        kind, token = match.lastgroup, match[match.lastgroup]
        # Words mean the same in any case of letters.
        found.append(_Token(kind, token.lower() if kind == "word" else token, match.start(kind)))
        if len(found) > _LONGEST:
            raise ProtocolError(f"'filter' has more than {_LONGEST} words and signs.")
        at = match.end()
    return found
