"""System calls that fail for a while: the quick cells of the matrix (`make faults` runs all; docs/faults.md)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.faults.bench import Bench, Cell
from tests.faults.cells import CELLS
from tests.faults.matrix import Benches

QUICK = [cell for cell in CELLS["sync"] if cell.quick]
# How long a call fails, in seconds.
SECONDS = 0.4


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benches]:
    """One daemon for all cells, and a new one after a cell that failed."""
    found = Benches(tmp_path_factory)
    yield found
    found.drop()


@pytest.mark.parametrize("cell", QUICK, ids=[cell.name for cell in QUICK])
def test_a_call_that_fails_for_a_while(benches: Benches, cell: Cell) -> None:
    passed = False
    try:
        benches.get("sync").run(cell, SECONDS)
        passed = True
    finally:
        if not passed:
            benches.drop(hard=True)


def test_the_library_fails_what_the_plan_says_and_nothing_else(benches: Benches) -> None:
    bench: Bench = benches.get("sync")
    worker = bench.pid("worker")
    with (
        bench.plan.fail("recv", errno.ECONNRESET, kind="client", pid=bench.pid("master")) as other,
        bench.plan.fail("recv", errno.ECONNRESET, kind="client", pid=worker, times=1) as fault,
    ):
        with bench.connect() as client, pytest.raises((EOFError, OSError)):
            client.get("/")
        with bench.connect() as client:
            assert client.get("/").status == 200
        assert (fault.hits, other.hits) == (1, 0)
