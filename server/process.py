"""How a process becomes one in which an application can run: its title, its signals, its limits, and the import itself.

Promises: what is done here is done once, in the order that it needs, before any thread is started. Refuses: everything
that comes after (``child``).

For the main thread of a child, or of a template of children (``template``), before it has others.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
import sys

import setproctitle

from ..config import ServerConfig
from ..config.machine import OTHER_FILES, most_connections
from .app_loader import LoadedApp, load_app
from .arena import Papers
from .asgi.run_sync import patch_libraries
from .fresh_code import leave_recent_uncompiled
from .stacks import install


def load(config: ServerConfig) -> LoadedApp:
    """Make this process one in which the application can run, and import it. Raises AppLoadError."""
    # On a terminal Ctrl-C reaches the whole process group: what it means is for the master to decide.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH):
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(config.env)
    _allow_descriptors(config.limits.connections)
    leave_recent_uncompiled()
    app = load_app(config)
    patch_libraries()
    return app


def introduce(title: str | None, index: int, generation: int, papers: Papers) -> None:
    """Say to process lists, and to whoever reads of a crash, which child this is."""
    setproctitle.setproctitle(f"{title or 'serverd'}: worker {index} g{generation}")
    if papers.words >= 0:
        faulthandler.enable(papers.words)  # the master reads it when this process has died
    elif sys.stderr is not None:
        faulthandler.enable()
    if papers.stacks >= 0:
        install(papers.stacks)  # the master can ask for stacks from now on, whatever this thread does


def set_garbage_aside() -> None:
    """Let the collector pass over all objects of this moment from now on: those of the import stay to the end.

    A collection stops all threads. Of Flask it takes 1.8 ms after this instead of 13, of FastAPI 5.5 instead of 27; and
    pages that it does not write to stay shared with other children. So in a child of a template, where this was done
    before the fork, nothing more is: both calls write to every object, which cost each FastAPI child 20 MiB.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _allow_descriptors(connections: int) -> None:
    """Raise the soft limit of open files, often 1024, to what ``limits.connections`` takes, as far as the hard one
    goes.

    It is that low for programs that use select(2), which cannot watch descriptors over 1023; nothing here does so with
    what it opens later than its channel.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + OTHER_FILES  # a download holds its socket and its file
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def places(connections: int) -> int:
    """How many connections this process can take of the ``connections`` that it is to take: no more than leaves
    descriptors for the application. The master has said so, if these are fewer."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return connections if files == resource.RLIM_INFINITY else most_connections(connections, files)


def standard_output() -> int:
    """The descriptor of standard output, also when the application has put something else into its place."""
    try:
        return sys.stdout.fileno()
    except OSError, ValueError:
        return 1
