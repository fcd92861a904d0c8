"""ASGI extensions beside files: trailers and early hints, seen by clients on real sockets; and what frameworks make of
all of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import fastapi
import pytest
from fastapi.responses import FileResponse as FastAPIFileResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .support.apps import App, Receive, Send, reply
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import ENGINES, engine, serving

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
TE = "TE: trailers\r\n"


@pytest.fixture(params=ENGINES, autouse=True)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with engine(request.param):
        yield


# -- trailers ----------------------------------------------------------------------------------------------------------


def checksummed(*pieces: bytes, headers: Any = (), status: int = 200) -> App:
    """An application that sends ``pieces``, and their checksum behind them."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/hello":
            await reply(send, b"hello")
            return
        start = {"type": "http.response.start", "status": status, "headers": list(headers), "trailers": True}
        await send(start)
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})
        digest = hashlib.sha256(b"".join(pieces)).hexdigest().encode()
        await send({"type": "http.response.trailers", "headers": [(b"x-sha", digest)], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [[b"x-last", b"yes"]]})

    return app


def chunks_and_trailers(client: RawClient) -> tuple[bytes, list[str]]:
    """The body in chunks that comes next, and the lines behind it."""
    body = b""
    while size := int(client.line(), 16):
        body += client.read(size)
        assert client.line() == ""
    lines = []
    while line := client.line():
        lines.append(line)
    return body, lines


@pytest.mark.parametrize("pieces", [[b"hello"], [b""], [b"a" * 100_000, b"b", b""]])
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"5"), (b"trailer", b"x-sha")]])
def test_trailers(pieces: list[bytes], headers: list[tuple[bytes, bytes]]) -> None:
    body = b"".join(pieces)
    if headers:
        headers = [(b"content-length", b"%d" % len(body)), *headers[1:]]
    with serving(checksummed(*pieces, headers=headers), threads=1) as served, served.connect() as client:
        for _ in range(2):
            client.send(f"GET / HTTP/1.1\r\nHost: test\r\n{TE}\r\n".encode())
            head = client.head()
            assert head.header("transfer-encoding") == "chunked"
            assert head.header("content-length") is None
            assert head.header("trailer") == ("x-sha" if headers else None)
            assert chunks_and_trailers(client) == (
                body,
                [f"x-sha: {hashlib.sha256(body).hexdigest()}", "x-last: yes"],
            )
            assert client.get("/hello").body == b"hello"


@pytest.mark.parametrize(
    "value", ["trailers", "Trailers", "trailers, deflate;q=0.5", "deflate\r\nTE: trailers", "gzip , trailers"]
)
def test_who_asked_for_trailers_gets_them(value: str) -> None:
    seen: list[bool] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append("http.response.trailers" in scope["extensions"])
        await checksummed(b"a")(scope, receive, send)

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: test\r\nTE: {value}\r\n\r\n".encode())
        assert client.head().status == 200
        assert len(chunks_and_trailers(client)[1]) == 2
    assert seen == [True]


@pytest.mark.parametrize(
    "request_head",
    [
        "GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nTE: deflate\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nTE: x-trailers\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\nTE: trailers\r\n\r\n",
    ],
)
def test_who_did_not_gets_the_response_as_if_there_were_none(request_head: str) -> None:
    seen: list[bool] = []
    ended = threading.Semaphore(0)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append("http.response.trailers" in scope["extensions"])
        await checksummed(b"hello", headers=[(b"trailer", b"x-sha")])(scope, receive, send)
        ended.release()

    with serving(app, threads=1) as served, served.connect() as client:
        for _ in range(2):
            client.send(request_head.encode())
            response = client.response()
            assert response.header("content-length") == "5"
            assert response.header("trailer") is None
            assert response.body == b"hello"
            assert ended.acquire(timeout=10)  # the messages that come after are no error
    assert not any(seen)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_no_trailers_where_there_is_no_body(method: str, status: int) -> None:
    with serving(checksummed(b"", status=status), threads=1) as served, served.connect() as client:
        for _ in range(2):
            assert client.get(method=method, headers=TE).status == status
            assert client.get("/hello").body == b"hello"


def test_trailers_behind_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(3).randbytes(100_000))
    path.with_name("small").write_bytes(b"small")

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        if scope["path"] == "/path":
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            with path.open("rb") as file, path.with_name("small").open("rb") as small:
                await send({"type": "http.response.zerocopysend", "file": small, "more_body": True})
                await send({"type": "http.response.zerocopysend", "file": file})
        await send({"type": "http.response.trailers", "headers": [(b"x-last", b"yes")]})

    with serving(app, threads=1) as served, served.connect() as client:
        for target, before in [("/path", b""), ("/parts", b"small")] * 2:
            client.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n{TE}\r\n".encode())
            assert client.head().header("transfer-encoding") == "chunked"
            assert chunks_and_trailers(client) == (before + path.read_bytes(), ["x-last: yes"])
            assert client.get(target).body == before + path.read_bytes()


START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
BODY: dict[str, Any] = {"type": "http.response.body", "body": b"a"}
FIELDS: dict[str, Any] = {"type": "http.response.trailers", "headers": [(b"x", b"y")]}


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([FIELDS], "without trailers: True in http.response.start"),
        ([{**START, "trailers": False}, {**BODY, "more_body": True}, FIELDS], "without trailers: True"),
        ([{**START, "trailers": False}, BODY, FIELDS], "was sent after the response was complete"),
        ([START, FIELDS], "before the last http.response.body"),
        ([START, {**BODY, "more_body": True}, FIELDS], "before the last http.response.body"),
        ([START, BODY, BODY], "body came where http.response.trailers was due"),
        ([START, BODY, FIELDS, FIELDS], "was sent after the response was complete"),
        ([START, BODY, {**FIELDS, "headers": [(b"content-length", b"1")]}], "means nothing after the body"),
        ([START, BODY, {**FIELDS, "headers": [(b"x", b"a\r\nb: c")]}], "control byte"),
        ([START, BODY, {**FIELDS, "headers": [("x", b"a")]}], "is str"),
    ],
)
def test_trailers_out_of_order_or_forbidden(messages: list[dict[str, Any]], error: str) -> None:
    raised: list[Exception] = []
    over = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            for message in messages:
                await send(message)
        except Exception as exc:
            raised.append(exc)
            raise
        finally:
            over.set()

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{TE}\r\n".encode())
        assert over.wait(10)
        rest = client.rest()
    assert error in str(raised[0])
    assert b"b: c" not in rest
    if messages[-1]["type"] == FIELDS["type"] and "complete" not in error:
        assert not rest.endswith(b"\r\n\r\n") or rest.startswith(
            b"HTTP/1.1 500 "
        )  # it does not look complete


def test_trailers_that_never_come_cut_the_response() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        await send(BODY)

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: test\r\n{TE}\r\n".encode())
        assert client.head().status == 200
        assert client.rest() == b"1\r\na\r\n"


# -- early hints -------------------------------------------------------------------------------------------------------


def hints(*links: list[bytes], at: int = 0) -> App:
    """An application that sends ``links`` as hints: before its start (0), its body (1), or the last piece of it (2)."""
    answer: list[dict[str, Any]] = [
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"hel", "more_body": True},
        {"type": "http.response.body", "body": b"lo"},
    ]

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        for message in answer[:at]:
            await send(message)
        for link in links:
            await send({"type": "http.response.early_hint", "links": link})
        for message in answer[at:]:
            await send(message)

    return app


@pytest.mark.parametrize("at", [0, 1])
def test_hints_come_before_the_response(at: int) -> None:
    app = hints([b"</a.css>; rel=preload", b"</b.js>; rel=preload"], [], [b"</c>"], at=at)
    with serving(app, threads=1) as served, served.connect() as client:
        for _ in range(2):
            client.send(GET)
            first = client.response()
            assert (first.status, first.reason) == (103, "Early Hints")
            assert first.headers == [("link", "</a.css>; rel=preload"), ("link", "</b.js>; rel=preload")]
            assert client.response().headers == [("link", "</c>")]
            last = client.response()
            assert (last.status, last.body, last.header("x")) == (200, b"hello", "y")


def test_hints_that_come_too_late_are_dropped() -> None:
    with serving(hints([b"</a>"], at=2), threads=1) as served, served.connect() as client:
        for _ in range(2):
            assert client.get().body == b"hello"


def test_a_client_of_1_0_gets_no_hints() -> None:
    seen: list[bool] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append("http.response.early_hint" in scope["extensions"])
        await hints([b"</a>"])(scope, receive, send)

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.response().status == 200
    with serving(app, threads=1) as served, served.connect() as client:
        client.send(GET)
        assert client.response().status == 103
    assert seen == [False, True]


@pytest.mark.parametrize("link", [b"</a>\r\nx: y", "</a>", 5])
def test_a_hint_that_is_no_field_value_is_refused(link: Any) -> None:
    with serving(hints([link]), threads=1) as served, served.connect() as client:
        assert client.get().status == 500


def test_an_application_may_fail_after_its_hints() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        raise ValueError("broken")

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(GET)
        assert client.response().status == 103
        assert client.response().status == 500


# -- frameworks --------------------------------------------------------------------------------------------------------


class Watched:
    """An application, and the types of the messages that it sent."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.kinds: list[str] = []
        self.ended = 0  # calls, after everything that they do behind their response

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def watch(message: Any) -> None:
            self.kinds.append(message["type"].removeprefix("http.response."))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self.ended += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text("<p>hello</p>" * 10_000)
    (tmp_path / "small.txt").write_text("small")
    return tmp_path


@pytest.fixture(scope="session")
def blob() -> tuple[bytes, str]:
    """50 MB, and their checksum."""
    data = random.Random(5).randbytes(50 * 1024 * 1024)
    return data, hashlib.sha256(data).hexdigest()


def test_starlette_static_files(folder: Path) -> None:
    app = Watched(Starlette(routes=[Mount("/", StaticFiles(directory=folder, html=True))]))
    page = (folder / "page.html").read_bytes()
    with serving(app, threads=1) as served, served.connect() as client:
        response = client.get("/page.html")
        assert (response.status, response.body) == (200, page)
        assert response.header("content-length") == str(len(page))
        assert app.kinds == ["start", "pathsend"]
        etag = response.header("etag")
        assert client.get("/small.txt").body == b"small"
        head = client.get("/page.html", method="HEAD")
        assert (head.header("content-length"), head.body) == (str(len(page)), b"")
        unchanged = client.get("/page.html", headers=f"If-None-Match: {etag}\r\n")
        assert (unchanged.status, unchanged.body) == (304, b"")
        part = client.get("/page.html", headers="Range: bytes=10-99\r\n")
        assert (part.status, part.body) == (206, page[10:100])
        assert part.header("content-range") == f"bytes 10-99/{len(page)}"
        several = client.get("/page.html", headers="Range: bytes=0-4, 100-119\r\n")
        assert several.status == 206
        assert several.body.count(page[100:120]) == 1
        assert client.get("/page.html", headers="Range: bytes=999999999-\r\n").status == 416
        assert client.get("/missing.html").status == 404
        assert client.get("/page.html").body == page


def test_starlette_file_of_50_mb_for_a_slow_reader_on_one_thread(
    tmp_path: Path, blob: tuple[bytes, str]
) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(blob[0])

    async def download(request: Request) -> Response:
        return FileResponse(path)

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    app = Watched(Starlette(routes=[Route("/download", download), Route("/hello", hello)]))
    with serving(app, threads=1) as served, served.connect(receive_buffer=4096) as slow:
        slow.send(b"GET /download HTTP/1.1\r\nHost: test\r\n\r\n")
        size = slow.head().header("content-length")
        with served.connect() as other:
            for _ in range(50):
                assert other.get("/hello").body == b"hello"
        assert hashlib.sha256(slow.read(int(size or 0))).hexdigest() == blob[1]
        assert slow.get("/hello").body == b"hello"
    assert app.kinds[:2] == ["start", "pathsend"]


def test_starlette_middleware_lets_files_through(folder: Path) -> None:
    class Stamp(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            response = await call_next(request)
            response.headers["x-stamp"] = "1"
            return response

    routes = [Mount("/", StaticFiles(directory=folder))]
    app = Watched(Starlette(routes=routes, middleware=[Middleware(Stamp), Middleware(GZipMiddleware)]))
    with serving(app, threads=1) as served, served.connect() as client:
        for _ in range(2):
            response = client.get("/page.html", headers="Accept-Encoding: gzip\r\n")
            assert response.header("x-stamp") == "1"
            assert response.body == (folder / "page.html").read_bytes()
    assert app.kinds == ["start", "pathsend"] * 2


def test_a_temporary_file_may_be_removed_when_it_was_sent(tmp_path: Path, blob: tuple[bytes, str]) -> None:
    """Starlette runs background tasks as soon as `pathsend` was taken, long before a slow client has the file."""
    path = tmp_path / "large.bin"
    path.write_bytes(blob[0])

    async def download(request: Request) -> Response:
        return FileResponse(path, background=BackgroundTask(os.unlink, path))

    with serving(Starlette(routes=[Route("/", download)]), threads=1) as served:
        with served.connect(receive_buffer=4096) as client:
            client.send(GET)
            size = client.head().header("content-length")
            wait_until(lambda: not path.exists(), "the background task has run")
            assert hashlib.sha256(client.read(int(size or 0))).hexdigest() == blob[1]


def test_fastapi_files_and_hints(folder: Path) -> None:
    api = fastapi.FastAPI()

    @api.get("/file", response_class=FastAPIFileResponse)
    def file() -> str:
        return str(folder / "page.html")

    @api.get("/hints")
    async def hint(request: Request) -> str:
        with contextlib.suppress(AttributeError):  # Starlette 1.8 brought it
            await request.send_early_hints("</a.css>; rel=preload")
        return "hello"

    app = Watched(api)
    page = (folder / "page.html").read_bytes()
    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get("/file").body == page
        assert app.kinds == ["start", "pathsend"]
        assert client.get("/file", headers="Range: bytes=5-\r\n").body == page[5:]
        wait_until(lambda: app.ended == 2, "it has closed the file")
        response = client.get("/hints")
        if response.status == 103:
            assert response.header("link") == "</a.css>; rel=preload"
            response = client.response()
        assert response.body == b'"hello"'
