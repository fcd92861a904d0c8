"""A certificate for tests that clients can be told to trust, made by the `openssl` command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# Python's own checks (VERIFY_X509_STRICT) ask of what is trusted that it may sign.
ARGUMENTS = (
    *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
    *("-subj", "/CN=localhost"),
    *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
    *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
)


def self_signed(path: Path) -> Path:
    """Write a certificate for localhost and its key to `path`, as one PEM file. Skips the test without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl (Debian: apt-get install openssl)")
    key = path.with_suffix(".key")
    command = [openssl, *ARGUMENTS, "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path
