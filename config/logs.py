"""Logging for every process of serverd: colour for a person, plain text, or JSON lines for a machine.

Promises: one record is one write(2), so that lines of several processes do not mix; no text from outside can
look like a line of its own, move the cursor or hide anything (control characters are written as escapes); a log
that cannot be written never raises into the program. Only the logger `serverd` is set up: the application's
own loggers are its own.

Threads: records may come from any thread; `logging.Handler` holds its lock around each one, and that lock is
renewed in a forked child by the logging module. `setup_logging` itself is called once by each process, before
it has threads.
"""

import json
import logging
import os
import select
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, override

from .model import LogFormat, LoggingConfig

type ResolvedFormat = Literal["color", "text", "json"]

_LEVEL_COLOR: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}  # ECMA-48 SGR
_PROCESS_WIDTH: Final = 11  # "worker 0 g1"
_STALLED: Final = (
    1000  # ms to wait for a reader whose pipe is full and non-blocking, before a line is given up
)
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_text(text: str) -> str:
    """`text` without anything that a terminal or a log reader would act on.

    Newlines, ESC and other control characters, line separators, direction marks and lone surrogates become `\\n`,
    `\\x1b`, `\\u202e`; printable text of every script stays. A backslash stays too: the result is for reading.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


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
    return resolved


class LineHandler(logging.Handler):
    """Writes each record with one write(2) to the stream's file descriptor (or one `write` when it has none)."""

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
                write_all(self._fd, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # The reader is gone (EPIPE) or the disk is full: serving goes on without a log.
        except Exception:  # noqa: BLE001 - a faulty log call (wrong arguments) is reported by logging, never raised
            self.handleError(record)


def write_all(fd: int, data: bytes) -> None:
    """Write `data` to `fd`, in one call where the kernel takes it whole; raises OSError.

    A standard error that another program made non-blocking gets a second to be read; then the rest is dropped.
    """
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            if not poller.poll(_STALLED):
                return


class _LineFormatter(logging.Formatter):
    """What the three formats share: who speaks."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def lines(self, record: logging.LogRecord) -> list[str]:
        """The message and the traceback, line by line, each safe to show."""
        text = record.getMessage()
        if details := self.details(record):
            text = f"{text}\n{details}"
        return [escape_text(line) for line in text.rstrip("\n").split("\n")]

    def details(self, record: logging.LogRecord) -> str:
        """The traceback and the stack that came with the record, or nothing."""
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(part for part in (record.exc_text, stack) if part)


class ColorFormatter(_LineFormatter):
    """`12:30:01  worker 0 g1  message`: the time of day, quiet; a level is named when it is not info."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        color = _LEVEL_COLOR.get(record.levelname)
        first, *rest = self.lines(record)
        if record.levelno >= logging.WARNING:
            first = f"\x1b[{color}m{record.levelname.lower()}:\x1b[0m {first}"
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
        head = f"{rfc3339(record.created)}  {record.levelname.lower():<8}  {self.process:<{_PROCESS_WIDTH}}  {first}"
        return "\n".join([head, *(f"    {line}" for line in rest)])


class JsonFormatter(_LineFormatter):
    """One JSON object on one line: time (RFC 3339, UTC, ms), level, process, logger, message, exception if any."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if details := self.details(record):
            entry["exception"] = details
        # json leaves only ASCII, so line separators and direction marks are escaped too; of the controls it skips DEL.
        return json.dumps(entry).replace("\x7f", "\\u007f")


def rfc3339(moment: float) -> str:
    """`moment` (seconds since the epoch) as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_FORMATTERS: Final[dict[ResolvedFormat, type[_LineFormatter]]] = {
    "color": ColorFormatter,
    "text": TextFormatter,
    "json": JsonFormatter,
}
