"""The section `idle`: what connections that were answered once, and then wait, cost a server that others keep busy.

A server is started three times, each a process on the same CPU: one has no idle connections, one 1,000 and one
10,000, each of which has had one request answered. Then 32 others ask as fast as they can, each of the three in turn,
round after round: what disturbs the machine disturbs all of them, and an idle server takes no CPU. Memory is the
difference in PSS of the process tree (what the kernel keeps for sockets is not in it), before the first round. That
the idle ones are still open, and still served, is looked at after the last. The servers' limits and timeouts are
raised where they would end idle connections meanwhile. Raises LoadError when not even 1,000 descriptors are to be had.
One thread calls all of this.
"""

import resource
import select
import socket
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
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
SECONDS = 1
ROUNDS, PEER_ROUNDS = 6, 1
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
        if not isinstance(trial.row, Result):
            with trials.attempt(trial):
                _measure(trial, trial.row, cores, counts, settings.folder)
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


def _measure(
    trial: Trial, row: servers.Contestant, cores: machine.Cores, counts: Collection[int], folder: Path
) -> None:
    """All rounds of one server; raises ServerError, LoadError, OSError."""
    rounds = ROUNDS if trial.kind == "serverd" else PEER_ROUNDS
    with ExitStack() as stack:
        running: dict[int, servers.Running] = {}
        crowds: dict[int, Crowd] = {}
        sizes: dict[str, float] = {}
        for count in (0, *counts):
            progress(f"idle: {count} connections: {trial}")
            server = running[count] = stack.enter_context(servers.Running(row, cores.server, folder))
            stack.callback(server.stop, trials.PATIENCE)
            try:
                crowds[count] = stack.enter_context(Crowd(server.port))
                sizes[f"bytes_{count}"] = _fill(server, crowds[count], count, cores)
            except (load.LoadError, OSError) as error:
                raise load.LoadError(f"{error} ({server.fate()})") from None
        for number in range(rounds):
            progress(f"idle: round {number + 1} of {rounds}: {trial}")
            trial.rounds.append({**sizes, **_round(running, cores)})
        for count, crowd in crowds.items():
            if lost := crowd.lost():
                raise load.LoadError(f"{lost} of {count:,} idle connections were closed")
            crowd.ask_again()


def _fill(server: servers.Running, crowd: Crowd, count: int, cores: machine.Cores) -> float:
    """Warm it up, and open so many idle connections; the bytes of each."""
    with Crowd(server.port) as few:  # what is made once is not what a connection costs
        few.grow(WARM)
    load.run(load.http(), server.port, server.pid, cores.load, ACTIVE, SECONDS)
    before = settled(server.pid)
    crowd.grow(count)
    return (settled(server.pid) - before) / max(1, count)


def _round(running: Mapping[int, servers.Running], cores: machine.Cores) -> dict[str, float]:
    """The active connections for a while, at each server in turn."""
    figures: dict[str, float] = {"errors": 0, "others": 0.0}
    for count, server in running.items():
        run = load.run(load.http(), server.port, server.pid, cores.load, ACTIVE, SECONDS)
        figures |= {f"with_{count}": run.rate, f"with_{count}_cpu_us": run.cpu_us}
        figures["errors"] += run.errors
        figures["others"] += run.others / len(running)
    for count in running:
        figures[f"ratio_{count}"] = figures[f"with_{count}"] / figures["with_0"]
        figures[f"cpu_ratio_{count}"] = figures[f"with_{count}_cpu_us"] / figures["with_0_cpu_us"]
    return figures


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
        f"{ACTIVE} busy connections at a server with idle keep-alive connections and at one without, in turn: "
        f"{ROUNDS} rounds of serverd, {PEER_ROUNDS} of the others, of {SECONDS} s each; one process; {cores}."
    )
    columns = [f"{count:,} idle: KiB each" for count in counts]
    columns += ["requests/s without", *(f"with {count:,}" for count in counts), "errors"]

    def cells(trial: Trial) -> list[str]:
        each = [f"{trial.rounds[0][f'bytes_{count}'] / KIB:.1f}" for count in counts]
        rates = [
            f"{trial.median(f'with_{count}'):,.0f} ({trial.median(f'ratio_{count}'):.2f} ×)"
            for count in counts
        ]
        return [*each, f"{trial.median('with_0'):,.0f}", *rates, f"{trial.total('errors')}"]

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
    cpu = ours.median(f"cpu_ratio_{count}")
    peers = [
        (peer, peer.rounds[0][f"bytes_{count}"] / KIB, peer.median(f"ratio_{count}"))
        for peer in done
        if peer is not ours and peer.rounds
    ]
    told_memory = "".join(f"; {peer.short}: {size:.1f}" for peer, size, _ in peers)
    told_rate = "".join(f"; {peer.short}: {share:.0%}" for peer, _, share in peers)
    return [
        Verdict("idle", memory, each / KIB, f"{each / KIB:.1f} KiB{told_memory}", each <= MEMORY_GOAL),
        Verdict(
            "idle", rate, ratio, f"{ratio:.1%} (CPU for each: {cpu:.2f} ×){told_rate}", ratio >= RATE_GOAL
        ),
    ]
