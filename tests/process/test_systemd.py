"""The units and what serverd tells systemd: checked by systemd's own tools, under its socket activation, and booted.

Three levels, each of which needs more of the machine: a datagram socket that plays systemd (always), systemd's command
line tools (`systemd` marker), and a container in which a real systemd is PID 1 (root and systemd-nspawn). What cannot
be had is skipped with the reason.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from serverd.config import ServerConfig

from ..support.certificates import Authority, TlsClient
from ..support.daemon import PATIENCE, Daemon, free_port, title, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = ROOT / "systemd"
SDBOOT = ROOT / "tests" / "support" / "sdboot.sh"
EXPOSURE = 15  # tenths: systemd-analyze security gives 1.1 with systemd 252

# An application whose start takes until the test lets it.
SLOW = """
import os, sys, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("startup entered", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def get(address: tuple[str, int], path: str = "/") -> tuple[int, bytes]:
    """One request over a connection of its own: status and body."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Manager:
    """Plays systemd: the datagram socket of NOTIFY_SOCKET and what came to it, in order. One thread uses it."""

    def __init__(self, address: str) -> None:
        self.env = address.replace("\0", "@", 1)
        self.heard: list[dict[str, str]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(address)
        self._sock.setblocking(False)

    def listen(self) -> list[dict[str, str]]:
        """Everything so far."""
        while True:
            try:
                datagram = self._sock.recv(65536)
            except BlockingIOError:
                return self.heard
            self.heard.append(dict(line.split("=", 1) for line in datagram.decode().splitlines()))

    def wait_for(self, key: str, count: int = 1) -> dict[str, str]:
        """The message number `count` that holds `key`."""

        def found() -> dict[str, str] | None:
            matching = [message for message in self.listen() if key in message]
            return matching[count - 1] if len(matching) >= count else None

        message = wait_until(found, f"{key} number {count} among {self.heard}")
        assert message is not None
        return message

    def says(self, *keys: str) -> list[str]:
        """Which of `keys` came, in order of arrival."""
        return [key for message in self.listen() for key in keys if key in message]

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    # A unix address has 107 bytes at most, and the folders that pytest makes have long names.
    with tempfile.TemporaryDirectory(prefix="serverd-") as folder:
        address = f"{folder}/notify" if request.param == "path" else f"\0{folder}/notify"
        playing = Manager(address)
        yield playing
        playing.close()


# What serverd says


def test_ready_comes_when_the_application_serves_and_not_before(tmp_path: Path, manager: Manager) -> None:
    with Daemon(tmp_path, app=SLOW, env={"NOTIFY_SOCKET": manager.env}) as daemon:
        daemon.wait_for_line("startup entered")
        assert manager.says("READY") == []
        (tmp_path / "go").touch()
        ready = manager.wait_for("READY")
        assert get(("127.0.0.1", daemon.port)) == (200, b"ok")
        assert ready.get("MAINPID", str(daemon.pid)) == str(daemon.pid)
        assert ready["STATUS"]


def test_a_boot_that_fails_is_never_ready(tmp_path: Path, manager: Manager) -> None:
    with Daemon(tmp_path, app="import nothing_of_this_name", env={"NOTIFY_SOCKET": manager.env}) as daemon:
        assert daemon.wait_exit() in (3, 4)
    assert manager.says("READY") == []


def test_a_reload_is_announced_with_its_time_and_ends_ready(tmp_path: Path, manager: Manager) -> None:
    with Daemon(tmp_path, env={"NOTIFY_SOCKET": manager.env}) as daemon:
        manager.wait_for("READY")
        before = time.monotonic_ns() // 1000
        daemon.signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING")
        manager.wait_for("READY", 2)
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        daemon.write_app("this is no Python")
        daemon.signal(signal.SIGHUP)
        manager.wait_for("RELOADING", 2)
        manager.wait_for("READY", 3)  # a reload that failed is over too: the old code serves on
        assert get(("127.0.0.1", daemon.port)) == (200, b"hello")
        assert manager.says("RELOADING", "READY") == ["READY", "RELOADING", "READY", "RELOADING", "READY"]


def test_the_end_is_announced(tmp_path: Path, manager: Manager) -> None:
    with Daemon(tmp_path, env={"NOTIFY_SOCKET": manager.env}) as daemon:
        manager.wait_for("READY")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
    assert manager.says("READY", "STOPPING") == ["READY", "STOPPING"]


def test_the_watchdog_hears_from_a_server_that_serves(tmp_path: Path, manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.env, "WATCHDOG_USEC": "200000"}
    with Daemon(tmp_path, env=env):
        manager.wait_for("READY")
        manager.wait_for("WATCHDOG", 5)


def test_nobody_but_the_master_can_speak_to_systemd(tmp_path: Path, manager: Manager) -> None:
    """NotifyAccess=main would drop it; but neither should an application believe that it is the service."""
    app = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    names = sorted(set(os.environ) & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"})
    body = ",".join(names).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
    env = {"NOTIFY_SOCKET": manager.env, "WATCHDOG_USEC": "10000000"}
    with Daemon(tmp_path, app=app, env=env) as daemon:
        assert get(("127.0.0.1", daemon.port)) == (200, b"")


def test_processes_are_named_though_systemd_s_variables_come_first(tmp_path: Path, manager: Manager) -> None:
    """A title is written over the first variables of the environment, which are found before any is taken out."""
    variables = [f"NOTIFY_SOCKET={manager.env}", f"PATH={os.environ['PATH']}"]
    command = [sys.executable, "-m", "serverd", "-c", str(tmp_path / "server.yaml")]
    with Daemon(tmp_path, argv=["env", "-i", *variables, *command]) as daemon:
        manager.wait_for("READY")
        assert "master" in title(daemon.pid)
        assert daemon.workers()


# The units as files


def version() -> int:
    """systemd's, as on this machine."""
    text = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.split()[1])


def directives(unit: str) -> dict[str, str]:
    """The last value of each directive (a unit that repeats one means the last)."""
    lines = (UNITS / unit).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w*=", line))


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_template_with_instances_is_the_unit_itself() -> None:
    def body(name: str) -> str:
        text = (UNITS / name).read_text()
        return "".join(
            line for line in text[text.index("[Unit]") :].splitlines(True) if not line.startswith("#")
        )

    instance = body("serverd@.service").replace("/%i.yaml", "/server.yaml").replace("-%i", "")
    assert instance == body("serverd.service")


def test_systemd_waits_longer_than_serverd_does() -> None:
    timeouts = ServerConfig(app="x:y").timeouts
    unit = directives("serverd.service")
    assert seconds(unit["TimeoutStartSec"]) > timeouts.boot
    assert seconds(unit["TimeoutStopSec"]) > timeouts.graceful
    assert unit["Type"] == "notify-reload"
    assert unit["ExecStart"] == "/usr/bin/env serverd -c /etc/serverd/server.yaml"


@pytest.mark.systemd
@pytest.mark.parametrize("unit", ["serverd.service", "serverd@.service", "serverd.socket"])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, unit: str) -> None:
    for path in UNITS.iterdir():
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"./{unit}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "serverd" in line]
    if version() < 253:  # it keeps Type=notify of the line before, as the unit says
        complaints = [line for line in complaints if not line.endswith("ignoring: notify-reload")]
    assert (complaints, done.returncode) == ([], 0)


@pytest.mark.systemd
@pytest.mark.parametrize("unit", ["serverd.service", "serverd@.service"])
def test_the_service_is_exposed_to_little(tmp_path: Path, unit: str) -> None:
    path = tmp_path / unit.replace("@.", "@shop.")
    shutil.copy(UNITS / unit, path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Socket activation


@contextmanager
def activated(folder: Path, config: dict[str, object], *options: str) -> Iterator[Daemon]:
    """serverd as systemd-socket-activate starts it: at the first connection, which waits meanwhile."""
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("needs systemd-socket-activate (Debian: apt-get install systemd)")
    command = [sys.executable, "-m", "serverd", "-c", str(folder / "server.yaml")]
    argv = ["systemd-socket-activate", *options, *command]
    with Daemon(folder, config=config, argv=argv) as daemon:
        daemon.wait_for_line("Listening on")
        yield daemon


@pytest.mark.systemd
def test_the_first_client_of_an_activated_socket_is_served(tmp_path: Path) -> None:
    port = free_port()
    with activated(tmp_path, {"listen": ["systemd"]}, "-l", f"127.0.0.1:{port}") as daemon:
        assert get(("127.0.0.1", port)) == (200, b"hello")
        assert get(("127.0.0.1", port)) == (200, b"hello")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0


@pytest.mark.systemd
def test_sockets_are_known_by_their_names(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    options = ["-l", f"127.0.0.1:{first}", "-l", f"127.0.0.1:{second}", "--fdname=one:two"]
    with activated(tmp_path, {"listen": ["systemd:two", "systemd:one"]}, *options) as daemon:
        assert get(("127.0.0.1", second)) == (200, b"hello")
        assert get(("127.0.0.1", first)) == (200, b"hello")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0


# A real systemd


class Box:
    """A container in which systemd is PID 1, with network, /etc and /var of its own; `site` is its root folder.

    What runs in it is this very tree and interpreter, bound to /opt, behind `/usr/local/bin/serverd`: the units are
    used as they are. `get` may be called from several threads: each runs on a thread that has entered the container's
    network.
    """

    def __init__(self, folder: Path) -> None:
        self.env = {**os.environ, "SDBOX": str(folder), "SDBIND": " ".join(self._binds())}
        self.site = folder / "root"
        done = subprocess.run(
            [SDBOOT, "up"], env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            self.down()
            pytest.skip(
                f"no systemd boots in a container here: {(done.stderr or done.stdout).strip()[-300:]}"
            )
        leader = int((folder / "leader").read_text())
        self.proc = Path("/proc", str(leader), "root", "proc")
        # No inheritable descriptor, and threads of its own: setns moves one thread, and for good.
        self._network = os.open(f"/proc/{leader}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        enter = functools.partial(os.setns, self._network, os.CLONE_NEWNET)
        self.threads = ThreadPoolExecutor(4, initializer=enter)

    @staticmethod
    def _binds() -> list[str]:
        return [
            f"{sys.base_prefix}:/opt/python",
            f"{sysconfig.get_path('purelib')}:/opt/site",
            f"{ROOT}:/opt/serverd",
        ]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; what it wrote."""
        done = subprocess.run(
            [SDBOOT, "run", *command], env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout + done.stderr

    def journal(self) -> str:
        """The last lines of the container's journal."""
        return self.run("journalctl", "--no-pager", "-n", "60", "-o", "cat", check=False)

    def show(self, unit: str, *names: str) -> list[str]:
        """The properties of a unit."""
        text = self.run("systemctl", "show", unit, *(f"-p{name}" for name in names))
        values = dict(line.split("=", 1) for line in text.splitlines())
        return [values[name] for name in names]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file inside."""
        target = self.site / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text).lstrip())
        target.chmod(mode)

    def get(self, port: int, path: str = "/") -> tuple[int, bytes]:
        """One request from inside."""
        return self.threads.submit(get, ("127.0.0.1", port), path).result(PATIENCE)

    def processes(self, unit: str) -> list[int]:
        """The unit's master and its children, numbered as inside; none when it does not run."""
        master = int(self.show(unit, "MainPID")[0])
        if not master:
            return []
        try:
            children = (self.proc / f"{master}/task/{master}/children").read_text()
        except OSError:
            return []
        return [master, *map(int, children.split())]

    def workers(self, unit: str) -> list[int]:
        """Its children alone: they are what serves, as no example has a watcher."""
        return self.processes(unit)[1:]

    def read(self, pid: int, name: str) -> str:
        """A file of /proc/PID; empty when the process has gone."""
        try:
            return (self.proc / str(pid) / name).read_text()
        except OSError:
            return ""

    def down(self) -> None:
        """Power off and take it apart."""
        if hasattr(self, "threads"):
            self.threads.shutdown()
            os.close(self._network)
        subprocess.run([SDBOOT, "down"], env=self.env, capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    for tool, package in (
        ("systemd-nspawn", "systemd-container"),
        ("nsenter", "util-linux"),
        ("pgrep", "procps"),
    ):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: apt-get install {package})")
    container = Box(Path(f"/run/serverd-test-{os.getpid()}"))
    try:
        interpreter = f"/opt/python/bin/{Path(os.path.realpath(sys.executable)).name}"
        container.write(
            "/usr/local/bin/serverd",
            f"""
            #!/bin/sh
            export PYTHONPATH=/opt/serverd/src:/opt/site
            exec {interpreter} -m serverd "$@"
            """,
            0o755,
        )
        for path in UNITS.iterdir():
            container.write(f"/etc/systemd/system/{path.name}", path.read_text())
        if version() < 253:  # docs/systemd.md says the same to people
            for unit in ("serverd.service", "serverd@.service"):
                text = "[Service]\nExecReload=/bin/kill -HUP $MAINPID\n"
                container.write(f"/etc/systemd/system/{unit}.d/reload.conf", text)
        container.run("systemctl", "daemon-reload")
        yield container
    finally:
        container.down()


def configure(box: Box, name: str, listen: str, app: str = "hello", *more: str) -> None:
    """/etc/serverd/NAME.yaml for one of the examples."""
    lines = [f"app: {app}:app", f"app_dir: /opt/serverd/examples/{app}", f"listen: [{listen}]", *more]
    box.write(f"/etc/serverd/{name}.yaml", "\n".join(lines) + "\n")


def meanwhile(box: Box, port: int, act: Callable[[], object]) -> list[tuple[int, bytes]]:
    """What three clients, each with a connection of its own for each request, were answered before, while and after
    `act`. A refused or broken connection is raised."""
    going = True
    answers: list[tuple[int, bytes]] = []

    def ask() -> None:
        while going:
            answers.append(get(("127.0.0.1", port)))

    asking = [box.threads.submit(ask) for _ in range(3)]
    try:
        wait_until(lambda: len(answers) > 20, "load")
        act()
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + 20, "load afterwards")
    finally:
        going = False
    for each in asking:
        each.result(PATIENCE)
    return answers


@pytest.mark.root
@pytest.mark.systemd
def test_the_unit_starts_serves_reloads_and_stops(box: Box) -> None:
    configure(box, "server", '"127.0.0.1:8000"', "notes", "env: {DATABASE: /var/lib/serverd/notes.db}")
    box.run("systemctl", "start", "serverd")  # returns when READY=1 has come
    status, body = box.get(8000, "/api/status")
    assert status == 200, body
    assert b"notes.db" in box.run("ls", "/var/lib/serverd/").encode()
    assert box.show("serverd", "ActiveState", "Type")[0] == "active"

    (worker,) = box.workers("serverd")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", box.read(worker, "status"), re.MULTILINE))
    assert int(facts["Uid"].split()[0]) > 0
    assert (facts["NoNewPrivs"], int(facts["CapEff"], 16), facts["Seccomp"]) == ("1", 0, "2")

    box.run("systemctl", "reload", "serverd")
    wait_until(lambda: worker not in box.workers("serverd"), "the old child has gone")
    assert json.loads(box.get(8000, "/api/status")[1])["boot"] != json.loads(body)["boot"]

    (worker,) = box.workers("serverd")
    box.run("kill", "-KILL", str(worker))
    wait_until(lambda: box.workers("serverd") not in ([], [worker]), "the killed child was replaced")
    wait_until(lambda: box.get(8000, "/api/status")[0] == 200, "the new child serves")
    assert box.show("serverd", "ActiveState", "NRestarts") == ["active", "0"]

    # Root's commands find its control socket, though the service may not write beside its configuration.
    config = ("-c", "/etc/serverd/server.yaml")
    assert box.run("serverd", "reload", "--wait", *config).startswith("generation 3 ready")
    assert "serving, generation 3" in box.run("serverd", "status", *config)
    assert "in get" in box.run("serverd", "stacks", *config), "a thread may write its stack in the sandbox"

    processes = box.processes("serverd")
    box.run("systemctl", "stop", "serverd")
    assert box.show("serverd", "Result", "ExecMainStatus") == ["success", "0"]
    assert [box.read(pid, "cmdline") for pid in processes] == ["", ""]


# Tells what its process is, and tries what the sandbox of the unit is there for.
PROBE = """
import ctypes, json, mmap, os, socket, time

def attempt(call):
    try:
        call()
    except (OSError, ValueError) as error:
        return type(error).__name__
    return "worked"

WAYS = {
    "write /etc": lambda: open("/etc/serverd/probe.yaml", "a"), "write code": lambda: open("/srv/probe/x", "w"),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "raw": lambda: socket.socket(socket.AF_PACKET),
    "setuid": lambda: os.setuid(0), "nice": lambda: os.nice(-1), "unshare": lambda: os.unshare(0x10000000),
    "code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "device": lambda: open("/dev/kmsg", "w"), "clock": lambda: time.clock_settime(0, 0),
}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            await send({"type": (await receive())["type"] + ".complete"})
    if scope["path"] == "/raise":
        raise ValueError("boom\\n<0>panic\\n  <0>panic\\n" + "x" * 60000 + "<0>panic" + "<0>panic\\n" * 9)
    if scope["path"] == "/slow":
        open(os.environ["STATE_DIRECTORY"] + "/entered", "w")
        time.sleep(1.5)
    answer = json.dumps({name: attempt(way) for name, way in WAYS.items()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})
"""
NONE = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)


@pytest.mark.root
@pytest.mark.systemd
def test_the_sandbox_is_on_while_it_serves_reloads_and_drains(box: Box) -> None:
    box.write("/srv/probe/probe.py", PROBE)
    lines = ["app: probe:app", "app_dir: /srv/probe", "listen: ['127.0.0.1:8008']", "logging: {format: text}"]
    box.write("/etc/serverd/probe.yaml", "\n".join(lines) + "\n")
    box.run("systemctl", "start", "serverd@probe")
    said = box.run(
        "systemd-analyze", "security", "--no-pager", f"--threshold={EXPOSURE}", "serverd@probe.service"
    )
    exposure = re.search(r"exposure level for serverd@probe.service: (\d+\.\d)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= EXPOSURE / 10

    def confined() -> None:
        status, body = box.get(8008)
        assert status == 200
        assert not [name for name, came in json.loads(body).items() if came == "worked"]
        for pid in box.processes("serverd@probe"):
            facts = dict(re.findall(r"^(\w+):\s*(.*)$", box.read(pid, "status"), re.MULTILINE))
            assert {name: int(facts[name], 16) for name in NONE} == NONE
            assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
            assert "0" not in facts["Uid"].split()

    confined()
    (worker,) = box.workers("serverd@probe")
    box.run("systemctl", "reload", "serverd@probe")
    wait_until(lambda: worker not in box.workers("serverd@probe"), "the old child has gone")
    confined()

    # What an application says cannot choose the priority of a line in the journal, nor begin one.
    assert box.get(8008, "/raise")[0] == 500
    journal = box.run("journalctl", "-u", "serverd@probe", "-o", "json", "--no-pager", "--all")
    entries = [json.loads(line) for line in journal.splitlines() if line.startswith("{")]
    ours = [entry for entry in entries if entry.get("_TRANSPORT") == "stdout"]
    assert any("panic" in entry["MESSAGE"] for entry in ours)
    assert {entry["PRIORITY"] for entry in ours} == {"6"}
    assert all(re.match(r"\d{4}-\d\d-\d\dT|    ", entry["MESSAGE"]) for entry in ours)

    slow = box.threads.submit(get, ("127.0.0.1", 8008), "/slow")
    box.run("sh", "-c", "while ! test -e /var/lib/serverd-probe/entered; do sleep 0.05; done")
    box.run("systemctl", "stop", "serverd@probe")
    assert slow.result(PATIENCE)[0] == 200, "the request that was in flight was answered"
    assert box.show("serverd@probe", "Result", "ExecMainStatus") == ["success", "0"]


@pytest.mark.root
@pytest.mark.systemd
def test_a_server_that_cannot_work_is_not_started_again_and_again(box: Box) -> None:
    configure(box, "broken", '"127.0.0.1:8002"')
    box.write("/etc/serverd/broken.yaml", "app: nothing_of_this_name:app\nlisten: ['127.0.0.1:8002']\n")
    assert "failed" in box.run("systemctl", "start", "serverd@broken", check=False).lower()
    names = ("ActiveState", "Result", "ExecMainStatus", "NRestarts")
    assert box.show("serverd@broken", *names) == ["failed", "exit-code", "4", "0"]
    assert "nothing_of_this_name" in box.journal()


@pytest.mark.root
@pytest.mark.systemd
def test_instances_run_side_by_side_as_different_users(box: Box) -> None:
    for name, port in (("shop", 8003), ("blog", 8004)):
        configure(box, name, f'"127.0.0.1:{port}"')
    box.run("systemctl", "start", "serverd@shop", "serverd@blog")
    assert box.get(8003) == box.get(8004) == (200, b"Hello, World!")
    workers = [pid for name in ("shop", "blog") for pid in box.workers(f"serverd@{name}")]
    users = {re.findall(r"^Uid:\s*(\d+)", box.read(pid, "status"), re.MULTILINE)[0] for pid in workers}
    assert len(users) == 2
    for name in ("shop", "blog"):
        (master,) = box.show(f"serverd@{name}", "MainPID")
        assert f", pid {master}, " in box.run("serverd", "status", "-c", f"/etc/serverd/{name}.yaml")
    box.run("systemctl", "stop", "serverd@shop", "serverd@blog")
    assert box.show("serverd@shop", "Result", "ExecMainStatus") == ["success", "0"]


@pytest.mark.root
@pytest.mark.systemd
def test_a_restart_behind_the_socket_unit_refuses_nobody(box: Box) -> None:
    box.run("systemctl", "stop", "serverd")  # nothing to do, unless a test before this one failed
    configure(box, "server", "systemd")
    box.run("systemctl", "start", "serverd.socket")
    assert box.show("serverd", "ActiveState") == ["inactive"]
    assert box.get(8000) == (200, b"Hello, World!")  # the first client starts the service
    answers = meanwhile(box, 8000, lambda: box.run("systemctl", "restart", "serverd"))
    assert set(answers) == {(200, b"Hello, World!")}
    box.run("systemctl", "stop", "serverd.socket", "serverd.service")


@pytest.mark.root
@pytest.mark.systemd
def test_a_restart_with_the_store_of_descriptors_refuses_nobody(box: Box) -> None:
    """No socket unit: serverd binds its addresses itself, and systemd keeps them from the stop to the start."""
    configure(box, "store", '"127.0.0.1:8006", "unix:/run/serverd-store/app.sock"')
    box.run("systemctl", "start", "serverd@store")
    file = box.run("stat", "-c", "%i", "/run/serverd-store/app.sock")

    def restart() -> None:
        box.run("systemctl", "restart", "serverd@store")

    assert set(meanwhile(box, 8006, restart)) == {(200, b"Hello, World!")}
    assert box.run("stat", "-c", "%i", "/run/serverd-store/app.sock") == file, "it is the same socket still"
    curl = ("curl", "-s", "--unix-socket", "/run/serverd-store/app.sock", "http://localhost/")
    assert box.run(*curl) == "Hello, World!"

    configure(box, "store", '"0.0.0.0:8006"')  # the address that is stored would be in the way of this one
    box.run("systemctl", "restart", "serverd@store")
    assert box.show("serverd@store", "NRestarts", "NFileDescriptorStore") == ["0", "1"]
    assert box.get(8006) == (200, b"Hello, World!")
    box.run("systemctl", "stop", "serverd@store")
    assert box.show("serverd@store", "Result", "NFileDescriptorStore") == ["success", "0"]
    with pytest.raises(ConnectionRefusedError):
        box.get(8006)


@pytest.mark.root
@pytest.mark.systemd
def test_a_hot_upgrade_is_no_restart(box: Box) -> None:
    configure(box, "upgrade", '"127.0.0.1:8007"')
    box.run("systemctl", "start", "serverd@upgrade")
    (before,) = box.show("serverd@upgrade", "MainPID")

    def upgrade() -> None:
        box.run("kill", "-USR2", before)
        wait_until(lambda: box.show("serverd@upgrade", "MainPID") != [before], "another main process")
        wait_until(lambda: not box.read(int(before), "cmdline"), "the old master has gone")

    assert set(meanwhile(box, 8007, upgrade)) == {(200, b"Hello, World!")}
    names = ("ActiveState", "NRestarts", "NFileDescriptorStore")
    assert box.show("serverd@upgrade", *names) == ["active", "0", "1"]
    assert "reception only permitted" not in box.journal(), "nobody speaks out of turn"
    box.run("systemctl", "reload", "serverd@upgrade")
    assert box.get(8007) == (200, b"Hello, World!")

    (master,) = box.show("serverd@upgrade", "MainPID")
    box.run("kill", "-KILL", master)  # systemd notices, though it has not started this one itself
    wait_until(
        lambda: box.show("serverd@upgrade", "NRestarts", "ActiveState") == ["1", "active"], "a restart"
    )
    assert box.get(8007) == (200, b"Hello, World!")
    box.run("systemctl", "stop", "serverd@upgrade")
    assert box.show("serverd@upgrade", "Result", "ExecMainStatus") == ["success", "0"]


@pytest.mark.root
@pytest.mark.systemd
def test_https_with_a_key_that_only_root_may_read(box: Box, tmp_path: Path) -> None:
    """docs/tls.md: LoadCredential= hands the key over; and everything that TLS needs passes the unit's sandbox."""
    authority = Authority(tmp_path)
    files = authority.issue("localhost", "127.0.0.1")
    box.write("/etc/tls/cert.pem", files.cert.read_text())
    box.write("/etc/tls/key.pem", files.key.read_text(), 0o600)
    box.write(
        "/etc/systemd/system/serverd@tls.service.d/tls.conf",
        "[Service]\nLoadCredential=tls.key:/etc/tls/key.pem\n",
    )
    configure(
        box,
        "tls",
        '"127.0.0.1:8443"',
        "hello",
        'tls: {cert: /etc/tls/cert.pem, key: "${CREDENTIALS_DIRECTORY}/tls.key"}',
    )
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", "serverd@tls")

    def group_of(curve: str) -> str:
        context = authority.client()
        context.set_ecdh_curve(curve)
        try:
            with TlsClient(("127.0.0.1", 8443), context) as conn:
                return conn.get().body.decode()
        except OSError as error:
            return type(error).__name__

    assert box.threads.submit(group_of, "prime256v1").result(PATIENCE) == "Hello, World!", box.journal()
    assert (
        box.threads.submit(group_of, "secp521r1").result(PATIENCE) == "SSLError"
    )  # `tls_groups` works in there too
    box.run("systemctl", "reload", "serverd@tls")
    assert box.threads.submit(group_of, "X25519").result(PATIENCE) == "Hello, World!", box.journal()
    box.run("systemctl", "stop", "serverd@tls")
    assert box.show("serverd@tls", "Result", "ExecMainStatus") == ["success", "0"]
