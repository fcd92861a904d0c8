"""Light, exact traffic while system calls fail: every answer has to be the one to its own question.

Promises: `Counts` says how many exchanges were answered, cut (the server closed the connection, or reset it, before its
answer was complete), or answered with something else, which is never right. Refuses: load; some fifty requests a second
take about 1 % of a core.

Each `Client` is a thread of its own; its counts are written by it alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from tests.support.client import RawClient

APP: Final = """
import asyncio, os, tempfile

FILE = os.path.join(tempfile.mkdtemp(), "file")
with open(FILE, "wb") as file:
    file.write(b"f" * 200000)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    async def start(*headers):
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    if path == "/file":
        await start((b"content-length", b"200000"))
        await send({"type": "http.response.pathsend", "path": FILE})
        return
    if path.startswith("/wait"):
        await asyncio.sleep(0.005)
    if path.startswith("/stream"):
        await start()
        for _ in range(3):
            await send({"type": "http.response.body", "body": path.encode(), "more_body": True})
            await asyncio.sleep(0.002)
        await send({"type": "http.response.body", "body": b""})
        return
    answer = path.encode() + b" " + body
    await start((b"content-length", str(len(answer)).encode()))
    await send({"type": "http.response.body", "body": answer})
"""

# Every second request, so that the numbers in the answers differ.
PAUSE: Final = 0.02
_BODY: Final = b"b" * 3000

Connect = Callable[[], RawClient]


@dataclass
class Counts:
    """What came of the exchanges so far."""

    answered: int = 0
    cut: int = 0
    wrong: list[str] = field(default_factory=list)


class Client:
    """One thread that asks again and again. With `fresh` each question has a connection of its own."""

    def __init__(self, connect: Connect, *, fresh: bool = False) -> None:
        self.counts = Counts()
        self._connect = connect
        self._fresh = fresh
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        client: RawClient | None = None
        while not self._over.wait(PAUSE):
            number += 1
            try:
                client = client or self._connect()
                problem = ask(client, number)
                if problem:
                    self.counts.wrong.append(problem)
                else:
                    self.counts.answered += 1
            except TimeoutError:
                self.counts.wrong.append(f"request {number} was not answered")
                client = _drop(client)
            except EOFError, OSError:
                self.counts.cut += 1
                client = _drop(client)
            if self._fresh:
                client = _drop(client)
        _drop(client)


def _drop(client: RawClient | None) -> RawClient | None:
    """Close its connection; nobody is left."""
    if client is not None:
        client.sock.close()
    return None


def ask(client: RawClient, number: int) -> str:
    """One exchange, its kind by its number; what is wrong with the answer, if anything. Raises EOFError, OSError."""
    kind = number % 6
    if kind == 0:
        response = client.get("/file")
        right = response.body == b"f" * 200000
    elif kind == 1:
        response = client.post(f"/post{number}", _BODY)
        right = response.body == b"/post%d " % number + _BODY
    elif kind == 2:
        response = client.get(f"/stream{number}")
        right = response.body == (b"/stream%d" % number) * 3
    elif kind == 3:
        response = client.get(f"/stream{number}", headers="Accept: text/event-stream\r\n")
        right = response.body == (b"/stream%d" % number) * 3
    else:
        path = f"/wait{number}" if kind == 4 else f"/echo{number}"
        response = client.get(path)
        right = response.body == path.encode() + b" "
    if response.status != 200 or not right:
        return f"request {number} (kind {kind}): {response.status} {response.body[:60]!r}"
    return ""
