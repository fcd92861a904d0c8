"""Files as responses: the part of a file itself, and what clients on real sockets get of it."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path
from typing import Any

import pytest

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
