"""The mixed load: three daemons, clients of many kinds that mean well or harm, then faults; what is left unexplained.

A warm-up, a steady part in which nothing is done to the daemons (whatever grows then, grows by itself), a part with
faults, and a quiet end. Ends by itself; kills only what it has started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import clients, hostile
from .clients import Client
from .daemon import Daemon, Gone
from .faults import PLAN, Faults
from .memory import Sample, sample
from .pollers import admin_plane, census, control_socket
from .report import Part, Record, report
from .tally import LATE, Event, Tally

_APPS: Final = Path(__file__).with_name("apps")
_CONFIG: Final = """\
app: soak_{app}:app
listen: ["127.0.0.1:{port}"]
admin: {{listen: "127.0.0.1:{admin}"}}
workers: {{processes: {processes}, threads: 4}}
timeouts: {{handshake: 10s, head: 10s, body: 10s, keep_alive: 20s, write: 20s, graceful: 20s}}
limits: {{buffered_body: 64KiB, body: 8MiB}}
websocket: {{max_message: 64KiB}}
logging: {{format: json, access: true}}
process: {{pidfile: soak.pid}}
"""
_OPENSSL: Final = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
    *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
    *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
)
_EVERY: Final = 5.0  # seconds between two samples
_BETWEEN: Final = 4.0  # seconds, about, between two faults

Turn = Callable[[Client], Awaitable[int]]
# (kind, how many clients, seconds between the turns of each, what a turn is)
_HTTP: Final[tuple[tuple[str, int, float, Turn], ...]] = (
    ("keep-alive", 16, 0.25, clients.keep_alive),
    ("browser", 6, 0.5, clients.browser),
    ("short", 3, 0.5, clients.short),
    ("pipelined", 2, 1.0, clients.pipelined),
    ("blocks", 2, 1.0, clients.blocks),
    ("post", 3, 0.7, clients.posts),
    ("post in chunks", 2, 0.7, clients.posts_chunked),
    ("streamed", 2, 0.7, clients.streamed),
    ("slow reader", 3, 2.0, clients.slow_reader),
    ("file", 2, 0.7, clients.file),
    ("resets", 3, 0.7, hostile.resets),
    ("broken", 2, 0.7, hostile.broken),
    ("drips", 2, 1.0, hostile.drips),
    ("starves", 2, 1.0, hostile.starves),
    ("says nothing", 2, 1.0, hostile.says_nothing),
)
_ASGI: Final[tuple[tuple[str, int, float, Turn], ...]] = (
    ("waits", 2, 0.7, clients.waits),
    ("websocket", 8, 0.5, clients.web_socket),
    ("event stream", 4, 1.0, clients.event_stream),
    ("bad frames", 2, 1.0, hostile.bad_frames),
)
_PLAIN: Final = (("half-closes", 1, 0.7, hostile.half_closes),)
_TLS: Final = (("half a handshake", 3, 1.0, hostile.half_a_handshake),)
# The share of the whole time of each part, and a part that is not longer than so many seconds. A child's memory takes
# some ten minutes of this load to reach its size (docs/soak.md has the figures).
_PARTS: Final = (
    ("warm-up", 0.30, 600.0),
    ("steady", 0.38, 1e9),
    ("faults", 0.27, 1e9),
    ("quiet", 0.05, 90.0),
)


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon and what its clients need to know."""

    name: str
    daemon: Daemon
    tls: ssl.SSLContext | None
    admin: int
    clients: tuple[tuple[str, int, float, Turn], ...]


def mixed(folder: Path, options: argparse.Namespace) -> int:
    """All of it in `folder`; the exit status."""
    tally = Tally()
    record = Record()
    sites: list[Site] = []
    problems: list[str] = []
    try:
        sites.extend(_start(folder, sites))
        before = {site.name: _listing(site.daemon.folder) for site in sites}
        _run(sites, tally, record, options)
        problems += _counted(sites, tally)
        for site in sites:
            site.daemon.stop()
    except (Gone, OSError, subprocess.SubprocessError) as error:
        problems.append(f"the daemon failed: {error}")
    finally:
        tally.over = True
        for site in sites:
            site.daemon.kill()
    for site in sites:
        left = _listing(site.daemon.folder) - before[site.name] | _still_there(site.daemon.folder)
        problems += [f"{site.name}: left behind: {what}" for what in sorted(left)]
    return report(tally, record, {site.name: site.daemon.lines for site in sites}, problems)


def _start(folder: Path, started: list[Site]) -> Iterator[Site]:
    certificate = folder / "soak.pem"
    key = folder / "soak.key"
    subprocess.run(
        [*_OPENSSL, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    tls = ssl.create_default_context(cafile=str(certificate))
    for name, app, processes, kinds, context in (
        ("asgi", "asgi", 2, (*_HTTP, *_ASGI, *_PLAIN), None),
        ("tls", "asgi", 1, (*_HTTP, *_ASGI, *_TLS), tls),
        ("wsgi", "wsgi", 1, (*_HTTP, *_PLAIN), None),
    ):
        place = folder / name
        place.mkdir()
        shutil.copy(_APPS / f"soak_{app}.py", place)
        clients.write_file(place)
        admin = _free_port()
        config = _CONFIG.format(app=app, processes=processes, port=_free_port(), admin=admin)
        if context is not None:
            config += f"tls: {{cert: {certificate}, key: {key}}}\n"
        yield Site(name, Daemon(place, config), context, admin, kinds)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _run(sites: list[Site], tally: Tally, record: Record, options: argparse.Namespace) -> None:
    """The four parts, one after another, with the load and the samples beside them."""
    load = threading.Thread(
        target=lambda: asyncio.run(_load(sites, tally, record, options.rate)), daemon=True
    )
    samples = threading.Thread(target=_sample, args=(sites, tally, record), daemon=True)
    load.start()
    samples.start()
    chance = random.Random(options.seed)
    faults = Faults(tally.events.append, chance)
    record.took = faults.took
    try:
        for name, share, most in _PARTS:
            began = time.monotonic()
            end = began + min(most, share * options.minutes * 60)
            _say(f"{name}: {end - began:.0f} s")
            if name == "faults":
                _do_faults(sites, faults, chance, end)
            while time.monotonic() < end:
                if not load.is_alive():
                    raise Gone("the load has ended early")
                time.sleep(min(1.0, max(0.0, end - time.monotonic())))
            record.parts.append(Part(name, began, time.monotonic()))
    finally:
        tally.over = True
        load.join(60)
        samples.join(60)


def _do_faults(sites: list[Site], faults: Faults, chance: random.Random, end: float) -> None:
    """In a random order, each of `PLAN` as often as the others of its daemon."""
    rest: list[tuple[str, Site]] = []
    while time.monotonic() < end - 5:
        if not rest:
            rest = [(what, site) for site in sites for what in PLAN[site.name]]
            chance.shuffle(rest)
        what, site = rest.pop()
        faults.do(what, site.name, site.daemon)
        _say(f"  {what} of {site.name}: {faults.took[what][-1]:.2f} s")
        time.sleep(_BETWEEN * (0.5 + chance.random()))


async def _load(sites: list[Site], tally: Tally, record: Record, rate: float) -> None:
    """Every client of every site, until the tally is over."""
    asyncio.get_running_loop().set_exception_handler(_hear)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of TLS that others have ended
    async with asyncio.TaskGroup() as group:
        group.create_task(_lateness(tally, [site.name for site in sites]))
        for site in sites:
            slower = (1.0 if site.name == "asgi" else 2.0) / rate
            for kind, number, period, turn in site.clients:
                for _ in range(number):
                    client = Client(tally, site.name, site.daemon.port, site.tls, kind, period * slower, turn)
                    group.create_task(client.run())
            admin = Client(tally, site.name, site.admin, None, "admin plane", 0.5, admin_plane)
            group.create_task(admin.run())
            control = control_socket(site.daemon.folder / "server.control", record.requests)
            counter = census(site.name, record.counts)
            counts = Client(tally, site.name, site.daemon.port, site.tls, "census", 10.0, counter)
            group.create_task(counts.run())
            poller = Client(tally, site.name, 0, None, "control socket", 1.0, control)
            group.create_task(poller.run())


async def _lateness(tally: Tally, names: list[str]) -> None:
    """Note when the load itself did not run: what it does too late is not the daemons' doing."""
    while not tally.over:
        began = time.monotonic()
        await asyncio.sleep(0.1)
        now = time.monotonic()
        if now - began > LATE:
            tally.events.extend(Event(began, now, "late", name) for name in names)


def _hear(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio says twice what happened to a connection: to whoever reads from it, which counts, and here."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)


def _sample(sites: list[Site], tally: Tally, record: Record) -> None:
    """Look at every process of every site, every few seconds."""
    while not tally.over:
        for site in sites:
            with contextlib.suppress(OSError, ValueError):
                master = site.daemon.master
                for pid, role in ((master, "master"), *site.daemon.children()):
                    found: Sample | None = sample(
                        time.monotonic(), site.name, role, pid, record.requests.get(pid, 0)
                    )
                    if found is not None:
                        record.samples.append(found)
        time.sleep(_EVERY)


def _counted(sites: list[Site], tally: Tally) -> list[str]:
    """Whether the daemons whose master was always the same have counted what their clients were answered."""
    wrong = []
    for site in sites:
        if "upgrade" in PLAN[site.name]:
            continue
        counted = site.daemon.ask("status")["status"]["totals"]["by_status"].get("2xx", 0)
        answered = tally.by_status[site.name, 200]
        lost = sum(event.what == "kill" for event in tally.events if event.daemon == site.name)
        if counted < answered - lost:
            wrong.append(f"{site.name}: {answered} answers of 200, and only {counted} of 2xx in its counts")
    return wrong


def _listing(folder: Path) -> set[str]:
    """What is there that an application does not write."""
    return {
        path.name
        for path in folder.iterdir()
        if path.name not in ("__pycache__", "soak.pid", "server.control")
    }


def _still_there(folder: Path) -> set[str]:
    """Processes that run in the folder, and the files of a daemon that has ended."""
    found = {name for name in ("soak.pid", "server.control") if (folder / name).exists()}
    for pid in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if pid.isdigit() and os.readlink(f"/proc/{pid}/cwd") == str(folder):
                found.add(f"process {pid}")
    return found


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
