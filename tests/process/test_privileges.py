"""What a worker of a real daemon is and has, for an attacker who has got into the application: no way back to root, no
descriptor of the master's, no way to its control socket, and no terminal of root's.

Most of it only root can try; the steps themselves are in ../test_privileges.py.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..support.certificates import Authority
from ..support.daemon import Daemon, title, wait_until
from .test_master_lifecycle import get
from .test_master_system import NOBODY, for_everybody, open_folder

__all__ = ["open_folder"]  # a fixture

# Tries everything that would make it root again, or reach what is the master's, and tells what came of it.
APP = """
import fcntl, json, os, signal, socket, subprocess, sys, termios
from pathlib import Path

HERE = Path(__file__).parent

def held():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = [os.readlink(f"/proc/self/fd/{name}"), os.get_inheritable(int(name))]
        except OSError:
            pass
    return found

AT_IMPORT = held()
# What a program that it starts has: shell's own three, and the folder that is listed.
BELOW = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True).stdout

def attempt(call):
    try:
        return repr(call())
    except OSError as error:
        return type(error).__name__

def control():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(HERE / "control"))
        sock.sendall(b'{"v": 1, "do": "stop"}\\n')
        return sock.recv(1000).decode()

WAYS = {
    "setuid": lambda: os.setuid(0), "seteuid": lambda: os.seteuid(0), "setreuid": lambda: os.setreuid(0, 0),
    "setresuid": lambda: os.setresuid(-1, 0, -1), "saved": lambda: os.setresuid(-1, -1, 0),
    "setgid": lambda: os.setgid(0), "setegid": lambda: os.setegid(0), "setresgid": lambda: os.setresgid(0, 0, 0),
    "setgroups": lambda: os.setgroups([0]), "initgroups": lambda: os.initgroups("root", 0),
    "shadow": lambda: open("/etc/shadow").read(), "chroot": lambda: os.chroot("/"),
    "kill": lambda: os.kill(os.getppid(), signal.SIGTERM), "priority": lambda: os.nice(-5),
    "memory": lambda: open(f"/proc/{os.getppid()}/mem", "rb"), "pidfile": lambda: open(HERE / "run.pid", "r+"),
    "bind": lambda: socket.create_server(("127.0.0.1", 1)), "terminal": lambda: open("/dev/tty"),
}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    told = {
        "pid": os.getpid(),
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "status": dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines()),
        "import": AT_IMPORT, "serving": held(), "below": BELOW,
    }
    if scope["path"] == "/ways":
        told["ways"] = {name: attempt(way) for name, way in {**WAYS, "control": control}.items()}
        told["sudo"] = subprocess.run([HERE / "id", "-u"], capture_output=True, text=True).stdout.strip()
    answer = json.dumps(told).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})
"""
CONFIG: dict[str, Any] = {
    "listen": ["127.0.0.1:0", "unix:run.sock"],
    "control": "control",
    "admin": {"listen": "unix:admin.sock"},
    "process": {"pidfile": "run.pid"},
}
STARTS = {"fork": {}, "spawn": {"start_method": "spawn"}, "preload": {"preload": True}}
NOTHING = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16)


@contextmanager
def as_nobody(folder: Path, **more: Any) -> Iterator[Daemon]:
    """A daemon of root's, whose children are nobody's."""
    for name in ("held", "work"):
        (folder / name).mkdir()
    work = folder / "work"
    shutil.copy("/usr/bin/id", work / "id")
    (work / "id").chmod(0o4755)  # a program that makes whoever runs it root
    terminal = more.pop("terminal", False)
    config = {**CONFIG, **more, "process": {**CONFIG["process"], "user": "nobody", "umask": "007"}}
    serverd = [sys.executable, "-m", "serverd", "-c", str(work / "server.yaml")]
    argv = for_everybody(serverd, folder / "held")
    with Daemon(work, app=APP, config=config, argv=argv, terminal=terminal) as daemon:
        yield daemon.wait_ready()


def facts(daemon: Daemon, path: str = "/") -> dict[str, Any]:
    return json.loads(get(daemon, path).body)  # type: ignore[no-any-return]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def check_identity(found: dict[str, str], group: int) -> None:
    """That a process, by what the kernel says of it, is nobody and nothing else."""
    assert found["Uid"].split() == [str(NOBODY)] * 4
    assert found["Gid"].split() == [str(group)] * 4
    assert found["Groups"].split() in ([str(group)], [])
    assert {name: found[name].strip() for name in NOTHING} == NOTHING
    assert found["NoNewPrivs"] == "1"


@pytest.mark.root
@pytest.mark.parametrize("start", STARTS)
def test_there_is_no_way_back(open_folder: Path, start: str) -> None:
    with as_nobody(open_folder, workers=STARTS[start]) as daemon:
        told = facts(daemon, "/ways")
        group = os.stat(daemon.folder / "run.sock").st_gid
        assert group != 0
        check_identity(told["status"], group)
        allowed = {name: came for name, came in told["ways"].items() if "Error" not in came}
        assert not allowed
        assert told["sudo"] == str(NOBODY), "a program that is set-user-ID makes it nothing else"

        for pid in daemon.children():  # the admin process and the template too
            check_identity(status_of(pid), group)
        assert status_of(daemon.pid)["Uid"].split() == ["0"] * 4
        if start == "fork":  # one that replaces another, after a crash and after an upgrade
            mark = daemon.mark()
            daemon.signal(signal.SIGUSR2)
            daemon.wait_for_line("the old master leaves", after=mark)
            again = facts(daemon)
            assert again["pid"] != told["pid"]
            check_identity(again["status"], group)
            os.kill(int((daemon.folder / "run.pid").read_text()), signal.SIGTERM)
            wait_until(lambda: not (daemon.folder / "run.pid").exists(), "the new master has gone")


@pytest.mark.root
def test_files_belong_to_those_who_need_them(open_folder: Path) -> None:
    with as_nobody(open_folder) as daemon:
        group = os.stat(daemon.folder / "run.sock").st_gid
        found = {
            name: (file.st_uid, file.st_gid == group, oct(stat.S_IMODE(file.st_mode)))
            for name in ("run.sock", "admin.sock", "control", "run.pid")
            if (file := os.lstat(daemon.folder / name))
        }
        assert found == {
            "run.sock": (NOBODY, True, "0o770"),
            "admin.sock": (NOBODY, True, "0o770"),
            "control": (0, False, "0o600"),
            "run.pid": (0, False, "0o644"),
        }
        # Another user finds no way in, not even where the folder lets everybody try.
        os.chmod(daemon.folder / "control", 0o666)
        argv = [*daemon._process.args[:-2], "status", "--control", str(daemon.folder / "control")]  # type: ignore[union-attr, index]
        setpriv = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        at = argv.index(sys.executable)
        done = subprocess.run([*argv[:at], *setpriv, *argv[at:]], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr == (
            f"serverd status: only root and user 0 may control this serverd, and you are user {NOBODY}\n"
        )
        daemon.wait_for_line(rf"control: refused pid \d+ of user {NOBODY}")


@pytest.mark.parametrize("start", STARTS)
def test_a_worker_has_what_it_needs_and_passes_nothing_on(tmp_path: Path, start: str) -> None:
    with Daemon(tmp_path, app=APP, config={**CONFIG, "workers": STARTS[start]}) as daemon:
        daemon.wait_ready()
        told = facts(daemon)
        for moment in ("import", "serving"):
            held = {int(fd): (link, passed) for fd, (link, passed) in told[moment].items() if int(fd) > 2}
            assert not [link for link, passed in held.values() if passed], "an exec would pass it on"
            memory = [link for link, _ in held.values() if "memfd" in link]
            if start == "preload" and moment == "import":  # the template's
                assert not memory
            else:
                assert all("serverd-last-words" in link or "serverd-stacks" in link for link in memory)
            assert not [link for link, _ in held.values() if "run.pid" in link or "pidfd" in link]
        # Two that listen, and the end of its channel; loops have pairs of their own by the time it serves.
        mine = {link for link, _ in told["import"].values() if link.startswith("socket:")}
        assert len(mine) == 3
        master = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{daemon.pid}/fd")}
        assert len(mine & master) == 2
        listed = re.findall(r" (\d+) -> (\S+)", told["below"])
        assert [link for fd, link in listed if int(fd) > 2 and not link.startswith("/proc/")] == []


@pytest.mark.root
def test_on_a_terminal_of_roots_a_worker_cannot_type(open_folder: Path) -> None:
    """Else it could type a command for root's shell there (TIOCSTI)."""
    with as_nobody(open_folder, terminal=True) as daemon:
        (worker,) = daemon.workers()
        terminals = {
            pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4])
            for pid in (daemon.pid, worker)
        }
        assert terminals[daemon.pid] != 0
        assert terminals[worker] == 0
        daemon.press("\x03")  # reaches the master alone, which sees to its children
        assert daemon.wait_exit() == 0


@pytest.mark.root
def test_a_key_that_only_root_may_read_is_named_in_one_line(open_folder: Path) -> None:
    """The children read it, as who they are (docs/tls.md has two ways to let them)."""
    files = Authority(open_folder).issue("localhost")
    for file, mode in ((files.cert, 0o644), (files.key, 0o600)):
        file.chmod(mode)
    config = {
        "tls": {"cert": str(files.cert), "key": str(files.key)},
        "process": {"user": "nobody"},
    }
    (open_folder / "held").mkdir()
    serverd = [sys.executable, "-m", "serverd", "-c", str(open_folder / "server.yaml")]
    argv = for_everybody(serverd, open_folder / "held")
    with Daemon(open_folder, app=APP, config=config, argv=argv) as daemon:
        assert daemon.wait_exit() == 3
        daemon.wait_for_line(r"worker 0 g1 cannot boot: .*tls\.key: may not be read by user nobody: /.*key")
        assert daemon.count("cannot boot") == 2
        assert daemon.count("Traceback") == 0


@pytest.mark.root
def test_a_check_is_made_by_the_user_of_the_application(open_folder: Path) -> None:
    """Who may write the application's code is not root for the moment in which root checks it."""
    files = Authority(open_folder).issue("localhost")
    for file, mode in ((files.cert, 0o644), (files.key, 0o600)):
        file.chmod(mode)
    (open_folder / "demo.py").write_text(
        "import os\nprint('imported by', os.getresuid(), os.getresgid())\ndef app(environ, start_response): ...\n"
    )
    (open_folder / "server.yaml").write_text(
        f"app: demo:app\nprocess: {{user: nobody}}\ntls: {{cert: {files.cert}, key: {files.key}}}\n"
    )
    (open_folder / "held").mkdir()
    serverd = [sys.executable, "-m", "serverd", "check", "-c", str(open_folder / "server.yaml")]
    argv = for_everybody(serverd, open_folder / "held")
    user = pwd.getpwnam("nobody")
    seen = []
    for _ in range(2):
        seen.append(subprocess.run(argv, capture_output=True, text=True, check=False))
        files.key.chmod(0o644)
    assert [done.returncode for done in seen] == [4, 0], seen
    assert "serverd check: tls.key: may not be read by user nobody" in seen[0].stderr
    assert "imported by" not in seen[0].stderr
    ids = (user.pw_uid,) * 3, (user.pw_gid,) * 3
    assert f"imported by {ids[0]} {ids[1]}" in seen[1].stderr


def test_nothing_of_the_environment_is_in_a_title(tmp_path: Path) -> None:
    with Daemon(
        tmp_path, config={**CONFIG, "env": {"TOKEN": "hunter2"}, "reload": {"enabled": True}}
    ) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("watching")
        assert not [line for pid in (daemon.pid, *daemon.children()) if "hunter2" in (line := title(pid))]
        assert "hunter2" not in Path(f"/proc/{daemon.pid}/environ").read_text()
        assert "hunter2" not in daemon.log


def test_a_socket_in_a_folder_of_everybody_is_there_for_its_umask(tmp_path: Path) -> None:
    config = {"listen": ["unix:run.sock"], "process": {"umask": "077"}}
    with Daemon(tmp_path, config=config) as daemon:
        daemon.wait_ready()
        assert stat.S_IMODE(os.lstat(tmp_path / "run.sock").st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "run.sock"))
