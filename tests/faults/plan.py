"""The plan of faults: which system calls of which process fail, switched on and off while the daemon runs.

    plan = Plan(folder)                       # skips the test when there is no C compiler
    with Daemon(folder, env=plan.environment()) as daemon:
        with plan.fail("accept", errno.EMFILE, pid=worker) as fault:
            fault.wait_hit()

Promises: a fault is really hit when `wait_hit` returns (`inject.c` counts); after the block none is injected. Refuses:
what does not go by a function of libc; a statically linked program.

Each rule is written while it is off, and switched on by one store of 4 bytes, so that no process sees half of it.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import wait_until

SOURCE: Final = Path(__file__).with_name("inject.c")
# As in inject.c.
_RULES: Final = 16
_HEADER: Final = 64
_RULE: Final = struct.Struct("=iiiiqq32s64s")
_HITS: Final = 24  # where they stand in a rule
_FOREVER: Final = 0


def library() -> Path:
    """The compiled library, made once for each state of its source. Skips when there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (Debian: apt-get install gcc libc6-dev)")
    name = sha256(SOURCE.read_bytes()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"serverd-faults-{os.getuid()}" / f"{name}.so"
    if not target.exists():
        target.parent.mkdir(mode=0o700, exist_ok=True)
        new = target.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-fPIC", "-shared", "-o", new, SOURCE, "-ldl"], check=True)
        new.replace(target)
    return target


class Fault:
    """One rule that is on."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._plan = plan
        self._at = _HEADER + number * _RULE.size

    @property
    def hits(self) -> int:
        """How many calls have failed."""
        return int(struct.unpack_from("=q", self._plan.memory, self._at + _HITS)[0])

    def wait_hit(self, count: int = 1, timeout: float = 6.0) -> None:
        """Until so many calls have failed."""
        wait_until(lambda: self.hits >= count, f"the fault was hit {count} times", timeout)

    def switch(self, on: bool) -> None:
        """No call fails any more, or again."""
        self._plan.words[self._at // 4] = int(on)


class Plan:
    """See the module. One for each daemon; it lasts as long as its `folder`."""

    def __init__(self, folder: Path) -> None:
        self._library = library()
        self._path = folder / "faults.plan"
        size = _HEADER + _RULES * _RULE.size
        self._path.write_bytes(bytes(size))
        self._path.chmod(0o666)
        with self._path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), size)
        self.words = memoryview(self.memory).cast("i")
        self._used: set[int] = set()

    def environment(self) -> dict[str, str | None]:
        """For a process whose calls shall fail, and for what it starts."""
        return {"LD_PRELOAD": str(self._library), "FAULTS_PLAN": str(self._path)}

    @contextmanager
    def fail(
        self, call: str, error: int, *, kind: str = "", pid: int = 0, times: int = _FOREVER
    ) -> Iterator[Fault]:
        """Have `call` fail with `error` (0: do one byte only) inside the block, `times` or always.

        call: a name in `inject.c`. kind: of which descriptors (`is_kind` there), or the beginning of a path. pid: of
        which process; 0: of all.
        """
        number = next(number for number in range(_RULES) if number not in self._used)
        rule = (0, error, pid, int(times == _FOREVER), times, 0, call.encode(), kind.encode())
        _RULE.pack_into(self.memory, _HEADER + number * _RULE.size, *rule)
        self._used.add(number)
        fault = Fault(self, number)
        self.words[0] = 1
        fault.switch(True)
        try:
            yield fault
        finally:
            fault.switch(False)
            self._used.discard(number)
            self.words[0] = int(bool(self._used))
