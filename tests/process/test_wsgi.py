"""Flask and Django on real daemons, in the configurations that docs/frameworks.md recommends."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..support.client import RawClient, Response
from ..support.daemon import Daemon
from .wsgi_apps import DJANGO, FLASK, PROJECT

DOCS = Path(__file__).parents[2] / "docs" / "frameworks.md"
DATA = os.urandom(3 << 20)
DIGEST = hashlib.sha256(DATA).hexdigest()


def recommended(heading: str) -> dict[str, Any]:
    """The configuration that the documentation shows first under ``heading``."""
    section = re.split(rf"^#+ {heading}$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    block = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert block is not None
    config: dict[str, Any] = yaml.safe_load(block[1])
    return config


def serve(tmp_path: Path, heading: str, app: str, source: str, **config: Any) -> Daemon:
    """A daemon with the documented configuration for ``source``, which is one module and has its own settings."""
    (tmp_path / "data.bin").write_bytes(DATA)
    shown = recommended(heading)
    shown.pop("env", None)
    merged = {**shown, **config, "app": f"demo:{app}", "listen": ["127.0.0.1:0"]}
    return Daemon(tmp_path, app=source, config=merged).wait_ready()


@pytest.fixture(params=["Flask", "Django"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """The same views, by Flask and by Django."""
    app, source = ("app", FLASK) if request.param == "Flask" else ("application", DJANGO)
    with serve(tmp_path, request.param, app, source) as daemon:
        yield daemon


def client(daemon: Daemon) -> RawClient:
    return RawClient(("127.0.0.1", daemon.port))


def at_once(daemon: Daemon, target: str, count: int) -> list[Response]:
    """``count`` requests on connections of their own, all sent before the first response is read."""
    clients = [client(daemon) for _ in range(count)]
    for one in clients:
        one.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    responses = [one.response() for one in clients]
    for one in clients:
        one.sock.close()
    return responses


def form(size: int) -> tuple[str, bytes]:
    """A multipart form: its header lines and its body."""
    body = (
        b'--limit\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + bytes(size)
        + b"\r\n--limit--\r\n"
    )
    return "Content-Type: multipart/form-data; boundary=limit\r\n", body


def upload_in_chunks(one: RawClient, data: bytes) -> str:
    """What ``/upload`` answers for a body whose length is not announced."""
    one.send(b"POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    one.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
    return one.response().body.decode()


def test_it_is_detected_and_answers(served: Daemon) -> None:
    with client(served) as one:
        for _ in range(3):
            answer = json.loads(one.get().body)
            assert (answer["message"], answer["address"]) == ("hello", "127.0.0.1")
        assert one.get("/nowhere").status == 404
        assert one.get(method="HEAD").status == 200


@pytest.mark.parametrize("heading", ["Flask", "Django", "Django as ASGI"])
def test_the_documented_configurations_serve_as_they_are(tmp_path: Path, heading: str) -> None:
    for name, source in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    config = {**recommended(heading), "listen": ["127.0.0.1:0"]}
    with Daemon(tmp_path, config=config) as daemon, client(daemon.wait_ready()) as one:
        assert one.get().body == b"hello"


def test_blocking_views_run_on_many_threads_at_once(served: Daemon) -> None:
    names = {response.body for response in at_once(served, "/meet", 4)}
    assert len(names) == 4
    assert all(name.startswith(b"serverd-worker-") for name in names)


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["buffered", "larger than buffered_body"])
def test_uploads(served: Daemon, size: int) -> None:
    headers, body = form(size)
    with client(served) as one:
        answer = one.post("/form", body, headers)
        assert json.loads(answer.body) == {"field": "value", "size": size}
        assert one.post("/upload", DATA[:size]).body.decode() == hashlib.sha256(DATA[:size]).hexdigest()


def test_streaming_sends_each_piece_at_once(served: Daemon) -> None:
    with client(served) as one, client(served) as other:
        one.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        assert one.head().status == 200
        assert (one.line(), one.read(8)) == ("6", b"first\n\r\n")
        assert other.get("/go").status == 200
        assert (one.line(), one.read(7)) == ("5", b"last\n\r\n")
        assert (one.line(), one.line()) == ("0", "")


def test_downloads(served: Daemon) -> None:
    with client(served) as one:
        for _ in range(2):
            assert hashlib.sha256(one.get("/download").body).hexdigest() == DIGEST
        assert one.get("/download", "HEAD").header("content-length") == str(len(DATA))


def test_an_exception_is_500_and_a_traceback_in_the_log(served: Daemon) -> None:
    with client(served) as one:
        assert one.get("/error").status == 500
        served.wait_for_line("KeyError: 'a key that is not there'")
        assert one.get().status == 200


def test_flask_answers_ranges_and_conditions(tmp_path: Path) -> None:
    with serve(tmp_path, "Flask", "app", FLASK) as daemon, client(daemon) as one:
        part = one.get("/download", headers="Range: bytes=1000-99999\r\n")
        assert (part.status, part.body) == (206, DATA[1000:100000])
        etag = one.get("/download", "HEAD").header("etag")
        assert one.get("/download", headers=f"If-None-Match: {etag}\r\n").status == 304


def test_flask_reads_a_chunked_body_of_any_size(tmp_path: Path) -> None:
    with serve(tmp_path, "Flask", "app", FLASK) as daemon, client(daemon) as one:
        for data in (DATA[:1000], DATA):
            assert upload_in_chunks(one, data) == hashlib.sha256(data).hexdigest()


def test_django_reads_a_chunked_body_that_was_buffered(tmp_path: Path) -> None:
    with serve(tmp_path, "Django", "application", DJANGO) as daemon, client(daemon) as one:
        assert upload_in_chunks(one, DATA[:1000]) == hashlib.sha256(DATA[:1000]).hexdigest()
        # As documented: without a Content-Length Django does not look for a body.
        assert upload_in_chunks(one, DATA) == hashlib.sha256(b"").hexdigest()


def test_a_slow_client_holds_no_thread(tmp_path: Path) -> None:
    """Two clients stop in the middle of their uploads; the only thread serves on."""
    config = {"workers": {"processes": 1, "threads": 1}}
    with serve(tmp_path, "Flask", "app", FLASK, **config) as daemon:
        slow = [client(daemon) for _ in range(2)]
        for one in slow:
            one.send(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(DATA))
            one.send(DATA[: 2 << 20])
        with client(daemon) as one:
            for _ in range(20):
                assert one.get().status == 200
        for one in slow:
            one.send(DATA[2 << 20 :])
            assert one.response().body.decode() == DIGEST
            assert one.get().status == 200
            one.sock.close()


def test_a_request_in_flight_is_finished_when_the_daemon_ends(tmp_path: Path) -> None:
    with serve(tmp_path, "Flask", "app", FLASK) as daemon, client(daemon) as one, client(daemon) as other:
        assert other.get().status == 200
        one.send(b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        daemon.wait_for_line("waiting")
        other.send(b"GET /go HTTP/1.1\r\nHost: test\r\n\r\n")
        daemon.signal(signal.SIGTERM)
        response = one.response()
        assert (response.status, response.body) == (200, b"True")
        assert daemon.wait_exit() == 0


def test_django_has_a_database_connection_for_each_thread(tmp_path: Path) -> None:
    with serve(tmp_path, "Django", "application", DJANGO) as daemon:
        connections = set()
        for _ in range(5):
            responses = at_once(daemon, "/visit", 8)
            assert {response.status for response in responses} == {200}
            connections |= {response.body for response in responses}
        with client(daemon) as one:
            assert one.get("/visits").body == b"40"
        assert len(connections) > 1


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_django_as_asgi(tmp_path: Path, mode: str) -> None:
    workers = {**recommended("Django as ASGI")["workers"], "mode": mode, "processes": 1}
    with serve(tmp_path, "Django as ASGI", "asynchronous", DJANGO, workers=workers) as daemon:
        with client(daemon) as one:
            assert json.loads(one.get().body)["message"] == "hello"
            assert one.get("/visit").status == 200
            assert one.get("/visits").body == b"1"
            assert one.get("/aslow").body == b"async 1"
            assert one.get("/astream").body == b"0\n1\n2\n"
            assert hashlib.sha256(one.get("/download").body).hexdigest() == DIGEST
            assert one.post("/upload", DATA).body.decode() == DIGEST
            assert upload_in_chunks(one, DATA) == DIGEST
            assert one.get("/error").status == 500
        daemon.wait_for_line("KeyError: 'a key that is not there'")
        responses = at_once(daemon, "/aslow", 20)
        assert {response.body for response in responses} == {b"async 1"}
