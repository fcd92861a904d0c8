"""The templates as processes (`workers.preload`): started, heard, asked to fork, killed, buried.

Promises: what a template says and how it ends is written into the roster before anything is decided from it; an order
to fork is answered exactly once, by the template or by its end; no template, whatever it sends, can make the master
fail. Refuses to decide (policy.py), and to know what becomes of a child (crew.py): it is the hands.

Owned by the master's only thread.
"""

from __future__ import annotations

import contextlib
import errno
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

from ..server.channel import NO_MEMORY, BootFailed, Channel, ChannelError, Forked, Message, Preloaded
from ..server.template import order as template_order
from . import policy, reports
from .roster import BOOT_FAILURE_STATUS, BootFailure, Generation, Roster
from .spawn import LAST_PACKETS, PACKETS_A_TURN, Closable, Descriptor, Order
from .template import Asked, Event, OutOfTurn, Phase, Template
from .template_spawn import start_template

logger = logging.getLogger("serverd.master")

# PID_MAX_LIMIT of the kernel, include/linux/threads.h
_LARGEST_PID: Final = 4 * 1024 * 1024
# /proc counts the start of a process in ticks, 10 ms each; twice that is on the safe side.
_TICK: Final = 0.02


class Nursery:
    """The master's templates. `adopts`: orphans come to the master from now on, and have to be buried. `is_helper`:
    whether a process is the master's for something else, so that no template can pass it off as a child."""

    def __init__(
        self,
        roster: Roster,
        selector: selectors.BaseSelector,
        is_helper: Callable[[int], bool] = lambda pid: False,
    ) -> None:
        self.adopts = False
        self._roster = roster
        self._selector = selector
        self._is_helper = is_helper
        self._said: tuple[int, str] | None = None

    def start(
        self, generation: Generation, sockets: tuple[socket.socket, ...], belongings: Iterable[Closable]
    ) -> None:
        """A template for `generation`. What the machine refuses now is tried again after a back-off."""
        now = time.monotonic()
        template = Template(generation.number, now, now)
        self.adopts = True
        try:
            started = start_template(generation, sockets, belongings)
        except OSError as error:
            self._roster.template_ended(template, None, now)
            if not policy.is_said(generation.template_slot):
                return
            wait = policy.wait_of(generation.template_slot)
            logger.warning(
                "%s: cannot start a process (%s); next try in %.1f s", template.name, error.strerror, wait
            )
            return
        template.pid, template.pidfd, template.channel = started.pid, started.pidfd, started.channel
        self._roster.templates.append(template)
        self._selector.register(started.channel, selectors.EVENT_READ, partial(self._on_message, template))
        self._selector.register(started.pidfd, selectors.EVENT_READ, partial(self._on_exit, template))

    def fork(self, template: Template, order: Order, below: Channel, asked: Asked) -> None:
        """Have a child forked whose end of its channel is `below` (closed here). `asked` hears what came of it."""
        template.apply(Event.ASKED, time.monotonic())
        template.asked = asked
        with contextlib.closing(below):
            handed = [below.fileno(), *order.papers.descriptors()]
            message = template_order(order.index, order.papers)
            sent = template.channel is not None and template.channel.send_with(message, handed)
        if not sent:
            self.kill(template, "does not take orders")

    def kill(self, template: Template, reason: str) -> None:
        """SIGKILL: there is nothing in it that could be lost. reason: empty when nobody needs it any more."""
        if reason:
            logger.error("%s (pid %d) %s: killing it", template.name, template.pid, reason)
        template.not_needed = not reason
        template.killed_because = reason
        template.apply(Event.KILL_SENT, time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(template.pidfd, signal.SIGKILL)

    def bury(self, pid: int, status: int) -> bool:
        """`pid` was reaped by somebody else; True if it was one of ours."""
        template = next((item for item in self._roster.templates if item.pid == pid), None)
        if template is not None:
            self._ended(template, status)
        return template is not None

    def belongings(self) -> Iterator[Closable]:
        """Our ends of the templates' channels, and their pidfds."""
        for template in self._roster.templates:
            yield Descriptor(template.pidfd)
            if template.channel is not None:
                yield template.channel

    def _on_message(self, template: Template, most: int = PACKETS_A_TURN) -> None:
        """Read what `template` has said, up to the end of its channel if that is there, and no more than `most`."""
        for _ in range(most):
            if template.channel is None:
                return
            try:
                message = template.channel.recv()
                if message is not None:
                    self._hear(template, message)
                    continue
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NO_MEMORY:  # it says so again as soon as it can be read
                    raise
                self.kill(template, f"cannot be heard ({error})")
            except (ChannelError, OutOfTurn) as error:
                if template.phase is not Phase.KILLED:
                    self.kill(template, f"spoke out of turn ({error})")
            self._hang_up(template)  # its exit follows; policy.py sees to one that lives on
            template.lost_at = time.monotonic()

    def _hang_up(self, template: Template) -> None:
        if template.channel is not None:
            self._selector.unregister(template.channel)
            template.channel.close()
            template.channel = None

    def _hear(self, template: Template, message: Message) -> None:
        now = time.monotonic()
        match message:
            case Preloaded():
                template.apply(Event.IMPORTED, now)
                generation = self._roster.generation(template.generation)
                if generation is None or template.phase is Phase.KILLED:
                    return
                generation.imported_in = now - template.began
                logger.info(
                    "%s (pid %d) has imported %s in %.2f s",
                    template.name,
                    template.pid,
                    generation.config.app,
                    generation.imported_in,
                )
            case BootFailed():
                template.apply(Event.CANNOT, now)
                if template.not_needed:
                    return
                self._roster.template_cannot(template, BootFailure.told(message))
                if self._said != (template.generation, message.error):
                    self._said = (template.generation, message.error)
                    trace = "\n" + message.traceback.rstrip() if message.traceback else ""
                    logger.error("%s cannot boot: %s%s", template.name, message.error, trace)
            case Forked():
                since = template.since
                template.apply(Event.ANSWERED, now)
                self._answer(template, message, since)
            case _:
                raise ChannelError(f"a template cannot say {type(message).__name__}")

    def _answer(self, template: Template, message: Forked, since: float) -> None:
        """Tell who has asked at `since`."""
        asked, template.asked = template.asked, None
        if asked is None:
            return
        if message.error:
            asked.failed(str(message.error))
            return
        try:
            if self._is_known(message.pid):
                raise OSError(
                    errno.EPROTO, f"its template names the process {message.pid}, which is another's"
                )
            pidfd = claim(message.pid, since)
        except OSError as error:
            asked.failed(error.strerror or str(error))
        else:
            asked.born(message.pid, pidfd)

    def _is_known(self, pid: int) -> bool:
        children = {child.pid for child in self._roster.children}
        return pid in children | {item.pid for item in self._roster.templates} or self._is_helper(pid)

    def _on_exit(self, template: Template) -> None:
        pid, status = os.waitpid(template.pid, os.WNOHANG)
        if pid:
            self._ended(template, status)

    def _ended(self, template: Template, status: int) -> None:
        """`template` is reaped: hear its last words, forget its descriptors, and say what its exit means."""
        with contextlib.suppress(OSError):  # no memory: it has been reaped, and is buried all the same
            self._on_message(template, LAST_PACKETS)
        self._hang_up(template)
        self._selector.unregister(template.pidfd)
        os.close(template.pidfd)
        how = template.killed_because or reports.how_it_ended(status)
        failure = BootFailure(BOOT_FAILURE_STATUS, f"{template.name} {how}")
        self._roster.template_ended(template, failure, time.monotonic())
        if template.asked is not None:
            asked, template.asked = template.asked, None
            asked.failed("its template has ended")
        if template.not_needed:
            return
        generation = self._roster.generation(template.generation)
        wait = ""
        if generation is not None and generation.failure is None and self._roster.shutdown is None:
            wait = f"; a new one starts in {policy.wait_of(generation.template_slot):.1f} s"
        if template.cannot_import or template.killed_because:
            if wait:
                logger.warning(
                    "%s %s%s", template.name, "cannot boot" if template.cannot_import else how, wait
                )
        else:
            hint = reports.crash_hint(status)
            logger.error("%s (pid %d) %s%s%s", template.name, template.pid, how, hint, wait)


def claim(pid: object, since: float) -> int:
    """A pidfd of the process that a template says it has forked after `since` (monotonic seconds).

    Raises OSError unless the kernel says that it is ours to wait for, and new: nobody else here waits for it.
    """
    if not isinstance(pid, int) or not 0 < pid <= _LARGEST_PID:
        raise OSError(errno.EPROTO, f"its template names the process {str(pid)[:20]!r}")
    pidfd = os.pidfd_open(pid)
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if _started_at(pid) < since - _TICK:
            raise OSError(errno.EPROTO, f"its template names the process {pid}, which is older")
    except OSError:
        os.close(pidfd)
        raise
    return pidfd


def _started_at(pid: int) -> float:
    """When the process began, in seconds of the monotonic clock; infinite where /proc is not mounted."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # starttime, proc_pid_stat(5)
    except FileNotFoundError:
        return math.inf
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - ago
