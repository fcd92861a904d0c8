"""A line for the log that a client can bring about as often as it likes, and that is written only so often.

Promises: the first time it is written at once; after that at most once in ``quiet`` seconds, with the number of times
that it was not. Any thread may call it; one lock keeps the count.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import Final

# Seconds of silence after a line.
QUIET: Final = 10.0


class SeldomLog:
    """See the module."""

    def __init__(self, logger: logging.Logger, level: int = logging.WARNING, quiet: float = QUIET) -> None:
        self._logger = logger
        self._level = level
        self._quiet = quiet
        self._lock = threading.Lock()
        self._silent_until = float("-inf")
        self._unsaid = 0

    def __call__(self, message: str, *args: object) -> None:
        """Write ``message % args``, if it is time to."""
        now = monotonic()
        with self._lock:
            if now < self._silent_until:
                self._unsaid += 1
                return
            self._silent_until = now + self._quiet
            unsaid, self._unsaid = self._unsaid, 0
        if unsaid:
            message, args = message + " (%d more since the last such line)", (*args, unsaid)
        self._logger.log(self._level, message, *args)
