"""The children as processes: started, heard, told to go, killed, buried.

Promises: what a child says and how it ends is written into the roster before anything is decided from it; the
last words of a child that has exited are read before its exit counts; what all children of a generation say
alike is logged once; no child, whatever it sends, can make the master fail. Refuses to decide (policy.py): it
is the hands.

Owned by the master's only thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from ..server import wear
from ..server.channel import (
    NO_MEMORY,
    Begin,
    BootFailed,
    Channel,
    ChannelError,
    Drain,
    Drained,
    LameDuck,
    Message,
    Ready,
    StacksAre,
    Stop,
    Worn,
)
from . import actions, cgroup, flight_recorder, policy, reports
from .board import Board
from .child_state import Event, IllegalTransition, State
from .heirs import heirs_of, introduced
from .nursery import Nursery
from .roster import Child, Departure, Generation, Roster
from .spawn import LAST_PACKETS, PACKETS_A_TURN, Closable, Descriptor, Main, Order, start_child
from .stack_rounds import StackRounds
from .template import Asked, Template

logger = logging.getLogger("serverd.master")

# How many different complaints are remembered; a child whose words differ each time must not fill the memory.
_MOST_SAID: Final = 200
# Seconds until a child is told what could not be said for want of memory.
_AGAIN: Final = 0.1
_MOST_KEPT: Final = 2000  # characters of each


class Crew:
    """The master's children. `threads` is how many each has, as the last one that became ready said; `rounds` hears
    what they say of their stacks."""

    def __init__(
        self,
        roster: Roster,
        selector: selectors.BaseSelector,
        nursery: Nursery,
        board: Board,
        main: Main | None,
    ) -> None:
        self.threads = 0
        self.rounds = StackRounds(roster, board)
        self._board = board
        self._nursery = nursery
        self._roster = roster
        self._selector = selector
        self._main = main
        self._said: set[tuple[int, str]] = set()
        self._oom_kills = cgroup.oom_kills()

    def start(
        self,
        generation: Generation,
        index: int,
        sockets: tuple[socket.socket, ...],
        belongings: Callable[[], Iterable[Closable]],
        replaces: Child | None = None,
    ) -> None:
        """A child for the place `index`. What the machine refuses now is tried again after a back-off."""
        now = time.monotonic()
        child = Child(index, generation.number, now, replaces=replaces)
        try:
            child.papers = self._board.papers(generation.config)
            order = Order(
                index, generation.number, generation.config, sockets, generation.identity, child.papers
            )
            if (template := self._roster.template(generation)) is not None:
                self._ask(template, child, order)
                return
            started = start_child(order, belongings(), self._main)
        except OSError as error:
            self._not_started(child, error.strerror or str(error))
            return
        child.channel = started.channel
        child.papers = self._board.handed_over(child.papers)
        self._roster.children.append(child)
        self._started(child, started.pid, started.pidfd)

    def _ask(self, template: Template, child: Child, order: Order) -> None:
        """Let `template` fork `child`. It is in the roster from now on, as one that has no process yet."""
        child.channel, below = Channel.pair()
        child.channel.sock.setblocking(False)
        self._roster.children.append(child)

        def born(pid: int, pidfd: int) -> None:
            self._started(child, pid, pidfd)
            self._send(child, Begin())

        self._nursery.fork(template, order, below, Asked(born, lambda error: self._not_started(child, error)))
        child.papers = self._board.handed_over(child.papers)

    def _started(self, child: Child, pid: int, pidfd: int) -> None:
        """`child` is a process."""
        assert child.channel is not None
        child.pid, child.pidfd = pid, pidfd
        child.apply(Event.SPAWNED, time.monotonic())
        self._selector.register(child.channel, selectors.EVENT_READ, partial(self._on_message, child))
        self._selector.register(pidfd, selectors.EVENT_READ, partial(self._on_exit, child))

    def _not_started(self, child: Child, why: str) -> None:
        """`child` will never be a process; its place waits like one whose child has crashed."""
        self._board.fold(child.papers)
        if child.channel is not None:
            child.channel.close()
            child.channel = None
        self._roster.spawn_failed(child, time.monotonic())
        generation = self._roster.generation(child.generation)
        if generation is None or self._roster.shutdown is not None:
            return  # nobody wants it any more
        slot = generation.slot(child.index)
        if policy.is_said(slot):
            wait = policy.wait_of(slot)
            logger.warning("%s: cannot start a process (%s); next try in %.1f s", child.name, why, wait)

    def may_renew(self, child: Child) -> bool:
        """Whether there is memory for a successor beside `child`. If not, that is said, and tried again later."""
        resident, headroom = wear.resident(child.pid), cgroup.headroom()
        if policy.fits(headroom, resident):
            return True
        logger.warning(
            "%s (pid %d) is to be replaced (%s) and has %d MiB, but its control group has only %d MiB left for a "
            "successor: raise MemoryMax; next try in %.0f s",
            child.name,
            child.pid,
            child.worn,
            resident >> 20,
            (headroom or 0) >> 20,
            policy.RENEW_AGAIN,
        )
        child.worn_at = time.monotonic() + policy.RENEW_AGAIN
        return False

    def dismiss(
        self, action: actions.SayClose | actions.AskToDrain | actions.AskToStop | actions.KillChild
    ) -> None:
        """See a child off, as kindly as `action` says."""
        match action:
            case actions.SayClose(child):
                child.lame = True
                self._send(child, LameDuck())
            case actions.AskToDrain():
                self.drain(action)
            case actions.AskToStop(child, reason):
                self.stop(child, reason)
            case actions.KillChild(child, reason):
                self.kill(child, reason)

    def tend(self, now: float) -> float:
        """Say what could not be said for want of memory; when to try again, infinite for never."""
        mute = [
            child for child in self._roster.children if child.channel is not None and child.channel.unsent
        ]
        return now + _AGAIN if any(not child.channel.flush() for child in mute if child.channel) else math.inf

    def drain(self, action: actions.AskToDrain) -> None:
        """Tell a child to finish what it has received, and who gets its idle connections."""
        child = action.child
        heirs = () if action.final else heirs_of(child, self._roster)
        self._roster.drain_sent(child, time.monotonic(), final=action.final, patience=action.patience)
        order = Drain(action.graceful, action.final, action.close_idle)
        with introduced(child, heirs) as ways:
            sent = bool(ways) and child.channel is not None and child.channel.send_with(order, ways)
        if not sent:  # without heirs; or the kernel carries no more descriptors for us now
            self._send(child, order)

    def stop(self, child: Child, reason: str) -> None:
        """Tell `child` to give up what is in flight; `reason` is for the log, empty when somebody asked for it."""
        if reason:
            logger.warning("%s (pid %d) %s: cutting it off", child.name, child.pid, reason)
        child.apply(Event.STOP_SENT, time.monotonic())
        self._send(child, Stop())

    def kill(self, child: Child, reason: str) -> None:
        """SIGKILL, for a child that has had its chance."""
        logger.error("%s (pid %d) %s: killing it", child.name, child.pid, reason)
        child.killed_because = reason
        child.apply(Event.KILL_SENT, time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def bury(self, pid: int, status: int) -> bool:
        """`pid` was reaped by somebody else; True if it was one of ours."""
        child = next((child for child in self._roster.children if child.pid == pid), None)
        if child is not None:
            self._departed(child, status)
        return child is not None

    def belongings(self) -> Iterator[Closable]:
        """Our ends of the children's channels, and their pidfds."""
        for child in self._roster.children:
            if child.pidfd >= 0:
                yield Descriptor(child.pidfd)
            if child.channel is not None:
                yield child.channel
            yield from (Descriptor(fd) for fd in (child.papers.words, child.papers.stacks) if fd >= 0)

    def _send(self, child: Child, message: Message) -> None:
        # One that does not get through is for a child that is gone or hangs; the deadline of its state sees to
        # that. One that has no process yet reads nothing before `Begin`.
        if child.channel is not None and child.state is not State.NEW:
            child.channel.send(message)

    def _on_message(self, child: Child, most: int = PACKETS_A_TURN) -> None:
        """Read what `child` has said, up to the end of its channel if that is there, and no more than `most`."""
        for _ in range(most):
            if child.channel is None:
                return
            try:
                message = child.channel.recv()
                if message is not None:
                    self._hear(child, message)
                    continue
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_MEMORY:  # it says so again as soon as it can be read
                    raise
                self.kill(child, f"cannot be heard ({error})")
            except (ChannelError, IllegalTransition) as error:
                if child.state is not State.KILLED:
                    self.kill(child, f"spoke out of turn ({error})")
            self._hang_up(child)
            child.lost_at = time.monotonic()

    def _hang_up(self, child: Child) -> None:
        if child.channel is not None:
            self._selector.unregister(child.channel)
            child.channel.close()
            child.channel = None

    def _hear(self, child: Child, message: Message) -> None:
        now = time.monotonic()
        match message:
            case Ready():
                child.apply(Event.BECAME_READY, now)
                self.threads = child.threads = message.threads
                child.gil = message.gil
                serves_already = (
                    self._roster.current is not None and self._roster.current.number == child.generation
                )
                level = logging.INFO if serves_already else logging.DEBUG
                logger.log(level, "%s (pid %d) is ready, in %.2f s", child.name, child.pid, message.seconds)
                if message.gil and self._first_time(0, f"gil {message.gil_culprit}"):
                    logger.warning("%s", reports.gil_is_on(message.gil_culprit))
            case BootFailed():
                self._roster.boot_failed(child, message, now)
                if self._first_time(child.generation, message.error):
                    trace = "\n" + message.traceback.rstrip() if message.traceback else ""
                    logger.error("%s cannot boot: %s%s", child.name, message.error, trace)
            case Drained():
                child.apply(Event.DRAINED, now)
                if message.cut:  # the child has named them
                    logger.warning(
                        "%s has cut off %s", child.name, reports.count(len(message.cut), "request")
                    )
                logger.debug(
                    "%s has drained, after %s", child.name, reports.count(message.requests, "request")
                )
            case StacksAre():
                self.rounds.heard(child, message)
            case Worn():
                self._worn(child, message, now)
            case _:
                raise ChannelError(f"a child cannot say {type(message).__name__}")

    def _worn(self, child: Child, message: Worn, now: float) -> None:
        if message.reason not in wear.REASONS:
            raise ChannelError(f"a child cannot be worn by {message.reason[:40]!r}")
        if self._roster.wear_out(child, message.reason, now):
            logger.info("%s (pid %d) has had %s: it is replaced", child.name, child.pid, message.words)

    def _first_time(self, generation: int, text: str) -> bool:
        if len(self._said) > _MOST_SAID:
            self._said.clear()
        text = text[:_MOST_KEPT]
        known = (generation, text) in self._said
        self._said.add((generation, text))
        return not known

    def _on_exit(self, child: Child) -> None:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            self._departed(child, status)

    def _departed(self, child: Child, status: int) -> None:
        """`child` is reaped: hear its last words, forget its descriptors, and say what its exit means."""
        with contextlib.suppress(OSError):  # no memory: it has been reaped, and is buried all the same
            self._on_message(child, LAST_PACKETS)
        self._hang_up(child)  # still there if a process that the application has started holds the other end
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1  # still in the roster: none of our belongings, whatever fails below
        words = self._board.last_words(child.papers)
        view = self._board.fold(child.papers)
        self.rounds.gone(child)
        explained = child.cannot_boot or child.killed_because != ""
        how = child.killed_because or reports.how_it_ended(status)
        code = os.waitstatus_to_exitcode(status)
        departure = self._roster.exited(child, code, f"{child.name} {how}", time.monotonic())
        who = f"{child.name} (pid {child.pid})"
        wait = self._wait(child)
        match departure:
            case Departure.EXPECTED:
                logger.log(logging.WARNING if code and not explained else logging.DEBUG, "%s %s", who, how)
            case Departure.LEFT:
                logger.info("%s was told to leave by somebody else, and did%s", who, wait)
            case Departure.CRASHED:
                logger.error("%s %s%s%s", who, how, "" if explained else self._crash_hint(status), wait)
            case Departure.CANNOT_BOOT:
                if not explained and self._first_time(child.generation, f"died {how}"):
                    logger.error("%s %s while it booted", who, how)
                if wait:
                    logger.warning("%s cannot boot%s", child.name, wait)
        if code and not child.cannot_boot:
            for line in flight_recorder.report(view, words, time.monotonic()):
                logger.error("%s %s", who, line)

    def _crash_hint(self, status: int) -> str:
        before, after = self._oom_kills, cgroup.oom_kills()
        self._oom_kills = after
        return reports.crash_hint(status, None if before is None or after is None else after - before)

    def _wait(self, child: Child) -> str:
        """What will be done about the place that `child` has left, for a log line; empty when nothing will be."""
        generation = self._roster.generation(child.generation)
        if generation is None or generation.failure is not None or self._roster.shutdown is not None:
            return ""
        return f"; a new one starts in {policy.wait_of(generation.slot(child.index)):.1f} s"
