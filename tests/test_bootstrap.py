"""The set-up that `make` does: which interpreter it takes, how one is built, when `.venv` is made and when it is not.

The scripts run as they are, with a PATH of our own: real tools by link, and small scripts in the place of Python, uv,
pip and apt that answer as those do and write down how they were called.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
REAL_TOOLS = "awk cat cmp cp dirname echo env flock make mkdir mktemp mv nproc rm sed sleep sort tar xz"

# What tools/lib.sh asks of a candidate is answered with one line; everything else is written down.
PYTHON = """#!/bin/sh
case $* in *Py_GIL_DISABLED*) echo "{answer}" ;; *) echo "$0 $*" >>"$CALLS" ;; esac
"""

# `pip install --target FOLDER uv` makes the uv that stands beside the calls; `-m venv` makes a .venv with this script.
PYTHON_WITH_PIP = """#!/bin/sh
case $* in
*Py_GIL_DISABLED*) echo "free 3.14.7 $0" ;;
*--target*) while [ "$1" != --target ]; do shift; done; mkdir -p "$2/bin"; cp "$BORROWED_UV" "$2/bin/uv" ;;
*"-m venv"*) echo venv >>"$CALLS"; rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
*"pip install"*) echo "pip $*" >>"$CALLS"; [ ! -e "$CALLS.pip-fails" ] ;;
esac
"""

UV = """#!/bin/sh
echo "uv $*" >>"$CALLS"
case $* in
*"python find"*) [ -e "$CALLS.uv-has" ] && cat "$CALLS.uv-has" ;;
*"python install"*) {install} ;;
esac
"""


class Machine:
    """A machine of our making: a PATH, a home with a cache, and a record of the calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls_file = folder / "calls"
        self.cache = folder / "cache" / "serverd" / "python"
        self.built = self.cache / "3.14.7t"
        self.environ = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "CALLS": str(self.calls_file),
        }
        for name in REAL_TOOLS.split():
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)

    def script(self, path: str | Path, text: str) -> Path:
        """Put an executable at a path (a bare name: on PATH)."""
        target = self.bin / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o755)
        return target

    def python(self, path: str | Path, answer: str) -> Path:
        """Put an interpreter there that says so of itself; `{self}` in the answer is its own path."""
        return self.script(path, PYTHON.format(answer=answer.replace("{self}", str(self.bin / path))))

    def run(self, *command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine."""
        env = self.environ | environ
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, cwd=self.folder)

    def find(self, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run tools/find-python."""
        return self.run(TOOLS / "find-python", **environ)

    @property
    def calls(self) -> list[str]:
        """What was called, a line each."""
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that has no Python, no uv and no apt."""
    return Machine(tmp_path)


def test_python_on_path_comes_first(machine: Machine) -> None:
    path = machine.python("python3.14t", "free 3.14.7 {self}")
    machine.python(machine.built / "bin" / "python3.14t", "free 3.14.7 {self}")
    found = machine.find()
    assert (found.stdout, found.stderr, found.returncode) == (f"{path}\n", "", 0)


def test_a_shim_gives_way_to_the_interpreter_behind_it(machine: Machine) -> None:
    machine.python("python3.14t", "free 3.14.7 /opt/a real/python3.14t")
    assert machine.find().stdout == "/opt/a real/python3.14t\n"


def test_what_uv_has_comes_before_the_cache(machine: Machine) -> None:
    of_uv = machine.python(machine.folder / "uv" / "python3.14t", "free 3.14.8 {self}")
    machine.script("uv", UV.format(install="exit 2"))
    Path(f"{machine.calls_file}.uv-has").write_text(str(of_uv))
    machine.python(machine.built / "bin" / "python3.14t", "free 3.14.7 {self}")
    assert machine.find().stdout == f"{of_uv}\n"


def test_the_cache_comes_before_any_download(machine: Machine) -> None:
    cached = machine.python(machine.built / "bin" / "python3.14t", "free 3.14.7 {self}")
    machine.script("uv", UV.format(install="exit 2"))
    assert machine.find().stdout == f"{cached}\n"
    assert not [call for call in machine.calls if "install" in call]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("gil 3.14.2 {self}", "CPython 3.14.2 with a GIL"),
        ("old 3.13.5 {self}", "CPython 3.13.5, 3.14 or newer is needed"),
        ("lacks:ssl 3.14.7 {self}", "its standard library has no ssl"),
    ],
)
def test_a_candidate_that_does_not_fit_is_passed_over_with_a_word(
    machine: Machine, answer: str, why: str
) -> None:
    machine.python("python3.14t", answer)
    cached = machine.python(machine.built / "bin" / "python3.14t", "free 3.14.7 {self}")
    found = machine.find()
    assert found.stdout == f"{cached}\n"
    assert why in found.stderr


def test_a_candidate_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.script("python3.14t", "#!/bin/sh\nexit 127\n")
    cached = machine.python(machine.built / "bin" / "python3.14t", "free 3.14.7 {self}")
    found = machine.find()
    assert found.stdout == f"{cached}\n"
    assert "it does not run" in found.stderr


def test_the_one_that_python_names_wins(machine: Machine) -> None:
    machine.python("python3.14t", "free 3.14.7 {self}")
    named = machine.python("mine", "free 3.15.0 {self}")
    assert machine.find(PYTHON="mine").stdout == f"{named}\n"


def test_a_build_with_a_gil_is_taken_when_named_with_a_warning(machine: Machine) -> None:
    named = machine.python("python3.14", "gil 3.14.7 {self}")
    found = machine.find(PYTHON="python3.14")
    assert found.stdout == f"{named}\n"
    assert "warning" in found.stderr
    assert "threads will not run in parallel" in found.stderr


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "there is no such command"),
        ("old 3.11.7 {self}", "is CPython 3.11.7 and 3.14 or newer is needed"),
        ("lacks:ssl 3.14.7 {self}", "has no ssl"),
        ("", "does not run as a Python interpreter"),
    ],
)
def test_a_named_one_that_does_not_fit_ends_it_in_one_line(
    machine: Machine, answer: str | None, why: str
) -> None:
    machine.python("python3.14t", "free 3.14.7 {self}")
    if answer is not None:
        machine.python("mine", answer)
    found = machine.find(PYTHON="mine")
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert why in found.stderr
    assert "leave PYTHON out" in found.stderr


def test_uv_downloads_one(machine: Machine) -> None:
    of_uv = machine.python(machine.folder / "uv" / "python3.14t", "free 3.14.8 {self}")
    machine.script("uv", UV.format(install=f'echo "{of_uv}" >"$CALLS.uv-has"'))
    assert machine.find().stdout == f"{of_uv}\n"


def test_pip_borrows_uv_and_what_it_downloads_goes_into_the_cache(machine: Machine) -> None:
    machine.script("python3", PYTHON_WITH_PIP)
    source = machine.python(machine.folder / "download" / "python3.14t", "free 3.14.8 stays")
    to = "$UV_PYTHON_INSTALL_DIR/cpython-3.14.8/bin"
    uv = machine.script(
        machine.folder / "uv-of-pip", UV.format(install=f'mkdir -p "{to}" && cp {source} "{to}/"')
    )
    assert machine.find(BORROWED_UV=str(uv)).stdout == "stays\n"
    machine.calls_file.unlink()
    assert machine.find().stdout == "stays\n", "the second call finds it in the cache"
    assert machine.calls == []


def test_what_cannot_be_had_is_said_in_one_line_with_a_remedy(machine: Machine) -> None:
    machine.script("uv", UV.format(install="exit 2"))
    found = machine.find()
    assert found.returncode == 1
    assert "uv could not download CPython 3.14t" in found.stderr
    assert "install uv or python3.14t" in found.stderr.splitlines()[-1]
    assert "make PYTHON=/path/to/python3.14t" in found.stderr.splitlines()[-1]


def debian(machine: Machine, *, user: int, missing: str = "", configure: str = "exit 0") -> None:
    """Make it a Debian machine whose mirror serves a "source" that configures and builds in a moment."""
    machine.script("id", f"#!/bin/sh\necho {user}\n")
    machine.script(
        "dpkg-query",
        f'#!/bin/sh\ncase " {missing} " in *" $4 "*) exit 1 ;; esac\necho install ok installed\n',
    )
    machine.script(
        "apt-get", '#!/bin/sh\necho "apt-get $*" >>"$CALLS"\n[ "$1" != indextargets ] || echo mirror/\n'
    )
    source = machine.folder / "source" / "Python"
    machine.script(source / "configure", f"#!/bin/sh\n{configure}\n")
    machine.python(source / "python3.14t", "free 3.14.7 built")
    target = f"$(DESTDIR){machine.built}/bin"
    (source / "Makefile").write_text(f"all:\ninstall:\n\tmkdir -p {target}\n\tcp python3.14t {target}/\n")
    with tarfile.open(machine.folder / "source.tar.xz", "w:xz") as archive:
        archive.add(source, "Python-3.14.7")
    machine.script(
        "apt-helper", f'#!/bin/sh\necho "apt-helper $2" >>"$CALLS"\ncp {machine.folder}/source.tar.xz "$3"\n'
    )
    machine.script("sha256sum", "#!/bin/sh\nexit 0\n")


def leftovers(machine: Machine) -> list[str]:
    """What stands in the cache beside the lock and the log."""
    return sorted(entry.name for entry in machine.cache.iterdir() if entry.name not in {".lock", "build.log"})


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; AssertionError after 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_is_built_from_the_source_of_the_mirror_that_apt_names(machine: Machine) -> None:
    debian(machine, user=1000)
    found = machine.find()
    assert (found.stdout, found.returncode) == ("built\n", 0), found.stderr
    assert "apt-helper mirror/pool/main/p/python3.14/python3.14_3.14.7.orig.tar.xz" in machine.calls
    assert "compiling: done" in found.stderr
    assert leftovers(machine) == ["3.14.7t"]


def test_a_build_that_fails_leaves_a_log_and_no_interpreter(machine: Machine) -> None:
    debian(machine, user=1000, configure="echo no compiler to be had; exit 1")
    found = machine.find()
    assert found.returncode == 1
    assert f"configuring failed; what was printed is in {machine.cache}/build.log" in found.stderr
    assert "no compiler to be had" in (machine.cache / "build.log").read_text()
    assert leftovers(machine) == []


def test_a_build_that_is_interrupted_leaves_nothing(machine: Machine) -> None:
    reached = machine.folder / "reached"
    debian(machine, user=1000, configure=f'mkdir "{reached}"; sleep 60')
    with subprocess.Popen(
        [TOOLS / "find-python"], env=machine.environ, stderr=subprocess.DEVNULL, start_new_session=True
    ) as build:
        try:
            eventually(reached.exists)
            # To all of them, as a terminal does; not SIGINT, which is ignored in what a shell put into the background.
            os.killpg(build.pid, signal.SIGTERM)
            assert build.wait(timeout=20) != 0
            eventually(lambda: leftovers(machine) == [])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(build.pid, signal.SIGKILL)


def test_a_source_with_another_sum_is_not_built(machine: Machine) -> None:
    debian(machine, user=1000)
    (machine.bin / "sha256sum").unlink()
    (machine.bin / "sha256sum").symlink_to(shutil.which("sha256sum") or "")
    found = machine.find()
    assert found.returncode == 1
    assert "no Debian mirror of this machine served the source of CPython 3.14.7" in found.stderr
    assert leftovers(machine) == []


def test_who_may_not_install_packages_is_told_which(machine: Machine) -> None:
    debian(machine, user=1000, missing="libssl-dev zlib1g-dev")
    found = machine.find()
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].endswith("run: sudo apt-get install libssl-dev zlib1g-dev")


@pytest.mark.parametrize("sudo", [False, True])
def test_root_and_who_may_become_root_install_packages(machine: Machine, sudo: bool) -> None:
    debian(machine, user=1000 if sudo else 0, missing="libssl-dev")
    if sudo:
        machine.script("sudo", '#!/bin/sh\necho "sudo $*" >>"$CALLS"\nshift\n[ "$1" = true ] || exec "$@"\n')
    assert machine.find().stdout == "built\n"
    (install,) = [call for call in machine.calls if call.startswith("apt-get install")]
    assert install.endswith(" libssl-dev")
    assert any(call.startswith("sudo -n env") for call in machine.calls) == sudo


def test_the_interpreter_of_this_run_is_judged_by_the_real_question(machine: Machine) -> None:
    found = machine.find(PYTHON=sys.executable)
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).samefile(Path(sys.executable).resolve())
    assert ("GIL" in found.stderr) == (not sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture
def project(machine: Machine) -> Path:
    """A copy of what tools/bootstrap reads, on a machine with an interpreter that makes environments."""
    machine.script("python3.14t", PYTHON_WITH_PIP)
    folder = machine.folder / "project"
    folder.mkdir()
    shutil.copytree(TOOLS, folder / "tools")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def pip_calls(machine: Machine) -> list[str]:
    """The calls of pip since the last question."""
    calls = [call for call in machine.calls if call.startswith("pip ")]
    machine.calls_file.unlink(missing_ok=True)
    return calls


def test_the_second_call_does_nothing(machine: Machine, project: Path) -> None:
    first = machine.run(project / "tools" / "bootstrap", "dev")
    assert first.returncode == 0, first.stderr
    calls = pip_calls(machine)
    assert calls
    assert all("--constraint constraints.txt" in call for call in calls)
    assert "-e .[examples] --group dev" in calls[-1]
    second = machine.run(project / "tools" / "bootstrap", "dev")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert machine.calls == []


def test_another_level_is_added_to_the_same_environment(machine: Machine, project: Path) -> None:
    machine.run(project / "tools" / "bootstrap", "run")
    pip_calls(machine)
    machine.run(project / "tools" / "bootstrap", "bench")
    assert "venv" not in machine.calls
    assert "--group bench" in pip_calls(machine)[-1]
    machine.run(project / "tools" / "bootstrap", "run")
    assert machine.calls == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_what_it_was_installed_from_changed(machine: Machine, project: Path, name: str) -> None:
    machine.run(project / "tools" / "bootstrap", "run")
    pip_calls(machine)
    with (project / name).open("a") as file:
        file.write("# another line\n")
    machine.run(project / "tools" / "bootstrap", "run")
    assert "venv" not in machine.calls
    assert pip_calls(machine)


def test_an_install_that_failed_is_done_again(machine: Machine, project: Path) -> None:
    fails = Path(f"{machine.calls_file}.pip-fails")
    fails.touch()
    failed = machine.run(project / "tools" / "bootstrap", "run")
    assert failed.returncode == 1
    assert "pip must reach a package index" in failed.stderr
    fails.unlink()
    assert machine.run(project / "tools" / "bootstrap", "run").returncode == 0
    pip_calls(machine)
    assert machine.run(project / "tools" / "bootstrap", "run").returncode == 0
    assert machine.calls == []


def test_a_folder_that_was_moved_gets_a_new_environment(machine: Machine, project: Path) -> None:
    machine.run(project / "tools" / "bootstrap", "run")
    pip_calls(machine)
    moved = project.rename(machine.folder / "moved")
    machine.run(moved / "tools" / "bootstrap", "run")
    assert "venv" in machine.calls


def test_an_interpreter_that_went_away_is_replaced(machine: Machine, project: Path) -> None:
    machine.run(project / "tools" / "bootstrap", "run")
    pip_calls(machine)
    (project / ".venv" / "bin" / "python").unlink()
    machine.run(project / "tools" / "bootstrap", "run")
    assert "venv" in machine.calls


def test_naming_another_interpreter_makes_a_new_environment(machine: Machine, project: Path) -> None:
    machine.run(project / "tools" / "bootstrap", "run")
    pip_calls(machine)
    other = machine.script("other", PYTHON_WITH_PIP)
    machine.run(project / "tools" / "bootstrap", "run", PYTHON=str(other))
    assert "venv" in machine.calls
    pip_calls(machine)
    machine.run(project / "tools" / "bootstrap", "run", PYTHON=str(other))
    machine.run(project / "tools" / "bootstrap", "run")
    assert machine.calls == [], "what was named once stays"


def test_a_level_that_is_unknown_is_named(machine: Machine, project: Path) -> None:
    failed = machine.run(project / "tools" / "bootstrap", "everything")
    assert failed.returncode == 1
    assert "no level called everything" in failed.stderr


def test_make_help_names_every_command() -> None:
    made = subprocess.run(
        ["make", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MAKEFLAGS": ""},
    )
    for target in ("help", "run", "test", "lint", "format", "bench", "soak", "autobahn", "scan", "clean"):
        assert f"make {target} " in made.stdout
