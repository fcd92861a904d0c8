"""The results of a scenario as a Markdown table, and of a whole run as JSON. Pure functions but for `save`.

The figure of a server is the median of its rounds, and the spread beside it half of what lies between the
best and the worst round.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from .load import Run

PERCENTILES = ("p50_us", "p99_us", "p999_us")


class Result:
    """All rounds of one contestant; or the reason why there are none, or no more."""

    def __init__(
        self,
        name: str,
        kind: str,
        python: str,
        problem: str | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """`kind` as in servers.Contestant; `command` is how it was started."""
        self.name = name
        self.kind = kind
        self.python = python
        self.problem = problem
        self.command = command
        self.qualifying: Run | None = None  # the short run before the rounds
        self.runs: list[Run] = []
        self.memory = 0  # bytes

    @property
    def rate(self) -> float:
        """Requests a second, the median round."""
        return median(run.rate for run in self.runs)

    @property
    def spread(self) -> float:
        """Half the distance between the best and the worst round, in percent of the median."""
        rates = [run.rate for run in self.runs]
        return (max(rates) - min(rates)) / 2 / self.rate * 100

    @property
    def cpu_us(self) -> float:
        """CPU microseconds a request, the median round."""
        return median(run.cpu_us for run in self.runs)

    @property
    def served(self) -> float | None:
        """Which share of the connections had answers, the median round; None when the load does not tell."""
        shares = [run.served for run in self.runs if run.served is not None]
        return median(shares) if shares else None

    @property
    def errors(self) -> int:
        """All rounds together."""
        return sum(run.errors for run in self.runs)

    def row(self) -> str:
        """One line of the table."""
        if not self.runs:
            return f"| {self.name} | {self.python} | not measured: {self.problem} | | | | | | |"
        times = (median(getattr(run, name) for run in self.runs) / 1000 for name in PERCENTILES)
        p50, p99, p999 = times
        return (
            f"| {self.name} | {self.python} | {self.rate:,.0f} ± {self.spread:.0f} % | {self.cpu_us:.1f} "
            f"| {p50:.2f} | {p99:.2f} | {p999:.2f} | {self.memory / 2**20:.0f} | {self.errors} |"
        )

    def as_json(self) -> dict[str, object]:
        """For the raw results."""
        return {
            "name": self.name,
            "kind": self.kind,
            "python": self.python,
            "problem": self.problem,
            "memory": self.memory,
            "command": list(self.command),
            "qualifying": self.qualifying.as_json() if self.qualifying else None,
            "runs": [run.as_json() for run in self.runs],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal and what came of it, for the table at the end of a run."""

    scenario: str
    aim: str  # `at least 2.0 × the best peer`
    value: float | None  # None: not measured
    text: str  # `2.31 × granian (asgi, 1 worker) on 3.14.7t`
    met: bool | None  # None: there is no goal, or it was not measured


@dataclass(frozen=True, slots=True)
class Section:
    """What a scenario gives: heading, table, lines below it, raw figures, and whether serverd did all right."""

    name: str
    heading: str
    table: str
    lines: Sequence[str]
    raw: Sequence[Mapping[str, object]]
    right: bool
    verdicts: Sequence[Verdict] = ()

    def text(self) -> str:
        """For standard output, in Markdown."""
        lines = "\n".join(f"- {line}" for line in self.lines)
        return "\n\n".join(filter(None, (f"## {self.name}", self.heading, self.table, lines))) + "\n"


def table(results: Sequence[Result], unit: str) -> str:
    """The Markdown table of what answered so many `unit`s a second."""
    head = [
        f"| server | Python | {unit}s/s | CPU µs/{unit} | p50 ms | p99 ms | p99.9 ms | memory MiB (PSS) | errors |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join(head + [result.row() for result in results])


def summary(sections: Sequence[Section]) -> str:
    """All goals of a run as one Markdown table; empty when there was none."""
    words = {True: "met", False: "**missed**", None: ""}
    lines = [
        f"| `{verdict.scenario}` | {verdict.aim} | {verdict.text} | "
        f"{words[verdict.met] if verdict.value is not None else 'not measured'} |"
        for section in sections
        for verdict in section.verdicts
    ]
    head = ["| scenario | goal | here | |", "|---|---|---|---|"]
    return "\n".join(head + lines) if lines else ""


def save(folder: Path, about: Mapping[str, object], sections: Sequence[Section]) -> Path:
    """Write everything as JSON, one file for each run; the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{str(about['time']).replace(':', '')}.json"
    scenarios = [
        {
            "name": part.name,
            "heading": part.heading,
            "goals": part.lines,
            "results": part.raw,
            "verdicts": [asdict(verdict) for verdict in part.verdicts],
        }
        for part in sections
    ]
    path.write_text(json.dumps({**about, "scenarios": scenarios}, indent=1) + "\n")
    return path
