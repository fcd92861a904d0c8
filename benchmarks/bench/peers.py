"""The interpreters of this machine, and for each an environment with the servers that serverd is measured against.

An environment is made at its first use, under ${XDG_CACHE_HOME:-~/.cache}/serverd/bench (a package index must be
reachable then), never in the project's .venv; at the versions of constraints.txt where it names them. One
thread calls all of this.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from . import machine

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serverd" / "bench"
PACKAGES = ("flask", "granian", "gunicorn", "httptools", "uvicorn", "uvloop", "websockets")
# What is newest first; a free-threaded build of the same version answers to its own name only.
GIL_NAMES = ("python3.15", "python3.14", "python3.13", "python3.12", "python3.11", "python3")


class PeerError(Exception):
    """An interpreter or an environment that is not to be had; the text is one line that says why."""


def free_threaded() -> str:
    """This program's own interpreter, which serverd runs on as well."""
    return sys.executable


@cache
def with_gil() -> str:
    """The newest ordinary Python (3.11 or later) on PATH, of pyenv or of uv; raises PeerError when there is none."""
    paths = [found for name in GIL_NAMES if (found := shutil.which(name))]
    for folder in ("~/.pyenv/versions/*", "~/.local/share/uv/python/*"):
        home = Path(folder).expanduser()
        paths += sorted(str(path) for path in home.parent.glob(f"{home.name}/bin/python3"))
    versions: dict[str, tuple[int, ...]] = {}
    for path in paths:
        version = python_version(path)
        if version[0].isdigit() and not version.endswith("t"):
            number = tuple(map(int, version.split(".")))
            if number >= (3, 11):
                versions[path] = number
    if not versions:
        raise PeerError("no ordinary Python 3.11 or later found")
    return max(versions, key=lambda path: versions[path])


@cache
def python_version(interpreter: str) -> str:
    """`3.14.7t`, with the t of a free-threaded build, or `unknown`."""
    code = "import sys, sysconfig; v = '.'.join(map(str, sys.version_info[:3]))"
    code += "; print(v + ('t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''))"
    line = machine.first_line([interpreter, "-c", code])
    return line if line and line[0].isdigit() else "unknown"


@cache
def release(python: str, package: str) -> str:
    """The version of `package` in the environment of `python`, or `unknown`."""
    code = f"from importlib.metadata import version; print(version('{package}'))"
    line = machine.first_line([python, "-c", code])
    return line if line and line[0].isdigit() else "unknown"


@cache
def environment(interpreter: str) -> str:
    """The Python of the environment for `interpreter`; raises PeerError when it cannot be made."""
    folder = CACHE / f"peers-{python_version(interpreter)}"
    python = folder / "bin" / "python"
    wanted = _requirements()
    done = folder / "installed.txt"
    if done.exists() and done.read_text() == "\n".join(wanted) and python.exists():
        return str(python)
    print(
        f"Installing {', '.join(wanted)} for Python {python_version(interpreter)} in {folder} ...",
        file=sys.stderr,
        flush=True,
    )
    shutil.rmtree(folder, ignore_errors=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    steps = [
        [interpreter, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted],
    ]
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True, timeout=300, check=False)
        if result.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            lines = (result.stderr or result.stdout).strip().splitlines()
            raise PeerError(f"cannot be installed for {interpreter}: {lines[-1][:200] if lines else step}")
    done.write_text("\n".join(wanted))
    return str(python)


def _requirements() -> list[str]:
    """The peers, at the versions of the committed constraints file where it names them."""
    pins: dict[str, str] = {}
    constraints = ROOT / "constraints.txt"
    if constraints.exists():
        for line in constraints.read_text().splitlines():
            name, _, version = line.partition("#")[0].strip().partition("==")
            if version:
                pins[name.strip().lower()] = version.strip()
    return [f"{package}=={pins[package]}" if package in pins else package for package in PACKAGES]
