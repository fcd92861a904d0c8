"""The layout: the rooms stand at the root, are linked into `src/serverd`, and have no other name.

A file that is loaded as `config.model` as well as `serverd.config.model` exists twice: two classes of one name, two
sets of module state, and an `except` that does not catch. And a top-level `config` would shadow the module of that
name of a user's application.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "serverd"
ROOMS = ("config", "server", "supervisor")
LINKS = (*ROOMS, "systemd")

# Imports every module of ours but the one that runs on import, and says what was loaded from where.
LOAD_EVERYTHING = """
import importlib, json, pkgutil, sys
import serverd
for module in pkgutil.walk_packages(serverd.__path__, "serverd."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(json.dumps({name: file for name, file in files.items() if file}))
"""


def loaded_in_rooms(modules: Iterable[tuple[str, str]]) -> dict[Path, list[str]]:
    """Of (module name, file), the real files that stand in a room or in the package, and the names they were given."""
    homes = [PACKAGE, *(ROOT / room for room in ROOMS)]
    names: dict[Path, list[str]] = {}
    for name, file in modules:
        real = Path(file).resolve()
        if any(real.is_relative_to(home) for home in homes):
            names.setdefault(real, []).append(name)
    return names


def check_names(names: Mapping[Path, list[str]]) -> None:
    """Raise AssertionError for a file with a name outside `serverd`, or with two names."""
    for file, given in names.items():
        assert len(given) == 1, f"{file} is loaded as {' and '.join(given)}"
        assert given[0] == "serverd" or given[0].startswith("serverd."), f"{file} is loaded as {given[0]}"


def test_every_file_of_ours_has_one_name_and_it_is_inside_serverd() -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-c", LOAD_EVERYTHING], capture_output=True, text=True, cwd="/"
    )
    assert run.returncode == 0, run.stderr
    names = loaded_in_rooms(json.loads(run.stdout).items())
    check_names(names)
    sources = {file for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    assert sources - set(names) == set(), "not importable as serverd.*: a folder without __init__.py?"


def test_the_guard_sees_a_second_name(tmp_path: Path) -> None:
    model = str(PACKAGE / "config" / "__init__.py")
    real = str(ROOT / "config" / "__init__.py")
    with pytest.raises(AssertionError, match="loaded as config"):
        check_names(loaded_in_rooms([("config", real)]))
    with pytest.raises(AssertionError, match=r"serverd\.config and config"):
        check_names(loaded_in_rooms([("serverd.config", model), ("config", real)]))
    assert loaded_in_rooms([("elsewhere", str(tmp_path / "config.py"))]) == {}


def test_nothing_in_this_run_was_loaded_under_a_second_name() -> None:
    files = ((name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items()))
    check_names(loaded_in_rooms((name, file) for name, file in files if file))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_not_importable_by_its_bare_name(room: str) -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-c", f"import {room}"], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode != 0
    assert f"No module named '{room}'" in run.stderr


@pytest.mark.parametrize("room", LINKS)
def test_a_link_is_relative_and_committed(room: str) -> None:
    link = PACKAGE / room
    assert link.is_symlink()
    assert str(link.readlink()) == f"../../{room}"
    assert link.resolve() == ROOT / room
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says what is committed")
    listed = subprocess.run(
        ["git", "ls-files", "--stage", f"src/serverd/{room}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.startswith("120000 "), f"src/serverd/{room} is not committed as a link"


def test_nothing_else_is_linked_into_the_package() -> None:
    assert sorted(entry.name for entry in PACKAGE.iterdir() if entry.is_symlink()) == sorted(LINKS)
