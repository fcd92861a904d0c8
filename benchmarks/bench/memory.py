"""The scenario `memory`: what thousands of open connections cost a server, in bytes of memory for each.

One process each. Every connection is opened, proven to be served (a WebSocket by an echo, an event stream by
its first event) and kept; then the memory of the process tree is compared with what it was when a few
connections had come and gone. Memory is PSS from /proc: what the kernel keeps for sockets is not in it. The
servers are measured one after the other, as nothing here takes long enough to be disturbed. One thread calls
all of this.
"""

import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from . import contestants, load, machine, servers, websocket_load
from .apps.events import FIRST
from .contestants import APPS, Rows
from .measure import progress
from .report import Result, Section
from .sections import Settings

SPARE = 500  # descriptors that a server and this program need beside the connections
PATIENCE = 2.0  # seconds for a server to end
WARM = 100  # connections that come and go first: what is made once is not what a connection costs
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
MESSAGE = b"Hello, World!"


@dataclass(frozen=True, slots=True)
class Held:
    """The memory of a server in bytes: before, with all connections open, when they had left; and how long it took."""

    before: int
    open: int
    after: int
    seconds: float


def measure(settings: Settings) -> Section:
    """The table for `settings.held` connections; raises LoadError when this process may not open as many."""
    count, folder, only = settings.held, settings.folder, settings.only
    allow_descriptors(count + SPARE)
    cores = machine.choose_cores(1)
    lines = [
        "| connections | server | Python | before MiB | open MiB | bytes each | after MiB | opened in s |"
    ]
    lines.append("|---|---|---|--:|--:|--:|--:|--:|")
    raw: list[dict[str, object]] = []
    verdicts: list[str] = []
    right = True
    for what, connect, rows in _kinds():
        best: dict[str, float] = {}
        for row in rows:
            if only and row.kind not in only:
                continue
            progress(f"memory: {count} × {what}: {row.name}")
            held, problem = _hold(row, connect, count, cores, folder)
            python = row.python if isinstance(row, Result) else row.version
            entry: dict[str, object] = {"what": what, "name": row.name, "kind": row.kind, "python": python}
            if held is None:
                right = right and row.kind != "serverd"
                lines.append(f"| {what} | {row.name} | {python} | not measured: {problem} | | | | |")
                raw.append({**entry, "problem": problem})
                continue
            each = (held.open - held.before) / count
            best[row.kind] = min(each, best.get(row.kind, each))
            before, opened, after = (size / 2**20 for size in (held.before, held.open, held.after))
            figures = f"{before:.0f} | {opened:.0f} | {each:,.0f} | {after:.0f} | {held.seconds:.1f}"
            lines.append(f"| {what} | {row.name} | {python} | {figures} |")
            raw.append({**entry, "before": held.before, "open": held.open, "after": held.after, "each": each})
        if "serverd" in best and "uvicorn" in best:
            share = best["serverd"] / best["uvicorn"]
            verdicts.append(f"Memory of an open {what}: serverd / uvicorn = {share:.2f}")
        else:
            verdicts.append(f"Memory of an open {what}: serverd / uvicorn: not measured")
    progress("")
    heading = f"{count:,} connections open at the same time in one process."
    return Section("memory", heading, "\n".join(lines), verdicts, raw, right)


def _kinds() -> list[tuple[str, Callable[[int], socket.socket], Rows]]:
    """What is held open, how one of it is opened and proven, and by whom it is served."""
    settings = {"workers.threads": "1"}
    name = "serverd (1 process)"
    return [
        (
            "WebSocket",
            _websocket,
            [
                *contestants.serverd("echo:app", APPS, name, settings),
                *contestants.uvicorn("echo:app", APPS, ws="websockets-sansio"),
                *contestants.granian("echo:app", APPS, "asgi"),
            ],
        ),
        (
            "event stream",
            _event_stream,
            [
                *contestants.serverd("events:app", APPS, name, settings),
                *contestants.uvicorn("events:app", APPS),
                *contestants.granian("events:app", APPS, "asgi"),
            ],
        ),
    ]


def _hold(
    row: servers.Contestant | Result,
    connect: Callable[[int], socket.socket],
    count: int,
    cores: machine.Cores,
    folder: Path,
) -> tuple[Held | None, str | None]:
    """Start it, open, measure, close, end it; or why not."""
    if isinstance(row, Result):
        return None, row.problem
    try:
        with servers.Running(row, cores.server, folder) as server:
            try:
                with ExitStack() as few:
                    for _ in range(WARM):
                        few.enter_context(connect(server.port))
                before = settled(server.pid)
                begin = time.monotonic()
                with ExitStack() as all_of_them:
                    for number in range(count):
                        try:
                            all_of_them.enter_context(connect(server.port))
                        except (load.LoadError, OSError) as error:
                            return None, f"connection {number + 1}: {error} ({server.fate()})"
                    seconds = time.monotonic() - begin
                    opened = settled(server.pid)
                return Held(before, opened, settled(server.pid), seconds), None
            except (load.LoadError, OSError) as error:
                return None, f"{error} ({server.fate()})"
            finally:
                server.stop(PATIENCE)
    except servers.ServerError as error:
        return None, str(error)


def _websocket(port: int) -> socket.socket:
    client = websocket_load.open_websocket(port)
    try:
        websocket_load.send_text(client, MESSAGE)
        if (answer := websocket_load.receive(client)) != MESSAGE:
            raise load.LoadError(f"echoes {answer!r} for {MESSAGE!r}")
    except BaseException:
        client.close()
        raise
    return client


def _event_stream(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    try:
        client.sendall(REQUEST)
        data = b""
        while FIRST not in data:
            part = client.recv(4096)
            if not part:
                raise load.LoadError(f"ends the stream: {data[:80]!r}")
            data += part
        if not data.startswith(b"HTTP/1.1 200 "):
            raise load.LoadError(f"answers wrongly: {data[:80]!r}")
    except BaseException:
        client.close()
        raise
    return client


def settled(pid: int) -> int:
    """The memory of the process tree when it has used no CPU for a while (half a second), or after five seconds."""
    deadline = time.monotonic() + 5
    used, quiet = machine.cpu_seconds(pid), 0
    while quiet < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
        now = machine.cpu_seconds(pid)
        quiet = quiet + 1 if now == used else 0
        used = now
    return machine.memory_bytes(pid)


def allow_descriptors(count: int) -> None:
    """Raise the soft limit for this process, and for the servers, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise load.LoadError(
            f"{count} open files are needed and {hard} allowed; raise that (ulimit -Hn) or lower --held"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
