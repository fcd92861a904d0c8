"""--reload with real files: what a developer sees from saving a file to the new code's answer."""

import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, alive, title, wait_until
from tests.support.probe import source

from .test_master_lifecycle import get

# The promise is 0.5 s and the application's own import; a machine that runs other things is given more here, and the
# best of several saves is what counts.
PROMISED = 0.5


def watched(tmp_path: Path, app: str, **more: object) -> Daemon:
    """A daemon with --reload that says it is watching."""
    daemon = Daemon(tmp_path, app=app, args=["--reload"], **more)  # type: ignore[arg-type]
    try:
        daemon.wait_ready()
        daemon.wait_for_line("watching")
    except AssertionError:
        daemon.close()
        raise
    return daemon


def serves(daemon: Daemon, version: str) -> bool:
    return get(daemon).body.startswith(version.encode() + b" ")


def test_a_saved_file_serves_within_half_a_second(tmp_path: Path) -> None:
    with watched(tmp_path, source("v0")) as daemon:
        times = []
        for number in range(1, 5):
            began = time.monotonic()
            daemon.write_app(source(f"v{number}"))
            wait_until(partial(serves, daemon, f"v{number}"), "the new code answers")
            times.append(time.monotonic() - began)
            wait_until(lambda: len(daemon.workers()) == 1, "the old one is gone")
        print(f"from saving to the new answer: {', '.join(f'{seconds:.3f} s' for seconds in times)}")
        assert min(times) < PROMISED
        assert daemon.count(r"reload: demo\.py changed") == 4
        daemon.wait_for_line(r"generation 5 ready in \d\.\d\d s")


def test_once_the_new_code_is_ready_the_old_never_answers(tmp_path: Path) -> None:
    """An idle connection is handed over, so that a browser cannot reach the old generation through it."""
    with watched(tmp_path, source("v1")) as daemon, RawClient(("127.0.0.1", daemon.port)) as browser:
        assert browser.get("/").body.startswith(b"v1 ")
        daemon.write_app(source("v2"))
        daemon.wait_for_line("generation 2 ready")
        wait_until(
            lambda: browser.get("/").body.startswith(b"v2 "), "the new code answers on the same connection"
        )
        wait_until(lambda: serves(daemon, "v2"), "the new code answers")


def test_a_broken_file_then_a_good_one(tmp_path: Path) -> None:
    with watched(tmp_path, source("v1"), config={"workers": {"processes": 2}}) as daemon:
        daemon.write_app("def broken(:\n")
        daemon.wait_for_line("reload failed: still serving generation 1")
        daemon.wait_for_line("SyntaxError")
        assert daemon.count(r"^\s+SyntaxError: ") == 1
        assert serves(daemon, "v1")
        daemon.write_app(source("v3"))
        daemon.wait_for_line("generation 3 ready")
        wait_until(lambda: serves(daemon, "v3"), "the repaired code answers")


def test_the_configuration_is_watched_too(tmp_path: Path) -> None:
    with watched(tmp_path, source("v1")) as daemon:
        daemon.write_config({"workers": {"processes": 2}, "reload": {"enabled": True}})
        daemon.wait_for_line(r"reload: server\.yaml changed")
        daemon.wait_for_line(r"generation 2 ready in .*: 2 processes")


def test_a_configuration_outside_the_watched_folders_is_watched(tmp_path: Path) -> None:
    code, settings = tmp_path / "code", tmp_path / "settings"
    code.mkdir()
    settings.mkdir()
    config = {"app_dir": str(code), "reload": {"enabled": True, "dirs": [str(code)]}}
    with Daemon(settings, config=config, start=False) as daemon:
        (code / "demo.py").write_text(source("v1"))
        daemon.start()
        daemon.wait_ready()
        daemon.wait_for_line("watching")
        (settings / "other.yaml").write_text("not ours")
        daemon.write_config({**config, "workers": {"processes": 2}})
        daemon.wait_for_line(r"reload: server\.yaml changed")
        daemon.wait_for_line(r"generation 2 ready in .*: 2 processes")


def test_reloading_can_be_switched_off_and_on_by_the_file(tmp_path: Path) -> None:
    on = {"reload": {"enabled": True}}
    with Daemon(tmp_path, app=source("v1"), config=on) as daemon:
        daemon.wait_for_line("watching")
        watcher = _watcher(daemon)
        daemon.write_config({})
        daemon.wait_for_line("generation 2 ready")
        wait_until(lambda: not alive(watcher), "the watcher is gone")
        mark = daemon.mark()
        daemon.write_config(on)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("watching", after=mark)


def test_only_what_counts_and_each_save_once(tmp_path: Path) -> None:
    config = {"reload": {"include": ["*.py", "templates/*.html"], "exclude": ["generated", "local_*.py"]}}
    for folder in ("templates", "generated", "__pycache__", ".git", "node_modules/x", "package"):
        (tmp_path / folder).mkdir(parents=True)
    with watched(tmp_path, source("v1"), config=config) as daemon:
        for name in (
            "notes.txt",
            "generated/models.py",
            "local_settings.py",
            "__pycache__/demo.py",
            ".git/hook.py",
            "node_modules/x/setup.py",
            "index.html",
        ):
            (tmp_path / name).write_text("x = 1\n")
        (tmp_path / "templates" / "page.html").write_text("<p>")
        daemon.wait_for_line(r"reload: templates/page\.html changed")
        daemon.wait_for_line("generation 2 ready")
        (tmp_path / "package" / "new.py").write_text("x = 1\n")
        daemon.wait_for_line(r"reload: package/new\.py changed")
        daemon.wait_for_line("generation 3 ready")
        (tmp_path / "package" / "new.py").unlink()
        daemon.wait_for_line(r"reload: package/new\.py is gone")
        daemon.wait_for_line("generation 4 ready")
        assert daemon.count("reload: ") == 3


def test_many_files_at_once_are_one_reload(tmp_path: Path) -> None:
    with watched(tmp_path, source("v1"), config={"reload": {"debounce": "5s"}}) as daemon:
        for number in range(40):
            (tmp_path / f"module_{number:02d}.py").write_text("x = 1\n")
        changed = 0
        while changed < 40:  # one, unless this test was stopped for 50 ms between two of them
            line = daemon.wait_for_line(rf"reload: module_{changed:02d}\.py (?:and (\d+) more )?changed")
            changed += 1 + int(line[1] or 0)
        assert daemon.count("reload: ") <= 3


def test_a_change_during_the_boot_supersedes_it(tmp_path: Path) -> None:
    """The newest wins, at once: the one that boots has perhaps read half of the old files."""
    slow = "import time\nwhile True: time.sleep(0.01)"
    with watched(tmp_path, source("v1")) as daemon:
        daemon.write_app(source("v2", top=slow))
        wait_until(
            lambda: "serverd: worker 0 g2" in map(title, daemon.workers()), "the next generation boots"
        )
        daemon.write_app(source("v3"))
        daemon.wait_for_line("generation 3 ready")
        wait_until(lambda: serves(daemon, "v3"), "the newest code answers")
        wait_until(lambda: len(daemon.workers()) == 1, "what was superseded is gone", timeout=30.0)


def test_a_change_before_the_watcher_watches_is_not_lost(tmp_path: Path) -> None:
    """The application reads its file and changes it at once, long before the watcher has started."""
    once = """
from pathlib import Path
me = Path(__file__)
if VERSION == "v1":
    me.write_text(me.read_text().replace("VERSION = 'v1'", "VERSION = 'v2'"))
"""
    with Daemon(tmp_path, app=source("v1", top=once), args=["--reload"]) as daemon:
        daemon.wait_for_line(r"reload: demo\.py changed")
        wait_until(lambda: serves(daemon, "v2"), "the newest code answers")


def test_a_dead_watcher_is_replaced_and_nothing_is_missed(tmp_path: Path) -> None:
    with watched(tmp_path, source("v1")) as daemon:
        watcher = _watcher(daemon)
        os.kill(watcher, signal.SIGSTOP)
        daemon.write_app(source("v2"))
        os.kill(watcher, signal.SIGKILL)
        daemon.wait_for_line(
            rf"the watcher \(pid {watcher}\) was killed by SIGKILL; it starts again in 0\.1 s"
        )
        daemon.wait_for_line(r"reload: demo\.py changed")
        wait_until(lambda: serves(daemon, "v2"), "the new code answers")


def test_a_folder_that_cannot_be_watched_is_named_and_the_server_serves(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source("v1"), config={"reload": {"enabled": True, "dirs": ["gone"]}}) as daemon:
        if daemon.wait_for_line("generation 1 ready|reload.dirs")[0] == "reload.dirs":
            assert daemon.wait_exit() == 2  # the configuration has refused it
            return
        daemon.wait_for_line("cannot watch for changes: .*gone")
        assert get(daemon).status == 200


def test_on_a_terminal_it_is_pleasant(tmp_path: Path) -> None:
    config = {"logging": {"format": "auto", "level": "info"}}
    env = {"TERM": "xterm", "NO_COLOR": None}
    with Daemon(
        tmp_path, app=source("v1"), config=config, args=["--reload"], terminal=True, env=env
    ) as daemon:
        daemon.wait_for_line("watching")
        daemon.write_app(source("v2"))
        daemon.wait_for_line(r"reload: demo\.py changed")
        daemon.wait_for_line(r"generation 2 ready in \d\.\d\d s: 1 process × 2 threads")
        assert "\x1b[" in daemon.log
        plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in daemon.lines]
        assert all(re.match(r"\d\d:\d\d:\d\d  master +\w", line) for line in plain), plain
        assert len(plain) == 5, "no line that a person could do without"
        daemon.press("\x03")
        assert daemon.wait_exit() == 0


@pytest.mark.parametrize("editor", ["in place", "backup and rename", "truncate, pause, write"])
def test_every_way_to_save(tmp_path: Path, editor: str) -> None:
    with watched(tmp_path, source("v1")) as daemon:
        file = daemon.app_file
        if editor == "in place":
            file.write_text(source("v2"))
        elif editor == "backup and rename":  # vim's backupcopy=no
            file.rename(tmp_path / "demo.py~")
            file.write_text(source("v2"))
            (tmp_path / "demo.py~").unlink()
        else:  # the half-written file may be seen: the one that follows supersedes it, or is one more reload
            file.write_text("")
            daemon.wait_for_line(r"reload: demo\.py changed")
            file.write_text(source("v2"))
        wait_until(lambda: serves(daemon, "v2"), "the new code answers")


def _watcher(daemon: Daemon) -> int:
    (found,) = [pid for pid in daemon.children() if title(pid) == "serverd: watcher"]
    return found
