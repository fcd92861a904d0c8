"""``wsgi.errors``: what an application writes there goes to the error log (PEP 3333, "Input and Error Streams").

Promises: one record for what was written up to a line's end or a ``flush``, so that a traceback stays together. Any
thread may write: a lock stands before the text that waits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

errors = logging.getLogger("serverd.error")


class ErrorStream:
    """See the module."""

    __slots__ = ("_lock", "_text")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ""

    def write(self, text: str, /) -> int:
        """Take ``text``; it is logged when it ends a line, or at the next ``flush``."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, got {type(text).__name__}")
        with self._lock:
            self._text += text
        if text.endswith("\n"):
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:
        """``write`` each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log what waits."""
        if not self._text:
            return
        with self._lock:
            text, self._text = self._text, ""
        if text.strip():
            errors.error("%s", text.rstrip("\n"))
