"""What is measured: how each server is started, waited for and ended; and the peers' own virtual environments.

A server is started in a session of its own (Ctrl-C in the terminal reaches only this program), waited for by
connecting, and ended by its own process id: TERM, and after a while KILL to the session that was started
here. Peers are installed under ${XDG_CACHE_HOME:-~/.cache}/serverd/bench, never into the project's .venv. One
thread calls all this.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from . import machine

ROOT = Path(__file__).resolve().parent.parent.parent
HELLO = ROOT / "examples" / "hello"
PEERS = ("uvicorn", "uvloop", "httptools")
START_SECONDS = 30.0
STOP_SECONDS = 10.0
# What is newest first; a free-threaded build of the same version answers to its own name only.
GIL_NAMES = ("python3.15", "python3.14", "python3.13", "python3.12", "python3.11", "python3")


class ServerError(Exception):
    """A server that cannot be measured; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the table: `command` holds `{port}` where the port belongs."""

    name: str
    kind: str  # raw | serverd | serverd-log | uvicorn
    command: Sequence[str]
    version: str
    env: dict[str, str] = field(default_factory=dict)


class Running:
    """A contestant that runs: `port` and `pid` are its own. Use it in a `with` statement."""

    def __init__(self, contestant: Contestant, cpus: frozenset[int], folder: Path) -> None:
        """Start it on `cpus`, writing to a log in `folder`; raises ServerError unless it accepts a connection soon."""
        self.contestant = contestant
        self.port = free_port()
        self.log = folder / f"{contestant.kind}-{self.port}.log"
        command = [part.replace("{port}", str(self.port)) for part in contestant.command]
        with ExitStack() as stack:
            output = stack.enter_context(
                self.log.open("ab")
            )  # append: the file may be emptied while it is written
            stack.enter_context(machine.pinned(cpus))
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**_clean_environment(), **contestant.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait_until_it_accepts()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process that was started; its children are what serves, with most servers."""
        return self._process.pid

    def empty_log(self) -> None:
        """Forget what it wrote: an access log would fill the disk over the rounds."""
        os.truncate(self.log, 0)

    def stop(self) -> None:
        """End it; returns when it is gone."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # the session of this process, made above
        except ProcessLookupError:
            pass
        self._process.wait()

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise ServerError(f"does not start: {self.fate()}")

    def fate(self) -> str:
        """Whether it runs, and the last that it wrote; for when it answers no more."""
        status = self._process.poll()
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        state = "running" if status is None else f"ended with {status}"
        return f"{state}; its last line: {lines[-1][:300]}" if lines else f"{state}; it says nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def raw(threads: int) -> Contestant:
    """The limit: see raw_server.py."""
    script = str(Path(__file__).with_name("raw_server.py"))
    return Contestant(
        f"raw limit: recv, send a constant (1 process × {threads} threads)",
        "raw",
        [sys.executable, script, "{port}", str(threads)],
        python_version(sys.executable),
    )


def serverd(threads: int, *, access_log: bool) -> Contestant:
    """serverd from this tree, with the example's own server.yaml."""
    settings = {
        "listen": '["127.0.0.1:{port}"]',
        "workers.processes": "1",
        "workers.threads": str(threads),
        "logging.access": "true" if access_log else "false",
    }
    command = [sys.executable, "-m", "serverd", "-c", str(HELLO / "server.yaml")]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    log = "access log on" if access_log else "access log off"
    return Contestant(
        f"serverd (1 process × {threads} threads, {log})",
        "serverd-log" if access_log else "serverd",
        command,
        python_version(sys.executable),
    )


def uvicorn(interpreter: str, processes: int) -> Contestant:
    """uvicorn at its fastest settings, from an environment of its own; raises ServerError when that cannot be made."""
    python = _environment(interpreter)
    release = machine.first_line([python, "-c", "import uvicorn; print(uvicorn.__version__)"])
    version = python_version(python)
    command = [python, "-m", "uvicorn", "hello:app", "--app-dir", str(HELLO), "--port", "{port}"]
    command += ["--workers", str(processes), "--loop", "uvloop", "--http", "httptools"]
    command += ["--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    return Contestant(
        f"uvicorn {release} ({processes} processes, uvloop, httptools)", "uvicorn", command, version
    )


def python_version(interpreter: str) -> str:
    """`3.14.7t`, with the t of a free-threaded build, or `unknown`."""
    code = "import sys, sysconfig; v = '.'.join(map(str, sys.version_info[:3]))"
    code += "; print(v + ('t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''))"
    line = machine.first_line([interpreter, "-c", code])
    return line if line and line[0].isdigit() else "unknown"


def gil_interpreter() -> str | None:
    """The newest ordinary Python (3.11 or later) on PATH, of pyenv or of uv; None when there is none."""
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
    return max(versions, key=lambda path: versions[path]) if versions else None


def _environment(interpreter: str) -> str:
    """The Python of a virtual environment that holds the peers, made at the first call (a network is needed then)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serverd" / "bench"
    folder = cache / f"peers-{python_version(interpreter)}"
    python = folder / "bin" / "python"
    wanted = _requirements()
    done = folder / "installed.txt"
    if done.exists() and done.read_text() == "\n".join(wanted) and python.exists():
        return str(python)
    print(
        f"Installing {', '.join(wanted)} for Python {python_version(interpreter)} in {folder} ...", flush=True
    )
    shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    steps = [
        [interpreter, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted],
    ]
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True, timeout=300, check=False)
        if result.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            lines = (result.stderr or result.stdout).strip().splitlines()
            raise ServerError(f"cannot be installed for {interpreter}: {lines[-1][:200] if lines else step}")
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
    return [f"{peer}=={pins[peer]}" if peer in pins else peer for peer in PEERS]


def _clean_environment() -> dict[str, str]:
    """This environment without what would change a server's configuration or interpreter behind its back."""
    unwanted = ("SERVERD_", "UVICORN_", "PYTHON", "NOTIFY_SOCKET", "LISTEN_", "WEB_CONCURRENCY", "PORT")
    return {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
