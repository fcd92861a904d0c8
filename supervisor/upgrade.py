"""Hot upgrade: a new master (a new interpreter, a new serverd) takes the place of this one, without a request lost.

Promises: this master goes on as if nothing had happened until the new one serves; if the new one cannot (it exits, its
application does not boot, it takes too long), that is one line in the log with the reason, and all is as before; when
it serves, this one lets go of everything, tells systemd who the main process is, drains its children and leaves.
Who stops this master meanwhile stops both. Refuses as process 1, while a reload, a stop or another upgrade is under
way, and before anything serves.

What state an upgrade is in, and what may follow, is one table; `why_not`, `patience` and `next_state` are pure.
What is handed over, and how the new master takes it, is succession.py.

Owned by the master's only thread.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..config import TimeoutsConfig
from ..server.channel import NO_MEMORY
from . import policy, reports
from .origin import Origin, start_successor
from .roster import Roster, Urgency
from .spawn import LAST_PACKETS, PACKETS_A_TURN, Closable, Descriptor, Started
from .succession import LARGEST_PACKET, VARIABLE, YOURS, Estate, read_word

logger = logging.getLogger("serverd.master")

_INIT: Final = 1
# The interpreter's start and reading the configuration, on a busy machine; its children have timeouts.boot.
_START_MARGIN: Final = 10.0
# With workers.preload the application boots twice, one after the other: in the template and in the children.
_BOOTS: Final = 2


class State(enum.Enum):
    """Where an upgrade is; the value is the word for messages."""

    NONE = "none"
    BOOTING = "booting"  # the new master exists and does not serve yet
    ENDING = "ending"  # it has failed, or was told to go: its exit is awaited
    KILLED = "killed"  # SIGKILL is on its way
    HANDED_OVER = "handed over"  # everything is the new master's, and this one drains
    LOST = "lost"  # it has died while this one drained


class Event(enum.Enum):
    """What can happen to it."""

    STARTED = "started"
    SERVING = "serving"  # it says that its first generation serves
    FAILED = "failed"  # it says that it cannot
    TOLD_TO_GO = "told to go"  # it took too long, or the whole server stops
    KILL_SENT = "kill sent"
    EXITED = "exited"


class IllegalTransition(Exception):
    """This cannot happen in this state: a mistake of ours, or a new master that speaks out of turn."""


# What the new master says may have been said before it heard that it has to go: such a late word changes nothing.
_TABLE: Final[Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        State.NONE: {Event.STARTED: State.BOOTING},
        State.BOOTING: {
            Event.SERVING: State.HANDED_OVER,
            Event.FAILED: State.ENDING,
            Event.TOLD_TO_GO: State.ENDING,
            Event.EXITED: State.NONE,
        },
        State.ENDING: {
            Event.SERVING: State.ENDING,
            Event.FAILED: State.ENDING,
            Event.TOLD_TO_GO: State.ENDING,  # the whole server stops, or stops faster
            Event.KILL_SENT: State.KILLED,
            Event.EXITED: State.NONE,
        },
        State.KILLED: {
            Event.SERVING: State.KILLED,
            Event.FAILED: State.KILLED,
            Event.EXITED: State.NONE,
        },
        State.HANDED_OVER: {Event.EXITED: State.LOST},
        State.LOST: {},
    }
)

# A new master that is not ours to leave behind exists.
_UNDER_WAY: Final = frozenset({State.BOOTING, State.ENDING, State.KILLED})


def next_state(state: State, event: Event) -> State:
    """The state that `event` leads to from `state`. Raises IllegalTransition when the table has no such cell."""
    try:
        return _TABLE[state][event]
    except KeyError:
        raise IllegalTransition(f"an upgrade that is '{state.value}' cannot see '{event.value}'") from None


def why_not(roster: Roster, state: State, pid: int) -> str | None:
    """Why no upgrade can begin now; None if one can."""
    if pid == _INIT:
        return (
            "this master is process 1, and a container ends with its process 1: start a new container instead"
        )
    if state in _UNDER_WAY:
        return "an upgrade is under way"
    if state in (State.HANDED_OVER, State.LOST):
        return "a new master has taken over already, and this one drains"
    if roster.stopping:
        return "the server stops"
    if roster.current is None:
        return "nothing serves yet"
    if roster.taking_over:
        return "the old master has not let go of everything yet"
    if roster.booting is not None or roster.request is not None:
        return "a reload is under way; try again when it has ended"
    return None


def patience(boot: float) -> float:
    """Seconds that a new master has until it serves; infinite when `timeouts.boot` is 0."""
    return _BOOTS * boot + _START_MARGIN if boot else math.inf


@dataclass(slots=True)
class Successor:
    """The new master as a process, while it is our child. `due`: when it has had its time, whatever it does."""

    process: Started
    due: float
    reason: str = ""  # why it has to go, or went


class Upgrade:
    """See the module.

    `estate` tells what there is to hand over, and `let_go` lets go of it. `asked` hears how the next upgrade ended,
    each once, and is empty then.
    """

    def __init__(
        self,
        roster: Roster,
        selector: selectors.BaseSelector,
        origin: Origin,
        estate: Callable[[], Estate],
        let_go: Callable[[int], None],
    ) -> None:
        self.state = State.NONE
        self.asked: list[Callable[[bool, str], None]] = []
        self._roster = roster
        self._selector = selector
        self._origin = origin
        self._estate = estate
        self._let_go = let_go
        self._new: Successor | None = None

    @property
    def under_way(self) -> bool:
        """Whether a new master boots, or has failed and is not gone yet."""
        return self.state in _UNDER_WAY

    def busy(self) -> str | None:
        """Why nothing else can be asked of this master now; None if it can."""
        if self.under_way:
            return f"an upgrade is under way (process {self.pid} boots); ask again when it has ended"
        return f"the master is process {self.pid} now" if self.state is State.HANDED_OVER else None

    @property
    def pid(self) -> int:
        """The new master's process; 0 without one."""
        return self._new.process.pid if self._new is not None else 0

    def begin(self, cause: str) -> str | None:
        """Start a new master. Why that cannot be done now, or None; how it ends is told to `asked`."""
        problem = why_not(self._roster, self.state, os.getpid())
        if problem is None:
            logger.info("upgrade: %s", cause)
            estate = self._estate()
            try:
                process = start_successor(self._origin, VARIABLE, estate.packet(), estate.descriptors())
            except OSError as error:
                problem = f"no process can be started ({error.strerror})"
        if problem is not None:
            logger.warning("upgrade refused: %s", problem)
            return problem
        self._apply(Event.STARTED)
        self._new = Successor(process, time.monotonic() + patience(self._timeouts.boot))
        logger.info("upgrade: the new master is process %d", process.pid)
        self._selector.register(process.channel, selectors.EVENT_READ, self._hear)
        self._selector.register(process.pidfd, selectors.EVENT_READ, self._on_exit)
        return None

    def stop(self, urgency: Urgency) -> None:
        """The whole server stops: a new master that has not taken over stops with it."""
        if self.state not in (State.BOOTING, State.ENDING):
            return
        if urgency is Urgency.NOW:
            self._kill()
        else:
            number = signal.SIGTERM if urgency is Urgency.GRACEFUL else signal.SIGQUIT
            self._tell_to_go(number, "the server stops", urgency)

    def due(self) -> float:
        """When `expire` has something to do, in monotonic seconds."""
        return self._new.due if self._new is not None and self.under_way else math.inf

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if self._new is None or self.due() > now:
            return
        if self.state is State.BOOTING:
            limit = patience(self._timeouts.boot)
            reason = f"the new master did not serve within {limit:g} s (timeouts.boot)"
            logger.error("upgrade: %s: it has to go", reason)
            self._tell_to_go(signal.SIGTERM, reason, Urgency.GRACEFUL)
        else:
            self._kill()

    def bury(self, pid: int, status: int) -> bool:
        """`pid` was reaped by somebody else; True if it was the new master."""
        if self._new is None or self._new.process.pid != pid:
            return False
        self._departed(status)
        return True

    def belongings(self) -> Iterator[Closable]:
        """Our end of its channel, and its pidfd."""
        if self._new is not None:
            yield Descriptor(self._new.process.pidfd)
            yield self._new.process.channel

    # What happens to the new master

    @property
    def _timeouts(self) -> TimeoutsConfig:
        """Of the generation that serves; an upgrade begins with one, and one that serves is there until the end."""
        assert self._roster.current is not None
        return self._roster.current.config.timeouts

    def _apply(self, event: Event) -> None:
        self.state = next_state(self.state, event)
        self._roster.upgrading = self.under_way

    def _tell_to_go(self, number: signal.Signals, reason: str, urgency: Urgency) -> None:
        assert self._new is not None
        self._apply(Event.TOLD_TO_GO)
        self._give_time(reason, urgency)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._new.process.pidfd, number)

    def _give_time(self, reason: str, urgency: Urgency) -> None:
        """It has to go because of `reason`, the first of them; and in this time."""
        assert self._new is not None
        self._new.reason = self._new.reason or reason
        # As long as any stop may take, and a while for its own end.
        wait = policy.longest_stop(self._timeouts.graceful, urgency) + policy.STOP_GRACE
        if urgency is Urgency.GRACEFUL:
            wait += self._timeouts.lame_duck  # it may serve already
        self._new.due = time.monotonic() + wait

    def _kill(self) -> None:
        assert self._new is not None
        logger.error("upgrade: the new master (pid %d) does not go: killing it", self.pid)
        if self.state is State.BOOTING:
            self._apply(Event.TOLD_TO_GO)
        self._apply(Event.KILL_SENT)
        self._new.due = math.inf
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._new.process.pidfd, signal.SIGKILL)

    def _hear(self, most: int = PACKETS_A_TURN) -> None:
        """Read what the new master says, no more than `most` packets; nothing in it can hurt us."""
        for _ in range(most):
            if self._new is None or not self._listens():
                return
            try:
                packet = self._new.process.channel.sock.recv(LARGEST_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_MEMORY:  # it is still there
                    raise
                packet = b""
            if not packet:
                self._selector.unregister(self._new.process.channel)
                return
            try:
                word, line = read_word(packet)
                self._understand(word, line)
            except (ValueError, RecursionError, IllegalTransition) as error:
                logger.warning("upgrade: the new master (pid %d) has said nonsense: %s", self.pid, error)

    def _listens(self) -> bool:
        return self._new is not None and self._selector.get_map().get(self._new.process.channel) is not None

    def _understand(self, word: str, line: str) -> None:
        assert self._new is not None
        if word == "failed":
            first = self.state is State.BOOTING
            self._apply(Event.FAILED)
            if first:
                self._give_time(line, Urgency.GRACEFUL)
            return
        if select.select([self._new.process.pidfd], [], [], 0)[0]:
            return  # it has died since: nothing is handed over to the dead
        self._apply(Event.SERVING)
        if self.state is State.HANDED_OVER:
            self._let_go(self.pid)
            with contextlib.suppress(OSError):  # it has died this moment: _on_exit says so
                self._new.process.channel.sock.send(YOURS, socket.MSG_NOSIGNAL)
            self._tell(True, line)

    def _on_exit(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._departed(status)

    def _departed(self, status: int) -> None:
        assert self._new is not None
        with contextlib.suppress(OSError):  # no memory: it has been reaped, and is buried all the same
            self._hear(LAST_PACKETS)
        new, self._new = self._new, None
        for thing in (new.process.channel, new.process.pidfd):
            if self._selector.get_map().get(thing) is not None:
                self._selector.unregister(thing)
        new.process.channel.close()
        os.close(new.process.pidfd)
        self._apply(Event.EXITED)
        how = reports.how_it_ended(status)
        if self.state is State.LOST:
            logger.error("upgrade: the new master (pid %d) %s, while this one drains", new.process.pid, how)
            return
        line = f"upgrade failed: {new.reason or f'the new master {how}'}"
        if self._roster.shutdown is None and self._roster.current is not None:
            serves = "still serving" if self._roster.ready(self._roster.current) else "no child serves of"
            line += f"; {serves} generation {self._roster.current.number}"
        logger.error("%s", line)
        self._tell(False, line)

    def _tell(self, ok: bool, line: str) -> None:
        asked, self.asked = self.asked, []
        for outcome in asked:
            outcome(ok, line)
