"""Each deliberate bug is found: by the seed that is known to find it, or by another one."""

from __future__ import annotations

import os

import pytest

from tests.simulation.mutations import MUTATIONS, Found, hunt_all, known_seeds

#: Seeds for each, should the scenarios have changed since its seed was written down.
LIMIT = 300


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    hunts = hunt_all(MUTATIONS, LIMIT, os.cpu_count() or 1, known_seeds())
    return {one.mutation: one for one in hunts}


@pytest.mark.parametrize("name", [mutation.name for mutation in MUTATIONS])
def test_it_is_found(name: str, found: dict[str, Found]) -> None:
    assert found[name].seeds, f"no seed finds it: {name} {found[name].violation}"


def test_each_has_a_name_and_a_seed() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names) >= 30
    assert set(known_seeds()) == set(names)
