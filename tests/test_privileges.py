"""The step down, and the files that a master makes where others may write: what is refused, and in which order.

What only root can try is skipped for others. Real daemons are in process/test_privileges.py.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serverd.config import ProcessConfig, UnixAddress
from serverd.supervisor import privileges
from serverd.supervisor.binding import Access, Listener, ListenError, bind_unix
from serverd.supervisor.pidfile import Pidfile, PidfileError
from serverd.supervisor.privileges import Identity, PrivilegeError, drop, resolve

NOBODY = 65534
WWW = Identity(33, 33, (4, 33), "www-data")
STEPS = ("setgroups", "setresgid", "setresuid")


class Kernel:
    """Plays the calls that change who a process is, in the order in which they come. `refuses`: the one that fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: str = "", keeps: str = "") -> None:
        self.calls: list[str] = []
        self._refuses = refuses
        self.uid, self.gid, self.groups = (0,) * 3, (0,) * 3, [0]
        self._keeps = keeps
        for name in STEPS:
            monkeypatch.setattr(os, name, self._call(name))
        monkeypatch.setattr(os, "getresuid", lambda: self.uid)
        monkeypatch.setattr(os, "getresgid", lambda: self.gid)
        monkeypatch.setattr(os, "getgroups", lambda: self.groups)
        monkeypatch.setattr(os, "getgid", lambda: self.gid[0])
        monkeypatch.setattr(os, "isatty", lambda fd: False)
        monkeypatch.setattr(privileges, "_system_call", self._system_call)

    def _call(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            self.calls.append(name)
            if name == self._refuses or self.uid[0]:
                if name == self._keeps:
                    return
                raise PermissionError(1, "Operation not permitted")
            if name == self._keeps:
                return
            if name == "setgroups":
                self.groups = list(arguments[0])
            elif name == "setresgid":
                self.gid = arguments
            else:
                self.uid = arguments

        return call

    def _system_call(self, name: str, *arguments: Any) -> int:
        step = name if name != "prctl" else f"prctl {arguments[0]}"
        if self.calls[-1:] != [step]:
            self.calls.append(step)
        if step == self._refuses:
            raise PermissionError(1, "Operation not permitted")
        if step == "prctl 24" and arguments[1] > 40:  # the last capability of a kernel
            raise OSError(22, "Invalid argument")
        return 1


def test_the_steps_come_in_the_only_order_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    drop(WWW, None)
    assert (kernel.uid, kernel.gid, kernel.groups) == ((33,) * 3, (33,) * 3, [4, 33])
    # The bounding set, while that is allowed; capset; no_new_privs; and then all is looked at, and the ways back tried.
    steps = ["setgroups", "prctl 24", "setresgid", "setresuid", "capset", "prctl 38"]
    assert kernel.calls == [*steps, "capget", "prctl 39", "setresuid", "setresgid", "setgroups"]


@pytest.mark.parametrize("step", [*STEPS, "capset", "prctl 38"])
def test_a_step_that_fails_is_a_refusal_in_one_line(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    kernel = Kernel(monkeypatch, refuses=step)
    with pytest.raises(PrivilegeError, match=r"^process\.user: cannot become www-data: .*not permitted$"):
        drop(WWW, None)
    assert kernel.calls[-1] == step, "nothing is tried after that"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_does_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    Kernel(monkeypatch, keeps=step)
    with pytest.raises(PrivilegeError, match="was not complete"):
        drop(WWW, None)


def test_capabilities_that_stay_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch)
    monkeypatch.setattr(privileges, "_capabilities", lambda: [0, 1 << 7, 0])
    with pytest.raises(PrivilegeError, match="was not complete"):
        drop(WWW, None)


@pytest.mark.parametrize("way", STEPS)
def test_a_way_back_is_found_out(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    Kernel(monkeypatch)
    monkeypatch.setattr(
        privileges, "_is", lambda identity: monkeypatch.setattr(os, way, lambda *_: None) or True
    )
    with pytest.raises(PrivilegeError, match="could become root again"):
        drop(WWW, None)


def test_who_stays_root_keeps_what_root_has(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    drop(Identity(0, 33, (33,), "root"), None)
    assert kernel.calls == ["setgroups", "setresgid", "setresuid"]


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("user", "4294967295", "process.user: 4294967295 is no number of a user; 4294967294 is the last"),
        ("group", "99999999999999999999", "process.group: 9999.* is no number of a group"),
        ("user", "²", "process.user: there is no user '²'"),
        ("group", "-1", "process.group: there is no group '-1'"),
    ],
)
def test_numbers_that_are_none(key: str, text: str, problem: str) -> None:
    with pytest.raises(PrivilegeError, match=problem):
        resolve(replace(ProcessConfig(), **{key: text}))  # type: ignore[arg-type]


# The pidfile, in a folder where others may have put something


def refused(path: Path, why: str) -> None:
    with pytest.raises(PidfileError, match=why) as caught:
        Pidfile.take(path, 4711)
    assert "\n" not in str(caught.value)


def test_a_pidfile_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("17\n")
    path = tmp_path / "run.pid"
    path.symlink_to(victim)
    refused(path, "it is a symbolic link; remove it")
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    refused(path, "it is a symbolic link; remove it")
    assert not (tmp_path / "nothing").exists()
    path.unlink()
    os.link(victim, path)
    refused(path, "has another name elsewhere")
    assert victim.read_text() == "17\n"


@pytest.mark.parametrize("content", ["root:x:0:0\n", "# settings\n17\n", "\n", "²\n"])
def test_what_is_no_pidfile_is_not_written_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.pid"
    path.write_text(content)
    refused(path, "holds something else than the number of a process")
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["", "17\n", "17", "17\nand more\n"])
def test_one_that_a_dead_master_has_left_is_taken(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.pid"
    path.write_text(content)
    pidfile = Pidfile.take(path, 4711)
    assert path.read_text() == "4711\n"
    pidfile.remove()
    assert not path.exists()


def test_nobody_has_to_wait_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.pid")
    refused(tmp_path / "run.pid", "is no regular file")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(tmp_path / "run.sock"))
    refused(tmp_path / "run.sock", "cannot write")


def test_a_new_pidfile_is_writable_for_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        pidfile = Pidfile.take(tmp_path / "run.pid", 4711)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.pid").stat().st_mode) == 0o644
    pidfile.remove()


@pytest.mark.root
def test_a_pidfile_of_another_user_is_not_used(tmp_path: Path) -> None:
    """Who owns it may write another number into it, and root's `kill` would believe it."""
    path = tmp_path / "run.pid"
    path.write_text("17\n")
    os.chown(path, NOBODY, NOBODY)
    refused(path, f"belongs to user {NOBODY}")


# Unix sockets


def bind(path: Path, access: Access = Access(umask=0o177)) -> Listener:  # noqa: B008 - frozen
    return bind_unix(UnixAddress(path), 16, access)


def test_a_socket_has_its_mode_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Socket(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:  # what comes after bind
            seen.append(stat.S_IMODE((tmp_path / "run.sock").lstat().st_mode))
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Socket)
    listener = bind(tmp_path / "run.sock")
    assert seen == [0o600]
    listener.close()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_socket_is_not_made_in_place_of_a_file(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "run.sock"
    os.link(victim, path) if kind == "file" else path.symlink_to(victim)
    with pytest.raises(ListenError, match="a file that is not a socket is in the way"):
        bind(path)
    assert victim.read_text() == "precious"


@pytest.mark.root
@pytest.mark.parametrize("replaced_by", ["hard link", "symbolic link", "foreign socket"])
def test_only_the_socket_itself_is_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced_by: str
) -> None:
    """Somebody who may write to the folder puts a file of root's in its place between bind and chown."""
    victim, path = tmp_path / "victim", tmp_path / "run.sock"
    victim.write_text("precious")

    class Socket(socket.socket):
        def bind(self, address: Any, /) -> None:
            super().bind(address)
            path.unlink()
            if replaced_by == "hard link":
                os.link(victim, path)
            elif replaced_by == "symbolic link":
                path.symlink_to(victim)
            else:
                subprocess.run(
                    [
                        sys.executable,
                        "-c",
                        "import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])",
                        path,
                    ],
                    check=True,
                )
                os.chown(path, NOBODY, NOBODY)

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(ListenError, match="a file of another user is in the way"):
        bind(path, Access(0o077, NOBODY, NOBODY))
    assert victim.stat().st_uid == 0
    assert victim.read_text() == "precious"


@pytest.mark.root
def test_a_dead_socket_of_another_user_stays_where_everybody_may_write(tmp_path: Path) -> None:
    path = tmp_path / "run.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(path))
    os.chown(path, NOBODY, NOBODY)
    tmp_path.chmod(0o1777)
    with pytest.raises(ListenError, match="a file of another user is in the way"):
        bind(path)
    bind(path, Access(0o077, NOBODY, NOBODY)).close()  # whom it was given to the last time
    assert not path.exists()
