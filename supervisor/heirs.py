"""Who gets the idle connections of a child that leaves, and how the two are brought together.

Promises: connections go only to children of the generation that serves, which are ready and will stay; each gets a
socket pair with the one that leaves, of which the master keeps nothing, and it never sees a connection itself. Where
that cannot be (no descriptors left, an heir that does not listen) the child drains without. Refuses to decide when a
child leaves (policy.py). What is handed over, and what not, is in server/handover.py.

Called by the master's only thread.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence

from ..server.channel import MOST_HEIRS, Inherit
from .child_state import State
from .roster import Child, Roster

logger = logging.getLogger("serverd.master")


def heirs_of(child: Child, roster: Roster) -> tuple[Child, ...]:
    """The children that take over from `child`; those of one generation that leave together begin with different
    ones. Pure."""
    current = roster.current
    if roster.shutdown is not None or current is None or child.ready_at is None:
        return ()
    if current.config.tls is not None:  # they speak TLS, and a connection that does cannot change hands
        return ()
    staying = [
        other
        for other in sorted(roster.of(current), key=lambda other: other.index)
        if other is not child and other.state is State.READY and other.index < current.wanted
    ]
    found = [other for other in staying if not other.worn] or staying  # a worn one will leave soon
    first = child.index % len(found) if found else 0
    return tuple((found[first:] + found[:first])[:MOST_HEIRS])


@contextlib.contextmanager
def introduced(child: Child, heirs: Sequence[Child]) -> Iterator[list[int]]:
    """Tell each of `heirs` that connections of `child` come; the other ends, for `child`, are ours for the block."""
    ends: list[socket.socket] = []
    try:
        for heir in heirs:
            end = _introduce(child, heir)
            if end is not None:
                ends.append(end)
        yield [end.fileno() for end in ends]
    finally:
        for end in ends:
            end.close()


def _introduce(child: Child, heir: Child) -> socket.socket | None:
    if heir.channel is None:
        return None
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        logger.warning(
            "%s cannot hand its connections to %s (%s): they end with its next answers",
            child.name,
            heir.name,
            error.strerror,
        )
        return None
    with theirs:
        if heir.channel.send_with(Inherit(child.name), [theirs.fileno()]):
            return ours
    ours.close()
    return None
