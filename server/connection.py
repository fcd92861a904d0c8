"""One client connection: its socket, what was received and not yet used, what is still to be sent, and its phase.

Promises: a connection has one owner at a time (the holder of ``owned``), only the owner touches it, and its phase moves
only along ``NEXT``; an illegal move raises. Refuses: to decide anything about HTTP; that is the worker's work.

Who may touch it, and why that is safe without a GIL: a connection is either *owned* by the thread that holds its lock
``owned``, or *parked* (lock free, waiting in the epoll of ``ConnectionQueue``). Whoever wants a parked one (a worker
that got its event, the child's main thread that found it expired or is draining) must win ``owned.acquire(False)``;
the loser leaves it alone. ``phase`` and ``numbers`` may be read without the lock as a hint, to be checked again by
the winner.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
from array import array
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from .file_range import STEP, FileRange
from .http.events import RequestReceived
from .phases import NAMES, NEXT, Phase

if TYPE_CHECKING:
    from .http.framing import ChunkedDecoder, SizedDecoder

Address = tuple[str, int]
Server = tuple[str, int | None]  # (host, port), or (path of a unix socket, None), as ASGI's scope["server"]


# Indices of ``Connection.numbers``. They stand in an array because an object that one thread makes and another
# drops has to be handed back to its maker, which cost 3 µs a request when two threads took turns on a connection; a
# double is no object.
SINCE: Final = (
    0  # monotonic seconds since when it waits in its phase; 0 when the wait begins with the next park
)
REQUESTS: Final = 1  # how many it has sent, where somebody wants to know (`lifecycle`)

# A client that sends a body or reads a response has its time anew with each so many bytes: 64 KiB in 30 s is 2 KiB/s. A
# deadline for each piece would let one byte a time hold a connection for ever, one for the whole would cut slow lines.
PROGRESS: Final = 64 * 1024

# For SO_LINGER (socket(7)): zero seconds make close(2) send RST.
_RESET: Final = struct.pack("ii", 1, 0)
_NO_RESET: Final = struct.pack("ii", 0, 0)

# What `Connection.out` is while nothing but a file waits.
_NO_BYTES: Final = memoryview(b"")
# Filesystems that sendfile(2) cannot read from say so with one of these; their files are read.
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
# So much of a file is read at once where the kernel cannot send it: four of the largest records of TLS.
_READ: Final = 64 * 1024


class Connection(socket.socket):
    """A non-blocking stream socket with its HTTP/1.1 state; see the module for who may touch it.

    What TLS does otherwise (`tls.TlsConnection`) are the methods `recv`, `transmit`, `has_data`, `shake_hands` and
    `goodbye`. Its `transmit` leaves to this one what comes while both `out` and `later` are there: that is encrypted
    when its turn comes, behind the file.
    """

    partial = (
        False  # whether bytes of the client are here that are no plaintext yet; a hint, but for the owner
    )

    __slots__ = (
        "believed",
        "body",
        "body_size",
        "counted",
        "decoder",
        "fd",
        "id",
        "inbox",
        "keep_alive",
        "known",
        "later",
        "local",
        "numbers",
        "opened",
        "out",
        "owned",
        "peer",
        "phase",
        "rearm",
        "request",
        "resets",
        "secure",
        "server",
        "stays",
        "taken",
        "watched",
    )

    def __init__(
        self, number: int, family: int, fd: int, peer: Address | None, local: Server | None, now: float
    ) -> None:
        super().__init__(family, socket.SOCK_STREAM, 0, fileno=fd)
        self.setblocking(False)
        self.fd: int = fd
        self.id = number  # unique in this child
        self.secure = False  # whether it speaks TLS
        self.peer = peer  # who is at the other end, or whom the PROXY protocol has named
        self.local = local  # where it was accepted
        self.server = local  # what its requests are told of that: the PROXY protocol may name another
        self.counted = ""  # the address that it counts for (`per_address`); "": for none
        # Whether fields count by which proxies tell of clients. None: if the peer is trusted. The PROXY protocol puts
        # the client in place of the peer, and what is trusted of those is for `proxy.opening` to say.
        self.believed: bool | None = None
        self.opened = now
        self.phase: int = Phase.HEAD
        self.numbers = array("d", (now, 0.0))
        self.owned = threading.Lock()
        self.owned.acquire()
        self.known = False  # it has had a request
        self.stays = False  # no other child has taken it: it is served here to its end
        self.watched = 0  # what its queue's epoll was told to report; 0: nothing, it does not know it
        # Something may be here that the epoll has reported, and will not report again, to who could do nothing with it,
        # as the connection had an owner. Set by any thread (see `ConnectionQueue.park`).
        self.rearm = False
        self.inbox: bytes = b""  # received and not yet parsed
        self.request: RequestReceived | None = None  # its head, while its body is not complete
        self.decoder: SizedDecoder | ChunkedDecoder | None = None
        self.body: list[bytes] = []  # decoded pieces of that body
        self.body_size = 0
        # Response bytes that the kernel did not take yet (None: nothing waits), and what goes behind them, in order,
        # if there is a file in it.
        self.out: memoryview | None = None
        self.later: deque[FileRange | bytes] | None = None
        self.resets = False  # see reset_at_close
        self.keep_alive = False  # what follows when `out` is sent: another request, or the end
        self.taken = 0  # bytes of the body or of `out` that went over since the deadline was set

    def move(self, phase: int) -> None:
        """Enter ``phase``. Raises RuntimeError for a move that the table does not have."""
        if not NEXT[self.phase] >> phase & 1:
            raise RuntimeError(f"connection {self.id}: {NAMES[self.phase]} may not become {NAMES[phase]}")
        self.phase = phase

    def transmit(self, data: bytes) -> bool:
        """Send ``data`` behind what already waits. True if the kernel took everything; the rest stays in ``out``.

        Raises OSError when the client is gone.
        """
        if self.out is not None:
            if self.later is not None:
                self.later.append(data)
            else:
                self.out = memoryview(bytes(self.out) + data)
            return False
        try:
            sent = self.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self.out = memoryview(data)[sent:]
        return False

    def transmit_all(self, pieces: Iterable[bytes]) -> bool:
        """As ``transmit``, for pieces that are large and are not copied."""
        if self.later is None:
            self.later = deque()
        self.later.extend(pieces)
        return False if self.out is not None else self._send_later()

    def transmit_file(self, file: FileRange, tail: bytes = b"") -> bool:
        """As ``transmit``, for ``file`` and then ``tail``. The file is closed here, whatever becomes of it.

        Raises FileShrank, OSError.
        """
        if self.later is None:
            self.later = deque()
        self.later.append(file)
        if tail:
            self.later.append(tail)
        if self.out is not None:
            return False
        return self._send_later()

    def shake_hands(self) -> bool:
        """One step of the handshake: True when it is done and the phase is HEAD. Raises OSError."""
        self.move(Phase.HEAD)
        return True

    def tls_extension(self) -> dict[str, Any]:
        """The ASGI extension "tls", where ``secure``."""
        raise NotImplementedError

    def goodbye(self) -> None:
        """Say that nothing more will be sent, before the socket is half-closed or closed. Raises nothing."""

    def flush(self) -> bool:
        """Send more of what waits. True when nothing is left. Raises OSError when the client is gone, FileShrank."""
        out = self.out
        if out is None:
            return True
        if out:
            try:
                sent = self.send(out)
            except BlockingIOError:
                return False
            self.taken += sent
            if sent < len(out):
                self.out = out[sent:]
                return False
        if self.later is not None:
            return self._send_later()
        self.out = None
        return True

    def _send_later(self) -> bool:
        """Send what stands behind ``out``, of which nothing is left: up to one step of files. True if that was all."""
        later = self.later
        assert later is not None
        self.out = None
        step = STEP
        while later and self.out is None and step > 0:
            piece = later[0]
            if isinstance(piece, FileRange):
                sent = self._send_file(piece) if piece.count else 0
                if not piece.count:
                    later.popleft()
                    piece.close()
                elif not sent:
                    break  # no room
                step -= sent
            else:
                later.popleft()
                self.transmit(piece)
                sent = len(piece)
            self.taken += sent - (0 if self.out is None else len(self.out))
        if not later:
            self.later = None
        elif self.out is None:
            self.out = _NO_BYTES
        return self.out is None

    def _send_file(self, file: FileRange) -> int:
        """Send one step of ``file``, whose turn it is; how many bytes of it went, some of them perhaps into ``out``."""
        if not self.secure:
            try:
                return file.send_to(self.fd)
            except BlockingIOError:
                return 0
            except OSError as exc:
                if exc.errno not in _NO_SENDFILE:
                    raise
        data = file.read(_READ)
        self.transmit(data)
        return len(data)

    def take(self, size: int = 65536) -> bytes | None:
        """What the client sent: b"" at its end, None when nothing is there yet. Raises OSError when it is gone."""
        try:
            data = self.recv(size)
        except BlockingIOError:
            return None
        if len(data) >= size:
            self.rearm = True  # there may be more
        return data

    @property
    def pending_out(self) -> int:
        """Bytes that wait for the client to read."""
        if self.out is None:
            return 0
        if self.later is None:
            return len(self.out)
        return len(self.out) + sum(
            piece.count if isinstance(piece, FileRange) else len(piece) for piece in self.later
        )

    def reset_at_close(self, on: bool) -> None:
        """Whether the client sees a reset when the socket is closed (or its process ends), and not an ordinary end.

        For responses that only the end of the connection ends: without it a part would look like the whole.
        """
        self.resets = on
        with contextlib.suppress(OSError):
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET if on else _NO_RESET)

    def close(self) -> None:
        """Close the socket, and the files that were not sent to their end. For the owner."""
        later, self.later = self.later, None
        if later is not None:
            for piece in later:
                if isinstance(piece, FileRange):
                    piece.close()
        super().close()

    def is_ready(self) -> bool:
        """Whether what its phase waits for is there: room for an answer, where the next request is here already."""
        sends = self.phase == Phase.WRITING or (self.phase == Phase.IDLE and self.inbox)
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT if sends else select.POLLIN)
        try:
            return bool(poll.poll(0))
        except OSError:  # no memory: nobody is closed for what cannot be known
            return True

    def has_data(self) -> bool:
        """Whether bytes of the client wait in the kernel."""
        try:
            return bool(self.recv(1, socket.MSG_PEEK))
        except OSError:  # BlockingIOError: there are none; any other: there will never be
            return False
