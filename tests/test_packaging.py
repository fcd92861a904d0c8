"""A wheel made from the sdist, and an editable install, hold all of serverd and nothing beside it.

Everything is built from a copy of the tree, without a network: the build backend and the dependencies are those of
the environment that runs the tests.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("config", "server", "supervisor")
UNITS = sorted(path.name for path in (ROOT / "systemd").glob("*") if path.suffix in {".service", ".socket"})
NOT_SOURCES = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "*.db*", "*.control")

# Loads each room, what is at the bottom of one, the units and the marker for type checkers; says where it all is.
TRY_IT = f"""
import importlib.resources, pathlib, sys
sys.path[:0] = sys.argv[1:]
import serverd, serverd.config, serverd.server.http, serverd.supervisor.cli
files = importlib.resources.files(serverd)
assert (files / "py.typed").is_file(), "py.typed"
for unit in {UNITS!r}:
    assert "[Unit]" in (files / "systemd" / unit).read_text(), unit
print(pathlib.Path(serverd.__file__).parent)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; fails the test with what it wrote to standard error when it does not exit 0."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is committed, links as links."""
    target = tmp_path_factory.mktemp("packaging") / "serverd"
    shutil.copytree(ROOT, target, symlinks=True, ignore=NOT_SOURCES)
    return target


@pytest.fixture(scope="module")
def sdist(copy: Path) -> Path:
    """The source distribution that `python -m build --sdist` makes."""
    out = copy.parent / "sdist"
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ".", cwd=copy)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that pip makes from the sdist alone."""
    out = sdist.parent.parent / "wheel"
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", out, sdist, cwd=sdist.parent)
    (made,) = out.iterdir()
    return made


def environment(folder: Path) -> Path:
    """A virtual environment that has our dependencies and no serverd; its interpreter.

    The dependencies are seen through a .pth file: .pth files that stand in a folder named by another are not read, so
    the editable serverd of this environment stays out.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def pip_install(python: Path, *what: str | Path) -> None:
    """`pip install` into that environment from local files only."""
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, cwd=python.parent)


def test_there_are_units_to_pack() -> None:
    assert UNITS, "no units in systemd/"


def test_the_sdist_holds_files_and_no_links(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    top = sdist.name.removesuffix(".tar.gz")
    names = {member.name.removeprefix(f"{top}/") for member in members}
    assert not [member.name for member in members if member.issym() or member.islnk()]
    assert {"pyproject.toml", "README.md", "LICENSE", "src/serverd/config/model.py"} <= names
    assert not [name for name in names if name.startswith("tests/")], "a part of the tests is of no use"


def test_the_wheel_holds_every_file_of_the_rooms_and_nothing_beside_serverd(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    wanted = {f"serverd/{path.relative_to(ROOT)}" for path in ours if path.suffix != ".pyc"}
    assert wanted - names == set()
    assert {f"serverd/systemd/{unit}" for unit in UNITS} - names == set()
    assert {"serverd/__init__.py", "serverd/__main__.py", "serverd/py.typed"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"serverd"}


def test_an_unpacked_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    assert run(sys.executable, "-I", "-c", TRY_IT, tmp_path, cwd=Path("/")) == str(tmp_path / "serverd")


def test_an_installed_wheel_imports_and_has_the_command(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    pip_install(python, wheel)
    where = run(python, "-I", "-c", TRY_IT, cwd=tmp_path)
    assert where.startswith(str(tmp_path))
    assert "usage: serverd" in run(python.with_name("serverd"), "--help", cwd=tmp_path)
    assert "usage: serverd" in run(python, "-m", "serverd", "--help", cwd=tmp_path)


def test_an_editable_install_imports_from_the_tree_and_has_the_command(copy: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    pip_install(python, "--editable", copy)
    assert run(python, "-I", "-c", TRY_IT, cwd=tmp_path) == str(copy / "src" / "serverd")
    assert "usage: serverd" in run(python.with_name("serverd"), "--help", cwd=tmp_path)


def test_the_constraints_hold_versions_and_no_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 30
    for pin in pins:
        name, equals, version = pin.partition("==")
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), pin
        assert equals, pin
        assert version[0].isdigit(), pin
        assert not set(version) & set(" @:/;"), pin
