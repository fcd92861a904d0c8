"""How the daemon behaves when things are bad: each row of the promise, with a real daemon and a real client."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ..support.client import RawClient
from ..support.daemon import Daemon, free_port

COUNTING = """
calls = 0

async def app(scope, receive, send):
    global calls
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    calls += scope["path"] != "/calls"
    body = str(calls).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""

HOST = b"Host: x\r\n"
REFUSED = {
    "no request line": (b"GARBAGE\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "a field without a colon": (b"GET / HTTP/1.1\r\n" + HOST + b"nocolon\r\n\r\n", 400),
    "a NUL in a value": (b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n", 400),
    "Content-Length: +5": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\n", 400),
    "Content-Length: 1_0": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1_0\r\n\r\n", 400),
    "length and chunks": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "xchunked": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    "a chunk of size zz": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a long request line": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a large head": (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 40000 + b"\r\n\r\n", 431),
    "many fields": (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 150 + b"\r\n", 431),
    "a body too large": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, 413),
    "chunks too large": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000,
        413,
    ),
    "another coding": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "HTTP/2.0": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    "a head too slow": (b"GET / HTTP/1.1\r\nHo", 408),
    "a body too slow": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n12", 408),
}


def test_what_is_refused_is_answered_closed_and_never_reaches_the_application(tmp_path: Path) -> None:
    config = {"limits": {"body": 1000}, "timeouts": {"head": "300ms", "body": "300ms"}}
    with Daemon(tmp_path, app=COUNTING, config=config) as daemon:
        daemon.wait_ready()
        seen = {}
        for name, (request, _) in REFUSED.items():
            with RawClient(("127.0.0.1", daemon.port)) as client:
                client.send(request)
                response = client.response()
                assert response.header("connection") == "close", name
                assert len(response.body.splitlines()) == 1, name
                client.sock.shutdown(socket.SHUT_WR)
                assert client.closed(), name
                seen[name] = response.status
        assert seen == {name: status for name, (_, status) in REFUSED.items()}
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.get("/calls").body == b"0"
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert daemon.count("Traceback") == 0


@pytest.mark.parametrize(
    ("config", "words", "status"),
    [
        ({"listne": ["127.0.0.1:0"]}, ["server.yaml:", "listne", "did you mean", "listen"], 2),
        ({"workers": {"thread": 3}}, ["server.yaml:", "workers.thread", "did you mean", "threads"], 2),
        ({"tls": {"cert": "no.pem", "key": "no.key"}}, ["server.yaml:", "tls.cert", "no.pem"], 2),
        ({"app": "absent:app"}, ["no module named 'absent'"], 4),
        ({"app": "demo:absent"}, ["has no attribute 'absent'"], 4),
    ],
)
def test_a_wrong_configuration_names_the_thing_and_the_status(
    tmp_path: Path, config: dict[str, object], words: list[str], status: int
) -> None:
    with Daemon(tmp_path, config=config) as daemon:
        assert daemon.wait_exit() == status
        told = [line for line in daemon.lines if all(word in line for word in words)]
        assert len(told) == 1, daemon.log
        assert daemon.count("Traceback") == 0


EXTENSION = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "old_extension", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_old_extension(void) { return PyModule_Create(&module); }
"""


@pytest.mark.skipif(
    getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs a free-threaded interpreter"
)
def test_an_extension_that_switches_the_gil_on_is_named_once(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    headers = Path(sysconfig.get_paths()["include"])
    if compiler is None or not (headers / "Python.h").exists():
        pytest.skip("needs a C compiler and Python.h (Debian: apt-get install gcc)")
    source = tmp_path / "old_extension.c"
    source.write_text(EXTENSION)
    target = tmp_path / "old_extension.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-I{headers}", "-DPy_GIL_DISABLED=1", source, "-o", target],
        check=True,
    )
    app = "import old_extension\n" + COUNTING
    with Daemon(tmp_path, app=app, config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("old_extension")
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.get().status == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert daemon.count("old_extension") == 1, daemon.log


def test_serving_from_a_name_without_a_file(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "demo.py").write_text(COUNTING)
    argv = [sys.executable, "-m", "serverd", "demo:app", "--listen", f"127.0.0.1:{port}"]
    with Daemon(tmp_path, app=COUNTING, argv=argv) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", port)) as client:
            assert client.get().body == b"1"


def test_an_interpreter_with_a_gil_is_said_once_and_serves(tmp_path: Path) -> None:
    with Daemon(
        tmp_path, app=COUNTING, config={"workers": {"processes": 2}}, env={"PYTHON_GIL": "1"}
    ) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("GIL")
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.get().status == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert daemon.count("GIL") == 1, daemon.log
