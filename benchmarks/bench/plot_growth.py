"""The pictures of growth: what threads and processes bring, and what connections, headers and bytes cost.

Measured points have bars from the worst round to the best; the fit that the run made, and wrote into its JSON, is drawn
as a line through them, and a knee as a dotted upright one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .growth_fit import Line, Usl
from .plot_style import BLUE, GREEN, GREY, ORANGE, bars, from_zero, logarithmic, middle, powers

WORKERS = ("threads", "processes", "busy threads", "busy processes")
SEEN: dict[str, Any] = {"color": BLUE, "marker": "o", "linestyle": "none"}
STEPS = 200  # of a drawn curve


def workers(pyplot: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    """Throughput by threads and processes, with the Universal Scalability Law; None when nothing was measured."""
    found = _measured(results, lambda name: name in WORKERS)
    if not found:
        return None
    figure, all_axes = _grid(pyplot, len(found), 2)
    for series, axes in zip(found, all_axes, strict=False):
        points = [(step["n"], middle(step["rounds"], "rate")) for step in series["steps"] if step["rounds"]]
        cpus = len(series["server_cpus"])
        bars(axes, points, 1e-3, label="measured", **SEEN)
        counts = [n for n, _ in points]
        if series["usl"]:
            law = Usl(**series["usl"])
            curve = _between(counts)
            name = f"λ {law.rate:,.0f}/s, σ {law.contention:.3f}, κ {law.coherence:.2g}"
            axes.plot(curve, [law.at(n) / 1000 for n in curve], color=ORANGE, linestyle="--", label=name)
        if 1 in counts and cpus > 1:
            ideal = [n for n in counts if n <= cpus]
            one = points[counts.index(1)][1][0] / 1000
            axes.plot(ideal, [n * one for n in ideal], color=GREY, linestyle=":", label="n × that of one")
        axes.set_title(f"{series['title']}\n{_where(series)}")
        axes.set_xlabel(f"{series['series']} (log)")
        axes.set_ylabel("thousand requests/s")
        from_zero(axes)
        powers(axes, counts, 2)
        axes.legend(loc="lower right")
    return figure


def requests(pyplot: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    """CPU time of a request by what is asked of it, with the fitted line and the knee."""
    found = _measured(results, lambda name: name not in WORKERS)
    if not found:
        return None
    figure, all_axes = _grid(pyplot, len(found), 3)
    for series, axes in zip(found, all_axes, strict=False):
        points = [(step["n"], middle(step["rounds"], "cpu_us")) for step in series["steps"] if step["rounds"]]
        counts = [n for n, _ in points]
        bars(axes, points, label="measured", **SEEN)
        if series["cost"]:
            fit = Line(**series["cost"])
            curve = _between(counts)
            each = "1,000 bytes" if series["unit"] == "byte" else series["unit"]
            slope = fit.b * (1000 if series["unit"] == "byte" else 1)
            name = f"{fit.a:.1f} {'+' if slope >= 0 else '−'} {abs(slope):.3g} µs per {each}"
            axes.plot(curve, [fit.at(n) for n in curve], color=ORANGE, linestyle="--", label=name)
        if series["knee"]:
            axes.axvline(series["knee"]["n"], color=GREEN, linestyle=":", label="knee")
        axes.set_title(f"{series['series']}\n{_where(series)}")
        axes.set_xlabel(f"{series['unit']}s" + ("" if series["unit"] == "header" else " (log)"))
        axes.set_ylabel("CPU µs/request")
        if series["unit"] == "byte":
            logarithmic(axes)
        else:
            from_zero(axes)
        if series["unit"] != "header":
            powers(axes, counts, 10 if series["unit"] == "byte" else 2)
        axes.legend(loc="best")
    return figure


def _measured(results: Sequence[Mapping[str, Any]], wanted: Any) -> list[Mapping[str, Any]]:
    return [
        series
        for series in results
        if wanted(series["series"]) and any(step["rounds"] for step in series["steps"])
    ]


def _grid(pyplot: Any, count: int, columns: int) -> tuple[Any, list[Any]]:
    """A figure with so many axes; what is left over is empty."""
    rows = -(-count // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 3.3 * rows), squeeze=False)
    all_axes = [axes for row in grid for axes in row]
    for axes in all_axes[count:]:
        axes.set_visible(False)
    return figure, all_axes


def _where(series: Mapping[str, Any]) -> str:
    server, load = (",".join(map(str, series[key])) for key in ("server_cpus", "load_cpus"))
    return f"server on CPUs {server}, load on CPUs {load}" if server != load else f"both on CPUs {server}"


def _between(counts: Sequence[float]) -> list[float]:
    """Points from the least n to the largest, as close as a logarithmic axis needs them."""
    least, most = min(counts), max(counts)
    start = max(least, 1)
    curve = [start * (most / start) ** (step / STEPS) for step in range(STEPS + 1)]
    return [least, *curve] if least < start else curve
