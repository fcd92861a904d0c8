"""What the admin plane knows at one moment: plain, frozen values, made by ``reading`` and turned into text elsewhere.

Promises: figures count from the start of the daemon, whoever served and whichever generation; a ``Snapshot`` can be
shared by threads. Refuses: to read memory, files or clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..slots import BOUNDS

# What a thread may be doing: nothing, or the application runs, or it waits for the client's body, or for the client
# to read.
IDLE = "idle"
STATES = (IDLE, "running", "reading", "writing")
# What may wait in an event loop.
KINDS = ("request", "websocket", "event stream")


@dataclass(frozen=True, slots=True)
class Histogram:
    """``counts`` for each bound and one for what is above the last; not cumulative. ``total`` is the sum in seconds."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was counted since the daemon began. ``by_status``: "2xx" and so on; "499" is a client that left before its
    answer was complete, or was cut off. ``refused`` and ``seen_off``: connections, see ``scoreboard.Totals``."""

    requests: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    bytes_out: int = 0
    latency: Histogram = Histogram()
    queue_wait: Histogram = Histogram()
    refused: int = 0
    seen_off: int = 0


@dataclass(frozen=True, slots=True)
class Thread:
    """One slot that somebody has. ``since``: monotonic seconds, when the request that holds it began; ``request``: its
    identifier. ``home``: the event loop of the child, which is no worker. ``waiting``: what waits in its loop, and does
    not hold it."""

    slot: int
    state: str
    method: str = ""
    path: str = ""
    request: str = ""
    since: float | None = None
    home: bool = False
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits in an event loop and holds no thread; ``kind`` is one of KINDS."""

    kind: str
    method: str
    path: str
    since: float


@dataclass(frozen=True, slots=True)
class Child:
    """One child process. ``since``: monotonic seconds, when it entered its state. ``workers``: threads that serve; 0 in
    ``mode: async``. ``connections``: their number by phase; ``held``: what waits in its event loops, by kind, of which
    ``waiting`` names some; ``gil``: None until it is known."""

    index: int
    generation: int
    pid: int
    state: str
    since: float
    gil: bool | None = None
    resident: int = 0
    workers: int = 0
    threads: tuple[Thread, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    held: dict[str, int] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    accept_pauses: int = 0

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return f"worker {self.index} g{self.generation}"

    @property
    def busy(self) -> list[Thread]:
        """Its worker threads that a request holds."""
        return [thread for thread in self.threads if thread.state != IDLE and not thread.home]

    @property
    def states(self) -> dict[str, int]:
        """How many of its worker threads are in each state. Those that are not yet known to be anything are idle."""
        found = dict.fromkeys(STATES, 0)
        for thread in self.busy:
            found[thread.state] = found.get(thread.state, 0) + 1
        found[IDLE] = max(0, self.workers - len(self.busy))
        return found


@dataclass(frozen=True, slots=True)
class Reload:
    """How the last one ended; ``at`` in seconds since the epoch."""

    ok: bool
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it. ``now`` is monotonic, ``at`` and ``started`` are seconds since the epoch. ``generation`` is the one
    that serves, None until the first does; ``booting`` the one that may be next. ``resident``: the memory of the
    master and of this process, in bytes."""

    now: float
    at: float
    state: str
    started: float
    pid: int
    version: str = ""
    app: str = ""
    config: str | None = None
    python: str = ""
    mode: str = "sync"
    interface: str = "auto"
    lame_duck: bool = False
    wanted: int = 0
    generation: int | None = None
    booting: int | None = None
    listeners: tuple[str, ...] = ()
    children: tuple[Child, ...] = ()
    figures: Figures = Figures()
    reloads: dict[str, int] = field(default_factory=dict)
    last_reload: Reload | None = None
    restarts: dict[str, int] = field(default_factory=dict)
    lost_threads: int = 0
    resident: dict[str, int] = field(default_factory=dict)

    def ready(self) -> list[Child]:
        """The children that serve."""
        return [child for child in self.children if child.state == "ready"]
