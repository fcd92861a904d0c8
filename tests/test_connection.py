"""A connection's phases: the table is walked cell by cell, and its constants are the kernel's."""

from __future__ import annotations

import select
import socket

import pytest

from serverd.server.connection import Connection
from serverd.server.phases import AT_ONCE, EDGE, INTEREST, NAMES, NEXT, Phase

ALLOWED = {
    "IDLE": {"HEAD", "BODY", "RUNNING", "WRITING", "LINGERING", "CLOSED"},
    "HEAD": {"HEAD", "BODY", "RUNNING", "WRITING", "LINGERING", "CLOSED"},
    "BODY": {"BODY", "RUNNING", "WRITING", "LINGERING", "CLOSED"},
    "RUNNING": {"IDLE", "HEAD", "WRITING", "LINGERING", "CLOSED"},
    "WRITING": {"IDLE", "HEAD", "WRITING", "LINGERING", "CLOSED"},
    "LINGERING": {"LINGERING", "CLOSED"},
    "CLOSED": set(),
    "HANDSHAKE": {"HEAD", "LINGERING", "CLOSED", "HANDSHAKE"},
    "PREFACE": {"PREFACE", "HANDSHAKE", "HEAD", "CLOSED"},
}


@pytest.mark.parametrize("before", range(len(NAMES)))
@pytest.mark.parametrize("after", range(len(NAMES)))
def test_every_cell(before: int, after: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs, Connection(1, ours.family, ours.detach(), None, None, 0.0) as conn:
        conn.phase = before
        if NAMES[after] in ALLOWED[NAMES[before]]:
            conn.move(after)
            assert conn.phase == after
        else:
            with pytest.raises(RuntimeError, match=f"{NAMES[before]} may not become {NAMES[after]}"):
                conn.move(after)
            assert conn.phase == before


def test_names_and_numbers_agree() -> None:
    assert [getattr(Phase, name) for name in NAMES] == list(range(len(NAMES)))
    assert len(NEXT) == len(INTEREST) == len(NAMES)


def test_the_interest_is_what_select_calls_it() -> None:
    readable = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
    assert INTEREST[Phase.WRITING] == select.EPOLLOUT | select.EPOLLONESHOT
    waiting = (Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.LINGERING, Phase.HANDSHAKE, Phase.PREFACE)
    assert {INTEREST[phase] for phase in waiting} == {readable}
    assert AT_ONCE == select.EPOLLOUT
    assert EDGE == select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
    assert INTEREST[Phase.RUNNING] == INTEREST[Phase.CLOSED] == 0
