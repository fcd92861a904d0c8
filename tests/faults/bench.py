"""One cell of the matrix: a call of one process fails, once or for a while, under light traffic; what came of it.

Promises: `run` returns figures, or raises AssertionError with what serverd did not keep: the process lives on and takes
less than `MOST_CPU` of a core; whoever need not wait for the failing call is answered; after the fault a new client is
answered; no more connections are cut than calls of theirs have failed; the log has a bounded number of lines and no
traceback; every descriptor is given back. Refuses to know which calls are worth it (`cells`).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.certificates import Authority, TlsClient
from tests.support.client import RawClient
from tests.support.daemon import Daemon, alive, title, wait_until

from .plan import Plan
from .traffic import APP, Client, Counts, ask

# Of one core, in percent, by the process whose calls fail (traffic included).
MOST_CPU: Final = 20.0
# Recovery within 1 s is the aim, and what the table shows; a test machine that does five other things gets more.
MOST_RECOVERY: Final = 5.0
# Lines of the process in its log, for each second of a fault and at all.
_LINES_A_SECOND: Final = 3
_LINES: Final = 12
# So often in a row a call is interrupted.
MANY: Final = 1000
# A drain ends the event streams of browsers, which open them again.
_ENDED: Final = {"reload": r"kind 3\): 200", "touch": r"kind 3\): 200"}
_TICKS: Final = os.sysconf("SC_CLK_TCK")

ROLES: Final = ("worker", "master", "admin", "watcher", "template")


@dataclass(frozen=True)
class Cell:
    """A call that fails. `error` 0: it does one byte only. `kind`: see `Plan.fail`.

    poke: what has to be done so that the call is made (a method of `Bench`), beside the traffic. cuts: whether a call
    that fails may cost its connection. blind: whether nobody can be answered while it fails. quick: in `make test`.
    """

    role: str
    call: str
    error: int
    kind: str = ""
    poke: str = ""
    cuts: bool = False
    blind: bool = False
    quick: bool = False
    wrong: str = ""  # a pattern of answers that are right for this fault
    noisy: bool = False  # each is an exception of the application, and logged as such

    @property
    def name(self) -> str:
        """For the table and for pytest."""
        error = errno.errorcode[self.error] if self.error else "1-byte"
        what = f"-{self.kind.strip('/').replace('/', '.')}" if self.kind else ""
        poke = f"-{self.poke}" if self.poke else ""
        return f"{self.role}-{self.call}{what}-{error}{poke}"


@dataclass(frozen=True)
class Result:
    """Figures of one cell. cpu in percent of a core, recovery in seconds."""

    hits: int
    cpu: float
    recovery: float
    lines: int
    answered: int
    cut: int


class Bench:
    """A daemon whose calls can be made to fail."""

    def __init__(self, folder: Path, flavour: str) -> None:
        self.plan = Plan(folder)
        config: dict[str, Any] = {
            "workers": {"processes": 1, "threads": 2, "loop": "asyncio"},
            "logging": {"level": "info", "format": "text"},
            "timeouts": {"graceful": "5s"},
        }
        self._authority: Authority | None = None
        if flavour == "tls":
            self._authority = Authority(folder)
            config["tls"] = self._authority.issue("localhost").config()
        if flavour == "async":
            config["workers"] |= {"mode": "async"}
        if flavour == "sync":
            config |= {"admin": {"listen": "127.0.0.1:0"}, "reload": {"enabled": True, "dirs": ["watched"]}}
        if flavour == "preload":
            config["workers"] |= {"preload": True}
        (folder / "watched").mkdir()
        self.daemon = Daemon(folder, app=APP, config=config, env=self.plan.environment())
        try:
            self.daemon.wait_ready()
            self._port = self.daemon.port
            if flavour == "sync":  # the helpers have opened all that they need
                self.daemon.wait_for_line("watching .* for changes")
                for _ in range(3):
                    list(_probe(self))
        except BaseException:
            self.daemon.close()
            raise

    def close(self) -> None:
        """Stop it in good order."""
        self.daemon.signal(signal.SIGTERM)
        try:
            assert self.daemon.wait_exit() == 0
            assert not self.daemon.count("master has failed|internal error"), self.daemon.log
        finally:
            self.daemon.close()

    # Clients, and what makes calls happen

    def connect(self) -> RawClient:
        """A new client."""
        address = ("127.0.0.1", self._port)
        if self._authority is not None:
            return TlsClient(address, self._authority.client())
        return RawClient(address)

    def pid(self, role: str) -> int:
        """The one process of this role."""
        if role == "master":
            return self.daemon.pid
        return wait_until(
            lambda: next((pid for pid in self.daemon.children() if role in title(pid)), 0), f"a {role}"
        )

    # One cell

    def run(self, cell: Cell, seconds: float) -> Result:
        """`seconds`: how long the call fails; 0: it fails once."""
        pid, mark = self.pid(cell.role), self.daemon.mark()
        descriptors = open_descriptors(pid)
        with Client(self.connect) as standing, Client(self.connect, fresh=True) as fresh:
            clients = (standing.counts, fresh.counts)
            self._wait_answered(clients)
            poke = POKES[cell.poke](self)
            # CPython tries again at once (PEP 475): a call that is interrupted for ever would never return.
            times = 1 if not seconds else MANY if cell.error == errno.EINTR else 0
            with self.plan.fail(cell.call, cell.error, kind=cell.kind, pid=pid, times=times) as fault:
                next(poke)
                fault.wait_hit()
                cpu = self._endure(cell, pid, seconds, standing.counts) if seconds else 0.0
                hits = fault.hits
            recovery = self._recover(poke)
            self._wait_answered(clients)
        for _ in poke:
            pass  # what the poke has changed is as it was
        assert alive(pid), f"the {cell.role} has died"
        expected = cell.wrong or _ENDED.get(cell.poke, "^$")
        wrong = [text for one in clients for text in one.wrong if not re.search(expected, text)]
        assert not wrong, wrong
        cut = sum(one.cut for one in clients)
        # `reload.enabled` closes connections on which nothing has come for 50 ms: on a busy machine that is also one
        # that was opened just now.
        most = (hits if cell.cuts else 0) + (2 if cell.poke in _ENDED else 0)
        assert cut <= most, f"{cut} connections were cut, and {hits} calls failed"
        lines = self._lines(mark, cell, seconds)
        wait_until(lambda: open_descriptors(pid) <= descriptors, f"no more than {descriptors} descriptors")
        return Result(hits, cpu, recovery, lines, sum(one.answered for one in clients), cut)

    def _endure(self, cell: Cell, pid: int, seconds: float, standing: Counts) -> float:
        """The fault lasts; what the process takes of a core meanwhile, in percent."""
        before, began, ticks = standing.answered, time.monotonic(), cpu_ticks(pid)
        time.sleep(seconds)  # the length of the fault is what is tested
        percent = 100 * (cpu_ticks(pid) - ticks) / _TICKS / (time.monotonic() - began)
        # Byte by byte everything takes longer, and is no less work.
        assert percent < MOST_CPU or not cell.error, (
            f"the {cell.role} takes {percent:.0f} % of a core while {cell.call} fails"
        )
        if not cell.blind:
            wait_until(lambda: standing.answered > before, f"an answer while {cell.call} fails")
        return percent

    def _recover(self, poke: Iterator[None]) -> float:
        """Seconds until a new client is answered, and what was poked has come about."""
        began = time.monotonic()
        with self.connect() as client:
            assert not ask(client, 4)
        next(poke)
        seconds = time.monotonic() - began
        assert seconds < MOST_RECOVERY, f"{seconds:.1f} s after the fault"
        return seconds

    def _wait_answered(self, clients: tuple[Counts, ...]) -> None:
        """Until each of them is answered once more."""
        for one in clients:
            before = one.answered
            wait_until(lambda: one.answered > before, "a client is answered")  # noqa: B023 - used up here

    def _lines(self, mark: int, cell: Cell, seconds: float) -> int:
        """How many lines were logged, beside those of requests."""
        lines = [line for line in self.daemon.lines[mark:] if "  access  " not in line]
        if cell.noisy:
            return len(lines)
        assert len(lines) <= _LINES + seconds * _LINES_A_SECOND, f"{len(lines)} lines: {lines[:20]}"
        assert not [line for line in lines if "Traceback" in line], "\n".join(lines)
        return len(lines)


def open_descriptors(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_ticks(pid: int) -> int:
    """The time that a process has taken (utime and stime of proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


_LIVEZ: Final = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

# What makes calls happen that no traffic makes. Each is begun while the fault is on; goes on when it is over, until
# what was wanted has come about; and then undoes it.


def _nothing(bench: Bench) -> Iterator[None]:
    """The traffic is enough."""
    yield
    yield


def _grow(bench: Bench) -> Iterator[None]:
    """One child more."""
    daemon, before = bench.daemon, len(bench.daemon.workers())
    mark = daemon.mark()
    daemon.signal(signal.SIGTTIN)
    yield
    daemon.wait_for_line(r"worker 1 g\d+ \(pid \d+\) is ready", after=mark)
    yield
    daemon.signal(signal.SIGTTOU)
    wait_until(lambda: len(daemon.workers()) == before, "one child less")


def _scale(bench: Bench) -> Iterator[None]:
    """As `_grow`, where the log cannot be waited for."""
    daemon, before = bench.daemon, len(bench.daemon.workers())
    daemon.signal(signal.SIGTTIN)
    yield
    wait_until(lambda: len(daemon.workers()) == before + 1, "one child more")
    yield
    daemon.signal(signal.SIGTTOU)
    wait_until(lambda: len(daemon.workers()) == before, "one child less")


def _reload(bench: Bench) -> Iterator[None]:
    """A reload: one that fails meanwhile fails as a whole, and the one after it works."""
    daemon = bench.daemon
    daemon.signal(signal.SIGHUP)
    yield
    mark = daemon.mark()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line(r"generation \d+ ready", after=mark)
    yield
    wait_until(lambda: len(daemon.workers()) == 1, "the old children have gone")


def _status(bench: Bench) -> Iterator[None]:
    """Somebody asks for the status, and waits for the answer."""
    path = bench.daemon.folder / "server.control"
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(MOST_RECOVERY)
        asking.connect(str(path))
        asking.sendall(b'{"v": 1, "do": "status"}\n')
        yield
        assert b'"ok"' in asking.recv(1 << 20)
        yield


def _probe(bench: Bench) -> Iterator[None]:
    """Probes of the admin process; one that was cut asks again."""
    port = int(bench.daemon.wait_for_line(r"admin plane is at http://\S+:(\d+)")[1])
    with RawClient(("127.0.0.1", port)) as early:
        early.send(_LIVEZ)
        yield
        with RawClient(("127.0.0.1", port)) as late:
            late.send(_LIVEZ)
            answer = late.response()
            assert answer.status == 200, answer
        yield


def _touch(bench: Bench) -> Iterator[None]:
    """A watched file changes, again and again until there is a reload: changes are named twice rather than never."""
    mark = bench.daemon.mark()
    file = bench.daemon.folder / "watched" / "some.py"
    file.write_text(f"# {time.time()}\n")
    yield
    bench.daemon.wait_for_line(r"generation \d+ ready", after=mark)
    yield
    wait_until(lambda: len(bench.daemon.workers()) == 1, "the old children have gone")


POKES: Final[Mapping[str, Callable[[Bench], Iterator[None]]]] = {
    "": _nothing, "grow": _grow, "scale": _scale, "reload": _reload, "status": _status, "probe": _probe,
    "touch": _touch,
}  # fmt: skip
