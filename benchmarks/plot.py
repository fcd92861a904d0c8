"""Pictures of a run from its JSON: `.venv/bin/python benchmarks/plot.py benchmarks/results/TIME.json [FOLDER]`.

PNG and SVG of what was measured of connections, latency and growth, in FOLDER or in a folder beside the JSON that has
its name. Exit status: 0 they are there, 1 nothing in the file can be drawn, 2 matplotlib or the file is missing.
"""

# ruff: noqa: INP001 - a script and not a module of a package: `bench` beside it is the package

import argparse
import sys
from pathlib import Path

from bench import plots

RESULTS = Path(__file__).resolve().parent / "results"


def main(argv: list[str]) -> int:
    """Draw; the exit status."""
    parser = argparse.ArgumentParser(description="Draw what a run has measured.")
    parser.add_argument("result", type=Path, help="the JSON of a run, or its name in benchmarks/results/")
    parser.add_argument("folder", type=Path, nargs="?", help="where to (a folder beside it, of its name)")
    options = parser.parse_args(argv)
    path = options.result if options.result.exists() else RESULTS / options.result
    try:
        made = plots.draw(plots.read(path), options.folder or path.with_suffix(""))
    except plots.PlotError as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2
    for picture in made:
        print(picture)
    if not made:
        print(f"plot: {path} has no connections, latency or growth in it", file=sys.stderr)
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
