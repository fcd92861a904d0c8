"""sd_notify over real datagram sockets, and the variables that must not reach the children."""

import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serverd.supervisor.notify import Manager, Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The service manager's socket, and what stands in NOTIFY_SOCKET."""
    address = str(tmp_path / "notify")
    if request.param == "abstract":
        address = f"@serverd-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5.0)
        sock.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        yield sock, address


def notifier(address: str, **more: str) -> tuple[Notifier, dict[str, str]]:
    environ = {"NOTIFY_SOCKET": address, "HOME": "/", **more}
    return Notifier.take_from(environ, os.getpid()), environ


def test_the_words_of_a_whole_life(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    told, environ = notifier(address)
    assert environ == {"HOME": "/"}

    def heard() -> list[str]:
        return sock.recv(4096).decode().split("\n")

    told.starting("booting", 60.0)
    assert heard() == ["STATUS=booting", "EXTEND_TIMEOUT_USEC=60000000"]
    told.ready("generation 1\nready")
    assert heard() == ["READY=1", "STATUS=generation 1 ready", f"MAINPID={os.getpid()}"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    told.reloading("reload: SIGHUP", 0.0)
    reloading, moment, status = heard()
    assert (reloading, status) == ("RELOADING=1", "STATUS=reload: SIGHUP")
    assert (
        before
        <= int(moment.removeprefix("MONOTONIC_USEC="))
        <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    )
    told.stopping("stopping", math.inf)
    assert heard() == ["STOPPING=1", "STATUS=stopping"]
    told.close()
    told.starting("nobody hears this", 0.0)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(100)


def test_the_watchdog_is_due_at_half_its_interval(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    told, environ = notifier(address, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid()))
    assert environ == {"HOME": "/"}
    assert told.ping_at() == -math.inf, "the first one is due at once"
    told.ping(100.0)
    assert sock.recv(100) == b"WATCHDOG=1"
    assert told.ping_at() == 105.0
    told.close()


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "10000000"},  # nobody to tell
        {
            "NOTIFY_SOCKET": "@x",
            "WATCHDOG_USEC": "10000000",
            "WATCHDOG_PID": "1",
        },  # meant for another process
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "often"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"},
    ],
)
def test_no_watchdog(variables: dict[str, str]) -> None:
    told = Notifier.take_from(variables, os.getpid())
    assert told.ping_at() == math.inf
    assert variables == {}
    told.close()


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here", "vsock:2:1234"])
def test_nobody_to_tell_is_no_error(address: str) -> None:
    told, _ = notifier(address)
    told.ready("ready")
    told.close()


def test_a_manager_that_does_not_read_is_not_waited_for(manager: tuple[socket.socket, str]) -> None:
    _, address = manager
    told, _ = notifier(address)
    for _ in range(2000):  # far more than net.unix.max_dgram_qlen
        told.starting("x" * 1000, 0.0)
    told.close()


def test_while_muted_nothing_is_said(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    told = Notifier(Manager(address, 10.0, 4), muted=True)
    told.ready("not yet")
    told.ping(100.0)
    assert told.ping_at() == math.inf
    told.unmute()
    told.ready("now")
    assert sock.recv(4096).decode().split("\n")[1] == "STATUS=now"
    assert told.ping_at() == 105.0
    told.close()


def test_the_last_word_is_heard_though_the_manager_is_behind(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    told, _ = notifier(address)
    for _ in range(2000):  # far more than net.unix.max_dgram_qlen: the next one does not fit
        told.ping(0.0)
    heard: list[bytes] = []

    def read() -> None:
        while not heard or not heard[-1].startswith(b"MAINPID"):
            heard.append(sock.recv(4096))

    reading = threading.Thread(target=read)
    speaking = threading.Thread(target=told.hand_over, args=(4711,))
    speaking.start()
    reading.start()
    speaking.join(5.0)
    reading.join(5.0)
    assert heard[-1] == b"MAINPID=4711"
    assert told.sock is None


def test_a_descriptor_is_stored_by_its_name(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    environ = {"NOTIFY_SOCKET": address, "FDSTORE": "16"}
    told = Notifier.take_from(environ, os.getpid())
    assert environ == {}
    assert told.manager.store == 16
    reader, writer = os.pipe()
    told.store("serverd/x", writer)
    os.close(writer)
    text, (copy,), _, _ = socket.recv_fds(sock, 4096, 1)
    assert text == b"FDSTORE=1\nFDNAME=serverd/x"
    os.write(copy, b"!")
    assert os.read(reader, 1) == b"!"
    told.discard("serverd/x")
    assert sock.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=serverd/x"
    for fd in (reader, copy):
        os.close(fd)
    told.close()
