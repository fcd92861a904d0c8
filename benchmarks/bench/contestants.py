"""How each server is made to serve: the commands, at the settings that are documented as the fastest for it.

Each function gives the rows of one server for a scenario; what cannot be measured on this machine becomes a
`Result` that says why. A peer is tried on free-threaded Python and on the newest one with a GIL, and in each of its
modes that may be the fastest: which of these rows serverd is compared with is found out by a short run
(qualifying.py). Nothing is started here. One thread calls all of this.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from .peers import ROOT, PeerError, environment, free_threaded, python_version, releases, with_gil
from .report import Result
from .servers import Contestant

type Rows = list[Contestant | Result]
# What an environment has (packages and versions) and whether it is free-threaded -> what is in the brackets of a
# row's name, and the command behind `python -m`.
type Commands = Callable[[Mapping[str, str], bool], Iterable[tuple[str, list[str]]]]

HELLO = ROOT / "examples" / "hello"
APPS = Path(__file__).with_name("apps")
HERE = python_version(sys.executable)
KINDS = (
    "raw",
    "serverd",
    "serverd-log",
    "uvicorn",
    "granian",
    "gunicorn",
    "hypercorn",
    "waitress",
    "pounce",
)
PEERS = KINDS[3:]
# What anyio lends to `def` endpoints at most, in each process of the peers: serverd gets as many threads there.
ANYIO_THREADS = 40


def raw(threads: int) -> Rows:
    """The limit of Python: see raw_server.py."""
    script = str(Path(__file__).with_name("raw_server.py"))
    name = f"raw limit: recv, send a constant (1 process × {_count(threads, 'thread')})"
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
    every_mode: bool = False,
) -> Rows:
    """uvicorn with uvloop and httptools, no access log, no lifespan; `tls` is a certificate and its key.

    `every_mode`: with its other parser, zttp, as well, where that is installed.
    """

    def commands(has: Mapping[str, str], _: bool) -> Iterable[tuple[str, list[str]]]:
        for http in ("httptools", "zttp") if every_mode and "zttp" in has else ("httptools",):
            what = f"{_count(processes, 'process')}, uvloop, " + (http if ws == "none" else f"--ws {ws}")
            command = ["uvicorn", app, "--app-dir", str(folder), "--port", "{port}"]
            command += ["--workers", str(processes), "--loop", "uvloop", "--http", http, "--ws", ws]
            command += ["--no-access-log", "--log-level", "warning", "--lifespan", "off"]
            if tls:
                command += ["--ssl-certfile", str(tls[0]), "--ssl-keyfile", str(tls[1])]
            yield what, command

    return _each("uvicorn", commands)


def granian(
    app: str,
    folder: Path,
    interface: str,
    workers: int = 1,
    *,
    blocking_threads: int = 1,
    ws: bool = True,
    tls: tuple[Path, Path] | None = None,
    every_mode: bool = False,
) -> Rows:
    """granian for HTTP/1.1 with `interface` asgi or wsgi. Its workers are threads on a free-threaded Python.

    `blocking_threads` are for WSGI; without `ws` it takes no WebSockets, as in its authors' own benchmarks.
    `every_mode`: with its multi-threaded runtime as well as the single-threaded one.
    """

    def commands(_: Mapping[str, str], free: bool) -> Iterable[tuple[str, list[str]]]:
        for mode in ("st", "mt") if every_mode else ("st",):
            command = ["granian", app, "--working-dir", str(folder), "--port", "{port}"]
            command += ["--interface", interface, "--workers", str(workers), "--http", "1"]
            command += ["--runtime-mode", mode, "--backpressure", "10000", "--log-level", "warning"]
            if not ws:
                command.append("--no-ws")
            if interface == "wsgi":
                command += ["--blocking-threads", str(blocking_threads)]
                what = _count(workers, "thread" if free else "process")
            else:
                command += ["--loop", "uvloop"]
                what = f"{_count(workers, 'worker')}, uvloop"
            if tls:
                command += ["--ssl-certificate", str(tls[0]), "--ssl-keyfile", str(tls[1])]
            yield f"{interface}, {what}, runtime {mode}", command

    return _each("granian", commands)


def gunicorn(app: str, folder: Path, cpus: int, *, threads: int = 1) -> Rows:
    """gunicorn's gthread worker: one process with a thread for each CPU without a GIL, one for each CPU with it.

    `threads` times as many threads, where an application waits.
    """

    def commands(has: Mapping[str, str], free: bool) -> Iterable[tuple[str, list[str]]]:
        processes, each = (1, cpus * threads) if free else (cpus, threads)
        command = [*_gunicorn(app, folder, processes), "--worker-class", "gthread", "--threads", str(each)]
        yield (
            f"gthread, {_count(processes, 'process')} × {_count(each, 'thread')}, {_gunicorn_parser(has)}",
            command,
        )

    return _each("gunicorn", commands)


def gunicorn_asgi(app: str, folder: Path, processes: int) -> Rows:
    """gunicorn's own ASGI worker, with uvloop."""

    def commands(has: Mapping[str, str], _: bool) -> Iterable[tuple[str, list[str]]]:
        command = [*_gunicorn(app, folder, processes), "--worker-class", "asgi", "--asgi-loop", "uvloop"]
        command += ["--asgi-lifespan", "off"]
        yield f"asgi, {_count(processes, 'process')}, uvloop, {_gunicorn_parser(has)}", command

    return _each("gunicorn", commands)


def hypercorn(app: str, folder: Path, processes: int = 1, *, tls: tuple[Path, Path] | None = None) -> Rows:
    """hypercorn with uvloop and no access log."""

    def commands(_: Mapping[str, str], __: bool) -> Iterable[tuple[str, list[str]]]:
        command = ["hypercorn", "--bind", "127.0.0.1:{port}", "--worker-class", "uvloop"]
        command += ["--workers", str(processes), "--log-level", "WARNING", "--keep-alive", "30"]
        if tls:
            command += ["--certfile", str(tls[0]), "--keyfile", str(tls[1])]
        yield f"{_count(processes, 'process')}, uvloop", [*command, app]

    return _each("hypercorn", commands, folder=folder)


def waitress(app: str, folder: Path, threads: int) -> Rows:
    """waitress: one process, whose one thread reads and writes for the `threads` that call the application."""

    def commands(_: Mapping[str, str], __: bool) -> Iterable[tuple[str, list[str]]]:
        command = ["waitress", "--host", "127.0.0.1", "--port", "{port}", "--threads", str(threads)]
        # Its own default is 100; nothing waits for a connection here, but a warning is written for each that queues.
        command += ["--connection-limit", "1000", "--no-expose-tracebacks", app]
        yield f"1 process × {_count(threads, 'thread')}", command

    return _each("waitress", commands, folder=folder)


def pounce(app: str, folder: Path, cpus: int) -> Rows:
    """pounce, whose workers are threads on free-threaded Python, in both of its modes, without compression.

    One worker alone is always in mode async, so two are the fewest in mode sync.
    """

    def commands(_: Mapping[str, str], free: bool) -> Iterable[tuple[str, list[str]]]:
        for mode, workers in (("async", cpus), ("sync", max(2, cpus))):
            command = ["pounce", "serve", "--app", app, "--host", "127.0.0.1", "--port", "{port}"]
            command += ["--workers", str(workers), "--worker-mode", mode, "--no-compression"]
            command += ["--no-access-log", "--log-level", "warning", "--signage", "off"]
            yield f"{_count(workers, 'thread' if free else 'process')}, mode {mode}", command

    return _each("pounce", commands, package="bengal-pounce", folder=folder)


def _gunicorn(app: str, folder: Path, processes: int) -> list[str]:
    command = ["gunicorn", app, "--chdir", str(folder), "--bind", "127.0.0.1:{port}"]
    return [*command, "--workers", str(processes), "--keep-alive", "30", "--log-level", "warning"]


def _gunicorn_parser(has: Mapping[str, str]) -> str:
    """Which of its parsers it takes by itself."""
    return "parser in C" if "gunicorn_h1c" in has or "gunicorn-h1c" in has else "parser in Python"


def _each(kind: str, commands: Commands, *, package: str | None = None, folder: Path | None = None) -> Rows:
    """Rows for each interpreter. `folder`: for a server that has no option to import from one, its working folder."""
    rows: Rows = []
    package = package or kind
    for choose in (free_threaded, with_gil):
        version = "with a GIL"
        try:
            interpreter = choose()
            version = python_version(interpreter)
            python = environment(interpreter, package)
        except PeerError as error:
            rows.append(Result(kind, kind, version, str(error)))
            continue
        has = releases(python)
        for what, command in commands(has, version.endswith("t")):
            name = f"{kind} {has.get(package, 'unknown')} ({what})"
            rows.append(Contestant(name, kind, [python, "-m", *command], version, folder))
    return rows


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"
