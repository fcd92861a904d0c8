"""Which changes count, how they are named, and what changed before the watcher was there: files, but no processes."""

import json
import os
import time
from pathlib import Path

import pytest

from serverd.supervisor.watcher import WatchOrder, changed_since, describe, wanted

ORDER = WatchOrder(
    dirs=("/srv/app", "/srv/lib"),
    include=("*.py", "templates/*.html"),
    exclude=("generated", "local_*.py", "tests/data"),
    debounce=0.2,
    source="/etc/server.yaml",
    since=0.0,
)


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("/srv/app/main.py", True),
        ("/srv/app/deep/down/main.py", True),
        ("/srv/lib/tool.py", True),
        ("/srv/app/templates/page.html", True),
        ("/etc/server.yaml", True),
        ("/srv/app/page.html", False),  # a pattern with a slash is about the path
        ("/srv/app/deep/templates/page.html", False),
        ("/srv/app/readme.txt", False),
        ("/srv/application/main.py", False),  # beside the folder, not in it
        ("/srv/app", False),
        ("/etc/other.yaml", False),
        ("/srv/app/generated/models.py", False),
        ("/srv/app/deep/generated/more/models.py", False),
        ("/srv/app/local_settings.py", False),
        ("/srv/app/tests/data/case.py", False),
        ("/srv/app/deep/tests/data/case.py", True),
        ("/srv/app/__pycache__/main.py", False),
        ("/srv/app/.venv/lib/x.py", False),
        ("/srv/app/.git/hooks/x.py", False),
        ("/srv/app/node_modules/x/setup.py", False),
    ],
)
def test_what_counts(path: str, counts: bool) -> None:
    assert wanted(path, ORDER) is counts


def test_the_root_folder_can_be_watched() -> None:
    order = WatchOrder(("/",), ("*.py",), (), 0.2, None, 0.0)
    assert wanted("/main.py", order)
    assert not wanted("/proc/main.txt", order)


def test_names_are_those_that_a_person_would_use(tmp_path: Path) -> None:
    near = [tmp_path / "project", tmp_path]
    (tmp_path / "project" / "app").mkdir(parents=True)
    one, other = tmp_path / "project" / "app" / "main.py", tmp_path / "lib.py"
    one.touch()
    other.touch()
    assert describe([str(one)], 0, near) == "app/main.py changed"
    assert describe([str(other)], 0, near) == "lib.py changed"
    assert describe(["/etc/hostname"], 0, near) == "/etc/hostname changed"
    assert describe([str(one), str(other)], 0, near) == "app/main.py and 1 more changed"
    assert describe([str(one), str(other)], 40, near) == "app/main.py and 41 more changed"
    one.unlink()
    assert describe([str(one)], 0, near) == "app/main.py is gone"


def test_what_changed_while_nobody_watched(tmp_path: Path) -> None:
    for name in ("old.py", "renamed-from.py", "ignored.txt", "__pycache__/new.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    settled = max(entry.stat().st_ctime for entry in tmp_path.rglob("*"))
    while time.time() < settled + 0.1:  # until the kernel's clock for files has moved on
        time.sleep(0.01)
    since = time.time()
    (tmp_path / "new.py").touch()
    (tmp_path / "ignored.txt").write_text("x")
    (tmp_path / "renamed-from.py").rename(tmp_path / "renamed-to.py")
    os.utime(tmp_path / "renamed-to.py", (0, 0))  # as archives and rsync do
    (tmp_path / "gone.py").symlink_to("nowhere")
    order = WatchOrder((str(tmp_path),), ("*.py",), (), 0.2, str(tmp_path / "none.yaml"), since)
    assert sorted(changed_since(order)) == [str(tmp_path / "new.py"), str(tmp_path / "renamed-to.py")]


def test_the_order_travels_as_one_statement() -> None:
    nasty = WatchOrder(("/srv/a'b\"c\\{fd}",), ("*.py",), (), 0.2, None, 1.5)
    told: list[tuple[int, str]] = []
    code = nasty.code().replace("from serverd.supervisor.watcher import main; ", "")
    exec(code.replace("{fd}", "7", 1), {"main": lambda fd, text: told.append((fd, text))})  # noqa: S102 - as -c would
    assert told[0][0] == 7
    assert json.loads(told[0][1])["dirs"] == list(nasty.dirs)
