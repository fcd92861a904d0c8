"""``make fuzz``: random requests through both parsers and h11 until it is stopped, or for a number of inputs.

    make fuzz ARGS="--inputs 1000000 --seed 7 --processes 2"
    make fuzz ARGS="--replay .fuzz/found-requests-7-123456.json"

A line every ten seconds; Ctrl-C stops it, and the same seed goes on where it stopped, as long as the code is the same.
Exit status: 0 nothing was found, 1 something was (each is printed and kept in .fuzz), 2 the arguments are wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import serverd

from .run import BLOCK, ROOT, Run, State, begin, begin_worker, made, progress
from .targets import TARGETS


def main(argv: list[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(
        prog="make fuzz", description="Random inputs for the parsers, held to each other."
    )
    parser.add_argument("--inputs", type=int, default=0, help="how many, in blocks of 5000; 0: until stopped")
    parser.add_argument("--seed", type=int, default=None, help="another one each time, if not given")
    parser.add_argument("--processes", type=int, default=os.process_cpu_count() or 1, help="%(default)s here")
    parser.add_argument("--threads", type=int, default=0, help="threads of one process, instead of processes")
    parser.add_argument("--target", choices=sorted(TARGETS), default="requests", help="%(default)s")
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz", help="for state and findings (.fuzz)")
    parser.add_argument("--replay", metavar="FILE or SEED:INDEX", help="one input again, cut at every place")
    options = parser.parse_args(argv)
    if options.replay:
        return replay(options.target, options.replay)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    if not Path(serverd.__file__).resolve().is_relative_to(ROOT):
        parser.error(
            f"serverd would be that of {serverd.__file__}, not the one beside these tests: set PYTHONPATH"
        )
    state = State(options.folder / f"{options.target}-{seed}.json", options.target, seed)
    print(f"target {options.target}, seed {seed}, revision {revision()}", end="")
    print(f", after {state.inputs:,} inputs of an earlier run" if state.goes_on else "", flush=True)
    run = Run(state, options.folder, options.target, seed)
    pool: Executor
    if options.threads:
        begin()
        width, pool = options.threads, ThreadPoolExecutor(options.threads)
    else:
        width = options.processes
        pool = ProcessPoolExecutor(width, multiprocessing.get_context("spawn"), initializer=begin_worker)
    try:
        with pool:
            run.go(pool, width, -(-options.inputs // BLOCK))
    except KeyboardInterrupt:
        print("stopped; the same seed goes on from here")
    report(state)
    return 1 if state.seen["finding"] or run.findings else 0


def report(state: State) -> None:
    """The mix: what became of the inputs, and how often each thing was seen."""
    for name, count in state.seen.most_common():
        print(f"{count:12,}  {count / state.inputs:6.1%}  {name}")
    if state.inputs:
        print(progress(state))


def revision() -> str:
    """The commit, and whether the code differs from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except OSError, subprocess.CalledProcessError:
        return "unknown"


def replay(target: str, what: str) -> int:
    """One input, cut at every place: prints it and what is wrong with it."""
    if Path(what).is_file():
        saved = json.loads(Path(what).read_text())
        target = saved["target"]
        chosen = TARGETS[target]
        case = chosen.build(saved["plain"])
        print(f"{case}\nfound as: {saved['what']}")
    else:
        chosen = TARGETS[target]
        seed, _, index = what.partition(":")
        case, rnd = made(target, int(seed), int(index))
        print(case)
        print(chosen.examine(case, rnd))
    print(chosen.examine_every_cut(case))  # a finding is a traceback here, which is what one wants to see
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
