"""The section `latency`: p50, p99 and p99.9 against the offered load, in an open loop.

Requests come at a fixed rate, whether a server keeps up or not, and their latency counts from when they were due
(rate_load.c). First each server's own rate is found in a closed loop; then it is offered shares of that, which shows
what its tail is like at its own limits, and the same shares of the slowest server's rate, which shows what a client
sees of each at the same load. Beyond its rate a server has a queue that grows for as long as the run lasts, so
at 100 % the times say that it grows and little else. One thread calls all of this.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median

from . import goals, growth_peers, machine, rate_load, sections
from .growth_peers import CONNECTIONS
from .measure import progress
from .report import Section, Verdict
from .servers import Running
from .trials import Figures, Trial, attempt, right

TIMES = ("p50_us", "p99_us", "p999_us", "max_us")
SHARES = (0.10, 0.25, 0.50, 0.75, 0.90, 1.00)
OWN, COMMON, BOTH = "its own rate", "the common rate", "its own rate, which is the common one"
JUDGED = 0.75  # of the common rate: busy, and none of the servers at its limit
LATE = 0.1  # of a p99: from there on the load's own lateness is told


def measure(settings: sections.Settings) -> Section:
    """The table; `quick`: one round and not three."""
    rounds, seconds = (1 if settings.quick else 3), 1.0
    cores = growth_peers.cores()
    asked = rate_load.exchange(settings.folder, "hello", rate_load.get())
    with growth_peers.started(frozenset(settings.only), settings.folder) as (trials, servers, lines):
        capacity = _capacities(asked, servers, cores)
        for number in range(1, rounds + 1):
            for trial, of, share, rate in _offers(capacity):
                with attempt(trial, servers[trial]):
                    progress(f"latency: round {number} of {rounds}: {share:.0%} of {of}: {trial}")
                    found = rate_load.run(asked, servers[trial], cores.load, CONNECTIONS, seconds, rate)
                    trial.rounds.append({**found, "of": of, "share": share})
    progress("")
    heading = (
        f'"Hello, World!", ASGI, open loop: requests at a fixed rate over {CONNECTIONS} connections, '
        f"{rounds} × {seconds:g} s for each load, times from when a request was due; {cores}."
    )
    lines += _lines(trials, capacity)
    raw = [{"capacity": capacity.get(trial), **trial.as_json()} for trial in trials]
    return Section("latency", heading, _table(trials), lines, raw, right(trials), _verdicts(trials))


def _capacities(
    asked: rate_load.Exchange, servers: Mapping[Trial, Running], cores: machine.Cores
) -> dict[Trial, float]:
    """The rate of each in a closed loop: the median of three seconds, taken in turn after a short warm-up."""
    rates: dict[Trial, list[float]] = {trial: [] for trial in servers}
    for number in range(4):
        for trial, server in servers.items():
            if trial.problem:
                continue
            with attempt(trial, server):
                found = rate_load.run(asked, server, cores.load, CONNECTIONS, 1.0 if number else 0.3)
                rates[trial] += [found["rate"]] if number else []
    return {trial: median(seen) for trial, seen in rates.items() if seen and not trial.problem}


def _offers(capacity: Mapping[Trial, float]) -> Iterator[tuple[Trial, str, float, float]]:
    """(server, of what, the share of it, requests a second): load after load, all servers in turn."""
    common = min(capacity.values(), default=0.0)
    for share in SHARES:
        for trial, own in capacity.items():
            if trial.problem:
                continue
            if own <= common:
                yield trial, BOTH, share, share * own
                continue
            yield trial, OWN, share, share * own
            yield trial, COMMON, share, share * common


def _points(trial: Trial) -> list[Figures]:
    """One for each load: the medians of its rounds, and the sums of what went wrong."""
    loads = sorted({(one["of"] == COMMON, one["share"]) for one in trial.rounds})
    points: list[Figures] = []
    for common, share in loads:
        rounds = [one for one in trial.rounds if (one["of"] == COMMON, one["share"]) == (common, share)]
        medians = {
            figure: median(one[figure] for one in rounds)
            for figure in ("offered", "rate", "cpu_us", *TIMES, "late_p99_us")
        }
        sums = {figure: sum(one[figure] for one in rounds) for figure in ("unanswered", "errors")}
        points.append({"of": rounds[0]["of"], "share": share, **medians, **sums})
    return points


def _table(trials: Sequence[Trial]) -> str:
    times = "p50 ms | p99 ms | p99.9 ms | max ms"
    lines = [
        f"| server | Python | load | offered/s | answered/s | CPU µs | {times} | unanswered | errors | late ms |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for trial in trials:
        who = f"| {trial.name} | {trial.python}"
        if not trial.rounds:
            lines.append(f"{who} | not measured: {trial.problem} {'| ' * 10}|")
        for one in _points(trial):
            told = " | ".join(f"{one[figure] / 1000:.2f}" for figure in TIMES)
            counts = f"{one['unanswered']} | {one['errors']} | {one['late_p99_us'] / 1000:.2f}"
            rates = f"{one['offered']:,.0f} | {one['rate']:,.0f} | {one['cpu_us']:.1f}"
            lines.append(f"{who} | {one['share']:.0%} of {one['of']} | {rates} | {told} | {counts} |")
    return "\n".join(lines)


def _at(trial: Trial, share: float) -> Figures | None:
    """What it showed at that share of the common rate."""
    return next((one for one in _points(trial) if one["of"] != OWN and one["share"] == share), None)


def _lines(trials: Sequence[Trial], capacity: Mapping[Trial, float]) -> list[str]:
    rates = "; ".join(f"{trial} {rate:,.0f}/s" for trial, rate in capacity.items())
    lines = [f"Their own rates (closed loop, median of three seconds): {rates}; the common one is the lowest"]
    for share in (0.5, JUDGED, 0.9):
        told = "; ".join(
            f"{trial.kind} {one['p50_us'] / 1000:.2f}, {one['p99_us'] / 1000:.2f}, {one['p999_us'] / 1000:.2f}"
            for trial in trials
            if (one := _at(trial, share)) is not None
        )
        lines.append(f"p50, p99 and p99.9 in ms at {share:.0%} of the common rate: {told}")
    rounds = [one for trial in trials for one in trial.rounds]
    late = [one for one in rounds if one["late_p99_us"] > LATE * one["p99_us"]]
    if late:
        most = max(one["late_p99_us"] for one in late) / 1000
        lines.append(
            f"In {len(late)} of {len(rounds)} runs the load itself was late by more than {LATE:.0%} of the p99 that it "
            f"saw (`late ms` is the p99 of that; up to {most:.2f}): it is in the times"
        )
    if rounds and (others := mean(one["others"] for one in rounds)) > goals.QUIET:
        lines.append(f"Disturbed: other programs kept {others:.1f} CPUs busy; repeat this on a quiet machine")
    lines += [f"{trial}: left out: {trial.problem}" for trial in trials if trial.rounds and trial.problem]
    return lines


def _verdicts(trials: Sequence[Trial]) -> list[Verdict]:
    """serverd's p99 beside the best peer's at the same load; there is no goal."""
    aim = f"p99 at {JUDGED:.0%} of the common rate, beside the best peer's (no goal)"
    seen = {trial: one["p99_us"] for trial in trials if (one := _at(trial, JUDGED)) is not None}
    ours = [p99 for trial, p99 in seen.items() if trial.kind == "serverd"]
    peers = {trial: p99 for trial, p99 in seen.items() if trial.kind != "serverd"}
    if not ours or not peers:
        return [Verdict("latency", aim, None, "not measured", None)]
    best = min(peers, key=lambda trial: peers[trial])
    ratio = ours[0] / peers[best]
    return [Verdict("latency", aim, ratio, f"{ratio:.2f} × {best}", None)]
