"""Code that has just been saved is never taken from an older compiled file.

Python takes a compiled file (``__pycache__``) for current when it names the source's size and its time of change,
in whole seconds. A file that is saved, imported, and saved again with as many bytes in the same second is thus
served as it was, for ever: "v1" and "v2". Promises: a source that changed in the last seconds leaves no compiled
file behind, so the next import compiles what is there. Refuses: to touch compiled files that exist.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import SourceFileLoader
from time import time
from typing import Any, Final

# A time of change may be cut to whole seconds, or to two of them (FAT).
RECENT: Final = 2.0

_write = SourceFileLoader.set_data


def leave_recent_uncompiled() -> None:
    """From now on this process writes no compiled file for a source that changed less than ``RECENT`` seconds ago."""
    SourceFileLoader.set_data = _set_data  # type: ignore[method-assign, assignment]


def _set_data(self: SourceFileLoader, path: str, data: bytes, **options: Any) -> None:
    """As ``SourceFileLoader.set_data``, which importlib calls to write a compiled file."""
    try:
        recent = os.stat(importlib.util.source_from_cache(path)).st_mtime > time() - RECENT
    except ValueError, OSError:
        recent = False
    if not recent:
        _write(self, path, data, **options)
