"""What is aimed for, and what came of it: a verdict for each goal of a scenario, measured or not.

A goal is a function of the best result of each kind of contestant, whatever Python it ran on. Servers are
compared round by round (`paired`), which on a busy machine says more than the spreads. Pure functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from .contestants import PEERS
from .report import Result, Verdict

type Best = Mapping[str, Result]  # by kind (`uvicorn`) the best on any Python
type Goal = Callable[[Best], Verdict]

QUIET = 0.1  # CPUs that others may keep busy before the figures are called disturbed
SATURATED = 0.9  # of the CPU time of the load, from where on it may be what is measured
STARVING = 0.5  # of the connections, under which a server leaves clients without an answer


def judge(scenario: str, goals: Sequence[Goal], results: Sequence[Result]) -> tuple[list[str], list[Verdict]]:
    """The lines below a table: the goals, and what casts doubt on the figures; and the verdicts."""
    best: dict[str, Result] = {}
    for result in results:
        if result.runs and (result.kind not in best or result.rate > best[result.kind].rate):
            best[result.kind] = result
    verdicts = [replace(goal(best), scenario=scenario) for goal in goals]
    return [_line(verdict) for verdict in verdicts] + _doubts(results), verdicts


def best_peer(at_least: float | None = None) -> Goal:
    """serverd's rate by that of the fastest peer, and the same of CPU time; with no goal the ratio is only told."""

    def goal(best: Best) -> Verdict:
        peers = [best[kind] for kind in PEERS if kind in best]
        theirs = max(peers, key=lambda result: result.rate, default=None)
        return _beside(best.get("serverd"), theirs, "the best peer", at_least)

    return goal


def throughput(peer: str, at_least: float | None = None, *, name: str | None = None) -> Goal:
    """The same beside one kind of peer, called `name` in the goal."""

    def goal(best: Best) -> Verdict:
        return _beside(best.get("serverd"), best.get(peer), name or peer, at_least)

    return goal


def access_log(at_least: float) -> Goal:
    """What is left of serverd's throughput with its access log."""

    def goal(best: Best) -> Verdict:
        aim = f"access log on: at least {at_least:g} of the rate without"
        ours, logged = best.get("serverd"), best.get("serverd-log")
        if not ours or not logged:
            return Verdict("", aim, None, "not measured", None)
        share = paired(logged, ours, "rate")
        text = f"{share:.2f}; CPU for each: {paired(logged, ours, 'cpu_us'):.2f} times as much"
        return Verdict("", aim, share, text, share >= at_least)

    return goal


def beside_the_limit(at_most: float | None = None) -> Goal:
    """How much more CPU time serverd takes than a bare recv and send."""

    def goal(best: Best) -> Verdict:
        aim = f"at most {at_most:g} × the raw limit's CPU" if at_most else "CPU beside the raw limit's"
        ours, limit = best.get("serverd"), best.get("raw")
        if not ours or not limit:
            return Verdict("", aim, None, "not measured", None)
        times = paired(ours, limit, "cpu_us")
        text = f"{times:.2f} × ({ours.cpu_us:.1f} and {limit.cpu_us:.1f} µs)"
        return Verdict("", aim, times, text, times <= at_most if at_most else None)

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


def _beside(ours: Result | None, theirs: Result | None, name: str, at_least: float | None) -> Verdict:
    aim = f"at least {at_least:g} × {name}" if at_least else f"beside {name} (no goal)"
    if not ours or not theirs:
        return Verdict("", aim, None, "not measured", None)
    rate, cpu = (paired(ours, theirs, field) for field in ("rate", "cpu_us"))
    text = f"{rate:.2f} × {theirs.name} on {theirs.python}; CPU for each: {cpu:.2f} of its"
    return Verdict("", aim, rate, text, rate >= at_least if at_least else None)


def _line(verdict: Verdict) -> str:
    met = {True: ": met", False: ": **missed**", None: ""}[verdict.met]
    return f"{verdict.aim[0].upper()}{verdict.aim[1:]}: {verdict.text}{met}"


def _doubts(results: Sequence[Result]) -> list[str]:
    """What casts doubt on the figures."""
    lines = []
    for result in results:
        if result.runs and result.problem:
            lines.append(
                f"{result.name} on {result.python}: left out after {len(result.runs)} rounds: {result.problem}"
            )
        elif result.runs and (share := median(run.load_share for run in result.runs)) > SATURATED:
            lines.append(
                f"{result.name} on {result.python}: the load was busy {share:.0%} of the time, and may be the limit"
            )
        if result.errors:
            lines.append(
                f"{result.name} on {result.python}: {result.errors} errors: its figures are not to be trusted"
            )
        if result.runs and (served := result.served) is not None and served < STARVING:
            lines.append(
                f"{result.name} on {result.python}: served {served:.0%} of the connections at a time, "
                "the others had to wait"
            )
    if others := disturbance(results):
        lines.append(f"Disturbed: other programs kept {others:.1f} CPUs busy; repeat this on a quiet machine")
    return lines
