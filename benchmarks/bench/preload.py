"""The scenario `preload`: the memory of several children, each with an import of its own, or all forked from one.

serverd alone, with `workers.preload` off and on: how long until it accepts, and the memory of its process tree when it
has started, after two seconds of load, and after each child has collected its garbage a few times, which is when
memory that was shared tends to be written to. Memory is PSS from /proc: a page that four processes share counts a
quarter in each. One thread calls all of this.
"""

import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import contestants, load, machine, servers
from .contestants import APPS
from .measure import progress
from .memory import settled
from .report import Result, Section
from .sections import Settings

BODY = b'{"message":"Hello, World!"}'
# One connection each: with four children none is left out by chance (0.75 ** 60 is 3e-8).
COLLECTIONS = 60
CHILDREN = 4
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Shared:
    """Seconds until it accepts, and bytes of memory: at the start, after load, after collections."""

    seconds: float
    started: int
    loaded: int
    collected: int


def measure(settings: Settings) -> Section:
    """The table for four children with 4 threads each; serverd is the only kind of server here."""
    lines = ["| workers.preload | accepts after s | started MiB | after load MiB | after collections MiB |"]
    lines.append("|---|--:|--:|--:|--:|")
    heading = f"FastAPI, {CHILDREN} children with 4 threads each, memory of all processes of serverd."
    if settings.only and "serverd" not in settings.only:
        return Section("preload", "Not measured: serverd is not among --only.", "", (), (), right=True)
    raw: list[dict[str, object]] = []
    found: list[Shared] = []
    for preload in (False, True):
        progress(f"preload: {preload}")
        keys = {
            "workers.processes": str(CHILDREN),
            "workers.threads": "4",
            "workers.preload": str(preload),
        }
        (row,) = contestants.serverd("fastapi_json:app", APPS, "serverd", keys, needs=["fastapi"])
        shared, problem = (None, row.problem) if isinstance(row, Result) else _run(row, settings.folder)
        if shared is None:
            lines.append(f"| {preload} | not measured: {problem} | | | |")
            raw.append({"preload": preload, "problem": problem})
            continue
        found.append(shared)
        figures = " | ".join(
            f"{size / MIB:.0f}" for size in (shared.started, shared.loaded, shared.collected)
        )
        lines.append(f"| {preload} | {shared.seconds:.2f} | {figures} |")
        raw.append({"preload": preload, **asdict(shared)})
    progress("")
    verdicts = []
    if len(found) == 2:
        alone, together = found
        verdicts.append(f"Memory with preload / without: {together.collected / alone.collected:.2f}")
    return Section("preload", heading, "\n".join(lines), verdicts, raw, right=len(found) == 2)


def _run(row: servers.Contestant, folder: Path) -> tuple[Shared | None, str]:
    """Start it, load it, have it collect, end it; or why not."""
    cores = machine.choose_cores()
    asked = load.http(BODY)
    begin = time.monotonic()
    try:
        with servers.Running(row, cores.server, folder) as server:
            try:
                load.check(server.port, body=BODY)  # the port is open before anybody accepts
                seconds = time.monotonic() - begin
                started = settled(server.pid)
                load.run(asked, server.port, server.pid, cores.load, connections=64, seconds=2)
                loaded = settled(server.pid)
                for _ in range(COLLECTIONS):
                    _collect(server.port)
                return Shared(seconds, started, loaded, settled(server.pid)), ""
            except (load.LoadError, OSError) as error:
                return None, f"{error} ({server.fate()})"
    except servers.ServerError as error:
        return None, str(error)


def _collect(port: int) -> None:
    """Have one child collect its garbage, whichever accepts."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET /collect HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        data = b""
        while part := client.recv(4096):
            data += part
    if not data.startswith(b"HTTP/1.1 200 "):
        raise load.LoadError(f"answers wrongly: {data[:80]!r}")
