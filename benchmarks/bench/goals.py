"""What is aimed for, and what came of it: one line for each goal of a scenario, `not measured` where it was not.

A goal is a function of the best result of each kind of contestant, whatever Python it ran on. Servers are
compared round by round (`paired`), which on a busy machine says more than the spreads. Pure functions.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from .report import Result

# By kind (`uvicorn`) the best on any Python; by kind and Python (`uvicorn 3.14.7t`) the best on that one.
type Best = Mapping[str, Result]
type Goal = Callable[[Best], str]

QUIET = 0.1  # CPUs that others may keep busy before the figures are called disturbed
SATURATED = 0.9  # of the CPU time of the load, from where on it may be what is measured


def judge(goals: Sequence[Goal], results: Sequence[Result]) -> list[str]:
    """The lines below a table: the goals, and what casts doubt on the figures."""
    best: dict[str, Result] = {}
    for result in results:
        for key in (result.kind, f"{result.kind} {result.python}"):
            if result.runs and (key not in best or result.rate > best[key].rate):
                best[key] = result
    lines = [goal(best) for goal in goals]
    for result in results:
        if result.runs and result.problem:
            lines.append(
                f"{result.name} on {result.python}: left out after {len(result.runs)} rounds: {result.problem}"
            )
        elif result.runs and (share := median(run.load_share for run in result.runs)) > SATURATED:
            lines.append(
                f"{result.name} on {result.python}: the load was busy {share:.0%} of the time, and may be the limit"
            )
    if others := disturbance(results):
        lines.append(f"Disturbed: other programs kept {others:.1f} CPUs busy; repeat this on a quiet machine")
    if errors := sum(result.errors for result in results):
        lines.append(f"Errors: {errors} (see the table): these figures are not to be trusted")
    return lines


def throughput(peer: str, at_least: float | None = None) -> Goal:
    """serverd's rate by that of `peer`, and the same of CPU time; with no goal the ratio is only told."""

    def goal(best: Best) -> str:
        ours, theirs = best.get("serverd"), best.get(peer)
        if not ours or not theirs:
            return f"Throughput: serverd / {peer}: not measured"
        rate, cpu = (paired(ours, theirs, name) for name in ("rate", "cpu_us"))
        aim = f" (goal: at least {at_least}): {_met(rate >= at_least)}" if at_least else ""
        text = f"Throughput: serverd / {peer} = {rate:.2f}{aim}; CPU for each: {cpu:.2f} of {peer}'s"
        same = best.get(f"{peer} {ours.python}")
        if same and same is not theirs:
            rate, cpu = (paired(ours, same, name) for name in ("rate", "cpu_us"))
            text += f". On Python {ours.python} both: {rate:.2f} and {cpu:.2f}"
        return text

    return goal


def cpu(at_most: float) -> Goal:
    """CPU microseconds that serverd takes for a request."""

    def goal(best: Best) -> str:
        if not (ours := best.get("serverd")):
            return "CPU: serverd: not measured"
        verdict = _met(ours.cpu_us <= at_most)
        return f"CPU: serverd = {ours.cpu_us:.1f} µs a request (goal: at most {at_most:g}): {verdict}"

    return goal


def access_log(under: float) -> Goal:
    """Percent of serverd's throughput that its access log costs."""

    def goal(best: Best) -> str:
        if not (ours := best.get("serverd")) or not (logged := best.get("serverd-log")):
            return "Access log: not measured"
        cost = (1 - paired(logged, ours, "rate")) * 100
        return f"Access log: costs {cost:.1f} % of throughput (goal: under {under:g}): {_met(cost < under)}"

    return goal


def beside_the_limit() -> Goal:
    """How much more CPU time serverd takes than a bare recv and send; no goal."""

    def goal(best: Best) -> str:
        if not (ours := best.get("serverd")) or not (limit := best.get("raw")):
            return "Beside the limit: not measured"
        times = paired(ours, limit, "cpu_us")
        return f"Beside the limit: serverd takes {times:.1f} times the CPU of a bare recv and send"

    return goal


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
