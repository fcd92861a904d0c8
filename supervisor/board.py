"""What the master knows, published for whoever wants to look: who is there, and what was (``server.facts`` reads it).

Promises: the page is written when something on it has changed, and only then; what a child has counted is kept when it
ends. Nothing that a child wrote, and no lack of memory, can make the master fail: a child without room on the
board serves all the same. Refuses: to decide.

Belongs to the master's only thread.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from typing import Any, Final

from ..config import ServerConfig
from ..config.compound import ThreadRange
from ..server.facts import MOST_PAGE, write_page
from ..server.scoreboard import NO_PAPERS, Arena, ChildView, Papers, Region, Totals, read_child
from .flight_recorder import MOST_WORDS

logger = logging.getLogger("serverd.master")

# For the threads that stand in for those whose clients hold them; those beyond write nowhere.
_STAND_INS: Final = 32
# The child's main thread and its home loop have slots too.
_OTHERS: Final = 2
# What each child writes into: a thread that is asked for its stack may answer late, and that is nobody's last word.
_FILES: Final = ("serverd-last-words", "serverd-stacks")


def slots_for(config: ServerConfig) -> int:
    """How many threads a child may have that write."""
    workers = config.workers
    if workers.mode == "async":
        return _OTHERS
    most = workers.threads.max if isinstance(workers.threads, ThreadRange) else workers.thread_count()
    return most + _OTHERS + _STAND_INS


class Board:
    """See the module. ``arena``: None when the machine has no memory for it; then nothing is published."""

    def __init__(self) -> None:
        self.arena: Arena | None = None
        self.totals = Totals()  # of children that have ended
        self._sequence = 0
        self._last = b""
        self._ended: list[Region] = []
        try:
            self.arena = Arena.create()
        except OSError as error:
            logger.warning("no scoreboard: %s", error.strerror)

    def papers(self, config: ServerConfig) -> Papers:
        """For one more child; whoever takes them closes the descriptors. Raises OSError when there are none left."""
        if self.arena is None:
            return NO_PAPERS
        region = self.arena.allot(slots_for(config))
        if region is None:
            logger.warning("the scoreboard is full: a child is not shown on it")
        made: list[int] = []
        try:
            for name in _FILES:
                made.append(os.memfd_create(name, os.MFD_CLOEXEC))
            return Papers(os.dup(self.arena.fd), region, *made)
        except OSError:
            for fd in made:
                os.close(fd)
            if region is not None:
                self.arena.release(region)
            raise

    def handed_over(self, papers: Papers) -> Papers:
        """The child has them: what is left of them here."""
        if papers.memory >= 0:
            os.close(papers.memory)
        return papers._replace(memory=-1)

    def look(self, region: Region | None) -> ChildView | None:
        """What the child of ``region`` says now, if it can be read."""
        if self.arena is None or region is None:
            return None
        try:
            return read_child(self.arena, region)
        except OSError, struct.error:
            return None

    def last_words(self, papers: Papers) -> str:
        """What the child has left, for whoever reads of its death."""
        if papers.words < 0:
            return ""
        try:
            return os.pread(papers.words, MOST_WORDS, 0).decode(errors="backslashreplace")
        except OSError:
            return ""

    def fold(self, papers: Papers) -> ChildView | None:
        """The child that had ``papers`` has ended: keep what it has counted, close what is ours; what it last wrote,
        if it can be read.

        Its region is free once the page no longer names it.
        """
        for fd in papers.descriptors():
            os.close(fd)
        view = self.look(papers.region)
        if papers.region is not None:
            self._ended.append(papers.region)
        if view is not None:
            self.totals += view.totals
        return view

    def publish(self, facts: dict[str, Any]) -> None:
        """Write the page if it has changed."""
        if self.arena is None:
            return
        facts = {**facts, "totals": self.totals.as_json()}
        text = json.dumps(facts, separators=(",", ":")).encode()
        if len(text) > MOST_PAGE:  # about 4,000 children
            text = json.dumps({**facts, "children": []}, separators=(",", ":")).encode()
        if text != self._last:
            try:
                write_page(self.arena, self._sequence + 1, text)
            except OSError as error:  # no memory now: the next change tries again
                logger.warning("the scoreboard cannot be written: %s", error.strerror)
                return
            self._last = text
            self._sequence += 1
        for region in self._ended:
            self.arena.release(region)
        self._ended.clear()
