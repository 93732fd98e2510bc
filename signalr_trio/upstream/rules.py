"""Which upstream an event goes to, and its URL there (sans-IO).

The settings are those of the official emulator's ``UpstreamSettings``: an ordered list of URL
templates, each with patterns for hub, category and event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote, urlsplit

import attrs

from signalr_trio.errors import ConfigurationError
from signalr_trio.transport.endpoint import parse_url

__all__ = ["CONNECTIONS", "MESSAGES", "Upstream", "find_url", "parse_upstream"]

CONNECTIONS: Final = "connections"
MESSAGES: Final = "messages"

_ANY: Final = "*"
_EVERY: Final = frozenset({_ANY})
_CATEGORIES: Final = frozenset({_ANY, CONNECTIONS, MESSAGES})
_PARAMETER: Final = re.compile(r"\{(hub|category|event)\}")
_BRACES: Final = re.compile(r"\{[^{}]*\}?|\}")
#: In a path these lead elsewhere, encoded or not, and clients choose what events are called.
_DOT_SEGMENTS: Final = frozenset({".", ".."})


def _names(kind: str) -> Callable[[str | Iterable[str]], frozenset[str]]:
    def names(pattern: str | Iterable[str]) -> frozenset[str]:
        parts = pattern.split(",") if isinstance(pattern, str) else pattern
        found = frozenset(name.strip() for name in parts)
        if "" in found or not found:
            raise ConfigurationError(
                f"upstream: the {kind} pattern {pattern!r} has an empty name; give '*', or names "
                "with commas between them"
            )
        return found

    return names


def _hub_names(pattern: str | Iterable[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in _names("hub")(pattern))


def _check_category(_: object, __: attrs.Attribute[Any], names: frozenset[str]) -> None:
    if unknown := names - _CATEGORIES:
        raise ConfigurationError(
            f"upstream: there is no category {min(unknown)!r}, only {CONNECTIONS} and {MESSAGES}"
        )


def _check_template(_: object, __: attrs.Attribute[Any], template: str) -> None:
    """The query stays out of what is said: an Azure Function has its key there."""
    shown = template.partition("?")[0].rpartition("@")[2]
    plain = _PARAMETER.sub("x", template)
    if found := _BRACES.search(plain):
        raise ConfigurationError(
            f"upstream {shown}: {found[0]!r} is none of {{hub}}, {{category}} and {{event}}"
        )
    if not _is_http_url(plain):
        raise ConfigurationError(
            f"upstream {shown!r} is not an http or https URL with a host, percent-encoded"
        )
    host = urlsplit(template).netloc
    if "@" in host:
        raise ConfigurationError("upstream: a user name or a password in the URL is not sent")
    if "{event}" in host:
        raise ConfigurationError(
            f"upstream {shown}: {{event}} cannot be in the host, since clients choose it"
        )


def _is_http_url(url: str) -> bool:
    try:
        parse_url(url)
    except ConfigurationError:
        return False
    return urlsplit(url).scheme in ("http", "https")


@attrs.frozen
class Upstream:
    """An address of the application, and which events go there.

    A pattern is ``*``, a name, or names with commas between them (or a collection of names). Hubs
    are compared without regard to case, as everywhere in the service; events with it, as in the
    official emulator.

    Raises ConfigurationError for a template or a pattern that cannot work.
    """

    url_template: str = attrs.field(validator=_check_template, repr=False)
    """An http(s) URL, in which ``{hub}``, ``{category}`` and ``{event}`` are replaced."""
    hub: frozenset[str] = attrs.field(kw_only=True, default=_EVERY, converter=_hub_names)
    category: frozenset[str] = attrs.field(
        kw_only=True, default=_EVERY, converter=_names("category"), validator=_check_category
    )
    """``connections``, with the events ``connected`` and ``disconnected``, and ``messages``, whose
    events are the targets that clients invoke."""
    event: frozenset[str] = attrs.field(kw_only=True, default=_EVERY, converter=_names("event"))

    def matches(self, hub: str, category: str, event: str) -> bool:
        return (
            not self.hub.isdisjoint((_ANY, hub.lower()))
            and not self.category.isdisjoint((_ANY, category))
            and not self.event.isdisjoint((_ANY, event))
        )

    def url(self, hub: str, category: str, event: str) -> str:
        """The template with its parameters replaced, each percent-encoded."""
        values = {"hub": hub, "category": category, "event": event}
        return _PARAMETER.sub(lambda found: quote(values[found[1]], safe=""), self.url_template)


def find_url(upstreams: Iterable[Upstream], hub: str, category: str, event: str) -> str | None:
    """Where an event is posted: the first upstream that matches it counts; None if there is none."""
    if not _DOT_SEGMENTS.isdisjoint((hub, event)):
        return None
    for upstream in upstreams:
        if upstream.matches(hub, category, event):
            return upstream.url(hub, category, event)
    return None


def parse_upstream(text: str) -> Upstream:
    """Reads ``URL[;hub=NAMES][;category=NAMES][;event=NAMES]``, as on the command line.

    Raises ConfigurationError that names the part at fault.
    """
    template, *parts = text.split(";")
    patterns: dict[str, str] = {}
    for part in parts:
        name, _, pattern = part.partition("=")
        name = name.strip()
        if name not in ("hub", "category", "event"):
            raise ConfigurationError(
                f"upstream: {name!r} is none of hub, category and event (a semicolon that belongs "
                "to the URL is written as %3B)"
            )
        if name in patterns:
            raise ConfigurationError(f"upstream: {name!r} is given twice")
        patterns[name] = pattern
    return Upstream(template.strip(), **patterns)
