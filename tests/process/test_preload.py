"""`workers.preload` with a real daemon: one import for all children, which are the master's children all the same."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, alive, title, wait_until
from tests.support.probe import source

from .test_master_crash import STARVED
from .test_master_lifecycle import InFlight, get
from .test_master_system import NOBODY, for_everybody, open_folder

__all__ = ["open_folder"]  # a fixture

# Counts imports and lifespans in files, one byte each.
COUNTED = source(
    top="open(__file__ + '.imports', 'ab', 0).write(b'i')\nimport random\nrandom.seed(1)\nDICE = random",
).replace(
    'if message["type"] == "lifespan.shutdown":',
    """if message["type"] == "lifespan.startup":
                open(__file__ + '.lifespans', 'ab', 0).write(b'l')
            if message["type"] == "lifespan.shutdown":""",
    1,
)


def preload(processes: int = 1, **more: Any) -> dict[str, Any]:
    return {"workers": {"processes": processes, "preload": True}, **more}


def templates(daemon: Daemon) -> list[int]:
    return [pid for pid in daemon.children() if ": template" in title(pid)]


def count(daemon: Daemon, what: str) -> int:
    return Path(f"{daemon.app_file}.{what}").stat().st_size


def answering(daemon: Daemon, processes: int) -> set[int]:
    """The process numbers of so many different children, by their answers."""
    found: set[int] = set()

    def ask() -> bool:
        found.add(int(get(daemon).body.split()[1]))
        return len(found) >= processes

    wait_until(ask, f"{processes} children have answered")
    return found


def test_one_import_and_a_lifespan_for_each_child(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=COUNTED, config=preload(3)) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line(r"template g1 \(pid \d+\) has imported demo:app in \d+\.\d\d s")
        assert answering(daemon, 3) == set(daemon.workers())
        assert (count(daemon, "imports"), count(daemon, "lifespans")) == (1, 3)
        family = daemon.children()
        assert len(family) == 4
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert daemon.count("has drained") == 3
        assert not any(map(alive, family))


def test_a_child_that_was_killed_comes_back_without_an_import(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=COUNTED, config=preload()) as daemon:
        daemon.wait_ready()
        (victim,) = daemon.workers()
        os.kill(victim, signal.SIGSEGV)
        daemon.wait_for_line(
            rf"worker 0 g1 \(pid {victim}\) was killed by SIGSEGV.*; a new one starts in 0\.1 s"
        )
        daemon.wait_for_line(r" info .*worker 0 g1 \(pid \d+\) is ready, in")
        with RawClient(("127.0.0.1", daemon.port)) as client, pytest.raises((EOFError, ConnectionError)):
            client.get("/exit")
        daemon.wait_for_line(r"worker 0 g1 \(pid \d+\) exited with status 9")
        assert get(daemon).status == 200
        assert count(daemon, "imports") == 1


def test_a_template_that_was_killed_is_replaced_and_nobody_notices(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=COUNTED, config=preload()) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port)) as client:
            before = client.get("/").body
            (victim,) = templates(daemon)
            os.kill(victim, signal.SIGKILL)
            daemon.wait_for_line(
                rf"template g1 \(pid {victim}\) was killed by SIGKILL \(by hand.*; a new one starts in 0\.1 s"
            )
            wait_until(lambda: daemon.count("has imported") == 2, "the new one has imported")
            assert client.get("/").body == before, "on the same connection, from the same child"
        os.kill(daemon.workers()[0], signal.SIGKILL)
        daemon.wait_for_line(r" info .*worker 0 g1 \(pid \d+\) is ready, in")
        assert count(daemon, "imports") == 2


def test_a_reload_imports_the_new_code_once_and_ends_the_old_template(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config=preload(2)) as daemon:
        daemon.wait_ready()
        (old,) = templates(daemon)
        waiting = InFlight(daemon)
        daemon.write_app(source("v2"))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready")
        wait_until(lambda: get(daemon).body.startswith(b"v2 "), "the new code answers")
        wait_until(lambda: not alive(old), "the old template is gone")
        assert title(templates(daemon)[0]).endswith("template g2")
        waiting.release()
        answer = waiting.result()
        assert answer is not None
        assert answer.status == 200
        wait_until(lambda: len(daemon.children()) == 3, "the old children are gone")
        daemon.write_config({})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 3 ready")
        wait_until(lambda: not templates(daemon), "without preload there is none")


THREADED = """import threading, time
threading.Thread(target=time.sleep, args=(60,), name='poller', daemon=True).start()
"""


@pytest.mark.parametrize(
    ("app", "status", "texts"),
    [
        ("import no_such_module\n", 4, ["template g1 cannot boot: .*needs the module 'no_such_module'"]),
        ("app = (\n", 4, ["template g1 cannot boot: .*SyntaxError", r"    app = \("]),
        ("import os; os.abort()\n", 3, ["template g1 .* was killed by SIGABRT"]),
        (
            THREADED,
            3,
            ["starts no threads at import, and there are: poller; start them in the lifespan"],
        ),
    ],
)
def test_an_application_that_cannot_be_imported_is_told_once(
    tmp_path: Path, app: str, status: int, texts: list[str]
) -> None:
    with Daemon(tmp_path, app=app + source(), config=preload(3)) as daemon:
        assert daemon.wait_exit() == status
        for text in texts:
            assert daemon.count(text) == 1
        daemon.wait_for_line("nothing to serve: generation 1 cannot boot")


def test_a_reload_that_cannot_import_leaves_what_serves(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config=preload()) as daemon:
        daemon.wait_ready()
        family = daemon.children()
        daemon.write_app("app = (\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("reload failed: still serving generation 1")
        assert daemon.count("template g2 cannot boot: .*SyntaxError") == 1
        assert get(daemon).body.startswith(b"v1 ")
        wait_until(lambda: daemon.children() == family, "nothing is left of the attempt")


def test_an_import_without_end_has_its_end(tmp_path: Path) -> None:
    config = preload(timeouts={"boot": "0.5s"})
    with Daemon(tmp_path, app="import time; time.sleep(60)\n", config=config) as daemon:
        daemon.wait_for_line(r"did not import the application within 0.5 s \(timeouts.boot\): killing it")
        assert daemon.wait_exit() == 3


def test_what_the_import_has_opened_is_named(tmp_path: Path) -> None:
    top = "import selectors, sqlite3\nMINE = selectors.DefaultSelector()\nDB = sqlite3.connect('notes.db')\n"
    with Daemon(tmp_path, app=source(top=top + "LOG = open('x.log', 'a')"), config=preload()) as daemon:
        daemon.wait_ready()
        match = daemon.wait_for_line(
            "warning .*template g1 .*import has opened (.*), which all children now share"
        )
        assert "[eventpoll]" in match[1]
        assert "notes.db" in match[1]
        assert "x.log" not in match[1]


def test_each_child_throws_its_own_dice(tmp_path: Path) -> None:
    app = COUNTED.replace('return f"{VERSION} {os.getpid()}"', 'return f"{DICE.random()} {os.getpid()}"')
    with Daemon(tmp_path, app=app, config=preload(2)) as daemon:
        daemon.wait_ready()
        first: dict[int, bytes] = {}

        def ask() -> bool:
            number, pid = get(daemon).body.split()
            first.setdefault(int(pid), number)
            return len(first) == 2

        wait_until(ask, "both have answered")
        assert len(set(first.values())) == 2


def test_a_child_holds_nothing_of_others(tmp_path: Path) -> None:
    config = preload(2, listen=["127.0.0.1:0", "unix:run.sock"], process={"pidfile": "run.pid"})
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        held = {pid: _links(pid) for pid in (*daemon.children(), daemon.pid)}
        template = held[templates(daemon)[0]]
        assert not [link for link in template if "pidfd" in link or "run.pid" in link]
        first, second = (held[pid] for pid in daemon.workers())
        sockets = {link for link in held[daemon.pid] if link.startswith("socket:")}
        listening = template & first & second & sockets
        assert len(listening) == 2
        for one, others in ((first, second | template), (second, first | template)):
            shared = {link for link in one & (others | held[daemon.pid]) if link.startswith("socket:")}
            assert shared == listening
            assert not [link for link in one if "pidfd" in link or "run.pid" in link]


def _links(pid: int) -> set[str]:
    """What its descriptors are, but for the standard streams."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        if int(entry.name) > 2:
            found.add(os.readlink(entry.path))
    return found


def test_without_the_master_the_template_goes_too(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config=preload(2)) as daemon:
        daemon.wait_ready()
        family = daemon.children()
        assert len(family) == 3
        daemon.signal(signal.SIGKILL)
        wait_until(lambda: not any(map(alive, family)), "children and template are gone")
        with socket.create_server(("127.0.0.1", daemon.port)):
            pass


def test_those_whom_the_application_leaves_behind_are_buried(tmp_path: Path) -> None:
    """With a template the orphans among the master's descendants are the master's."""
    with Daemon(tmp_path, app=source(), config=preload()) as daemon:
        daemon.wait_ready()
        left_behind = int(get(daemon, "/orphan").body)
        daemon.wait_for_line(rf"buried process {left_behind}, which exited with status 0")
        wait_until(lambda: not Path(f"/proc/{left_behind}").exists(), "no zombie is left")


# The application's import runs in the template, and could speak on its channel.
LIAR = """
import json, os, socket, time
def say(message):
    for fd in range(3, 64):
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                if sock.type == socket.SOCK_SEQPACKET:
                    sock.send(json.dumps(message).encode())
        except OSError:
            pass
"""


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        ([{}], r"spoke out of turn \(channel: not a message"),
        ([{"type": "Forked", "index": 0, "pid": 1, "error": ""}], "spoke out of turn .*'answered'"),
        ([{"type": "Ready", "pid": 1, "threads": 1, "gil": False, "gil_culprit": None, "seconds": 1, "app": ""}],
         "spoke out of turn .*cannot say Ready"),
        ([{"type": "Preloaded", "seconds": 1}, {"type": "Forked", "index": 0, "pid": 1, "error": ""}],
         "out of turn|cannot start a process"),
        ([{"type": "Preloaded", "seconds": 1}, {"type": "Forked", "index": 0, "pid": "x", "error": ""}],
         "out of turn|names the process 'x'"),
    ],
)  # fmt: skip
def test_whatever_a_template_says_the_master_lives(tmp_path: Path, lies: list[Any], said: str) -> None:
    """A generation whose template talks nonsense cannot boot; what serves is not touched."""
    with Daemon(tmp_path, app=source("v1"), config=preload()) as daemon:
        daemon.wait_ready()
        (worker,) = daemon.workers()
        lines = "".join(f"say({lie!r}); time.sleep(0.05)\n" for lie in lies)
        daemon.write_app(LIAR + lines + source("v2"))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line(said)
        daemon.wait_for_line("reload failed: still serving generation 1")
        assert daemon.workers() == [worker]
        assert get(daemon).body.startswith(b"v1 ")


def test_a_machine_that_has_no_process_to_give_is_asked_again(tmp_path: Path) -> None:
    """The template counts forks too: the master's for it, then two for each child."""
    code = STARVED.format(call="fork", error="EAGAIN", failures=2)
    argv = [sys.executable, "-c", code, "-c", str(tmp_path / "server.yaml")]
    with Daemon(tmp_path, app=source(), config=preload(), argv=argv) as daemon:
        daemon.wait_ready()
        assert daemon.count(r"template g1: cannot start a process \(.*\); next try in 0\.[12] s") == 2


def test_a_template_that_cannot_fork_now_is_asked_again(tmp_path: Path) -> None:
    top = """
import errno, os
real, left = os.fork, [2]
def fork():
    if left[0] > 0:
        left[0] -= 1
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return real()
os.fork = fork
"""
    with Daemon(tmp_path, app=source(top=top), config=preload()) as daemon:
        daemon.wait_ready()
        assert (
            daemon.count(r"worker 0 g1: cannot start a process \(Cannot allocate.*\); next try in 0\.[12] s")
            == 2
        )


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_no_request_is_lost_across_reloads(tmp_path: Path, mode: str) -> None:
    config = preload(2)
    config["workers"]["mode"] = mode
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        answers, asked = 0, 1
        while daemon.count(r"generation \d+ ready") < 6:
            if daemon.count(r"generation \d+ ready") == asked:
                asked += 1
                daemon.signal(signal.SIGHUP)
            with RawClient(("127.0.0.1", daemon.port)) as client:
                for _ in range(20):
                    response = client.get("/")
                    assert response.status == 200
                    answers += 1
                    if response.header("connection") == "close":
                        break
        assert answers > 20


@pytest.mark.root
def test_the_import_already_runs_as_somebody_else(open_folder: Path) -> None:
    (open_folder / "held").mkdir()
    work = open_folder / "work"
    work.mkdir()
    top = "import os\nfrom pathlib import Path\nIMPORTED_AS = os.getresuid()\n"
    app = source(top=top).replace('return f"{VERSION} {os.getpid()}"', 'return f"{IMPORTED_AS}"')
    config = preload(process={"user": "nobody", "umask": "027"})
    argv = for_everybody(
        [sys.executable, "-m", "serverd", "-c", str(work / "server.yaml")], open_folder / "held"
    )
    with Daemon(work, app=app, config=config, argv=argv) as daemon:
        daemon.wait_ready()
        assert get(daemon).body.decode() == f"{(NOBODY,) * 3}"
        assert get(daemon, "/ids").body.decode().endswith(" 027")
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)
        daemon.wait_for_line(" info .*is ready, in")
        assert get(daemon).body.decode() == f"{(NOBODY,) * 3}"
