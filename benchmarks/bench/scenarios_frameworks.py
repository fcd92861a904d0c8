"""Scenarios with a framework: FastAPI, Starlette, Flask and Django, as their tutorials write an application.

Functions from Context to Plan, registered in scenarios.py. Nothing is started here; files of applications are written
into the run's folder. One thread calls all of this.
"""

import shutil
import socket

from . import goals, load, plan
from .contestants import ANYIO_THREADS, APPS
from .plan import Context, Plan

JSON = b'{"message":"Hello, World!"}'
ROWS = 20  # of the page of apps/django_page.py
FILE = b"0123456789abcdef" * 4096  # 64 KiB


def fastapi(context: Context) -> Plan:
    """An `async def` endpoint of FastAPI: JSON, validated and written by Pydantic."""
    return Plan(
        "FastAPI, `async def`, JSON",
        load.http(JSON),
        [
            *plan.serverd(context, "fastapi_json:app", needs=("fastapi",)),
            *plan.asgi_peers(context, "fastapi_json:app"),
        ],
        (goals.best_peer(1.1),),
        cpus=context.threads,
    )


def fastapi_def(context: Context) -> Plan:
    """The same as `def`: the peers call it in a pool of threads, serverd on the thread that it has anyway."""
    return Plan(
        "FastAPI, `def`, JSON",
        load.http(JSON),
        [
            *plan.serverd(context, "fastapi_def:app", needs=("fastapi",)),
            *plan.asgi_peers(context, "fastapi_def:app"),
        ],
        (goals.best_peer(1.5),),
        cpus=context.threads,
    )


def flask(context: Context) -> Plan:
    """A JSON endpoint of Flask over WSGI."""
    settings = {"interface": "wsgi"}
    return Plan(
        "Flask, JSON, WSGI",
        load.http(JSON + b"\n"),
        [
            *plan.serverd(context, "flask_json:app", APPS, settings, what=", wsgi", needs=("flask",)),
            *plan.wsgi_peers(context, "flask_json:app"),
        ],
        _wsgi_goals(),
        cpus=context.threads,
    )


def django(context: Context) -> Plan:
    """A page of Django over WSGI, from a template with a loop; no database."""
    settings = {"interface": "wsgi"}
    lines = "".join(f'<li><a href="/items/{n}">item {n} &amp; more</a></li>\n' for n in range(ROWS))
    page = f"<!doctype html>\n<title>Items</title>\n<h1>Items</h1>\n<ul>\n{lines}</ul>\n"
    return Plan(
        f"Django, a page from a template with a loop of {ROWS}, WSGI",
        load.http(page.encode()),
        [
            *plan.serverd(context, "django_page:app", APPS, settings, what=", wsgi", needs=("django",)),
            *plan.wsgi_peers(context, "django_page:app"),
        ],
        _wsgi_goals(),
        cpus=context.threads,
    )


def blocking(context: Context) -> Plan:
    """A `def` endpoint that waits for 5 ms; each server with as many threads as anyio lends in each process."""
    threads = ANYIO_THREADS * context.threads
    request = load.message(path="/wait")
    return Plan(
        f"FastAPI, `def` with time.sleep(0.005), {threads} threads in all (anyio's {ANYIO_THREADS} in each process)",
        load.http(JSON, request=request, folder=context.folder),
        [
            *plan.serverd(context, "fastapi_def:app", threads=threads, needs=("fastapi",)),
            *plan.asgi_peers(context, "fastapi_def:app"),
        ],
        (goals.best_peer(),),
        cpus=context.threads,
    )


def pathsend(context: Context) -> Plan:
    """Starlette's FileResponse of 64 KiB: where the server takes a path (`http.response.pathsend`) it gets one."""
    shutil.copy(APPS / "static_file.py", context.folder)
    (context.folder / "static.bin").write_bytes(FILE)
    return Plan(
        "Starlette's FileResponse, 64 KiB; how the server gets the file is behind its name",
        load.http(FILE),
        [
            *plan.serverd(context, "static_file:app", context.folder, needs=("starlette",)),
            *plan.asgi_peers(context, "static_file:app", context.folder),
        ],
        (goals.best_peer(),),
        cpus=context.threads,
        note=_how,
    )


def _how(port: int) -> str:
    """`pathsend` or `body`: what the application of `pathsend` says of its server."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET /how HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        data = b""
        while part := client.recv(4096):
            data += part
    said = data.rpartition(b"\r\n\r\n")[2]
    if said not in (b"pathsend", b"body"):
        raise load.LoadError(f"does not say how it sends a file: {data[-80:]!r}")
    return said.decode()


def _wsgi_goals() -> tuple[goals.Goal, ...]:
    return (
        goals.throughput("granian", 1.15),
        goals.throughput("gunicorn", 2.5, name="gunicorn's gthread"),
        goals.best_peer(),
    )
