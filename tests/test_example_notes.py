"""The examples, served by a real serverd with the server.yaml that lies beside them, over real sockets.

One server is started for the whole module: it is the application that is looked at here, and that many tests
of different kinds reach the same process is part of what it must stand.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import random
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from .support.daemon import Daemon

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
JSON = {"content-type": "application/json"}
CLIENTS = 8


def serve(folder: Path, example: str, **env: str) -> Daemon:
    """serverd with the example's own server.yaml, on a port that the kernel chooses."""
    argv = [sys.executable, "-m", "serverd", "-c", str(EXAMPLES / example / "server.yaml")]
    return Daemon(folder, argv=[*argv, "--set", 'listen=["127.0.0.1:0"]'], env=env)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes") / "notes.db"


@pytest.fixture(scope="module")
def address(database: Path) -> Iterator[str]:
    with serve(database.parent, "notes", DATABASE=str(database)) as daemon:
        yield f"http://127.0.0.1:{daemon.port}"


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package of the example, imported here and forgotten again."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "notes"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield importlib.import_module("notes")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "notes":
            del sys.modules[name]


# hello


def test_hello_says_hello_with_its_own_configuration(tmp_path: Path) -> None:
    with serve(tmp_path, "hello") as daemon:
        answer = httpx.get(f"http://127.0.0.1:{daemon.port}/", timeout=20)
    assert (answer.status_code, answer.text) == (200, "Hello, World!")
    assert answer.headers["content-length"] == "13"


# pages


def test_a_note_is_written_found_changed_and_deleted_by_clicking(client: httpx.Client) -> None:
    written = client.post("/notes", data={"title": "Aardvark", "text": "one\r\ntwo"})
    assert written.status_code == 303
    where = written.headers["location"]
    page = client.get(where)
    assert page.status_code == 200
    assert "<h1>Aardvark</h1>" in page.text
    assert "one\ntwo" in page.text
    assert f'href="{where[1:]}"' in client.get("/", params={"query": "aardv"}).text
    assert "Nothing found" in client.get("/", params={"query": "100% no such note"}).text
    assert client.post(where, data={"title": "Badger", "text": ""}).status_code == 303
    assert "<h1>Badger</h1>" in client.get(where).text
    assert client.post(f"{where}/delete").status_code == 303
    assert client.get(where).status_code == 404


def test_what_a_visitor_types_is_shown_and_never_run(client: httpx.Client) -> None:
    hostile = '<script>alert("1")</script>\'&amp;'
    where = client.post("/notes", data={"title": hostile, "text": f"</textarea>{hostile}"}).headers[
        "location"
    ]
    escaped = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&#x27;&amp;amp;"
    for page in (client.get(where), client.get("/")):
        assert escaped in page.text
        assert "<script>alert" not in page.text
        assert page.text.count("</textarea>") == page.text.count("<textarea")
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_bad_form_comes_back_with_what_was_typed(client: httpx.Client) -> None:
    answer = client.post("/notes", data={"title": "  ", "text": "a long story"})
    assert answer.status_code == 422
    assert "title must not be empty" in answer.text
    assert "a long story" in answer.text


@pytest.mark.parametrize(
    "path", ["/nothing", "/notes/0", "/notes/x", f"/notes/{2**63}", "/files/77", "/static/no"]
)
def test_what_is_not_there_is_a_page_that_says_so(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "Back to the notes" in answer.text


def test_another_site_cannot_write_through_a_visitors_browser(client: httpx.Client) -> None:
    headers = {"sec-fetch-site": "cross-site"}
    assert client.post("/notes", data={"title": "Forged"}, headers=headers).status_code == 403
    assert client.get("/api/notes", params={"query": "Forged"}).json()["total"] == 0


def test_style_and_script_are_served(client: httpx.Client) -> None:
    assert client.get("/static/style.css").headers["content-type"].startswith("text/css")
    for script in ("clock.js", "live.js"):
        assert "EventSource" in client.get(f"/static/{script}").text


# the API


def test_the_api_creates_lists_changes_and_deletes(client: httpx.Client) -> None:
    created = client.post("/api/notes", json={"title": "Ünïcode 🗒", "text": "t"})
    note = created.json()
    assert created.status_code == 201
    assert created.headers["location"] == f"/api/notes/{note['id']}"
    assert (note["title"], note["text"], note["revision"]) == ("Ünïcode 🗒", "t", 1)
    where = created.headers["location"]
    assert client.get(where).json() == note
    listed = client.get("/api/notes", params={"query": "ünïcode", "limit": 1}).json()
    assert listed == {"notes": [], "total": 0} or listed["notes"] == [
        note
    ]  # LIKE folds the case of ASCII only
    assert client.get("/api/notes", params={"query": "nïcode", "limit": 1}).json()["notes"] == [note]
    changed = client.put(where, json={"title": "New", "text": "u", "revision": 1})
    assert (changed.status_code, changed.json()["revision"]) == (200, 2)
    stale = client.put(where, json={"title": "Newer", "text": "v", "revision": 1})
    assert (stale.status_code, stale.json()["note"]["title"]) == (409, "New")
    deleted = client.delete(where)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert [client.get(where).status_code, client.delete(where).status_code] == [404, 404]
    assert client.put(where, json={"title": "Gone"}).status_code == 404


def test_the_api_gives_the_list_in_pages(client: httpx.Client) -> None:
    for number in range(5):
        client.post("/api/notes", json={"title": f"Page {number} of paging"})
    pages = [
        client.get("/api/notes", params={"query": "of paging", "limit": 2, "offset": offset}).json()
        for offset in (0, 2, 4, 6)
    ]
    assert [page["total"] for page in pages] == [5, 5, 5, 5]
    titles = [note["title"] for page in pages for note in page["notes"]]
    assert sorted(titles) == [f"Page {number} of paging" for number in range(5)]


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status"),
    [
        ("POST", "/api/notes", b'{"title": ', JSON, 400),
        ("POST", "/api/notes", b"[" * 100_000, JSON, 400),
        ("POST", "/api/notes", b"\xff\xfe{", JSON, 400),
        ("GET", "/api/notes?limit=-1", b"", {}, 400),
        ("GET", "/api/notes?offset=99999999999999999999", b"", {}, 400),
        ("GET", f"/api/notes/{2**63}", b"", {}, 404),
        ("GET", "/api/notes/" + "9" * 5000, b"", {}, 404),
        ("GET", "/api/no", b"", {}, 404),
        ("PATCH", "/api/notes", b"", {}, 405),
        ("POST", "/api/notes", b"x" * 600_000, JSON, 413),
        ("POST", "/api/notes", b'{"title": "x"}', {"content-type": "text/plain"}, 415),
        ("POST", "/api/notes", b"[]", JSON, 422),
        ("POST", "/api/notes", b"{}", JSON, 422),
        ("POST", "/api/notes", b'{"title": 1, "text": null}', JSON, 422),
        ("POST", "/api/notes", b'{"title": "\\ud800"}', JSON, 422),
        ("PUT", "/api/notes/1", b'{"title": "x", "revision": true}', JSON, 422),
    ],
)
def test_what_is_wrong_is_said_in_json(
    client: httpx.Client, method: str, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, content=content or None, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]
    if status == 405:
        assert "POST" in answer.headers["allow"]


# files


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 5 * 1024 * 1024 + 7])
def test_a_file_comes_back_as_it_was_sent(client: httpx.Client, size: int) -> None:
    content = random.Random(size).randbytes(size)
    name = f"../größe {size}.bin"
    assert client.post("/files", files={"file": (name, content, "Application/X-Data")}).status_code == 303
    page = client.get("/files").text
    shown = page.index(f">größe {size}.bin</a>")
    assert hashlib.sha256(content).hexdigest() in page[:shown]
    assert f'title="{size} bytes"' in page[shown:]
    where = "/" + page[:shown].rpartition('href="')[2].partition('"')[0]
    back = client.get(where)
    assert back.content == content
    assert back.headers["content-type"] == "application/x-data"
    assert back.headers["content-disposition"].startswith("attachment; filename*=UTF-8''gr%C3%B6%C3%9Fe")
    head = client.head(where)
    assert (head.headers["content-length"], head.content) == (str(size), b"")
    assert client.post(f"{where}/delete").status_code == 303
    assert client.get(where).status_code == 404


def test_an_upload_may_come_in_chunks_of_unknown_number(client: httpx.Client) -> None:
    content = random.Random(2).randbytes(3_000_000)

    def body() -> Iterator[bytes]:
        yield b'--edge\r\ncontent-disposition: form-data; name="file"; filename="c.bin"\r\n\r\n'
        for start in range(0, len(content), 70_001):
            yield content[start : start + 70_001]
        yield b"\r\n--edge--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=edge"}
    assert client.post("/files", content=body(), headers=headers).status_code == 303
    assert hashlib.sha256(content).hexdigest() in client.get("/files").text


def test_a_form_without_a_file_and_a_file_too_large_are_refused(client: httpx.Client) -> None:
    assert client.post("/files", data={"file": "text"}).status_code == 400
    large = bytes(32 * 1024 * 1024 + 1)
    assert client.post("/files", files={"file": ("large", large)}).status_code == 413


# the clock


def test_the_clock_ticks_over_server_sent_events(client: httpx.Client) -> None:
    headers = {"accept": "text/event-stream", "last-event-id": "41"}
    with client.stream("GET", "/clock/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        fields = [line for line, _ in zip(lines, range(10), strict=False) if line]
    assert fields[:3] == ["retry: 200", "id: 42", "event: tick"]
    assert fields[4:6] == ["id: 43", "event: tick"]
    assert fields[3].startswith("data: 20")
    assert client.get("/clock").status_code == 200  # after a reader that went away, as before


# live


def notes_in(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """What the events of a stream of notes bring."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
def test_a_note_reaches_every_open_page_at_once(client: httpx.Client, accept: str) -> None:
    """Also one that asks as curl does; and the notes that were written while nobody listened come first."""
    first, second = (client.post("/api/notes", json={"title": f"early {n}"}).json()["id"] for n in range(2))
    url, headers = f"/events?after={first - 1}", {"accept": accept}
    with client.stream("GET", url, headers=headers) as one, client.stream("GET", url, headers=headers) as two:
        streams = [notes_in(stream.iter_lines()) for stream in (one, two)]
        for stream in streams:
            assert [next(stream)["id"], next(stream)["id"]] == [first, second]
        written = client.post("/notes", data={"title": "<late>", "text": "one\ntwo"})
        late = int(written.headers["location"].rpartition("/")[2])
        for stream in streams:
            event = next(stream)
            assert event["id"] == late
            assert "<h2>&lt;late&gt;</h2>" in event["card"]
            assert event["count"] == f"{client.get('/api/notes').json()['total']} notes"
    headers = {"last-event-id": str(second), "accept": accept}  # as a browser connects again
    with client.stream("GET", url, headers=headers) as again:
        assert next(notes_in(again.iter_lines()))["id"] == late


def test_many_threads_write_and_a_stream_misses_nothing(client: httpx.Client, address: str) -> None:
    def write(number: int) -> list[int]:
        with httpx.Client(base_url=address, timeout=20) as client:
            return [
                client.post("/api/notes", json={"title": f"flood {number}.{turn}"}).json()["id"]
                for turn in range(15)
            ]

    start = client.post("/api/notes", json={"title": "flood"}).json()["id"]
    with client.stream("GET", f"/events?after={start}") as stream, ThreadPoolExecutor(CLIENTS) as pool:
        lines = notes_in(stream.iter_lines())
        written = sorted(note_id for ids in pool.map(write, range(CLIENTS)) for note_id in ids)
        assert [next(lines)["id"] for _ in written] == written


def test_everyone_hears_what_anyone_says(client: httpx.Client, address: str) -> None:
    url = address.replace("http", "ws") + "/ws/chat"
    with connect(url) as one, connect(url) as two, connect(url) as three:
        for junk in (
            "no JSON",
            "[]",
            '{"name": "x"}',
            '{"name": "x", "text": 1}',
            '{"name": "x", "text": " "}',
        ):
            one.send(junk)
        one.send(b"\x00")
        one.send('{"name": "x", "text": "half \\ud800"}')
        one.send(json.dumps({"name": " Ada\n", "text": "Grüße <b>"}))
        two.send(json.dumps({"name": "", "text": "x" * 1000}))
        for socket in (one, two, three):
            said = sorted((json.loads(socket.recv(20)) for _ in range(2)), key=lambda line: len(line["text"]))
            assert [(line["name"], line["text"]) for line in said] == [
                ("Ada", "Grüße <b>"),
                ("somebody", "x" * 500),
            ]
        two.close()
        three.send('{"name": "Carol", "text": "still here?"}')
        assert json.loads(one.recv(20))["text"] == "still here?"


def test_another_site_cannot_join_the_chat(address: str) -> None:
    url = address.replace("http", "ws") + "/ws/chat"
    with connect(url, origin=Origin(address)):
        pass
    for foreign in ("http://evil.example", "null", address + "0"):
        with pytest.raises(InvalidStatus, match="403"), connect(url, origin=Origin(foreign)):
            pass


# many at once


def test_the_lifespan_runs_once_and_its_state_is_everyones(address: str) -> None:
    barrier = threading.Barrier(CLIENTS)

    def ask(_: int) -> list[dict[str, Any]]:
        with httpx.Client(base_url=address, timeout=20) as client:
            barrier.wait(20)
            return [client.get("/api/status").json() for _ in range(20)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        seen = [status for answers in pool.map(ask, range(CLIENTS)) for status in answers]
    processes = {status["pid"] for status in seen}
    assert len({status["boot"] for status in seen}) == len(processes)
    assert len({(status["pid"], status["boot"]) for status in seen}) == len(processes)
    assert len({status["thread"] for status in seen}) > 1, "every request came to the same thread"


def test_no_change_is_lost_when_many_clients_write_at_once(address: str) -> None:
    """Each client adds its marks to one note, and tries again when another one was quicker."""
    rounds = 12
    barrier = threading.Barrier(CLIENTS)

    def write(number: int) -> int:
        conflicts = 0
        with httpx.Client(base_url=address, timeout=20) as client:
            barrier.wait(20)
            for turn in range(rounds):
                assert client.post("/api/notes", json={"title": f"own {number}.{turn}"}).status_code == 201
                while True:
                    note = client.get(where).json()
                    note["text"] += f"{number}.{turn} "
                    answer = client.put(where, json={k: note[k] for k in ("title", "text", "revision")})
                    if answer.status_code == 200:
                        break
                    assert answer.status_code == 409
                    conflicts += 1
        return conflicts

    with httpx.Client(base_url=address, timeout=20) as client:
        where = client.post("/api/notes", json={"title": "shared"}).headers["location"]
        with ThreadPoolExecutor(CLIENTS) as pool:
            conflicts = sum(pool.map(write, range(CLIENTS)))
        note = client.get(where).json()
        own = client.get("/api/notes", params={"query": "own "}).json()["total"]
    assert sorted(note["text"].split()) == sorted(f"{n}.{t}" for n in range(CLIENTS) for t in range(rounds))
    assert note["revision"] == 1 + CLIENTS * rounds
    assert own == CLIENTS * rounds
    assert conflicts > 0, "the clients never met: this shows nothing"


# the modules by themselves


def test_the_pool_gives_a_connection_to_one_thread_at_a_time(notes: ModuleType, tmp_path: Path) -> None:
    database = sys.modules["notes.database"].Database(tmp_path / "n.db")
    barrier = threading.Barrier(CLIENTS)

    def work(number: int) -> None:
        barrier.wait(20)
        for _ in range(50):
            note = database.create_note(f"{number}", "")
            assert database.update_note(note.id, "x", "y", 1).revision == 2
            assert database.list_notes("", 3)[1] > 0

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))
    assert database.list_notes()[1] == CLIENTS * 50
    assert 0 < len(database._idle) <= CLIENTS
    database.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.list_notes()


def test_a_failed_transaction_leaves_nothing_behind(notes: ModuleType, tmp_path: Path) -> None:
    database = sys.modules["notes.database"].Database(tmp_path / "n.db")

    class Broken:
        reads = 0

        def read(self, _: int) -> bytes:
            self.reads += 1
            if self.reads == 3:
                raise OSError("the disk went away")
            return b"part"

    with pytest.raises(OSError, match="went away"):
        database.add_file("x", "a/b", Broken())
    assert database.list_files() == []
    assert list(database.file_parts(1)) == []
    database.close()


def test_a_room_is_heard_on_its_own_loop_only_and_drops_the_oldest(notes: ModuleType) -> None:
    make = sys.modules["notes.room"].Room

    async def listen() -> tuple[Any, list[str]]:
        room = make(backlog=3)
        with room.listening() as said:
            for number in range(5):
                await asyncio.to_thread(room.tell, str(number))
            await asyncio.sleep(0)
            return room, [said.get_nowait() for _ in range(said.qsize())]

    async def elsewhere(room: Any) -> None:
        with room.listening():
            pass

    room, heard = asyncio.run(listen())
    assert heard == ["2", "3", "4"]
    with pytest.raises(RuntimeError, match=r"workers\.async_paths"):
        asyncio.run(elsewhere(room))


def test_markup_escapes_and_refuses_what_it_does_not_know(notes: ModuleType) -> None:
    html = sys.modules["notes.markup"].html
    value = '<a href="x">'
    assert html(t'<p title="{value}">{html(t"<b>{1}</b>")}</p>') == (
        '<p title="&lt;a href=&quot;x&quot;&gt;"><b>1</b></p>'
    )
    with pytest.raises(TypeError, match=r"\{value\.split\(\)\} is list"):
        html(t"{value.split()}")


def test_a_database_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    where = tmp_path / "no such folder" / "notes.db"
    with serve(tmp_path, "notes", DATABASE=str(where)) as daemon:
        assert daemon.wait_exit() == 3
        match = daemon.wait_for_line("cannot use the database")
    assert str(where) in match.string
    assert "set DATABASE to" in match.string
