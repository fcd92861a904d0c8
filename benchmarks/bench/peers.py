"""The interpreters of this machine, and the environments with the servers that serverd is measured against.

Each peer has an environment of its own for each interpreter, so that one which cannot be installed takes nothing from
the others. It is made at its first use, under ${XDG_CACHE_HOME:-~/.cache}/serverd/bench (a package index must be
reachable then), never in the project's .venv, at the versions of constraints.txt. Two runs at once wait for each
other there. One thread calls all of this.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import machine

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serverd" / "bench"
CONSTRAINTS = ROOT / "constraints.txt"
# What is newest first; a free-threaded build of the same version answers to its own name only.
GIL_NAMES = ("python3.15", "python3.14", "python3.13", "python3.12", "python3")
USED: dict[str, str] = {}  # the environments that this run asked for (`uvicorn-3.14.7t`), and their Pythons
OLDEST = (3, 12)  # the oldest Python of the releases in constraints.txt (Django 6)


class PeerError(Exception):
    """An interpreter or an environment that is not to be had; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What a server's environment holds: its own packages, what makes it faster if it installs, and applications."""

    packages: tuple[str, ...]
    applications: tuple[str, ...]
    faster: tuple[str, ...] = ()
    python: tuple[int, int] = OLDEST  # the oldest that it runs on


ASGI = ("fastapi", "jinja2")
WSGI = ("django", "flask")
PEERS = {
    "uvicorn": Peer(("uvicorn", "httptools", "uvloop", "websockets"), ASGI, faster=("zttp",)),
    "granian": Peer(("granian", "uvloop"), ASGI + WSGI),
    # gunicorn_h1c, its parser in C, comes as source: it needs a C compiler and Python's headers.
    "gunicorn": Peer(("gunicorn", "uvloop"), ASGI + WSGI, faster=("gunicorn_h1c",)),
    "hypercorn": Peer(("hypercorn", "uvloop"), ASGI),
    "waitress": Peer(("waitress",), WSGI),
    "bengal-pounce": Peer(("bengal-pounce",), ASGI, python=(3, 14)),
}


def free_threaded() -> str:
    """This program's own interpreter, which serverd runs on as well."""
    return sys.executable


@cache
def with_gil() -> str:
    """The newest ordinary Python (3.12 or later) on PATH, of pyenv or of uv; raises PeerError when there is none."""
    paths = [found for name in GIL_NAMES if (found := shutil.which(name))]
    for folder in ("~/.pyenv/versions/*", "~/.local/share/uv/python/*"):
        home = Path(folder).expanduser()
        paths += sorted(str(path) for path in home.parent.glob(f"{home.name}/bin/python3"))
    versions: dict[str, tuple[int, ...]] = {}
    for path in paths:
        version = python_version(path)
        if version[0].isdigit() and not version.endswith("t") and _numbers(version) >= OLDEST:
            versions[path] = _numbers(version)
    if not versions:
        raise PeerError("no ordinary Python 3.12 or later found")
    return max(versions, key=lambda path: versions[path])


@cache
def python_version(interpreter: str) -> str:
    """`3.14.7t`, with the t of a free-threaded build, or `unknown`."""
    code = "import sys, sysconfig; v = '.'.join(map(str, sys.version_info[:3]))"
    code += "; print(v + ('t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''))"
    line = machine.first_line([interpreter, "-c", code])
    return line if line and line[0].isdigit() else "unknown"


@cache
def releases(python: str) -> dict[str, str]:
    """The version of every package in the environment of `python`, by its name in lower case."""
    code = "import json; from importlib.metadata import distributions as d"
    code += "; print(json.dumps({x.metadata['Name'].lower(): x.version for x in d()}))"
    line = machine.first_line([python, "-c", code])
    try:
        found = json.loads(line or "")
    except ValueError:
        return {}
    return {str(name): str(version) for name, version in found.items()}


def environment(interpreter: str, peer: str) -> str:
    """The Python of the environment of `peer` for `interpreter`; raises PeerError when it cannot be made."""
    made = _environment(interpreter, peer)
    if isinstance(made, PeerError):
        raise made
    USED[f"{peer}-{python_version(interpreter)}"] = made
    return made


def used_releases() -> dict[str, dict[str, str]]:
    """The packages of each environment of this run, for the JSON result."""
    return {name: releases(python) for name, python in USED.items()}


@cache
def _environment(interpreter: str, name: str) -> str | PeerError:
    """`environment`, with a failure that is remembered: pip takes seconds to say the same again."""
    peer, version = PEERS[name], python_version(interpreter)
    if _numbers(version) < peer.python:
        return PeerError(f"needs Python {peer.python[0]}.{peer.python[1]} or later")
    folder = CACHE / f"{name}-{version}"
    python = folder / "bin" / "python"
    wanted = "\n".join(_pinned([*peer.packages, *peer.applications, *peer.faster]))
    done = folder / "installed.txt"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == wanted and python.exists():
            return str(python)
        print(f"Installing {name} for Python {version} in {folder} ...", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        error = _run([interpreter, "-m", "venv", str(folder)])
        error = error or _pip(python, [*peer.packages, *peer.applications])
        if error:
            shutil.rmtree(folder, ignore_errors=True)
            return PeerError(f"cannot be installed for Python {version}: {error}")
        for package in peer.faster:
            if error := _pip(python, [package]):
                print(f"{package}, which {name} can use, does not install: {error}", file=sys.stderr)
        done.write_text(wanted)
    return str(python)


def _pip(python: Path, packages: list[str]) -> str:
    """Install them; why not, or nothing."""
    options = ["install", "-q", "--disable-pip-version-check"]
    if CONSTRAINTS.exists():
        options += ["-c", str(CONSTRAINTS)]
    return _run([str(python), "-m", "pip", *options, *packages])


def _run(command: list[str]) -> str:
    """The last line of a command that failed, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return "takes longer than five minutes"
    if not done.returncode:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1][:200] if lines else f"{command[0]} ended with {done.returncode}"


def _pinned(packages: list[str]) -> list[str]:
    """The packages with their pins: an environment is made anew when one of these changes."""
    pins: dict[str, str] = {}
    if CONSTRAINTS.exists():
        for line in CONSTRAINTS.read_text().splitlines():
            name, _, version = line.partition("#")[0].strip().partition("==")
            pins[name.lower()] = version
    return [f"{package}=={pins.get(package, 'any')}" for package in packages]


def _numbers(version: str) -> tuple[int, ...]:
    """`3.14.7t` as numbers; nothing when the version is unknown."""
    return tuple(int(part) for part in version.rstrip("t").split(".") if part.isdigit())
