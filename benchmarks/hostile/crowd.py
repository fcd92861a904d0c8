"""A crowd of slow or hostile clients, as one process with one epoll, so that it costs little CPU itself.

    python -m hostile.crowd PORT KIND COUNT

Says ``ready`` when as many connections are open as there should be, and goes on until its standard input ends; then it
closes everything and says in JSON what it saw and what CPU it took.
"""

from __future__ import annotations

import collections
import gc
import heapq
import json
import os
import select
import socket
import struct
import sys
import time

from .daemon import raise_descriptors
from .kinds import UPGRADE, Kind, kinds

# Connections that are opened in a second, one by one: neither a listener's backlog nor a burst is what is tested, and
# their deadlines are spread as those of strangers are.
_RATE = 1500
_ADDRESSES = 16  # 127.0.0.2 and following: one has 28,000 ports
_RESET = struct.pack("ii", 1, 0)
_IN, _GONE = select.EPOLLIN, select.EPOLLRDHUP


class Member:
    """One connection."""

    __slots__ = ("at", "fd", "number", "rest", "sock", "upgraded")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.number = number
        self.at = 0  # how far it is with its drip
        self.rest = b""  # of its first bytes
        self.upgraded = False


class Crowd:
    """See the module."""

    def __init__(self, port: int, kind: Kind, count: int) -> None:
        self._address = ("127.0.0.1", port)
        self._kind = kind
        self._count = count
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        # (when, a number of its own, whose): when it is its turn to send, read or be reset.
        self._turns: list[tuple[float, int, Member]] = []
        self._missing: collections.deque[int] = collections.deque()
        self._order = 0
        self._made = 0
        self._next = 0.0
        self.seen: collections.Counter[str] = collections.Counter()
        self.full = False

    def turn(self, until: float) -> None:
        """Do what is due; wait for events no longer than to the next of it, or to ``until``."""
        now = time.monotonic()
        if self._next or self._missing or not self.full:
            self._open_more(now)
        while self._turns and self._turns[0][0] <= now:
            _, _, member = heapq.heappop(self._turns)
            if self._members.get(member.fd) is member:
                self._act(member, now)
        due = min(until, self._turns[0][0] if self._turns else until, self._next or until)
        for fd, events in self._epoll.poll(max(0.0, due - time.monotonic()), 512):
            found = self._members.get(fd)
            if found is not None:
                self._hear(found, events)

    def _open_more(self, now: float) -> None:
        rate = self._kind.rate or _RATE
        self._next = self._next or now
        while self._next <= now:
            if self._kind.rate:
                self._open(self._made, now)
                self.full = self._made > rate
            elif self._missing:
                self._open(self._missing.popleft(), now)
            elif self._made < self._count:
                self._open(self._made, now)
            else:
                self.full = True
                self._next = 0.0
                return
            self._next += 1 / rate

    def _open(self, number: int, now: float) -> None:
        self._made = max(self._made, number + 1)
        kind = self._kind
        sock = socket.socket()
        sock.setblocking(False)
        if kind.buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kind.buffer)
        sock.setsockopt(
            socket.IPPROTO_IP, 24, 1
        )  # IP_BIND_ADDRESS_NO_PORT: any port that is free for this peer
        sock.bind((f"127.0.0.{2 + number % _ADDRESSES}", 0))
        sock.connect_ex(self._address)
        member = Member(sock, number)
        self._members[member.fd] = member
        self.seen["opened"] += 1
        self._epoll.register(member.fd, (_IN if kind.read == -1 or kind.upgrade else 0) | _GONE)
        first = kind.first[number % len(kind.first)]
        if kind.cut:
            first = first[: number % (len(first) + 1)]
        member.rest = UPGRADE if kind.upgrade else first
        if not self._send_rest(member):
            return
        if kind.rate:
            wait = kind.stay
        else:
            wait = kind.every * (0.5 + (number % 1000) / 1000)  # all seconds alike
        if wait or kind.rate:
            self._later(now + wait, member)

    def _send_rest(self, member: Member) -> bool:
        """Whether it is still there."""
        try:
            while member.rest:
                member.rest = member.rest[member.sock.send(member.rest) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._gone(member, type(error).__name__)
            return False
        return True

    def _act(self, member: Member, now: float) -> None:
        kind = self._kind
        if not self._send_rest(member):
            return
        if kind.rate:
            if not kind.orderly:
                member.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close(member)
            return
        try:
            if kind.drip and not member.rest and (member.upgraded or not kind.upgrade):
                self._drip(member)
            if kind.read > 0 and not member.sock.recv(kind.read):
                raise EOFError
        except BlockingIOError:
            pass
        except (OSError, EOFError) as error:
            self._gone(member, type(error).__name__)
            return
        self._later(now + kind.every, member)

    def _later(self, when: float, member: Member) -> None:
        self._order += 1
        heapq.heappush(self._turns, (when, self._order, member))

    def _drip(self, member: Member) -> None:
        drip = self._kind.drip
        if self._kind.whole:
            member.rest = drip
            self._send_rest(member)
        elif member.at < len(drip):
            member.sock.send(drip[member.at : member.at + 1])
            member.at += 1

    def _hear(self, member: Member, events: int) -> None:
        kind = self._kind
        try:
            if events & _IN:
                data = member.sock.recv(65536)
                if not data:
                    raise EOFError
                self.seen["bytes"] += len(data)
                if data.startswith(b"HTTP/1.1 "):
                    self.seen[data[9:12].decode()] += 1
                if kind.upgrade and not member.upgraded:
                    member.upgraded = True
                    member.rest = kind.first[member.number % len(kind.first)]
                    if kind.read != -1:
                        self._epoll.modify(member.fd, _GONE)
                    self._send_rest(member)
            elif events:
                raise EOFError
        except BlockingIOError:
            pass
        except (OSError, EOFError) as error:
            self._gone(member, type(error).__name__)

    def _gone(self, member: Member, why: str) -> None:
        """The server has closed it."""
        self.seen[f"ended: {why}"] += 1
        if self._members.get(member.fd) is not member:
            return
        self._close(member)
        if not self._kind.rate:
            self._missing.append(member.number)

    def _close(self, member: Member) -> None:
        del self._members[member.fd]
        member.sock.close()

    def close(self) -> None:
        """Everything at once."""
        for member in list(self._members.values()):
            self._close(member)


def main() -> None:
    """See the module."""
    raise_descriptors()
    if os.sched_getscheduler(0) == os.SCHED_RR:  # behind the others of this benchmark
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    else:
        os.nice(10)
    port, name, count = sys.argv[1:4]
    crowd = Crowd(int(port), kinds()[name], int(count))
    over = select.poll()
    over.register(sys.stdin, select.POLLIN | select.POLLHUP)
    gc.disable()
    said = False
    began = looked = time.monotonic()
    cpu = 0.0
    while True:
        crowd.turn(looked + 0.2)
        if not said and crowd.full:
            said = True
            print("ready", flush=True)
            began, cpu = time.monotonic(), time.process_time()
        if time.monotonic() >= looked + 0.2:
            looked = time.monotonic()
            if over.poll(0):
                break
    share = (time.process_time() - cpu) / max(0.001, time.monotonic() - began)
    crowd.close()
    print(json.dumps({"cpu": share, "seen": dict(crowd.seen)}), flush=True)


if __name__ == "__main__":
    main()
