"""One line for each answered request, cheap: workers format and append, a thread of its own writes.

Promises: no request waits for the log's reader; the lines of one worker keep their order; a line is written at most
50 ms after its response. When the reader is so slow that ``MOST_BLOCKS`` blocks of a worker wait, new lines are
dropped, and counted in a line of their own; those that cannot be made cost no request. Lines of several children do
not mix: each is shorter than what a pipe takes whole, so a long target is cut. Refuses: header values (secrets travel
there), queries if it is told to (``logging.query``), and any byte that could end or forge a line.

Threads: each worker owns its ``WorkerLog`` and adds to it; the log's thread takes what waits. An entry is added with
one append, which is atomic, without a lock (a sixth of a line's time). A lock stands between those who take entries
out, from the front; it is held while a block of about ``BLOCK`` lines is formatted (60 µs). The standard ``logging``
was measured at 9 µs a line, and all threads share its lock.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from time import monotonic
from time import time as wall_clock
from typing import Final

from ..config.logs import in_pieces
from .connection import Address
from .http.events import RequestReceived
from .memo import LONGEST, MOST

logger = logging.getLogger("serverd.worker")

# (peer, request, status, body bytes, since, now)
Entry = tuple[Address | None, RequestReceived, int, int, float, float]
# What is logged of a request that could not be read: nothing of it is to be trusted.
UNREADABLE: Final = RequestReceived("-", b"-", b"-", b"", "-", [])

# So many responses are formatted together, by the worker itself: in one go the code and its tables stay in the
# cache, and no string has to be handed back to the thread that made it.
BLOCK: Final = 64
# So many blocks of one worker may wait when nobody reads the log, and so many bytes: blocks of the longest lines that
# clients can bring about would take 256 MB.
MOST_BLOCKS: Final = 1000
MOST_BYTES: Final = 8 * 1024 * 1024
# Seconds between two tries to write to a log that is full.
_STALLED: Final = 0.01
# Seconds that lines are gathered before they are written together; a person at a terminal sees them at once.
_GATHER: Final = {"color": 0.0, "text": 0.05, "json": 0.05}

# Durations below 4 ms as they are shown: to format a number takes three times as long as all the rest of a line.
# Interned, so that they are immortal: threads would fight over their reference counts.
_MILLIS: Final = tuple(sys.intern(f"{micros / 1000:.3f}") for micros in range(4000))

# What may stand in a quoted field as it is: visible ASCII and space, but not the quote and the escape themselves.
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
# Characters of a target, as shown. With all the rest a line stays below PIPE_BUF (4096 bytes, pipe(7)).
_MOST_TARGET: Final = 3000
_MOST_WORD: Final = 120  # of a method, or of who has asked
_ESCAPED: Final = len("\\u0000")  # what a byte may become
_HIDDEN: Final = b"?(hidden)"  # in place of a query
_PAINT: Final = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}
_WIDTH: Final = 11  # of the process's name, as in the lines of config.logs


class WorkerLog:
    """The lines of one worker that are not written yet. See the module for who may call what."""

    __slots__ = (
        "_beginning",
        "_ending",
        "_entries",
        "_form",
        "_from",
        "_known",
        "_lock",
        "_notice",
        "_process",
        "_query",
        "_sealed",
        "_size",
        "lost",
    )

    def __init__(self, form: str, process: str, notice: Callable[[], None], *, query: bool = True) -> None:
        self.lost = 0
        self._form = form
        self._query = query
        self._ending = _ENDINGS[form]
        self._known: dict[tuple[str, str, bytes, str, int, int], str] = {}
        self._process = process
        self._notice = notice
        self._from = -1.0  # monotonic time at which the second of `_beginning` began
        self._beginning = ""
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._sealed: list[bytes] = []  # blocks of BLOCK lines
        self._size = 0  # their bytes

    def add(
        self, peer: Address | None, request: RequestReceived, status: int, size: int, since: float, now: float
    ) -> None:
        """Log one response: ``size`` body bytes, sent at ``now`` for a request complete at ``since`` (monotonic)."""
        entries = self._entries
        entries.append((peer, request, status, size, since, now))
        count = len(entries)
        if count == 1:
            self._notice()
        elif count >= BLOCK:
            with self._lock:
                self._seal()

    @property
    def waiting(self) -> bool:
        """Whether a line waits. A hint: it may have been taken, or added, when the caller hears of it."""
        return bool(self._entries or self._sealed)

    def take(self) -> tuple[bytes, int]:
        """All that waits, and how many lines were lost since the last time. The log's thread."""
        with self._lock:
            self._seal()
            data, self._sealed, self._size = b"".join(self._sealed), [], 0
            lost, self.lost = self.lost, 0
        return data, lost

    def _seal(self) -> None:
        """Make one block of the entries. The caller holds the lock; the worker may append meanwhile."""
        count = len(self._entries)
        entries = self._entries[:count]
        del self._entries[:count]
        if len(self._sealed) >= MOST_BLOCKS or self._size >= MOST_BYTES:
            self.lost += len(entries)
            return
        try:
            block = self._block(entries)
        except Exception:
            # It must not cost the request. It did: the exception came out of the application's `send`, which was
            # complete, and the connection was nobody's any more.
            logger.exception("%d lines of the access log are lost", len(entries))
            return
        self._sealed.append(block)
        self._size += len(block)

    def _block(self, entries: list[Entry]) -> bytes:
        """The lines of ``entries``."""
        lines = []
        begins, ends, beginning = self._from, self._from + 1, self._beginning
        middle = ""
        last: RequestReceived | None = None
        host, code, length = "", 0, 0
        shown, most, ending = _MILLIS, len(_MILLIS), self._ending
        for peer, request, status, size, since, now in entries:
            if not begins <= now < ends:
                beginning = self._new_second(now)
                begins, ends = self._from, self._from + 1
            origin = request.origin
            client = (peer[0] if peer else "unix") if origin is None else origin.name
            # The same request often comes many times in a row, and is the same object then (see memo).
            if request is not last or size != length or status != code or client != host:
                last, length, code, host = request, size, status, client
                key = (client, request.method, request.target, request.version, status, size)
                middle = self._known.get(key) or self._describe(*key)
            micros = int((now - since) * 1e6 + 0.5)
            spent = shown[micros] if 0 <= micros < most else f"{micros / 1000:.3f}"
            lines.append(f"{beginning}{middle}{spent}{ending}")
        return "".join(lines).encode("ascii")

    def _new_second(self, now: float) -> str:
        """How lines begin from the monotonic time ``now`` on; the wall clock is asked each time, as it may be set."""
        wall = now + wall_clock() - monotonic()
        self._from = now - wall % 1
        self._beginning = _BEGINNINGS[self._form](int(wall), self._process)
        return self._beginning

    def _describe(self, client: str, method: str, target: bytes, version: str, status: int, size: int) -> str:
        """The part of a line between the clock and the duration, remembered: the same requests come again and again."""
        shown = target
        if not self._query:
            path, mark, _ = target.partition(b"?")
            shown = path + _HIDDEN if mark else path
        text = _shown(shown, self._form)
        # Both are checked where they come from: an address, a token. It costs nothing to be sure.
        who, verb = (
            _shown(part.encode("utf-8", "surrogatepass"), self._form, _MOST_WORD) for part in (client, method)
        )
        middle = _MIDDLES[self._form](who, verb, text, version, status, size)
        if len(target) <= LONGEST:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[client, method, target, version, status, size] = middle
        return middle


class AccessLog:
    """The log of one child, written to ``fd`` as ``form`` ("color", "text" or "json") by a thread of its own.
    ``query``: whether targets are shown with their queries."""

    def __init__(self, form: str, process: str, fd: int, *, query: bool = True) -> None:
        self._form = form
        self._query = query
        self._process = process
        self._fd = fd
        self._workers: list[WorkerLog] = []
        self._wanted = threading.Event()
        self._ended = threading.Event()
        # A daemon: a reader that has stopped reading must not hold the child's exit.
        self._thread = threading.Thread(target=self._run, name="serverd-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Write what waits, and end. False if the reader did not take it within ``seconds``."""
        self._ended.set()
        self._wanted.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        gather = _GATHER[self._form]
        while not self._ended.is_set():
            self._wanted.wait()
            self._wanted.clear()
            self._ended.wait(gather)
            self.flush()
            if self.waiting:
                # Added while the others were taken out: its worker saw those, and left the notice to them.
                self._wanted.set()
        self.flush()

    def for_worker(self) -> WorkerLog:
        """A log for one more worker, before it starts. Any thread: one append to a list that is never shortened."""
        log = WorkerLog(self._form, self._process, self._wanted.set, query=self._query)
        self._workers.append(log)
        return log

    @property
    def waiting(self) -> bool:
        """Whether a line waits to be written."""
        return any(log.waiting for log in self._workers)

    def flush(self) -> None:
        """Write what waits; the log's own thread. Blocks while the reader is slow; everybody else goes on meanwhile."""
        for log in self._workers:
            data, lost = log.take()
            if lost:
                data += _loss(lost, self._form, self._process).encode("ascii")
            for piece in in_pieces(data):
                self._write(piece)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # A pipe that another program made non-blocking is full. The pause is for descriptors that say they have
                # room and take nothing.
                select.select([], [self._fd], [])
                time.sleep(_STALLED)
            except OSError:
                return  # the reader is gone or the disk is full: a server goes on without its access log


def _shown(data: bytes, form: str, most: int = _MOST_TARGET) -> str:
    """``data`` as it stands in a line: visible ASCII, and about ``most`` characters of it."""
    odd = bool(data.translate(None, _PLAIN))
    if odd:
        most //= _ESCAPED
    kept = data[:most]
    text = (_escape(kept, form) if odd else kept).decode("ascii")
    return text if len(data) <= most else f"{text}...({len(data)} bytes)"


def _escape(target: bytes, form: str) -> bytes:
    escape = b"\\u00%02x" if form == "json" else b"\\x%02x"
    return b"".join(bytes((byte,)) if byte in _PLAIN else escape % byte for byte in target)


# For each form: how a line begins, the same for a whole second; what follows; and what stands behind the milliseconds.


def _json_beginning(now: int, process: str) -> str:
    clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return f'{{"time":"{clock}","level":"info","process":"{process}","logger":"serverd.access",'


def _text_beginning(now: int, process: str) -> str:
    clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return f"{clock}  access    {process:<{_WIDTH}}  "


def _color_beginning(now: int, process: str) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    return f"\x1b[2m{clock}\x1b[0m  \x1b[36m{process:<{_WIDTH}}\x1b[0m  "


def _json(client: str, method: str, target: str, version: str, status: int, size: int) -> str:
    return (
        f'"client":"{client}","method":"{method}","target":"{target}","version":"{version}","status":{status},'
        f'"bytes":{size},"ms":'
    )


def _text(client: str, method: str, target: str, version: str, status: int, size: int) -> str:
    return f'{client} "{method} {target} HTTP/{version}" {status} {size} '


def _color(client: str, method: str, target: str, version: str, status: int, size: int) -> str:
    paint = _PAINT.get(status // 100, "")
    return f"{paint}{status}\x1b[0m {method} {target}  \x1b[2m{client}  {size} B  "


_BEGINNINGS: Final = {"json": _json_beginning, "text": _text_beginning, "color": _color_beginning}
_MIDDLES: Final = {"json": _json, "text": _text, "color": _color}
_ENDINGS: Final = {"json": "}\n", "text": "ms\n", "color": " ms\x1b[0m\n"}


def _loss(lost: int, form: str, process: str) -> str:
    text = f"{lost} access log lines were dropped: the log's reader is too slow"
    beginning = _BEGINNINGS[form](int(wall_clock()), process)
    if form != "json":
        return f"{beginning}{text}\n"
    return f'{beginning.replace('"info"', '"warning"', 1)}"message":"{text}"}}\n'
