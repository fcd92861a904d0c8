"""A few clients that ask steadily over kept connections, and remember every answer and every failure.

They do what a careful HTTP client does: a connection whose end has come already is not used again, and one whose answer
said `Connection: close` neither. Nothing is repeated: a request that gets no answer, or a wrong one, is a failure.
Each client is a thread; `Clients` belongs to the thread that made it.
"""

import http.client
import json
import select
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PERIOD = 0.02  # seconds from one request of a client to its next
PATIENCE = 5.0  # seconds that a client waits for an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent and when it ended; the version in the answer, or what went wrong."""

    sent: float
    ended: float
    version: int
    failure: str


class Clients:
    """`count` clients of the server at `port`, from the beginning of a `with` block to its end."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._stop = threading.Event()
        # One list for each thread, which alone appends to it: reading a copy is safe at any time.
        self._answers: list[list[Answer]] = [[] for _ in range(count)]
        self._threads = [threading.Thread(target=self._ask_on, args=(mine,)) for mine in self._answers]

    def answers(self) -> list[Answer]:
        """Those that have ended so far, in no order."""
        return [answer for mine in self._answers for answer in tuple(mine)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, mine: list[Answer]) -> None:
        """The body of a thread."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._stop.wait(PERIOD):
            sent = time.monotonic()
            version, failure = 0, ""
            try:
                version = _ask(connection)
            except (OSError, http.client.HTTPException, ValueError) as problem:
                failure = f"{type(problem).__name__}: {problem}"
                connection.close()
            mine.append(Answer(sent, time.monotonic(), version, failure))
        connection.close()


def _ask(connection: http.client.HTTPConnection) -> int:
    """One request; the version in its answer. Raises ValueError for a wrong one."""
    if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
        connection.close()  # its end has come while it was idle; the request goes over a new one
    connection.request("GET", "/")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    found = json.loads(body)
    if not isinstance(found, dict) or not isinstance(found.get("version"), int):
        raise ValueError(f"answers {body[:60]!r}")
    return int(found["version"])
