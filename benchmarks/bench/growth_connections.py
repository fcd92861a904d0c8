"""The section `connections`: throughput and latency with few and with many keep-alive connections, all of them active.

A closed loop: each connection sends its next request when it has its answer, so more connections are more requests
that wait at the same time. All are opened before the clock starts. serverd and the better mode of two peers, every
number of connections in turn, round after round. One thread calls all of this.
"""

from collections.abc import Sequence
from statistics import mean

from . import goals, growth_fit, growth_peers, rate_load, sections
from .measure import progress
from .report import Section, Verdict
from .trials import Figures, Trial, attempt, right

OPEN = (1, 8, 64, 256, 1024)


def measure(settings: sections.Settings) -> Section:
    """The table; `quick`: one round of half a second each."""
    rounds, seconds = (1, 0.5) if settings.quick else (3, 1.0)
    cores = growth_peers.cores()
    asked = rate_load.exchange(settings.folder, "hello", rate_load.get())
    with growth_peers.started(frozenset(settings.only), settings.folder) as (trials, servers, lines):
        for number in range(rounds + 1):
            for connections in OPEN:
                for trial, server in servers.items():
                    if trial.problem:
                        continue
                    with attempt(trial, server):
                        warm = seconds if number else 0.2
                        found = rate_load.run(asked, server, cores.load, connections, warm)
                        progress(f"connections: {connections}: {trial}: {found['rate']:,.0f}/s")
                        if number:
                            trial.rounds.append({**found, "connections": connections})
    progress("")
    heading = f'"Hello, World!", ASGI, closed loop, all connections active; {rounds} × {seconds:g} s, in turn; {cores}.'
    lines += [line for trial in trials if trial.rounds for line in _told(trial)]
    rounds_of_all = [one for trial in trials for one in trial.rounds]
    if rounds_of_all and (others := mean(one["others"] for one in rounds_of_all)) > goals.QUIET:
        lines.append(f"Disturbed: other programs kept {others:.1f} CPUs busy; repeat this on a quiet machine")
    return Section(
        "connections",
        heading,
        _table(trials),
        lines,
        [trial.as_json() for trial in trials],
        right(trials),
        _verdicts(trials),
    )


def _rounds(trial: Trial, connections: int) -> list[Figures]:
    return [one for one in trial.rounds if one["connections"] == connections]


def _median(trial: Trial, connections: int, figure: str) -> float:
    values = sorted(one[figure] for one in _rounds(trial, connections))
    return float(values[len(values) // 2])


def _table(trials: Sequence[Trial]) -> str:
    lines = [
        "| server | Python | connections | requests/s | CPU µs/request | p50 ms | p99 ms | p99.9 ms | errors |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for trial in trials:
        if not trial.rounds:
            lines.append(f"| {trial.name} | {trial.python} | not measured: {trial.problem} | | | | | | |")
        for connections in OPEN if trial.rounds else ():
            if not (rounds := _rounds(trial, connections)):
                continue
            rate, cpu = (_median(trial, connections, figure) for figure in ("rate", "cpu_us"))
            times = " | ".join(
                f"{_median(trial, connections, figure) / 1000:.2f}"
                for figure in ("p50_us", "p99_us", "p999_us")
            )
            errors = sum(one["errors"] for one in rounds)
            lines.append(
                f"| {trial.name} | {trial.python} | {connections:,} | {rate:,.0f} | {cpu:.1f} | {times} | {errors} |"
            )
    return "\n".join(lines)


def _told(trial: Trial) -> list[str]:
    points = [
        (float(connections), _median(trial, connections, "rate"))
        for connections in OPEN
        if _rounds(trial, connections)
    ]
    first, last = growth_fit.peak(points)
    beyond = f", and no longer beyond {last:,.0f}" if last < points[-1][0] else ""
    best = f"{growth_fit.PEAK:.0%} of its best throughput is reached with {first:,.0f} connections{beyond}"
    return [f"{trial}: {best}", *([f"{trial}: left out: {trial.problem}"] if trial.problem else [])]


def _verdicts(trials: Sequence[Trial]) -> list[Verdict]:
    """serverd beside the best peer with the most connections; there is no goal."""
    most = OPEN[-1]
    measured = [trial for trial in trials if _rounds(trial, most)]
    ours = [trial for trial in measured if trial.kind == "serverd"]
    peers = [trial for trial in measured if trial.kind != "serverd"]
    aim = f"{most:,} active connections, beside the best peer (no goal)"
    if not ours or not peers:
        return [Verdict("connections", aim, None, "not measured", None)]
    best = max(peers, key=lambda trial: _median(trial, most, "rate"))
    ratio = _median(ours[0], most, "rate") / _median(best, most, "rate")
    return [Verdict("connections", aim, ratio, f"{ratio:.2f} × {best}", None)]
