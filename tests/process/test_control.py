"""The commands that speak to a running serverd, against real daemons: what they print, and with which exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serverd.supervisor import control_lines, remote
from serverd.supervisor.remote import RemoteError
from tests.support.client import RawClient
from tests.support.daemon import PATIENCE, Daemon, alive, wait_until
from tests.support.probe import source

from .test_master_lifecycle import InFlight, get


def command(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `serverd WORDS -c server.yaml`."""
    argv = [sys.executable, "-m", "serverd", *words, "-c", str(daemon.config_file)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, cwd="/")


def control(daemon: Daemon) -> list[Path]:
    return [daemon.folder / "server.control"]


def status(daemon: Daemon) -> dict[str, object]:
    found = remote.ask_once(control(daemon), "status")["status"]
    assert isinstance(found, dict)
    return found


def hold(daemon: Daemon, target: str) -> socket.socket:
    """A request that is on its way, and will not be answered soon."""
    sock = socket.create_connection(("127.0.0.1", daemon.port))
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


def test_status_tells_what_is_going_on(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"workers": {"processes": 2, "threads": 3}}) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        get(daemon)
        wait_until(lambda: status(daemon)["totals"]["requests"] == 1, "the request is counted")  # type: ignore[index]
        said = command(daemon, "status")
        assert (said.returncode, said.stderr) == (0, "")
        first, second, third, fourth, fifth, empty, headings, *rows = said.stdout.splitlines()
        assert re.fullmatch(rf"serverd \S+: demo:app, {re.escape(str(daemon.config_file))}", first)
        assert re.fullmatch(
            rf"serving, generation 1; up [\d.]+ s, pid {daemon.pid}, Python 3\S+, mode sync", second
        )
        assert third == f"listening on http://127.0.0.1:{daemon.port}"
        assert fourth == "reloads: none yet"
        assert re.fullmatch(r"requests: 1 \(2xx 1\); half took ≤ \S+ m?s, 99 % ≤ \S+ m?s", fifth)
        assert empty == ""
        assert headings.split() == [
            *("child", "pid", "state", "age", "busy", "requests", "memory", "oldest", "request")
        ]
        assert len(rows) == 2
        assert {int(row.split()[3]) for row in rows} == set(daemon.workers())
        (busy,) = [row for row in rows if "/wait" in row]
        assert re.search(r" ready +[\d.]+ s +1/3 +\d +\d+ MiB +[\d.]+ s GET /wait$", busy)
        plain = json.loads(command(daemon, "status", "--json").stdout)
        assert plain["pid"] == daemon.pid
        assert sum(child["states"]["running"] for child in plain["children"]) == 1
        waiting.release()
        assert waiting.result() is not None


def test_reload_waits_until_the_new_generation_serves(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1")) as daemon:
        daemon.wait_ready()
        daemon.write_app(source("version two"))
        said = command(daemon, "reload", "--wait")
        assert (said.returncode, said.stderr) == (0, "")
        assert re.fullmatch(r"generation 2 ready in \d+\.\d\d s: 1 process × 2 threads\n", said.stdout)
        # The old child may take one more request before it has read what the master has told it.
        wait_until(lambda: get(daemon).body.startswith(b"version two"), "the new code answers")
        daemon.wait_for_line(r"reload: serverd reload \(pid \d+, uid \d+\)")
        assert "reloads: 1 done, 0 failed; the last done" in command(daemon, "status").stdout


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda daemon: daemon.write_app("app = (\n"), r"app: importing demo failed: SyntaxError: .*"),
        (
            lambda daemon: daemon.write_app("raise RuntimeError('a\\x1b[31m\\nb')\n"),
            r"app: importing demo failed: RuntimeError: a\\x1b\[31m",
        ),
        (lambda daemon: daemon.write_config({"workers": {"threads": "x"}}), r".*:\d+:\d+: workers.threads: .*"),
        (lambda daemon: daemon.write_config({"listen": ["unix:no/x.sock"]}), r"listen: .*no does not exist; create .*"),
        (lambda daemon: daemon.write_config({"control": "no/x.sock"}), r"control: .*no does not exist; create .*"),
    ],
)  # fmt: skip
def test_a_reload_that_fails_says_why_and_changes_nothing(
    tmp_path: Path, break_it: object, reason: str
) -> None:
    with Daemon(tmp_path, app=source("v1")) as daemon:
        daemon.wait_ready()
        before = daemon.workers()
        break_it(daemon)  # type: ignore[operator]
        said = command(daemon, "reload", "--wait")
        assert (said.returncode, said.stdout) == (1, "")
        assert re.fullmatch(rf"serverd reload: {reason}\n", said.stderr)
        assert get(daemon).body.startswith(b"v1 ")
        assert daemon.workers() == before
        line = next(line for line in command(daemon, "status").stdout.splitlines() if "reloads" in line)
        assert line.startswith("reloads: 0 done, 1 failed; the last failed ")


def test_who_asks_while_another_reload_boots_hears_of_his_own(tmp_path: Path) -> None:
    top = "import pathlib, time\npathlib.Path('read').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)"
    with Daemon(tmp_path, app=source("v1")) as daemon:
        daemon.wait_ready()
        daemon.write_app(source("version two", top))
        daemon.signal(signal.SIGHUP)
        wait_until((tmp_path / "read").exists, "generation 2 imports what is to be replaced")
        assert status(daemon)["booting"] == 2
        with remote.connect(control(daemon)) as connection:
            answers = connection.ask("reload", wait=True)
            assert next(answers)["event"] == "taken"
            daemon.write_app("app = (\n")
            (tmp_path / "go").touch()
            with pytest.raises(RemoteError, match="SyntaxError"):
                next(answers)
        wait_until(lambda: get(daemon).body.startswith(b"version two"), "what booted then serves")


def test_without_wait_it_returns_when_the_order_is_taken(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1")) as daemon:
        daemon.wait_ready()
        daemon.write_app("app = (\n")
        assert command(daemon, "reload").returncode == 0
        daemon.wait_for_line("reload failed: still serving generation 1")


def test_scale(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        assert command(daemon, "scale", "+2").stdout == "3 children wanted\n"
        wait_until(lambda: len(daemon.workers()) == 3, "there are three")
        assert command(daemon, "scale", "-1").stdout == "2 children wanted\n"
        assert command(daemon, "scale", "1").stdout == "1 child wanted\n"
        wait_until(lambda: len(daemon.workers()) == 1, "there is one")
        said = command(daemon, "scale", "some")
        assert said.returncode == 2
        assert said.stderr.splitlines()[-1].endswith('expected +N, -N or N, such as +1, -1 or 4, got "some"')
        with pytest.raises(RemoteError, match='scale: "to": expected a whole number from 1 to 1024, got 0'):
            remote.ask_once(control(daemon), "scale", to=0)
        said = command(daemon, "scale", "0")
        assert said.returncode == 2
        said = command(daemon, "scale", "+1024")
        assert said.returncode == 1
        assert "1 and 1024 more would be 1025 children, and 1024 are the most" in said.stderr
        assert get(daemon).status == 200


def test_stop_returns_when_the_daemon_is_gone(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        argv = [sys.executable, "-m", "serverd", "stop", "-c", str(daemon.config_file)]
        with subprocess.Popen(argv) as stopping:
            daemon.wait_for_line(r"serverd stop \(pid \d+, uid \d+\)")
            assert status(daemon)["state"] == "stopping", "it can still be asked"
            with pytest.raises(RemoteError, match="serverd is stopping"):
                remote.ask_once(control(daemon), "reload")
            assert stopping.poll() is None
            waiting.release()
            assert stopping.wait(PATIENCE) == 0
        assert daemon.wait_exit() == 0
        assert waiting.result() is not None, "the request was finished"
        assert not (tmp_path / "server.control").exists()
        said = command(daemon, "status")
        assert said.returncode == 1
        assert said.stderr.startswith(f"serverd status: nobody listens at {tmp_path}/server.control; is")


def test_stop_fast_cuts_off_what_is_in_flight(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        assert command(daemon, "stop", "--fast", "--no-wait").returncode == 0
        assert daemon.wait_exit() == 0
        assert waiting.result() is None
        daemon.wait_for_line(r"cut off by a stop at once: GET /wait")


STUCK = """
import asyncio, re, threading, time

async def wait_here():
    await asyncio.sleep(60)

def in_a_call():
    time.sleep(60)

def in_c():
    re.match(r"(a+)+$", "a" * 31 + "b")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/call":
        in_a_call()
    if scope["path"] == "/c":
        in_c()
    if scope["path"] == "/await":
        await wait_here()
"""


def test_stacks_shows_where_every_request_is(tmp_path: Path) -> None:
    config = {"workers": {"threads": 3}, "timeouts": {"graceful": "1s"}}
    with Daemon(tmp_path, app=STUCK, config=config) as daemon:
        daemon.wait_ready()
        targets = ("/call", "/c", "/await")  # the last one waits on the thread that is left
        clients = []
        for number, target in enumerate(targets, 1):
            clients.append(hold(daemon, target))
            wait_until(lambda: len(_under_way(daemon)) == number, f"{target} is under way")  # noqa: B023 - called here
        began = time.monotonic()
        said = command(daemon, "stacks")
        assert time.monotonic() - began < 5, "the long call in C holds nobody up"
        assert said.returncode == 0
        (child,) = re.findall(r"^=== (worker 0 g1 \(pid \d+\)) ===$", said.stdout, re.MULTILINE)
        assert child.endswith(f"{daemon.workers()[0]})")
        threads = said.stdout.split("\nthread ")
        (call,) = [text for text in threads if "/call" in text]
        assert re.match(r"serverd-worker-\d \(\d+\) holds GET /call \(\d+\.\d s\)\n", call)
        assert re.search(r"demo.py:\d+ in in_a_call\n      time.sleep\(60\)\n", call)
        (in_c,) = [text for text in threads if "GET /c (" in text]
        assert re.search(r"demo.py:\d+ in in_c\n", in_c)
        (waits,) = [text for text in threads if "/await" in text]
        assert re.search(r"waits in its event loop: GET /await \(\d+\.\d s\)\n", waits)
        assert re.search(r"demo.py:\d+ in wait_here\n        await asyncio.sleep\(60\)\n", waits)
        assert any(text.startswith("MainThread") for text in threads)
        assert any(text.startswith("serverd-home") for text in threads)
        for client in clients:
            client.close()


def test_stacks_of_a_child_that_hangs_in_its_import(tmp_path: Path) -> None:
    """Its main thread answers nothing: the thread is asked without its help."""
    top = "import pathlib, time\nwhile pathlib.Path('hang').exists(): time.sleep(0.01)"
    with Daemon(tmp_path, app=source("v1", top)) as daemon:
        daemon.wait_ready()
        (tmp_path / "hang").touch()
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: len(daemon.workers()) == 2, "the next one boots")
        said = command(daemon, "stacks").stdout
        old, new = re.split(r"^=== worker 0 g2 .*$", said, flags=re.MULTILINE)
        assert "MainThread" in old
        assert "its main thread does not answer; what its threads have written themselves:" in new
        assert re.search(r"demo.py:\d+ in <module>\n", new)
        (tmp_path / "hang").unlink()
        daemon.wait_for_line("generation 2 ready")


def _under_way(daemon: Daemon) -> set[str]:
    children = status(daemon)["children"]
    return {
        str(item["path"])
        for child in children  # type: ignore[attr-defined]
        for item in (*child["threads"], *child["waiting"])
        if "seconds" in item
    }


def test_the_socket_moves_with_the_configuration(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        with remote.connect(control(daemon)) as connection:
            daemon.write_config({"control": "moved.sock"})
            answers = list(connection.ask("reload", patience=PATIENCE, wait=True))
            assert answers[-1]["ok"] is True
        assert not (tmp_path / "server.control").exists()
        assert remote.ask_once([tmp_path / "moved.sock"], "status")["status"]["generation"] == 2
        assert command(daemon, "stop").returncode == 0
        assert not (tmp_path / "moved.sock").exists()


def test_a_configuration_that_has_become_wrong_does_not_hide_the_daemon(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        daemon.write_config({"workers": {"threads": "lots"}})
        assert command(daemon, "status").returncode == 0
        daemon.signal(signal.SIGTERM)
        daemon.wait_exit()
        said = command(daemon, "status")
        assert said.returncode == 2
        assert "workers.threads: expected a whole number" in said.stderr


def test_a_service_has_its_socket_in_its_runtime_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with Daemon(tmp_path, app=source(), env={"RUNTIME_DIRECTORY": str(tmp_path / "run")}) as daemon:
        daemon.wait_ready()
        (path,) = (tmp_path / "run").iterdir()
        assert remote.ask_once([path], "status")["status"]["state"] == "serving"


def test_what_is_no_control_socket_is_said_to_be_none(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"listen": ["unix:run.sock"]}) as daemon:
        daemon.wait_ready()
        with pytest.raises(
            RemoteError, match=r"^what answers at .*/run.sock is no serverd of this version \("
        ):
            remote.ask_once([tmp_path / "run.sock"], "status")
        (tmp_path / "file").write_text("")
        with pytest.raises(RemoteError, match=r"^nobody listens at .*/file; is serverd running\?"):
            remote.ask_once([tmp_path / "file"], "status")


def test_without_a_place_it_serves_without(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        second = Daemon(tmp_path, app=source())
        with second:
            second.wait_for_line("no control socket: .* is in use by another process")
            second.wait_ready()
            assert get(second).status == 200
        assert status(daemon)["pid"] == daemon.pid, "the first one has it still"


def test_what_clients_do_wrong_harms_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        path = os.fspath(control(daemon)[0])
        clients = []
        for data in (
            b"",
            b"{",
            b"\xff" * 1000,
            b"x" * 200_000,
            b"[" * 60_000 + b"\n",
            control_lines.request("status"),
        ):
            for _ in range(4):
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(PATIENCE)
                sock.connect(path)
                try:
                    sock.sendall(data)
                except BrokenPipeError, ConnectionResetError:
                    pass
                clients.append(sock)
        for sock in clients[::2]:
            sock.close()
        assert status(daemon)["state"] == "serving"
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.get("/").status == 200
        assert command(daemon, "reload", "--wait").returncode == 0
        for sock in clients[1::2]:
            sock.close()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert not [line for line in daemon.lines if "Traceback" in line]


def test_top_shows_it_live_and_gives_the_terminal_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        argv = [sys.executable, "-m", "serverd", "top", "--interval", "0.1", "-c", str(daemon.config_file)]
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
        ) as top:
            os.close(theirs)
            try:
                screen = _read_until(ours, b"GET /wait", b"requests/s")
                assert screen.startswith(b"\x1b[?1049h")
                os.write(ours, b"q")
                _read_until(ours, b"\x1b[?1049l")
                assert top.wait(PATIENCE) == 0
            finally:
                top.kill()
        os.close(ours)
        waiting.release()
        said = command(daemon, "top")
        assert said.returncode == 0
        assert said.stdout.startswith("serverd "), "with no terminal it is printed once"


def _read_until(fd: int, *wanted: bytes) -> bytes:
    data = b""
    deadline = time.monotonic() + PATIENCE
    while not all(piece in data for piece in wanted):
        assert select.select([fd], [], [], deadline - time.monotonic())[0], f"only {data[-2000:]!r}"
        data += os.read(fd, 65536)
    return data


def test_a_master_that_dies_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        workers = daemon.workers()
        with remote.connect(control(daemon)) as connection:
            daemon.signal(signal.SIGKILL)
            daemon.wait_exit()
            with pytest.raises(RemoteError, match="has ended, or closed the connection, before it answered"):
                list(connection.ask("status"))
        wait_until(lambda: not any(map(alive, workers)), "its children are gone")
        with pytest.raises(RemoteError, match="nobody listens at"):
            status(daemon)
        mark = daemon.mark()
        daemon.start()
        daemon.wait_for_line("generation 1 ready", after=mark)
        assert status(daemon)["pid"] == daemon.pid
