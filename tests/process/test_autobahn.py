"""Some of the Autobahn TestSuite's cases, where the suite can be had; tests/autobahn/run runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..autobahn import suite
from ..support.daemon import Daemon

# Those that take no second each: framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, and some parameters
# of compression with the smallest messages.
QUICK = [
    "1.*",
    "2.*",
    "3.*",
    "4.*",
    "5.*",
    "6.2.*",
    "6.5.*",
    "7.*",
    "10.*",
    "12.1.1",
    "12.2.2",
    "13.1.1",
    "13.4.1",
    "13.7.1",
]


@pytest.mark.timeout(300)
def test_cases_of_the_autobahn_testsuite(tmp_path: Path) -> None:
    try:
        found = suite.get(build=False)
    except suite.NotToBeHad as exc:
        pytest.skip(str(exc))
    with Daemon(tmp_path, app=suite.ECHO, config={"logging": {"level": "info", "access": False}}) as daemon:
        verdict = suite.run(found, daemon.port, QUICK, tmp_path / "report", 240)
    assert not verdict.bad, str(verdict)
    assert verdict.cases > 100


def test_a_report_is_judged_by_both_behaviours() -> None:
    results = {
        "1.1.1": {"behavior": "OK", "behaviorClose": "OK"},
        "6.4.3": {"behavior": "NON-STRICT", "behaviorClose": "OK"},
        "3.2": {"behavior": "NON-STRICT", "behaviorClose": "OK"},
        "7.1.5": {"behavior": "OK", "behaviorClose": "WRONG CODE"},
        "7.1.6": {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"},
        "12.1.1": {"behavior": "FAILED", "behaviorClose": "OK"},
        "13.1.1": {"behavior": "UNIMPLEMENTED", "behaviorClose": "UNIMPLEMENTED"},
    }
    verdict = suite.judge(results)
    assert verdict.not_strict == ["6.4.3"]
    assert [line.partition(":")[0] for line in verdict.bad] == ["3.2", "7.1.5", "12.1.1", "13.1.1"]
    assert verdict.cases == 7
