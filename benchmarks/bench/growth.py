"""The section `growth`: how serverd's throughput, CPU time and latency go with what is asked of it, and the knees.

Every series of growth_series.py is measured in rounds, all its steps in turn in each, after a short warm-up; a figure
is the median round. Then come the fits (growth_fit.py): CPU time of a request as a line in n, the throughput of
threads and processes by the Universal Scalability Law, and the n where a step begins to cost twice as much, or
from which on more of it gives nothing. One thread calls all of this.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from statistics import mean

from . import goals, growth_fit, growth_series, load, rate_load, sections, servers
from .growth_series import Series, Step
from .measure import progress
from .report import Result, Section
from .trials import Figures, Trial, attempt

WARM_SECONDS = 0.3


def measure(settings: sections.Settings) -> Section:
    """All series; none of them when serverd is not among `only`."""
    if settings.only and "serverd" not in settings.only:
        return Section("growth", "Not measured: serverd is not among --only.", "", (), (), right=True)
    rounds, seconds = (1, 1.0) if settings.quick else (3, 1.0)
    tables, lines, raw, right = [], [], [], True
    for series in growth_series.every(settings.folder):
        measured = _measure(series, settings, rounds, seconds)
        tables.append(_table(series, measured))
        found = _lines(series, measured)
        lines += [f"`{series.name}`: {line}" for line in found]
        raw.append(_raw(series, measured))
        right = right and all(
            trial.rounds and not trial.problem and not trial.total("errors") for trial in measured
        )
    progress("")
    heading = (
        f"serverd at its ordinary settings, one of them growing; closed loop, {rounds} × {seconds:g} s, "
        "the steps of a series in turn. ± is half of what lies between the best and the worst round."
    )
    return Section("growth", heading, "\n\n".join(tables), lines, raw, right)


def _measure(series: Series, settings: sections.Settings, rounds: int, seconds: float) -> list[Trial]:
    """A trial for each step. Steps of one row are steps of one server."""
    trials = [Trial(step.row, str(step.n)) for step in series.steps]
    running: dict[str, servers.Running] = {}
    with ExitStack() as stack:
        for trial in trials:
            if isinstance(trial.row, Result) or trial.name in running:
                continue
            progress(f"growth: {series.name}: starting {trial.name}")
            with attempt(trial):
                server = servers.Running(trial.row, series.cores.server, settings.folder)
                running[trial.name] = stack.enter_context(server)
        for number in range(rounds + 1):
            for step, trial in zip(series.steps, trials, strict=True):
                if trial.problem or trial.name not in running:
                    trial.problem = trial.problem or "its server did not start"
                    continue
                server = running[trial.name]
                with attempt(trial, server):
                    figures = _ask(series, step, server, seconds if number else WARM_SECONDS)
                    progress(f"growth: {series.name} {step.n}: {figures['rate']:,.0f}/s")
                    if number:
                        trial.rounds.append(figures)
    return trials


def _ask(series: Series, step: Step, server: servers.Running, seconds: float) -> Figures:
    if isinstance(step.asked, load.Load):
        whole = max(1, round(seconds))  # wrk knows no less
        cpus, connections = series.cores.load, step.connections
        return load.run(step.asked, server.port, server.pid, cpus, connections, whole).as_json()
    rate_load.check(step.asked, server.port)
    return rate_load.run(step.asked, server, series.cores.load, step.connections, seconds)


def _table(series: Series, trials: Sequence[Trial]) -> str:
    head = [
        f"### {series.name}",
        "",
        f"{series.title}; {series.cores}.",
        "",
        f"| {series.units} | requests/s | CPU µs/request | p50 ms | p99 ms | p99.9 ms | errors |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for step, trial in zip(series.steps, trials, strict=True):
        if not trial.rounds:
            head.append(f"| {step.n:,} | not measured: {trial.problem} | | | | | |")
            continue
        times = " | ".join(f"{trial.median(key) / 1000:.2f}" for key in ("p50_us", "p99_us", "p999_us"))
        cpu = f"{trial.median('cpu_us'):,.1f} ± {trial.spread('cpu_us'):.0f} %"
        rate = f"{trial.median('rate'):,.0f} ± {trial.spread('rate'):.0f} %"
        head.append(f"| {step.n:,} | {rate} | {cpu} | {times} | {trial.total('errors')} |")
    return "\n".join(head)


def _seen(trials: Sequence[Trial], figure: str) -> list[tuple[float, float]]:
    """(n, median) of the steps that were measured; what is not above 0 is no figure (CPU time in ticks of 10 ms)."""
    points = [(float(trial.key), trial.median(figure)) for trial in trials if trial.rounds]
    return [(n, value) for n, value in points if value > 0]


def _noise(trials: Sequence[Trial]) -> list[float]:
    """Half the distance between the rounds of each step, in µs of CPU."""
    return [
        trial.spread("cpu_us") / 100 * trial.median("cpu_us")
        for trial in trials
        if trial.rounds and trial.median("cpu_us") > 0
    ]


def _lines(series: Series, trials: Sequence[Trial]) -> list[str]:
    """The fits in words, and what casts doubt on them."""
    rates, costs = _seen(trials, "rate"), _seen(trials, "cpu_us")
    lines: list[str] = []
    if (fit := growth_fit.line(costs)) is not None:
        step, unit = (1000, "1,000 bytes") if series.unit == "byte" else (1, series.unit)
        lines.append(
            f"CPU µs a request = {fit.a:.1f} {'+' if fit.b >= 0 else '−'} {abs(fit.b) * step:.3g} for each {unit} "
            f"({_quality(fit.r2, fit.freedom)})"
        )
    if series.scales:
        lines += _scaling(series, rates)
    if rates and series.by_throughput:
        first, last = growth_fit.peak(rates)
        beyond = f", and no longer beyond {last:,.0f}" if last < max(n for n, _ in rates) else ""
        lines.append(f"{growth_fit.PEAK:.0%} of the best throughput is reached with {first:,.0f}{beyond}")
    elif (found := growth_fit.knee(costs, _noise(trials))) is not None:
        lines.append(
            f"knee at {found.n:,.0f}: from there each {series.unit} costs {found.after:.3g} µs, "
            f"before {found.before:.3g}"
        )
    elif costs:
        lines.append("no knee: no step costs twice what it cost before, beyond the noise")
    return [*lines, *_doubts(trials)]


def _scaling(series: Series, rates: Sequence[tuple[float, float]]) -> list[str]:
    """The Universal Scalability Law, for n up to the CPUs where they are enough of them, and for all n."""
    cpus = len(series.cores.server)
    within = [(n, rate) for n, rate in rates if n <= cpus]
    lines: list[str] = []
    if len(within) > 1 and within[0][0] == 1:
        n, rate = within[-1]
        share = rate / (n * within[0][1])
        lines.append(
            f"{n:.0f} give {rate / within[0][1]:.2f} × the throughput of one ({share:.0%} of {n:.0f} ×)"
        )
    for points, what in (
        (within, f"up to the {cpus} {'CPU' if cpus == 1 else 'CPUs'}"),
        (rates, "all n, also beyond the CPUs"),
    ):
        if len(points) < 3 and points is within:
            lines.append(
                f"Universal Scalability Law {what}: not fitted, {len(points)} n for its 3 parameters; a machine "
                "with more CPUs is needed"
            )
        elif (law := growth_fit.usl(points)) is not None:
            top = "none" if law.peak == float("inf") else f"at {law.peak:.1f}"
            lines.append(
                f"Universal Scalability Law, {what}: λ = {law.rate:,.0f}/s, σ = {law.contention:.4f}, "
                f"κ = {law.coherence:.2g}, peak {top} ({_quality(law.r2, law.freedom)})"
                + ("; σ has the wait for the CPUs in it" if points is rates and rates[-1][0] > cpus else "")
            )
    return lines


def _quality(r2: float | None, freedom: int) -> str:
    told = "R² says nothing here" if r2 is None else f"R² {r2:.3f}"
    return f"{told}, {freedom} {'degree' if freedom == 1 else 'degrees'} of freedom"


def _doubts(trials: Sequence[Trial]) -> list[str]:
    lines: list[str] = []
    rounds = [one for trial in trials for one in trial.rounds]
    full = [trial.key for trial in trials if trial.rounds and trial.median("load_share") > goals.SATURATED]
    if full:
        lines.append(f"the load was busy nearly all of the time, and may be the limit, at {', '.join(full)}")
    if rounds and (others := mean(one["others"] for one in rounds)) > goals.QUIET:
        lines.append(f"disturbed: other programs kept {others:.1f} CPUs busy; repeat this on a quiet machine")
    if errors := sum(one["errors"] for one in rounds):
        lines.append(f"errors: {errors}; these figures are not to be trusted")
    lines += [
        f"{trial.key}: left out after {len(trial.rounds)} rounds: {trial.problem}"
        for trial in trials
        if trial.rounds and trial.problem
    ]
    return lines


def _raw(series: Series, trials: Sequence[Trial]) -> dict[str, object]:
    """For the JSON, and for the plots, which are made from it alone."""
    rates, costs = _seen(trials, "rate"), _seen(trials, "cpu_us")
    cost, law = growth_fit.line(costs), growth_fit.usl(rates) if series.scales else None
    knee = None if series.by_throughput else growth_fit.knee(costs, _noise(trials))
    return {
        "series": series.name,
        "title": series.title,
        "unit": series.unit,
        "server_cpus": sorted(series.cores.server),
        "load_cpus": sorted(series.cores.load),
        "cost": cost and asdict(cost),
        "usl": law and asdict(law),
        "knee": knee and asdict(knee),
        "steps": [
            {"n": step.n, "connections": step.connections, **trial.as_json()}
            for step, trial in zip(series.steps, trials, strict=True)
        ],
    }
