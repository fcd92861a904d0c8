"""The plainest way to be an application: one blocking call for one request, with no coroutine and no messages.

An application object that has ``handle_sync`` is called with a ``RawRequest`` on a worker thread, many at once; it
returns a ``RawResponse``, or None *before it did anything* to let its ASGI side (``__call__``) have the request
instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .connection import Address, Server


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One complete request. ``path`` is as sent (percent-encoded), header names are lower-case."""

    method: bytes
    path: bytes
    query_string: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    client: Address | None
    server: Server | None
    http_version: str


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One complete response; Content-Length and Date are added when they are missing."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@runtime_checkable
class SyncApp(Protocol):
    """Called from every worker thread at once, so it must be safe for that."""

    def handle_sync(self, request: RawRequest) -> RawResponse | None:
        """Answer, or None to leave the request to ASGI."""
