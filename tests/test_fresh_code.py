"""Code that is saved twice in one second is served as it was saved last."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = False
from serverd.server.fresh_code import leave_recent_uncompiled
leave_recent_uncompiled()
import saved
print(saved.VERSION)
"""


def version(folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CHILD, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def compiled(folder: Path) -> list[Path]:
    return list((folder / "__pycache__").glob("saved.*.pyc"))


def test_saved_twice_in_one_second_with_the_same_size(tmp_path: Path) -> None:
    source = tmp_path / "saved.py"
    second = int(time.time())
    for number in (1, 2, 3):
        source.write_text(f"VERSION = {number}\n")
        os.utime(source, (second + 60, second + 60))  # the same time of change each time, and a recent one
        assert version(tmp_path) == str(number)
    assert compiled(tmp_path) == []


def test_what_is_older_is_compiled_once(tmp_path: Path) -> None:
    source = tmp_path / "saved.py"
    source.write_text("VERSION = 1\n")
    old = time.time() - 60
    os.utime(source, (old, old))
    assert version(tmp_path) == "1"
    (file,) = compiled(tmp_path)
    before = file.stat().st_mtime_ns
    assert version(tmp_path) == "1"
    assert file.stat().st_mtime_ns == before
