"""The admin plane of a real daemon: what it says of it, when, and what becomes of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ..support.browser import Browser
from ..support.client import RawClient, Response
from ..support.daemon import Daemon, alive, title, wait_until
from ..support.probe import source
from .test_master_lifecycle import InFlight, get
from .test_master_system import for_everybody, open_folder

__all__ = ["open_folder"]  # a fixture

# What is promised. On a machine that runs other things single answers may take longer: the median counts.
PROMISED = 0.05

ADMIN: dict[str, Any] = {"admin": {"listen": "127.0.0.1:0"}}

# Its import waits until there is a file `go`.
SLOW_IMPORT = """
import os, time
while not os.path.exists("go"):
    time.sleep(0.01)
"""


def port(daemon: Daemon, after: int = 0) -> int:
    return int(daemon.wait_for_line(r"the admin plane is at http://\S+:(\d+)", after=after)[1])


def ask(where: int | str, path: str) -> Response:
    """From the port of the admin plane, or its socket."""
    with RawClient(where if isinstance(where, str) else ("127.0.0.1", where)) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return client.response()


def says(where: int | str, path: str, status: int, words: str) -> bool:
    try:
        answer = ask(where, path)
    except OSError:
        return False
    return answer.status == status and words in answer.body.decode()


def status(where: int | str) -> dict[str, Any]:
    answer = ask(where, "/status")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


def metrics(where: int | str) -> dict[str, float]:
    """The samples by their name and their labels' values: `requests_total 2xx`."""
    text = ask(where, "/metrics").body.decode()
    return {
        " ".join([sample.name.removeprefix("serverd_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def admin_of(daemon: Daemon) -> int:
    """The admin process; 0 while there is none."""
    return next((pid for pid in daemon.children() if title(pid).endswith(": admin")), 0)


def seconds(where: int, path: str) -> float:
    """How long an answer takes on a new connection: the median of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        ask(where, path)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def test_it_answers_while_the_application_is_imported_and_while_every_thread_is_stuck(tmp_path: Path) -> None:
    config = {"admin": {"listen": "127.0.0.1:0", "ready_capacity": "300ms"}}
    with Daemon(tmp_path, app=source(top=SLOW_IMPORT), config=config) as daemon:
        admin = port(daemon)
        wait_until(partial(says, admin, "/startupz", 503, "booting"), "it answers")
        assert says(admin, "/readyz", 503, "booting")
        assert says(admin, "/livez", 200, "the master answers")
        importing = {path: seconds(admin, path) for path in ("/livez", "/readyz", "/metrics", "/status")}
        (tmp_path / "go").touch()
        daemon.wait_ready()
        wait_until(partial(says, admin, "/readyz", 200, "generation 1 serves"))
        assert says(admin, "/startupz", 200, "")
        held = [InFlight(daemon) for _ in range(2)]  # that is all threads
        wait_until(partial(says, admin, "/readyz", 503, "no idle capacity: all 2 threads busy"), "it is full")
        stuck = {path: seconds(admin, path) for path in ("/livez", "/readyz", "/metrics", "/status")}
        running = [
            thread for thread in status(admin)["children"][0]["threads"] if thread["state"] == "running"
        ]
        assert [thread["path"] for thread in running] == ["/wait", "/wait"]
        assert all(thread["request"].startswith("0.1-") for thread in running)
        (tmp_path / "release").touch()
        for request in held:
            request.join()
        wait_until(partial(says, admin, "/readyz", 200, "serves"), "there is capacity again")
    print(f"importing: {importing}\nstuck: {stuck}")
    assert max(*importing.values(), *stuck.values()) < PROMISED


def test_counts_go_on_across_generations_and_crashes(tmp_path: Path) -> None:
    config = {**ADMIN, "workers": {"processes": 2}, "logging": {"access": False}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        admin = port(daemon)

        def counted(number: int) -> bool:
            return metrics(admin)["requests_total 2xx"] == number

        for turn in range(3):
            for _ in range(10):
                get(daemon)
            # A request counts when its response was sent, and a snapshot may be 10 ms old.
            wait_until(partial(counted, 10 * turn + 10), "all are counted")
            mark = daemon.mark()
            if turn == 0:
                daemon.signal(signal.SIGHUP)
                daemon.wait_for_line("generation 2 ready", after=mark)
            if turn == 1:
                with pytest.raises(EOFError):
                    get(daemon, "/exit")
                daemon.wait_for_line("exited with status 9", after=mark)
                daemon.wait_for_line(r" info .*worker \d g2 \(pid \d+\) is ready", after=mark)

        def settled() -> bool:
            return [child["state"] for child in status(admin)["children"]] == ["ready", "ready"]

        wait_until(settled, "the old generation is gone, and the crashed one is replaced")
        found = metrics(admin)
        assert found["requests_total 2xx"] == 30
        assert found["request_duration_seconds_count"] >= 30
        assert found["request_duration_seconds_bucket +Inf"] == found["request_duration_seconds_count"]
        assert found["reloads_total succeeded"] == 1
        assert found["child_restarts_total crash"] == 1
        assert found["generation"] == 2
        assert found["threads idle"] >= 2
        assert found["resident_memory_bytes master"] > 1e6
        assert found["resident_memory_bytes admin"] > 1e6
        assert sum(name.startswith("resident_memory_bytes worker") for name in found) == 2


def test_one_that_is_killed_comes_back_and_its_socket_stays(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config=ADMIN) as daemon:
        daemon.wait_ready()
        admin = port(daemon)
        wait_until(partial(says, admin, "/livez", 200, ""), "it answers")
        first, workers = admin_of(daemon), daemon.workers()
        os.kill(first, signal.SIGKILL)
        # Whoever asks while there is none waits in the backlog, and is answered by the next.
        assert ask(admin, "/readyz").status == 200
        daemon.wait_for_line(
            rf"the admin process \(pid {first}\) was killed by SIGKILL; it starts again in 0\.1 s"
        )
        assert admin_of(daemon) not in (0, first)
        assert daemon.workers() == workers


def test_it_says_that_the_server_stops_and_leaves_with_it(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config=ADMIN) as daemon:
        daemon.wait_ready()
        admin = port(daemon)
        request = InFlight(daemon)
        pid = admin_of(daemon)
        os.killpg(daemon.pid, signal.SIGTERM)  # as systemd does with KillMode=control-group
        wait_until(partial(says, admin, "/readyz", 503, "stopping"), "it says so")
        assert says(admin, "/startupz", 200, "")
        assert says(admin, "/livez", 200, "")
        (tmp_path / "release").touch()
        request.join()
        assert daemon.wait_exit() == 0
        assert not alive(pid)


def test_a_lame_duck_serves_and_says_that_it_is_not_ready(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={**ADMIN, "timeouts": {"lame_duck": "1s"}}) as daemon:
        daemon.wait_ready()
        admin = port(daemon)
        wait_until(partial(says, admin, "/readyz", 200, ""), "it answers")
        daemon.signal(signal.SIGTERM)
        wait_until(partial(says, admin, "/readyz", 503, "lame duck"), "it says so")
        assert get(daemon).status == 200
        assert daemon.wait_exit() == 0


def test_it_does_not_outlive_its_master(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config=ADMIN) as daemon:
        daemon.wait_ready()
        wait_until(partial(says, port(daemon), "/livez", 200, ""), "it answers")
        pid = admin_of(daemon)
        daemon.signal(signal.SIGKILL)
        wait_until(lambda: not alive(pid), "it is gone")


def test_a_master_that_stands_still_is_told_from_one_that_answers(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config=ADMIN) as daemon:
        daemon.wait_ready()
        admin = port(daemon)
        wait_until(partial(says, admin, "/livez", 200, "the master answers"), "it answers")
        daemon.signal(signal.SIGSTOP)
        # For ten seconds it may be busy: tests/test_admin_health.py.
        assert says(admin, "/livez", 200, "the master is there")
        assert seconds(admin, "/livez") < PROMISED
        daemon.signal(signal.SIGCONT)
        wait_until(partial(says, admin, "/livez", 200, "the master answers"), "it answers again")


def test_a_reload_moves_it_takes_it_away_and_brings_it_back(tmp_path: Path) -> None:
    config = {**ADMIN, "workers": {"processes": 1}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        first = port(daemon)
        wait_until(partial(says, first, "/livez", 200, ""), "it answers")
        pid = admin_of(daemon)

        reload(daemon, {**config, "admin": {"listen": "unix:admin.sock"}}, 2)
        path = str(tmp_path / "admin.sock")
        wait_until(partial(says, path, "/readyz", 200, "generation 2"), "it answers there")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", first)) == errno.ECONNREFUSED
        wait_until(lambda: not alive(pid), "the old one is gone")

        reload(daemon, {**config, "admin": None}, 3)
        wait_until(lambda: admin_of(daemon) == 0, "there is none")
        assert not os.path.exists(path)

        reload(daemon, {**config, "admin": {"listen": "unix:admin.sock", "ready_capacity": 0}}, 4)
        wait_until(partial(says, path, "/readyz", 200, "generation 4"), "it is back")


def reload(daemon: Daemon, config: dict[str, Any], generation: int) -> None:
    mark = daemon.mark()
    daemon.write_config(config)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line(f"generation {generation} ready", after=mark)


def test_an_address_that_cannot_be_had_fails_the_reload_and_nothing_else(tmp_path: Path) -> None:
    with (
        Daemon(tmp_path, app=source(), config=ADMIN) as daemon,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        daemon.wait_ready()
        admin = port(daemon)
        wait_until(partial(says, admin, "/livez", 200, ""), "it answers")
        pid, mark = admin_of(daemon), daemon.mark()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon.write_config({"listen": ["127.0.0.1:0"], "admin": {"listen": address}})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line(rf"admin\.listen: {address} is in use by another process", after=mark)
        daemon.wait_for_line("reload failed: still serving generation 1", after=mark)
        wait_until(lambda: metrics(admin)["reloads_total failed"] == 1, "it is counted")
        assert status(admin)["last_reload"]["ok"] is False
        assert admin_of(daemon) == pid
        assert get(daemon).status == 200


def test_an_address_that_cannot_be_had_at_the_start_ends_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Daemon(tmp_path, app=source(), config={"admin": {"listen": address}}) as daemon:
            assert daemon.wait_exit() == 1
            assert daemon.count(rf"admin\.listen: {address} is in use") == 1


def sockets(pid: int) -> set[str]:
    links = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    return {link for link in links if link.startswith("socket:")}


def listening() -> set[str]:
    """The TCP sockets of this machine that listen."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "0A"}


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_it_holds_its_own_socket_and_the_children_theirs(tmp_path: Path, start_method: str) -> None:
    config = {
        **ADMIN,
        "workers": {"processes": 2, "start_method": start_method},
        "process": {"pidfile": "run.pid"},
    }
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        wait_until(partial(says, port(daemon), "/livez", 200, ""), "it answers")
        mark = daemon.mark()
        with pytest.raises(EOFError):
            get(daemon, "/exit")  # one is started when there is an admin process already
        daemon.wait_for_line(r"worker \d g1 \(pid \d+\) is ready", after=mark)
        admin = admin_of(daemon)
        ours = sockets(admin) & listening()
        assert len(ours) == 1
        for pid in daemon.workers():
            theirs = sockets(pid) & listening()
            assert len(theirs) == 1
            assert not theirs & ours
        assert not sockets(admin) & sockets(daemon.pid) - ours, "something of the master's"
        files = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{admin}/fd")}
        assert not [link for link in files if "pidfd" in link or "run.pid" in link]


def test_an_upgrade_hands_its_socket_over(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config=ADMIN) as daemon:
        daemon.wait_ready()
        admin = port(daemon)
        wait_until(partial(says, admin, "/readyz", 200, "generation 1"), "it answers")
        daemon.signal(signal.SIGUSR2)
        new = int(daemon.wait_for_line(r"the master is process (\d+) now")[1])
        answers: list[int] = []

        def answers_for_the_new_one() -> bool:
            answers.append(ask(admin, "/readyz").status)
            return bool(status(admin)["pid"] == new)

        wait_until(answers_for_the_new_one, "the new master's answers")
        assert set(answers) == {200}, "never refused, never unready"
        assert status(admin)["generation"] == 2


@pytest.mark.root
def test_it_steps_down_with_the_children(open_folder: Path) -> None:
    (open_folder / "held").mkdir()
    work = open_folder / "work"
    work.mkdir()
    config = {**ADMIN, "process": {"user": "nobody"}}
    command = [sys.executable, "-m", "serverd", "-c", str(work / "server.yaml")]
    argv = for_everybody(command, open_folder / "held")
    with Daemon(work, app=source(), config=config, argv=argv) as daemon:
        daemon.wait_ready()
        admin = port(daemon)
        wait_until(partial(says, admin, "/readyz", 200, ""), "it answers")
        assert metrics(admin)["resident_memory_bytes master"] > 1e6
        lines = Path(f"/proc/{admin_of(daemon)}/status").read_text().splitlines()
        uids = next(line for line in lines if line.startswith("Uid:")).split()[1:]
        assert "0" not in uids


def test_a_person_sees_what_goes_on(tmp_path: Path) -> None:
    """In a headless browser, which would complain about whatever its policy forbids."""
    with (
        Daemon(tmp_path, app=source(), config={**ADMIN, "workers": {"threads": 3}}) as daemon,
        Browser(tmp_path) as browser,
    ):
        daemon.wait_ready()
        admin = port(daemon)
        wait_until(partial(says, admin, "/livez", 200, ""), "it answers")
        page = browser.open(f"http://127.0.0.1:{admin}/")
        page.wait_for("document.querySelector('#state').textContent === 'serving'")
        assert page.text("#app") == "demo:app"
        assert "generation 1" in page.text("#meta")
        request = InFlight(daemon)
        page.wait_for("document.querySelectorAll('.cells li.running, .cells li.slow').length === 1")
        page.wait_for("document.querySelector('#running tbody').innerText.includes('GET /wait')")
        page.screenshot(tmp_path / "admin.png")
        assert (tmp_path / "admin.png").stat().st_size > 20_000
        (tmp_path / "release").touch()
        request.join()
        page.wait_for("document.querySelector('#codes tbody').innerText.includes('2xx')")
        mark = daemon.mark()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready", after=mark)
        page.wait_for("document.querySelector('#meta').textContent.startsWith('generation 2')")
        page.wait_for("document.querySelector('#children h3').textContent.startsWith('worker 0 g2')")
        assert page.complaints == []
        os.kill(admin_of(daemon), signal.SIGKILL)
        page.wait_for("!document.querySelector('#lost').hidden")
        page.wait_for("document.querySelector('#lost').hidden")
        assert [text for text in page.complaints if "ERR_" not in text] == []
