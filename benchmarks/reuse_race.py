"""How often a client that reuses a connection loses a request across a reload: many reloads under keep-alive load.

.venv/bin/python benchmarks/reuse_race.py [--reloads 100] [--requests 1000] [--clients 32] [--processes 2]
[--mode sync] [--seconds 600]

Half of the clients send without a pause; the others wait up to 50 ms before each request, as connections in a proxy's
pool do: those are the ones that race with a close. Nothing is retried. A *race* is a request on a connection that had
served before which ends without a byte of an answer; every other thing that goes wrong is a *failure*. Each reload
waits for so many requests more. Prints one line of figures. Exit status: 0 at most one race in 100,000 requests and no
failure, 1 otherwise, 2 the server did not do its part.
"""

# ruff: noqa: INP001 - a script and not a module of a package

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

APP = """
import os
BODY = b"%d" % os.getpid()
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PAUSE = 0.05
GOAL = 100_000  # requests for each race


@dataclass
class Totals:
    """What the clients saw."""

    requests: int = 0
    connections: int = 0
    closes: int = 0  # answers that said `Connection: close`
    races: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    processes: set[bytes] = field(default_factory=set)
    _wanted: int = sys.maxsize
    _enough: asyncio.Event = field(default_factory=asyncio.Event)

    def sent(self) -> None:
        """One request more."""
        self.requests += 1
        if self.requests >= self._wanted:
            self._enough.set()

    async def more(self, count: int) -> None:
        """Wait for so many requests more."""
        self._enough.clear()
        self._wanted = self.requests + count
        await self._enough.wait()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Count the requests that reused connections lose across reloads."
    )
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument(
        "--requests", type=int, default=1000, help="between two reloads, at least (%(default)s)"
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mode", choices=("sync", "async"), default="sync")
    parser.add_argument("--seconds", type=float, default=600.0, help="give up after so long (%(default)s)")
    return parser.parse_args()


class Daemon:
    """The server, and the lines of its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0

    async def line(self, *words: str) -> str:
        """The next line of the log that has all of ``words``. Raises RuntimeError at its end."""
        assert self.process.stdout is not None
        while raw := await self.process.stdout.readline():
            text = raw.decode(errors="replace")
            if all(word in text for word in words):
                return text
        raise RuntimeError(f"the server has ended before it said {' '.join(words)!r}")


@contextlib.asynccontextmanager
async def serverd(options: argparse.Namespace, folder: Path) -> AsyncIterator[Daemon]:
    """A serverd of this interpreter, ended at the end of the block."""
    (folder / "race_app.py").write_text(APP)
    keys = ("access=false", "format=text", "level=info")
    argv = [
        sys.executable,
        "-m",
        "serverd",
        "race_app:app",
        "--app-dir",
        str(folder),
        "--listen",
        "127.0.0.1:0",
    ]
    argv += ["--processes", str(options.processes), "--threads", "2", "--set", f"workers.mode={options.mode}"]
    argv += [word for key in keys for word in ("--set", f"logging.{key}")]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SERVERD_")}
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    daemon = Daemon(process)
    try:
        daemon.port = int((await daemon.line("listening on")).rsplit(":", 1)[1])
        await daemon.line("generation 1 ready")
        yield daemon
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


async def client(port: int, pause: float, totals: Totals, over: asyncio.Event) -> None:
    """One connection after another, each for as long as the server keeps it."""
    while not over.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            totals.failures[f"connect: {error!r}"] += 1
            await asyncio.sleep(PAUSE)  # not to spin on a refusal
            continue
        totals.connections += 1
        try:
            await use(reader, writer, pause, totals, over)
        finally:
            writer.close()


async def use(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    pause: float,
    totals: Totals,
    over: asyncio.Event,
) -> None:
    """Requests on one connection, until it closes or everything is over."""
    served = 0
    while not over.is_set():
        if pause:
            await asyncio.sleep(random.uniform(0.0, pause))
            if reader.at_eof():  # a pool sees that too, and takes another
                return
        totals.sent()
        head = b""
        try:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
        except (OSError, EOFError, ValueError) as error:
            seen = head or getattr(error, "partial", b"")
            if served and not seen:
                totals.races += 1
            else:
                totals.failures[f"after {served} answers: {type(error).__name__}"] += 1
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            totals.failures[head.partition(b"\r\n")[0].decode(errors="replace")] += 1
        served += 1
        totals.processes.add(body)
        if b"connection: close" in head.lower():
            totals.closes += 1
            return


async def measure(options: argparse.Namespace, folder: Path) -> Totals:
    """All the reloads. Raises RuntimeError and TimeoutError when the server does not do its part."""
    totals, over = Totals(), asyncio.Event()
    async with serverd(options, folder) as daemon:
        clients = [
            asyncio.create_task(client(daemon.port, PAUSE if number % 2 else 0.0, totals, over))
            for number in range(options.clients)
        ]
        try:
            async with asyncio.timeout(options.seconds):
                for generation in range(2, options.reloads + 2):
                    daemon.process.send_signal(signal.SIGHUP)
                    await daemon.line(f"generation {generation} ready")
                    await totals.more(options.requests)
        finally:
            over.set()
            await asyncio.gather(*clients)
    return totals


def main() -> int:
    """Measure and say what was found."""
    options = arguments()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            totals = asyncio.run(measure(options, Path(folder)))
        except (RuntimeError, TimeoutError) as error:
            print(f"not measured: {error!r}", file=sys.stderr)
            return 2
    seconds = time.monotonic() - began
    failed = sum(totals.failures.values())
    print(
        f"{options.reloads} reloads, {options.processes} processes, mode {options.mode}, {options.clients} clients, "
        f"{seconds:.0f} s: {totals.requests} requests, {totals.races} races, {failed} failures, "
        f"{totals.connections} connections, {totals.closes} answers with Connection: close, "
        f"{len(totals.processes)} children answered"
    )
    for what, count in totals.failures.most_common(10):
        print(f"  {count} × {what}")
    return 0 if not failed and totals.races * GOAL <= totals.requests else 1


if __name__ == "__main__":
    raise SystemExit(main())
