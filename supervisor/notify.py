"""What systemd is told, over the datagram socket of sd_notify(3), without a library.

Promises: silent when NOTIFY_SOCKET is not set; never raises and never blocks, because a service must not fail
for want of somebody to report to; abstract addresses (`@...`) work. The variables are taken out of the
environment, so that no child speaks in the master's name. Refuses to decide when something is true: the master
says so.

While one master takes the place of another (upgrade.py) only one of the two may speak, as systemd hears the main
process alone: the new one is `muted` until the old one has said `hand_over`.

The watchdog: systemd gives an interval (WATCHDOG_USEC) and restarts a service that stays silent for so long.
`ping_at` says when the next sign of life is due; the master gives it only when its loop turns and
policy.healthy holds, that is while every child that should be there serves, or boots within its own deadline.

Owned by the master's only thread.
"""

from __future__ import annotations

import array
import math
import os
import select
import socket
import struct
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..config.logs import escape_text

# sd_watchdog_enabled(3) recommends half of the interval.
_WATCHDOG_SHARE: Final = 0.5
# A manager that takes longer to read a datagram has other worries.
_BARRIER_MS: Final = 5000
_LONGEST_SEND: Final = struct.pack("@ll", 5, 0)  # struct timeval


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager as its variables describe it: where it listens, how often it wants to hear from us (0:
    never), and how many descriptors it would store (0: none)."""

    address: str = ""
    watchdog: float = 0.0
    store: int = 0

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str], pid: int) -> Manager:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID and FDSTORE, and remove them."""
        address = environ.pop("NOTIFY_SOCKET", "")
        interval = environ.pop("WATCHDOG_USEC", "")
        meant_for = environ.pop("WATCHDOG_PID", "")
        store = environ.pop("FDSTORE", "")
        ours = meant_for in ("", str(pid))
        watchdog = int(interval) / 1e6 if ours and interval.isdigit() else 0.0
        return cls(address, watchdog, int(store) if address and store.isdigit() else 0)


class Notifier:
    """The connection to the service manager, if there is one."""

    def __init__(self, manager: Manager | None = None, *, muted: bool = False) -> None:
        self.manager = manager or Manager()
        self._address = _socket_name(self.manager.address)
        self._sock: socket.socket | None = None
        if self._address:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.setblocking(False)
        self._interval = self.manager.watchdog * _WATCHDOG_SHARE if self._sock is not None else 0.0
        self._pinged = -math.inf
        self.muted = muted
        self.stored: set[str] = set()  # the names of the descriptors that the manager keeps for us

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str], pid: int) -> Notifier:
        """For the manager that the environment names."""
        return cls(Manager.take_from(environ, pid))

    @property
    def sock(self) -> socket.socket | None:
        """Its socket, for whoever keeps account of descriptors."""
        return self._sock

    @property
    def interval(self) -> float:
        """Seconds between two signs of life; 0 without a watchdog."""
        return self._interval

    def ready(self, status: str) -> None:
        """The children serve: after the start, and at the end of every reload, whether it worked or not."""
        self._send("READY=1", f"STATUS={_line(status)}", f"MAINPID={os.getpid()}")

    def reloading(self, status: str, seconds: float) -> None:
        """A reload begins (Type=notify-reload asks for the monotonic time of it), and may take up to `seconds`."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", f"STATUS={_line(status)}", *_extension(seconds))

    def stopping(self, status: str, seconds: float) -> None:
        """The end begins, and may take up to `seconds` (infinite: then only systemd's own limit counts)."""
        self._send("STOPPING=1", f"STATUS={_line(status)}", *_extension(seconds))

    def starting(self, status: str, seconds: float) -> None:
        """The first generation boots, which may take up to `seconds`."""
        self._send(f"STATUS={_line(status)}", *_extension(seconds))

    def ping_at(self) -> float:
        """When the next sign of life is due, in monotonic seconds; infinite without a watchdog."""
        return self._pinged + self._interval if self._interval and not self.muted else math.inf

    def ping(self, now: float) -> None:
        """Give the sign of life."""
        self._pinged = now
        self._send("WATCHDOG=1")

    def store(self, name: str, fd: int) -> None:
        """Keep a copy of `fd` for the next start, to be passed as `name` (sd_pid_notify_with_fds(3))."""
        self.stored.add(name)
        self._send("FDSTORE=1", f"FDNAME={name}", fds=[fd])

    def discard(self, name: str) -> None:
        """Close the copies that are stored as `name`."""
        self.stored.discard(name)
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def barrier(self) -> None:
        """Wait until everything said so far has been read (sd_notify_barrier(3)), 5 s at most."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._send("BARRIER=1", fds=[writer])
        finally:
            os.close(writer)
        poll = select.poll()
        poll.register(reader, 0)  # its other end is closed when it was read, or could not be sent
        poll.poll(_BARRIER_MS)
        os.close(reader)

    def hand_over(self, pid: int) -> None:
        """The main process is `pid` from now on, and this one has said its last word.

        The only message that is waited for if nobody reads (5 s at most): a service whose main process exits is over.
        """
        if self._sock is not None:
            self._sock.setblocking(True)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _LONGEST_SEND)
        self._send(f"MAINPID={pid}")
        self.close()

    def unmute(self) -> None:
        """This is the main process now."""
        self.muted = False

    def close(self) -> None:
        """Say nothing any more."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, *assignments: str, fds: Sequence[int] = ()) -> None:
        if self._sock is None or self._address is None or self.muted:
            return
        text = "\n".join(assignments).encode("utf-8", "replace")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([text], rights, 0, self._address)
        except OSError:
            pass  # the manager is gone or does not read; serving matters more than saying so


def _extension(seconds: float) -> tuple[str, ...]:
    return (f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}",) if math.isfinite(seconds) and seconds > 0 else ()


def _line(text: str) -> str:
    """One line for people: what stands in it may come from the name of a file, or from an application."""
    return escape_text(text.replace("\n", " "))


def _socket_name(address: str) -> str | bytes | None:
    """Where to send; `@name` is in the abstract namespace (unix(7)). Other kinds (vsock) are not served."""
    if address.startswith("@"):
        return b"\0" + address[1:].encode("utf-8", "surrogateescape")
    return address if address.startswith("/") else None
