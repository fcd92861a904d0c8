"""The load at a fixed rate, and the closed loop beside it: rate_load.c, what it asks, and what one run of it says.

An `Exchange` is a request and the body of the one right answer to it, both in files: every answer is compared with it,
byte by byte. `run` gives the figures of one run as a mapping, errors counted in it. Raises LoadError for a server that
answers wrongly before the load, or a load that gave no result. One thread calls all of this.
"""

import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import c_program, machine, servers
from .load import HELLO, LoadError, account
from .trials import Figures

SOURCE = Path(__file__).with_name("rate_load.c")
NUMBER = b"########"  # in a request: rate_load.c writes another number there each time
OVERTIME = 30.0  # seconds that a run may take beyond its own before it is given up


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is asked, and the body of the right answer."""

    request: Path
    answer: Path


def exchange(folder: Path, name: str, request: bytes, answer: bytes = HELLO) -> Exchange:
    """Write both into `folder`, in files that begin with `name`."""
    asked = Exchange(folder / f"{name}.request", folder / f"{name}.answer")
    asked.request.write_bytes(request)
    asked.answer.write_bytes(answer)
    return asked


def get(path: str = "/", fields: bytes = b"") -> bytes:
    """A GET request; `fields` are header lines, each with its CRLF."""
    return b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n" % (path.encode(), fields)


def check(asked: Exchange, port: int) -> None:
    """Ask once; raises LoadError unless the answer is a 200 with just this body."""
    body = asked.answer.read_bytes()
    end = b"\r\n\r\n" + body
    data = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(asked.request.read_bytes().replace(NUMBER, b"0" * len(NUMBER)))
        while not data.endswith(end):
            part = client.recv(1 << 20)
            if not part:
                break
            data += part
    if not data.startswith(b"HTTP/1.1 200 ") or not data.endswith(end):
        raise LoadError(f"answers wrongly: {bytes(data[:80])!r}")


def run(
    asked: Exchange,
    server: servers.Running,
    cpus: frozenset[int],
    connections: int,
    seconds: float,
    rate: float = 0.0,
) -> Figures:
    """One run from `cpus`. `rate` in requests a second; 0: a closed loop, each connection as fast as it is answered.

    Times in microseconds; from when a request was due, in an open loop. `late_*` is how late the load itself was,
    `unanswered` what had no answer two seconds after the end, `others` how many CPUs were kept busy by neither the
    server nor the load, `load_share` how much of the time the load was busy: near 1 it is the load that is measured.
    """
    command = [str(c_program.compiled(SOURCE)), str(server.port), str(connections), str(rate), str(seconds)]
    command += [str(asked.request), str(asked.answer)]
    before = account(server.pid)
    try:
        with machine.pinned(cpus):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + OVERTIME, check=False
            )
    except subprocess.TimeoutExpired:
        raise LoadError(f"the load has not ended {OVERTIME:g} s after its time") from None
    used, loading, busy, passed = (now - then for now, then in zip(account(server.pid), before, strict=True))
    if not done.stdout.startswith("RESULT "):
        raise LoadError(f"rate_load gave no result: {' '.join(done.stderr.split())[:200]!r}")
    said = json.loads(done.stdout.removeprefix("RESULT "))
    if not said["requests"]:
        raise LoadError(f"no request was answered: {' '.join(done.stderr.split())[:200]!r}")
    times = {key: value for key, value in said.items() if key.startswith(("p", "max", "late"))}
    return {
        **times,
        "offered": rate,
        "requests": said["requests"],
        "seconds": said["duration_us"] / 1e6,
        "rate": said["requests"] / (said["duration_us"] / 1e6),
        "cpu_us": used * 1e6 / said["requests"],
        "errors": sum(said[kind] for kind in ("connect", "read", "write", "timeout", "status")),
        "unanswered": said["unanswered"],
        "others": max(0.0, (busy - used - loading) / passed),
        "load_share": loading / passed,
    }
