"""Hot upgrades of a running daemon: what is handed over, what clients see, and what happens when the new one fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.client import RawClient
from ..support.daemon import HELLO, Daemon, alive, title, wait_until
from ..support.load import Load
from ..support.probe import source
from .test_master_lifecycle import InFlight, get
from .test_master_system import PASS_ON
from .test_no_request_lost import WAITING
from .test_systemd import Manager, manager

__all__ = ["manager"]  # a fixture

# An application that boots at once, unless there is a file `slow`: then when there is a file `go`.
SLOW = """
import os, time
while os.path.exists("slow") and not os.path.exists("go"):
    time.sleep(0.01)
"""


def upgrade(daemon: Daemon, master: int) -> int:
    """Upgrade `master` and wait until another one has taken over; its process."""
    mark = daemon.mark()
    os.kill(master, signal.SIGUSR2)
    new = int(daemon.wait_for_line(r"the master is process (\d+) now", after=mark)[1])
    daemon.wait_for_line(rf"this is the master now, in place of process {master}", after=mark)
    return new


def masters(daemon: Daemon) -> list[int]:
    """The masters of this daemon that live: members of its process group with that title."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == daemon.pid:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return sorted(pid for pid in found if "master" in title(pid))


def children(pid: int) -> list[int]:
    """The workers of the master `pid`."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [child for child in map(int, text.split()) if "worker" in title(child)]


def wait_gone(pid: int) -> None:
    wait_until(lambda: not alive(pid), f"the end of process {pid}")


def wait_alone(daemon: Daemon, master: int) -> None:
    wait_until(lambda: masters(daemon) == [master], "the old master has drained")


def descriptors(pid: int) -> int:
    """How many are open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_twenty_upgrades_under_load_lose_no_request(tmp_path: Path) -> None:
    config = {
        "workers": {"processes": 2, "threads": 2},
        "logging": {"access": False, "level": "info"},
        "process": {"pidfile": "serverd.pid"},
    }
    with Daemon(tmp_path, app=WAITING, config=config) as daemon:
        daemon.wait_ready()
        master = daemon.pid
        with Load(daemon.port, clients=50) as load:
            load.wait_for(100)
            for number in range(2, 22):
                master = upgrade(daemon, master)
                assert daemon.count(rf"generation {number} ready") == 1
                assert (tmp_path / "serverd.pid").read_text() == f"{master}\n"
                load.wait_for(100)
            wait_alone(daemon, master)
            totals = load.stop()
        assert totals.failures == []
        assert len(totals.bodies) == 2 * 21, "each generation's two children have answered"
        assert daemon.wait_exit() == 0
        os.kill(master, signal.SIGTERM)
        wait_until(lambda: not alive(master), "the last master is gone")
        assert not (tmp_path / "serverd.pid").exists()
        assert not [line for line in daemon.lines if " error " in line or " warning " in line]


# What is handed over


@pytest.mark.parametrize("workers", [{}, {"start_method": "spawn"}, {"preload": True}], ids=str)
def test_what_is_in_flight_ends_with_the_old_master(tmp_path: Path, workers: dict[str, object]) -> None:
    config = {"listen": ["127.0.0.1:0", "unix:app.sock"], "workers": workers}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        file = (tmp_path / "app.sock").stat().st_ino
        new = upgrade(daemon, daemon.pid)
        assert alive(daemon.pid), "its request is not answered yet"
        (worker,) = children(new)
        wait_until(lambda: int(get(daemon).body.split()[1]) == worker, "the new master's child answers")
        assert (tmp_path / "app.sock").stat().st_ino == file, "who goes leaves the file to who stays"
        with RawClient(str(tmp_path / "app.sock")) as client:
            assert client.get("/").status == 200
        newer = upgrade(daemon, new)
        os.kill(newer, signal.SIGTERM)
        wait_until(lambda: not children(new) and not children(newer), "the new masters have no children left")
        assert alive(new), "its end would be the end of the service, and there is a request yet"
        assert alive(newer)
        waiting.release()
        answer = waiting.result()
        assert answer is not None
        assert answer.status == 200
        wait_gone(daemon.pid)
        wait_gone(newer)
        assert not (tmp_path / "app.sock").exists()


def test_the_command_upgrades_and_finds_the_new_master_at_once(tmp_path: Path) -> None:
    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serverd", *words, "-c", str(tmp_path / "server.yaml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        done = ask("upgrade", "--wait")
        assert (done.returncode, done.stderr) == (0, "")
        assert "generation 2 ready" in done.stdout
        status = json.loads(ask("status", "--json").stdout)
        assert status["pid"] == int(daemon.wait_for_line(r"the master is process (\d+) now")[1])
        daemon.write_app("import nothing_of_this_name")
        done = ask("upgrade", "--wait")
        assert done.returncode == 1
        assert "nothing_of_this_name" in done.stderr
        assert "still serving generation 2" in done.stderr


def test_nothing_is_left_open_from_upgrade_to_upgrade(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        config = {
            "listen": ["127.0.0.1:0", "unix:app.sock", f"fd://{passed.fileno()}"],
            "process": {"pidfile": "pid"},
        }
        with Daemon(tmp_path, app=source(), config=config, pass_fds=[passed.fileno()]) as daemon:
            daemon.wait_ready()
            counts = []
            master = daemon.pid
            for _ in range(3):
                old, master = master, upgrade(daemon, master)
                daemon.wait_for_line(rf"the old master \(pid {old}\) is gone")
                (worker,) = children(master)
                counts.append((descriptors(master), descriptors(worker)))
                with RawClient(passed.getsockname()) as client:
                    assert client.get("/env?SERVERD_UPGRADE").body == b"(not set)"
            assert counts[0] == counts[1] == counts[2]


def test_what_the_new_configuration_does_not_want_is_put_away(tmp_path: Path) -> None:
    """Also what a reload cannot change: the pidfile. And files that nobody has asked for any more are removed once."""
    listen = ["127.0.0.1:0", "unix:old.sock", "unix:kept.sock"]
    with Daemon(tmp_path, config={"listen": listen, "process": {"pidfile": "old"}}) as daemon:
        daemon.wait_ready()
        listen = ["127.0.0.1:0", "unix:kept.sock", "unix:new.sock"]
        daemon.write_config({"listen": listen, "process": {"pidfile": "new"}})
        new = upgrade(daemon, daemon.pid)
        wait_gone(daemon.pid)
        assert sorted(path.name for path in tmp_path.glob("*.sock")) == ["kept.sock", "new.sock"]
        for name in ("kept.sock", "new.sock"):
            with RawClient(str(tmp_path / name)) as client:
                assert client.get("/").status == 200
        assert not (tmp_path / "old").exists()
        assert (tmp_path / "new").read_text() == f"{new}\n"
        again = subprocess.run(
            [sys.executable, "-m", "serverd", "-c", str(daemon.config_file)], capture_output=True, text=True
        )
        assert again.returncode == 1
        assert "is in use by another process" in again.stderr
        os.kill(new, signal.SIGTERM)
        wait_gone(new)
        assert list(tmp_path.glob("*.sock")) == []
        assert not (tmp_path / "new").exists()


def test_systemd_hears_who_the_main_process_is(tmp_path: Path, manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.env, "WATCHDOG_USEC": "2000000"}
    with Daemon(tmp_path, env=env) as daemon:
        manager.wait_for("READY")
        new = upgrade(daemon, daemon.pid)
        assert manager.wait_for("READY", 2)["MAINPID"] == str(new)
        told = [message for message in manager.heard if "MAINPID" in message]
        assert [(message["MAINPID"], "READY" in message) for message in told] == [
            (str(daemon.pid), True),
            (str(new), False),
            (str(new), True),
        ]
        wait_gone(daemon.pid)
        seen = len(manager.says("WATCHDOG"))
        manager.wait_for("WATCHDOG", seen + 2)
        assert manager.says("STOPPING") == []


def test_sockets_of_systemd_keep_their_names(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as more:
        fds = (web.fileno(), more.fileno())
        serverd = [sys.executable, "-m", "serverd", "-c", str(tmp_path / "server.yaml")]
        argv = [sys.executable, "-c", PASS_ON, ",".join(map(str, fds)), "web:more", *serverd]
        with Daemon(tmp_path, config={"listen": ["systemd:web"]}, argv=argv, pass_fds=fds) as daemon:
            daemon.wait_ready()
            daemon.write_config({"listen": ["systemd:web", "systemd:more"]})
            upgrade(daemon, daemon.pid)
            for sock in (web, more):
                with RawClient(sock.getsockname()) as client:
                    assert client.get("/").status == 200


def test_a_link_to_the_release_is_followed(tmp_path: Path) -> None:
    """The folder is entered by its name again, and so is the interpreter: what is there now is what runs."""
    for number in (1, 2):
        (tmp_path / f"release{number}").mkdir()
        (tmp_path / f"release{number}" / "main.py").write_text(HELLO.replace("hello", f"release {number}"))
    (tmp_path / "current").symlink_to("release1")
    serverd = f"exec {sys.executable} -m serverd main:app --listen 127.0.0.1:0"
    with Daemon(tmp_path, argv=["sh", "-c", f"cd {tmp_path}/current && {serverd}"]) as daemon:
        daemon.wait_ready()
        assert get(daemon).body == b"release 1"
        (tmp_path / "new").symlink_to("release2")
        (tmp_path / "new").replace(tmp_path / "current")
        upgrade(daemon, daemon.pid)
        wait_gone(daemon.pid)
        assert get(daemon).body == b"release 2"


# What goes wrong


def test_a_new_master_that_cannot_serve_changes_nothing(tmp_path: Path) -> None:
    config = {"listen": ["127.0.0.1:0", "unix:app.sock"], "process": {"pidfile": "pid"}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        workers = daemon.workers()
        file = (tmp_path / "app.sock").stat().st_ino
        daemon.write_app("import nothing_of_this_name")
        for attempt, reason in enumerate(
            (
                r"app: demo needs the module 'nothing_of_this_name'.*",
                r".*server.yaml:\d+:\d+: lissten: unknown key.*",
                r"listen: 192.0.2.1:80 is no address of this machine.*",
            )
        ):
            if attempt == 1:
                daemon.write_config({**config, "lissten": "127.0.0.1:0"})
            if attempt == 2:
                daemon.write_config({**config, "listen": ["127.0.0.1:0", "192.0.2.1:80"]})
            mark = daemon.mark()
            daemon.signal(signal.SIGUSR2)
            daemon.wait_for_line(rf"upgrade failed: {reason}; still serving generation 1$", after=mark)
            assert daemon.workers() == workers
            assert get(daemon).status == 200
        assert (tmp_path / "pid").read_text() == f"{daemon.pid}\n"
        assert (tmp_path / "app.sock").stat().st_ino == file
        daemon.write_config(config)
        daemon.write_app(source("v2"))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready")
        upgrade(daemon, daemon.pid)
        daemon.wait_for_line("generation 3 ready")


def test_while_the_new_one_boots_the_old_one_takes_no_other_orders(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(top=SLOW)) as daemon:
        daemon.wait_ready()
        (tmp_path / "slow").touch()
        daemon.signal(signal.SIGUSR2)
        new = int(daemon.wait_for_line(r"the new master is process (\d+)")[1])
        daemon.wait_for_line(r"listening on", after=daemon.mark() - 1)
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGWINCH):
            daemon.signal(number)
            daemon.wait_for_line(rf"{number.name}: an upgrade is under way \(process {new} boots\)")
        daemon.signal(signal.SIGUSR2)
        daemon.wait_for_line("upgrade refused: an upgrade is under way")
        assert get(daemon).status == 200
        os.kill(new, signal.SIGKILL)
        daemon.wait_for_line(
            "upgrade failed: the new master was killed by SIGKILL; still serving generation 1"
        )
        (tmp_path / "go").touch()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_who_stops_the_old_one_meanwhile_stops_both(tmp_path: Path, number: signal.Signals) -> None:
    config = {"listen": ["127.0.0.1:0", "unix:app.sock"], "process": {"pidfile": "pid"}}
    with Daemon(tmp_path, app=source(top=SLOW), config=config) as daemon:
        daemon.wait_ready()
        (tmp_path / "slow").touch()
        daemon.signal(signal.SIGUSR2)
        new = int(daemon.wait_for_line(r"the new master is process (\d+)")[1])
        wait_until(lambda: children(new), "the new master has a child")
        daemon.signal(number)
        (tmp_path / "go").touch()  # a child that still imports would be waited for
        assert daemon.wait_exit() == 0
        assert not alive(new), "the old one waits for the new one"
        daemon.wait_for_line("upgrade failed: ")
        assert not (tmp_path / "pid").exists()
        assert not (tmp_path / "app.sock").exists()


def test_an_old_master_that_dies_meanwhile_leaves_everything_to_the_new_one(tmp_path: Path) -> None:
    config = {"listen": ["127.0.0.1:0", "unix:app.sock"], "process": {"pidfile": "pid"}}
    with Daemon(tmp_path, app=source(top=SLOW), config=config) as daemon:
        daemon.wait_ready()
        (tmp_path / "slow").touch()
        daemon.signal(signal.SIGUSR2)
        new = int(daemon.wait_for_line(r"the new master is process (\d+)")[1])
        wait_until(lambda: children(new), "the new master has a child")
        daemon.signal(signal.SIGKILL)
        daemon.wait_for_line("the old master .* has ended without a word")
        (tmp_path / "go").touch()
        daemon.wait_for_line("this is the master now")
        assert (tmp_path / "pid").read_text() == f"{new}\n"
        assert get(daemon).status == 200
        os.kill(new, signal.SIGTERM)
        wait_until(lambda: not alive(new), "the new master has stopped")
        assert not (tmp_path / "pid").exists()
        assert not (tmp_path / "app.sock").exists()


def test_who_stops_the_new_one_before_the_old_one_lets_go_leaves_nothing_behind(tmp_path: Path) -> None:
    config = {"listen": ["127.0.0.1:0", "unix:app.sock"], "process": {"pidfile": "pid"}}
    with Daemon(tmp_path, app=source(top=SLOW), config=config) as daemon:
        daemon.wait_ready()
        (tmp_path / "slow").touch()
        daemon.signal(signal.SIGUSR2)
        new = int(daemon.wait_for_line(r"the new master is process (\d+)")[1])
        (child,) = wait_until(lambda: children(new), "the new master has a child")
        daemon.signal(signal.SIGSTOP)  # it does not read that the new one serves
        (tmp_path / "go").touch()
        daemon.wait_for_line(r"generation 2 ready")
        os.kill(child, signal.SIGSTOP)  # it does not drain yet
        mark = daemon.mark()
        os.kill(new, signal.SIGTERM)
        daemon.wait_for_line("stopping, requests in flight have", after=mark)
        daemon.signal(signal.SIGCONT)
        daemon.wait_for_line(f"this is the master now, in place of process {daemon.pid}", after=mark)
        assert (tmp_path / "pid").read_text() == f"{new}\n"
        os.kill(child, signal.SIGCONT)
        assert daemon.wait_exit() == 0
        wait_gone(new)
        assert not (tmp_path / "pid").exists()
        assert not (tmp_path / "app.sock").exists()
