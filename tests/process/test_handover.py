"""Connections across a reload, with real children: who answers on a connection that was open before."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.certificates import Authority, TlsClient
from ..support.client import RawClient, Response
from ..support.daemon import Daemon, free_port, title, wait_until
from ..support.load import Load
from ..support.probe import source

QUIET = {"logging": {"access": False, "level": "debug"}}


@contextlib.contextmanager
def clients_of(address: tuple[str, int] | str, number: int) -> Iterator[list[RawClient]]:
    """So many connections that have had an answer and are idle."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(address)) for _ in range(number)]
        for client in clients:
            assert client.get().status == 200
        yield clients


def answerer(answer: Response) -> tuple[str, int]:
    """The version and the process that answered."""
    version, pid = answer.body.decode().rsplit(" ", 1)
    return version, int(pid)


def replaced(daemon: Daemon, change: Callable[[], None]) -> list[int]:
    """The children of the next generation, when those of this one are gone."""
    before = daemon.workers()
    change()
    wait_until(
        lambda: daemon.workers() and not set(before) & set(daemon.workers()), "the end of the old children"
    )
    return daemon.workers()


def reload(daemon: Daemon, version: str = "v2", **config: Any) -> list[int]:
    def change() -> None:
        daemon.write_app(source(version))
        if config:
            daemon.write_config(QUIET | config)
        daemon.signal(signal.SIGHUP)

    return replaced(daemon, change)


@pytest.mark.parametrize(
    ("start_method", "before", "after"),
    [
        ("fork", "sync", "sync"),
        ("fork", "async", "async"),
        ("fork", "sync", "async"),
        ("spawn", "async", "sync"),
    ],
)
def test_idle_connections_are_spread_over_the_new_children(
    tmp_path: Path, start_method: str, before: str, after: str
) -> None:
    workers = {"processes": 2, "start_method": start_method}
    with Daemon(tmp_path, app=source("v1"), config=QUIET | {"workers": workers | {"mode": before}}) as daemon:
        daemon.wait_ready()
        with clients_of(("127.0.0.1", daemon.port), 60) as clients:
            silent = RawClient(
                ("127.0.0.1", daemon.port)
            )  # a browser connects before it has something to ask
            wait_until(lambda: open_at(daemon.port) == 61)
            new = reload(daemon, workers=workers | {"mode": after})
            answers = [client.get() for client in [*clients, silent]]
            found = Counter(answerer(answer) for answer in answers)
            assert set(found) == {("v2", pid) for pid in new}
            assert max(found.values()) - min(found.values()) <= 2
            assert all(answer.header("connection") is None for answer in answers)
            silent.sock.close()


def test_over_a_unix_socket(tmp_path: Path) -> None:
    """As a proxy on the same machine does it: the connections are themselves unix sockets."""
    path = str(tmp_path / "sock")
    config = QUIET | {"listen": [f"unix:{path}"]}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_for_line("generation 1 ready")
        with clients_of(path, 300) as clients:
            (new,) = reload(daemon)
            assert {answerer(client.get()) for client in clients} == {("v2", new)}


def test_a_request_in_flight_is_answered_by_the_old_child_and_the_next_by_the_new_one(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config=QUIET) as daemon:
        daemon.wait_ready()
        (old,) = daemon.workers()
        with RawClient(("127.0.0.1", daemon.port)) as client:
            client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until((tmp_path / "entered").exists, "the request in the application")
            daemon.write_app(source("v2"))
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready")
            (tmp_path / "release").touch()
            answer = client.response()
            assert answerer(answer) == ("v1", old)
            assert answer.header("connection") is None
            assert answerer(client.get())[0] == "v2"


def test_with_tls_a_connection_gets_one_more_answer(tmp_path: Path) -> None:
    """Its keys cannot change hands."""
    authority = Authority(tmp_path)
    config = QUIET | {"tls": authority.issue("localhost").config()}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_ready()
        with TlsClient(("127.0.0.1", daemon.port), authority.client()) as client:
            client.get()
            daemon.write_app(source("v2"))
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready")
            while (answer := client.get()).header("connection") != "close":
                pass  # the old child has not heard of it yet
            assert answerer(answer)[0] == "v1"
            assert client.closed()


def test_what_came_by_an_address_that_is_given_up_gets_one_more_answer(tmp_path: Path) -> None:
    kept, given_up = free_port(), free_port()
    both = [f"127.0.0.1:{kept}", f"127.0.0.1:{given_up}"]
    with Daemon(tmp_path, app=source("v1"), config=QUIET | {"listen": both}) as daemon:
        daemon.wait_for_line("generation 1 ready")
        with clients_of(("127.0.0.1", kept), 3) as stay, clients_of(("127.0.0.1", given_up), 3) as go:
            daemon.write_app(source("v2"))
            daemon.write_config(QUIET | {"listen": [f"127.0.0.1:{kept}"]})
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line(f"no longer listening on .*:{given_up}")
            wait_until(lambda: answerer(stay[0].get())[0] == "v2")
            assert {answerer(client.get())[0] for client in stay} == {"v2"}
            for client in go:
                while (answer := client.get()).header("connection") != "close":
                    assert answerer(answer)[0] == "v1"
                assert answerer(answer)[0] == "v1"
                assert client.closed()


def test_the_new_child_takes_no_more_than_its_limit(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config=QUIET) as daemon:
        daemon.wait_ready()
        with clients_of(("127.0.0.1", daemon.port), 10) as clients:
            daemon.write_app(source("v2"))
            daemon.write_config(QUIET | {"limits": {"connections": 4}})
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready")
            answers = []
            for client in clients:
                while True:
                    answer = client.get()
                    if answerer(answer)[0] == "v2" or answer.header("connection") == "close":
                        break  # else its child has not heard of it yet
                answers.append((answerer(answer)[0], answer.header("connection")))
            assert Counter(answers) == {("v2", None): 4, ("v1", "close"): 6}


def test_a_child_that_is_scaled_away_leaves_to_its_sibling(tmp_path: Path) -> None:
    config = QUIET | {"workers": {"processes": 2}}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_ready()
        with clients_of(("127.0.0.1", daemon.port), 20) as clients:
            daemon.signal(signal.SIGTTOU)
            (left,) = wait_until(lambda: daemon.workers() if len(daemon.workers()) == 1 else [])
            answers = [client.get() for client in clients]
            assert {answerer(answer) for answer in answers} == {("v1", left)}
            assert all(answer.header("connection") is None for answer in answers)


def test_a_child_that_is_recycled_leaves_to_its_successor(tmp_path: Path) -> None:
    config = QUIET | {"workers": {"processes": 1, "max_requests": 30}}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_ready()
        with clients_of(("127.0.0.1", daemon.port), 10) as clients:
            (first,) = daemon.workers()

            def until_another_answers() -> bool:
                answers = [client.get() for client in clients]
                assert all(answer.header("connection") is None for answer in answers)
                return {answerer(answer)[1] for answer in answers}.isdisjoint({first})

            wait_until(until_another_answers)


def test_a_developer_sees_new_code_on_the_connection_that_was_open(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config=QUIET, args=["--reload"]) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("watching")
        with clients_of(("127.0.0.1", daemon.port), 3) as clients:
            (new,) = replaced(daemon, lambda: daemon.write_app(source("v2")))
            assert {answerer(client.get()) for client in clients} == {("v2", new)}


def test_a_stop_during_the_drain_closes_what_is_left(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config=QUIET) as daemon:
        daemon.wait_ready()
        with (
            clients_of(("127.0.0.1", daemon.port), 5) as clients,
            RawClient(("127.0.0.1", daemon.port)) as busy,
        ):
            busy.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until((tmp_path / "entered").exists, "the request in the application")
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready")
            daemon.signal(signal.SIGTERM)
            assert all(client.closed() for client in clients)
            (tmp_path / "release").touch()
            answer = busy.response()
            assert (answer.status, answer.header("connection")) == (200, "close")
            assert daemon.wait_exit() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_under_load_no_client_ever_connects_again(tmp_path: Path, mode: str) -> None:
    """Requests follow each other without a pause, and with one: neither sees a reset or a close in ten reloads."""
    config = QUIET | {"workers": {"processes": 2, "mode": mode}}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_ready()
        with clients_of(("127.0.0.1", daemon.port), 20) as idle, Load(daemon.port, clients=16) as load:
            load.wait_for(200)
            for number in range(2, 12):
                reload(daemon, f"v{number}")
                load.wait_for(100)
                assert {answerer(client.get())[0] for client in idle} == {f"v{number}"}
            totals = load.stop()
        assert totals.failures == []
        assert totals.reconnects == 16
        assert {body.split()[0] for body in totals.bodies} == {b"v%d" % number for number in range(1, 12)}
        assert len(totals.bodies) > 20, "the connections stay spread over the two children"


def open_at(port: int) -> int:
    """How many connections to ``port`` are established and accepted, or wait for that."""
    return sum(
        1
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if int(line.split()[1].partition(":")[2], 16) == port and line.split()[3] == "01"
    )


def test_descriptors_do_not_pile_up(tmp_path: Path) -> None:
    """Neither in the master nor in the children, over many reloads with connections that change hands."""
    with Daemon(tmp_path, app=source("v1"), config=QUIET | {"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        with clients_of(("127.0.0.1", daemon.port), 20) as clients:

            def held() -> tuple[int, int]:
                return descriptors(daemon.pid), sum(descriptors(pid) for pid in daemon.workers())

            reload(daemon, "v2")
            before = held()
            for number in range(3, 8):
                reload(daemon, f"v{number}")
            wait_until(lambda: held() <= before, f"no more than {before} descriptors")
            for client in clients:
                assert answerer(client.get())[0] == "v7"


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_the_clients_addresses_travel_along(tmp_path: Path) -> None:
    config = {"logging": {"level": "info"}}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_ready()
        with socket.socket() as bound:
            bound.bind(("127.0.0.77", 0))
            bound.connect(("127.0.0.1", daemon.port))
            bound.sendall(b"GET /before HTTP/1.1\r\nHost: x\r\n\r\n")
            daemon.wait_for_line(r"g1 +127\.0\.0\.77 .*GET /before")
            replaced(daemon, lambda: daemon.signal(signal.SIGHUP))
            bound.sendall(b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n")
            daemon.wait_for_line(r"g2 +127\.0\.0\.77 .*GET /after")


def test_a_sibling_that_stands_still_gets_nothing_and_the_others_get_its_share(tmp_path: Path) -> None:
    config = QUIET | {"workers": {"processes": 3, "threads": 1}}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_ready()
        by_index = {title(pid).split()[2]: pid for pid in daemon.workers()}
        stands_still, leaves = by_index["0"], by_index["2"]
        with contextlib.ExitStack() as stack:
            of_the_last: list[RawClient] = []

            def connect() -> bool:
                client = stack.enter_context(RawClient(("127.0.0.1", daemon.port)))
                if answerer(client.get())[1] == leaves:
                    of_the_last.append(client)
                return len(of_the_last) == 10

            wait_until(connect, "connections that the last child has")
            os.kill(stands_still, signal.SIGSTOP)
            try:
                daemon.signal(signal.SIGTTOU)
                wait_until(lambda: leaves not in daemon.workers(), "the end of the last child")
                answers = {answerer(client.get()) for client in of_the_last}
                assert answers == {("v1", by_index["1"])}
            finally:
                os.kill(stands_still, signal.SIGCONT)


def test_a_canary_that_is_rolled_back_leaves_to_the_old_children(tmp_path: Path) -> None:
    config = QUIET | {"workers": {"processes": 1}, "reload": {"canary": "5s"}}
    with Daemon(tmp_path, app=source("old"), config=config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_ready()
        before = stack.enter_context(clients_of(("127.0.0.1", daemon.port), 25))
        broken = source("new").replace('"status": 200', '"status": 500')
        daemon.write_app(broken)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("canary: worker 0 g2")
        of_the_canary: list[RawClient] = []

        def connect() -> bool:
            client = stack.enter_context(RawClient(("127.0.0.1", daemon.port)))
            if answerer(client.get())[0] == "new":
                of_the_canary.append(client)
            return len(of_the_canary) == 5

        wait_until(connect, "connections that the canary has")
        compared = daemon.mark()
        for client in [*before, *of_the_canary * 5]:
            client.get()
        daemon.wait_for_line("reload failed", after=compared)
        wait_until(lambda: len(daemon.workers()) == 1, "the end of the canary")
        answers = [client.get() for client in of_the_canary]
        assert {(answerer(answer)[0], answer.header("connection")) for answer in answers} == {("old", None)}


def test_children_of_a_template_get_connections_too(tmp_path: Path) -> None:
    config = QUIET | {"workers": {"processes": 2, "preload": True}}
    with Daemon(tmp_path, app=source("v1"), config=config) as daemon:
        daemon.wait_ready()
        with clients_of(("127.0.0.1", daemon.port), 10) as clients:
            daemon.write_app(source("v2"))
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: {answerer(client.get())[0] for client in clients} == {"v2"})
