"""How the pictures look, and what all of them do: colours, markers, numbers on axes. No picture is made here."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

# M. Okabe and K. Ito, Color Universal Design (2008).
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#666666"
LOOKS: dict[str, dict[str, Any]] = {
    "serverd": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "uvicorn": {"color": ORANGE, "marker": "s", "linestyle": "--"},
    "granian": {"color": GREEN, "marker": "^", "linestyle": "-."},
}
OTHER = {"color": PURPLE, "marker": "D", "linestyle": ":"}
STYLE: dict[str, Any] = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.size": 9,
    "axes.grid": True,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.hashsalt": "serverd",
}


def looks(kind: str) -> dict[str, Any]:
    """Of the line of a server."""
    return LOOKS.get(kind, OTHER)


def label(entry: Mapping[str, Any]) -> str:
    """A server in a legend."""
    return f"{entry['name']}, Python {entry['python']}"


def middle(rounds: Sequence[Mapping[str, Any]], figure: str) -> tuple[float, float, float]:
    """The median of the rounds, and how far the lowest and the highest are from it, for error bars."""
    values = [one[figure] for one in rounds]
    value = median(values)
    return value, value - min(values), max(values) - value


def bars(
    axes: Any, points: Sequence[tuple[float, tuple[float, float, float]]], scale: float = 1, **how: Any
) -> None:
    """A line through (x, median and distances), with bars from the worst round to the best."""
    xs = [x for x, _ in points]
    ys = [y * scale for _, (y, _, _) in points]
    below_above = [[low * scale for _, (_, low, _) in points], [high * scale for _, (_, _, high) in points]]
    axes.errorbar(xs, ys, yerr=below_above, capsize=2, elinewidth=0.8, **how)


def powers(axes: Any, xs: Sequence[float], base: int) -> None:
    """A logarithmic x axis with the measured n on it, and 0 where there is one."""
    numbers = sorted(set(xs))
    if numbers[0] == 0:
        axes.set_xscale("symlog", base=base, linthresh=numbers[1], linscale=0.5)
        axes.set_xlim(-numbers[1] / 4, numbers[-1] * 2)
    else:
        axes.set_xscale("log", base=base)
    axes.set_xticks(numbers, [short(x) for x in numbers])
    axes.minorticks_off()


def logarithmic(axes: Any) -> None:
    """A logarithmic y axis, with numbers as people write them."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")


def from_zero(axes: Any) -> None:
    """A y axis that begins at 0 and has room above what is drawn."""
    axes.set_ylim(0, axes.dataLim.ymax * 1.08)


def short(number: float) -> str:
    """`10k`, `1M`: as an axis has room for; what is no round number stays as it is."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size and number % size == 0:
            return f"{number / size:g}{letter}"
    return f"{number:,.0f}" if number >= 1000 else f"{number:g}"
