"""Children that die: the master says which requests they held, and what they have left behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serverd.server import stacks
from tests.support.daemon import Daemon, wait_until

from .test_hanging import asking, served_by_another

APP = """
import asyncio, ctypes, os, signal, threading

together = threading.Barrier(2)

def fall():
    ctypes.string_at(0)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    if path == "/together":
        together.wait(60)
        together.wait(60)
    elif path in ("/fall", "/exit", "/kill"):
        together.wait(60)
        if path == "/fall":
            fall()
        if path == "/exit":
            os._exit(7)
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/eat":
        len(b"x" * (400 << 20))
    elif path == "/wait":
        await asyncio.sleep(60)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize(
    ("path", "how", "preload"),
    [
        ("/fall", r"was killed by SIGSEGV", False),
        ("/fall", r"was killed by SIGSEGV", True),
        ("/exit", r"exited with status 7", False),
        ("/kill", r"was killed by SIGKILL \(by hand, ", False),
    ],
)
def test_the_requests_that_a_dead_child_held_are_named(
    tmp_path: Path, path: str, how: str, preload: bool
) -> None:
    config = {"workers": {"threads": 2, "preload": preload}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        (victim,) = daemon.workers()
        with asking(daemon, "/together?secret", path):
            daemon.wait_for_line(rf" error .*worker 0 g1 \(pid {victim}\) {how}.*; a new one starts in")
            held = rf"worker 0 g1 \(pid {victim}\) held 2 requests: "
            daemon.wait_for_line(
                rf" error .*{held}GET /\w+ \(\d\.\d s, thread \d+\); GET /\w+ \(\d\.\d s, thread \d+\)$"
            )
            daemon.wait_for_line(rf"{held}.*GET {path} ")
            daemon.wait_for_line(rf"{held}.*GET /together ")
            daemon.wait_for_line(
                rf"worker 0 g1 \(pid {victim}\) had \d+ MiB of memory when it was last looked at"
            )
            if path == "/fall":
                daemon.wait_for_line(r"left these last words:$")
                daemon.wait_for_line(r"Fatal Python error: Segmentation fault")
                daemon.wait_for_line(r'demo\.py", line \d+ in fall')
        assert served_by_another(daemon, victim)
        assert daemon.count("secret") == 0


@pytest.mark.parametrize("workers", [{}, {"preload": True}, {"start_method": "spawn"}])
def test_a_stack_that_was_asked_for_is_nobodys_last_word(tmp_path: Path, workers: dict[str, object]) -> None:
    with Daemon(tmp_path, app=APP, config={"workers": workers}) as daemon:
        daemon.wait_ready()
        (victim,) = daemon.workers()
        os.kill(victim, stacks.SIGNAL)  # the answer comes when nobody waits for it any more
        folder = Path(f"/proc/{daemon.pid}/fd")
        (file,) = [link for link in folder.iterdir() if "serverd-stacks" in os.readlink(link)]
        wait_until(lambda: "Stack (most recent" in file.read_text(), "it has written its stack")
        os.kill(victim, signal.SIGKILL)
        daemon.wait_for_line(rf"worker 0 g1 \(pid {victim}\) had \d+ MiB of memory")
        assert served_by_another(daemon, victim)
        assert daemon.count("last words") == 0


def test_requests_that_waited_in_a_loop_are_named_too(tmp_path: Path) -> None:
    config = {"workers": {"mode": "async"}, "timeouts": {"request": "100ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        (victim,) = daemon.workers()
        with asking(daemon, "/wait"):
            daemon.wait_for_line("GET /wait .* takes longer")  # so it is there
            os.kill(victim, signal.SIGKILL)
            daemon.wait_for_line(r"held 1 request: GET /wait \(\d\.\d s, waiting in an event loop\)")


# It has no descriptor of the memory, but root can open it again by the mapping.
CUTS = """
import os

paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
links = [os.readlink(path) for path in paths if os.path.lexists(path)]
print("descriptors of it:", sum("serverd-scoreboard" in link for link in links), flush=True)
for name in os.listdir("/proc/self/map_files"):
    path = f"/proc/self/map_files/{name}"
    try:
        if "serverd-scoreboard" in os.readlink(path):
            os.ftruncate(os.open(path, os.O_RDWR), 0)
    except OSError as error:
        print("cannot cut it:", error, flush=True)

"""


def test_an_application_that_cuts_the_shared_memory_harms_nobody(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=CUTS + APP) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("descriptors of it: 0")
        daemon.wait_for_line("cannot cut it: .* Operation not permitted")
        (victim,) = daemon.workers()
        os.kill(victim, signal.SIGKILL)  # the master reads what it has written
        daemon.wait_for_line(rf"worker 0 g1 \(pid {victim}\) was killed by SIGKILL")
        assert served_by_another(daemon, victim)


@contextmanager
def small_memory(size: int) -> Iterator[Path]:
    """A control group (v1, as root) in which processes have so many bytes together."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    ours = next((path for _, controllers, path in groups if controllers == "memory"), None)
    folder = Path(f"/sys/fs/cgroup/memory{ours}/serverd-test-{os.getpid()}")
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(size))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield folder
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), "the control group is empty")
        folder.rmdir()


def test_the_kernels_kill_for_want_of_memory_is_called_by_its_name(tmp_path: Path) -> None:
    with small_memory(150 << 20) as group:
        config = str(tmp_path / "server.yaml")
        script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        argv = ["sh", "-c", script, "sh", sys.executable, "-m", "serverd", "-c", config]
        with Daemon(tmp_path, app=APP, argv=argv) as daemon:
            daemon.wait_ready()
            (victim,) = daemon.workers()
            with asking(daemon, "/eat"):
                daemon.wait_for_line(
                    rf"pid {victim}\) was killed by SIGKILL "
                    r"\(by the kernel, for want of memory: oom_kill has grown by 1\)"
                )
                daemon.wait_for_line(r"held 1 request: GET /eat ")
            assert served_by_another(daemon, victim)


def test_a_child_that_leaves_in_good_order_has_no_last_words(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=APP) as daemon:
        daemon.wait_ready()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert daemon.count("held|last words|of memory") == 0
