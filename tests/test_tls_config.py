"""What `serverd check` finds in the `tls` section before anything is served, line by line."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from serverd.config import CertificatePair, ConfigError, TlsConfig, load
from serverd.config.certificates import Certificate, out_of_order, read_pair, warnings
from serverd.config.render import to_yaml

from .support.certificates import LONG_AGO, Authority, Files


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.chdir(tmp_path)
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> Files:
    return authority.issue("a.example", "*.b.example")


def said(**tls: object) -> list[str]:
    """The lines about a server.yaml with this section, without the name of the file; empty if it loads."""
    file = Path("server.yaml")
    file.write_text("app: main:app\ntls:\n" + "".join(f"  {name}: {value}\n" for name, value in tls.items()))
    try:
        load(file, environ={})
    except ConfigError as error:
        return [str(problem).removeprefix("server.yaml:") for problem in error.problems]
    return []


def test_everything_that_may_be_there(authority: Authority, files: Files) -> None:
    other = authority.issue("c.example")
    Path("server.yaml").write_text(
        f"""
app: main:app
tls:
  cert: {files.cert.name}
  key: {files.key.name}
  certificates: [{{cert: {other.cert.name}, key: {other.key.name}}}]
  client_ca: ca.pem
  client_cert: optional
  min_version: 1.3
  ciphers: ECDHE+AESGCM
"""
    )
    config = load("server.yaml", environ={})
    expected = TlsConfig(
        cert=files.cert,
        key=files.key,
        certificates=(CertificatePair(other.cert, other.key),),
        client_ca=authority.ca,
        client_cert="optional",
        min_version="1.3",
        ciphers="ECDHE+AESGCM",
    )
    assert config.tls == expected
    Path("again.yaml").write_text(to_yaml(config))
    assert load("again.yaml", environ={}).tls == expected
    assert yaml.safe_load(to_yaml(config))["tls"]["min_version"] == "1.3"


def test_a_section_by_the_command_line(files: Files) -> None:
    overrides = [f"tls.cert={files.cert.name}", f"tls.key={files.key.name}", "tls.min_version=1.3"]
    config = load(None, app="main:app", overrides=overrides, environ={})
    assert config.tls == TlsConfig(cert=files.cert, key=files.key, min_version="1.3")


@pytest.mark.parametrize(
    ("tls", "line"),
    [
        ({"certificates": "[{cert: c.pem}]"}, "5:18: tls.certificates[0]: expected {cert: FILE, key: FILE}"),
        ({"certificates": "[c.pem]"}, '5:18: tls.certificates[0]: expected {cert: FILE, key: FILE}, got "c.pem"'),
        (
            {"certificates": "[{cert: [], key: k}]"},
            "5:25: tls.certificates[0].cert: expected a path, got a list",
        ),
        ({"min_version": "1.1"}, '5:16: tls.min_version: expected 1.2 or 1.3, got "1.1"'),
        ({"client_cert": "yes"}, '5:16: tls.client_cert: expected none, optional or required, got "yes"'),
        (
            {"ciphers": "NONSENSE"},
            "5:12: tls.ciphers: OpenSSL finds no cipher in this list; try: openssl ciphers -v 'LIST'",
        ),
        ({"ciphers": "'A B'"}, '5:12: tls.ciphers: expected a cipher list of OpenSSL, got "A B"'),
        (
            {"client_cert": "required"},
            "5:16: tls.client_cert: needs tls.client_ca, the certificates that clients' are signed by",
        ),
        (
            {"client_ca": "ca.pem"},
            "5:14: tls.client_ca: is not used while tls.client_cert is none; set that to optional or required",
        ),
        ({"client_ca": "no.pem", "client_cert": "required"}, "5:14: tls.client_ca: no such file: {cwd}/no.pem"),
        (
            {"client_ca": "server.yaml", "client_cert": "required"},
            "5:14: tls.client_ca: holds no certificate in PEM form: {cwd}/server.yaml",
        ),
    ],
)  # fmt: skip
def test_one_bad_value_is_one_line(files: Files, tls: dict[str, object], line: str) -> None:
    expected = line.replace("{cwd}", str(Path.cwd()))
    assert said(cert=files.cert.name, key=files.key.name, **tls) == [expected]


def test_files_that_are_not_there(files: Files) -> None:
    assert said(
        cert="no.pem", key="no.key", certificates="[{cert: no2.pem, key: " + files.key.name + "}]"
    ) == [
        f"3:9: tls.cert: no such file: {Path.cwd()}/no.pem",
        f"4:8: tls.key: no such file: {Path.cwd()}/no.key",
        f"5:25: tls.certificates[0].cert: no such file: {Path.cwd()}/no2.pem",
    ]
    assert said(cert=".", key=files.key) == [f"3:9: tls.cert: cannot be read: {Path.cwd()}: Is a directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_may_not_be_read(files: Files) -> None:
    files.key.chmod(0)
    (line,) = said(cert=files.cert, key=files.key)
    assert line.startswith("4:8: tls.key: may not be read by user ")


def encrypt(files: Files, other: Files) -> None:
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", files.key, "-out", "enc.key", "-passout", "pass:x"], check=True
    )
    Path("enc.key").replace(files.key)


def encrypt_in_the_old_form(files: Files, other: Files) -> None:
    subprocess.run(
        ["openssl", "ec", "-aes128", "-in", files.key, "-out", "enc.key", "-passout", "pass:x"],
        check=True,
        capture_output=True,
    )
    Path("enc.key").replace(files.key)


def swap(files: Files, other: Files) -> None:
    files.key.write_bytes(other.key.read_bytes())


def damage_the_key(files: Files, other: Files) -> None:
    lines = files.key.read_text().splitlines()
    files.key.write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))


def damage_the_certificate(files: Files, other: Files) -> None:
    lines = files.cert.read_text().splitlines()
    files.cert.write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))


def cut_the_chain(files: Files, other: Files) -> None:
    files.cert.write_bytes(files.cert.read_bytes() + other.cert.read_bytes()[:300])


def put_the_key_first(files: Files, other: Files) -> None:
    files.cert.write_bytes(files.key.read_bytes())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (swap, "4:8: tls.key: {key} is not the key of the certificate in {cert}"),
        (
            encrypt,
            "4:8: tls.key: the key is encrypted: {key}; decrypt it: openssl pkey -in {key.name} -out NEW",
        ),
        (
            encrypt_in_the_old_form,
            "4:8: tls.key: the key is encrypted: {key}; decrypt it: openssl pkey -in {key.name} -out NEW",
        ),
        (damage_the_key, "4:8: tls.key: is damaged or of a kind that OpenSSL does not know: {key}"),
        (damage_the_certificate, "3:9: tls.cert: is damaged or not complete: {cert}"),
        (cut_the_chain, "3:9: tls.cert: the certificate is cut short: {cert}"),
        (put_the_key_first, "3:9: tls.cert: holds no certificate in PEM form: {cert}"),
    ],
)
def test_a_pair_that_cannot_be_served(
    authority: Authority, files: Files, change: Callable[[Files, Files], None], line: str
) -> None:
    change(files, authority.issue("other.example"))
    expected = line.format(cert=files.cert, key=files.key)
    assert said(cert=files.cert, key=files.key) == [expected]
    # The same for the second pair, under its own key.
    good = authority.issue("c.example")
    (second,) = said(cert=good.cert, key=good.key, certificates=f"[{{cert: {files.cert}, key: {files.key}}}]")
    assert second.startswith("5:")
    part = "key" if "tls.key" in line else "cert"
    assert second.partition(": ")[2] == expected.partition(": ")[2].replace(
        f"tls.{part}", f"tls.certificates[0].{part}", 1
    )


def test_an_encrypted_key_never_asks(files: Files) -> None:
    """In a process of its own with no terminal: a prompt of OpenSSL's would fail with another message."""
    encrypt(files, files)
    command = [sys.executable, "-m", "serverd", "check", "--set", "app=main:app", "--set", f"tls.cert={files.cert}",
               "--set", f"tls.key={files.key}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "command line: tls.key: the key is encrypted" in done.stderr
    assert "phrase" not in done.stderr + done.stdout


@pytest.mark.parametrize("rsa", [False, True])
def test_what_a_certificate_says(tmp_path: Path, rsa: bool) -> None:
    until = datetime.datetime(2090, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    files = Authority(tmp_path, rsa=rsa).issue("A.example", "*.b.example", "192.0.2.1", until=until)
    seen = read_pair(files.cert, files.key)
    assert seen.names == ("a.example", "*.b.example")
    assert seen.not_before == LONG_AGO.timestamp()
    assert seen.not_after == until.timestamp()
    assert seen.refused == ""
    assert files.cert.read_text().startswith(seen.pem)


def test_warnings_name_what_clients_will_refuse(authority: Authority) -> None:
    good, old = authority.issue("a.example"), authority.issue("b.example", until=LONG_AGO.replace(year=2021))
    tls = TlsConfig(cert=good.cert, key=good.key, certificates=(CertificatePair(old.cert, old.key),))
    assert warnings(tls) == [
        f"clients will refuse the certificate in {old.cert}: it expired on 2021-01-01 00:00 UTC; renew it"
    ]
    assert warnings(tls, now=0.0)[0].endswith("is the clock right?")
    assert warnings(TlsConfig(cert=Path("no.pem"), key=Path("no.key"))) == []


def test_a_certificate_for_another_purpose_is_a_warning() -> None:
    seen = Certificate("", (), 0.0, 1e12, "unsuitable certificate purpose")
    assert out_of_order(seen, 1e9) == "unsuitable certificate purpose"
    assert out_of_order(seen._replace(refused=""), 1e9) == ""


def test_check_warns_and_passes(authority: Authority) -> None:
    Path("main.py").write_text("async def app(scope, receive, send): ...\n")
    old = authority.issue("a.example", until=LONG_AGO.replace(year=2021))
    command = [sys.executable, "-m", "serverd", "check", "--set", "app=main:app", "--set", f"tls.cert={old.cert}",
               "--set", f"tls.key={old.key}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert f"serverd check: clients will refuse the certificate in {old.cert}: it expired" in done.stderr
    assert yaml.safe_load(done.stdout)["tls"]["client_cert"] == "none"
