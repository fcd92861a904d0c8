"""What every test gets: a clean path and environment, and a skip where user or machine lack something.

`.venv/bin/pytest` never puts the repository on sys.path, `python -m pytest` does: it is taken off again here, so that
the rooms can be reached as `serverd.config` and never as `config`. Helpers are imported as `from tests.support...`
or relatively; pytest's importlib mode makes `tests` a package without any path entry.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# What the shell, a service manager or a platform says to a server is not said to the servers that tests start.
TO_A_SERVER = ("SERVERD_", "LISTEN_", "PORT", "WEB_CONCURRENCY", "NOTIFY_SOCKET", "WATCHDOG_", "FDSTORE")
for name in [name for name in os.environ if name.startswith(TO_A_SERVER)]:
    del os.environ[name]

# A deadline per example measures the machine and not the code; the timeout per test bounds the whole.
settings.register_profile("serverd", deadline=None)
settings.load_profile("serverd")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this user or this machine cannot run, saying what is missing."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("systemd") and shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: apt-get install systemd)")
