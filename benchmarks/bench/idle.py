"""The section `idle`: what connections that were answered once, and then wait, cost a server that others keep busy.

One process on one CPU. Connections are opened until 1,000 and then 10,000 wait, each of which has had one request
answered; then 32 others ask as fast as they can. The phases alternate: without idle connections, with 1,000, with
10,000, without. Memory is PSS of the process tree (what the kernel keeps for sockets is not in it), and is looked at
in the first round, before each load. That the idle ones are still open, and still served, is looked at after the last
load. The servers' limits and timeouts are raised where they would end idle connections meanwhile. Raises LoadError
when not even 1,000 descriptors are to be had. One thread calls all of this.
"""

import resource
import select
import socket
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from . import contestants, load, machine, servers, trials
from .contestants import HELLO
from .measure import progress
from .memory import SPARE, WARM, allow_descriptors, settled
from .report import Result, Section, Verdict
from .sections import Settings
from .trials import Trial

COUNTS = (1_000, 10_000)
ACTIVE = 32
SECONDS, PEER_SECONDS = 2, 1
ROUNDS, PEER_ROUNDS = 3, 1  # opening 10,000 connections takes longer than a phase
ASKED_AGAIN = 50  # of the idle ones, after the last load
KIB = 1024
MEMORY_GOAL = 8 * KIB
RATE_GOAL = 0.95

# Ordinary settings: none of these closes an idle connection within the minute that a round may take.
OURS = {"workers.threads": "1", "limits.connections": "16000", "timeouts.keep_alive": "10m"}
THEIRS = {
    "uvicorn": ("--timeout-keep-alive", "600"),
    # Its back pressure counts connections, and not requests.
    "granian": ("--http1-header-read-timeout", "60000", "--backpressure", "20000"),
}


class Crowd:
    """Idle connections, closed at the end of a `with` block."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []

    def grow(self, count: int) -> None:
        """Open more until there are so many; raises LoadError, OSError when one is not answered."""
        while len(self._sockets) < count:
            client = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            self._sockets.append(client)
            try:
                _ask(client)
            except (OSError, load.LoadError) as error:
                raise load.LoadError(f"idle connection {len(self._sockets)}: {error}") from None

    def lost(self) -> int:
        """How many have been closed by the server."""
        poll = select.poll()  # select() ends at descriptor 1023
        for client in self._sockets:
            poll.register(client, select.POLLIN)
        return len(poll.poll(0))

    def ask_again(self) -> None:
        """Some of them, from the first to the last; raises LoadError, OSError when one is not served."""
        for client in self._sockets[:: max(1, len(self._sockets) // ASKED_AGAIN)]:
            _ask(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._sockets:
            client.close()


def measure(settings: Settings) -> Section:
    """The table; nothing in a quick run, which has not the time."""
    if settings.quick:
        return Section("idle", "Not measured in a quick run.", "", (), (), right=True)
    counts, lines = _counts()
    cores = machine.choose_cores(1)
    done = trials.wanted(_rows(), settings.only)
    for trial in done:
        if isinstance(trial.row, Result):
            continue
        with trials.attempt(trial), servers.Running(trial.row, cores.server, settings.folder) as server:
            with trials.attempt(trial, server):
                _measure(trial, server, cores, counts)
            server.stop(trials.PATIENCE)
    progress("")
    return _section(done, counts, lines, cores)


def _counts() -> tuple[list[int], list[str]]:
    """Which of the counts this process may have descriptors for, and a line for each that it may not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    counts = [n for n in COUNTS if hard == resource.RLIM_INFINITY or n + SPARE <= hard] or [COUNTS[0]]
    allow_descriptors(max(counts) + SPARE)
    lines = [
        f"{n:,} connections: not measured: only {hard:,} files may be open (ulimit -Hn)"
        for n in COUNTS
        if n not in counts
    ]
    return counts, lines


def _rows() -> contestants.Rows:
    """One process of each, on one CPU."""
    rows = contestants.serverd("hello:app", HELLO, "serverd (1 process × 1 thread)", OURS)
    for row in (
        *contestants.uvicorn("hello:app", HELLO),
        *contestants.granian("hello:app", HELLO, "asgi"),
    ):
        if not isinstance(row, Result):
            row = replace(row, command=[*row.command, *THEIRS[row.kind]])  # noqa: PLW2901 - the last of two counts
        rows.append(row)
    return rows


def _measure(trial: Trial, server: servers.Running, cores: machine.Cores, counts: Collection[int]) -> None:
    """All rounds of one server; each ends with a phase without idle connections, which is the next one's first."""
    rounds, seconds = (ROUNDS, SECONDS) if trial.kind == "serverd" else (PEER_ROUNDS, PEER_SECONDS)
    with ExitStack() as few:  # what is made once is not what a connection costs
        few.enter_context(Crowd(server.port)).grow(WARM)
    _load(server, cores, 1)
    before = settled(server.pid)
    alone = _load(server, cores, seconds)
    for number in range(rounds):
        figures: dict[str, float] = {
            "errors": alone.errors,
            "alone": alone.rate,
            "alone_cpu_us": alone.cpu_us,
        }
        with Crowd(server.port) as crowd:
            for count in counts:
                progress(f"idle: round {number + 1} of {rounds}: {count} connections: {trial}")
                crowd.grow(count)
                size = settled(server.pid)
                if not number:
                    figures[f"bytes_{count}"] = (size - before) / count
                run = _load(server, cores, seconds)
                figures |= {f"with_{count}": run.rate, f"with_{count}_cpu_us": run.cpu_us}
                figures["errors"] += run.errors
                figures["others"] += run.others / len(counts)
            if lost := crowd.lost():
                raise load.LoadError(f"{lost} of {max(counts):,} idle connections were closed")
            crowd.ask_again()
        figures["after_bytes"] = settled(server.pid) - before
        alone = _load(server, cores, seconds)
        figures["alone_after"] = alone.rate
        for count in counts:
            figures[f"ratio_{count}"] = figures[f"with_{count}"] * 2 / (figures["alone"] + alone.rate)
        trial.rounds.append(figures)


def _load(server: servers.Running, cores: machine.Cores, seconds: int) -> load.Run:
    """The active connections, for a while."""
    return load.run(load.http(), server.port, server.pid, cores.load, ACTIVE, seconds)


def _ask(client: socket.socket) -> None:
    """One request and its right answer; raises LoadError, OSError."""
    client.sendall(load.REQUEST)
    data = b""
    while not data.endswith(load.HELLO):
        part = client.recv(4096)
        if not part:
            raise load.LoadError(f"closed after {data[:80]!r}")
        data += part
    if not data.startswith(b"HTTP/1.1 200 "):
        raise load.LoadError(f"answers wrongly: {data[:80]!r}")


def _section(done: list[Trial], counts: list[int], lines: list[str], cores: machine.Cores) -> Section:
    """The table and what became of the goals."""
    heading = (
        f"Idle keep-alive connections beside {ACTIVE} busy ones; one process; phases without and with "
        f"them in turn: {ROUNDS} rounds of {SECONDS} s each of serverd, {PEER_ROUNDS} of {PEER_SECONDS} s of the "
        f"others; {cores}."
    )
    columns = [f"{count:,} idle: KiB each" for count in counts]
    columns += ["requests/s without", *(f"with {count:,}" for count in counts), "errors"]

    def cells(trial: Trial) -> list[str]:
        each = [f"{trial.rounds[0][f'bytes_{count}'] / KIB:.1f}" for count in counts]
        rates = [
            f"{trial.median(f'with_{count}'):,.0f} ({trial.median(f'ratio_{count}'):.2f} ×)"
            for count in counts
        ]
        return [*each, f"{trial.median('alone'):,.0f}", *rates, f"{trial.total('errors')}"]

    verdicts = [verdict for count in counts for verdict in _verdicts(done, count)]
    lines = [*lines, *(f"{verdict.aim}: {verdict.text}" for verdict in verdicts), *trials.left_out(done)]
    lines += trials.disturbed(done)
    raw = [trial.as_json() for trial in done]
    table = trials.table(columns, done, cells)
    return Section("idle", heading, table, lines, raw, trials.right(done), verdicts)


def _verdicts(done: list[Trial], count: int) -> list[Verdict]:
    """Memory of one idle connection, and what is left of the throughput."""
    ours = next((trial for trial in done if trial.kind == "serverd" and trial.rounds), None)
    memory = f"{count:,} idle connections: at most {MEMORY_GOAL // KIB} KiB each"
    rate = f"{count:,} idle connections: at least {RATE_GOAL:.0%} of the throughput without"
    if not ours:
        return [Verdict("idle", aim, None, "not measured", None) for aim in (memory, rate)]
    each, ratio = ours.rounds[0][f"bytes_{count}"], ours.median(f"ratio_{count}")
    peers = [
        (peer, peer.rounds[0][f"bytes_{count}"] / KIB, peer.median(f"ratio_{count}"))
        for peer in done
        if peer is not ours and peer.rounds
    ]
    told_memory = "".join(f"; {peer.short}: {size:.1f}" for peer, size, _ in peers)
    told_rate = "".join(f"; {peer.short}: {share:.0%}" for peer, _, share in peers)
    return [
        Verdict("idle", memory, each / KIB, f"{each / KIB:.1f} KiB{told_memory}", each <= MEMORY_GOAL),
        Verdict("idle", rate, ratio, f"{ratio:.1%}{told_rate}", ratio >= RATE_GOAL),
    ]
