"""The section `reload`: how long after SIGHUP new code answers, and how many requests fail meanwhile.

Each server serves an application of its own that tells its version (apps/versioned.py), from a worker (serverd: a
thread) for each CPU and at least two, while a few clients ask all the time over kept connections (steady_clients.py).
A new version is written, SIGHUP is sent to the process that was started, and the answers are looked at until no old
one has come for a while. Every server here takes SIGHUP for that; one whose answers stay old says so. The servers are
started together and reloaded in turn. One thread calls all of this.
"""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from . import contestants, servers, trials
from .contestants import APPS
from .load import LoadError
from .measure import progress
from .report import Section, Verdict
from .sections import Settings
from .steady_clients import PERIOD, Answer, Clients
from .trials import Trial

APP = "versioned:app"
CLIENTS = 4
ROUNDS, PEER_ROUNDS = 5, 2
BEFORE = 0.5  # seconds of answers from the old code
QUIET = 0.7  # seconds without an old answer, after which the reload is over
LIMIT = 8.0  # seconds for the first new answer
WORKERS_LIMIT = 20.0  # seconds for the last old one: granian replaces a worker every 3.5 s


def measure(settings: Settings) -> Section:
    """The table; nothing in a quick run, which has not the time."""
    if settings.quick:
        return Section("reload", "Not measured in a quick run.", "", (), (), right=True)
    cpus = frozenset(os.sched_getaffinity(0))
    workers = max(2, len(cpus))
    done: list[Trial] = []
    for kind in ("serverd", "uvicorn", "granian", "gunicorn"):
        home = settings.folder / f"application-{kind}"
        home.mkdir()
        shutil.copy(APPS / "versioned.py", home)
        _write(home, 0)
        done += trials.wanted(_rows(kind, home, workers), settings.only, kind)
    with trials.running(done, {trial.key: cpus for trial in done}, settings.folder, _check) as found:
        for number in range(ROUNDS):
            for trial, server in found.items():
                if trial.problem or number >= (ROUNDS if trial.kind == "serverd" else PEER_ROUNDS):
                    continue
                progress(f"reload: {number + 1} of {ROUNDS}: {trial}")
                with trials.attempt(trial, server):
                    trial.rounds.append(_reload(server, settings.folder / f"application-{trial.key}"))
    progress("")
    return _section(done, workers)


def _rows(kind: str, home: Path, workers: int) -> contestants.Rows:
    """One server with its application in `home`."""
    match kind:
        case "serverd":
            name = f"serverd (1 process × {workers} threads)"
            settings = {"workers.threads": str(workers)}
            return contestants.serverd(APP, home, name, settings, needs=("fastapi",))
        case "uvicorn":
            return contestants.uvicorn(APP, home, workers)
        case "granian":
            return contestants.granian(APP, home, "asgi", workers)
        case _:
            return contestants.gunicorn_asgi(APP, home, workers)


def _write(home: Path, version: int) -> None:
    """At once, as a deployment does: an import sees the old number or the new one."""
    new = home / "version.new"
    new.write_text(str(version))
    new.rename(home / "version.txt")


def _check(port: int) -> None:
    """The right answer once, before anything is measured."""
    deadline = time.monotonic() + 10
    with Clients(port, 1) as one:
        while not (answers := one.answers()) and time.monotonic() < deadline:
            time.sleep(PERIOD)
    if not answers or answers[0].failure:
        raise LoadError(f"answers wrongly: {answers[0].failure if answers else 'not at all'}")


def _reload(server: servers.Running, home: Path) -> trials.Figures:
    """One reload under load; raises LoadError when the new code does not answer in time."""
    version = int((home / "version.txt").read_text()) + 1
    with Clients(server.port, CLIENTS) as clients:
        time.sleep(BEFORE)
        _write(home, version)
        asked = time.monotonic()
        os.kill(server.pid, signal.SIGHUP)
        _wait(clients, asked, version)
    answers = clients.answers()
    failures = Counter(answer.failure for answer in answers if answer.failure)
    new = [answer.ended - asked for answer in answers if answer.version == version]
    old = [answer.ended - asked for answer in answers if not answer.failure and answer.version != version]
    if not new:
        raise LoadError(f"SIGHUP brings no new code within {LIMIT:.0f} s")
    return {
        "first_new": min(new),
        "last_old": max(0.0, *old),
        "requests": len(answers),
        "failed": failures.total(),
        "failures": dict(failures),
        "slowest": max(answer.ended - answer.sent for answer in answers),
    }


def _wait(clients: Clients, asked: float, version: int) -> None:
    """Until new code has answered and old code has not for a while, or it takes too long."""
    while (now := time.monotonic()) < asked + WORKERS_LIMIT:
        time.sleep(0.05)
        answers: list[Answer] = clients.answers()
        if not any(answer.version == version for answer in answers):
            if now > asked + LIMIT:
                return
            continue
        if not any(
            answer.ended > now - QUIET
            for answer in answers
            if not answer.failure and answer.version != version
        ):
            return


def _section(done: Collection[Trial], workers: int) -> Section:
    """The table and what became of the promise."""
    heading = (
        f"FastAPI; SIGHUP while {CLIENTS} clients ask {CLIENTS / PERIOD:.0f} times a second over kept connections; "
        f"{workers} workers or threads; {ROUNDS} reloads of serverd and {PEER_ROUNDS} of each other, in turn; "
        "all on the same CPUs."
    )
    table = trials.table(
        ("first new answer s", "last old answer s", "requests", "failed", "slowest ms"),
        done,
        lambda trial: (
            f"{trial.median('first_new'):.2f}",
            f"{trial.median('last_old'):.2f}",
            f"{trial.total('requests')}",
            f"{trial.total('failed')}",
            f"{max(one['slowest'] for one in trial.rounds) * 1000:.0f}",
        ),
    )
    verdict = _verdict(done)
    lines = [f"{verdict.aim}: {verdict.text}", *trials.left_out(done)]
    for trial in done:
        failures: Counter[str] = sum((Counter(one["failures"]) for one in trial.rounds), Counter())
        lines += [f"{trial}: {count} × {failure}" for failure, count in failures.most_common(3)]
    raw = [trial.as_json() for trial in done]
    return Section("reload", heading, table, lines, raw, trials.right(done, "failed"), [verdict])


def _verdict(done: Collection[Trial]) -> Verdict:
    """No request of serverd's clients fails; the times are only told."""
    aim = "reload under load: no request fails"
    ours = trials.best(done, "serverd", "first_new", least=True)
    if not ours:
        return Verdict("reload", aim, None, "not measured", None)
    text = f"{ours.total('failed')} of {ours.total('requests')} failed; "
    text += f"new code answers after {ours.median('first_new'):.2f} s"
    for kind in ("uvicorn", "granian", "gunicorn"):
        if other := trials.best(done, kind, "first_new", least=True):
            failed, requests = other.total("failed"), other.total("requests")
            text += f"; {other.short}: {failed} of {requests}, {other.median('first_new'):.2f} s"
    return Verdict("reload", aim, ours.total("failed"), text, not ours.total("failed"))
