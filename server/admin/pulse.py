"""Whether the master still turns its loop: it is asked over the channel, and answers.

Promises: at most one question is under way, however many ask here; nobody waits longer than ``PATIENCE``; ``silence``
is how long the master has owed an answer, so a probe that comes again tells a busy master from one that hangs.

Threads: ``heard`` and ``silence`` belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

# A master with nothing else to do answers within a millisecond; the whole answer should be there within 50 ms.
PATIENCE: Final = 0.03


class Pulse:
    """See the module. ``ask`` sends the question."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._asked_at: float | None = None
        self._answered = asyncio.Event()

    async def silence(self) -> float:
        """For how many seconds the master has owed an answer; 0.0 when it has just answered."""
        if self._asked_at is None:
            self._asked_at = monotonic()
            self._answered.clear()
            self._ask()
        asked_at = self._asked_at
        try:
            async with asyncio.timeout(PATIENCE):
                await self._answered.wait()
        except TimeoutError:
            return monotonic() - asked_at
        return 0.0

    def heard(self) -> None:
        """The answer has come."""
        self._asked_at = None
        self._answered.set()
