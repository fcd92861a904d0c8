"""The pictures that have several servers: throughput against connections, and latency against the offered load."""

from collections.abc import Mapping, Sequence
from typing import Any

from .plot_style import bars, from_zero, label, logarithmic, looks, middle, powers

QUANTILES = (("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9"))


def connections(pyplot: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    """Requests a second by the number of active connections, and the p99 below it; None when nothing was measured."""
    measured = [entry for entry in results if entry["rounds"]]
    if not measured:
        return None
    figure, (rates, times) = pyplot.subplots(2, 1, figsize=(6.4, 6.2), sharex=True)
    counts = sorted({one["connections"] for entry in measured for one in entry["rounds"]})
    for entry in measured:
        rounds = {
            count: found
            for count in counts
            if (found := [one for one in entry["rounds"] if one["connections"] == count])
        }
        look = looks(entry["kind"])
        points = [(count, middle(found, "rate")) for count, found in rounds.items()]
        bars(rates, points, 1e-3, label=label(entry), **look)
        bars(times, [(count, middle(found, "p99_us")) for count, found in rounds.items()], 1e-3, **look)
    rates.set_title('"Hello, World!", closed loop, all connections active; bars: all rounds')
    rates.set_ylabel("thousand requests/s")
    from_zero(rates)
    rates.legend()
    times.set_ylabel("p99 latency, ms (log)")
    logarithmic(times)
    times.set_xlabel("keep-alive connections (log)")
    powers(times, counts, 2)
    return figure


def latency(pyplot: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    """p50, p99 and p99.9 against the load: in shares of each server's own rate above, at the same rates below."""
    measured = [entry for entry in results if entry["rounds"]]
    if not measured:
        return None
    figure, rows = pyplot.subplots(2, 3, figsize=(9.6, 6.0), sharey=True)
    for entry in measured:
        look = looks(entry["kind"])
        own = [one for one in entry["rounds"] if "own" in one["of"]]
        common = [one for one in entry["rounds"] if "common" in one["of"]]
        for column, (figure_name, _) in enumerate(QUANTILES):
            for axes, found, x, scale in (
                (rows[0][column], own, "share", 100),
                (rows[1][column], common, "offered", 1e-3),
            ):
                bars(axes, _by_share(found, x, figure_name, scale), 1e-3, label=label(entry), **look)
    for row, what in zip(
        rows, ("load, % of each server's own rate", "load, thousand requests/s"), strict=True
    ):
        row[0].set_ylabel("latency, ms (log)")
        for axes, (_, name) in zip(row, QUANTILES, strict=True):
            axes.set_title(name)
            logarithmic(axes)
            axes.set_xlabel(what)
            axes.set_xlim(left=0)
    handles, labels = rows[0][0].get_legend_handles_labels()
    title = '"Hello, World!", open loop: times count from when a request was due'
    figure.legend(handles, labels, loc="outside upper center", title=title)
    return figure


def _by_share(
    rounds: Sequence[Mapping[str, Any]], x: str, figure: str, scale: float
) -> list[tuple[float, tuple[float, float, float]]]:
    """A point for each share of a rate, with the rounds in it."""
    points = []
    for share in sorted({one["share"] for one in rounds}):
        found = [one for one in rounds if one["share"] == share]
        points.append((found[0][x] * scale, middle(found, figure)))
    return points
