"""Loads in C, compiled into the cache folder at their first use: one in Python would be slower than what it measures.

A program is named after what it was compiled from, so that it is compiled once and never stale. Raises LoadError
when there is no C compiler. One thread calls this.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from .load import LoadError
from .peers import CACHE


def compiled(source: Path) -> Path:
    """The program that `source`, a file of C, makes."""
    program = CACHE / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LoadError("a C compiler is missing. Install one: apt-get install gcc libc6-dev")
    CACHE.mkdir(parents=True, exist_ok=True)
    new = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, "-O2", "-o", str(new), str(source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise LoadError(f"{source.name} does not compile: {' '.join(done.stderr.split())[:200]}")
    new.rename(program)
    return program
