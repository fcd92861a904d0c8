"""What the master tells the admin process, and what is said between the two: plain values, for both sides.

Promises: importing this brings in nothing else, as the master does it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

# The question whether the master still turns its loop, and the answer; one packet each.
PING: Final = b"ping"
PONG: Final = b"pong"
# From the master: accept from now on.
GO: Final = b"go"


@dataclass(frozen=True, slots=True)
class AdminOrder:
    """What it is to do, as it travels on a command line. ``sockets`` (listening) and ``arena`` are descriptors.
    ``waits``: accept nothing before GO."""

    sockets: tuple[int, ...]
    arena: int
    ready_capacity: float
    title: str
    level: str
    format: str
    waits: bool = False

    def as_json(self) -> str:
        """For ``from_json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AdminOrder:
        """What ``as_json`` has made."""
        raw: dict[str, Any] = json.loads(text)
        return cls(**{**raw, "sockets": tuple(raw["sockets"])})
