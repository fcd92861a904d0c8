"""Pictures of a run, PNG and SVG, made from its JSON alone: connections, latency and growth, as far as they are in it.

matplotlib draws them; it is in a dependency group of its own (`plots`), and who has it not gets a `PlotError` that says
how to get it. Colours are those of Okabe and Ito, which colour-blind people tell apart, and every line has a marker
and a dash of its own as well. Below each picture stand the machine, the commit and the time. One thread calls this.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from . import plot_growth, plot_peers
from .plot_style import STYLE

type Draw = Callable[[Any, Sequence[Mapping[str, Any]]], Any]

# File name -> the section that it is made from, and who draws it on a figure of pyplot's.
PICTURES: dict[str, tuple[str, Draw]] = {
    "connections": ("connections", plot_peers.connections),
    "latency": ("latency", plot_peers.latency),
    "growth-workers": ("growth", plot_growth.workers),
    "growth-requests": ("growth", plot_growth.requests),
}
HOW = "tools/bootstrap plots (or pip install --group plots)"
SUFFIXES = ("png", "svg")


class PlotError(Exception):
    """Pictures that cannot be made; the text is one line that says why."""


def read(path: Path) -> dict[str, Any]:
    """The JSON of a run."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PlotError(f"{path.name} is no result of a run: {error}") from None
    if not isinstance(document, dict) or "scenarios" not in document:
        raise PlotError(f"{path} is no result of a run: it has no scenarios")
    return document


def wanted(document: Mapping[str, Any]) -> list[str]:
    """The pictures that can be made of this run: their sections have results."""
    measured = {part["name"] for part in document["scenarios"] if part["results"]}
    return [name for name, (section, _) in PICTURES.items() if section in measured]


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Make all of them in `folder`; the paths."""
    pyplot = _pyplot()
    results = {part["name"]: part["results"] for part in document["scenarios"]}
    paths: list[Path] = []
    with pyplot.rc_context(STYLE):
        for name in wanted(document):
            section, make = PICTURES[name]
            figure = make(pyplot, results[section])
            if figure is None:  # nothing of it was measured
                continue
            figure.supxlabel(caption(document), fontsize=7, color="#444444", x=0.01, ha="left")
            folder.mkdir(parents=True, exist_ok=True)
            for suffix in SUFFIXES:
                path = folder / f"{name}.{suffix}"
                # No date in it: the same result gives the same file.
                figure.savefig(path, metadata={"Date": None} if suffix == "svg" else None)
                paths.append(path)
            pyplot.close(figure)
    return paths


def caption(document: Mapping[str, Any]) -> str:
    """One line: the machine, what was measured, and when."""
    get = document.get
    return (
        f"{get('cpu', 'unknown CPU')}, {get('cpus', '?')} CPUs, Linux {get('kernel', '?')}; "
        f"serverd at {get('commit', 'unknown')}; {get('time', '')}"
    )


def after_a_run(path: Path) -> str:
    """What to say at the end of a run: where its pictures are, or how to get them; empty where it has none."""
    document = read(path)
    if not wanted(document):
        return ""
    try:
        made = draw(document, path.with_suffix(""))
    except PlotError as error:
        return f"No plots: {error}, then .venv/bin/python benchmarks/plot.py {path.name}"
    return f"Plots: {len(made)} files in {path.with_suffix('').name}/ beside them" if made else ""


def _pyplot() -> Any:
    """matplotlib without a window; imported here, as most runs have no use for it."""
    try:
        import_module("matplotlib").use("agg")
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise PlotError(f"matplotlib cannot be imported ({error}): {HOW}") from None
