"""Logging for every process of serverd: colour for a person, plain text, or JSON lines for a machine.

Promises: no text from outside can look like a record of its own, move the cursor or hide anything (control
characters are written as escapes, and what a record says in several lines is indented from the second on); lines of
several processes do not mix, as each write(2) is whole lines that a pipe takes whole; a record stays below what
journald takes for one; a log that cannot be written never raises into the program. Only the logger `serverd` is set
up: the application's own loggers are its own, but for what it says through one that nobody has set up
(`logging.lastResort`).

Threads: records may come from any thread; `logging.Handler` holds its lock around each one, and that lock is
renewed in a forked child by the logging module. `setup_logging` itself is called once by each process, before
it has threads.
"""

import json
import logging
import os
import select
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, override

from .escaping import escape_text
from .model import LogFormat, LoggingConfig

__all__ = [
    "WHOLE",
    "LineHandler",
    "escape_text",
    "in_pieces",
    "resolve_format",
    "rfc3339",
    "setup_logging",
    "shorten",
    "write_all",
]

type ResolvedFormat = Literal["color", "text", "json"]

_OURS: Final = "serverd"
_LEVEL_COLOR: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}  # ECMA-48 SGR
_PROCESS_WIDTH: Final = 11  # "worker 0 g1"
_STALLED: Final = (
    1000  # ms to wait for a reader whose pipe is full and non-blocking, before a line is given up
)
# A pipe takes so much in one piece (PIPE_BUF, pipe(7)); a longer write may be torn apart by those of other processes
# when its reader is slow, and what a client has sent might then stand at the beginning of a line.
WHOLE: Final = select.PIPE_BUF
# Bytes of one line of text, with room for its head; a longer one goes on in the next.
_MOST_LINE: Final = WHOLE - 256
# journald takes 48 KiB for one line (LineMax=, journald.conf(5)), and what is behind for another record.
_MOST_RECORD: Final = 40_000
_MOST_JSON: Final = 48_000
_MOST_NAME: Final = 80  # characters of the name of a logger, or of a level


def shorten(text: str, most: int) -> str:
    """`text`, without its middle if it has more than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def resolve_format(wanted: LogFormat, stream: TextIO) -> ResolvedFormat:
    """What `auto` means for this stream: colour on a terminal (text if NO_COLOR is set), JSON elsewhere."""
    if wanted != "auto":
        return wanted
    try:
        terminal = stream.isatty()
    except ValueError:  # closed
        terminal = False
    if not terminal:
        return "json"
    # https://no-color.org: set and not empty.
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return "text" if plain else "color"


def setup_logging(config: LoggingConfig, *, process: str, stream: TextIO) -> ResolvedFormat:
    """Point the logger `serverd` at `stream`, as `process` ("master", "worker 0 g1"); returns the format in use.

    May be called again, in a forked child for instance: the last call counts.
    """
    resolved = resolve_format(config.format, stream)
    handler = LineHandler(stream)
    handler.setFormatter(_FORMATTERS[resolved](process))
    logger = logging.getLogger("serverd")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(config.level.upper())
    logger.propagate = False
    # Else the standard library would write as it is what asyncio says of a task that has failed, and whatever stands
    # in its exception.
    logging.lastResort = LineHandler(stream)
    logging.lastResort.setLevel(logging.WARNING)
    logging.lastResort.setFormatter(_FORMATTERS[resolved](process))
    return resolved


class LineHandler(logging.Handler):
    """Writes each record to the stream's file descriptor, by one write(2) if a pipe takes it whole, else by some that
    end with a line (or by one `write` when there is no descriptor)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        try:
            self._fd: int | None = stream.fileno()
        except OSError, ValueError:  # a StringIO has none
            self._fd = None

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            if self._fd is None:
                self._stream.write(line)
            else:
                for piece in in_pieces(line.encode("utf-8", "backslashreplace")):
                    write_all(self._fd, piece)
        except OSError:
            pass  # The reader is gone (EPIPE) or the disk is full: serving goes on without a log.
        except Exception:  # noqa: BLE001 - a faulty log call (wrong arguments) is reported by logging, never raised
            self.handleError(record)


def in_pieces(data: bytes) -> Iterator[bytes]:
    """`data`, lines, in pieces of whole lines that a pipe takes whole; a line that is too long for that is a piece."""
    start = 0
    while len(data) - start > WHOLE:
        end = data.rfind(b"\n", start, start + WHOLE) + 1
        if not end:
            end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:] if start else data


def write_all(fd: int, data: bytes) -> None:
    """Write `data` to `fd`, in one call where the kernel takes it whole; raises OSError.

    A standard error that another program made non-blocking gets a second to be read; then the rest is dropped.
    """
    stalled = 0.0  # since when
    while data:
        try:
            data = data[os.write(fd, data) :]
            stalled = 0.0
        except BlockingIOError:
            stalled = stalled or time.monotonic()
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            # It may say that it has room and take nothing.
            if not poller.poll(_STALLED) or time.monotonic() - stalled > _STALLED / 1000:
                return
            time.sleep(_STALLED / 100000)


class _LineFormatter(logging.Formatter):
    """What the three formats share: who speaks."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def lines(self, record: logging.LogRecord) -> list[str]:
        """The message and the traceback, line by line, each safe to show."""
        text = self.message(record)
        if details := self.details(record):
            text = f"{text}\n{details}"
        lines = shorten(text.rstrip("\n"), _MOST_RECORD).split("\n")
        return [piece for line in lines for piece in _folded(escape_text(line))]

    def message(self, record: logging.LogRecord) -> str:
        """What it says; a logger that is not ours is named."""
        text = record.getMessage()
        return text if record.name.partition(".")[0] == _OURS else f"{record.name}: {text}"

    def details(self, record: logging.LogRecord) -> str:
        """The traceback and the stack that came with the record, or nothing."""
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(part for part in (record.exc_text, stack) if part)


def _level(record: logging.LogRecord) -> str:
    """Its name; an application may have made one of its own."""
    return escape_text(record.levelname.lower())[:_MOST_NAME]


def _folded(line: str) -> list[str]:
    """`line` in pieces of at most `_MOST_LINE` bytes."""
    step = _MOST_LINE if line.isascii() else _MOST_LINE // 4
    return [line[at : at + step] for at in range(0, len(line), step)] or [""]


class ColorFormatter(_LineFormatter):
    """`12:30:01  worker 0 g1  message`: the time of day, quiet; a level is named when it is not info."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        color = _LEVEL_COLOR.get(record.levelname)
        first, *rest = self.lines(record)
        if record.levelno >= logging.WARNING:
            first = f"\x1b[{color or _LEVEL_COLOR['WARNING']}m{_level(record)}:\x1b[0m {first}"
        elif color:
            first = f"\x1b[{color}m{first}\x1b[0m"
        who = f"\x1b[36m{self.process:<{_PROCESS_WIDTH}}\x1b[0m"
        indent = " " * (len(clock) + 2)
        return "\n".join([f"\x1b[2m{clock}\x1b[0m  {who}  {first}", *(f"{indent}{line}" for line in rest)])


class TextFormatter(_LineFormatter):
    """`2026-01-31T12:30:01.123Z  info      worker 0 g1  message`: the same on every line, easy to cut into columns."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        first, *rest = self.lines(record)
        head = f"{rfc3339(record.created)}  {_level(record):<8}  {self.process:<{_PROCESS_WIDTH}}  {first}"
        return "\n".join([head, *(f"    {line}" for line in rest)])


class JsonFormatter(_LineFormatter):
    """One JSON object on one line: time (RFC 3339, UTC, ms), level, process, logger, message, exception if any."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        message, details = record.getMessage(), self.details(record)
        most = _MOST_RECORD
        while True:
            entry = {
                "time": rfc3339(record.created),
                "level": _level(record),
                "process": self.process,
                "logger": shorten(record.name, _MOST_NAME),
                "message": shorten(message, most),
            }
            if details:
                entry["exception"] = shorten(details, most)
            # json leaves only ASCII, so line separators and direction marks are escaped too; of the controls it skips
            # DEL.
            line = json.dumps(entry).replace("\x7f", "\\u007f")
            if len(line) <= _MOST_JSON:
                return line
            most //= 2


def rfc3339(moment: float) -> str:
    """`moment` (seconds since the epoch) as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_FORMATTERS: Final[dict[ResolvedFormat, type[_LineFormatter]]] = {
    "color": ColorFormatter,
    "text": TextFormatter,
    "json": JsonFormatter,
}
