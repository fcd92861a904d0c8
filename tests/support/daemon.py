"""One real serverd for a test: start it, wait for a line of its log, signal it, ask for its exit status.

    with Daemon(tmp_path, app=HELLO) as daemon:
        daemon.wait_ready()
        assert get(daemon.port, "/").status == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0

Promises: nothing that was started here outlives the `with` block (its whole process group is killed, by
number); the log is printed at the end, so that pytest shows it when the test fails. Nothing waits by sleeping:
a line, an exit or a condition is awaited, each with a deadline, and missing one raises AssertionError with the
log so far.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

_ports = itertools.count()

# Generous, as a test machine may be busy with something else; a test that passes never waits so long.
PATIENCE = 20.0

HELLO = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b"hello"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


# Make the terminal on standard input the controlling one of this new session, then become the command.
_ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free, and that neither the kernel nor another run of the tests gives to somebody
    else before it is used, unless by a rare chance. Prefer `listen: 127.0.0.1:0` and `Daemon.port`."""
    while True:
        # Below the ports that the kernel chooses from (ip_local_port_range), from a place of this process.
        port = 10_000 + (os.getpid() * 101 + next(_ports)) % 20_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def sockets(pid: int) -> int:
    """How many sockets the process has open."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return found


def wait_until[T](condition: Callable[[], T], what: str = "the condition", timeout: float = PATIENCE) -> T:
    """The first true value of `condition()`. Raises AssertionError naming `what` when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout:g} s"
        time.sleep(0.005)
    return value


def wait_for_more(things: Sized, count: int, timeout: float = PATIENCE) -> None:
    """Wait until `things`, which others fill, has `count` more than now."""
    enough = len(things) + count
    wait_until(lambda: len(things) >= enough, f"{count} more", timeout)


class Daemon:
    """A serverd (or any other command, with `argv`) in its own session, and the lines that it writes.

    `app` is the source of `demo.py`, served as `demo:app`; `config` is laid over the defaults below, a level deep
    (`config={"workers": {"processes": 2}}`), and a value of None takes a key out. `args` go to the command line.
    `env` is laid over this process's environment; None takes a variable out. With `terminal` the standard streams are a
    terminal of its own, on which `press` types.

    `lines` grows by a thread of its own: list.append is atomic, and readers only look at what is there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        app: str = HELLO,
        config: Mapping[str, Any] | None = None,
        args: Sequence[str] = (),
        argv: Sequence[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        pass_fds: Sequence[int] = (),
        terminal: bool = False,
        start: bool = True,
    ) -> None:
        self.folder = folder
        self.app_file = folder / "demo.py"
        self.config_file = folder / "server.yaml"
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._args = list(args)
        self._argv = None if argv is None else list(argv)
        self._env = dict(env or {})
        self._pass_fds = tuple(pass_fds)
        self._terminal = terminal
        self.keyboard = -1  # the other side of its terminal
        self._hung_up = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self.write_app(app)
        self.write_config(config or {})
        if start:
            self.start()

    # Before and while it runs

    def write_app(self, source: str) -> None:
        """Replace `demo.py` in one step, as editors do."""
        _replace(self.app_file, source)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace `server.yaml`: the defaults for tests with `config` laid over them."""
        merged: dict[str, Any] = {
            "app": "demo:app",
            "listen": ["127.0.0.1:0"],
            "workers": {"processes": 1, "threads": 2},
            "timeouts": {"boot": "20s", "graceful": "10s"},
            "logging": {"format": "text", "level": "debug"},
        }
        for key, value in config.items():
            if value is None:
                merged.pop(key, None)
            elif isinstance(value, Mapping) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            else:
                merged[key] = value
        _replace(self.config_file, yaml.safe_dump(merged))

    def start(self) -> None:
        """Start the process; returns at once. One that was started before is put away first, its log stays."""
        self._put_away()
        environ = {key: value for key, value in os.environ.items() if not key.startswith("SERVERD_")}
        environ["PYTHONUNBUFFERED"] = "1"
        for key, value in self._env.items():
            if value is None:
                environ.pop(key, None)
            else:
                environ[key] = value
        argv = self._argv or [sys.executable, "-m", "serverd", "-c", str(self.config_file), *self._args]
        if self._terminal:
            ours, theirs = pty.openpty()
            self.keyboard = os.dup(ours)
            argv = [sys.executable, "-c", _ON_A_TERMINAL, *argv]
        else:
            ours, theirs = os.pipe()
        self._process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=environ,
            stdin=theirs if self._terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            pass_fds=self._pass_fds,
            start_new_session=True,
        )
        os.close(theirs)
        self._hung_up = os.eventfd(0)
        self._reader = threading.Thread(target=self._read, args=(ours, self._hung_up), daemon=True)
        self._reader.start()

    # Its log

    def _read(self, output: int, hung_up: int) -> None:
        """Collect lines until the last writer is gone, or nobody wants to read any more. Closes what it is given."""
        rest = b""
        while True:
            ready, _, _ = select.select([output, hung_up], [], [])
            try:
                data = os.read(output, 65536) if hung_up not in ready else b""
            except OSError:  # EIO: the last process has left the terminal
                data = b""
            *whole, rest = (rest + data).split(b"\n")
            if not data and rest:
                whole.append(rest)
            with self._grown:
                self.lines.extend(raw.decode(errors="replace").rstrip("\r") for raw in whole)
                self._grown.notify_all()
            if not data:
                break
        os.close(output)
        with self._grown:
            self._grown.notify_all()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, timeout: float = PATIENCE, *, after: int = 0) -> re.Match[str]:
        """The match of the first line, from line number `after` on, in which `pattern` is found (re.search)."""
        deadline = time.monotonic() + timeout
        seen = after
        with self._grown:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = max(seen, len(self.lines))
                over = self._reader is not None and not self._reader.is_alive()
                left = deadline - time.monotonic()
                if over or left <= 0:
                    why = "it has ended" if over else f"after {timeout:g} s"
                    raise AssertionError(f"no line matches {pattern!r} ({why}):\n{self.log}")
                self._grown.wait(min(left, 0.5))

    def count(self, pattern: str) -> int:
        """In how many lines so far `pattern` is found."""
        return sum(1 for line in self.lines if re.search(pattern, line))

    def mark(self) -> int:
        """The number of the next line, for `wait_for_line(..., after=mark)`."""
        return len(self.lines)

    def wait_ready(self, timeout: float = PATIENCE) -> Self:
        """Wait until the first generation serves."""
        self.wait_for_line(r"generation \d+ ready", timeout)
        return self

    @property
    def port(self) -> int:
        """The TCP port it listens on, as its log says."""
        return int(self.wait_for_line(r"listening on https?://\S+:(\d+)")[1])

    # The process

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        """The processes whose parent is the master, by number."""
        return _children(self.pid)

    def workers(self) -> list[int]:
        """The children that carry the title of a worker."""
        return [pid for pid in self.children() if "worker" in title(pid)]

    def signal(self, number: int) -> None:
        """Send the signal to the master alone."""
        os.kill(self.pid, number)

    def press(self, keys: str) -> None:
        """Type on its terminal; `\\x03` is Ctrl-C, which the kernel makes a SIGINT for all of the foreground group."""
        os.write(self.keyboard, keys.encode())

    def hang_up(self) -> None:
        """Close its terminal, as closing the window does."""
        os.close(self.keyboard)
        self.keyboard = -1
        os.eventfd_write(self._hung_up, 1)

    def wait_exit(self, timeout: float = PATIENCE) -> int:
        """Its exit status (negative: the signal). Its log is complete unless somebody else holds the pipe."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.log}") from None
        if self._reader is not None:
            self._reader.join(2.0)
        return status

    def close(self) -> None:
        """Kill what is left of the process group, and print the log for pytest to show."""
        self._put_away()
        if self._process is None:
            return
        print(
            f"--- the log of {self._process.args!r}, exit status {self._process.returncode} ---\n{self.log}"
        )

    def _put_away(self) -> None:
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(PATIENCE)
        if self._reader is not None:
            self._reader.join(2.0)
            if self._reader.is_alive():  # somebody in another session still holds the pipe
                os.eventfd_write(self._hung_up, 1)
                self._reader.join(PATIENCE)
            self._reader = None
            os.close(self._hung_up)
        if self.keyboard >= 0:
            os.close(self.keyboard)
            self.keyboard = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def title(pid: int) -> str:
    """What process lists show for `pid`; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether `pid` exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
