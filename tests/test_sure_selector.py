"""What cannot be watched now is watched a moment later."""

from __future__ import annotations

import errno
import os
import selectors
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.supervisor.sure_selector import SureSelector


class Short:
    """An epoll that has no memory for what is new, as long as it is `short`."""

    def __init__(self, selector: Any) -> None:
        self._epoll = selector._selector
        self.short = True

    def register(self, fd: int, events: int) -> None:
        if self.short:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        self._epoll.register(fd, events)

    def __getattr__(self, name: str) -> object:
        return getattr(self._epoll, name)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def selector() -> Iterator[SureSelector]:
    with SureSelector() as made:
        yield made


def shorten(selector: Any) -> Short:
    short = selector._selector = Short(selector)
    return short


def test_what_the_kernel_has_no_memory_for_is_watched_later(
    selector: SureSelector, pipe: tuple[int, int]
) -> None:
    short = shorten(selector)
    key = selector.register(pipe[0], selectors.EVENT_READ, "data")
    os.write(pipe[1], b"x")
    assert selector.select() == [], "and it comes back soon"
    assert selector.get_map().get(pipe[0]) is not None
    short.short = False
    assert selector.select() == [(key, selectors.EVENT_READ)]


def test_what_is_missing_can_be_forgotten_and_changed(selector: SureSelector, pipe: tuple[int, int]) -> None:
    short = shorten(selector)
    selector.register(pipe[0], selectors.EVENT_READ)
    selector.modify(pipe[0], selectors.EVENT_READ, "other")
    selector.unregister(pipe[0])
    short.short = False
    os.write(pipe[1], b"x")
    assert selector.select(0) == []
    selector.register(pipe[0], selectors.EVENT_READ, "again")
    assert [key.data for key, _ in selector.select(0)] == ["again"]


def test_other_errors_are_raised(selector: SureSelector, tmp_path: str) -> None:
    with open(os.path.join(tmp_path, "file"), "w") as file, pytest.raises(PermissionError):
        selector.register(file, selectors.EVENT_READ)
