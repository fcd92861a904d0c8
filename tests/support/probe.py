"""The application of the process tests: it says who answers, waits when it is told to, and dies when it is told to.

    /            `VERSION pid`
    /wait        writes the file `entered`, then answers when there is a file `release`
    /exit        ends its whole process at once, with status 9
    /orphan      starts a process whose parent is gone at once; answers with its pid
    /env?NAME    that environment variable
    /ids         the process's user, group, groups and umask

`source` gives its text, for tests.support.daemon.Daemon(app=...).
"""

from __future__ import annotations

_SOURCE = """
VERSION = {version!r}
{top}
import os, subprocess, time
from pathlib import Path

HERE = Path(__file__).parent


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                (HERE / "shut-down").touch()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    answer = handle(scope["path"], scope["query_string"].decode()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(answer)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": answer}})


def handle(path, query):
    if path == "/wait":
        (HERE / "entered").touch()
        while not (HERE / "release").exists():
            time.sleep(0.005)
    if path == "/exit":
        os._exit(9)
    if path == "/orphan":
        left_behind = ["sh", "-c", "sleep 0.2 >/dev/null 2>&1 & echo $!"]
        return subprocess.run(left_behind, stdout=subprocess.PIPE, text=True).stdout
    if path == "/env":
        return os.environ.get(query, "(not set)")
    if path == "/ids":
        mask = os.umask(0)
        os.umask(mask)
        return f"{{os.getresuid()}} {{os.getresgid()}} {{os.getgroups()}} {{mask:03o}}"
    return f"{{VERSION}} {{os.getpid()}}"
"""


def source(version: str = "v1", top: str = "") -> str:
    """The application's text. `top` is code that runs when it is imported."""
    return _SOURCE.format(version=version, top=top)
