"""The control socket: a unix socket on which `serverd status`, `reload` and the others speak to the master.

Promises: only root and the user that the master runs as are answered (SO_PEERCRED, and mode 0600 before that); no
client can hold the master up or fill its memory (nothing here waits, a request has 64 KiB and 10 s, an answer that
nobody reads 10 s, and there are at most 32 connections); the next request of a connection is looked at when the one
before it has its answer. A stale socket file is replaced, one that is alive is not touched, and at the end only the
file that is still ours is removed. Refuses to know what a command does (control_commands.py) and what its bytes look
like (control_lines.py).

Owned by the master's only thread.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from ..config import ServerConfig, UnixAddress
from ..server.seldom import SeldomLog
from . import control_lines
from .control_lines import Lines, Refusal, Request
from .control_place import paths
from .listeners import Access, Heirloom, Inherited, ListenError, Listeners
from .spawn import Closable

logger = logging.getLogger("serverd.master")

MOST_PEERS: Final = 32
# For the rest of a request, and for the client to take what it was answered.
PATIENCE: Final = 10.0
# After an accept that failed for want of descriptors or memory; the backlog keeps who waits.
_REST: Final = 0.3
_PRIVATE: Final = 0o177  # umask: the socket has mode 0600
_BACKLOG: Final = 64
# sockaddr_un.sun_path is 108 bytes on Linux and ends with a NUL (unix(7)).
_LONGEST_PATH: Final = 107
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class Reply:
    """The answer to one request; `who` asked. Silent when the client has gone."""

    def __init__(self, peer: Peer) -> None:
        self.who = peer.who
        self._peer = peer

    def event(self, name: str, **fields: object) -> None:
        """A line on the way."""
        self._peer.send(control_lines.event(name, **fields))

    def succeed(self, **fields: object) -> None:
        """It was done."""
        self._peer.send(control_lines.success(**fields), last=True)

    def fail(self, error: str) -> None:
        """It was not done, and why."""
        self._peer.send(control_lines.failure(error), last=True)


Answer = Callable[[Request, Reply], None]


class Peer:
    """One client. `deadline`: when it has taken too long, on the monotonic clock."""

    def __init__(
        self, sock: socket.socket, who: str, selector: selectors.BaseSelector, answer: Answer
    ) -> None:
        self.sock = sock
        self.who = who
        self.deadline = time.monotonic() + PATIENCE
        self.closed = False
        self._selector = selector
        self._answer = answer
        self._lines = Lines()
        self._out = bytearray()
        self._busy = False  # a request has no answer yet
        self._over = False  # nothing more will be read
        self._settling = False
        self._interest = 0
        self._settle()

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Put a line of the answer on its way; with `last` the next request may come."""
        if self.closed:
            return
        self._out += data
        if last:
            self._busy = False
        if not self._settling:
            self._settle()

    def refuse(self, error: str) -> None:
        """Say why, and close as soon as it was read."""
        self._over = True
        self.send(control_lines.failure(error), last=True)

    def expire(self) -> None:
        """The deadline has passed."""
        if self._out or not self._lines.partial or self._over:
            self.close()
        else:
            self.refuse(f"a request must be complete within {PATIENCE:g} s")

    def close(self) -> None:
        """Forget the client."""
        if not self.closed:
            self.closed = True
            self._watch(0)
            self.sock.close()

    def on_ready(self) -> None:
        """The socket can be read or written, whichever was waited for."""
        self._flush()
        if self._interest & selectors.EVENT_READ:
            self._read()
        self._settle()

    def _read(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self._lines.feed(data)
        else:  # it may still wait for its answer: `printf ... | nc -N -U`, with or without the line's end
            if self._lines.partial:
                self._lines.feed(b"\n")
            self._over = True

    def _settle(self) -> None:
        """Send what can be sent, answer what can be answered, and wait for what comes next."""
        self._settling = True
        self._flush()
        while (
            not self.closed and not self._busy and not self._out and (item := self._lines.take()) is not None
        ):
            self.deadline = time.monotonic() + PATIENCE
            if isinstance(item, Refusal):
                self._over = self._over or item.final
                self._out += control_lines.failure(item.error)
            else:
                self._ask(item)
            self._flush()
        self._settling = False
        if self._over and not self._busy and not self._out:
            self.close()
        if self.closed:
            return
        reads = not (self._out or self._busy or self._over)
        self._watch((selectors.EVENT_WRITE if self._out else 0) | (selectors.EVENT_READ if reads else 0))
        if self._busy and not self._out:
            self.deadline = math.inf
        elif self.deadline == math.inf:
            self.deadline = time.monotonic() + PATIENCE

    def _ask(self, request: Request) -> None:
        self._busy = True
        reply = Reply(self)
        try:
            self._answer(request, reply)
        except Exception:
            logger.exception("control: %s failed", request.do)
            reply.fail(f"{request.do}: a mistake of serverd's; its log has the traceback")

    def _flush(self) -> None:
        while self._out and not self.closed:
            try:
                sent = self.sock.send(self._out, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            del self._out[:sent]
            self.deadline = time.monotonic() + PATIENCE

    def _watch(self, interest: int) -> None:
        if interest == self._interest:
            return
        if not self._interest:
            self._selector.register(self.sock, interest, self.on_ready)
        elif not interest:
            self._selector.unregister(self.sock)
        else:
            self._selector.modify(self.sock, interest, self.on_ready)
        self._interest = interest


class Control:
    """The socket and its clients. `answer`, set before the selector is asked, is called with each request and must lead
    to one last line of its reply. `listeners`: none yet, and where an old master's socket is to be found."""

    answer: Answer

    def __init__(
        self,
        selector: selectors.BaseSelector,
        environ: Mapping[str, str],
        listeners: Listeners | None = None,
    ) -> None:
        self._selector = selector
        self._environ = environ
        self._said = ""
        self._say = SeldomLog(logger)
        self._listeners = listeners or Listeners(Inherited())
        self._peers: list[Peer] = []
        self._resume_at = math.inf

    @property
    def path(self) -> Path | None:
        """Where it listens."""
        return next((listener.path for listener in self._listeners.all()), None)

    def open(self, config: ServerConfig) -> None:
        """Listen where `config` says, beside where it listens already. Raises ListenError, one line with the remedy.

        A place that nobody has asked for is not worth a failure: then there is no control socket, and the log says so.
        """
        problem = ""
        for path in paths(config, self._environ):
            try:
                self._open_one(path)
            except ListenError as error:
                problem = problem or str(error)
            else:
                return
        if problem and config.control is not None:
            raise ListenError([problem])
        if problem and problem != self._said:
            self._said = problem
            logger.info("no control socket: %s; or name another place with `control:`", problem)

    def follow(self, config: ServerConfig) -> None:
        """Listen where `config` says and nowhere else; if that cannot be, stay, and say so."""
        try:
            self.open(config)
        except ListenError as error:
            logger.error("%s", error)
        else:
            self._listeners.own()
            self.keep_only(config)

    def keep_only(self, config: ServerConfig) -> None:
        """Listen nowhere else any more than where `config` says; who is connected stays so."""
        wanted = [UnixAddress(path) for path in paths(config, self._environ)]
        open_still = {listener.path for listener in self._listeners.all()}
        keep = next((address for address in wanted if address.path in open_still), None)
        for listener in self._listeners.all():
            if keep is None or listener.path != keep.path:
                self._unwatch(listener.sock)
        self._listeners.keep_only([] if keep is None else [keep])

    def tend(self, now: float) -> float:
        """Do what is due; when the next thing will be, infinite for never."""
        if self._resume_at <= now:
            self._resume_at = math.inf
            for listener in self._listeners.all():
                if listener.sock not in self._selector.get_map():  # a reload may have brought it meanwhile
                    self._watch(listener.sock)
        for peer in self._peers:
            if peer.deadline <= now:
                peer.expire()
        self._peers = [peer for peer in self._peers if not peer.closed]
        return min([self._resume_at, *(peer.deadline for peer in self._peers)])

    def belongings(self) -> Iterator[Closable]:
        """Every descriptor of it."""
        yield from (listener.sock for listener in self._listeners.all())
        yield from (peer.sock for peer in self._peers if not peer.closed)

    def heirlooms(self) -> list[Heirloom]:
        """For a master that takes this one's place."""
        return self._listeners.heirlooms()

    def hand_over(self) -> None:
        """Another master will listen there: the file stays, and so do those who are connected."""
        self._listeners.lend()
        self._stop_listening()

    def close(self) -> None:
        """The end: clients that wait for it see it."""
        self._stop_listening()
        for peer in self._peers:
            peer.close()

    def _stop_listening(self) -> None:
        for listener in self._listeners.all():
            self._unwatch(listener.sock)
        self._resume_at = math.inf
        self._listeners.close()

    def _open_one(self, path: Path) -> None:
        length = len(os.fsencode(path))
        if length > _LONGEST_PATH:
            raise ListenError(
                [f"control: {path}: has {length} bytes, and a unix socket at most {_LONGEST_PATH}"]
            )
        try:
            opened = self._listeners.open([UnixAddress(path)], _BACKLOG, Access(_PRIVATE))
        except ListenError as error:
            raise ListenError([str(error).replace("listen: unix:", "control: ", 1)]) from None
        for listener in opened:
            self._watch(listener.sock)

    def _watch(self, sock: socket.socket) -> None:
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._accept(sock))

    def _unwatch(self, sock: socket.socket) -> None:
        if self._selector.get_map().get(sock) is not None:
            self._selector.unregister(sock)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._say("control: cannot accept a connection (%s)", error.strerror)
            for listener in self._listeners.all():
                self._unwatch(listener.sock)
            self._resume_at = time.monotonic() + _REST
            return
        sock.setblocking(False)
        pid, uid, _ = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self._peers = [peer for peer in self._peers if not peer.closed]
        peer = Peer(sock, f"pid {pid}, uid {uid}", self._selector, self.answer)
        if not may_control(uid, os.geteuid()):
            logger.warning("control: refused pid %d of user %d", pid, uid)
            peer.refuse(f"only root and user {os.geteuid()} may control this serverd, and you are user {uid}")
        elif len(self._peers) >= MOST_PEERS:
            peer.refuse(f"there are {MOST_PEERS} control connections already; try again when one has ended")
        self._peers.append(peer)


def may_control(uid: int, own: int) -> bool:
    """Whether user `uid` may tell a master that runs as `own` what to do. Not the children's user: the application
    must not have its supervisor's rights."""
    return uid in (0, own)
