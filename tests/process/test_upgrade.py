"""Hot upgrades of a running daemon: what is handed over, what clients see, and what happens when the new one fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ..support.daemon import Daemon, alive, title, wait_until
from ..support.load import Load
from .test_no_request_lost import WAITING
from .test_systemd import manager

__all__ = ["manager"]  # a fixture


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


def test_twenty_upgrades_under_load_lose_no_request(tmp_path: Path) -> None:
    config = {
        "workers": {"processes": 2, "threads": 2},
        "logging": {"access": False, "level": "info"},
        "process": {"pidfile": "serverd.pid"},
    }
    with Daemon(tmp_path, app=WAITING, config=config) as daemon:
        daemon.wait_ready()
        master = daemon.pid
        with Load(daemon.port, clients=100) as load:
            load.wait_for(100)
            for number in range(2, 22):
                master = upgrade(daemon, master)
                assert daemon.count(rf"generation {number} ready") == 1
                assert (tmp_path / "serverd.pid").read_text() == f"{master}\n"
                load.wait_for(100)
            totals = load.stop()
        assert totals.failures == []
        assert len(totals.bodies) == 2 * 21, "each generation's two children have answered"
        assert daemon.wait_exit() == 0
        wait_until(lambda: masters(daemon) == [master], "the old masters are gone")
        os.kill(master, signal.SIGTERM)
        wait_until(lambda: not alive(master), "the last master is gone")
        assert not (tmp_path / "serverd.pid").exists()
        assert not [line for line in daemon.lines if " error " in line or " warning " in line]
