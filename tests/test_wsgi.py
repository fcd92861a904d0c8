"""WSGI through real workers and sockets: what an application is given, and what becomes of what it gives."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import io
import json
import logging
import queue
import random
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse as Start
from wsgiref.validate import validator

import pytest

from serverd.config import LimitsConfig, ServerConfig, TimeoutsConfig, WorkersConfig
from serverd.server.app_loader import no_asgi
from serverd.server.connection import Connection
from tests.support.client import RawClient, Response
from tests.support.daemon import wait_until
from tests.support.workers import Workers, serving

App = Callable[[dict[str, Any], Start], Any]

PLAIN = [("Content-Type", "text/plain")]
SMALL = ServerConfig(app="test:app", limits=replace(LimitsConfig(), buffered_body=4096))


def wsgi(app: App, **options: Any) -> AbstractContextManager[Workers]:
    """``serving`` for a WSGI application."""
    return serving(no_asgi, wsgi_app=app, **options)


def ask(app: App, request: bytes, *, config: ServerConfig | None = None, method: str = "GET") -> Response:
    """One request, one response."""
    with wsgi(app, config=config) as served, served.connect() as client:
        client.send(request)
        return client.response(method)


def get(app: App, target: str = "/", headers: str = "") -> Response:
    return ask(app, f"GET {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())


def environ_of(request: bytes, config: ServerConfig | None = None) -> dict[str, Any]:
    """The environ that an application is given for ``request``: its values that are str, bool or number."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        assert type(environ) is dict
        start_response("200 OK", PLAIN)
        plain = {key: value for key, value in environ.items() if isinstance(value, (str, int, tuple))}
        return [json.dumps(plain).encode()]

    response = ask(app, request, config=config)
    assert response.status == 200
    environ: dict[str, Any] = json.loads(response.body)
    return environ


# -- environ -----------------------------------------------------------------------------------------------------------


def test_environ_has_all_that_pep_3333_names() -> None:
    environ = environ_of(
        b"GET /a/b%20c%C3%A9?x=1&y=%20 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: me\r\n\r\n"
    )
    port = environ.pop("SERVER_PORT")
    assert port.isdecimal()
    assert environ.pop("REMOTE_PORT").isdecimal()
    assert environ == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b cÃ©",  # the bytes of UTF-8, as latin-1
        "QUERY_STRING": "x=1&y=%20",
        "RAW_URI": "/a/b%20c%C3%A9?x=1&y=%20",
        "REQUEST_URI": "/a/b%20c%C3%A9?x=1&y=%20",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "serverd",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "example.com",
        "HTTP_USER_AGENT": "me",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def test_fields_become_variables() -> None:
    environ = environ_of(
        b"POST / HTTP/1.0\r\nHost: a\r\nContent-Type: text/x\r\nContent-Length: 2\r\nX-Rare: \xe9\r\n"
        b"Cookie: a=1\r\nCookie: b=2\r\nAccept: x\r\nAccept: y\r\nX-Rare: 2\r\n\r\nhi"
    )
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert environ["CONTENT_TYPE"] == "text/x"
    assert environ["CONTENT_LENGTH"] == "2"
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & environ.keys()
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_ACCEPT"] == "x,y"
    assert environ["HTTP_X_RARE"] == "é,2"


def test_a_name_with_an_underscore_cannot_forge_another() -> None:
    environ = environ_of(
        b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nX-Real-IP: 1.2.3.4\r\nX_Real-IP: 6\r\n\r\n"
    )
    assert environ["HTTP_X_REAL_IP"] == "1.2.3.4"
    assert "HTTP_X_FORWARDED_FOR" not in environ


def test_names_that_clients_invent_are_forgotten_again() -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        seen.append({key: value for key, value in environ.items() if key.startswith("HTTP_X_INVENTED")})
        start_response("200 OK", PLAIN)
        return []

    with wsgi(app, threads=1) as served, served.connect() as client:
        for first in range(0, 600, 50):
            lines = "".join(f"X-Invented-{number}: {number}\r\n" for number in range(first, first + 50))
            assert client.get(headers=lines).status == 200
            assert seen[-1] == {
                f"HTTP_X_INVENTED_{number}": str(number) for number in range(first, first + 50)
            }
        runner = served.workers[0]._runner._wsgi
        assert runner is not None
        assert 0 < len(runner._environs._learnt) <= 256


def test_heads_that_never_come_again_are_forgotten() -> None:
    with wsgi(answering([b""]), threads=1) as served, served.connect() as client:
        for number in range(600):
            assert client.get(f"/{number}").status == 200
        runner = served.workers[0]._runner._wsgi
        assert runner is not None
        assert 0 < len(runner._environs._again) <= 256


def test_root_path_and_processes_come_from_the_configuration() -> None:
    workers = WorkersConfig(root_path="/api", processes=2)
    config = ServerConfig(app="test:app", workers=workers)
    environ = environ_of(b"GET /users HTTP/1.1\r\nHost: a\r\n\r\n", config)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/api", "/users")
    assert environ["wsgi.multiprocess"] is True


def test_options_of_the_whole_server_has_no_path() -> None:
    environ = environ_of(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (environ["PATH_INFO"], environ["REQUEST_URI"]) == ("", "*")


def test_a_secure_connection_is_https(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Connection.__init__

    def secure(conn: Connection, *args: Any) -> None:
        begin(conn, *args)
        conn.secure = True

    monkeypatch.setattr(Connection, "__init__", secure)
    environ = environ_of(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("https", "on")


def test_over_a_unix_socket_there_is_neither_port_nor_client(tmp_path: Path) -> None:
    environs = []

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        environs.append(environ)
        start_response("200 OK", PLAIN)
        return [b"hi"]

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    listener.listen()
    with wsgi(app) as served:
        served.queue.add_listener(listener)
        with RawClient(str(tmp_path / "sock")) as client:
            assert client.get().body == b"hi"
    (environ,) = environs
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("", "")


def test_each_request_has_an_environ_of_its_own() -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        body = repr(sorted(key for key in environ if key.startswith("mine"))).encode()
        environ["mine"] = environ["HTTP_HOST"] = "changed"
        return [body]

    with wsgi(app, threads=1) as served, served.connect() as client:
        assert [client.get().body for _ in range(5)] == [b"[]"] * 5


def test_a_head_that_comes_again_is_of_the_connection_it_came_over() -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return [environ["REMOTE_PORT"].encode()]

    with wsgi(app, threads=1) as served:
        for _ in range(5):
            with served.connect() as client:
                port = str(client.sock.getsockname()[1]).encode()
                assert [client.get().body for _ in range(3)] == [port] * 3


def test_the_application_runs_on_one_thread_without_an_event_loop() -> None:
    variable = contextvars.ContextVar("variable", default="fresh")
    threads: list[int] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            threads.append(threading.get_ident())
            yield variable.get().encode()

        def close(self) -> None:
            threads.append(threading.get_ident())

    async def coroutine() -> str:
        return "ran"

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        threads.append(threading.get_ident())
        before = variable.get()
        variable.set(asyncio.run(coroutine()))
        start_response("200 OK", [("X-Before", before)])
        return Body()

    with wsgi(app, threads=1) as served, served.connect() as client:
        for _ in range(2):
            response = client.get()
            assert (response.header("x-before"), response.body) == ("fresh", b"ran")
    wait_until(lambda: len(threads) == 6)
    assert len(set(threads)) == 1


# -- the request's body ------------------------------------------------------------------------------------------------


def reading(read: Callable[[Any], Any]) -> App:
    """An application that answers with the repr of what ``read`` makes of wsgi.input."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return [repr(read(environ["wsgi.input"])).encode()]

    return app


LINES = b"one\ntwo\n\nlast" * 1000
READS: list[tuple[str, Callable[[Any], Any], Any]] = [
    ("read()", lambda body: len(body.read()), len(LINES)),
    ("read(n)", lambda body: (body.read(5), body.read(0), body.read(3)), (b"one\nt", b"", b"wo\n")),
    ("read(-1)", lambda body: len(body.read(-1)), len(LINES)),
    ("read to the end", lambda body: [len(body.read(8000)) for _ in range(3)], [8000, 5000, 0]),
    (
        "readline()",
        lambda body: (body.readline(), body.readline(2), body.readline()),
        (b"one\n", b"tw", b"o\n"),
    ),
    ("readlines()", lambda body: body.readlines() == LINES.splitlines(keepends=True), True),
    ("iter", lambda body: list(body) == LINES.splitlines(keepends=True), True),
]


@pytest.mark.parametrize("buffered", [1 << 20, 4096], ids=["buffered", "arriving"])
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@pytest.mark.parametrize(("read", "result"), [row[1:] for row in READS], ids=[row[0] for row in READS])
def test_input(read: Callable[[Any], Any], result: Any, buffered: int, chunked: bool) -> None:
    limits = replace(LimitsConfig(), buffered_body=buffered)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    if chunked:
        pieces = (LINES[at : at + 777] for at in range(0, len(LINES), 777))
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        request = head + b"Transfer-Encoding: chunked\r\n\r\n" + body
    else:
        request = head + b"Content-Length: %d\r\n\r\n" % len(LINES) + LINES
    response = ask(reading(read), request, config=ServerConfig(app="test:app", limits=limits))
    assert response.body == repr(result).encode()


@pytest.mark.parametrize("size", [-1, 1000, 70_000, 200_000])
def test_a_body_in_pieces_larger_than_what_is_read_at_once(size: int) -> None:
    def digest(body: Any) -> str:
        taken = hashlib.sha256()
        while piece := body.read(size):
            taken.update(piece)
        return taken.hexdigest()

    data = random.Random(1).randbytes(700_000)
    config = ServerConfig(app="test:app", limits=replace(LimitsConfig(), buffered_body=300_000))
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 700000\r\n\r\n" + data
    response = ask(reading(digest), request, config=config)
    assert response.body == repr(hashlib.sha256(data).hexdigest()).encode()


def test_a_request_without_a_body_has_an_empty_input() -> None:
    assert get(reading(lambda body: (body.read(), body.readline(), list(body)))).body == b"(b'', b'', [])"


@pytest.mark.parametrize(("size", "length"), [(100, "100"), (100_000, None)])
def test_the_length_of_a_chunked_body_is_told_when_it_is_known(size: int, length: str | None) -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        coding = environ.get("HTTP_TRANSFER_ENCODING")
        got = len(environ["wsgi.input"].read())
        return [repr((environ.get("CONTENT_LENGTH"), coding, environ["wsgi.input_terminated"], got)).encode()]

    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = ask(app, head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size)), config=SMALL)
    coding = None if length else "chunked"
    assert response.body == repr((length, coding, True, size)).encode()


def test_a_large_body_is_read_and_answered_as_it_arrives() -> None:
    def echo(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        while piece := environ["wsgi.input"].read(5000):
            yield piece

    with wsgi(echo, config=SMALL) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n" + b"a" * 5000)
        assert client.head().header("transfer-encoding") == "chunked"
        assert client.line() == "1388"
        assert client.read(5002) == b"a" * 5000 + b"\r\n"
        client.send(b"b" * 5000)
        assert client.line() == "1388"
        assert client.read(5002) == b"b" * 5000 + b"\r\n"
        assert client.line() == "0"


def test_expect_100_continue_is_answered_before_the_body() -> None:
    with wsgi(reading(lambda body: len(body.read()))) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.response().status == 100
        client.send(b"hello")
        assert client.response().body == b"5"


def test_a_body_that_breaks_off_is_an_error_and_never_complete() -> None:
    caught: queue.Queue[BaseException] = queue.Queue()

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        for _ in range(2):
            try:
                environ["wsgi.input"].read()
            except OSError as exc:
                caught.put(exc)
        start_response("200 OK", PLAIN)
        return [b"never sent"]

    with wsgi(app, config=SMALL) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n" + bytes(5000))
        client.sock.shutdown(socket.SHUT_WR)
        assert "left before" in str(caught.get(timeout=10))
        assert "complete" in str(caught.get(timeout=10))
        assert client.closed()


def stubborn(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Answers although its request broke off, as frameworks do that catch everything."""
    start_response("200 OK", PLAIN)
    try:
        environ["wsgi.input"].read()
    except OSError:
        return iter([b"something ", b"else"])
    return [b"complete"]


@pytest.mark.parametrize("app", [reading(lambda body: body.read()), stubborn], ids=["raises", "answers"])
def test_a_body_that_does_not_come_is_408_for_the_client(app: App, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(SMALL, timeouts=replace(TimeoutsConfig(), body=0.2))
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n" + bytes(5000)
    assert ask(app, request, config=config).status == 408
    assert not caplog.records


def test_a_body_that_grows_over_the_limit_is_413_for_the_client(caplog: pytest.LogCaptureFixture) -> None:
    config = replace(SMALL, limits=replace(SMALL.limits, body=6000))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with wsgi(reading(lambda body: body.read()), config=config) as served, served.connect() as client:
        client.send(head + b"1388\r\n" + bytes(5000) + b"\r\n")
        client.send(b"1388\r\n" + bytes(5000) + b"\r\n0\r\n\r\n")
        assert client.response().status == 413
    assert not caplog.records


def test_what_reads_the_input_too_late_is_told_so() -> None:
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        kept.append(environ["wsgi.input"])
        start_response("200 OK", PLAIN)
        return [b"early"]

    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n" + bytes(5000)
    response = ask(app, request, config=SMALL)
    assert (response.body, response.header("connection")) == (b"early", "close")
    with pytest.raises(ValueError, match="after the end of its request"):
        kept[0].read()


def test_a_body_is_not_read_any_more_when_its_response_is_complete() -> None:
    caught: queue.Queue[BaseException] = queue.Queue()

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        yield b"ok"
        try:
            environ["wsgi.input"].read()
        except OSError as exc:
            caught.put(exc)

    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n" + bytes(5000)
    assert ask(app, request, config=SMALL).body == b"ok"
    assert "the exchange ended" in str(caught.get(timeout=10))


# -- the response ------------------------------------------------------------------------------------------------------


def answering(result: Any, headers: list[tuple[str, str]] | None = None, status: str = "200 OK") -> App:
    """An application that returns ``result``, or what it returns when called."""

    def app(environ: dict[str, Any], start_response: Start) -> Any:
        start_response(status, PLAIN if headers is None else headers)
        return result() if callable(result) else result

    return app


@pytest.mark.parametrize(
    ("result", "body", "length"),
    [
        ([b"hello"], b"hello", "5"),
        ([b"a", b"", b"bc"], b"abc", "3"),
        ((b"a", b"b"), b"ab", "2"),
        ([], b"", "0"),
        (lambda: iter([b"", b"a", b"", b"bc"]), b"abc", None),
        (lambda: iter([]), b"", "0"),
        (lambda: iter([b"", b""]), b"", "0"),
    ],
    ids=["one", "some", "tuple", "none", "iterator", "empty iterator", "iterator of empty pieces"],
)
def test_what_may_be_returned(result: Any, body: bytes, length: str | None) -> None:
    response = get(answering(result))
    assert (response.status, response.body, response.header("content-length")) == (200, body, length)
    assert response.header("content-type") == "text/plain"


def test_the_connection_goes_on_after_each_kind_of_response() -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Any:
        kind = environ["PATH_INFO"]
        headers = [*PLAIN, ("Content-Length", "6")] if kind == "/length" else PLAIN
        write = start_response("200 OK", headers)
        if kind == "/write":
            write(b"abc")
            return [b"def"]
        if kind == "/file":
            return environ["wsgi.file_wrapper"](io.BytesIO(b"abcdef"), 4)
        return [b"abcdef"] if kind == "/list" else iter([b"abc", b"", b"def"])

    kinds = ["/list", "/iterator", "/length", "/write", "/file"]
    with wsgi(validator(app), threads=1) as served, served.connect() as client:
        for kind in kinds * 2:
            assert client.get(kind).body == b"abcdef"
            assert client.get(kind, "HEAD").status == 200
        for kind in kinds:
            client.send(f"GET {kind} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        for _ in kinds:
            assert client.response().body == b"abcdef"


def test_each_piece_is_sent_before_the_next_is_asked_for() -> None:
    more: queue.Queue[bytes] = queue.Queue()

    def stream(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        while piece := more.get(timeout=10):
            yield piece

    with wsgi(stream) as served, served.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        more.put(b"one")
        assert client.head().status == 200
        assert (client.line(), client.line()) == ("3", "one")
        more.put(b"two")
        assert (client.line(), client.line()) == ("3", "two")
        more.put(b"")
        assert client.line() == "0"


def test_write_sends_at_once() -> None:
    go_on = threading.Event()

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [*PLAIN, ("Content-Length", "6")])
        write(b"")
        write(b"one")
        assert go_on.wait(10)
        write(b"two")
        return []

    with wsgi(app) as served, served.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head().header("content-length") == "6"
        assert client.read(3) == b"one"
        go_on.set()
        assert client.read(3) == b"two"


def test_a_response_with_its_length_is_complete_before_the_application_is() -> None:
    go_on = threading.Event()

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        yield b"ab"
        yield b"cd"
        assert environ["PATH_INFO"] == "/second" or go_on.wait(10)

    with wsgi(app, threads=2) as served, served.connect() as client:
        assert client.get("/first").body == b"abcd"
        assert client.get("/second").body == b"abcd"
        go_on.set()


def test_http_1_0_reads_a_stream_until_the_connection_closes() -> None:
    with wsgi(answering(lambda: iter([b"a", b"b"]))) as served, served.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.head().header("transfer-encoding") is None
        assert client.rest() == b"ab"


def test_head_stops_an_application_that_would_go_on() -> None:
    closed = threading.Event()

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        try:
            while True:
                yield b"more"
        finally:
            closed.set()

    with wsgi(app) as served, served.connect() as client:
        assert client.get(method="HEAD").status == 200
        assert closed.wait(10)
        assert client.get(method="HEAD").header("transfer-encoding") == "chunked"


@pytest.mark.parametrize(
    ("status", "code"),
    [("204 No Content", 204), ("304 Not Modified", 304), ("418 Anything", 418), ("599", 599)],
)
def test_statuses(status: str, code: int) -> None:
    response = get(answering([], [], status))
    assert (response.status, response.body) == (code, b"")


def test_header_values_are_latin_1() -> None:
    response = get(answering([b""], [("X-Name", "é"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    assert response.header("x-name") == "é"
    assert [value for name, value in response.headers if name == "set-cookie"] == ["a=1", "b=2"]


def test_an_error_can_replace_the_response_until_it_is_sent() -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "7")])
        try:
            raise ValueError("late")
        except ValueError:
            start_response("500 Oops", PLAIN, sys.exc_info())
        return iter([b"instead", b" of it"])

    response = get(app)
    assert (response.status, response.body) == (500, b"instead of it")


def test_an_error_after_the_head_is_raised_again(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            raise ValueError("late")
        except ValueError:
            start_response("500 Oops", PLAIN, sys.exc_info())
        yield b"never"

    with wsgi(app) as served, served.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head().status == 200
        assert client.rest() == b"5\r\nbegun\r\n"  # cut: no last chunk
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


# -- mistakes ----------------------------------------------------------------------------------------------------------


def silent(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    return [b"no head"]


def silent_stream(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    return iter([b""])


MISTAKES: list[tuple[App, str]] = [
    (silent, "never called start_response"),
    (silent_stream, "never called start_response (PEP 3333)"),
    (answering(None), "returned NoneType; WSGI wants an iterable of bytes"),
    (answering("text"), "returned str; WSGI wants an iterable of bytes"),
    (answering(b"bytes"), "returned bytes; WSGI wants an iterable of bytes"),
    (answering(7), "returned int, which is not iterable"),
    (answering(["text"]), "gave str as a piece of body, it must be bytes: encode it"),
    (answering(lambda: iter([7])), "gave int as a piece of body, it must be bytes"),
]


@pytest.mark.parametrize(("app", "line"), MISTAKES, ids=[line for _, line in MISTAKES])
def test_one_line_for_what_is_no_response(app: App, line: str, caplog: pytest.LogCaptureFixture) -> None:
    assert get(app, "/page").status == 500
    (record,) = caplog.records
    assert record.name == "serverd.error"
    assert record.exc_info is None
    assert record.getMessage().startswith(f"GET /page: the application {line}")


REFUSED: list[tuple[App, str]] = [
    (answering([], status="OK"), "the status 'OK' is not three digits"),
    (answering([], status="2000 OK"), "the status '2000 OK' is not three digits"),
    (answering([], status="100 Continue"), "does not end a request"),
    (answering([], status=200), "the status is int, it must be a str"),  # type: ignore[arg-type]
    (answering([], {"a": "b"}), "the response headers are dict"),  # type: ignore[arg-type]
    (answering([], ["abc"]), "the response header 'abc' is not a pair"),  # type: ignore[list-item]
    (answering([], [("a", 1)]), "the response header 'a' has a int, it must be str"),  # type: ignore[list-item]
    (answering([], [("a", b"b")]), "has a bytes, it must be str"),  # type: ignore[list-item]
    (answering([], [("a", "\u0416")]), "characters beyond latin-1"),
    (answering([], [("a", "b\r\nc: d")]), "control byte"),
    (answering([], [("a b", "c")]), "a name that is not a token"),
    (answering([b"123"], [("Content-Length", "2")]), "3 bytes where content-length announced 2"),
    (answering([b"123"], [("Content-Length", "4")]), "3 bytes where content-length announced 4"),
    (answering([b"123"], [("Content-Length", "x")]), "not a plain decimal number"),
]


@pytest.mark.parametrize(("app", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_sent_is_told_where_it_happened(
    app: App, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert get(app).status == 500
    assert caplog.records[0].exc_info is not None
    assert words in str(caplog.records[0].exc_info[1])


def test_start_response_twice_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        start_response("200 OK", PLAIN)
        return []

    assert get(app).status == 500
    assert "called a second time" in caplog.text


def test_more_than_content_length_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    with wsgi(answering(lambda: iter([b"12", b"34"]), [("Content-Length", "2")])) as served:
        with served.connect() as client:
            assert client.get("/long").body == b"12"
            assert client.get("/long").body == b"12"
        wait_until(lambda: len(caplog.records) == 2)
    assert "GET /long: the application gave more body than" in caplog.text


def test_less_than_content_length_cuts_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with wsgi(answering(lambda: iter([b"12"]), [("Content-Length", "5")])) as served:
        with served.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            client.head()
            assert client.rest() == b"12"
    assert "3 bytes shorter than content-length announced" in caplog.text


def test_an_exception_is_500_and_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        raise KeyError("nothing here")

    with wsgi(app, threads=1) as served, served.connect() as client:
        assert client.get("/broken").status == 500
    assert "GET /broken: the application raised an exception" in caplog.text
    assert "KeyError: 'nothing here'" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_no_exception_ends_the_thread(kind: type[BaseException]) -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fail":
            raise kind
        start_response("200 OK", PLAIN)
        return [b"alive"]

    with wsgi(app, threads=1) as served:
        with served.connect() as client:
            assert client.get("/fail").status == 500
        with served.connect() as client:
            assert client.get("/").body == b"alive"


def test_what_is_written_to_errors_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        errors = environ["wsgi.errors"]
        errors.write("one ")
        errors.writelines(["line\n", "another\n  with more\n"])
        errors.flush()
        print("the last", end="", file=errors)
        start_response("200 OK", PLAIN)
        return []

    assert get(app).status == 200
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["one line", "another\n  with more", "the last"]
    assert all((record.name, record.levelno) == ("serverd.error", logging.ERROR) for record in caplog.records)


# -- close() -----------------------------------------------------------------------------------------------------------


class Closing:
    """An iterable that counts how often it was closed."""

    def __init__(self, pieces: Callable[[], Iterable[bytes]], fails: bool = False) -> None:
        self.closed = 0
        self._pieces = pieces
        self._fails = fails

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces()

    def close(self) -> None:
        self.closed += 1
        if self._fails:
            raise OSError("close failed")


def broken() -> Iterator[bytes]:
    yield b"begun"
    raise ValueError("in the middle")


def broken_at_once() -> Iterator[bytes]:
    raise ValueError("at once")
    yield b""


@pytest.mark.parametrize(
    ("pieces", "fails", "logged"),
    [
        (lambda: [b"fine"], False, ""),
        (list, False, ""),
        (broken, False, "in the middle"),
        (broken_at_once, False, "at once"),
        (lambda: ["text"], False, "must be bytes"),
        (lambda: [b"fine"], True, "close failed"),
    ],
    ids=["all sent", "empty", "broken", "broken at once", "wrong type", "close fails"],
)
def test_close_is_called_once(
    pieces: Callable[[], Iterable[bytes]], fails: bool, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = Closing(pieces, fails)
    with wsgi(answering(result)) as served, served.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.rest()
    assert result.closed == 1
    assert logged in caplog.text
    assert bool(caplog.records) is bool(logged)


def test_close_is_called_when_the_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    result = Closing(endless)
    with wsgi(answering(result), threads=1) as served:
        with served.connect(receive_buffer=4096) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.head().status == 200
        wait_until(lambda: result.closed)
    assert result.closed == 1
    assert not caplog.records  # that a client leaves is no fault of the application's


def test_a_client_that_does_not_read_is_cut_off() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    result = Closing(endless)
    config = ServerConfig(app="test:app", timeouts=replace(TimeoutsConfig(), write=0.3))
    with wsgi(answering(result), threads=1, config=config) as served:
        with served.connect(receive_buffer=4096) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.head().status == 200
            wait_until(lambda: result.closed)


# -- the validator -----------------------------------------------------------------------------------------------------


def page(environ: dict[str, Any], start_response: Start) -> Any:
    """A little of everything."""
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    write = start_response("200 OK", PLAIN)
    if path == "/write":
        write(b"written ")
        return [b"and returned"]
    if path == "/stream":
        return (b"%d " % number for number in range(5))
    if path == "/file":
        return environ["wsgi.file_wrapper"](io.BytesIO(b"from a file"), 4)
    environ["wsgi.errors"].write("")
    return [b"got ", body]


@pytest.mark.parametrize(
    ("method", "target", "sent", "body"),
    [
        ("GET", "/", b"", b"got "),
        ("HEAD", "/", b"", b""),
        ("POST", "/", b"data", b"got data"),
        ("POST", "/", b"d" * 10000, b"got " + b"d" * 10000),
        ("GET", "/write", b"", b"written and returned"),
        ("HEAD", "/write", b"", b""),
        ("GET", "/stream", b"", b"0 1 2 3 4 "),
        ("HEAD", "/stream", b"", b""),
        ("GET", "/file", b"", b"from a file"),
        ("HEAD", "/file", b"", b""),
    ],
)
def test_the_validator_of_the_standard_library(
    method: str, target: str, sent: bytes, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    length = f"Content-Length: {len(sent)}\r\n" if sent else ""
    head = f"{method} {target}?q=1 HTTP/1.1\r\nHost: a\r\n{length}\r\n"
    response = ask(validator(page), head.encode() + sent, config=SMALL, method=method)
    assert (response.status, response.body) == (200, body)
    assert not caplog.records, caplog.text


def test_many_threads_at_once() -> None:
    """Each of them blocks until all are inside, and every response goes to the client that asked."""
    inside = threading.Barrier(8)

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        inside.wait(10)
        start_response("200 OK", PLAIN)
        return [environ["PATH_INFO"].encode()]

    bodies: dict[int, bytes] = {}

    def client(served: Workers, number: int) -> None:
        with served.connect() as connection:
            for _ in range(5):
                bodies[number] = connection.get(f"/{number}").body

    with wsgi(app, threads=8) as served:
        clients = [threading.Thread(target=client, args=(served, number)) for number in range(8)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(20)
    assert bodies == {number: b"/%d" % number for number in range(8)}
