"""PerAddress: who counts as one client, exact counts under many threads, and what is said of those that are refused."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from serverd.config import LimitsConfig, ProxyConfig, ServerConfig
from serverd.server import seldom
from serverd.server.per_address import PerAddress, client_key


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("no:address", "no:address"),
        ("\0:", "\0:"),
    ],
)
def test_a_client_is_an_address_of_ipv4_or_a_64_of_ipv6(host: str, key: str) -> None:
    assert client_key(host) == key


def test_places_are_taken_and_given_back_and_leave_nothing_behind() -> None:
    counts = PerAddress(2)
    first, second = counts.enter(("192.0.2.1", 1)), counts.enter(("192.0.2.1", 2))
    assert first == second == "192.0.2.1"
    assert counts.enter(("192.0.2.1", 3)) is None
    assert counts.enter(("192.0.2.2", 3)) == "192.0.2.2"
    assert first is not None
    counts.leave(first)
    assert counts.enter(("192.0.2.1", 3)) == "192.0.2.1"
    for key in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        counts.leave(key)
    assert len(counts) == 0


def test_what_another_child_has_accepted_counts_and_is_never_refused() -> None:
    counts = PerAddress(1)
    assert counts.enter(("192.0.2.1", 1)) == "192.0.2.1"
    assert counts.enter(("192.0.2.1", 2), always=True) == "192.0.2.1"
    counts.leave("192.0.2.1")
    assert counts.enter(("192.0.2.1", 3)) is None, "one is open still, and that is as many as it may have"


def of(most: int, *trusted: str, noted: Callable[[int], None] = lambda refused: None) -> PerAddress | None:
    config = ServerConfig(
        app="x:y",
        limits=LimitsConfig(connections_per_address=most),
        proxy=ProxyConfig(trusted=trusted),
    )
    return PerAddress.of(config, noted)


def test_proxies_and_unix_sockets_are_not_counted() -> None:
    counts = of(1, "10.0.0.0/8", "2001:db8::1")
    assert counts is not None
    for number in range(3):
        assert counts.enter(("10.1.2.3", number)) == ""
        assert counts.enter(("::ffff:10.1.2.3", number)) == ""
        assert counts.enter(("2001:db8::1", number)) == ""
        assert counts.enter(None) == ""
    assert counts.enter(("2001:db8::2", 1)) == "2001:db8::/64"
    assert counts.enter(("2001:db8::2", 2)) is None
    counts.leave("")


def test_whom_a_proxy_names_is_counted_unless_it_is_a_proxy_too() -> None:
    everybody = of(1, "*")
    assert everybody is not None
    assert everybody.enter(("192.0.2.1", 1)) == ""
    assert everybody.enter(("192.0.2.1", 1), named=True) == "192.0.2.1"
    assert everybody.enter(("192.0.2.1", 2), named=True) is None
    inside = of(1, "10.0.0.0/8")
    assert inside is not None
    assert inside.enter(("10.0.0.1", 1), named=True) == ""


def test_nothing_is_counted_without_a_limit() -> None:
    assert of(0) is None


def test_no_place_is_given_twice_however_many_threads_ask() -> None:
    counts = PerAddress(7)
    most, seen, lock = 0, 0, threading.Lock()
    begin = threading.Barrier(8)

    def client() -> None:
        nonlocal most, seen
        begin.wait(10)
        for _ in range(3000):
            key = counts.enter(("192.0.2.1", 1))
            if key is None:
                continue
            with lock:
                seen += 1
                most = max(most, seen)
            with lock:
                seen -= 1
            counts.leave(key)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert 0 < most <= 7
    assert len(counts) == 0


def test_the_log_names_the_address_and_the_limit_and_is_not_flooded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(seldom, "monotonic", lambda: now)
    told: list[int] = []
    counts = PerAddress(1, noted=told.append)
    counts.enter(("192.0.2.1", 1))
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            assert counts.enter(("192.0.2.1", 2)) is None
        now += seldom.QUIET
        assert counts.enter(("192.0.2.1", 2)) is None
    first, second = (record.getMessage() for record in caplog.records)
    assert "192.0.2.1 has 1 open connections" in first
    assert "limits.connections_per_address" in first
    assert second.endswith("(49 more since the last such line)")
    assert told == list(range(1, 52))
