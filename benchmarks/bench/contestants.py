"""How each server is made to serve: the commands, at the settings that were found to be the fastest for it.

Each function gives the rows of one server for a scenario; what cannot be measured on this machine becomes a
`Result` that says why. A peer is tried on free-threaded Python and on the newest one with a GIL, and the better
row is what serverd is compared with. Nothing is started here. One thread calls all of this.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from .peers import ROOT, PeerError, environment, free_threaded, python_version, release, with_gil
from .report import Result
from .servers import Contestant

type Rows = list[Contestant | Result]

HELLO = ROOT / "examples" / "hello"
APPS = Path(__file__).with_name("apps")
HERE = python_version(sys.executable)


def raw(threads: int) -> Rows:
    """The limit of Python: see raw_server.py."""
    script = str(Path(__file__).with_name("raw_server.py"))
    name = f"raw limit: recv, send a constant (1 process × {threads} threads)"
    return [Contestant(name, "raw", [sys.executable, script, "{port}", str(threads)], HERE)]


def serverd(
    app: str,
    folder: Path,
    name: str,
    settings: Mapping[str, str],
    *,
    needs: Sequence[str] = (),
    access_log: bool = False,
) -> Rows:
    """serverd from this tree and on this interpreter, one process; `needs` are modules that must be installed."""
    kind = "serverd-log" if access_log else "serverd"
    if missing := [module for module in needs if find_spec(module) is None]:
        return [
            Result(
                name, kind, HERE, f"{', '.join(missing)} is not installed beside serverd (make bench does it)"
            )
        ]
    every = {
        "app_dir": str(folder),
        "listen": '["127.0.0.1:{port}"]',
        "workers.processes": "1",
        "logging.access": "true" if access_log else "false",
        **settings,
    }
    command = [sys.executable, "-m", "serverd", app]
    for key, value in every.items():
        command += ["--set", f"{key}={value}"]
    return [Contestant(name, kind, command, HERE)]


def uvicorn(
    app: str,
    folder: Path,
    processes: int = 1,
    *,
    ws: str = "none",
    tls: tuple[Path, Path] | None = None,
) -> Rows:
    """uvicorn with uvloop and httptools, no access log, no lifespan; `tls` is a certificate and its key."""
    what = f"{_count(processes, 'process')}, uvloop, " + ("httptools" if ws == "none" else f"--ws {ws}")

    def make(python: str, _: str) -> tuple[str, list[str]]:
        command = [python, "-m", "uvicorn", app, "--app-dir", str(folder), "--port", "{port}"]
        command += ["--workers", str(processes), "--loop", "uvloop", "--http", "httptools", "--ws", ws]
        command += ["--no-access-log", "--log-level", "warning", "--lifespan", "off"]
        if tls:
            command += ["--ssl-certfile", str(tls[0]), "--ssl-keyfile", str(tls[1])]
        return what, command

    return _each("uvicorn", make)


def granian(app: str, folder: Path, interface: str, workers: int = 1) -> Rows:
    """granian for HTTP/1.1 with `interface` asgi or wsgi. Its workers are threads on a free-threaded Python."""

    def make(python: str, version: str) -> tuple[str, list[str]]:
        command = [python, "-m", "granian", app, "--working-dir", str(folder), "--port", "{port}"]
        command += [
            "--interface",
            interface,
            "--workers",
            str(workers),
            "--http",
            "1",
            "--log-level",
            "warning",
        ]
        if interface == "wsgi":
            command += ["--blocking-threads", "1"]
            what = _count(workers, "thread" if version.endswith("t") else "process")
        else:
            command += ["--loop", "uvloop", "--runtime-mode", "st", "--backpressure", "10000"]
            what = f"{_count(workers, 'worker')}, uvloop"
        return f"{interface}, {what}", command

    return _each("granian", make)


def gunicorn(app: str, folder: Path, cpus: int) -> Rows:
    """gunicorn's gthread worker: one process with a thread for each CPU without a GIL, one for each CPU with it."""

    def make(python: str, version: str) -> tuple[str, list[str]]:
        workers, threads = (1, cpus) if version.endswith("t") else (cpus, 1)
        command = [python, "-m", "gunicorn", app, "--chdir", str(folder), "--bind", "127.0.0.1:{port}"]
        command += ["--worker-class", "gthread", "--workers", str(workers), "--threads", str(threads)]
        command += ["--keep-alive", "30", "--log-level", "warning"]
        return f"gthread, {_count(workers, 'process')} × {_count(threads, 'thread')}", command

    return _each("gunicorn", make)


def _each(package: str, make: Callable[[str, str], tuple[str, list[str]]]) -> Rows:
    """A row for each interpreter: `make(python, its version)` gives what is in the brackets, and the command."""
    rows: Rows = []
    for choose in (free_threaded, with_gil):
        version = "with a GIL"
        try:
            interpreter = choose()
            version = python_version(interpreter)
            python = environment(interpreter)
        except PeerError as error:
            rows.append(Result(package, package, version, str(error)))
            continue
        what, command = make(python, version)
        rows.append(Contestant(f"{package} {release(python, package)} ({what})", package, command, version))
    return rows


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"
