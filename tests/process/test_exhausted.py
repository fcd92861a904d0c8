"""When the machine has no more to give: a full disk under the log, no descriptors for the master."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, free_port, wait_until
from tests.support.probe import source

from .test_master_lifecycle import get


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_of_the_log_harms_nobody(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "demo.py").write_text(source("v1"))
    (tmp_path / "server.yaml").write_text(
        f"app: demo:app\nlisten: 127.0.0.1:{port}\nlogging: {{format: json}}\n"
    )

    def answer() -> str:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            client.request("GET", "/", headers={"Connection": "close"})
            return client.getresponse().read().decode()
        except OSError, http.client.HTTPException:
            return ""
        finally:
            client.close()

    argv = [sys.executable, "-m", "serverd", "-c", str(tmp_path / "server.yaml")]
    with open("/dev/full", "wb") as full, subprocess.Popen(argv, stdout=full, stderr=full) as daemon:
        try:
            wait_until(lambda: answer().startswith("v1 "), "it serves")
            (tmp_path / "demo.py").write_text(source("v2 is longer", top="pass  # another size"))
            daemon.send_signal(signal.SIGHUP)
            wait_until(lambda: answer().startswith("v2 "), "the reload works")
            os.kill(int(answer().split()[-1]), signal.SIGKILL)
            wait_until(lambda: answer().startswith("v2 "), "the dead child is replaced")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0
        finally:
            daemon.kill()


def test_a_master_without_descriptors_serves_on_and_recovers(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        first, second = daemon.workers()
        os.kill(first, signal.SIGKILL)
        daemon.wait_for_line(
            r"worker \d g1: cannot start a process \(Too many open files\); next try in 0\.\d s"
        )
        assert get(daemon).body.split()[1] == str(second).encode(), "the other one serves"
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("Too many open files")
        daemon.wait_for_line("reload failed: still serving generation 1")
        assert get(daemon).status == 200
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        daemon.wait_for_line(r" info .* worker \d g1 \(pid \d+\) is ready")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready")
        assert get(daemon).status == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert daemon.count("master has failed") == 0
