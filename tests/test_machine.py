"""What the machine allows less than the configuration asks for is said in one line with its remedy."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from serverd.config import LimitsConfig, ServerConfig, machine
from serverd.config.machine import most_connections, shortfalls, too_few_files, too_long_backlog


def config(**limits: int) -> ServerConfig:
    return ServerConfig(app="x:y", limits=LimitsConfig(**limits))


@pytest.mark.parametrize(
    ("files", "most"),
    [(1 << 20, 10_000), (11_024, 10_000), (11_023, 9_999), (4_096, 3_072), (1_024, 768), (64, 48), (1, 1)],
)
def test_a_child_takes_no_more_connections_than_leave_files_for_the_application(
    files: int, most: int
) -> None:
    assert most_connections(10_000, files) == most
    assert most_connections(5, 64) == 5


def test_too_few_files_are_named_with_what_follows_and_the_remedy() -> None:
    assert too_few_files(config(), 20_000) == ""
    said = too_few_files(config(), 1_024)
    for part in ("limits.connections is 10000", "1024 files", "768 connections", "LimitNOFILE", "11024"):
        assert part in said


def test_a_backlog_beyond_the_kernels_is_named_with_the_remedy() -> None:
    assert too_long_backlog(config(backlog=4096), 4096) == ""
    said = too_long_backlog(config(backlog=5000), 4096)
    for part in ("limits.backlog is 5000", "4096", "net.core.somaxconn"):
        assert part in said


def test_what_cannot_be_found_out_is_no_shortfall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SOMAXCONN", Path("/nowhere/somaxconn"))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert list(shortfalls(config(backlog=60_000))) == []
