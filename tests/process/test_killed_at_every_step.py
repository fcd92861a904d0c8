"""SIGKILL at every step of a child's life: boot, reload and drain. What serves goes on, and the master says what was.

The application stops at the step that the file `pause` names, and writes its pid into `here`; the test kills it there.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, wait_until

from .test_master_lifecycle import get

APP = """
import os, time
from pathlib import Path

HERE = Path(__file__).parent
VERSION = {version!r}


def at(step):
    if (HERE / "pause").exists() and (HERE / "pause").read_text() == step + VERSION:
        (HERE / "writing").write_text(str(os.getpid()))
        (HERE / "writing").rename(HERE / "here")
        time.sleep(60)


at("import")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        at("startup")
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        at("shutdown")
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    at("request" + scope["path"])
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": VERSION.encode()}})
"""
OLD, NEW = APP.format(version="old"), APP.format(version="new")


def pause(folder: Path, step: str) -> None:
    (folder / "pause").write_text(step)


def kill_it_there(folder: Path) -> int:
    """SIGKILL for whoever has come to the step."""
    wait_until((folder / "here").exists, "a child has come to the step")
    pid = int((folder / "here").read_text())
    (folder / "pause").unlink()
    (folder / "here").unlink()
    os.kill(pid, signal.SIGKILL)
    return pid


def daemon_with(folder: Path, source: str = OLD, **workers: object) -> Daemon:
    config = {
        "workers": {"processes": 1, "threads": 2, **workers},
        "reload": {"warmup": ["/warmup"]},
        "timeouts": {"graceful": "10s"},
    }
    return Daemon(folder, app=source, config=config)


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("step", ["import", "startup", "request/warmup"])
def test_in_the_first_boot_the_daemon_ends_and_says_why(tmp_path: Path, step: str, preload: bool) -> None:
    pause(tmp_path, f"{step}old")
    with daemon_with(tmp_path, preload=preload) as daemon:
        pid = kill_it_there(tmp_path)
        daemon.wait_for_line(rf"\(pid {pid}\) was killed by SIGKILL")
        assert daemon.wait_exit() == 3
        daemon.wait_for_line("nothing to serve: generation 1 cannot boot")


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("step", ["import", "startup", "request/warmup"])
def test_in_a_reload_the_old_code_serves_on(tmp_path: Path, step: str, preload: bool) -> None:
    with daemon_with(tmp_path, preload=preload) as daemon:
        daemon.wait_ready()
        daemon.write_app(NEW)
        pause(tmp_path, f"{step}new")
        daemon.signal(signal.SIGHUP)
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.get().body == b"old"
            pid = kill_it_there(tmp_path)
            daemon.wait_for_line(rf"\(pid {pid}\) was killed by SIGKILL")
            daemon.wait_for_line("reload failed: still serving generation 1")
            assert client.get().body == b"old", "on the same connection"
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: get(daemon).body == b"new", "the next reload works")


@pytest.mark.parametrize("step", ["request/held", "shutdown"])
def test_in_a_drain_the_new_code_serves_on(tmp_path: Path, step: str) -> None:
    pause(tmp_path, f"{step}old")
    with daemon_with(tmp_path) as daemon, RawClient(("127.0.0.1", daemon.port)) as holder:
        daemon.wait_ready()
        if step == "request/held":
            holder.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until((tmp_path / "here").exists, "the request is held")
        daemon.write_app(NEW)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready")
        pid = kill_it_there(tmp_path)
        daemon.wait_for_line(rf"worker 0 g1 \(pid {pid}\) was killed by SIGKILL")
        wait_until(lambda: daemon.workers() != [] and pid not in daemon.workers(), "it is gone")
        assert get(daemon).body == b"new"
        assert daemon.count("a new one starts") == 0, "nobody follows one that was on its way out"


def test_while_it_serves_it_is_followed_by_another(tmp_path: Path) -> None:
    pause(tmp_path, "request/heldold")
    with daemon_with(tmp_path) as daemon, RawClient(("127.0.0.1", daemon.port)) as holder:
        daemon.wait_ready()
        holder.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        pid = kill_it_there(tmp_path)
        daemon.wait_for_line(rf"worker 0 g1 \(pid {pid}\) was killed by SIGKILL.*; a new one starts in 0.1 s")
        assert get(daemon).body == b"old", "who comes meanwhile waits in the backlog"
        with pytest.raises((EOFError, ConnectionError)):
            holder.response()


@pytest.mark.parametrize("step", ["request/held", "shutdown"])
def test_in_the_last_drain_the_daemon_ends(tmp_path: Path, step: str) -> None:
    pause(tmp_path, f"{step}old")
    with daemon_with(tmp_path) as daemon, RawClient(("127.0.0.1", daemon.port)) as holder:
        daemon.wait_ready()
        if step == "request/held":
            holder.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until((tmp_path / "here").exists, "the request is held")
        daemon.signal(signal.SIGTERM)
        kill_it_there(tmp_path)
        assert daemon.wait_exit() == 0
