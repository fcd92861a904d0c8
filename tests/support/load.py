"""Many keep-alive clients at once, which count what goes wrong. One asyncio loop in a thread; bounded by ``stop``.

Every client always has a request in flight; a response that says ``Connection: close`` is followed by a new
connection, as a browser or a proxy would do. Nothing is retried: a failure stays a failure.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

PATIENCE = 30.0


@dataclass
class Totals:
    """What the clients saw."""

    answered: int = 0
    reconnects: int = 0
    bodies: Counter[bytes] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Load:
    """``clients`` connections to 127.0.0.1:``port``, requesting ``target`` until the block ends, then answered in
    full."""

    def __init__(self, port: int, *, clients: int, target: str = "/") -> None:
        self.totals = Totals()
        self._port = port
        self._clients = clients
        self._request = f"GET {target} HTTP/1.1\r\nHost: load\r\n\r\n".encode()
        self._stopping = False
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> Totals:
        """Let every request in flight be answered, send no more, and give the totals."""
        self._stopping = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "clients still wait for an answer"
        return self.totals

    def wait_for(self, more: int) -> None:
        """Wait until ``more`` further requests were answered."""
        wanted = self.totals.answered + more
        with self._grown:
            assert self._grown.wait_for(lambda: self.totals.answered >= wanted, PATIENCE), (
                f"{self.totals.answered} of {wanted} answers within {PATIENCE:g} s; {self.totals.failures[:3]}"
            )

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopping:
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                    self.totals.reconnects += 1
                body, close = await self._exchange(*streams)
            except (OSError, EOFError, ValueError, AssertionError) as exc:
                self.totals.failures.append(repr(exc))
                if streams is not None:
                    streams[1].close()
                streams = None
                await asyncio.sleep(0.01)  # after a failure only; not to spin on a refused connection
                continue
            if close:
                streams[1].close()
                streams = None
            self.totals.bodies[body] += 1
            with self._grown:
                self.totals.answered += 1
                self._grown.notify_all()
        if streams is not None:
            streams[1].close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, bool]:
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200 "), head[:60]
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        return body, b"connection: close" in head
