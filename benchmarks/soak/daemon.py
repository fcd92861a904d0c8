"""A daemon under load: started as a user would, followed by its log, to which the master of an upgrade writes on."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_PATIENCE = 120.0
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


def plain(folder: Path, *, processes: int, imports: float) -> Daemon:
    """One that answers with the number of the child, and takes so long to import."""
    (folder / "soak_app.py").write_text(_APP.format(imports=imports))
    return Daemon(folder, _CONFIG.format(processes=processes))


class Daemon:
    """One daemon in `folder`, with a configuration that names `soak.pid` as its pidfile. `port` is where it serves.

    Used by one thread; a second one reads the log, except while `reads` is not set.
    """

    def __init__(self, folder: Path, config: str) -> None:
        (folder / "server.yaml").write_text(config)
        self.folder = folder
        self.reads = threading.Event()
        self.reads.set()
        self.lines: list[tuple[float, str]] = []  # without those of the access log
        self.accesses = 0
        self._pidfile = folder / "soak.pid"
        self._news: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serverd", "-c", str(folder / "server.yaml")],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
        )
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        self.port = int(self.wait(r"listening on https?://127\.0\.0\.1:(\d+)")[0])
        self.wait(r"generation 1 ready")

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                self.reads.wait()
                if '"serverd.access","client"' in line:
                    self.accesses += 1
                else:
                    self.lines.append((time.monotonic(), line))
                    self._news.put(self.lines[-1])

    def wait(self, pattern: str) -> tuple[str, float]:
        """The first group of the next line that matches (the whole match if it has none), and when it came."""
        deadline = time.monotonic() + _PATIENCE
        seen: list[str] = []
        while True:
            try:
                at, line = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Gone(
                    f"no line {pattern!r} within {_PATIENCE:g} s; the last ones: {''.join(seen[-5:])}"
                ) from None
            seen.append(line)
            found = re.search(pattern, line)
            if found is not None:
                return found[1] if found.groups() else found[0], at

    def forget(self) -> None:
        """`wait` is for what comes from here on."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._news.get_nowait()

    def problems(self) -> list[str]:
        """The lines of the log that no operator should have to read after this: tracebacks, and masters that fail."""
        return [
            line.rstrip("\n") for _, line in self.lines if "Traceback" in line or "master has failed" in line
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
        return [pid for pid, role in self.children() if role == "worker"]

    def children(self) -> list[tuple[int, str]]:
        """Those of the master, each as "worker" or "admin"; nothing while it changes."""
        try:
            tasks = Path(f"/proc/{self.master}/task/{self.master}/children").read_text().split()
        except OSError, ValueError:
            return []
        titles = [(int(pid), _title(int(pid))) for pid in tasks]
        roles = {b"worker": "worker", b"admin": "admin"}
        return [(pid, roles[word]) for pid, title in titles for word in roles if b": " + word in title]

    def ask(self, do: str, **fields: object) -> dict[str, Any]:
        """The last line of what the control socket answers. Raises Gone, OSError."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(str(self.folder / "server.control"))
            sock.sendall(json.dumps({"v": 1, "do": do, **fields}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for line in lines:
                    answer: dict[str, Any] = json.loads(line)
                    if "ok" in answer:
                        if not answer["ok"]:
                            raise Gone(f"{do}: {answer.get('error')}")
                        return answer
        raise Gone(f"{do}: no answer")

    def stop(self) -> None:
        """SIGTERM, and wait for the end of the log: of all processes that had it."""
        self.signal(signal.SIGTERM)
        self._reader.join(_PATIENCE)
        self._process.wait(_PATIENCE)
        if self._reader.is_alive():
            raise Gone("somebody still holds the log after SIGTERM")

    def kill(self) -> None:
        """Leave nobody behind, whatever has happened. Children end with their master."""
        self.reads.set()
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.master, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.kill()


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
