"""The scenarios: what is asked of whom, on how many CPUs, and what is aimed for.

Each is a function from the run's `Context` to a `Plan`; `SCENARIOS` has them in the order in which they are
measured. The scenario `memory` counts bytes and not requests: memory.py. Nothing is started here, but
certificates are made and the load is compiled. Raises LoadError for what a scenario cannot do without. One
thread calls all of this.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import contestants, goals, load, websocket_load
from .contestants import APPS, HELLO, Rows


@dataclass(frozen=True, slots=True)
class Context:
    """What the command line says: CPUs for a server where it may have more than one; and where files go."""

    threads: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """One scenario. `cpus` is what each server may use, and the load has as many for itself where there are enough."""

    title: str
    load: load.Load
    rows: Rows
    goals: Sequence[goals.Goal]
    cpus: int
    connections: int
    rounds: int


def hello(context: Context) -> Plan:
    """`Hello, World!` in ASGI from all cores, beside what Python can do at most."""
    threads = context.threads
    settings = {"workers.threads": str(threads)}
    name = f"serverd (1 process × {threads} threads, access log {{}})"
    return Plan(
        '"Hello, World!", ASGI',
        load.http(),
        [
            *contestants.raw(threads),
            *contestants.serverd("hello:app", HELLO, name.format("off"), settings),
            *contestants.serverd("hello:app", HELLO, name.format("on"), settings, access_log=True),
            *contestants.uvicorn("hello:app", HELLO, threads),
        ],
        (goals.throughput("uvicorn", 1.5), goals.cpu(16), goals.access_log(10), goals.beside_the_limit()),
        cpus=threads,
        connections=64,
        rounds=8,
    )


def websocket(_: Context) -> Plan:
    """A text message and its echo, without compression, on one core."""
    rows: Rows = []
    for loop in ("uvloop", "asyncio"):
        settings = {"workers.threads": "1", "workers.loop": loop}
        needs = ("uvloop",) if loop == "uvloop" else ()
        rows += contestants.serverd("echo:app", APPS, f"serverd (1 process, {loop})", settings, needs=needs)
    for ws in ("websockets-sansio", "websockets"):
        rows += contestants.uvicorn("echo:app", APPS, ws=ws)
    rows += contestants.granian("echo:app", APPS, "asgi")
    return Plan(
        f"WebSocket echo of {websocket_load.SIZE} bytes of text, one core",
        websocket_load.echo(),
        rows,
        (goals.throughput("uvicorn", 1.2), goals.throughput("granian")),
        cpus=1,
        connections=32,
        rounds=5,
    )


def asynchronous(_: Context) -> Plan:
    """`workers.mode: async`: every request on one event loop, on one core."""
    rows: Rows = []
    for loop in ("uvloop", "asyncio"):
        settings = {"workers.mode": "async", "workers.loop": loop}
        needs = ("uvloop",) if loop == "uvloop" else ()
        name = f"serverd (mode async, 1 process, {loop})"
        rows += contestants.serverd("hello:app", HELLO, name, settings, needs=needs)
    return Plan(
        '"Hello, World!", ASGI, on one event loop and one core',
        load.http(),
        [
            *rows,
            *contestants.uvicorn("hello:app", HELLO),
            *contestants.granian("hello:app", HELLO, "asgi"),
        ],
        (goals.throughput("uvicorn", 1.5), goals.throughput("granian")),
        cpus=1,
        connections=64,
        rounds=5,
    )


def flask(context: Context) -> Plan:
    """A JSON endpoint of Flask over WSGI, from all cores."""
    threads = context.threads
    name = f"serverd (wsgi, 1 process × {threads} threads)"
    settings = {"interface": "wsgi", "workers.threads": str(threads)}
    return Plan(
        "Flask, a JSON endpoint, WSGI",
        load.http(b'{"message":"Hello, World!"}\n'),
        [
            *contestants.serverd("flask_json:app", APPS, name, settings, needs=("flask",)),
            *contestants.granian("flask_json:app", APPS, "wsgi", threads),
            *contestants.gunicorn("flask_json:app", APPS, threads),
        ],
        (goals.throughput("granian", 1.0), goals.throughput("gunicorn", 2.0)),
        cpus=threads,
        connections=64,
        rounds=5,
    )


def https(context: Context) -> Plan:
    """`Hello, World!` over TLS 1.3 on one core; handshakes are a small part, as connections stay open."""
    certificate, key = _certificate(context.folder)
    settings = {"tls.cert": str(certificate), "tls.key": str(key), "workers.threads": "1"}
    return Plan(
        '"Hello, World!", ASGI, over TLS 1.3, one core',
        load.http(trusted=certificate),
        [
            *contestants.serverd("hello:app", HELLO, "serverd (1 process × 1 thread)", settings),
            *contestants.uvicorn("hello:app", HELLO, tls=(certificate, key)),
        ],
        (goals.throughput("uvicorn", 1.3),),
        cpus=1,
        connections=64,
        rounds=5,
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


SCENARIOS: dict[str, Callable[[Context], Plan]] = {
    "hello": hello,
    "websocket": websocket,
    "async": asynchronous,
    "flask": flask,
    "https": https,
}
