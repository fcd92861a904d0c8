"""How a server that is measured is started, waited for and ended.

A server is started in a session and a folder of its own (Ctrl-C in the terminal reaches only this program),
waited for by connecting, and ended by its own process id: TERM, and after a while KILL to the session that was
started here. One thread calls all this.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from . import machine

START_SECONDS = 30.0
STOP_SECONDS = 10.0
UNWANTED = (
    "SERVERD_",
    "UVICORN_",
    "GRANIAN_",
    "GUNICORN_",
    "HYPERCORN_",
    "POUNCE_",
    "PYTHON",
    "NOTIFY_SOCKET",
    "LISTEN_",
    "WEB_CONCURRENCY",
)


class ServerError(Exception):
    """A server that cannot be measured; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of a table: `command` holds `{port}` where the port belongs."""

    name: str
    kind: str  # one of contestants.KINDS
    command: Sequence[str]
    version: str  # of its Python
    folder: Path | None = (
        None  # where it is started, for one that imports from there; else a folder of its own
    )


class Running:
    """A contestant that runs: `port` and `pid` are its own. Use it in a `with` statement."""

    def __init__(
        self, contestant: Contestant, cpus: frozenset[int], folder: Path, *, pause: float = 0.05
    ) -> None:
        """Start it on `cpus`, in a folder of its own in `folder`; raises ServerError unless it soon accepts.

        `pause`: seconds between two attempts to connect.
        """
        self.contestant = contestant
        self._stopped = False
        self.port = free_port()
        home = folder / f"{contestant.kind}-{self.port}"
        home.mkdir()
        self.log = home / "output.log"
        command = [part.replace("{port}", str(self.port)) for part in contestant.command]
        with ExitStack() as stack:
            # append: the file may be emptied while it is written
            output = stack.enter_context(self.log.open("ab"))
            stack.enter_context(machine.pinned(cpus))
            self._process = subprocess.Popen(
                command,
                cwd=contestant.folder or home,
                env=_clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait_until_it_accepts(pause)
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

    def stop(self, patience: float = STOP_SECONDS) -> None:
        """End it; returns when it is gone. A second call does nothing. `patience`: seconds from TERM to KILL."""
        if self._stopped:
            return
        self._stopped = True
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # the session of this process, made above
        except ProcessLookupError:
            pass
        self._process.wait()

    def _wait_until_it_accepts(self, pause: float) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(pause)
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


def _clean_environment() -> dict[str, str]:
    """This environment without what would change a server's configuration or interpreter behind its back."""
    return {key: value for key, value in os.environ.items() if not key.startswith(UNWANTED) and key != "PORT"}
