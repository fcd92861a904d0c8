"""What the master has from the system and gives back to it: user, pidfile, inherited sockets, the place of PID 1."""

import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, alive, title, wait_until
from tests.support.probe import source

from .test_master_lifecycle import get

NOBODY = 65534

# The pidfile


def test_the_pidfile_is_there_while_it_serves_and_refuses_a_second_master(tmp_path: Path) -> None:
    pidfile = tmp_path / "serverd.pid"
    with Daemon(tmp_path, app=source(), config={"process": {"pidfile": "serverd.pid"}}) as daemon:
        daemon.wait_ready()
        assert pidfile.read_text() == f"{daemon.pid}\n"
        command = [sys.executable, "-m", "serverd", "-c", str(daemon.config_file)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert second.returncode == 2
        assert f"{pidfile} is held by a running serverd (pid {daemon.pid})" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        assert pidfile.read_text() == f"{daemon.pid}\n"
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert not pidfile.exists()


def test_a_pidfile_of_a_killed_master_is_taken_over_whatever_it_says(tmp_path: Path) -> None:
    pidfile = tmp_path / "serverd.pid"
    config = {"process": {"pidfile": "serverd.pid"}}
    with Daemon(tmp_path, app=source(), config=config, start=False) as daemon:
        pidfile.write_text(f"{os.getpid()}\nand more that nobody wrote for us\n")  # alive, and no serverd
        daemon.start()
        daemon.wait_ready()
        assert pidfile.read_text() == f"{daemon.pid}\n"
        workers = daemon.workers()
        daemon.signal(signal.SIGKILL)
        daemon.wait_exit()
        assert pidfile.exists()
        with pidfile.open() as file:  # children do not hold the lock, even while they live on
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        wait_until(lambda: not any(map(alive, workers)), "the children are gone")


def test_a_pidfile_that_cannot_be_written_is_one_line_and_status_2(tmp_path: Path) -> None:
    with Daemon(tmp_path, config={"process": {"pidfile": "none/serverd.pid"}}) as daemon:
        assert daemon.wait_exit() == 2
        assert len(daemon.lines) == 1
        daemon.wait_for_line(f"the folder {tmp_path}/none does not exist; create it")


# Inherited sockets

PASS_ON = """
import fcntl, os, sys
numbers, names, *command = sys.argv[1:]
fds = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers.split(",")]
for number in numbers.split(","):
    os.close(int(number))
for position, fd in enumerate(fds):
    os.dup2(fd, 3 + position)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execvp(command[0], command)
"""


def test_sockets_by_name_from_the_service_manager_survive_a_reload(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as more:
        serverd = [sys.executable, "-m", "serverd", "-c", str(tmp_path / "server.yaml")]
        fds = (web.fileno(), more.fileno())
        argv = [sys.executable, "-c", PASS_ON, ",".join(map(str, fds)), "web:more", *serverd]
        config = {"listen": ["systemd:web"]}
        with Daemon(tmp_path, app=source(), config=config, argv=argv, pass_fds=fds) as daemon:
            daemon.wait_ready()
            assert daemon.port == web.getsockname()[1]
            assert get(daemon).status == 200
            (worker,) = daemon.workers()
            inode = f"socket:[{os.fstat(more.fileno()).st_ino}]"
            held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{worker}/fd")}
            assert inode not in held, "nobody has asked for it yet"
            daemon.write_config({"listen": ["systemd:web", "systemd:more"]})
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready")
            with RawClient(more.getsockname()) as client:
                assert client.get("/").status == 200
            assert get(daemon).status == 200


def test_a_socket_by_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        config = {"listen": [f"fd://{passed.fileno()}"]}
        with Daemon(tmp_path, app=source(), config=config, pass_fds=[passed.fileno()]) as daemon:
            daemon.wait_ready()
            assert daemon.port == passed.getsockname()[1]
            assert get(daemon).status == 200


def test_a_number_that_is_no_socket_is_one_line_and_status_2(tmp_path: Path) -> None:
    with Daemon(tmp_path, config={"listen": ["fd://77"]}) as daemon:
        assert daemon.wait_exit() == 2
        assert len(daemon.lines) == 1
        daemon.wait_for_line("fd://77: descriptor 77 is not open; whoever starts serverd must pass it")


# Another user


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="serverd-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# In a mount namespace of its own, makes the interpreter readable for everybody when it stands in a private folder (the
# home of root, for instance), by putting an empty folder in the private one's place and the interpreter back into it.
OPEN_UP = """
private=$1; interpreter=$2; held=$3; shift 3
mount --bind "$interpreter" "$held"
mount -t tmpfs -o mode=755 none "$private"
mkdir -p "$interpreter"
mount --bind "$held" "$interpreter"
exec "$@"
"""


def for_everybody(command: list[str], held: Path) -> list[str]:
    """`command`, so that `nobody` can run this interpreter too."""
    probe = [sys.executable, "-c", "import asyncio, json"]
    try:
        done = subprocess.run(
            probe, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False
        )
        if done.returncode == 0:
            return command
    except OSError:
        pass
    interpreter = Path(sys.base_prefix).resolve()
    private = [folder for folder in reversed(interpreter.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    if not private or shutil.which("unshare") is None:
        pytest.skip("another user cannot run this interpreter")
    script = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", OPEN_UP, "sh"]
    done = subprocess.run(
        [*script, str(private[0]), str(interpreter), str(held), "true"], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"another user cannot run this interpreter: {done.stderr.decode().strip()}")
    return [*script, str(private[0]), str(interpreter), str(held), *command]


@pytest.mark.root
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_children_are_somebody_else_for_good_and_the_master_is_not(
    open_folder: Path, start_method: str
) -> None:
    (open_folder / "held").mkdir()
    work = open_folder / "work"
    work.mkdir()
    config = {
        "listen": ["127.0.0.1:0", "unix:run.sock"],
        "workers": {"start_method": start_method},
        "process": {"user": "nobody", "umask": "027"},
    }
    argv = for_everybody(
        [sys.executable, "-m", "serverd", "-c", str(work / "server.yaml")], open_folder / "held"
    )
    with Daemon(work, app=source(), config=config, argv=argv) as daemon:
        daemon.wait_ready()
        group = os.stat(work / "run.sock").st_gid
        ids = get(daemon, "/ids").body.decode()
        assert ids == f"{(NOBODY,) * 3} {(group,) * 3} [{group}] 027"
        assert os.stat(work / "run.sock").st_uid == NOBODY
        assert stat.S_IMODE(os.stat(work / "run.sock").st_mode) == 0o750
        assert os.stat(f"/proc/{daemon.pid}").st_uid == 0
        (worker,) = daemon.workers()
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines()
        )
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        os.kill(worker, signal.SIGKILL)
        daemon.wait_for_line(" info .*is ready, in")
        assert get(daemon, "/ids").body.decode() == ids, "the one that replaces it too"


@pytest.mark.root
def test_a_user_that_cannot_be_had_after_a_reload_changes_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        daemon.write_config({"process": {"user": "nobody-of-this-name"}})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("process.user: .*nobody-of-this-name")
        daemon.wait_for_line("reload failed: still serving generation 1")


@pytest.mark.root
def test_without_root_another_user_is_refused_in_one_line(open_folder: Path) -> None:
    config = {"process": {"user": "root"}}
    (open_folder / "held").mkdir()
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    serverd = [sys.executable, "-m", "serverd", "-c", str(open_folder / "server.yaml")]
    argv = for_everybody([*as_nobody, *serverd], open_folder / "held")
    with Daemon(open_folder, app=source(), config=config, argv=argv) as daemon:
        assert daemon.wait_exit() == 2
        assert len(daemon.lines) == 1
        daemon.wait_for_line("process.user: .*root")


# PID 1


@pytest.mark.root
def test_pid_1_buries_the_dead_of_others(tmp_path: Path) -> None:
    """In a container nobody else would, and every process that an application leaves behind would stay a zombie."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no new PID namespace can be made here")
    argv = [*inside, sys.executable, "-m", "serverd", "-c", str(tmp_path / "server.yaml")]
    with Daemon(tmp_path, app=source(), argv=argv, args=["--reload"]) as daemon:
        daemon.wait_ready()
        (master,) = daemon.children()
        assert "master" in title(master)
        for _ in range(3):
            orphan = int(get(daemon, "/orphan").body)
            daemon.wait_for_line(rf"buried process {orphan}, which exited with status 0")
        (worker,) = _children(master)
        os.kill(worker, signal.SIGKILL)
        daemon.wait_for_line(r"worker 0 g1 \(pid \d+\) was killed by SIGKILL")
        daemon.wait_for_line(" info .*is ready, in")
        assert all(map(alive, _children(master))), "no zombie is left"
        os.kill(master, signal.SIGUSR2)
        daemon.wait_for_line(
            "upgrade refused: this master is process 1, and a container ends with its process 1"
        )
        os.kill(master, signal.SIGTERM)
        assert daemon.wait_exit() == 0


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# The one thread


def test_a_master_with_a_second_thread_refuses_to_fork(tmp_path: Path) -> None:
    code = """
import sys, threading
from serverd.supervisor.cli import main
threading.Thread(target=threading.Event().wait, daemon=True, name="uninvited").start()
sys.exit(main())
"""
    argv = [sys.executable, "-c", code, "-c", str(tmp_path / "server.yaml")]
    with Daemon(tmp_path, app=source(), argv=argv) as daemon:
        assert daemon.wait_exit() == 1
        daemon.wait_for_line(
            r"the master must have one thread when it forks, and has 2 \(MainThread, uninvited\)"
        )
