"""HTTPS of a whole daemon: what it says, reloads and refuses; and real clients."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from tests.support.certificates import LONG_AGO, Authority, Files, TlsClient, replace
from tests.support.client import RawClient
from tests.support.daemon import HELLO, Daemon, wait_until

WEBSOCKET = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    tls = scope["extensions"]["tls"]
    text = f"{scope['scheme']} {tls['client_cert_name']} {tls['tls_version']:#x}"
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": text})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def files(authority: Authority) -> Files:
    return authority.issue("localhost", "127.0.0.1")


def tls(files: Files, **more: Any) -> dict[str, Any]:
    return {"tls": {**files.config(), **more}}


def shown(daemon: Daemon, authority: Authority) -> list[str]:
    context = authority.client(check_hostname=False)
    with TlsClient(("127.0.0.1", daemon.port), context) as conn:
        assert conn.get().body == b"hello"
        return conn.names()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_daemon_serves_https(tmp_path: Path, authority: Authority, files: Files, mode: str) -> None:
    with Daemon(tmp_path, config=tls(files) | {"workers": {"mode": mode}}) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line(rf"listening on https://127\.0\.0\.1:{daemon.port}$")
        address = ("127.0.0.1", daemon.port)
        with TlsClient(address, authority.client()) as conn:
            for _ in range(3):
                assert conn.get().body == b"hello"
            with RawClient(address) as plain:
                assert plain.get().body == b"this port speaks HTTPS: use https:// in the address\n"
            with RawClient(address) as garbage:
                garbage.send(bytes(100))
                garbage.rest()
            daemon.wait_for_line("info .*no handshake with 127.0.0.1:")
            daemon.signal(signal.SIGTERM)
            assert conn.closed()  # with close_notify
        assert daemon.wait_exit() == 0
        assert daemon.count("Traceback|error") == 0


def test_a_reload_takes_new_certificates_and_drops_nobody(
    tmp_path: Path, authority: Authority, files: Files
) -> None:
    with Daemon(tmp_path, config=tls(files)) as daemon:
        daemon.wait_ready()
        with TlsClient(("127.0.0.1", daemon.port), authority.client()) as before:
            assert before.get().body == b"hello"
            other = authority.issue("localhost", "other.example")
            daemon.write_config(tls(other))
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready")
            # The old child may accept one more before it hears that it shall drain.
            wait_until(lambda: "other.example" in shown(daemon, authority), "the new certificate")
            # Each answer is good, and the one after the old child has heard it is the last.
            while (answer := before.get()).header("connection") != "close":
                assert answer.body == b"hello"
            assert answer.body == b"hello"
            assert before.closed()


def test_a_reload_with_a_bad_certificate_is_refused(
    tmp_path: Path, authority: Authority, files: Files
) -> None:
    with Daemon(tmp_path, config=tls(files)) as daemon:
        daemon.wait_ready()
        daemon.write_config({"tls": {"cert": str(files.cert), "key": str(authority.issue("b.example").key)}})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line(r"tls\.key: .* is not the key of the certificate in ")
        assert shown(daemon, authority) == ["localhost"]
        assert daemon.count("generation 2 ready") == 0


def test_changed_files_are_served_without_a_reload(tmp_path: Path, authority: Authority) -> None:
    """As after a renewal: two children, and connections that were there before go on."""
    files = authority.issue("localhost", "old.example")
    with Daemon(tmp_path, config=tls(files) | {"workers": {"processes": 2, "threads": 1}}) as daemon:
        daemon.wait_ready()
        with TlsClient(("127.0.0.1", daemon.port), authority.client()) as before:
            assert before.get().body == b"hello"
            authority.issue("localhost", "new.example", to=files)
            changed = "the certificates have changed, and are in use from now on"
            wait_until(
                lambda: (
                    shown(daemon, authority) == ["localhost", "new.example"]
                    and daemon.count(changed) == 2  # one child alone may answer many clients in a row
                ),
                "the new certificate from both children",
            )
            assert before.get().body == b"hello"
        replace(files.key, b"nonsense")
        shown_all: list[list[str]] = []

        def named() -> bool:
            shown_all.append(shown(daemon, authority))
            return daemon.count("tls.key: holds no private key in PEM form: .* stays in use") >= 1

        wait_until(named, "a line about the broken key")
        assert shown_all == [["localhost", "new.example"]] * len(shown_all)


def test_what_cannot_be_served_is_one_line_with_its_place(
    tmp_path: Path, authority: Authority, files: Files
) -> None:
    swapped = {"cert": str(files.cert), "key": str(authority.issue("b.example").key)}
    with Daemon(tmp_path, config={"tls": swapped}) as daemon:
        assert daemon.wait_exit() == 2
        (line,) = daemon.lines
        assert line.endswith(f"tls.key: {swapped['key']} is not the key of the certificate in {files.cert}")
        assert "server.yaml:" in line


def test_an_expired_certificate_is_said_and_served(tmp_path: Path, authority: Authority) -> None:
    old = authority.issue("localhost", until=LONG_AGO.replace(year=2021))
    with Daemon(tmp_path, config=tls(old)) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line(r"warning .*it expired on 2021-01-01 00:00 UTC; renew it")
        context = authority.client(check_hostname=False, verify_mode=ssl.CERT_NONE)
        with TlsClient(("127.0.0.1", daemon.port), context) as conn:
            assert conn.get().body == b"hello"


@pytest.mark.root
def test_a_key_that_the_childrens_user_may_not_read(files: Files) -> None:
    """The master is root and can; the child that cannot says who it is and which file it is."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are for root alone
        folder = Path(name)
        folder.chmod(0o755)
        copy = Files(folder / "cert.pem", folder / "key.pem")
        for source, target, mode in zip(files, copy, (0o644, 0o600), strict=True):
            target.write_bytes(source.read_bytes())
            target.chmod(mode)
        with Daemon(folder, config=tls(copy) | {"process": {"user": "nobody"}}) as daemon:
            assert daemon.wait_exit() == 3
            daemon.wait_for_line(rf"cannot boot: tls\.key: may not be read by user nobody: {copy.key}$")
            assert daemon.count("Traceback") == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_client_certificates_and_websockets(
    tmp_path: Path, authority: Authority, files: Files, mode: str
) -> None:
    config = tls(files, client_ca=str(authority.ca), client_cert="required") | {"workers": {"mode": mode}}
    ann = authority.issue("ann.example", person="ann")
    with Daemon(tmp_path, app=WEBSOCKET, config=config) as daemon:
        daemon.wait_ready()
        trusted = authority.client(ann)
        with httpx.Client(verify=trusted) as client:
            text = client.get(f"https://localhost:{daemon.port}/").text
            assert text.startswith("https CN=ann,")
            assert text.endswith(" 0x304")

        async def talk() -> None:
            url = f"wss://localhost:{daemon.port}/"
            async with websockets.connect(url, ssl=trusted) as socket:
                assert str(await socket.recv()).startswith("wss CN=ann,")
                for size in (1, 100, 70_000, 500_000):
                    await socket.send(bytes(size))
                    assert await socket.recv() == bytes(size)

        asyncio.run(talk())
        with pytest.raises(httpx.HTTPError), httpx.Client(verify=authority.client()) as nobody:
            nobody.get(f"https://localhost:{daemon.port}/")
        daemon.wait_for_line("no handshake with .*: peer did not return a certificate")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (Debian: apt-get install curl)")
@pytest.mark.parametrize("option", ["--tlsv1.3", "--tls-max=1.2", "--http2", "--http1.0"])
def test_curl(tmp_path: Path, authority: Authority, files: Files, option: str) -> None:
    with Daemon(tmp_path, app=HELLO, config=tls(files)) as daemon:
        daemon.wait_ready()
        url = f"https://127.0.0.1:{daemon.port}/"
        command = ["curl", "-sS", "-m", "10", *option.split("="), "--cacert", str(authority.ca), url, url]
        done = subprocess.run(command, capture_output=True, timeout=20)
        assert (done.stdout, done.stderr) == (b"hellohello", b"")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl (Debian: apt-get install openssl)")
def test_renegotiation_and_key_updates(tmp_path: Path, authority: Authority, files: Files) -> None:
    """OpenSSL's own client, which does as single letters on its standard input say."""
    with Daemon(tmp_path, config=tls(files)) as daemon:
        daemon.wait_ready()

        def session(version: str, *steps: str) -> str:
            command = [
                "stdbuf",
                "-o0",
                "openssl",
                "s_client",
                "-connect",
                f"127.0.0.1:{daemon.port}",
                version,
                "-CAfile",
                str(authority.ca),
            ]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
            ) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                said = b""
                for step, answer in zip(steps[::2], steps[1::2], strict=True):
                    client.stdin.write(step.encode())
                    while answer.encode() not in said and (piece := client.stdout.read(65536)):
                        said += piece
                client.kill()
                return said.decode()

        request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert "hello" in session("-tls1_3", "", "SSL handshake", "K\n", "KEYUPDATE", request, "hello")
        assert "no renegotiation" in session("-tls1_2", "", "SSL handshake", "R\n", "no renegotiation")
        assert daemon.count("Traceback") == 0
        assert shown(daemon, authority) == ["localhost"]
