"""What the sections have in common: contestants that are started for one of them, rounds of figures, and tables.

A `Trial` is one contestant with the figures of its rounds, or the reason why there are none, or no more: an error of
the server or of the load becomes that reason and never ends a section (`attempt`). Ratios are made round by round
(`paired`), as in goals.py. One thread calls all of this.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from . import load, servers
from .goals import QUIET
from .measure import progress
from .report import Result

type Figures = Mapping[str, Any]

PATIENCE = 2.0  # seconds for an idle server to end: some of granian's processes never do


class Trial:
    """All rounds of one contestant. `key` is what the section knows it by."""

    def __init__(self, row: servers.Contestant | Result, key: str = "") -> None:
        self.row = row
        self.key = key
        self.name = row.name
        self.kind = row.kind
        self.python = row.python if isinstance(row, Result) else row.version
        self.problem = row.problem if isinstance(row, Result) else None
        self.rounds: list[Figures] = []

    def median(self, figure: str) -> float:
        """Of the rounds; only when there is one."""
        return float(median(one[figure] for one in self.rounds))

    def total(self, figure: str) -> int:
        """The sum of the rounds."""
        return sum(one[figure] for one in self.rounds)

    def spread(self, figure: str) -> float:
        """Half the distance between the smallest and the largest round, in percent of the median."""
        values = [one[figure] for one in self.rounds]
        return float(max(values) - min(values)) / 2 / self.median(figure) * 100

    def __str__(self) -> str:
        return f"{self.name} on {self.python}"

    @property
    def short(self) -> str:
        """Without version and settings, where the table has them."""
        return f"{self.kind} on {self.python}"

    def as_json(self) -> dict[str, object]:
        """For the raw results."""
        return {
            "key": self.key,
            "name": self.name,
            "kind": self.kind,
            "python": self.python,
            "problem": self.problem,
            "rounds": [dict(one) for one in self.rounds],
        }


def wanted(
    rows: Collection[servers.Contestant | Result], only: Collection[str], key: str = ""
) -> list[Trial]:
    """A trial for each row; `only` are kinds of contestants, and nothing in it means all."""
    return [Trial(row, key) for row in rows if not only or row.kind in only]


@contextmanager
def attempt(trial: Trial, server: servers.Running | None = None) -> Iterator[None]:
    """What fails inside becomes the trial's problem, with the last words of the server."""
    try:
        yield
    except (servers.ServerError, load.LoadError, OSError) as error:
        trial.problem = f"{error} ({server.fate()})" if server else str(error)
        progress(f"{trial}: {trial.problem}")


@contextmanager
def running(
    trials: Collection[Trial],
    cpus: Mapping[str, frozenset[int]],
    folder: Path,
    check: Callable[[int], object],
) -> Iterator[dict[Trial, servers.Running]]:
    """All that start and pass the check, beside each other; `cpus` by the key of a trial."""
    found: dict[Trial, servers.Running] = {}
    with ExitStack() as stack:
        for trial in trials:
            if isinstance(trial.row, Result):
                continue
            progress(f"starting {trial}")
            with attempt(trial):
                server = stack.enter_context(servers.Running(trial.row, cpus[trial.key], folder))
                stack.callback(server.stop, PATIENCE)
                with attempt(trial, server):
                    check(server.port)
                    found[trial] = server
        yield found


def paired(one: Trial, other: Trial, figure: str) -> float:
    """How `one` compares with `other`: the median of the rounds' own ratios."""
    rounds = zip(one.rounds, other.rounds, strict=False)
    return float(median(mine[figure] / theirs[figure] for mine, theirs in rounds))


def best(trials: Collection[Trial], kind: str, figure: str, *, least: bool = False) -> Trial | None:
    """Of the measured trials of a kind that with the largest median, or with the least; None when there is none."""
    measured = [trial for trial in trials if trial.kind == kind and trial.rounds]
    choose = min if least else max
    return choose(measured, key=lambda trial: trial.median(figure)) if measured else None


def table(columns: Sequence[str], trials: Collection[Trial], cells: Callable[[Trial], Sequence[str]]) -> str:
    """Markdown: server, Python, and what `cells` makes of a trial that was measured."""
    lines = [f"| server | Python | {' | '.join(columns)} |", f"|---|---|{'--:|' * len(columns)}"]
    for trial in trials:
        inside = (
            cells(trial) if trial.rounds else [f"not measured: {trial.problem}", *[""] * (len(columns) - 1)]
        )
        lines.append(f"| {trial.name} | {trial.python} | {' | '.join(inside)} |")
    return "\n".join(lines)


def left_out(trials: Collection[Trial]) -> list[str]:
    """A line for each that was measured at first, and then no more."""
    return [
        f"{trial}: left out after {len(trial.rounds)} rounds: {trial.problem}"
        for trial in trials
        if trial.rounds and trial.problem
    ]


def disturbed(trials: Collection[Trial]) -> list[str]:
    """A line when other programs kept the machine busy meanwhile: the rounds' `others`, in CPUs."""
    others = [one["others"] for trial in trials for one in trial.rounds]
    mean = sum(others) / len(others) if others else 0.0
    if mean <= QUIET:
        return []
    return [f"Disturbed: other programs kept {mean:.1f} CPUs busy; repeat this on a quiet machine"]


def right(trials: Collection[Trial], errors: str = "errors") -> bool:
    """Whether serverd was measured in all that it should be, without an error."""
    ours = [trial for trial in trials if trial.kind.startswith("serverd")]
    return all(trial.rounds and not trial.problem and not trial.total(errors) for trial in ours)
