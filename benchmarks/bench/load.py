"""The load: wrk over keep-alive connections, and what one run of it says together with the server's CPU time.

Refuses to measure a server that answers wrongly: `check` wants 200 and exactly `Hello, World!` first, and a
run in which the bytes of an answer differ from those of that first one is counted as errors. One thread calls
all of this.
"""

import json
import resource
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import machine

SCRIPT = Path(__file__).with_name("wrk_done.lua")
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BODY = b"Hello, World!"


class LoadError(Exception):
    """A run that gave nothing to report; the text is one line."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of wrk against one server. Times in microseconds; `errors` counts bad statuses and failed sockets.

    `others` is how many CPUs were kept busy meanwhile by neither the server nor wrk: near 0 on a quiet machine.
    """

    requests: int
    seconds: float
    cpu_us: float
    p50_us: float
    p99_us: float
    errors: int
    others: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def as_json(self) -> dict[str, float]:
        """For the raw results."""
        return {**asdict(self), "rate": self.rate}


def check(port: int) -> int:
    """Ask once over a plain socket; the size of the whole answer in bytes. Raises LoadError when it is not right."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(REQUEST)
        data = b""
        while not data.endswith(BODY):
            part = client.recv(65536)
            if not part:
                break
            data += part
    status = data.partition(b"\r\n")[0]
    if not status.startswith(b"HTTP/1.1 200 ") or not data.endswith(b"\r\n\r\n" + BODY):
        raise LoadError(f"answers wrongly: {data[:80]!r}")
    return len(data)


def run(port: int, pid: int, cpus: frozenset[int], connections: int, threads: int, seconds: int) -> Run:
    """Put load on the server for `seconds`; CPU time is that of the process tree of `pid` over just this time."""
    size = check(port)
    command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "-s", str(SCRIPT)]
    before = _account(pid)
    with machine.pinned(cpus):
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/"],
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            check=False,
        )
    used, loading, busy, passed = (now - then for now, then in zip(_account(pid), before, strict=True))
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise LoadError(f"wrk gave no result: {' '.join((done.stderr or done.stdout).split())[:200]!r}")
    said = json.loads(line.removeprefix("RESULT "))
    if not said["requests"]:
        raise LoadError("no request was answered")
    errors = sum(said[kind] for kind in ("connect", "read", "write", "timeout", "status"))
    # Requests still in flight when wrk stops, and a header whose length changes, allow for a little.
    if abs(said["bytes"] / said["requests"] - size) > max(8, size * 0.02):
        errors += said["requests"]
    return Run(
        requests=said["requests"],
        seconds=said["duration_us"] / 1e6,
        cpu_us=used * 1e6 / said["requests"],
        p50_us=said["p50_us"],
        p99_us=said["p99_us"],
        errors=errors,
        others=max(0.0, (busy - used - loading) / passed),
    )


def _account(pid: int) -> tuple[float, float, float, float]:
    """Seconds so far: CPU of the server, CPU of this program's children that ended (wrk), the machine's, the clock."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return machine.cpu_seconds(pid), ended.ru_utime + ended.ru_stime, machine.busy_seconds(), time.monotonic()
