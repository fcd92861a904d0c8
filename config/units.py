"""Durations and sizes as people write them: `30s`, `1h30m`, `200ms`; `8KiB`, `10MB`, `65536`.

Reading is exact (fractions, not floating point, until the last step) and strict: `8K` or `5 fortnights` is
refused rather than guessed, because a K that is 1000 to one reader and 1024 to another is how limits go
wrong. Writing gives a text that reads back as the same number, for every number that reading can give.
Everything here is pure.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from .errors import BadValue

SECONDS: Final = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
# IEC 80000-13: the binary prefixes carry an i; k, M, G, T without it are powers of 1000.
BYTES: Final = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
LARGEST_SIZE: Final = 2**63 - 1
_LONGEST: Final = 64  # characters: beyond any sensible number, and keeps int() away from huge texts

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_PLAIN: Final = re.compile(_NUMBER, re.ASCII)
_DURATION_PART: Final = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)\s*", re.ASCII)
_SIZE: Final = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.ASCII | re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Seconds for `30s`, `5m`, `1h30m`, `200ms`, `1.5` (plain seconds). Raises BadValue for anything else."""
    text = text.strip()
    refusal = BadValue("expected a duration such as 30s, 5m, 1h30m, 200ms or a number of seconds")
    if len(text) > _LONGEST:
        raise refusal
    if _PLAIN.fullmatch(text):
        return float(Fraction(text))
    total, position, smallest = Fraction(0), 0, None
    for match in _DURATION_PART.finditer(text):
        unit = SECONDS[match[2]]
        # Units go from large to small, each once: `30m1h` is more likely a slip than an intention.
        if match.start() != position or (smallest is not None and unit >= smallest):
            raise refusal
        total += Fraction(match[1]) * unit
        position, smallest = match.end(), unit
    if smallest is None or position != len(text):
        raise refusal
    return float(total)


def format_duration(seconds: float) -> str:
    """The usual text for `seconds` (>= 0, finite) that `parse_duration` reads back as exactly the same number."""
    if seconds == 0:
        return "0"
    if seconds == int(seconds):
        whole = int(seconds)
        unit = next(name for name in ("d", "h", "m", "s") if whole % SECONDS[name] == 0)
        return f"{whole // int(SECONDS[unit])}{unit}"
    thousandths = round(seconds * 1000)
    if thousandths / 1000 == seconds:
        return f"{thousandths}ms" if thousandths < 1000 else f"{seconds!r}s"
    return f"{Decimal(repr(seconds)):f}s"


def parse_size(text: str) -> int:
    """Bytes for `8KiB`, `10MB`, `1.5GiB`, `65536` (plain bytes). Raises BadValue for anything else, `8K` too."""
    match = _SIZE.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    unit = match[2].lower() if match else ""
    if match is None or (unit and unit not in BYTES):
        hint = (
            f' (write "{match[1]}{unit.upper()}iB" or "{match[1]}{unit.upper()}B")'
            if match and unit in ("k", "m", "g", "t")
            else ""
        )
        raise BadValue(f"expected a size such as 8KiB, 10MiB, 1GB or a number of bytes{hint}")
    amount = Fraction(match[1]) * BYTES.get(unit, 1)
    if amount.denominator != 1:
        raise BadValue("expected a size that is a whole number of bytes")
    if amount > LARGEST_SIZE:
        raise BadValue(f"expected a size of at most {LARGEST_SIZE} bytes")
    return int(amount)


def format_size(size: int) -> str:
    """The usual text for `size` bytes (>= 0) that `parse_size` reads back as the same number: `8KiB`, `1500`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = BYTES[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
