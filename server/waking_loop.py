"""asyncio's event loop, whose wake-up from other threads cannot be lost.

``call_soon_threadsafe`` wakes the loop with a byte through a pair of sockets, and asyncio passes over an error of that
send. The kernel needs memory for the byte (ENOBUFS, ENOMEM: a control group at its limit), and a loop that was not
woken sleeps until its next event: a request that was handed to the home loop was seen to get no answer in 20 s, nor did
the next ones. Promises: then the loop is woken by an eventfd, whose counter needs no memory. Refuses: uvloop, which
has one of its own.

Belongs to the thread that runs it, but for ``_write_to_self``, which any thread calls; the lock keeps it from a
descriptor that has been closed, and perhaps used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading


class WakingLoop(asyncio.SelectorEventLoop):
    """See the module. Names that begin with an underscore are asyncio's (since 3.4); tests/test_worker_loop.py fails
    when they are renamed."""

    def __init__(self) -> None:
        self._bell = -1
        # An RLock, as a handler of signals may call in the middle of a call.
        self._bell_lock = threading.RLock()
        try:
            super().__init__()
        except OSError:
            # No descriptors: whoever makes the loop hears of it. asyncio would close it when it is collected, and fail,
            # as half of it was never there.
            if getattr(self, "_ssock", None) is not None:
                self._close_self_pipe()
            if getattr(self, "_selector", None) is not None:
                self._selector.close()  # type: ignore[attr-defined]
            self._closed = True
            raise

    def _make_self_pipe(self) -> None:
        super()._make_self_pipe()  # type: ignore[misc]
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._add_reader(self._bell, self._answer_bell)  # type: ignore[attr-defined]

    def _close_self_pipe(self) -> None:
        with self._bell_lock:
            bell, self._bell = self._bell, -1
            if bell >= 0:
                self._remove_reader(bell)  # type: ignore[attr-defined]
                os.close(bell)
        super()._close_self_pipe()  # type: ignore[misc]

    def _answer_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _write_to_self(self) -> None:
        sock = self._csock  # type: ignore[attr-defined]
        if sock is None:
            return
        try:
            sock.send(b"\0")
        except BlockingIOError:
            pass  # it is full of them: the loop has not slept since
        except OSError:
            with self._bell_lock:
                if self._bell >= 0:
                    os.eventfd_write(self._bell, 1)
