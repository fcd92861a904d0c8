"""How processes come to be; the only file of serverd that forks, with template_spawn.py for `workers.preload`.

Promises: the master has exactly one thread when it forks (else RuntimeError: a lock held by another thread
would stay locked in the child for ever); a child holds the standard streams, its channel and the listening
sockets of its generation, and nothing else of the master's; it has the kernel's signal dispositions, its own
log name, and the identity it was given, before any code of the application runs; what goes wrong before that is
reported like any other failure to boot. Refuses to retry: a fork that fails raises OSError and leaves nothing
behind.

`start_method: spawn` is a fork followed by an exec: a fresh interpreter that reads what it is to do from a memfd.

Called by the master's only thread. What runs in a forked child is below `live`, which never returns.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from ..config import ServerConfig
from ..config.logs import setup_logging
from ..server import child as child_module
from ..server.channel import BootFailed, Channel
from ..server.child import ChildSpec
from ..server.scoreboard import NO_PAPERS, Papers
from . import signals
from .privileges import Identity, PrivilegeError, drop
from .roster import BOOT_FAILURE_STATUS

logger = logging.getLogger("serverd.master")

# sysexits.h EX_SOFTWARE: a mistake of ours, after which nothing better is known.
_BROKEN: Final = 70
# Packets of one process that are read at a time, so that one that has gone mad does not keep the master busy; what is
# left makes its channel readable again.
PACKETS_A_TURN: Final = 16
# Those of one that has exited, where no other turn comes: a send buffer (net.core.wmem_default, 208 KiB) holds fewer,
# as the kernel counts more than half a KiB for each.
LAST_PACKETS: Final = 1024

type Main = Callable[[ChildSpec], int]


class Closable(Protocol):
    """Something that owns a descriptor. Closed through its owner, or the owner would later close a number that is
    somebody else's by then."""

    def close(self) -> object:
        """Give the descriptor back."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A bare descriptor, closable like the objects that own theirs."""

    fd: int

    def close(self) -> None:
        """Give it back to the kernel."""
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Order:
    """What child is wanted."""

    index: int
    generation: int
    config: ServerConfig
    sockets: tuple[socket.socket, ...]
    identity: Identity | None = None
    papers: Papers = NO_PAPERS

    @property
    def name(self) -> str:
        """What the child is called in the log."""
        return f"worker {self.index} g{self.generation}"


@dataclass(frozen=True, slots=True)
class Started:
    """A process that came to be: its number, a pidfd (readable when it has exited), and our end of its channel."""

    pid: int
    pidfd: int
    channel: Channel


def start_child(order: Order, belongings: Iterable[Closable], main: Main | None = None) -> Started:
    """Start a child as `order.config.workers.start_method` says.

    `belongings` is everything of the master that holds a descriptor and is none of the child's business. `main`
    stands in for server.child.main in tests of forked children. Raises OSError when the machine cannot do it
    now.
    """
    above, below = Channel.pair()

    def body() -> int:
        return _prepare(order, below, [above, *belongings], main)

    try:
        return launch(body, above)
    finally:
        below.close()


def start_helper(
    code: str, identity: Identity | None, belongings: Iterable[Closable], given: Sequence[int] = ()
) -> Started:
    """Start a fresh interpreter that runs `code`, a statement in which `{fd}` stands for its end of the channel.

    given: descriptors that it is to have, under the same numbers.
    """
    above, below = Channel.pair()

    def body() -> int:
        for thing in [above, *belongings]:
            thing.close()
        try:
            drop(identity, None)
        except PrivilegeError as error:
            logger.error("%s", error)
            return BOOT_FAILURE_STATUS
        for fd in (below.fileno(), *given):
            os.set_inheritable(fd, True)
        _exec(code.replace("{fd}", str(below.fileno()), 1))

    try:
        return launch(body, above)
    finally:
        below.close()


def launch(body: Callable[[], int], above: Channel) -> Started:
    """Fork a process that lives `body`; `above` is our end of its channel, closed if there is none. Raises OSError."""
    pid = 0
    try:
        above.sock.setblocking(False)
        pid = _fork(body)
        return Started(pid, os.pidfd_open(pid), above)
    except OSError:
        above.close()
        if pid:  # it lives, but we have no descriptor left to watch it with
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def _fork(body: Callable[[], int]) -> int:
    """Fork; the child runs `body` and exits with what it returns."""
    assert_one_thread("the master")
    flush()
    with signals.held_back():
        pid = os.fork()
        if pid == 0:
            live(body, signals.restore)
    return pid


def assert_one_thread(who: str) -> None:
    """Raises RuntimeError when this process has another thread than the calling one."""
    threads = max(threading.active_count(), _kernel_threads())
    if threads != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise RuntimeError(f"{who} must have one thread when it forks, and has {threads} ({names})")


def reap() -> Iterator[tuple[int, int]]:
    """As PID 1, and once there was a template: every process that has exited, ours and those whose parent has died,
    as (pid, wait status)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def _kernel_threads() -> int:
    """The threads of this process that the kernel knows, those of native libraries too."""
    try:
        return len(os.listdir("/proc/self/task"))
    except FileNotFoundError:  # /proc is not mounted here
        return 1


def live(body: Callable[[], int], prepare: Callable[[], None] | None = None) -> NoReturn:
    """The whole life of a forked process: its parent's stack is not unwound, and no exit handler of that runs.

    prepare: what is to be done before a signal can come.
    """
    status = _BROKEN
    try:
        if prepare is not None:
            prepare()
        signals.let_through()
        status = body()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # the last place where it can be told
        logger.critical("a process of serverd's ends by a mistake", exc_info=True)
    finally:
        flush()
        os._exit(status)


def _prepare(order: Order, below: Channel, belongings: Iterable[Closable], main: Main | None) -> int:
    """In the new process: let go of the master's things, step down, and become the child."""
    try:
        for thing in belongings:
            thing.close()
        drop(order.identity, order.config.process.umask)
        if order.config.workers.start_method == "spawn":
            _become_fresh(order, below)
    except (PrivilegeError, OSError) as error:
        trace = "" if isinstance(error, PrivilegeError) else traceback.format_exc()
        below.send(BootFailed("config", BOOT_FAILURE_STATUS, str(error), trace))
        return BOOT_FAILURE_STATUS
    return _run(order, below, main)


def _run(order: Order, below: Channel, main: Main | None = None) -> int:
    setup_logging(order.config.logging, process=order.name, stream=sys.stderr)
    leave_no_compiled_files(order.config)
    spec = ChildSpec(order.index, order.generation, order.config, order.sockets, below, order.papers)
    return (main or child_module.main)(spec)


def leave_no_compiled_files(config: ServerConfig) -> None:
    """Before the application's import."""
    if config.reload.enabled:
        # A .pyc is matched to its source by size and whole seconds: two quick saves of the same length would
        # run old code.
        sys.dont_write_bytecode = True


def _become_fresh(order: Order, below: Channel) -> NoReturn:
    """Hand everything over to a fresh interpreter in this same process."""
    kept = [sock.fileno() for sock in order.sockets]
    parcel = pickle.dumps((order.index, order.generation, order.config, kept, below.fileno(), order.papers))
    letter = os.memfd_create("serverd-spec")
    os.write(letter, parcel)
    os.lseek(letter, 0, os.SEEK_SET)
    for fd in (*kept, below.fileno(), letter, *order.papers.descriptors()):
        os.set_inheritable(fd, True)
    _exec(f"from serverd.supervisor.spawn import arrive; arrive({letter})")


def _exec(code: str) -> NoReturn:
    """Run `code` in a fresh interpreter that looks for modules where this one does, in place of this process."""
    flags = [f"-X{key}" if value is True else f"-X{key}={value}" for key, value in sys._xoptions.items()]
    flags += [f"-W{option}" for option in sys.warnoptions]
    where = f"import sys; sys.path[:] = {sys.path!r}; "
    os.execv(sys.executable, [sys.executable, *flags, "-c", where + code])


def arrive(letter: int) -> NoReturn:
    """The first thing that a fresh interpreter does for `start_method: spawn`."""

    def body() -> int:
        with os.fdopen(letter, "rb") as file:
            index, generation, config, listening, channel, papers = pickle.load(file)  # noqa: S301 - a memfd that our own master has written
        sockets = tuple(map(_inherited, listening))
        for sock in sockets:
            sock.setblocking(False)
        for fd in papers.descriptors():
            os.set_inheritable(fd, False)
        return _run(Order(index, generation, config, sockets, papers=papers), Channel(_inherited(channel)))

    live(body, signals.restore)


def _inherited(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock


def flush() -> None:
    """Write out what waits in the standard streams, lest two processes do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, full, or absent: nobody is left to tell
            stream.flush()
