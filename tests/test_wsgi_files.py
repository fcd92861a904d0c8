"""wsgi.file_wrapper: what goes out through the kernel, what is read, and that both are the file's bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse as Start

import pytest

from serverd.server.app_loader import no_asgi
from serverd.server.exchange import Exchange
from tests.support.daemon import wait_until
from tests.support.workers import serving

DATA = os.urandom(1 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes of each response that is sent as a file."""
    sent: list[int] = []
    original = Exchange.begin_file

    def begin_file(self: Exchange, status: int, headers: Any, file: Any, *rest: Any) -> None:
        sent.append(file.count)
        original(self, status, headers, file, *rest)

    monkeypatch.setattr(Exchange, "begin_file", begin_file)
    return sent


def sending(
    make: Callable[[], Any], headers: Iterable[tuple[str, str]] = (), block: int = 8192
) -> Callable[[dict[str, Any], Start], Any]:
    def app(environ: dict[str, Any], start_response: Start) -> Any:
        start_response("200 OK", list(headers))
        return environ["wsgi.file_wrapper"](make(), block)

    return app


class Proxy:
    """What Django's File is: the attributes are those of the file."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Caesar(Proxy):
    """A file that is not what its descriptor says."""

    def read(self, size: int) -> bytes:
        return bytes(byte ^ 1 for byte in self.file.read(size))


def at(path: Path, offset: int) -> io.BufferedReader:
    opened = path.open("rb")
    opened.read(10)
    opened.seek(offset)
    return opened


def temporary(data: bytes) -> Any:
    opened = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closing it is the server's
    opened.write(data)
    opened.seek(7)
    return opened


def unnamed(data: bytes) -> Any:
    opened = tempfile.TemporaryFile()  # noqa: SIM115 - closing it is the server's
    opened.write(data)
    opened.seek(0)
    return opened


def pipe(data: bytes) -> Any:
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as end:
            end.write(data)

    threading.Thread(target=write).start()
    return open(reading, "rb")


@pytest.mark.parametrize(
    ("make", "body"),
    [
        (lambda path: path.open("rb"), DATA),
        (lambda path: path.open("rb", buffering=0), DATA),
        (lambda path: path.open("r+b"), DATA),
        (lambda path: at(path, 1000), DATA[1000:]),
        (lambda path: at(path, len(DATA) + 5), b""),
        (lambda path: Proxy(path.open("rb")), DATA),
        (lambda path: temporary(DATA), DATA[7:]),
        (lambda path: unnamed(DATA), DATA),
    ],
    ids=["file", "raw", "writable", "from an offset", "behind its end", "proxy", "temporary", "unnamed"],
)
def test_a_file_is_sent_by_the_kernel(
    make: Callable[[Path], Any], body: bytes, file: Path, by_kernel: list[int]
) -> None:
    with serving(no_asgi, wsgi_app=sending(lambda: make(file))) as served, served.connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.body == body
            assert response.header("content-length") == str(len(body))
            assert response.header("transfer-encoding") is None
        length = str(len(body)) if body else None  # of an empty one it is not said (RFC 9110 8.6)
        assert client.get(method="HEAD").header("content-length") == length
    assert by_kernel == [len(body)] * 3


@pytest.mark.parametrize(
    ("make", "body"),
    [
        (lambda path: io.BytesIO(DATA), DATA),
        (lambda path: Caesar(path.open("rb")), bytes(byte ^ 1 for byte in DATA)),
        (lambda path: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(DATA))), DATA),
        (lambda path: pipe(DATA), DATA),
    ],
    ids=["memory", "not what it seems", "gzip", "pipe"],
)
def test_what_is_no_file_of_the_system_is_read(
    make: Callable[[Path], Any], body: bytes, file: Path, by_kernel: list[int]
) -> None:
    with serving(no_asgi, wsgi_app=sending(lambda: make(file))) as served, served.connect() as client:
        assert client.get().body == body
    assert by_kernel == []


def test_a_compressed_file_is_read_although_it_has_a_descriptor(file: Path, by_kernel: list[int]) -> None:
    packed = file.with_suffix(".gz")
    packed.write_bytes(gzip.compress(DATA))
    with serving(no_asgi, wsgi_app=sending(lambda: gzip.open(packed))) as served, served.connect() as client:
        assert client.get().body == DATA
    assert by_kernel == []


@pytest.mark.parametrize("length", [0, 1, 5, len(DATA)])
def test_content_length_ends_the_file(length: int, file: Path, by_kernel: list[int]) -> None:
    app = sending(lambda: file.open("rb"), [("Content-Length", str(length))])
    with serving(no_asgi, wsgi_app=app) as served, served.connect() as client:
        assert client.get().body == DATA[:length]
        assert client.get().body == DATA[:length]
    assert by_kernel == [length] * 2


def test_a_file_that_is_too_short_is_an_error(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = sending(lambda: file.open("rb"), [("Content-Length", str(len(DATA) + 1))])
    with serving(no_asgi, wsgi_app=app) as served, served.connect() as client:
        assert client.get().status == 500
    assert "content-length announced" in caplog.text


def test_the_file_is_closed_at_once_and_no_descriptor_is_left(file: Path) -> None:
    opened: list[Any] = []

    def make() -> Any:
        opened.append(file.open("rb"))
        return opened[-1]

    with serving(no_asgi, wsgi_app=sending(make), threads=1) as served:
        with served.connect() as client:
            client.get()
        wait_until(lambda: served.queue.open == 0)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with served.connect(receive_buffer=4096) as client:  # leaves in the middle
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.head().status == 200
                wait_until(lambda: opened[-1].closed)
        with served.connect() as client:
            for _ in range(3):
                assert client.get().body == DATA
        wait_until(lambda: served.queue.open == 0)
        assert len(os.listdir("/proc/self/fd")) == before
    assert len(opened) == 7
    assert all(one.closed for one in opened)


def test_a_slow_reader_of_a_file_holds_no_thread(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(DATA * 6)
    digest = hashlib.sha256(DATA * 6).digest()
    app = sending(lambda: large.open("rb"))
    with serving(no_asgi, wsgi_app=app, threads=1) as served:
        with served.connect(receive_buffer=4096) as slow, served.connect() as quick:
            slow.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert slow.head().status == 200
            assert hashlib.sha256(quick.get().body).digest() == digest
            assert hashlib.sha256(slow.read(6 << 20)).digest() == digest


def test_after_write_the_file_is_read(file: Path, by_kernel: list[int]) -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Any:
        write = start_response("200 OK", [])
        write(b"first ")
        return environ["wsgi.file_wrapper"](file.open("rb"))

    with serving(no_asgi, wsgi_app=app) as served, served.connect() as client:
        assert client.get().body == b"first " + DATA
    assert by_kernel == []
