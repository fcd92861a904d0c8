"""The daemon under load: started as a user would, followed by its log, to which the master of an upgrade writes on."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_PATIENCE = 60.0
_APP = """\
import os
import time

time.sleep({imports})  # as an application that takes so long to import


async def app(scope, receive, send):
    body = b"%d" % os.getpid()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""
_CONFIG = """\
app: soak_app:app
listen: ["127.0.0.1:0"]
workers: {{processes: {processes}, threads: 4}}
timeouts: {{graceful: 20s}}
logging: {{format: text, access: false}}
process: {{pidfile: soak.pid}}
"""


class Gone(Exception):
    """The daemon did not do, or say, what it should have."""


class Daemon:
    """One daemon in `folder`. `port` is where it serves. Used by one thread; a second one reads the log."""

    def __init__(self, folder: Path, *, processes: int, imports: float) -> None:
        (folder / "soak_app.py").write_text(_APP.format(imports=imports))
        (folder / "server.yaml").write_text(_CONFIG.format(processes=processes))
        self._pidfile = folder / "soak.pid"
        self._log = folder / "soak.log"
        self._lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serverd", "-c", str(folder / "server.yaml")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writing,
        )
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        self.port = int(self.wait(r"listening on http://127\.0\.0\.1:(\d+)")[0])
        self.wait(r"generation 1 ready")

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, encoding="utf-8", errors="replace") as pipe, self._log.open("w") as log:
            for line in pipe:
                log.write(line)
                self._lines.put((time.monotonic(), line))

    def wait(self, pattern: str) -> tuple[str, float]:
        """The first group of the next line that matches (the whole match if it has none), and when it came."""
        deadline = time.monotonic() + _PATIENCE
        seen: list[str] = []
        while True:
            try:
                at, line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Gone(
                    f"no line {pattern!r} within {_PATIENCE:g} s; the last ones: {''.join(seen[-5:])}"
                ) from None
            seen.append(line)
            found = re.search(pattern, line)
            if found is not None:
                return found[1] if found.groups() else found[0], at

    def problems(self) -> list[str]:
        """The lines of the log that no operator should have to read after this: tracebacks, and masters that fail."""
        return [
            line
            for line in self._log.read_text().splitlines()
            if "Traceback" in line or "master has failed" in line
        ]

    @property
    def master(self) -> int:
        """The process that is the master now."""
        return int(self._pidfile.read_text())

    def signal(self, number: signal.Signals) -> None:
        """To the master."""
        os.kill(self.master, number)

    def workers(self) -> list[int]:
        """The children of the master that serve or boot."""
        tasks = Path(f"/proc/{self.master}/task/{self.master}/children").read_text().split()
        return [int(pid) for pid in tasks if b"worker" in _title(int(pid))]

    def stop(self) -> None:
        """SIGTERM, and wait for the end of the log: of all processes that had it."""
        self.signal(signal.SIGTERM)
        self._reader.join(_PATIENCE)
        self._process.wait(_PATIENCE)
        if self._reader.is_alive():
            raise Gone("somebody still holds the log after SIGTERM")

    def kill(self) -> None:
        """Leave nobody behind, whatever has happened. Children end with their master."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.master, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.kill()


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
