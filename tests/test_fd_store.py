"""Stored sockets: how they are named, found again, thrown away; with a socket that plays systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serverd.config import ListenAddress, TcpAddress, UnixAddress
from serverd.supervisor import fd_store
from serverd.supervisor.listeners import Access, Heirloom, Inherited, Listeners
from serverd.supervisor.notify import Manager, Notifier

LOCAL = TcpAddress("127.0.0.1", 0)


class Store:
    """Plays systemd's store of descriptors: what was said, and what is stored, by name."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        self.manager = Manager(str(path), 0.0, 16)
        self.held: dict[str, int] = {}

    def read(self) -> list[str]:
        """Do what was asked for; the first lines of the messages."""
        said: list[str] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 4096, 4)
            except BlockingIOError:
                return said
            first, *rest = data.decode().split("\n")
            said.append(first)
            if first == "FDSTORE=1":
                self.held[rest[0].removeprefix("FDNAME=")] = fds[0]
            else:
                for fd in fds:
                    os.close(fd)
            if first == "FDSTOREREMOVE=1":
                os.close(self.held.pop(rest[0].removeprefix("FDNAME=")))

    def passed(self) -> Inherited:
        """What the next start gets."""
        self.read()
        return Inherited([(os.dup(fd), name) for name, fd in self.held.items()])

    def close(self) -> None:
        self.read()
        self.sock.close()
        for fd in self.held.values():
            os.close(fd)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    playing = Store(tmp_path / "notify")
    yield playing
    playing.close()


@pytest.mark.parametrize(
    "heirloom",
    [
        Heirloom("127.0.0.1:8000", 9),
        Heirloom("[::1]:8000", 9),
        Heirloom("unix:/run/a b+c%:ä.sock", 9, (26, 4711)),
    ],
)
def test_a_name_tells_what_a_socket_was_made_for(heirloom: Heirloom) -> None:
    name = fd_store.name_of(heirloom)
    assert name is not None
    assert ":" not in name, "names are separated by it"
    assert name.isascii()
    assert fd_store.understand(9, name) == heirloom


def test_what_others_keep_or_what_has_no_name_is_not_stored() -> None:
    assert fd_store.name_of(Heirloom("fd://3", 3)) is None
    assert fd_store.name_of(Heirloom("unix:/" + "ä" * 50, 3, (1, 2))) is None
    for name in ("http", "serverd", "serverd/x+1", "serverd/x+a+b"):
        assert fd_store.understand(3, name) is None


def start(store: Store, *addresses: ListenAddress) -> tuple[Listeners, Notifier]:
    """As the master does it: take back, open, own, and keep once it serves."""
    notifier = Notifier(store.manager)
    inherited = store.passed()
    heirlooms = fd_store.take_back(inherited, map(str, addresses), notifier)
    listeners = Listeners(inherited, heirlooms)
    listeners.open(addresses, 16, Access())
    listeners.own()
    fd_store.keep(listeners, notifier)
    return listeners, notifier


def stop(listeners: Listeners, notifier: Notifier) -> None:
    listeners.close()
    notifier.close()


def test_a_socket_is_the_same_after_a_restart(store: Store, tmp_path: Path) -> None:
    unix = UnixAddress(tmp_path / "app.sock")
    first = start(store, LOCAL, unix)
    port = first[0].all()[0].sock.getsockname()
    stop(*first)
    with socket.create_connection(port), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(unix.path))  # both wait in the backlog
        second = start(store, LOCAL, unix)
        for listener in second[0].all():
            listener.sock.accept()[0].close()
    assert second[0].all()[0].sock.getsockname() == port
    assert store.read() == [], "nothing new to store"
    stop(*second)
    assert unix.path.exists()


def test_an_address_that_goes_leaves_the_store(store: Store, tmp_path: Path) -> None:
    unix = UnixAddress(tmp_path / "app.sock")
    listeners, notifier = start(store, LOCAL, unix)
    assert store.read() == ["FDSTORE=1", "FDSTORE=1"]
    listeners.keep_only([LOCAL])
    fd_store.keep(listeners, notifier)
    assert store.read() == ["FDSTOREREMOVE=1"]
    assert list(store.held) == ["serverd/127.0.0.1%3A0"]
    assert not unix.path.exists()
    stop(listeners, notifier)


def test_what_nobody_asks_for_any_more_is_thrown_away_before_anything_is_bound(store: Store) -> None:
    first = start(store, LOCAL)
    port = first[0].all()[0].sock.getsockname()[1]
    stop(*first)
    inherited = store.passed()
    notifier = Notifier(Manager(store.manager.address, 0.0, 16))
    # The barrier would wait for a manager that reads: this one reads when it is told to.
    notifier.barrier = lambda: None  # type: ignore[method-assign]
    assert fd_store.take_back(inherited, [f"0.0.0.0:{port}"], notifier) == []
    assert inherited.sockets == []
    assert store.read() == ["FDSTOREREMOVE=1"]
    with socket.create_server(("0.0.0.0", port)):
        pass
    notifier.close()


def test_a_unix_socket_whose_file_is_gone_is_made_anew(store: Store, tmp_path: Path) -> None:
    unix = UnixAddress(tmp_path / "app.sock")
    stop(*start(store, unix))
    unix.path.unlink()
    notifier = Notifier(store.manager)
    notifier.barrier = lambda: None  # type: ignore[method-assign]
    assert fd_store.take_back(store.passed(), [str(unix)], notifier) == []
    notifier.close()


def test_sockets_of_a_socket_unit_are_left_to_their_addresses() -> None:
    inherited = Inherited([(5, "http")])
    assert fd_store.take_back(inherited, ["127.0.0.1:80"], Notifier()) == []
    assert inherited.sockets == [(5, "http")]


def test_a_store_that_is_too_small_is_named(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.manager = Manager(store.manager.address, 0.0, 1)
    listeners, notifier = start(store, LOCAL, UnixAddress(tmp_path / "app.sock"))
    assert "systemd stores 1 descriptors, and not unix:" in caplog.text
    assert "raise FileDescriptorStoreMax=" in caplog.text
    stop(listeners, notifier)
    assert not (tmp_path / "app.sock").exists()


def test_without_a_store_nothing_is_said(store: Store) -> None:
    store.manager = Manager(store.manager.address)
    stop(*start(store, LOCAL))
    assert store.read() == []


def test_a_barrier_is_passed_when_it_was_read(tmp_path: Path) -> None:
    notifier = Notifier(Manager(str(tmp_path / "nobody")))
    notifier.barrier()  # nobody is there: not waited for
    notifier.close()
