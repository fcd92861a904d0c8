"""The section `event-streams`: how many events a second a server sends to 64 streams, and what CPU one takes.

The applications send numbered events as fast as they are taken (apps/event_flood.py: plain ASGI, and FastAPI's
StreamingResponse); event_load.c opens the streams and checks every event. One CPU serves. Where there are two, the
load has another. The servers of one application are started together and measured in turn. Raises LoadError when
there is no C compiler. One thread calls all of this.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from . import c_program, contestants, load, machine, trials
from .contestants import APPS
from .measure import progress
from .report import Section, Verdict
from .sections import Settings
from .trials import Trial

SOURCE = Path(__file__).with_name("event_load.c")
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
EVENT = 48  # bytes: see apps/event_flood.py
FIRST = b'data: {"id":0000000001,"text":"Hello, World!"}\n\n'
STREAMS, SECONDS = 64, 1
GOAL = 1.3  # × uvicorn
# What sends, how often each is measured, and by whom else.
APPLICATIONS: Sequence[tuple[str, str, int, Sequence[Callable[[str], contestants.Rows]]]] = (
    (
        "ASGI",
        "event_flood:app",
        4,
        (
            lambda app: contestants.uvicorn(app, APPS),
            lambda app: contestants.granian(app, APPS, "asgi"),
            lambda app: contestants.hypercorn(app, APPS),
        ),
    ),
    (
        "FastAPI",
        "event_flood_fastapi:app",
        2,
        (
            lambda app: contestants.uvicorn(app, APPS),
            lambda app: contestants.granian(app, APPS, "asgi"),
        ),
    ),
)


def measure(settings: Settings) -> Section:
    """The table for both applications; nothing in a quick run, which has not the time."""
    if settings.quick:
        return Section("event-streams", "Not measured in a quick run.", "", (), (), right=True)
    program = str(c_program.compiled(SOURCE))
    asked = load.Load("event", check, lambda port, streams, _, s: [program, str(port), str(streams), str(s)])
    cores = machine.choose_cores(1)
    done: list[Trial] = []
    for what, app, rounds, peers in APPLICATIONS:
        name = "serverd (1 process, uvloop)"
        # A stream is served by the child's one event loop, whatever the number of threads.
        ours = {"workers.threads": "1", "workers.loop": "uvloop"}
        rows = contestants.serverd(app, APPS, name, ours, needs=("uvloop", "fastapi"))
        for peer in peers:
            rows += peer(app)
        found = trials.wanted(rows, settings.only, what)
        _measure(found, asked, cores, rounds, settings.folder)
        done += found
    progress("")
    return _section(done, cores)


def check(port: int) -> int:
    """Ask for one stream and read its first event; the size of an event. Raises LoadError when one is wrong."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(REQUEST)
        data = b""
        while FIRST not in data and len(data) < 65536:
            if not (part := client.recv(4096)):
                break
            data += part
    if not data.startswith(b"HTTP/1.1 200 ") or FIRST not in data:
        raise load.LoadError(f"answers wrongly: {data[:80]!r}")
    return EVENT


def _measure(rows: list[Trial], asked: load.Load, cores: machine.Cores, rounds: int, folder: Path) -> None:
    """Fill the rounds of all of them, in turn; the first round warms up and is not counted."""
    with trials.running(rows, {row.key: cores.server for row in rows}, folder, check) as found:
        for number in range(rounds + 1):
            for trial, server in found.items():
                if trial.problem:
                    continue
                progress(f"event-streams: {trial.key}: round {number} of {rounds}: {trial}")
                with trials.attempt(trial, server):
                    run = load.run(asked, server.port, server.pid, cores.load, STREAMS, SECONDS)
                    if number:
                        trial.rounds.append(run.as_json())


def _section(done: list[Trial], cores: machine.Cores) -> Section:
    """The table and what became of the goal."""
    heading = (
        f"{STREAMS} event streams, events of {EVENT} bytes as fast as they are taken, each one checked; "
        f"rounds of {SECONDS} s, interleaved; one CPU serves; {cores}."
    )
    table = trials.table(
        ("application", "events/s", "CPU µs/event", "errors"),
        done,
        lambda trial: (
            trial.key,
            f"{trial.median('rate'):,.0f} ± {trial.spread('rate'):.0f} %",
            f"{trial.median('cpu_us'):.1f}",
            f"{trial.total('errors')}",
        ),
    )
    verdicts = [_verdict(done, what) for what, *_ in APPLICATIONS]
    lines = [f"{verdict.aim}: {verdict.text}" for verdict in verdicts]
    lines += [*trials.left_out(done), *trials.disturbed(done)]
    for trial in done:
        if trial.rounds and (share := trial.median("load_share")) > 0.9:
            lines.append(f"{trial}: the load was busy {share:.0%} of the time, and may be the limit")
    raw = [trial.as_json() for trial in done]
    return Section("event-streams", heading, table, lines, raw, trials.right(done), verdicts)


def _verdict(done: list[Trial], what: str) -> Verdict:
    """serverd beside uvicorn and the best of the others; the goal is for plain ASGI."""
    has_goal = what == APPLICATIONS[0][0]
    aim = f"{what}: events/s" + (f": at least {GOAL} × uvicorn" if has_goal else " (no goal)")
    here = [trial for trial in done if trial.key == what]
    ours, uvicorn = (trials.best(here, kind, "rate") for kind in ("serverd", "uvicorn"))
    if not ours or not uvicorn:
        return Verdict("event-streams", aim, None, "not measured", None)
    rate, cpu = trials.paired(ours, uvicorn, "rate"), trials.paired(ours, uvicorn, "cpu_us")
    text = f"{rate:.2f} × {uvicorn.short} (CPU for each: {cpu:.2f} ×)"
    for kind in ("granian", "hypercorn"):
        if other := trials.best(here, kind, "rate"):
            text += f"; {trials.paired(ours, other, 'rate'):.2f} × {other.short}"
    return Verdict("event-streams", aim, rate, text, rate >= GOAL if has_goal else None)
