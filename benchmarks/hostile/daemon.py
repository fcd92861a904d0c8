"""A daemon to be attacked, started as a user would, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from . import app as served

_PATIENCE = 30.0
_TICK = os.sysconf("SC_CLK_TCK")


class Gone(Exception):
    """The daemon did not do, or say, what it should have."""


class Daemon:
    """One daemon in ``folder``, with one child of ``threads`` threads on the CPUs ``cpus``."""

    def __init__(
        self, folder: Path, cpus: frozenset[int], *, mode: str, threads: int, connections: int, tls: bool
    ) -> None:
        big = folder / "big.bin"
        if not big.exists():
            big.write_bytes(bytes(served.SIZE))
        config: dict[str, Any] = {
            "app": "hostile.app:app",
            "app_dir": str(Path(__file__).parent.parent),
            "listen": ["127.0.0.1:0"],
            "workers": {"processes": 1, "threads": threads, "mode": mode},
            "limits": {"connections": connections},
            "logging": {"format": "text", "access": False},
            "admin": {"listen": "127.0.0.1:0"},
        }
        if tls:
            config["tls"] = certificate(folder)
        (folder / "server.yaml").write_text(json.dumps(config))
        self.lines: list[str] = []
        reading, writing = os.pipe()
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serverd", "-c", str(folder / "server.yaml")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=writing,
                env={**os.environ, "HOSTILE_FILE": str(big)},
            )
        finally:
            os.sched_setaffinity(0, before)
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        try:
            self.port = int(self.wait(r"listening on https?://127\.0\.0\.1:(\d+)"))
            self._admin = int(self.wait(r"the admin plane is at http://127\.0\.0\.1:(\d+)"))
            self.wait(r"(generation 1 ready)")
            self.child = int(self.status()["children"][0]["pid"])
        except Gone:
            self.stop()
            raise

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                self.lines.append(line.rstrip())

    def wait(self, pattern: str) -> str:
        """The group of the first line that matches."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found[1]
            time.sleep(0.02)
        raise Gone(f"no line {pattern!r} within {_PATIENCE:g} s: {self.lines[-5:]}")

    def problems(self) -> list[str]:
        """Lines that no hostile client should be able to bring about."""
        return [line for line in self.lines if re.search(r"Traceback|internal error|failed|Error\b", line)]

    def memory(self) -> tuple[int, int]:
        """RSS and PSS of the child, in bytes."""
        text = Path(f"/proc/{self.child}/smaps_rollup").read_text()
        rss, pss = (re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE) for name in ("Rss", "Pss"))
        assert rss is not None
        assert pss is not None
        return int(rss[1]) * 1024, int(pss[1]) * 1024

    def cpu(self) -> float:
        """Seconds of CPU that the child has used."""
        stat = Path(f"/proc/{self.child}/stat").read_text()
        return sum(map(int, stat.rpartition(")")[2].split()[11:13])) / _TICK

    def descriptors(self) -> int:
        """How many the child has open."""
        return len(os.listdir(f"/proc/{self.child}/fd"))

    def status(self) -> dict[str, Any]:
        """What the admin plane says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/status", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def busy_threads(self) -> int:
        """The most threads of the child that were held by a request at one of ten looks."""
        most = 0
        for _ in range(10):
            child = self.status()["children"][0]
            most = max(most, sum(thread.get("path") is not None for thread in child["threads"]))
            time.sleep(0.03)
        return most

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(2.0)
        return self._process.returncode


def certificate(folder: Path) -> dict[str, str]:
    """A P-256 certificate that nobody trusts, made by openssl."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    if not cert.exists():
        made = f"-keyout {key} -out {cert} -days 2 -subj /CN=localhost"
        subprocess.run(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes {made}".split(),
            check=True,
            capture_output=True,
        )
    return {"cert": str(cert), "key": str(key)}


def raise_descriptors() -> int:
    """This process's limit of descriptors, raised as far as it goes; what it is then. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
