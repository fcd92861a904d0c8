"""The results as a Markdown table with the goals below it, and as JSON. Pure functions but for `save`.

The figure of a server is the median of its rounds, and the spread beside it half of what lies between the
best and the worst round. Servers are compared round by round (`paired`), which on a busy machine says more
than the spreads.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from .load import Run

RATIO_GOAL = 1.5
CPU_GOAL = 16.0  # microseconds a request
LOG_GOAL = 10.0  # percent of the throughput that an access log may cost
QUIET = 0.1  # CPUs that others may keep busy before the figures are called disturbed


class Result:
    """All rounds of one contestant, or the reason why there are none."""

    def __init__(self, name: str, kind: str, python: str, problem: str | None = None) -> None:
        """`kind` as in servers.Contestant."""
        self.name = name
        self.kind = kind
        self.python = python
        self.problem = problem
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
    def errors(self) -> int:
        """All rounds together."""
        return sum(run.errors for run in self.runs)

    def row(self) -> str:
        """One line of the table."""
        if not self.runs:
            return f"| {self.name} | {self.python} | not measured: {self.problem} | | | | | |"
        p50, p99 = (median(getattr(run, name) for run in self.runs) / 1000 for name in ("p50_us", "p99_us"))
        return (
            f"| {self.name} | {self.python} | {self.rate:,.0f} ± {self.spread:.0f} % | {self.cpu_us:.1f} "
            f"| {p50:.2f} | {p99:.2f} | {self.memory / 2**20:.0f} | {self.errors} |"
        )

    def as_json(self) -> dict[str, object]:
        """For the raw results."""
        return {
            "name": self.name,
            "kind": self.kind,
            "python": self.python,
            "problem": self.problem,
            "memory": self.memory,
            "runs": [run.as_json() for run in self.runs],
        }


def table(results: Sequence[Result]) -> str:
    """The Markdown table."""
    head = [
        "| server | Python | requests/s | CPU µs/request | p50 ms | p99 ms | memory MiB | errors |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join(head + [result.row() for result in results])


def goals(results: Sequence[Result]) -> list[str]:
    """What was aimed for and what came of it, one line each; a goal that was not measured says so."""
    best: dict[str, Result] = {}
    for result in results:
        if result.runs and (result.kind not in best or result.rate > best[result.kind].rate):
            best[result.kind] = result
    ours, peer, logged = best.get("serverd"), best.get("uvicorn"), best.get("serverd-log")
    lines = []
    if ours and peer:
        rate, cpu = (paired(ours, peer, name) for name in ("rate", "cpu_us"))
        lines.append(
            f"Throughput: serverd / uvicorn = {rate:.2f} (goal: at least {RATIO_GOAL}): {_met(rate >= RATIO_GOAL)};"
            f" CPU for a request: {cpu:.2f} of uvicorn's"
        )
    else:
        lines.append("Throughput: serverd / uvicorn: not measured")
    if ours:
        verdict = _met(ours.cpu_us <= CPU_GOAL)
        lines.append(f"CPU: serverd = {ours.cpu_us:.1f} µs a request (goal: at most {CPU_GOAL:g}): {verdict}")
    else:
        lines.append("CPU: serverd: not measured")
    if ours and logged:
        cost = (1 - paired(logged, ours, "rate")) * 100
        lines.append(
            f"Access log: costs {cost:.1f} % of throughput (goal: under {LOG_GOAL:g}): {_met(cost < LOG_GOAL)}"
        )
    if ours and (limit := best.get("raw")):
        times = paired(ours, limit, "cpu_us")
        lines.append(f"Beside the limit: serverd takes {times:.1f} times the CPU of a bare recv and send")
    if others := disturbance(results):
        lines.append(f"Disturbed: other programs kept {others:.1f} CPUs busy; repeat this on a quiet machine")
    if errors := sum(result.errors for result in results):
        lines.append(f"Errors: {errors} (see the table): these figures are not to be trusted")
    return lines


def paired(one: Result, other: Result, name: str) -> float:
    """How `one` compares with `other`: the median of the rounds' own ratios.

    Both were measured within seconds of each other in a round, so what disturbs the machine for longer cancels out.
    """
    ratios: list[float] = [
        getattr(a, name) / getattr(b, name) for a, b in zip(one.runs, other.runs, strict=False)
    ]
    return median(ratios)


def disturbance(results: Sequence[Result]) -> float:
    """How many CPUs others kept busy, the mean over all runs; 0 when it is too little to matter."""
    runs = [run.others for result in results for run in result.runs]
    mean = sum(runs) / len(runs) if runs else 0.0
    return mean if mean > QUIET else 0.0


def _met(true: bool) -> str:
    return "met" if true else "MISSED"


def save(folder: Path, about: Mapping[str, object], results: Sequence[Result]) -> Path:
    """Write everything as JSON, one file for each run; the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{str(about['time']).replace(':', '')}.json"
    whole = {**about, "goals": goals(results), "results": [result.as_json() for result in results]}
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return path
