"""The words of the master's log: pure functions from facts to one line.

Promises: a line names the thing, what happened to it and, where a person has to act, the remedy.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from ..config import ServerConfig
from .listeners import Listener
from .roster import Generation, Urgency

TRUSTS_EVERYBODY = (
    "proxy.trusted has *: whoever can connect says who the client is, "
    "which is right only where nobody but the proxy can connect"
)


def count(number: int, one: str, many: str = "") -> str:
    """`1 child`, `2 children`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def how_it_ended(status: int) -> str:
    """What a wait status of waitpid says: `exited with status 1`, `was killed by SIGSEGV (core dumped)`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-code}"
    return f"was killed by {name}{' (core dumped)' if os.WCOREDUMP(status) else ''}"


def crash_hint(status: int, oom_kills: int | None = None) -> str:
    """Who has killed it, when nobody here has. oom_kills: how many in its control group the kernel has killed for want
    of memory since the last time; None: nobody knows."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        if oom_kills:
            return f" (by the kernel, for want of memory: oom_kill has grown by {oom_kills})"
        if oom_kills == 0:
            return " (by hand, as the kernel says that it has killed nothing here for want of memory)"
        return " (by hand, or by the kernel for want of memory: see dmesg)"
    return ""


def is_listening(listener: Listener, config: ServerConfig) -> str:
    """With the address as one types it."""
    return f"listening on {listener.url('http' if config.tls is None else 'https')}"


def is_ready(generation: Generation, threads: int, seconds: float) -> str:
    """`generation 3 ready in 0.21 s: 2 processes × 4 threads`. threads: 0 in `mode: async`."""
    each = count(threads, "thread") if threads else "1 event loop"
    size = f"{count(generation.wanted, 'process', 'processes')} × {each}"
    return f"generation {generation.number} ready in {seconds:.2f} s: {size}"


def master_title(config: ServerConfig) -> str:
    """What process lists show for the master."""
    return f"{config.process.title or 'serverd'}: master ({config.app})"


def stopping(urgency: Urgency, graceful: float, *, serving: bool) -> str:
    """What happens now, when the server is to stop. serving: a generation has become ready."""
    if not serving:
        return "stopping"
    match urgency:
        case Urgency.GRACEFUL:
            return f"stopping, requests in flight have {graceful:g} s" if graceful else "stopping"
        case Urgency.FAST:
            return "stopping at once, requests in flight are cut off"
        case Urgency.NOW:
            return "killing what is left"


def names(things: Sequence[object]) -> str:
    """`one, two`."""
    return ", ".join(map(str, things))


def gil_is_on(culprit: str | None) -> str:
    """The warning for a child whose threads do not run in parallel."""
    cause = f"switched on by {culprit}" if culprit else "this is not a free-threaded build of Python"
    remedy = "use a version of it that supports free threading" if culprit else "use python3.14t"
    return f"the GIL is on ({cause}): the threads of a child take turns; {remedy}, or raise workers.processes"
