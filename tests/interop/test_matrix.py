"""A test for each cell of ``docs/interop.md``; all that are asked for are run at once."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from tests.interop.columns import Cell, cells
from tests.interop.matrix import Results, run_cells
from tests.interop.table import PATH, render
from tests.peers import needs_dotnet_peer


def _parameter(cell: Cell) -> object:
    marks = [needs_dotnet_peer] if cell.column.kind.needs_dotnet else []
    return pytest.param(cell, id=cell.id, marks=marks)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    """What became of the cells of this session's tests; nothing else is started."""
    wanted = [
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == test_feature.__name__
        and not any(mark.args[0] for mark in item.iter_markers("skipif"))
    ]
    return trio.run(partial(run_cells, wanted))


@pytest.mark.parametrize("cell", [_parameter(cell) for cell in cells()])
def test_feature(results: Results, cell: Cell) -> None:
    error = results[cell]
    if error is not None:
        raise error


def test_table_is_what_a_run_writes() -> None:
    assert PATH.read_text() == render(cells())
