"""The Autobahn TestSuite against a real serverd: get it, run it, and judge its report.

The suite is the common measure of WebSocket servers: 517 cases of framing, control frames, reserved bits, fragments,
UTF-8, closing, limits, and permessage-deflate (12.*, 13.*). Promises: nothing of it is kept in this project, it is
installed into the cache folder (``get``); a case counts as passed only when the suite says so of its behaviour *and* of
how the connection was closed. NON-STRICT is what the suite calls allowed and not ideal; two such cases are
(6.4.3 and 6.4.4: bytes that are no UTF-8 are found when their frame is complete, not before).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..support.daemon import Daemon

ALL: Final = 517
# Cases that may be NON-STRICT, and why they are: see the module.
NOT_STRICT: Final = frozenset({"6.4.3", "6.4.4"})
_FINE: Final = ("OK", "INFORMATIONAL")

ECHO: Final = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
"""

# The suite's packages lie in a folder of their own; one of them needs the .pth files there (zope's namespace).
_START: Final = (
    "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite import wstest; wstest.run()"
)


class NotToBeHad(Exception):
    """There is no Autobahn TestSuite here; the message says why."""


@dataclass
class Verdict:
    """What the suite found. behaviours: how many cases of each; bad: what is neither passed nor known."""

    behaviours: Counter[str] = field(default_factory=Counter)
    not_strict: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many cases were run."""
        return self.behaviours.total()

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.behaviours.most_common())
        lines = [f"{self.cases} cases: {counts}"]
        if self.not_strict:
            lines.append(f"not strict: {' '.join(self.not_strict)}")
        return "\n".join([*lines, *self.bad])


def get(*, build: bool) -> tuple[str, str]:
    """A Python 2.7 and the suite's folder. build: make the first if there is none. Raises NotToBeHad."""
    command = [str(Path(__file__).with_name("get")), *(["--build"] if build else [])]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=None if build else subprocess.PIPE, text=True
    )
    if done.returncode:
        raise NotToBeHad((done.stderr or "see above").strip().removeprefix("serverd: "))
    python, folder = done.stdout.split()
    return python, folder


def run(found: tuple[str, str], port: int, cases: Sequence[str], report: Path, timeout: float) -> Verdict:
    """Run ``cases`` (patterns such as 1.*) against 127.0.0.1:``port``. Raises subprocess.TimeoutExpired."""
    python, folder = found
    spec = {
        "outdir": str(report),
        "servers": [{"agent": "serverd", "url": f"ws://127.0.0.1:{port}"}],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    file = report.with_suffix(".spec.json")
    file.write_text(json.dumps(spec))
    command = [python, "-W", "ignore", "-c", _START, folder, "-m", "fuzzingclient", "-s", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode or not (report / "index.json").exists():
        raise AssertionError(
            f"the suite ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}"
        )
    return judge(json.loads((report / "index.json").read_text())["serverd"])


def judge(results: Mapping[str, Mapping[str, str]]) -> Verdict:
    """results: of index.json, by case."""
    verdict = Verdict()
    for case, result in sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        behaviour, closing = result["behavior"], result["behaviorClose"]
        verdict.behaviours[behaviour] += 1
        if closing in _FINE and behaviour == "NON-STRICT" and case in NOT_STRICT:
            verdict.not_strict.append(case)
        elif behaviour not in _FINE or closing not in _FINE:
            verdict.bad.append(f"{case}: {behaviour}, closing: {closing}")
    return verdict


def main(cases: Sequence[str]) -> int:
    """For tests/autobahn/run."""
    try:
        found = get(build=True)
    except NotToBeHad as exc:
        print(f"the Autobahn TestSuite is not to be had: {exc}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="serverd-autobahn-"))
    report = folder / "report"
    with Daemon(folder, app=ECHO, config={"logging": {"level": "info", "access": False}}) as daemon:
        print(f"running {' '.join(cases) or 'all cases'}; the report will be {report}/index.html")
        verdict = run(found, daemon.port, cases or ["*"], report, 3600)
    print(verdict)
    whole = bool(cases) or verdict.cases == ALL
    if not whole:
        print(f"{ALL} cases were expected")
    return 0 if whole and not verdict.bad else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
