"""Which certificate a client sees: by server name, and after the files have changed, while connections go on."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serverd.config import CertificatePair, TlsConfig
from serverd.config.certificates import BadCertificate
from serverd.server import tls as tls_module
from serverd.server.tls import FailureLog, TlsContexts

from .support.apps import hello
from .support.certificates import LONG_AGO, Authority, Drip, Files, TlsClient, replace
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import Workers, serving


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _look_at_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "LOOK", 0.0)


def config(*files: Files) -> TlsConfig:
    first, *others = files
    return TlsConfig(
        cert=first.cert, key=first.key, certificates=tuple(CertificatePair(*pair) for pair in others)
    )


@contextlib.contextmanager
def https(tls: TlsConfig) -> Iterator[Workers]:
    with serving(hello, make_connection=TlsContexts(tls).connection) as served:
        yield served


def shown(served: Workers, authority: Authority, name: str | None) -> list[str]:
    """The names of the certificate for a client that asks for ``name``."""
    context = authority.client(check_hostname=False)
    with TlsClient(served.address, context, name) as conn:
        assert conn.get().body == b"hello"
        return conn.names()


# -- by server name ----------------------------------------------------------------------------------------------------


def test_the_server_name_chooses(authority: Authority) -> None:
    default = authority.issue("default.example", "special.wild.example")
    exact = authority.issue("a.example", "b.example")
    wild = authority.issue("*.wild.example", "b.example")
    with https(config(default, exact, wild)) as served:
        first = ["default.example", "special.wild.example"]
        for name, expected in {
            "a.example": ["a.example", "b.example"],
            "A.Example": ["a.example", "b.example"],
            "b.example": ["a.example", "b.example"],  # the first that has it
            "x.wild.example": ["*.wild.example", "b.example"],
            "special.wild.example": first,  # an exact name before a wildcard
            "x.y.wild.example": first,  # a wildcard is one label
            "wild.example": first,
            "default.example": first,
            "unknown.example": first,
            None: first,
        }.items():
            assert shown(served, authority, name) == expected, name


def test_a_session_is_resumed_on_another_name_of_the_same_server(authority: Authority) -> None:
    files = config(authority.issue("a.example"), authority.issue("b.example"))
    context = authority.client()
    with https(files) as served:
        with TlsClient(served.address, context, "b.example") as first:
            first.get()
            session = first.sock.session
        with TlsClient(served.address, context, "b.example", session=session) as second:
            assert second.sock.session_reused
            assert second.get().body == b"hello"


def test_an_ip_address_gets_the_default(authority: Authority) -> None:
    with https(config(authority.issue("127.0.0.1"), authority.issue("b.example"))) as served:
        with TlsClient(served.address, authority.client(), "127.0.0.1") as conn:
            assert conn.get().body == b"hello"


def test_a_name_that_is_none(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """Not ASCII: the handshake fails, and that is all (a warning of pytest's would fail this test)."""
    caplog.set_level(logging.INFO)
    with https(config(authority.issue("a.example"), authority.issue("b.example"))) as served:
        with Drip(served.address, authority.client(), "xxxx.example") as drip:
            drip.sock.sendall(drip.hello().replace(b"xxxx.example", b"\xff\n\x80x.example"))
            assert drip.sock.recv(100)[:1] == b"\x15"  # an alert
        assert shown(served, authority, "b.example") == ["b.example"]
    (record,) = caplog.records
    assert record.message.endswith(": callback failed")


# -- when files change -------------------------------------------------------------------------------------------------


def test_new_files_are_served_and_no_connection_is_dropped(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = authority.issue("old.example")
    with https(config(files)) as served:
        with TlsClient(served.address, authority.client(), "old.example") as before:
            assert before.get().body == b"hello"
            authority.issue("new.example", to=files)
            assert shown(served, authority, "new.example") == ["new.example"]
            assert before.get().body == b"hello"
            assert before.names() == ["old.example"]
    assert [record.message for record in caplog.records] == [
        "tls: the certificates have changed, and are in use from now on"
    ]


def test_another_certificate_of_several_changes(authority: Authority) -> None:
    default, other = authority.issue("default.example"), authority.issue("b.example")
    with https(config(default, other)) as served:
        assert shown(served, authority, "c.example") == ["default.example"]
        authority.issue("b.example", "c.example", to=other)
        assert shown(served, authority, "c.example") == ["b.example", "c.example"]


def test_links_are_followed(authority: Authority, tmp_path: Path) -> None:
    """certbot's `live` folder holds links, and a renewal changes where they lead."""
    old, new = authority.issue("old.example"), authority.issue("new.example")
    live = Files(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
    live.cert.symlink_to(old.cert)
    live.key.symlink_to(old.key)
    with https(config(live)) as served:
        assert shown(served, authority, None) == ["old.example"]
        for link, target in zip(live, new, strict=True):
            (tmp_path / "link").symlink_to(target)
            (tmp_path / "link").replace(link)
        assert shown(served, authority, None) == ["new.example"]


def test_a_half_written_pair_is_named_once_and_the_old_one_stays(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files, new = authority.issue("old.example"), authority.issue("new.example")
    steps: list[tuple[Callable[[], None], str]] = [
        (
            lambda: replace(files.cert, new.cert.read_bytes()[:200]),
            f"tls.cert: the certificate is cut short: {files.cert}",
        ),
        (
            lambda: replace(files.cert, new.cert.read_bytes()),
            f"tls.key: {files.key} is not the key of the certificate in {files.cert}",
        ),
        (
            lambda: replace(files.key, new.key.read_bytes()[:100]),
            f"tls.key: the private key is cut short: {files.key}",
        ),
        (lambda: replace(files.key, b""), f"tls.key: holds no private key in PEM form: {files.key}"),
        (files.key.unlink, f"tls.key: no such file: {files.key}"),
    ]
    with https(config(files)) as served:
        for change, said in steps:
            caplog.clear()
            change()
            for _ in range(3):
                assert shown(served, authority, None) == ["old.example"]
            assert [record.message for record in caplog.records] == [
                f"{said}; what was loaded before stays in use"
            ]
        replace(files.key, new.key.read_bytes())
        assert shown(served, authority, None) == ["new.example"]


def test_a_client_that_was_accepted_before_the_change_gets_the_new_one(authority: Authority) -> None:
    files = authority.issue("old.example")
    with https(config(files)) as served, RawClient(served.address) as early:
        wait_until(lambda: served.queue.open, "a connection")
        authority.issue("new.example", to=files)
        assert shown(served, authority, None) == ["new.example"]
        early.sock = authority.client().wrap_socket(early.sock, server_hostname="new.example")
        assert early.get().body == b"hello"


def test_a_fault_of_the_machine_is_tried_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("old.example")
    with https(config(files)) as served:
        authority.issue("new.example", to=files)
        with monkeypatch.context() as patch:
            patch.setattr(tls_module, "read_pair", lambda *_: 1 / 0)
            for _ in range(3):
                assert shown(served, authority, None) == ["old.example"]
        assert shown(served, authority, None) == ["new.example"]
    (record,) = caplog.records
    assert "ZeroDivisionError" in record.message


def test_files_are_looked_at_once_a_second(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    files = authority.issue("old.example")
    contexts = TlsContexts(config(files))
    now = 1000.0
    seen = contexts.current

    def accept(now: float) -> None:
        ours, theirs = socket.socketpair()
        with theirs, contexts.connection(1, ours.family, ours.detach(), None, None, now):
            pass

    accept(now)
    authority.issue("new.example", to=files)
    accept(now + 0.5)
    assert contexts.current is seen
    accept(now + 1.0)
    assert contexts.current is not seen


def test_the_authorities_of_clients_change(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("localhost")
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.ca.read_bytes())
    tls = TlsConfig(cert=files.cert, key=files.key, client_ca=ca, client_cert="required")
    ann = other.issue("ann.example", person="ann")
    context = authority.client(ann)
    with https(tls) as served:
        with TlsClient(served.address, context) as conn, pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            conn.get()
        replace(ca, other.ca.read_bytes())
        with TlsClient(served.address, context) as conn:
            assert conn.get().body == b"hello"


# -- what cannot be served ---------------------------------------------------------------------------------------------


def test_a_broken_pair_is_refused_at_the_beginning(authority: Authority) -> None:
    files = authority.issue("a.example")
    files.key.write_bytes(authority.issue("b.example").key.read_bytes())
    with pytest.raises(BadCertificate, match="is not the key of"):
        TlsContexts(config(files))


def test_an_expired_certificate_is_served_and_said(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("a.example", until=LONG_AGO.replace(year=2021))
    TlsContexts(config(files))
    assert [record.message for record in caplog.records] == [
        f"clients will refuse the certificate in {files.cert}: it expired on 2021-01-01 00:00 UTC; renew it"
    ]


def test_failed_handshakes_do_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = 1000.0
    monkeypatch.setattr("serverd.server.seldom.monotonic", lambda: now)
    failed = FailureLog()
    for number in range(500):
        failed(("192.0.2.1", number), "wrong version number")
    now += 60.0
    failed(None, "no shared cipher")
    assert [record.message for record in caplog.records] == [
        "tls: no handshake with 192.0.2.1:0: wrong version number",
        "tls: no handshake with a client: no shared cipher (499 more since the last such line)",
    ]
