"""The whole matrix: `make faults`. `make test` runs the quick cells (tests/process/test_faults.py) and not this.

Each cell runs twice: the call fails once, and for `SECONDS`. The table is printed at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .bench import Bench, Cell, Result
from .cells import CELLS

# How long a continuous fault lasts.
SECONDS = 1.2

_RUNS = [
    pytest.param(flavour, cell, seconds, id=f"{flavour}-{cell.name}-{'while' if seconds else 'once'}")
    for flavour, cells in CELLS.items()
    for cell in cells
    for seconds in (0.0, SECONDS)
]
_results: list[tuple[str, Cell, float, Result | None]] = []


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what came of it."""
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n\n{'daemon':8} {'cell':44} {'fault':6} {'failed':>7} {'CPU %':>6} {'back in':>9} {'lines':>6} "
              f"{'answered':>9} {'cut':>4}")  # fmt: skip
        for flavour, cell, seconds, result in _results:
            fault = "while" if seconds else "once"
            if result is None:
                print(f"{flavour:8} {cell.name:44} {fault:6} FAILED")
                continue
            cpu = f"{result.cpu:.1f}" if seconds else ""
            back = f"{1000 * result.recovery:.0f} ms"
            print(f"{flavour:8} {cell.name:44} {fault:6} {result.hits:7} {cpu:>6} {back:>9} {result.lines:6} "
                  f"{result.answered:9} {result.cut:4}")  # fmt: skip


class Benches:
    """The daemon in use: one at a time, and a new one after a cell that failed."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._flavour = ""
        self._bench: Bench | None = None

    def get(self, flavour: str) -> Bench:
        """The daemon of this flavour."""
        if self._bench is None or self._flavour != flavour:
            self.drop()
            self._flavour, self._bench = flavour, Bench(self._factory.mktemp(flavour), flavour)
        return self._bench

    def drop(self, *, hard: bool = False) -> None:
        """Stop it."""
        bench, self._bench = self._bench, None
        if bench is not None and hard:
            bench.daemon.close()
        elif bench is not None:
            bench.close()


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benches]:
    """Daemons, made when they are needed."""
    found = Benches(tmp_path_factory)
    yield found
    found.drop()


@pytest.mark.parametrize(("flavour", "cell", "seconds"), _RUNS)
def test_cell(benches: Benches, flavour: str, cell: Cell, seconds: float) -> None:
    """One cell of the matrix."""
    result = None
    try:
        result = benches.get(flavour).run(cell, seconds)
    finally:
        if result is None:
            benches.drop(hard=True)
        _results.append((flavour, cell, seconds, result))
