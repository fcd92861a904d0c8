"""An ASGI application that computes: the same arithmetic for every request, about a millisecond of one CPU.

It touches nothing but numbers that it makes itself, so that threads share no object whose reference count they would
contend for: what is left is the interpreter and the server.
"""

from collections.abc import Awaitable, Callable
from typing import Any

TURNS = 10_000
START = 7


def compute() -> int:
    """So many steps of a linear congruential generator (Numerical Recipes in C, 1992, section 7.1)."""
    value = START
    for _ in range(TURNS):
        value = (value * 171 + 11213) % 53125
    return value


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer one request with the number that it computed."""
    if scope["type"] != "http":
        raise NotImplementedError(f"busy serves HTTP requests only, not {scope['type']!r}")
    answer = b"%05d" % compute()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
