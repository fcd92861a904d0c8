"""Scenarios without a framework: what is asked is a few lines of ASGI, so the server is what is seen.

Functions from Context to Plan, registered in scenarios.py. Nothing is started here, but certificates are made and
the load is compiled. Raises LoadError for what a scenario cannot do without. One thread calls all of this.
"""

import subprocess
from pathlib import Path

from . import contestants, goals, load, plan, websocket_load
from .contestants import APPS, HELLO, Rows
from .plan import Context, Plan

BODY = b"0123456789abcdef" * 640  # 10 KiB: see apps/bodies.py
# A page that is loaded from a link of the same site: what Firefox 140 sends, in its order.
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://127.0.0.1/articles?page=2",
    "Connection": "keep-alive",
    "Cookie": "session=eyJ1c2VyIjo0MiwidGhlbWUiOiJkYXJrIn0.aKxQ1w.3vJ2mYk0rXoP5n8Zt6bQdLhEwU4; consent=1",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-User": "?1",
    "Priority": "u=0, i",
}


def hello(context: Context) -> Plan:
    """`Hello, World!` in ASGI, beside what Python can do at most, and with the access log."""
    return Plan(
        '"Hello, World!", ASGI',
        load.http(),
        [
            *contestants.raw(context.threads),
            *plan.serverd(context, "hello:app", HELLO, what=", access log off"),
            *plan.serverd(context, "hello:app", HELLO, what=", access log on", access_log=True),
            *plan.asgi_peers(context, "hello:app", HELLO),
        ],
        (goals.best_peer(2.0), goals.beside_the_limit(2.0), goals.access_log(0.9)),
        cpus=context.threads,
    )


def browser(context: Context) -> Plan:
    """The same, asked as a browser asks: 14 headers."""
    request = load.message("GET", "/articles/17?highlight=threads", BROWSER)
    return Plan(
        f'"Hello, World!", ASGI, asked as Firefox asks ({len(BROWSER) + 1} headers, {len(request)} bytes)',
        load.http(request=request, folder=context.folder),
        [
            *contestants.raw(context.threads),
            *plan.serverd(context, "hello:app", HELLO),
            *plan.asgi_peers(context, "hello:app", HELLO),
        ],
        (goals.best_peer(2.0), goals.beside_the_limit(2.0)),
        cpus=context.threads,
    )


def response(context: Context) -> Plan:
    """An answer of 10 KiB in one piece."""
    return Plan(
        "An answer of 10 KiB, ASGI",
        load.http(BODY),
        [
            *plan.serverd(context, "bodies:large"),
            *plan.asgi_peers(context, "bodies:large"),
        ],
        (goals.best_peer(1.7),),
        cpus=context.threads,
    )


def echo(context: Context) -> Plan:
    """A body of 10 KiB, read to its end and sent back."""
    request = load.message("POST", headers={"Content-Type": "application/octet-stream"}, body=BODY)
    return Plan(
        "POST of 10 KiB and the same bytes back, ASGI",
        load.http(BODY, request=request, folder=context.folder),
        [
            *plan.serverd(context, "bodies:echo"),
            *plan.asgi_peers(context, "bodies:echo"),
        ],
        (goals.best_peer(1.7),),
        cpus=context.threads,
    )


def https(context: Context) -> Plan:
    """`Hello, World!` over TLS 1.3; handshakes are a small part, as connections stay open."""
    tls = certificate, key = _certificate(context.folder)
    cpus, modes = context.threads, not context.quick
    rows = plan.serverd(context, "hello:app", HELLO, {"tls.cert": str(certificate), "tls.key": str(key)})
    if context.wants("uvicorn"):
        rows += contestants.uvicorn("hello:app", HELLO, cpus, tls=tls, every_mode=modes)
    if context.wants("granian"):
        rows += contestants.granian("hello:app", HELLO, "asgi", cpus, ws=False, tls=tls, every_mode=modes)
    if context.wants("hypercorn"):
        rows += contestants.hypercorn("hello:app", HELLO, cpus, tls=tls)
    return Plan(
        '"Hello, World!", ASGI, over TLS 1.3',
        load.http(trusted=certificate),
        rows,
        (goals.throughput("uvicorn", 1.3), goals.best_peer()),
        cpus=cpus,
        seconds=2,  # 64 handshakes are a few percent of a second, and not what is asked here
    )


def websocket(context: Context) -> Plan:
    """A text message and its echo, without compression, on one core: in serverd it is one event loop."""
    settings = {"workers.loop": "uvloop"}
    rows = plan.serverd(context, "echo:app", APPS, settings, threads=1, what=", uvloop", needs=("uvloop",))
    if context.wants("uvicorn"):
        for ws in ("websockets-sansio", "websockets"):
            rows += contestants.uvicorn("echo:app", APPS, ws=ws)
    if context.wants("granian"):
        rows += contestants.granian("echo:app", APPS, "asgi", every_mode=not context.quick)
    if context.wants("hypercorn"):
        rows += contestants.hypercorn("echo:app", APPS)
    return Plan(
        f"WebSocket echo of {websocket_load.SIZE} bytes of text, one core",
        websocket_load.echo(),
        rows,
        (goals.throughput("uvicorn", 1.3), goals.best_peer()),
        cpus=1,
        connections=32,
    )


def asynchronous(context: Context) -> Plan:
    """`workers.mode: async`: every request on one event loop, on one core."""
    rows: Rows = []
    for loop in ("uvloop", "asyncio"):
        settings = {"workers.mode": "async", "workers.loop": loop}
        needs = ("uvloop",) if loop == "uvloop" else ()
        name = f"serverd (mode async, 1 process, {loop})"
        rows += contestants.serverd("hello:app", HELLO, name, settings, needs=needs)
    one = Context(1, context.folder, context.only, context.quick)
    return Plan(
        '"Hello, World!", ASGI, on one event loop and one core',
        load.http(),
        [*rows, *plan.asgi_peers(one, "hello:app", HELLO)],
        (goals.best_peer(),),
        cpus=1,
    )


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key (P-256, so that handshakes are cheap)."""
    certificate, key = folder / "server.pem", folder / "server.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        raise load.LoadError("openssl is missing. Install it: apt-get install openssl") from None
    if done.returncode:
        raise load.LoadError(f"openssl makes no certificate: {' '.join(done.stderr.split())[:200]}")
    return certificate, key
