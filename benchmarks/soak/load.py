"""Clients that always have a request in flight, and write down each one that was not answered.

Every answer says which child gave it. A connection belongs to that child until an answer comes from another (it was
handed over) or it ends; so a request that was lost can be told from one that a killed child held.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field

_PATIENCE = 30.0
# After a failure only: not to spin on a port that refuses.
_REST = 0.01


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without its answer. `pid`: the child that gave the connection's last answer; None on a new one."""

    at: float
    pid: int | None
    why: str


@dataclass(slots=True)
class Totals:
    """What the clients saw. Written by the load's thread only; read by others while it runs as a hint."""

    answered: int = 0
    connections: int = 0
    slowest: float = 0.0
    pids: set[int] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)


class Load:
    """`clients` connections to 127.0.0.1:`port` from `start` to `stop`, in one event loop in a thread of its own."""

    def __init__(self, port: int, clients: int) -> None:
        self.totals = Totals()
        self._port = port
        self._clients = clients
        self._over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> Totals:
        """Let what is in flight be answered, and give the totals."""
        self._over = True
        self._thread.join(_PATIENCE)
        return self.totals

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        totals = self.totals
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        pid: int | None = None
        while not self._over:
            began = time.monotonic()
            try:
                if streams is None:
                    pid = None
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                    totals.connections += 1
                async with asyncio.timeout(_PATIENCE):
                    pid, close = await _exchange(*streams)
            except (OSError, EOFError, ValueError, IndexError) as error:
                totals.failures.append(Failure(time.monotonic(), pid, repr(error)))
                close = True
                await asyncio.sleep(_REST)
            else:
                totals.answered += 1
                totals.pids.add(pid)
                totals.slowest = max(totals.slowest, time.monotonic() - began)
            if close and streams is not None:
                await _hang_up(streams[1])
                streams = None
        if streams is not None:
            await _hang_up(streams[1])


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):  # or asyncio complains that nobody has heard of a reset
        await writer.wait_closed()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bool]:
    """One request; who has answered it, and whether the connection ends."""
    writer.write(b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200 "):
        raise ValueError(head[:40].decode("latin-1"))
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    return int(body), b"connection: close" in head
