"""What scanners say of a real daemon: sslyze with Mozilla's "intermediate" profile, and testssl.sh.

Nothing may be found but what is the test certificate's (nobody trusts it) or the application's (its headers, which this
one sends). sslyze takes two seconds; testssl.sh takes one to two minutes and runs with SCAN_TLS=1 only.

    python3 -m venv ~/.cache/serverd/sslyze && ~/.cache/serverd/sslyze/bin/pip install sslyze
    apt-get install testssl.sh
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.daemon import Daemon

APP = """
HEADERS = [
    (b"content-length", b"5"),
    (b"strict-transport-security", b"max-age=63072000"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"hello"})
"""
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "serverd"
SSLYZE = shutil.which("sslyze") or shutil.which("sslyze", path=CACHE / "sslyze" / "bin")
TESTSSL = shutil.which("testssl") or shutil.which("testssl.sh")
ASKED = "SCAN_TLS" in os.environ


@pytest.fixture(params=["ecdsa", "rsa"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    files = Authority(tmp_path, rsa=request.param == "rsa").issue("localhost", "127.0.0.1")
    config = {"tls": files.config(), "logging": {"format": "text", "level": "info", "access": False}}
    with Daemon(tmp_path, app=APP, config=config) as started:
        started.wait_ready()
        yield started
        assert started.count("Traceback|error") == 0
        assert 1 <= started.count("no handshake with") <= 5  # of hundreds, in minutes


@pytest.mark.skipif(SSLYZE is None, reason="needs sslyze (in a venv of its own, see the test's file)")
def test_sslyze(daemon: Daemon) -> None:
    assert SSLYZE is not None
    command = [SSLYZE, "--mozilla_config=intermediate", f"127.0.0.1:{daemon.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    verdict = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    print(done.stdout)
    found = dict(re.findall(r"^ +\* (\w+): (.+)$", verdict, re.MULTILINE))
    assert found.keys() <= {"certificate_path_validation", "maximum_certificate_lifespan"}
    assert "certificate_path_validation" in found
    assert "the server rejected all cipher suites" in done.stdout  # it did reach it


@pytest.mark.timeout(600)
@pytest.mark.skipif(TESTSSL is None, reason="needs testssl.sh (Debian: apt-get install testssl.sh)")
@pytest.mark.skipif(not ASKED, reason="takes two minutes: SCAN_TLS=1 runs it")
def test_testssl(daemon: Daemon, tmp_path: Path) -> None:
    assert TESTSSL is not None
    report = tmp_path / "report.json"
    command = [TESTSSL, "--quiet", "--color", "0", "--warnings", "off", "--jsonfile", str(report)]
    subprocess.run([*command, "--ip", "127.0.0.1", f"https://localhost:{daemon.port}"], timeout=500)
    found = json.loads(report.read_text())
    assert len(found) > 100
    bad = [item for item in found if item["severity"] not in ("OK", "INFO", "LOW")]
    assert [item for item in bad if not item["id"].startswith("cert_")] == []
    assert {item["id"] for item in bad} <= {"cert_chain_of_trust", "cert_revocation", "cert_trust", "cert_notAfter",
                                            "cert_expirationStatus", "cert_validityPeriod"}  # fmt: skip
