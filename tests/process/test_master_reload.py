"""Reload by SIGHUP: the next generation boots beside the old one, and nothing that a client sees goes wrong."""

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, free_port, title, wait_for_more, wait_until
from tests.support.probe import source

from .test_master_lifecycle import InFlight, get, listens


def reload(daemon: Daemon, expect: str = r"generation \d+ ready") -> None:
    """SIGHUP, and wait until the log says `expect`."""
    mark = daemon.mark()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line(expect, after=mark)


def test_new_code_and_new_configuration_serve_after_hup(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config={"env": {"GREETING": "hello"}}) as daemon:
        daemon.wait_ready()
        daemon.write_app(source("version two"))
        daemon.write_config({"env": {"GREETING": "goodbye"}, "workers": {"processes": 2, "threads": 3}})
        reload(daemon, r"generation 2 ready in \d+\.\d\d s: 2 processes × 3 threads")
        wait_until(lambda: get(daemon).body.startswith(b"version two "), "the new code answers")
        assert get(daemon, "/env?GREETING").body == b"goodbye"
        wait_until(lambda: len(daemon.workers()) == 2, "the old generation is gone")
        assert {title(pid) for pid in daemon.workers()} == {"serverd: worker 0 g2", "serverd: worker 1 g2"}


def test_a_request_in_flight_is_finished_by_the_old_generation(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1")) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        daemon.write_app(source("version two"))
        reload(daemon)
        wait_until(lambda: get(daemon).body.startswith(b"version two "), "the new code answers")
        waiting.release()
        answer = waiting.result()
        assert answer is not None
        assert answer.body.startswith(b"v1 ")
        wait_until(lambda: len(daemon.workers()) == 1, "the old generation is gone")


def test_an_idle_connection_goes_to_the_new_generation(tmp_path: Path) -> None:
    """A client that has just sent its next request must not see a reset."""
    with Daemon(tmp_path, app=source("v1")) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.get("/").body.startswith(b"v1 ")
            daemon.write_app(source("v2"))
            reload(daemon)
            wait_until(lambda: client.get("/").body.startswith(b"v2 "), "an answer of the new code")
            wait_until(lambda: len(daemon.workers()) == 1, "the end of the old child")
            assert client.get("/").header("connection") is None


@pytest.mark.parametrize(
    ("app", "text"),
    [
        ("app = (\n", "SyntaxError"),
        ("import no_such_module\n", "No module named"),
        ("import os; os._exit(7)\n", "status 7"),
    ],
)
def test_a_broken_application_leaves_the_old_one_serving(tmp_path: Path, app: str, text: str) -> None:
    with Daemon(tmp_path, app=source("v1"), config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        before = daemon.workers()
        daemon.write_app(app)
        reload(daemon, "reload failed: still serving generation 1")
        daemon.wait_for_line(text)
        assert daemon.count("cannot boot: |while it booted") == 1
        wait_until(lambda: daemon.workers() == before, "what failed is gone, what served is there")
        assert get(daemon).body.startswith(b"v1 ")
        daemon.write_app(source("version two"))
        reload(daemon, "generation 3 ready")
        wait_until(lambda: get(daemon).body.startswith(b"version two "), "the new code answers")


def test_a_broken_configuration_changes_nothing_and_says_every_problem(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1")) as daemon:
        daemon.wait_ready()
        before = daemon.workers()
        daemon.write_config(
            {"workers": {"processes": "many"}, "timeouts": {"graceful": "soon"}, "colour": "blue"}
        )
        reload(daemon, "reload failed: still serving generation 1")
        for key in ("workers.processes", "timeouts.graceful", "colour"):
            daemon.wait_for_line(rf"server\.yaml:\d+:\d+: {key}")
        daemon.config_file.unlink()
        reload(daemon, "reload failed: still serving generation 1")
        assert daemon.workers() == before
        assert get(daemon).status == 200


def test_addresses_come_and_go_and_what_stays_is_never_closed(tmp_path: Path) -> None:
    port, new, taken = free_port(), free_port(), free_port()
    stays = f"127.0.0.1:{port}"
    with Daemon(tmp_path, app=source(), config={"listen": [stays, "unix:old.sock"]}) as daemon:
        daemon.wait_ready()
        daemon.write_config({"listen": [stays, f"127.0.0.1:{new}"]})
        reload(daemon)
        daemon.wait_for_line(rf"listening on http://127\.0\.0\.1:{new}")
        daemon.wait_for_line(r"no longer listening on unix:.*old\.sock")
        assert not (tmp_path / "old.sock").exists()
        with RawClient(("127.0.0.1", new)) as client:
            assert client.get("/").status == 200
        assert get(daemon).status == 200
        with socket.create_server(("127.0.0.1", taken)):
            daemon.write_config({"listen": [stays, f"127.0.0.1:{taken}"]})
            reload(daemon, "reload failed: still serving generation 2")
        daemon.wait_for_line(rf"127\.0\.0\.1:{taken} is in use")
        with RawClient(("127.0.0.1", new)) as client:
            assert client.get("/").status == 200


def test_a_failed_boot_gives_its_new_address_back(tmp_path: Path) -> None:
    new = free_port()
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        daemon.write_app("app = (\n")
        daemon.write_config({"listen": ["127.0.0.1:0", f"127.0.0.1:{new}"]})
        reload(daemon, "reload failed")
        wait_until(lambda: not listens(new), "the new address is free again")


def test_a_stop_during_a_reload(tmp_path: Path) -> None:
    top = (
        "import time\nwhile (__import__('pathlib').Path(__file__).parent / 'slow').exists(): time.sleep(0.01)"
    )
    with Daemon(tmp_path, app=source(top=top)) as daemon:
        daemon.wait_ready()
        (tmp_path / "slow").touch()
        reload(daemon, "reload: SIGHUP")
        wait_until(lambda: len(daemon.workers()) == 2, "the next generation boots")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line("stopping")
        (tmp_path / "slow").unlink()
        assert daemon.wait_exit() == 0
        assert daemon.count(" error ") == 0


def test_many_hups_are_answered_by_as_few_reloads_as_possible(tmp_path: Path) -> None:
    top = (
        "import time\nwhile (__import__('pathlib').Path(__file__).parent / 'slow').exists(): time.sleep(0.01)"
    )
    with Daemon(tmp_path, app=source(top=top)) as daemon:
        daemon.wait_ready()
        (tmp_path / "slow").touch()
        reload(daemon, "reload: SIGHUP")
        for _ in range(10):
            daemon.signal(signal.SIGHUP)
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for_line("SIGUSR1")  # so they were read
        (tmp_path / "slow").unlink()
        daemon.wait_for_line("generation 3 ready")
        reload(daemon, "generation 4 ready")
        assert daemon.count("reload: SIGHUP") == 3


@pytest.mark.parametrize(("start_method", "reloads"), [("fork", 5), ("spawn", 1)])
def test_no_request_is_lost_and_no_connection_refused(
    tmp_path: Path, start_method: str, reloads: int
) -> None:
    """Keep-alive clients that connect anew only when they were told to, across reloads."""
    config = {"workers": {"processes": 2, "start_method": start_method}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        address = ("127.0.0.1", daemon.port)
        stop = threading.Event()
        failures: list[str] = []  # by the clients' threads; list.append is atomic
        answers: list[float] = []

        def client() -> None:
            try:
                while not stop.is_set():
                    with RawClient(address) as connection:
                        while not stop.is_set():
                            answer = connection.get("/")
                            assert answer.status == 200
                            answers.append(time.monotonic())
                            if answer.header("connection") == "close":
                                break
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure
                failures.append(repr(error))

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(2, 2 + reloads):
                reload(daemon, f"generation {number} ready")
                wait_for_more(answers, 50)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        wait_until(lambda: len(daemon.workers()) == 2, "the old generations are gone")
