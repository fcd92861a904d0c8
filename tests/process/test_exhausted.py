"""When the machine has no more to give: a full disk under the log, no descriptors for the master or for a child."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.client import RawClient
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


OPENS = """
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    body = b"ok"
    if scope["path"] == "/open":
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as exc:
            body = exc.strerror.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


def cpu_seconds(pid: int) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_child_without_descriptors_rests_serves_what_it_has_and_recovers(tmp_path: Path, mode: str) -> None:
    config = {"workers": {"processes": 1, "mode": mode}}
    with Daemon(tmp_path, app=OPENS, config=config) as daemon, ExitStack() as stack:
        daemon.wait_ready()
        (pid,) = daemon.workers()
        old = [stack.enter_context(RawClient(("127.0.0.1", daemon.port))) for _ in range(4)]
        assert [client.get().status for client in old] == [200] * 4
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
        new = [stack.enter_context(RawClient(("127.0.0.1", daemon.port))) for _ in range(4)]
        for client in new:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        daemon.wait_for_line(r"accept failed: \[Errno 24\] Too many open files; .*LimitNOFILE")
        used, began = cpu_seconds(pid), time.monotonic()
        new[0].sock.settimeout(1)
        with pytest.raises(TimeoutError):  # what it does in this time is to wait, and to try again
            new[0].response()
        assert (cpu_seconds(pid) - used) / (time.monotonic() - began) < 0.2
        assert daemon.count("accept failed") == 1, "which it says now and then"
        assert [client.get().body for client in old] == [b"ok"] * 4
        assert old[0].get("/open").body == b"Too many open files", "the application has none either"
        assert old[0].get().body == b"ok"
        freed = time.monotonic()
        for client in old:
            client.sock.close()
        for client in new:
            client.sock.settimeout(20)
            assert client.response().status == 200
        assert time.monotonic() - freed < 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert new[0].get("/open").body == b"ok"


def test_a_low_limit_of_descriptors_is_said_once_and_idle_clients_make_room(tmp_path: Path) -> None:
    """A child that may open 128 files takes 96 connections: the 97th is served in place of the longest idle one."""
    serve = f'ulimit -n 128; exec "{sys.executable}" -m serverd -c "{tmp_path}/server.yaml"'
    with Daemon(tmp_path, app=OPENS, argv=["sh", "-c", serve]) as daemon, ExitStack() as stack:
        daemon.wait_ready()
        for _ in range(150):
            client = stack.enter_context(RawClient(("127.0.0.1", daemon.port)))
            assert client.get("/open").body == b"ok"
        assert daemon.count("accept failed") == 0
        said = (
            "limits.connections is 10000, and a process may open 128 files: each child takes 96 connections"
        )
        assert daemon.count(said) == 1
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready")
        assert daemon.count(said) == 1
