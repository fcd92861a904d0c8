"""When things die: a child that serves, a child that boots, the master; and when the machine has no more to give."""

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, alive, wait_for_more, wait_until
from tests.support.probe import source

from .test_master_lifecycle import InFlight, get


def test_a_killed_child_is_replaced_and_others_never_notice(tmp_path: Path) -> None:
    """Only what was in the killed child's hands is lost."""
    config = {"workers": {"processes": 2}}
    with Daemon(tmp_path, app=source(), config=config) as daemon, contextlib.ExitStack() as opened:
        daemon.wait_ready()
        clients: dict[int, RawClient] = {}
        while len(clients) < 2:  # a connection to each child
            client = opened.enter_context(RawClient(("127.0.0.1", daemon.port)))
            clients.setdefault(int(client.get("/").body.split()[1]), client)
        victim, survivor = clients
        os.kill(victim, signal.SIGKILL)
        daemon.wait_for_line(
            rf"worker . g1 \(pid {victim}\) was killed by SIGKILL \(by hand, .*; a new one starts in 0\.1 s"
        )
        assert int(clients[survivor].get("/").body.split()[1]) == survivor, "on the same connection"
        daemon.wait_for_line(r" info .* worker . g1 \(pid \d+\) is ready, in")
        assert len(daemon.workers()) == 2
        assert survivor in daemon.workers()
        with pytest.raises((EOFError, ConnectionError)):
            clients[victim].get("/")


def test_killing_children_under_load_loses_only_what_they_held(tmp_path: Path) -> None:
    """New connections are always served, as the socket is the master's and the other child accepts."""
    with Daemon(tmp_path, app=source(), config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        address = ("127.0.0.1", daemon.port)
        stop = threading.Event()
        lost: list[int] = []  # by the clients' threads; list.append is atomic
        answered: list[int] = []

        def load() -> None:
            while not stop.is_set():
                try:
                    with RawClient(address) as client:
                        answered.append(int(client.get("/").body.split()[1]))
                except EOFError, ConnectionResetError, BrokenPipeError:
                    lost.append(1)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                mark = daemon.mark()
                os.kill(daemon.workers()[0], signal.SIGKILL)
                daemon.wait_for_line(" info .* is ready, in", after=mark)
                wait_for_more(answered, 20)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert len(lost) <= 4 * 3, "each client had at most one request in a child that was killed"


def test_exit_in_the_application_is_a_crash_with_its_status(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port)) as client, pytest.raises((EOFError, ConnectionError)):
            client.get("/exit")
        daemon.wait_for_line(r"worker 0 g1 \(pid \d+\) exited with status 9; a new one starts in 0\.1 s")
        assert get(daemon).status == 200, "it waited in the backlog"


def test_crashes_in_a_row_wait_longer_each_time(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        for seconds in ("0.1", "0.2", "0.4"):
            mark = daemon.mark()
            os.kill(daemon.workers()[0], signal.SIGSEGV)
            daemon.wait_for_line(rf"was killed by SIGSEGV.*; a new one starts in {seconds} s", after=mark)
            daemon.wait_for_line("is ready, in", after=mark)


# Children that cannot boot

NO_DATABASE = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("app", "status", "text"),
    [
        ("import no_such_module\n", 4, "No module named 'no_such_module'"),
        ("app = (\n", 4, "SyntaxError"),
        ("other = 1\n", 4, "app"),
        (NO_DATABASE, 3, "no database"),
        ("import os; os.abort()\n", 3, "was killed by SIGABRT.* while it booted"),
    ],
)
def test_the_first_generation_cannot_boot(
    tmp_path: Path, app: str, status: int, text: str, start_method: str
) -> None:
    config = {"workers": {"processes": 3, "start_method": start_method}}
    with Daemon(tmp_path, app=app, config=config) as daemon:
        assert daemon.wait_exit() == status
        daemon.wait_for_line(text)
        assert daemon.count("cannot boot: |while it booted") == 1, "once for all three"
        assert daemon.count("Traceback") <= 1
        daemon.wait_for_line("nothing to serve: generation 1 cannot boot")


def test_a_child_that_hangs_at_its_boot_is_killed_and_the_limit_named(tmp_path: Path) -> None:
    config = {"timeouts": {"boot": "0.5s"}}
    with Daemon(tmp_path, app="import threading; threading.Event().wait()\n", config=config) as daemon:
        assert daemon.wait_exit() == 3
        daemon.wait_for_line(
            r"worker 0 g1 \(pid \d+\) did not boot within 0\.5 s \(timeouts\.boot\): killing it"
        )
        assert daemon.count("did not boot") == 1


def test_a_replacement_that_cannot_boot_is_reported_once_and_tried_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        one, other = daemon.workers()
        daemon.write_app("import no_such_module\n")
        os.kill(one, signal.SIGKILL)
        for _ in range(2):
            mark = daemon.mark()
            daemon.wait_for_line(r"worker . g1 cannot boot; a new one starts in", after=mark)
        assert daemon.count("Traceback") == 1
        assert get(daemon).status == 200, "the other child serves"
        assert other in daemon.workers()
        daemon.write_app(source("v2"))
        daemon.wait_for_line("is ready, in", after=mark)


# The master


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_orphans_finish_and_go_and_the_port_is_free(tmp_path: Path, start_method: str) -> None:
    config = {"workers": {"processes": 2, "start_method": start_method}, "reload": {"enabled": True}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("watching")
        family = daemon.children()
        assert len(family) == 3
        waiting = InFlight(daemon)
        daemon.signal(signal.SIGKILL)
        daemon.wait_for_line("the master is gone")
        waiting.release()
        answer = waiting.result()
        assert answer is not None
        assert answer.status == 200
        wait_until(lambda: not any(map(alive, family)), "children and watcher are gone")
        with socket.create_server(("127.0.0.1", daemon.port)):
            pass
        assert (tmp_path / "shut-down").exists()


# A machine that has no more to give

STARVED = """
import errno, os, sys
real, left = os.{call}, [{failures}]
def starved(*args, **more):
    if left[0] > 0:
        left[0] -= 1
        raise OSError(errno.{error}, os.strerror(errno.{error}))
    return real(*args, **more)
os.{call} = starved
from serverd.supervisor.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("call", "error"), [("fork", "EAGAIN"), ("fork", "ENOMEM"), ("pidfd_open", "EMFILE")]
)
def test_a_process_that_cannot_be_had_is_waited_for(tmp_path: Path, call: str, error: str) -> None:
    code = STARVED.format(call=call, error=error, failures=3)
    argv = [sys.executable, "-c", code, "-c", str(tmp_path / "server.yaml")]
    with Daemon(tmp_path, app=source(), argv=argv) as daemon:
        daemon.wait_ready()
        assert daemon.count(r"worker 0 g1: cannot start a process \(.*\); next try in 0\.[124] s") == 3
        assert get(daemon).status == 200
        assert len(daemon.children()) == 1, "what could not be watched was not left running"
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
