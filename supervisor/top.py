"""`serverd top`: what `status` says, again and again, with rates, and the requests that have been under way longest.

Promises: at any width and height nothing wraps or scrolls; the terminal is given back as it was, whatever ends it (`q`,
Ctrl-C, a signal's SystemExit); when standard output is no terminal, one snapshot is printed and that is all; a daemon
that is gone for a while (restarted, upgraded) is waited for, and that is said. Refuses colours where NO_COLOR is set.

`screen` is pure; the rest belongs to the command's only thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..config.logs import escape_text
from . import remote, status_view
from .remote import RemoteError
from .status_view import Status

# The alternate screen keeps what stood in the terminal (xterm, and all that follow it); the cursor would only flicker.
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_BOLD, _DIM, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"
_KEYS: Final = "q: end"
_QUIT: Final = frozenset({"q", "Q", "\x03", "\x04", ""})


def top(places: list[Path], interval: float) -> int:
    """Show it until the person has seen enough; the exit status. Raises RemoteError when nobody is there at first."""
    status = _ask(places)
    if not sys.stdout.isatty() or not sys.stdin.isatty():
        sys.stdout.write("\n".join(screen(status, None)) + "\n")
        return 0
    before: Status | None = None
    problem = ""
    with contextlib.suppress(KeyboardInterrupt), _terminal():
        while True:
            _draw(status, before, problem)
            if _key_within(interval) in _QUIT:
                return 0
            try:
                before, status, problem = status, _ask(places), ""
            except RemoteError as error:
                before, problem = None, str(error)
    return 0


def screen(
    status: Status, before: Status | None, width: int = 10_000, height: int = 10_000, problem: str = ""
) -> list[str]:
    """The lines. `before` is the answer before this one: without it there are no rates."""
    found = [*status_view.head(status)]
    if before is not None:
        found.append(f"now: {rates(before, status)}")
    if problem:
        found.append(f"! {problem}")
    found += ["", *status_view.table(status)]
    if running := _longest(status):
        headings = ("seconds", "child", "request")
        found += ["", *status_view.columns(headings, running, frozenset({"seconds"}))]
    room = max(1, height)
    if len(found) > room:
        found = [*found[: room - 1], f"… {len(found) - room + 1} lines more"]
    return [escape_text(line)[:width] for line in found]


def rates(before: Status, now: Status) -> str:
    """What has happened between two answers, for each second, and how long it took."""
    seconds = now.get("at", 0) - before.get("at", 0)
    done = _requests(now) - _requests(before)
    if seconds <= 0 or done < 0:  # a clock that was set, another daemon
        return "-"
    counts = [late - early for early, late in zip(_latency(before), _latency(now), strict=False)]
    bounds = now.get("totals", {}).get("bounds", ())
    found = f"{done / seconds:,.0f} requests/s"
    if bounds and any(count > 0 for count in counts):
        half, nearly = (status_view.quantile(part, counts, bounds) for part in (0.5, 0.99))
        found += f"; half took {half}, 99 % {nearly}"
    return found


def _longest(status: Status) -> list[tuple[str, str, str]]:
    every = [
        (seconds, str(child.get("name", "?")), what)
        for child in status.get("children", ())
        for seconds, what in status_view.under_way(child)
    ]
    every.sort(key=lambda item: -item[0])
    return [(f"{seconds:.1f}", escape_text(name), escape_text(what)) for seconds, name, what in every]


def _requests(status: Status) -> int:
    return int(status.get("totals", {}).get("requests", 0))


def _latency(status: Status) -> list[int]:
    return list(status.get("totals", {}).get("latency", {}).get("counts", ()))


def _ask(places: list[Path]) -> Mapping[str, Any]:
    # Each time anew: the daemon may have been restarted or upgraded.
    found = remote.ask_once(places, "status")["status"]
    assert isinstance(found, dict)
    return found


def _draw(status: Status, before: Status | None, problem: str) -> None:
    width, height = shutil.get_terminal_size()
    plain = bool(os.environ.get("NO_COLOR"))
    body = screen(status, before, width, height - 1, problem)
    painted = [line if plain else _painted(line) for line in body]
    text = "".join(f"{line}{_REST_OF_LINE}\n" for line in painted)
    keys = _KEYS if plain else f"{_DIM}{_KEYS}{_PLAIN}"
    sys.stdout.write(f"{_HOME}{text}{keys}{_REST_OF_LINE}{_REST_OF_SCREEN}")
    sys.stdout.flush()


def _painted(line: str) -> str:
    if line.startswith("! "):
        return f"{_RED}{line}{_PLAIN}"
    if line.split(maxsplit=1)[:1] in (["child"], ["seconds"], ["serverd"]):
        return f"{_BOLD}{line}{_PLAIN}"
    return line


def _key_within(seconds: float) -> str | None:
    """The key that was pressed; empty at the end of the terminal, None after `seconds`."""
    if not select.select([sys.stdin], [], [], seconds)[0]:
        return None
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace")


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Keys come one by one and are not shown, and the screen is ours."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
