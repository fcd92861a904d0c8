"""Listening sockets on a real kernel: what is bound, what is refused with which words, what is removed at the end."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from serverd.config import FdAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress
from serverd.supervisor.listeners import Access, Inherited, ListenError, Listeners

LOCAL = TcpAddress("127.0.0.1", 0)
BACKLOG = 16


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    found = Listeners(Inherited())
    yield found
    found.close()


def problem(listeners: Listeners, *addresses: ListenAddress) -> str:
    """The words with which `addresses` are refused."""
    with pytest.raises(ListenError) as caught:
        listeners.open(addresses, BACKLOG, Access())
    return str(caught.value)


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def answers(address: str | tuple[str, int], family: int = socket.AF_INET) -> bool:
    """Whether somebody listens there."""
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


# TCP


def test_a_tcp_socket_listens_and_says_where(listeners: Listeners) -> None:
    (listener,) = listeners.open([LOCAL], BACKLOG, Access())
    port = port_of(listener.sock)
    assert port > 0
    assert str(listener) == f"http://127.0.0.1:{port}"
    assert answers(("127.0.0.1", port))
    assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    assert not listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert not listener.sock.getblocking()
    assert not listener.sock.get_inheritable()


def test_ipv4_and_ipv6_share_a_port(listeners: Listeners) -> None:
    (four,) = listeners.open([TcpAddress("0.0.0.0", 0)], BACKLOG, Access())
    (six,) = listeners.open([TcpAddress("::", port_of(four.sock))], BACKLOG, Access())
    assert six.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    assert str(six) == f"http://[::]:{port_of(four.sock)}"
    assert answers(("::1", port_of(six.sock)), socket.AF_INET6)


def test_a_port_in_use_names_the_address_and_the_remedy(listeners: Listeners) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = port_of(other)
        text = problem(listeners, TcpAddress("127.0.0.1", port))
    assert text == (
        f"listen: 127.0.0.1:{port} is in use by another process;"
        f" stop it (ss -ltnp 'sport = :{port}' shows it) or choose another address"
    )


def test_everything_wrong_is_said_at_once_and_nothing_stays_open(listeners: Listeners) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as spare:
        spare.bind(("127.0.0.1", 0))
        free = port_of(spare)
        spare.close()
        text = problem(
            listeners,
            TcpAddress("127.0.0.1", free),
            TcpAddress("127.0.0.1", port_of(other)),
            TcpAddress("192.0.2.1", 80),  # RFC 5737: nobody has it
            TcpAddress("no-such-host.invalid", 80),  # RFC 6761: nobody ever will
        )
    in_use, foreign, unknown = text.splitlines()
    assert "is in use" in in_use
    assert "192.0.2.1:80 is no address of this machine" in foreign
    assert "no-such-host.invalid:80: the name does not resolve" in unknown
    assert not answers(("127.0.0.1", free))
    assert listeners.all() == []


# Across reloads


def test_what_stays_is_the_same_socket_and_what_goes_is_closed(listeners: Listeners, tmp_path: Path) -> None:
    unix = UnixAddress(tmp_path / "app.sock")
    listeners.open([LOCAL, unix], BACKLOG, Access())
    kept = listeners.sockets([LOCAL])[0]
    assert listeners.open([LOCAL, TcpAddress("127.0.0.1", 0)], 99, Access()) == []
    assert listeners.keep_only([LOCAL]) == [f"unix:{unix.path}"]
    assert listeners.sockets([LOCAL]) == (kept,)
    assert answers(("127.0.0.1", port_of(kept)))
    assert not unix.path.exists()


def test_an_address_that_stands_twice_is_one_socket(listeners: Listeners) -> None:
    listeners.open([LOCAL, LOCAL], BACKLOG, Access())
    assert len(listeners.sockets([LOCAL, LOCAL])) == 1


def test_a_failure_keeps_what_was_open(listeners: Listeners) -> None:
    listeners.open([LOCAL], BACKLOG, Access())
    problem(listeners, LOCAL, TcpAddress("192.0.2.1", 80))
    assert answers(("127.0.0.1", port_of(listeners.sockets([LOCAL])[0])))


# Unix sockets


def test_a_unix_socket_has_the_mode_of_the_umask_and_goes_at_the_end(
    listeners: Listeners, tmp_path: Path
) -> None:
    path = tmp_path / "app.sock"
    before = os.umask(0o022)
    try:
        listeners.open([UnixAddress(path)], BACKLOG, Access(umask=0o117))
        assert os.umask(0o022) == 0o022, "the process's own umask is untouched"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert answers(str(path), socket.AF_UNIX)
    listeners.close()
    assert not path.exists()


@pytest.mark.root
def test_a_unix_socket_belongs_to_those_who_serve_it(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listeners.open([UnixAddress(path)], BACKLOG, Access(uid=65534, gid=65533))
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


def test_a_socket_left_by_a_dead_process_is_replaced(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    listeners.open([UnixAddress(path)], BACKLOG, Access())
    assert answers(str(path), socket.AF_UNIX)


@pytest.mark.parametrize("crowded", [False, True])
def test_a_socket_that_is_served_is_not_touched(listeners: Listeners, tmp_path: Path, crowded: bool) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as waiting:
        alive.bind(str(path))
        alive.listen(0)
        if crowded:  # a backlog of 0 has room for one
            waiting.connect(str(path))
        before = path.stat().st_ino
        text = problem(listeners, UnixAddress(path))
        assert path.stat().st_ino == before
    assert text == f"listen: unix:{path} is in use by another process; stop it or choose another path"


def test_other_files_and_missing_folders_are_named(listeners: Listeners, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    text = problem(
        listeners, UnixAddress(tmp_path / "notes.txt"), UnixAddress(tmp_path / "none" / "app.sock")
    )
    file, folder = text.splitlines()
    assert "a file that is not a socket is in the way" in file
    assert f"the folder {tmp_path / 'none'} does not exist; create it" in folder
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_socket_that_somebody_else_put_there_stays(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listeners.open([UnixAddress(path)], BACKLOG, Access())
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        successor.listen()
        listeners.close()
        assert answers(str(path), socket.AF_UNIX)


# Inherited sockets


def passed_on(sock: socket.socket) -> int:
    """A descriptor of the same socket, as a parent would leave it to us."""
    fd = os.dup(sock.fileno())
    os.set_inheritable(fd, True)
    return fd


def test_an_inherited_descriptor_listens(listeners: Listeners) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        fd = passed_on(bound)
        listeners.open([FdAddress(fd)], BACKLOG, Access())
        assert answers(("127.0.0.1", port_of(bound)))
        assert not os.get_inheritable(fd)
        assert not listeners.sockets([FdAddress(fd)])[0].getblocking()


def test_descriptors_that_are_no_listening_sockets_are_named(listeners: Listeners, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        numbers = (999_999, os.dup(file.fileno()), os.dup(datagrams.fileno()))
        text = problem(listeners, *map(FdAddress, numbers))
        for number in numbers[1:]:
            os.close(number)
    missing, a_file, a_datagram = text.splitlines()
    assert "fd://999999: descriptor 999999 is not open" in missing
    assert "is not a socket" in a_file
    assert "is not a TCP or unix stream socket" in a_datagram


def test_sockets_of_systemd_by_name_and_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as admin:
        listeners = Listeners(Inherited([(passed_on(web), "web"), (passed_on(admin), "admin")]))
        listeners.open([SystemdAddress("admin")], BACKLOG, Access())
        assert [port_of(sock) for sock in listeners.sockets([SystemdAddress("admin")])] == [port_of(admin)]
        listeners.open([SystemdAddress(None)], BACKLOG, Access())
        assert [port_of(sock) for sock in listeners.sockets([SystemdAddress(None)])] == [port_of(web)]
        assert "systemd has passed no such socket (passed: none)" in problem(
            listeners, SystemdAddress("more")
        )
        listeners.close()


def test_the_variables_of_systemd_are_taken_and_checked() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "HOME": "/"}
    assert Inherited.take_from(environ, os.getpid()).sockets == [], "they are meant for another process"
    assert environ == {"HOME": "/"}
    assert Inherited.take_from({}, os.getpid()).sockets == []
