"""Changes to bytes that were well formed: the ways in which a request gets broken, by accident or on purpose.

Pure functions of their arguments and of the random numbers that they are given (``Rnd``: below 1, at least 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .pieces import TOKENS

Rnd = Callable[[], float]


# A constant of Knuth's MMIX generator; 53 of its 64 bits become a number below 1.
_STEP: Final = 6364136223846793005
_ALL: Final = (1 << 64) - 1


def numbers(start: int) -> Rnd:
    """Random numbers that follow from ``start``: not good ones, but 20 times as quick to begin as random.Random."""
    state = start * 2 + 1

    def draw() -> float:
        nonlocal state
        state = (state * _STEP + 1442695040888963407) & _ALL
        return (state >> 11) / 9007199254740992.0

    return draw


def pick[T](rnd: Rnd, pool: Sequence[T]) -> T:
    """One of them, each as likely."""
    return pool[int(rnd() * len(pool))]


def mutate(rnd: Rnd, data: bytes) -> bytes:
    """``data`` with one to three changes."""
    for _ in range(1 + int(rnd() * rnd() * 3)):
        if data:
            data = pick(rnd, _CHANGES)(rnd, data)
    return data


def splice(rnd: Rnd, one: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of the other."""
    return one[: int(rnd() * (len(one) + 1))] + other[int(rnd() * len(other)) :]


def _replace(rnd: Rnd, data: bytes) -> bytes:
    at = int(rnd() * len(data))
    return data[:at] + bytes((int(rnd() * 256),)) + data[at + 1 :]


def _flip(rnd: Rnd, data: bytes) -> bytes:
    at = int(rnd() * len(data))
    return data[:at] + bytes((data[at] ^ 1 << int(rnd() * 8),)) + data[at + 1 :]


def _insert(rnd: Rnd, data: bytes) -> bytes:
    at = int(rnd() * (len(data) + 1))
    return data[:at] + pick(rnd, TOKENS) + data[at:]


def _overwrite(rnd: Rnd, data: bytes) -> bytes:
    at = int(rnd() * len(data))
    token = pick(rnd, TOKENS)
    return data[:at] + token + data[at + len(token) :]


def _remove(rnd: Rnd, data: bytes) -> bytes:
    at = int(rnd() * len(data))
    return data[:at] + data[at + 1 + int(rnd() * rnd() * 8) :]


def _repeat(rnd: Rnd, data: bytes) -> bytes:
    at = int(rnd() * len(data))
    end = at + 1 + int(rnd() * rnd() * 16)
    return data[:end] + data[at:end] * (1 + int(rnd() * rnd() * 4)) + data[end:]


def _truncate(rnd: Rnd, data: bytes) -> bytes:
    return data[: int(rnd() * len(data))]


def _lines(rnd: Rnd, data: bytes) -> bytes:
    """One line doubled, dropped, moved, or with another end."""
    lines = data.split(b"\r\n")
    at = int(rnd() * len(lines))
    what = rnd()
    if what < 0.25:
        lines.insert(at, lines[at])
    elif what < 0.5:
        del lines[at]
    elif what < 0.8:
        other = int(rnd() * len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        return b"\r\n".join(lines[: at + 1]) + pick(rnd, (b"\n", b"\r", b"")) + b"\r\n".join(lines[at + 1 :])
    return b"\r\n".join(lines)


def _case(rnd: Rnd, data: bytes) -> bytes:
    """A few bytes in the other case."""
    at = int(rnd() * len(data))
    end = at + 1 + int(rnd() * 12)
    return data[:at] + data[at:end].swapcase() + data[end:]


_CHANGES: Final = (
    _replace,
    _flip,
    _insert,
    _insert,
    _overwrite,
    _remove,
    _repeat,
    _truncate,
    _lines,
    _lines,
    _case,
)
