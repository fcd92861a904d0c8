"""FastAPI and Starlette as docs/frameworks.md says to serve them: real applications, the page's own configurations.

Each claim of the page's sections about them is a test here, in both modes where both are recommended.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.client import RawClient
from tests.support.daemon import PATIENCE, Daemon, wait_until

from .asgi_apps import FASTAPI, STARLETTE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"
MODES = ("sync", "async")
CONTENT = random.Random(3).randbytes(8_000_000)


def documented(heading: str, mode: str) -> dict[str, Any]:
    """The configuration that the page gives under a heading for a mode, without what a test has to choose itself."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL):
        config: dict[str, Any] = yaml.safe_load(block)
        if config["workers"].get("mode", "sync") == mode:
            del config["app"], config["listen"]
            return config
    raise AssertionError(f"{PAGE.name} has no configuration for {heading} in mode: {mode}")


def served(folder: Path, source: str, heading: str, mode: str) -> Daemon:
    config = documented(heading, mode)
    # The tests' own default of 2 threads is taken out, and one child is enough to look at.
    config["workers"] = {"threads": None, "processes": 1, **config["workers"]}
    if config["workers"]["threads"] is None:
        del config["workers"]["threads"]
    return Daemon(folder, app=source, config=config)


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fastapi(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with served(tmp_path_factory.mktemp("fastapi"), FASTAPI, "FastAPI", mode) as daemon:
        yield daemon.wait_ready()


@pytest.fixture(scope="module")
def starlette(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("starlette")
    (folder / "static").mkdir()
    (folder / "static" / "large.bin").write_bytes(CONTENT)
    with served(folder, STARLETTE, "Starlette", mode) as daemon:
        yield daemon.wait_ready()


def client(daemon: Daemon) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{daemon.port}", timeout=PATIENCE)


def at_once(daemon: Daemon, path: str, count: int) -> list[httpx.Response]:
    """`count` requests at the same time, on connections of their own."""

    def get(_: int) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{daemon.port}{path}", timeout=PATIENCE)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(get, range(count)))


# FastAPI


def test_fastapi_endpoints_run_where_the_page_says(fastapi: Daemon, mode: str) -> None:
    with client(fastapi) as http:
        plain, coroutine = http.get("/def").json(), http.get("/async").json()
        limit = http.get("/limit").json()
    if mode == "sync":
        assert plain.startswith("serverd-worker-")
        assert coroutine[0].startswith("serverd-worker-")
        assert coroutine[1] is False  # each thread has a loop of its own
    else:
        assert plain == "AnyIO worker thread"
        assert coroutine == ["serverd-home", True]
        assert limit == 40


@pytest.mark.parametrize("kind", ["def", "async"])
def test_fastapi_endpoints_block_beside_each_other(fastapi: Daemon, mode: str, kind: str) -> None:
    """Four requests that wait for each other, blocking: there are four threads in the application at once."""
    if (mode, kind) == ("async", "async"):
        pytest.skip("what blocks the one loop blocks everybody, as the page says")
    answers = [answer.json() for answer in at_once(fastapi, f"/meet/{kind}", 4)]
    if mode == "sync":
        assert len(set(answers)) == 4


def test_fastapi_endpoints_that_wait_hold_nobody_up(fastapi: Daemon) -> None:
    """More of them than the page's configuration has threads."""
    count = 40
    with client(fastapi) as http, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(at_once, fastapi, "/wait", count)
        wait_until(lambda: http.get("/waiting").json() == count, "all of them wait")
        assert not waiting.done()
        http.get("/go")
        assert [answer.status_code for answer in waiting.result(PATIENCE)] == [200] * count


def test_fastapi_state_is_the_same_for_all_threads(fastapi: Daemon) -> None:
    with client(fastapi) as http:
        first = http.post("/items", json={"name": "tea", "price": 3.5}).json()["count"] - 1
        assert http.post("/items", json={"name": "milk", "price": "x"}).status_code == 422
        assert http.get("/items/100000").status_code == 404
        assert "/items/{number}" in http.get("/openapi.json").json()["paths"]
    answers = [answer.json() for answer in at_once(fastapi, f"/items/{first}", 24)]
    assert {(answer["name"], answer["shop"], answer["pid"]) for answer in answers} == {
        ("tea", answers[0]["shop"], answers[0]["pid"])
    }
    # What stands behind the `yield` of the dependency ran for each request, also for those that failed.
    with client(fastapi) as http:
        wait_until(lambda: http.get(f"/items/{first}").json()["written"] >= 26, "dependencies were left")


def test_fastapi_uploads_and_streams(fastapi: Daemon) -> None:
    with client(fastapi) as http:
        answer = http.post("/upload", files={"file": ("a.bin", CONTENT)}).json()
        assert answer == {"name": "a.bin", "sha256": hashlib.sha256(CONTENT).hexdigest()}
        assert http.get("/lines").text == "0\n1\n2\n"


def test_fastapi_exceptions_are_500_and_a_traceback(fastapi: Daemon) -> None:
    with client(fastapi) as http:
        assert http.get("/fails").status_code == 500
        fastapi.wait_for_line("ZeroDivisionError: on purpose")
        assert http.get("/def").status_code == 200


def test_fastapi_websockets_and_events_are_on_the_home_loop(fastapi: Daemon) -> None:
    with connect(f"ws://127.0.0.1:{fastapi.port}/ws", subprotocols=["shop"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "shop"
        assert socket.recv(PATIENCE) == '["serverd-home",true]'
        socket.send("grüße")
        assert socket.recv(PATIENCE) == "GRÜSSE"
    accept = {"accept": "text/event-stream"}
    with client(fastapi) as http, http.stream("GET", "/events", headers=accept) as stream:
        lines = (line for line in stream.iter_lines() if line)
        assert [next(lines), next(lines)] == ["event: thread", 'data: "serverd-home"']
        # From a worker's thread to the home loop, by a background task after the response.
        assert http.post("/items", json={"name": "jam", "price": 1}).status_code == 201
        assert next(lines) == 'data: "sold"'


def test_fastapi_shares_clients_as_the_page_says(fastapi: Daemon, mode: str) -> None:
    paths = ["/client"] if mode == "sync" else ["/client", "/async-client"]
    for path in paths:
        answers = at_once(fastapi, path, 24)
        assert [answer.status_code for answer in answers] == [200] * 24


def test_fastapi_objects_of_one_loop_fail_in_another_and_the_log_advises(tmp_path: Path) -> None:
    """`mode: sync` only: what was used on the home loop first is then used on a thread's."""
    accept = {"accept": "text/event-stream"}
    with served(tmp_path, FASTAPI, "FastAPI", "sync") as daemon:
        daemon.wait_ready()
        with client(daemon) as http, http.stream("GET", "/events", headers=accept) as stream:
            assert next(stream.iter_lines()) == "event: thread"
            for _ in range(3):
                assert http.get("/sold").status_code == 500
        daemon.wait_for_line("is bound to a different event loop")
        daemon.wait_for_line("mode: async")
        assert daemon.count("mode: async") == 1


# Starlette


def test_starlette_endpoints_run_where_the_page_says(starlette: Daemon, mode: str) -> None:
    with client(starlette) as http:
        plain, coroutine = http.get("/def").text, http.get("/async").json()
        bare = http.get("/bare/def").text
        base = http.get(
            "/base/def"
        ).text  # last: its task may still end on the thread that answers the next request
    if mode == "sync":
        assert re.fullmatch(r"serverd-worker-\d+", plain)
        assert coroutine[0] == coroutine[1]  # run_in_threadpool stays on the thread
        assert bare.startswith("serverd-worker-")
    else:
        assert plain == bare == "AnyIO worker thread"
        assert coroutine == ["serverd-home", "AnyIO worker thread"]
    assert base == "AnyIO worker thread"


def test_starlette_tells_open_pages_from_a_request(starlette: Daemon) -> None:
    url = f"127.0.0.1:{starlette.port}/live"
    headers = {"accept": "text/event-stream"}
    with client(starlette) as http, http.stream("GET", "/live/events", headers=headers) as stream:
        lines = (line for line in stream.iter_lines() if line)
        assert next(lines) == "data: serverd-home"
        with connect(f"ws://{url}/listen") as socket:
            assert http.post("/say", content="hello").status_code == 202
            assert socket.recv(PATIENCE) == "hello"
            with pytest.raises(ConnectionClosed, match="1000"):
                socket.recv(PATIENCE)
        assert list(lines) == ["data: hello"]
        assert http.get("/done").json() is True  # its background task ran


@pytest.mark.parametrize("path", ["/file", "/static/large.bin"])
def test_starlette_files_hold_no_thread_while_clients_read(starlette: Daemon, path: str) -> None:
    """More clients that read nothing yet than there are threads; then each gets all of it."""
    address = ("127.0.0.1", starlette.port)
    slow = [RawClient(address, receive_buffer=4096) for _ in range(24)]
    try:
        for each in slow:
            each.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        for each in slow:
            assert each.head().status == 200
        with client(starlette) as http:
            assert http.get("/def").status_code == 200
            assert http.get(path, headers={"range": "bytes=10-19"}).content == CONTENT[10:20]
        assert slow[0].read(len(CONTENT)) == CONTENT
    finally:
        for each in slow:
            each.sock.close()
