"""A template's own body (``workers.preload``): import the application once, then fork a child for each order.

Promises: the application is imported under the same conditions as in a child; the process has exactly one thread when
it forks, or the import is refused with the names of the others; what is made by the import is frozen first (gc.freeze),
so that no collection of a child writes to it and the pages stay shared; a new child does nothing, the lifespan least of
all, before the master knows it (``Begin``), and leaves without a word when nobody does. What the import has opened is
shared by all children, and named in a warning. Refuses: to serve, to start the lifespan, to start threads.

Threads: one, always.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import setproctitle

from ..config import ServerConfig
from ..config.logs import setup_logging
from . import child
from .app_loader import AppLoadError, LoadedApp
from .arena import Papers, Region
from .channel import Begin, BootFailed, Channel, ChannelError, Fork, Forked, Preloaded
from .child import ChildSpec
from .listening import rest_after
from .process import load, set_garbage_aside

logger = logging.getLogger("serverd.worker")

# What can come with an order to fork: the child's end of its channel, and its papers.
_MOST_HANDED: Final = 4

# Forks so that `body` is the life of a child of the master; its process number. Raises OSError or RuntimeError.
type ForkSibling = Callable[[Callable[[], int]], int]


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """All that a template is told. The sockets are for its children: it never accepts."""

    generation: int
    config: ServerConfig
    sockets: tuple[socket.socket, ...]
    channel: Channel
    fork: ForkSibling


def main(spec: TemplateSpec) -> int:
    """The template's whole life, until the master ends it or is gone; its exit status."""
    began = time.monotonic()
    setproctitle.setproctitle(f"{spec.config.process.title or 'serverd'}: template g{spec.generation}")
    if sys.stderr is not None:
        faulthandler.enable()
    before = _open_files()
    try:
        app = load(spec.config)
    except AppLoadError as exc:
        spec.channel.send(BootFailed("import", child.NOT_LOADABLE, str(exc), exc.traceback))
        return child.NOT_LOADABLE
    names, native = other_threads()
    if names or native:
        spec.channel.send(BootFailed("import", child.BOOT_FAILED, too_many_threads(names, native), ""))
        return child.BOOT_FAILED
    if shared := sorted(item for item in _open_files() - before if is_risky(*item)):
        logger.warning("%s", shared_by_all([link for _, link, _ in shared]))
    set_garbage_aside()
    spec.channel.send(Preloaded(time.monotonic() - began))
    while (wanted := _next_order(spec.channel)) is not None:
        spec.channel.send(_fork(spec, app, *wanted))
    return 0


def order(index: int, papers: Papers) -> Fork:
    """The order for the child ``index``; the descriptors of ``papers`` have to come with it, after its channel."""
    region = papers.region or Region(0, 0)
    return Fork(index, papers.memory >= 0, region.offset, region.slots, papers.words >= 0, papers.stacks >= 0)


def papers_of(order: Fork, descriptors: list[int]) -> Papers:
    """What the child gets to write on; ``descriptors`` came with its order, and its channel is not among them."""
    left = iter(descriptors)
    memory = next(left) if order.memory else -1
    region = Region(order.offset, order.slots) if order.slots else None
    words = next(left) if order.words else -1
    return Papers(memory, region, words, next(left) if order.stacks else -1)


def _next_order(channel: Channel) -> tuple[Fork, list[int]] | None:
    """The next child that is wanted, and what comes with it; None when the master is gone."""
    while True:
        try:
            message, descriptors = channel.recv_with(_MOST_HANDED)
        except ChannelError as exc:
            logger.error("%s; ignored", exc)
            continue
        except OSError as exc:  # the master is still there
            rest_after(exc, "recvmsg")
            continue
        if message is None:
            return None
        if isinstance(message, Fork):
            wanted = 1 + message.memory + message.words + message.stacks
            if len(descriptors) == wanted:
                return message, descriptors
        for fd in descriptors:
            os.close(fd)
        logger.error("channel: %s is not for a template; ignored", type(message).__name__)


def _fork(spec: TemplateSpec, app: LoadedApp, wanted: Fork, descriptors: list[int]) -> Forked:
    def body() -> int:
        spec.channel.close()
        below = Channel(socket.socket(fileno=descriptors[0]))
        papers = papers_of(wanted, descriptors[1:])
        return _be_child(
            ChildSpec(wanted.index, spec.generation, spec.config, spec.sockets, below, papers), app
        )

    try:
        return Forked(wanted.index, spec.fork(body), "")
    except OSError as exc:
        return Forked(wanted.index, 0, exc.strerror or str(exc))
    except RuntimeError as exc:
        return Forked(wanted.index, 0, str(exc))
    finally:
        for fd in descriptors:
            os.close(fd)


def _be_child(spec: ChildSpec, app: LoadedApp) -> int:
    """The life of a forked child. It begins when the master has it in its books: one that the master cannot wait for
    must not have started the lifespan, and could not be told to go."""
    try:
        if not isinstance(spec.channel.recv(), Begin):
            return 0
    except ChannelError:
        return 0
    setup_logging(spec.config.logging, process=f"worker {spec.index} g{spec.generation}", stream=sys.stderr)
    return child.resume(spec, app)


def other_threads() -> tuple[list[str], int]:
    """The names of Python's threads beside this one, and how many there are that only the kernel knows: those of native
    libraries, which have no name but that of this process."""
    known = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    try:
        every = len(os.listdir("/proc/self/task"))
    except FileNotFoundError:  # /proc is not mounted here
        every = 0
    return [thread.name for thread in known], max(0, every - 1 - len(known))


def too_many_threads(names: list[str], native: int) -> str:
    """Why an application with these threads cannot be forked, and what to do."""
    found, remedies = names[:5], []
    if len(names) > 5:
        found.append(f"{len(names) - 5} more")
    if names:
        remedies.append("start them in the lifespan")
    if native:
        found.append(f"{native} of native libraries")
        remedies.append("keep a native library from it by a variable in env, such as OPENBLAS_NUM_THREADS: 1")
    return (
        "workers.preload needs an application that starts no threads at import, and there are: "
        f"{', '.join(found)}; {', '.join(remedies)}, or set preload: false"
    )


def is_risky(fd: int, link: str, flags: int) -> bool:
    """Whether processes that share this descriptor can get in each other's way: a socket, an epoll, a file that is
    read and written (a database). A log that is appended to is none, nor is what comes with every interpreter."""
    if link.startswith(("socket:", "anon_inode:")):
        return True
    return link.startswith("/") and not link.startswith("/dev/") and flags & os.O_ACCMODE == os.O_RDWR


def shared_by_all(links: list[str]) -> str:
    """The warning for what the import has left open."""
    listed = ", ".join(links[:5]) + (f" and {len(links) - 5} more" if len(links) > 5 else "")
    return (
        f"the application's import has opened {listed}, which all children now share (workers.preload): open it in the"
        " lifespan"
    )


def _open_files() -> set[tuple[int, str, int]]:
    """Number, name and flags of each open descriptor; empty where /proc is not mounted."""
    found: set[tuple[int, str, int]] = set()
    try:
        entries = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return found
    for entry in entries:
        try:
            link = os.readlink(f"/proc/self/fd/{entry}")
            with open(f"/proc/self/fdinfo/{entry}", encoding="ascii") as file:
                flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
        except OSError, StopIteration:  # the one that listed them
            continue
        found.add((int(entry), link, flags))
    return found
