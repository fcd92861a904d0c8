"""Where the children come from with `workers.preload`: a template is started, and forks them.

Promises: a template is a child of the master that has stepped down before it imports the application. What it forks
(`fork_sibling`) are children of the *master*: the template forks twice, the process in the middle leaves, and the
kernel gives its child to the nearest ancestor that has asked for orphans (PR_SET_CHILD_SUBREAPER, see prctl(2)). So the
master has a child's exit status from the kernel, whatever becomes of the template. Refuses: to fork beside another
thread, in the master as in a template.

The other way, clone(2) with CLONE_PARENT, is closed to a Python process: glibc's fork does not take flags, and the bare
system call leaves the new process with the thread number of its parent in glibc's thread block (abort would signal the
parent) and without glibc's and CPython's work after a fork.

`start_template` is called by the master's only thread, `fork_sibling` by a template's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from ..config.logs import setup_logging
from ..server import template as template_module
from ..server.channel import BootFailed, Channel
from ..server.template import TemplateSpec
from . import signals
from .privileges import PrivilegeError, drop
from .roster import BOOT_FAILURE_STATUS, Generation
from .spawn import Closable, Started, assert_one_thread, flush, launch, leave_no_compiled_files, live

# <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER: Final = 36


def start_template(
    generation: Generation, sockets: tuple[socket.socket, ...], belongings: Iterable[Closable]
) -> Started:
    """Start the process that imports the application for the children of `generation`.

    From now on orphans among the master's descendants come to the master, which has to bury them (`reap`). Raises
    OSError when the machine cannot do it now.
    """
    _take_orphans()
    above, below = Channel.pair()

    def body() -> int:
        return _hatch(generation, sockets, below, [above, *belongings])

    try:
        return launch(body, above)
    finally:
        below.close()


def _hatch(
    generation: Generation, sockets: tuple[socket.socket, ...], below: Channel, belongings: Iterable[Closable]
) -> int:
    """In the new process: let go of the master's things, step down, and become the template."""
    config = generation.config
    try:
        for thing in belongings:
            thing.close()
        drop(generation.identity, config.process.umask)
    except (PrivilegeError, OSError) as error:
        trace = "" if isinstance(error, PrivilegeError) else traceback.format_exc()
        below.send(BootFailed("config", BOOT_FAILURE_STATUS, str(error), trace))
        return BOOT_FAILURE_STATUS
    setup_logging(config.logging, process=f"template g{generation.number}", stream=sys.stderr)
    leave_no_compiled_files(config)
    return template_module.main(TemplateSpec(generation.number, config, sockets, below, fork_sibling))


def fork_sibling(body: Callable[[], int]) -> int:
    """In a template: fork so that the new process is a child of the template's parent; its number.

    It exists when this returns, and has been given to the master by then, as the one in the middle is gone. It keeps
    the handlers of signals that the application's import has set. Raises OSError when the machine cannot do it now, and
    RuntimeError when the template has got another thread.
    """
    assert_one_thread("a template")
    flush()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, signals.held_back():
            middle = os.fork()
            if middle == 0:
                ours.close()
                _fork_and_leave(body, theirs)
        with contextlib.suppress(
            ChildProcessError
        ):  # the application ignores SIGCHLD; it has gone all the same
            os.waitpid(middle, 0)
        said = ours.recv(64)
    number = int(said or b"0")
    if number > 0:
        return number
    raise OSError(-number, os.strerror(-number) if number else "the process in the middle of a fork died")


def _fork_and_leave(body: Callable[[], int], theirs: socket.socket) -> NoReturn:
    """In the middle: fork, tell the number (or the error's, negative) and make the new process an orphan."""
    try:
        pid = os.fork()
        if pid == 0:
            theirs.close()
            live(body)
        theirs.send(str(pid).encode())
    except OSError as error:
        theirs.send(str(-(error.errno or 0)).encode())
    finally:
        os._exit(0)


def _take_orphans() -> None:
    """Make this process the parent of those among its descendants whose parent dies. Raises OSError."""
    import ctypes  # noqa: PLC0415 - a master without templates does without

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")
