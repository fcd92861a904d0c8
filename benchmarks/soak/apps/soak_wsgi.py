"""The same paths as soak_asgi for WSGI, those that it can have."""

# ruff: noqa: INP001 - an application: serverd puts its folder on the path

import gc
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PID = str(os.getpid())
FILE = Path(__file__).with_name("soak.bin")
BIG = 1 << 20
PIECES = 16


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """What `PATHS` has."""
    token = environ["QUERY_STRING"]
    body = PATHS.get(environ["PATH_INFO"], small)(environ, token.encode("latin-1"))
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Token", token), ("X-Pid", PID)])
    return body


def small(environ: dict[str, Any], token: bytes) -> Iterable[bytes]:
    """The token."""
    return [token]


def blocks(environ: dict[str, Any], token: bytes) -> Iterable[bytes]:
    """The token, after a wait that holds the thread."""
    time.sleep(0.02)
    return [token]


def digest(environ: dict[str, Any], token: bytes) -> Iterable[bytes]:
    """The length and the SHA-256 of the request's body."""
    seen, size = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(8192):
        seen.update(piece)
        size += len(piece)
    return [b"%d %s" % (size, seen.hexdigest().encode())]


def streamed(environ: dict[str, Any], token: bytes) -> Iterable[bytes]:
    """The token in many pieces, without a length."""
    for number in range(PIECES):
        yield b"%s %d\n" % (token, number)
        time.sleep(0.002)


def big(environ: dict[str, Any], token: bytes) -> Iterable[bytes]:
    """The token as often as it fits into a MiB, from a generator."""
    body = (token * (BIG // len(token) + 1))[:BIG]
    return (body[at : at + 65536] for at in range(0, BIG, 65536))


def file(environ: dict[str, Any], token: bytes) -> Iterable[bytes]:
    """A file that the kernel sends."""
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](FILE.open("rb"))
    return wrapped


def census(environ: dict[str, Any], token: bytes) -> Iterable[bytes]:
    """How many objects there are that the collector knows, and how many blocks of memory Python holds."""
    gc.collect()
    return [b"%d %d" % (len(gc.get_objects()), sys.getallocatedblocks())]


PATHS: dict[str, Callable[[dict[str, Any], bytes], Iterable[bytes]]] = {
    "/small": small,
    "/blocks": blocks,
    "/digest": digest,
    "/streamed": streamed,
    "/big": big,
    "/file": file,
    "/census": census,
}
