"""The load: a program that asks over open connections, and what one run of it says together with the server's CPU time.

A `Load` is a check, a command and the name of what it counts. Refuses to measure a server that answers wrongly:
the check comes before every run, and a run in which the bytes of an answer differ from those of the checked
one is counted as errors. `http` is wrk; websocket_load.py has the other. One thread calls all of this.
"""

import json
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from . import machine

SCRIPT = Path(__file__).with_name("wrk_done.lua")
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HELLO = b"Hello, World!"
IN_PIECES = 16384  # bytes of an answer from where on a run may end in the middle of one


class LoadError(Exception):
    """A run that gave nothing to report; the text is one line."""


@dataclass(frozen=True, slots=True)
class Load:
    """How a server is asked, in `unit`s.

    `check(port)` asks once, and gives the size of the answer in bytes or raises LoadError. `command(port, connections,
    threads, seconds)` writes, when it ends, a line `RESULT {...}` with the keys of wrk_done.lua.
    """

    unit: str
    check: Callable[[int], int]
    command: Callable[[int, int, int, int], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a load against one server. Times in microseconds; `errors` counts bad statuses and failed sockets.

    `others` is how many CPUs were kept busy meanwhile by neither the server nor the load: near 0 on a quiet machine.
    `load_share` is how much of the CPU time that it could use the load did use: near 1 it is the load that is measured.
    `served` is which share of the connections waited for an answer that came, by Little's law (rate × mean latency):
    well under 1 when a server left some of them waiting for all of the run, which no percentile shows.
    """

    requests: int
    seconds: float
    cpu_us: float
    p50_us: float
    p99_us: float
    p999_us: float
    errors: int
    others: float
    load_share: float
    served: float | None = None

    @property
    def rate(self) -> float:
        """Requests (or messages) a second."""
        return self.requests / self.seconds

    def as_json(self) -> dict[str, float | None]:
        """For the raw results."""
        return {**asdict(self), "rate": self.rate}


def http(
    body: bytes = HELLO, trusted: Path | None = None, *, request: bytes = REQUEST, folder: Path | None = None
) -> Load:
    """wrk with keep-alive connections; over TLS when `trusted`, the server's certificate, is given.

    Any other `request` than the plain one is sent byte for byte, and kept in a file in `folder` for that.
    """
    file = None
    if request != REQUEST:
        if folder is None:
            raise ValueError("a request of its own needs a folder")
        file = folder / "request.http"
        file.write_bytes(request)
    return Load(
        "request",
        partial(check, body=body, trusted=trusted, request=request),
        partial(_wrk, "https" if trusted else "http", file),
    )


def message(
    method: str = "GET", path: str = "/", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """The bytes of a request to 127.0.0.1, with the headers in their order."""
    fields = {"Host": "127.0.0.1", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def check(port: int, *, body: bytes = HELLO, trusted: Path | None = None, request: bytes = REQUEST) -> int:
    """Ask once; the size of the whole answer in bytes. Raises LoadError when it is not 200 with just this body.

    With TLS the certificate is verified, and anything but TLS 1.3 is wrong: all contestants shall do the same work.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        client = plain
        if trusted is not None:
            context = ssl.create_default_context(cafile=trusted)
            client = context.wrap_socket(plain, server_hostname="127.0.0.1")
            if client.version() != "TLSv1.3":
                raise LoadError(f"negotiates {client.version()} instead of TLSv1.3")
        client.sendall(request)
        data = b""
        while not data.endswith(body):
            part = client.recv(65536)
            if not part:
                break
            data += part
        if client is not plain:
            client.close()
    status = data.partition(b"\r\n")[0]
    if not status.startswith(b"HTTP/1.1 200 ") or not data.endswith(b"\r\n\r\n" + body):
        raise LoadError(f"answers wrongly: {data[:80]!r}")
    return len(data)


def _wrk(
    scheme: str, file: Path | None, port: int, connections: int, threads: int, seconds: int
) -> list[str]:
    command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "-s", str(SCRIPT)]
    command.append(f"{scheme}://127.0.0.1:{port}/")
    return [*command, "--", str(file)] if file else command


def run(load: Load, port: int, pid: int, cpus: frozenset[int], connections: int, seconds: int) -> Run:
    """Put load on the server for `seconds`; CPU time is that of the process tree of `pid` over just this time."""
    size = load.check(port)
    threads = min(connections, len(cpus))
    command = load.command(port, connections, threads, seconds)
    before = account(pid)
    with machine.pinned(cpus):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    used, loading, busy, passed = (now - then for now, then in zip(account(pid), before, strict=True))
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        said = " ".join((done.stderr or done.stdout).split())
        raise LoadError(f"{Path(command[0]).name} gave no result: {said[:200]!r}")
    said = json.loads(line.removeprefix("RESULT "))
    if not said["requests"]:
        raise LoadError(f"no {load.unit} was answered")
    errors = sum(said[kind] for kind in ("connect", "read", "write", "timeout", "status"))
    # What is still in flight when the load stops, and a header whose length changes, allow for a little.
    allowed = said["requests"] * max(8, size * 0.02) + (connections * size if size > IN_PIECES else 0)
    if abs(said["bytes"] - said["requests"] * size) > allowed:
        errors += said["requests"]
    return Run(
        requests=said["requests"],
        seconds=said["duration_us"] / 1e6,
        cpu_us=used * 1e6 / said["requests"],
        p50_us=said["p50_us"],
        p99_us=said["p99_us"],
        p999_us=said["p999_us"],
        errors=errors,
        others=max(0.0, (busy - used - loading) / passed),
        load_share=loading / passed / threads,
        served=said["mean_us"] * said["requests"] / said["duration_us"] / connections
        if "mean_us" in said
        else None,
    )


def account(pid: int) -> tuple[float, float, float, float]:
    """Seconds so far: CPU of the server, of the children that ended (the load), of the machine; the clock."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return machine.cpu_seconds(pid), ended.ru_utime + ended.ru_stime, machine.busy_seconds(), time.monotonic()
