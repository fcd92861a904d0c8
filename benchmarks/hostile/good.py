"""Well-behaved clients, as one process: a steady rate of requests, whether the earlier ones are answered or not.

    python -m hostile.good PORT RATE FRESH TLS

One of FRESH requests comes on a new connection; the others are sent over connections that are kept. Reads a number of
seconds from standard input and answers with a line of JSON, again and again. A request is timed from the moment in
which it is sent: it never waits for another one's answer, as connections are added while all are in use.
"""

from __future__ import annotations

import collections
import gc
import json
import select
import socket
import ssl
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: well-behaved\r\n\r\n"
KEPT = 16
# More than so many at a time: then something is broken, and not slow.
MOST = 2000
# A request that is not answered by then has failed, in seconds.
PATIENCE = 20.0


class Client:
    """One connection. ``since``: when its request was sent; 0: it has none."""

    __slots__ = ("fresh", "got", "phase", "since", "sock")

    def __init__(self, sock: socket.socket, fresh: bool) -> None:
        self.sock = sock
        self.fresh = fresh
        self.since = 0.0
        self.got = 0
        self.phase = "connecting"


class Good:
    """All of them. ``times`` are the seconds of each answered request of the present measurement."""

    def __init__(self, port: int, *, tls: bool) -> None:
        self._address = ("127.0.0.1", port)
        self._tls = None
        if tls:
            self._tls = ssl.create_default_context()
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._idle: collections.deque[Client] = collections.deque()
        self._length = 0
        self.times: list[float] = []
        self.fresh_times: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()
        self._learn()

    def _learn(self) -> None:
        """How long an answer is; it is the same each time."""
        with socket.create_connection(self._address, timeout=PATIENCE) as plain:
            sock = self._tls.wrap_socket(plain) if self._tls is not None else plain
            sock.sendall(REQUEST)
            data = b""
            while b"\r\n\r\n" not in data or not data.endswith(b"World!"):
                data += sock.recv(4096)
            self._length = len(data)

    def send(self, fresh: bool) -> None:
        """One request."""
        while self._idle and not fresh:
            client = self._idle.popleft()
            if client.sock.fileno() < 0:
                continue
            client.since, client.got = time.monotonic(), 0
            try:
                client.sock.send(REQUEST)
            except OSError as error:
                self._fail(client, f"send: {error!r}")
            return
        if len(self._clients) >= MOST:
            self.errors["too many are waiting"] += 1
            return
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(sock, fresh)
        client.since = time.monotonic()
        sock.connect_ex(self._address)
        self._clients[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def turn(self, timeout: float) -> None:
        """Wait for answers."""
        for fd, _ in self._epoll.poll(timeout):
            client = self._clients.get(fd)
            if client is None:
                continue
            try:
                self._step(client)
            except ssl.SSLWantReadError, BlockingIOError:
                pass
            except (OSError, EOFError) as error:
                if client.since:
                    self._fail(client, f"{client.phase}: {type(error).__name__}")
                else:
                    self._drop(client)

    def _step(self, client: Client) -> None:
        fd = client.sock.fileno()
        if client.phase == "connecting":
            if error := client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "connect")
            self._epoll.modify(fd, select.EPOLLIN)
            client.phase = "open"
            if self._tls is not None:
                client.sock = self._tls.wrap_socket(client.sock, do_handshake_on_connect=False)
                client.phase = "handshake"
        if client.phase == "handshake":
            assert isinstance(client.sock, ssl.SSLSocket)
            client.sock.do_handshake()
            client.phase = "open"
        if client.phase == "open":
            client.phase = "sent"
            client.sock.send(REQUEST)
            return
        data = client.sock.recv(16384)
        if not data:
            raise EOFError
        if not client.got and not data.startswith(b"HTTP/1.1 200 "):
            self.errors[data[:12].decode(errors="replace")] += 1
        client.got += len(data)
        if client.got >= self._length and client.since:
            (self.fresh_times if client.fresh else self.times).append(time.monotonic() - client.since)
            client.since = 0.0
            if client.fresh or len(self._idle) >= KEPT:
                self._drop(client)
            else:
                self._idle.append(client)

    def _fail(self, client: Client, why: str) -> None:
        self.errors[why] += 1
        self._drop(client)

    def _drop(self, client: Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        client.sock.close()

    def measure(self, seconds: float, rate: float, every: int) -> dict[str, object]:
        """Send for so long, and wait for the last answers."""
        self.times, self.fresh_times = [], []
        self.errors.clear()
        began = time.monotonic()
        cpu = time.process_time()
        number, total = 0, int(seconds * rate)
        while number < total:
            due = began + number / rate
            now = time.monotonic()
            if now >= due:
                number += 1
                self.send(every > 0 and number % every == 0)
                self.turn(0)
            else:
                self.turn(due - now)
        until = time.monotonic() + PATIENCE
        while any(client.since for client in self._clients.values()) and time.monotonic() < until:
            self.turn(0.01)
        for client in list(self._clients.values()):
            if client.since:
                self._fail(client, "no answer")
        spent = time.monotonic() - began
        return {
            "kept": sorted(self.times),
            "fresh": sorted(self.fresh_times),
            "errors": dict(self.errors),
            "cpu": (time.process_time() - cpu) / spent,
        }


def main() -> None:
    """See the module."""
    port, rate, every, tls = (float(word) for word in sys.argv[1:5])
    good = Good(int(port), tls=bool(tls))
    for _ in range(KEPT):
        good.send(False)
    gc.collect()
    gc.disable()
    for line in sys.stdin:
        print(json.dumps(good.measure(float(line), rate, int(every))), flush=True)


if __name__ == "__main__":
    main()
