"""A real daemon from its start to its end: what it says, whom it serves, how it stops, with which status."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from serverd.supervisor import policy
from tests.support.client import RawClient, Response
from tests.support.daemon import Daemon, alive, free_port, title, wait_until
from tests.support.probe import source


def get(daemon: Daemon, target: str = "/") -> Response:
    with RawClient(("127.0.0.1", daemon.port)) as client:
        return client.get(target, headers="Connection: close\r\n")


class InFlight(threading.Thread):
    """A request to /wait that is in the application's hands when the constructor returns."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self.response: Response | None = None
        self._address = ("127.0.0.1", daemon.port)
        self._folder = daemon.folder
        self.start()
        wait_until((daemon.folder / "entered").exists, "the request is being served")

    def run(self) -> None:
        with RawClient(self._address) as client:
            try:
                self.response = client.get("/wait")
            except EOFError, ConnectionError:
                self.response = None

    def release(self) -> None:
        """Let the application answer."""
        (self._folder / "release").touch()

    def result(self) -> Response | None:
        self.join(20.0)
        assert not self.is_alive()
        return self.response


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_it_serves_and_stops_and_leaves_nothing_behind(tmp_path: Path, start_method: str) -> None:
    config = {"workers": {"processes": 2, "start_method": start_method}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        assert title(daemon.pid) == "serverd: master (demo:app)"
        assert sorted(title(pid) for pid in daemon.workers()) == [
            "serverd: worker 0 g1",
            "serverd: worker 1 g1",
        ]
        version, pid = get(daemon).body.split()
        assert (version, int(pid) in daemon.workers()) == (b"v1", True)
        workers = daemon.workers()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert not any(alive(pid) for pid in workers)
        assert (tmp_path / "shut-down").exists(), "the lifespan was shut down"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", daemon.port)) != 0
        assert not [line for line in daemon.lines if " error " in line or " warning " in line]


def test_term_finishes_what_is_in_flight_and_refuses_what_is_new(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: not listens(daemon.port), "the port is closed")
        waiting.release()
        answer = waiting.result()
        assert answer is not None
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert daemon.wait_exit() == 0


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_at_the_end_of_the_graceful_time_a_request_is_cut_off_and_named(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"timeouts": {"graceful": "0.3s"}}) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line(r"worker 0 g1 has cut off 1 request")
        daemon.wait_for_line(r"cut off.*GET /wait")
        assert daemon.wait_exit() == 0
        assert waiting.result() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_do_not_wait(tmp_path: Path, number: signal.Signals) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        daemon.signal(number)
        daemon.wait_for_line("stopping at once")
        assert daemon.wait_exit(5.0) == 0
        assert waiting.result() is None


def test_int_makes_a_graceful_stop_a_fast_one(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line("stopping, requests in flight have 10 s")
        daemon.signal(signal.SIGTERM)  # no more urgent than before
        daemon.signal(signal.SIGINT)
        daemon.wait_for_line("stopping at once")
        assert daemon.wait_exit(5.0) == 0
        assert waiting.result() is None


STUBBORN = """
import signal, time
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        message = await receive()
        await send({"type": "lifespan.startup.complete"})
        message = await receive()
        print("hanging", flush=True)
        while True:
            time.sleep(1)     # blocks the home loop: no shutdown ever ends
"""


def test_a_third_wish_kills(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=STUBBORN) as daemon:
        daemon.wait_ready()
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line("hanging")
        daemon.signal(signal.SIGINT)
        daemon.wait_for_line("stopping at once")
        daemon.signal(signal.SIGINT)
        daemon.wait_for_line(r"was not given the time to stop: killing it")
        assert daemon.wait_exit(policy.STOP_GRACE / 2) == 0


# What cannot be had


def test_a_port_in_use_is_one_line_and_status_1(tmp_path: Path) -> None:
    """Whoever has it may end: a service manager shall try again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Daemon(tmp_path, config={"listen": [f"127.0.0.1:{port}"]}) as daemon:
            assert daemon.wait_exit() == 1
            assert len(daemon.lines) == 1
            daemon.wait_for_line(
                rf"127\.0\.0\.1:{port} is in use by another process; stop it .* or choose another address"
            )


def test_an_unknown_user_is_one_line_and_status_2(tmp_path: Path) -> None:
    with Daemon(tmp_path, config={"process": {"user": "nobody-of-this-name"}}) as daemon:
        assert daemon.wait_exit() == 2
        assert len(daemon.lines) == 1
        daemon.wait_for_line("process.user: .*nobody-of-this-name")


# Addresses


def test_tcp_ipv6_and_unix_at_once(tmp_path: Path) -> None:
    port = free_port()
    listen = [f"127.0.0.1:{port}", f"[::1]:{port}", "unix:run.sock"]
    with Daemon(tmp_path, app=source(), config={"listen": listen}) as daemon:
        daemon.wait_ready()
        assert get(daemon).status == 200
        with RawClient(str(tmp_path / "run.sock")) as client:
            assert client.get("/").status == 200
        with socket.create_connection(("::1", port), timeout=10) as six:
            six.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            assert six.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert not (tmp_path / "run.sock").exists()


def test_a_unix_socket_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    config = {"listen": ["unix:run.sock"]}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        workers = daemon.workers()
        daemon.signal(signal.SIGKILL)
        daemon.wait_exit()
        wait_until(lambda: not any(map(alive, workers)), "the children are gone")
        assert (tmp_path / "run.sock").exists()
        mark = daemon.mark()
        daemon.start()
        daemon.wait_for_line("generation 1 ready", after=mark)
        with RawClient(str(tmp_path / "run.sock")) as client:
            assert client.get("/").status == 200


# What a child holds


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_child_holds_nothing_of_the_masters(tmp_path: Path, start_method: str) -> None:
    """Standard streams, its channel, the listening sockets of its generation, and what it has opened itself."""
    config = {
        "listen": ["127.0.0.1:0", "unix:run.sock"],
        "workers": {"processes": 2, "start_method": start_method},
        "process": {"pidfile": "run.pid"},
        "reload": {"enabled": True},
    }
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("watching")
        mark = daemon.mark()
        daemon.write_config({**config, "listen": ["127.0.0.1:0"]})
        daemon.wait_for_line("generation 2 ready", after=mark)
        wait_until(lambda: len(daemon.workers()) == 2, "the old generation is gone")
        mine = _descriptors(daemon.pid)
        both = {link for link in mine.values() if link in _listening()}
        assert len(both) == 2, (
            "beside its control socket, the master has closed the one that is no longer wanted"
        )
        listening = both & set(_descriptors(daemon.workers()[0]).values())
        assert len(listening) == 1, "the control socket is the master's alone"
        channels = []
        for pid in daemon.workers():
            held = _descriptors(pid)
            shared = [link for fd, link in held.items() if fd > 2 and link in mine.values()]
            ours = set(shared) - {
                "anon_inode:[eventpoll]",
                "anon_inode:[eventfd]",
                "/memfd:serverd-last-words (deleted)",
                "/memfd:serverd-scoreboard (deleted)",
                "/memfd:serverd-stacks (deleted)",
            }  # these names are shared, not the things; a child is given the files that it writes into
            assert ours == listening, f"{pid} holds {ours - listening} of the master's"
            assert not [
                link for link in held.values() if "pidfd" in link or "run.pid" in link or "spec" in link
            ]
            channels.append(
                {link for fd, link in held.items() if fd > 2 and link.startswith("socket:")} - listening
            )
        for one in channels:
            assert sum(bool(one & other) for other in channels) == 1, "two children share a socket"


def _descriptors(pid: int) -> dict[int, str]:
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found[int(entry.name)] = os.readlink(entry.path)
        except OSError:
            continue
    return found


def _listening() -> set[str]:
    """The names under /proc/PID/fd of all sockets of this machine that listen on TCP or unix addresses."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A":
            found.add(f"socket:[{words[9]}]")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[3], 16) & 0x10000:  # SO_ACCEPTCON
            found.add(f"socket:[{words[6]}]")
    return found


def test_the_environment_is_the_childrens_alone_and_nothing_of_systemds_reaches_them(tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "LISTEN_PID": "1", "LISTEN_FDS": "1"}
    with Daemon(tmp_path, app=source(), config={"env": {"GREETING": "hello"}}, env=env) as daemon:
        daemon.wait_ready()
        assert get(daemon, "/env?GREETING").body == b"hello"
        for name in env:
            assert get(daemon, f"/env?{name}").body == b"(not set)"
        assert b"GREETING" not in Path(f"/proc/{daemon.pid}/environ").read_bytes()
