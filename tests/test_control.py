"""The control socket with real sockets and no daemon: who is answered, and what no client can do."""

from __future__ import annotations

import json
import os
import selectors
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from serverd.config import ServerConfig
from serverd.supervisor import control as control_module
from serverd.supervisor import control_lines
from serverd.supervisor.control import MOST_PEERS, PATIENCE, Control, Reply, may_control
from serverd.supervisor.control_lines import LONGEST_LINE, Request
from serverd.supervisor.control_place import beside, paths
from serverd.supervisor.listeners import ListenError

Serve = Callable[[Request, Reply], None]


def refuse_to_think(request: Request, reply: Reply) -> None:
    reply.succeed(did=request.do, who=reply.who)


class World:
    """A control socket and its loop, which the test turns."""

    def __init__(self, folder: Path, answer: Serve = refuse_to_think) -> None:
        self.selector = selectors.DefaultSelector()
        self.config = replace(ServerConfig(app="x:y"), source=folder / "server.yaml")
        self.path = folder / "server.control"
        self.control = Control(self.selector, {})
        self.control.answer = answer
        self.control.open(self.config)
        self.clients: list[socket.socket] = []

    def turn(self, times: int = 1) -> None:
        """Look at what is there, as often as that."""
        for _ in range(times):
            for key, _ in self.selector.select(0):
                if self.selector.get_map().get(key.fd) is key:
                    key.data()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(os.fspath(self.path))
        self.clients.append(sock)
        self.turn()
        return sock

    def read(self, sock: socket.socket) -> list[dict[str, Any]]:
        """What has been answered so far; at the end of the connection the last item is empty."""
        data = b""
        sock.setblocking(False)
        while True:
            self.turn()
            try:
                piece = sock.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                piece = b""
            if not piece:
                return [*map(json.loads, data.splitlines()), {}]
            data += piece
        return [json.loads(line) for line in data.splitlines()]

    def close(self) -> None:
        self.control.close()
        for sock in self.clients:
            sock.close()
        assert not list(self.selector.get_map().values()), "nothing is watched any more"
        self.selector.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_a_request_is_answered_and_the_next_one_too(world: World) -> None:
    sock = world.connect()
    for do in ("status", "stacks"):
        sock.sendall(control_lines.request(do))
        who = f"pid {os.getpid()}, uid {os.geteuid()}"
        assert world.read(sock) == [{"v": 1, "ok": True, "did": do, "who": who}]


def test_many_requests_in_one_piece_are_answered_in_order(world: World) -> None:
    sock = world.connect()
    sock.sendall(
        b"".join([control_lines.request("status"), b"nonsense\n", control_lines.request("stop")] * 500)
    )
    assert [answer.get("did") for answer in world.read(sock)] == ["status", None, "stop"] * 500


def test_a_client_may_have_no_more_to_say(world: World) -> None:
    """`echo '{"v":1,"do":"status"}' | nc -N -U server.control`."""
    sock = world.connect()
    sock.sendall(control_lines.request("status"))
    sock.shutdown(socket.SHUT_WR)
    assert [answer.get("did") for answer in world.read(sock)] == ["status", None]


def test_the_socket_is_for_its_owner_alone(world: World) -> None:
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert may_control(0, 1000)
    assert may_control(1000, 1000)
    assert not may_control(1001, 1000)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_else_is_refused_although_the_file_lets_him() -> None:
    with TemporaryDirectory() as folder:  # pytest's own are closed to other users
        os.chmod(folder, 0o755)
        world = World(Path(folder))
        world.path.chmod(0o666)
        sock = socket.socket(socket.AF_UNIX)
        os.seteuid(65534)
        try:
            sock.connect(os.fspath(world.path))
        finally:
            os.seteuid(0)
        refusal, end = world.read(sock)
        sock.close()
        world.close()
    assert refusal["error"] == "only root and user 0 may control this serverd, and you are user 65534"
    assert end == {}


def test_a_long_line_is_refused_and_the_connection_closed(world: World) -> None:
    sock = world.connect()
    sock.settimeout(None)
    sock.setblocking(False)
    sent = 0
    while sent <= LONGEST_LINE:
        sent += sock.send(b"x" * 8192)
        world.turn()
    refusal, end = world.read(sock)
    assert refusal["error"] == f"a request may have {LONGEST_LINE} bytes, and this one has more"
    assert end == {}


def test_who_sends_half_a_request_is_told_and_closed(world: World) -> None:
    sock, idle = world.connect(), world.connect()
    sock.sendall(b'{"v": 1, ')
    world.turn()
    due = world.control.tend(0.0)
    world.control.tend(due - 0.001)
    assert world.read(sock) == world.read(idle) == []
    world.control.tend(due + PATIENCE)
    assert world.read(sock) == [{"v": 1, "ok": False, "error": "a request must be complete within 10 s"}, {}]
    assert world.read(idle) == [{}], "with nothing said there is nothing to answer"


def test_a_request_that_ends_with_the_connection_needs_no_newline(world: World) -> None:
    whole, half = world.connect(), world.connect()
    whole.sendall(control_lines.request("status").rstrip(b"\n"))
    half.sendall(b'{"v": 1, ')
    for sock in (whole, half):
        sock.shutdown(socket.SHUT_WR)
    world.turn()
    answer, end = world.read(whole)
    assert answer["ok"], answer
    refusal, _ = world.read(half)
    assert not refusal["ok"]
    assert end == {}


def test_who_waits_for_an_answer_may_wait(tmp_path: Path) -> None:
    replies: list[Reply] = []
    world = World(tmp_path, lambda request, reply: replies.append(reply))
    sock = world.connect()
    sock.sendall(control_lines.request("reload", wait=True) + control_lines.request("status"))
    world.turn()
    assert world.control.tend(0.0) == float("inf")
    assert len(replies) == 1, "one after the other"
    replies[0].event("taken")
    replies[0].fail("no")
    assert world.read(sock) == [{"v": 1, "event": "taken"}, {"v": 1, "ok": False, "error": "no"}]
    assert len(replies) == 2
    sock.close()
    replies[1].succeed()  # nobody is there
    world.turn()
    world.close()


def test_who_does_not_read_is_closed_and_holds_nobody_up(tmp_path: Path) -> None:
    def talk(request: Request, reply: Reply) -> None:
        reply.succeed(text="x" * (4 << 20))

    world = World(tmp_path, talk)
    sock, other = world.connect(), world.connect()
    sock.sendall(control_lines.request("stacks") * 3)
    world.turn(5)
    other.sendall(control_lines.request("stacks"))
    assert len(world.read(other)[0]["text"]) == 4 << 20
    other.close()
    world.turn()
    world.control.tend(world.control.tend(0.0) + 1)
    world.turn()
    assert world.control.tend(0.0) == float("inf"), "it is forgotten"
    world.close()


def test_there_may_be_so_many_connections(world: World) -> None:
    first = [world.connect() for _ in range(MOST_PEERS)]
    one_more = world.connect()
    refusal, end = world.read(one_more)
    assert refusal["error"].startswith("there are 32 control connections already")
    assert end == {}
    first[0].close()
    world.turn()
    sock = world.connect()
    sock.sendall(control_lines.request("status"))
    assert world.read(sock)[0]["ok"] is True


def test_a_mistake_of_ours_is_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request, reply: Reply) -> None:
        raise KeyError("oops")

    world = World(tmp_path, fail)
    sock = world.connect()
    sock.sendall(control_lines.request("status"))
    assert world.read(sock) == [
        {"v": 1, "ok": False, "error": "status: a mistake of serverd's; its log has the traceback"}
    ]
    assert "KeyError: 'oops'" in caplog.text
    world.close()


def test_accept_rests_when_the_machine_has_no_descriptors(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_module, "Peer", None)  # nobody gets as far as that
    accept = socket.socket.accept

    def no_descriptor(sock: socket.socket) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, "accept", no_descriptor)
    client = socket.socket(socket.AF_UNIX)
    client.connect(os.fspath(world.path))
    world.turn(50)
    assert caplog.text.count("cannot accept a connection (Too many open files)") == 1, "it does not spin"
    monkeypatch.undo()
    assert socket.socket.accept is accept
    world.control.tend(world.control.tend(0.0))
    world.turn()
    client.sendall(control_lines.request("status"))
    assert world.read(client)[0]["ok"] is True
    client.close()


# Where it is


def test_the_place_follows_from_the_configuration(tmp_path: Path) -> None:
    config = replace(ServerConfig(app="x:y"), source=tmp_path / "shop.yaml")
    assert paths(config, {}) == [tmp_path / "shop.control"]
    (runtime, fallback) = paths(config, {"RUNTIME_DIRECTORY": "/run/serverd:/run/other"})
    assert runtime.parent == Path("/run/serverd")
    assert runtime.name.startswith("shop-")
    assert fallback == beside(tmp_path / "shop.yaml")
    assert paths(replace(config, control=Path("/run/x.sock")), {"RUNTIME_DIRECTORY": "/run"}) == [
        Path("/run/x.sock")
    ]
    assert paths(ServerConfig(app="x:y"), {"RUNTIME_DIRECTORY": "/run"}) == []


def test_a_place_that_was_asked_for_must_be_had(tmp_path: Path) -> None:
    control = Control(selectors.DefaultSelector(), {})
    config = ServerConfig(app="x:y", control=tmp_path / "nowhere" / "x.sock")
    with pytest.raises(
        ListenError, match=r"^control: .*/nowhere does not exist; create it or choose another path"
    ):
        control.open(config)
    with pytest.raises(ListenError, match=r"^control: .*: has \d+ bytes, and a unix socket at most 107$"):
        control.open(replace(config, control=tmp_path / ("x" * 110)))
    config.control.parent.mkdir()  # type: ignore[union-attr]
    config.control.write_text("a file")  # type: ignore[union-attr]
    with pytest.raises(ListenError, match="a file that is not a socket is in the way"):
        control.open(config)


def test_a_place_that_nobody_asked_for_is_said_once_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    control = Control(selectors.DefaultSelector(), {})
    config = replace(ServerConfig(app="x:y"), source=tmp_path / "nowhere" / "server.yaml")
    control.open(config)
    control.follow(config)
    assert control.path is None
    assert caplog.text.count("no control socket: control: ") == 1


def test_one_that_is_left_behind_is_replaced_and_one_that_is_alive_is_not_touched(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(os.fspath(tmp_path / "server.control"))
    left.close()
    world = World(tmp_path)
    second = Control(selectors.DefaultSelector(), {})
    with pytest.raises(ListenError, match="is in use by another process"):
        second.open(ServerConfig(app="x:y", control=world.path))
    second.close()
    assert world.path.is_socket()
    world.close()
    assert not world.path.exists()


def test_a_reload_may_move_it_and_who_is_connected_stays(world: World, tmp_path: Path) -> None:
    sock = world.connect()
    moved = replace(world.config, control=tmp_path / "other.sock")
    world.control.open(moved)
    assert world.path.exists(), "until the new generation serves it is in both places"
    world.control.follow(moved)
    assert not world.path.exists()
    sock.sendall(control_lines.request("status"))
    assert world.read(sock)[0]["ok"] is True
    world.path = tmp_path / "other.sock"
    again = world.connect()
    again.sendall(control_lines.request("status"))
    assert world.read(again)[0]["ok"] is True


def test_a_reload_that_fails_leaves_it_where_it_was(world: World, tmp_path: Path) -> None:
    world.control.open(replace(world.config, control=tmp_path / "other.sock"))
    world.control.keep_only(world.config)
    assert world.path.exists()
    assert not (tmp_path / "other.sock").exists()
    world.control.follow(replace(world.config, control=tmp_path / "nowhere" / "x.sock"))
    assert world.control.path == world.path


def test_the_next_master_finds_the_place_free(world: World) -> None:
    world.control.hand_over()
    assert world.path.is_socket(), "a client that comes now is refused, and not told that there is nothing"
    other = Control(selectors.DefaultSelector(), {})
    other.open(world.config)
    assert other.path == world.path
    world.control.close()
    assert world.path.is_socket()
    other.close()
