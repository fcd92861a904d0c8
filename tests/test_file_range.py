"""A part of a file on its way: its descriptor, its bounds, what is refused, and how a connection sends it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serverd.server.connection import Connection
from serverd.server.file_range import STEP, FileRange, FileShrank


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    path = tmp_path / "letters"
    path.write_bytes(b"abcdefghijklmnopqrstuvwxyz")
    return path


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


# -- the range itself --------------------------------------------------------------------------------------------------


def test_a_range_outlives_the_file_that_it_was_made_of(letters: Path) -> None:
    before = descriptors()
    with letters.open("rb") as file:
        part = FileRange(file.fileno(), 3, 4)
    letters.unlink()
    assert part.take() == b"defg"
    part.close()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("offset", "count", "content", "position"),
    [
        (None, None, b"cdefghijklmnopqrstuvwxyz", 26),
        (None, 3, b"cde", 5),
        (None, 100, b"cdefghijklmnopqrstuvwxyz", 26),
        (0, 3, b"abc", 2),
        (20, None, b"uvwxyz", 2),
        (24, 5, b"yz", 2),
        (26, None, b"", 2),
        (90, 5, b"", 2),
        (5, 0, b"", 2),
    ],
)
@pytest.mark.parametrize("kind", ["buffered", "raw", "descriptor"])
def test_part_of_an_open_file(
    letters: Path, kind: str, offset: int | None, count: int | None, content: bytes, position: int
) -> None:
    with letters.open("rb", buffering=0 if kind == "raw" else -1) as opened:
        file: Any = opened
        if kind == "descriptor":
            file = opened.fileno()
            os.lseek(file, 2, os.SEEK_SET)
        else:
            assert opened.read(2) == b"ab"  # a buffered file has read all of it by now
        part = FileRange.part(file, offset, count)
        where = os.lseek(file, 0, os.SEEK_CUR) if kind == "descriptor" else opened.tell()
    assert where == position
    assert part.count == len(content)
    assert part.take() == content


@pytest.mark.parametrize(("offset", "count"), [(-1, 5), (0, -5)])
def test_negative_numbers_are_refused(letters: Path, offset: int, count: int) -> None:
    before = descriptors()
    with letters.open("rb") as file, pytest.raises(ValueError, match="must not be negative"):
        FileRange.part(file, offset, count)
    assert descriptors() == before


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError, match="missing"):
        FileRange.whole(tmp_path / "missing")
    with pytest.raises(IsADirectoryError, match="a directory cannot be sent"):
        FileRange.whole(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"only regular files can be sent: .*pipe"):
        FileRange.whole(tmp_path / "pipe")
    with pytest.raises(OSError, match="only regular files can be sent"):
        FileRange.whole("/dev/null")
    with pytest.raises(TypeError, match=r"'a' has no fileno\(\)"):
        FileRange.part("a", None, None)
    with pytest.raises(io.UnsupportedOperation):
        FileRange.part(io.BytesIO(b"a"), None, None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        FileRange(10**6, 0, 1)
    assert descriptors() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(letters: Path) -> None:
    letters.chmod(0)
    with pytest.raises(PermissionError):
        FileRange.whole(letters)


def test_a_file_that_shrinks_is_noticed(letters: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    part = FileRange.whole(letters)
    os.truncate(letters, 10)
    with ours, theirs:
        assert part.send_to(ours.fileno()) == 10
        with pytest.raises(FileShrank, match="16 bytes fewer than were announced"):
            part.send_to(ours.fileno())
        assert theirs.recv(100) == b"abcdefghij"
    with pytest.raises(FileShrank):
        part.take()
    assert part.fd == -1
    assert "letters: 16 bytes fewer" in caplog.text


def test_one_step_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(3 * STEP))
    part = FileRange.whole(path)
    with (tmp_path / "copy").open(
        "wb"
    ) as copy:  # sendfile writes to any descriptor, and this one takes everything
        assert part.send_to(copy.fileno()) == STEP
    assert (part.offset, part.count) == (STEP, 2 * STEP)
    part.close()


# -- on a connection ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection with a small send buffer, and its client."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.settimeout(10)
    conn = Connection(1, ours.family, ours.detach(), None, None, 0.0)
    with theirs:
        yield conn, theirs
        conn.close()


def received(conn: Connection, client: socket.socket) -> bytes:
    """What the client gets when the connection is flushed whenever there is room, until nothing is left."""
    data = bytearray()
    client.settimeout(0)
    done = False
    while True:
        done = done or conn.flush()
        assert done == (conn.out is None)
        try:
            data += client.recv(65536)
        except BlockingIOError:
            if done:
                return bytes(data)


@pytest.mark.parametrize("kernel", [True, False], ids=["sendfile", "read"])
def test_files_and_bytes_keep_their_order(
    letters: Path, pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    if not kernel:  # as on a filesystem that cannot

        def refuse(*args: Any) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "sendfile", refuse)
    conn, client = pair
    before = descriptors()
    large = letters.with_name("large")
    large.write_bytes(os.urandom(300_000))
    sent = b""
    for number in range(4):
        conn.transmit(b"<%d>" % number)
        with large.open("rb") as file:
            conn.transmit_file(FileRange(file.fileno(), number, 200_000), b"tail")
            conn.transmit(b"x" * 5000)
            conn.transmit(b"y")
            conn.transmit_file(FileRange.part(file, 300_000, None))  # nothing
            conn.transmit_file(FileRange.whole(letters))
        sent += (
            b"<%d>" % number + large.read_bytes()[number : number + 200_000] + b"tail" + b"x" * 5000 + b"y"
        )
        sent += letters.read_bytes()
        assert not conn.flush()
        assert conn.pending_out > 100_000
    assert descriptors() > before
    assert received(conn, client) == sent
    assert descriptors() == before
    assert conn.later is None
    assert conn.pending_out == 0


def test_progress_is_counted(letters: Path, pair: tuple[Connection, socket.socket]) -> None:
    conn, client = pair
    large = letters.with_name("large")
    large.write_bytes(bytes(100_000))
    assert not conn.transmit_file(FileRange.whole(large), b"tail")
    conn.taken = 0
    left = conn.pending_out
    assert left < 100_004
    received(conn, client)
    assert conn.taken == left


def test_closing_the_connection_closes_its_files(
    letters: Path, pair: tuple[Connection, socket.socket]
) -> None:
    conn, _ = pair
    before = descriptors()
    large = letters.with_name("large")
    large.write_bytes(bytes(100_000))
    conn.transmit_file(FileRange.whole(large), b"tail")
    conn.transmit_file(FileRange.whole(letters))
    assert descriptors() == before + 2
    conn.close()
    assert descriptors() == before - 1


def test_a_file_that_shrinks_while_it_waits(letters: Path, pair: tuple[Connection, socket.socket]) -> None:
    conn, client = pair
    large = letters.with_name("large")
    large.write_bytes(bytes(1_000_000))
    assert not conn.transmit_file(FileRange.whole(large))
    os.truncate(large, 10)
    client.settimeout(0)

    def read_on() -> None:
        while not conn.flush():
            with contextlib.suppress(BlockingIOError):
                client.recv(65536)

    with pytest.raises(FileShrank, match="bytes fewer than were announced"):
        read_on()
