"""Makes a scenario that fails smaller, and writes it down as Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from tests.simulation.plan import Call, ClientPlan, Scenario, ServerPlan
from tests.simulation.world import run

__all__ = ["as_python", "shrink"]

_ATTEMPTS = 400


def shrink(scenario: Scenario) -> Scenario:
    """The smallest scenario found that breaks the same promise."""
    broken = _promise(scenario)
    attempts = 0
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(scenario):
            attempts += 1
            if attempts > _ATTEMPTS:
                return scenario
            if _promise(smaller) == broken:
                scenario, progress = smaller, True
                break
    return scenario


def _promise(scenario: Scenario) -> str | None:
    violation = run(scenario).violation
    if violation is None or violation.startswith("crash"):
        return violation and violation[:40]
    return violation.partition(":")[0]


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    if scenario.full and not scenario.embedded:
        yield attrs.evolve(scenario, full=False)
    for name in ("clients", "servers", "events"):
        for rest in _without_one(getattr(scenario, name)):
            if rest or name == "events":
                yield attrs.evolve(scenario, **{name: rest})
    for i, client in enumerate(scenario.clients):
        for one in _smaller_client(client):
            clients = (*scenario.clients[:i], one, *scenario.clients[i + 1 :])
            yield attrs.evolve(scenario, clients=clients)
    for i, server in enumerate(scenario.servers):
        for plan in _simpler(server, ServerPlan(server.name, server.id)):
            servers = (*scenario.servers[:i], plan, *scenario.servers[i + 1 :])
            yield attrs.evolve(scenario, servers=servers)
    for name in scenario.service:
        service = {key: value for key, value in scenario.service.items() if key != name}
        yield attrs.evolve(scenario, service=service)


def _smaller_client(client: ClientPlan) -> Iterator[ClientPlan]:
    half = len(client.calls) // 2
    if half > 1:
        yield attrs.evolve(client, calls=client.calls[half:])
        yield attrs.evolve(client, calls=client.calls[:half])
    for calls in _without_one(client.calls):
        yield attrs.evolve(client, calls=calls)
    yield from _simpler(client, ClientPlan(client.name, calls=client.calls))
    for i, call in enumerate(client.calls):
        for one in _simpler(call, Call(call.at, call.kind)):
            yield attrs.evolve(client, calls=(*client.calls[:i], one, *client.calls[i + 1 :]))


def _simpler(plan: Any, simplest: Any) -> Iterator[Any]:
    """A plan with one of its fields at its default."""
    for field in attrs.fields(type(plan)):
        value = getattr(simplest, field.name)
        if getattr(plan, field.name) != value:
            yield attrs.evolve(plan, **{field.name: value})


def _without_one(values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for i in range(len(values)):
        yield values[:i] + values[i + 1 :]


def as_python(value: Any, indent: str = "") -> str:
    """A plan as an expression, without what has its default."""
    deeper = indent + "    "
    if isinstance(value, tuple) and value and attrs.has(type(value[0])):
        parts = [f"{deeper}{as_python(one, deeper)},\n" for one in value]
        return f"(\n{''.join(parts)}{indent})"
    if not attrs.has(type(value)):
        return repr(value)
    fields: list[str] = []
    for field in attrs.fields(type(value)):
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()  # type: ignore[union-attr]
        given = getattr(value, field.name)
        if default is attrs.NOTHING:
            fields.append(as_python(given, deeper))
        elif given != default:
            fields.append(f"{field.name}={as_python(given, indent)}")
    return f"{type(value).__name__}({', '.join(fields)})"
