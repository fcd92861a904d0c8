"""The admin plane's application: what it answers to whom, served by a real home loop from a made-up daemon."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from serverd.server.admin import app as admin_app
from serverd.server.admin.app import AdminApp, is_called_rightly, is_local_name
from serverd.server.admin.observer import Observer
from serverd.server.admin.page import PAGE, POLICY, policy
from serverd.server.admin.snapshot import Child, Snapshot, Thread

from .support.client import RawClient, Response
from .support.daemon import wait_until
from .support.workers import Workers, serving

IDLE = Child(0, 1, 11, "ready", 1.0, workers=2, threads=(Thread(1, "idle"), Thread(2, "idle")))
SERVING = Snapshot(
    now=2.0, at=1700000002.0, state="serving", started=1700000000.0, pid=10, app="notes:app", generation=1,
    wanted=1, children=(IDLE,),
)  # fmt: skip


class World:
    """What the application sees, to be changed by a test: single attributes, read by the loop's thread."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = SERVING
        self.owed = 0.0
        self.looks = 0

    def read(self) -> Snapshot | None:
        self.looks += 1
        return self.snapshot

    async def silence(self) -> float:
        return self.owed


@contextlib.contextmanager
def plane() -> Iterator[tuple[World, Workers]]:
    world = World()
    observer = Observer(world.read)
    try:
        with serving(AdminApp(observer, world.silence, limit=10.0), by="asyncio") as served:
            yield world, served
    finally:
        observer.close()


def ask(
    served: Workers, path: str, method: str = "GET", headers: str = "", host: str = "127.0.0.1"
) -> Response:
    with served.connect() as client:
        client.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
        return client.response(method) if method == "HEAD" else client.response()


def test_each_place_has_its_answer() -> None:
    with plane() as (_, served):
        for path, kind, begin in [
            ("/livez", "text/plain", b"ok: the master answers\n"),
            ("/readyz", "text/plain", b"ok: generation 1 serves\n"),
            ("/startupz", "text/plain", b"ok: "),
            ("/metrics", "text/plain; version=0.0.4", b"# HELP serverd_build_info "),
            ("/status", "application/json", b'{"v":1,'),
            ("/", "text/html", b"<!doctype html>"),
        ]:
            answer = ask(served, path)
            assert answer.status == 200, path
            assert (answer.header("content-type") or "").startswith(kind)
            assert answer.body.startswith(begin)
            assert answer.header("cache-control") == "no-store"
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("access-control-allow-origin") is None
        assert json.loads(ask(served, "/status").body)["app"] == "notes:app"


def test_what_is_wrong_is_said_in_one_line_with_503() -> None:
    with plane() as (world, served):
        world.snapshot = replace(SERVING, state="stopping")
        assert (ask(served, "/readyz").status, ask(served, "/startupz").status) == (503, 200)
        assert ask(served, "/readyz").body == b"no: stopping\n"
    with plane() as (world, served):
        world.snapshot = replace(SERVING, state="booting", generation=None)
        assert (ask(served, "/readyz").status, ask(served, "/startupz").status) == (503, 503)
        assert ask(served, "/livez").status == 200
    with plane() as (world, served):
        world.owed = 12.3
        assert ask(served, "/livez").status == 503
        assert ask(served, "/livez").body == b"no: the master has not answered for 12 s\n"


def test_before_the_master_has_published_anything() -> None:
    with plane() as (world, served):
        world.snapshot = None
        for path in ("/readyz", "/startupz", "/metrics", "/status"):
            assert ask(served, path).status == 503
        assert (ask(served, "/").status, ask(served, "/livez").status) == (200, 200)


def test_only_get_and_head() -> None:
    with plane() as (_, served):
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = ask(served, "/readyz", method)
            assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
        assert ask(served, "/elsewhere").status == 404
        for path in ("/metrics", "/readyz", "/", "/events"):
            answer = ask(served, path, "HEAD")
            assert (answer.status, answer.body) == (200, b"")


def test_a_websocket_is_refused() -> None:
    headers = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    with plane() as (_, served):
        assert ask(served, "/events", headers=headers).status == 403


def test_a_name_that_is_not_ours_is_refused_on_loopback() -> None:
    with plane() as (_, served):
        assert ask(served, "/status", host="rebound.example").status == 421
        assert ask(served, "/status", host="rebound.example:9100").status == 421
        for host in ("localhost", "localhost:9100", "127.0.0.1:1", "[::1]:9100", "LOCALHOST.", "192.0.2.7"):
            assert ask(served, "/status", host=host).status == 200, host


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("page.localhost:80", True), ("[::1]", True), ("[fe80::1]:9100", True),
        ("10.0.0.1:9100", True), ("", False), ("notlocalhost", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:9100", False), ("[::1].evil.example", False), ("127.1", False), ("0x7f000001", False),
    ],
)  # fmt: skip
def test_what_counts_as_an_address_or_localhost(host: str, local: bool) -> None:
    assert is_local_name(host) == local


def test_names_are_nobodys_business_off_loopback() -> None:
    headers = [(b"host", b"metrics.example")]
    for server, right in [
        (("192.0.2.7", 9100), True), (("/run/admin.sock", None), True),
        (("127.0.0.1", 9100), False), (("::1", 9100), False),
    ]:  # fmt: skip
        assert is_called_rightly({"server": server, "headers": headers}) == right
    assert is_called_rightly({"server": ("127.0.0.1", 9100), "headers": []}), "HTTP/1.0"


def events(client: RawClient, count: int) -> list[dict[str, Any]]:
    """The next `count` events of a stream."""
    found = []
    for _ in range(count):
        client.until(b"data: ")
        found.append(json.loads(client.until(b"\n\n")))
    return found


def test_the_stream_tells_the_status_again_and_again() -> None:
    with plane() as (world, served), served.connect() as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        assert events(client, 1)[0]["state"] == "serving"
        world.snapshot = replace(SERVING, state="reloading", booting=2)
        assert events(client, 1)[0]["booting"] == 2


def test_streams_are_bounded_and_free_when_their_readers_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_app, "MOST_STREAMS", 2)
    monkeypatch.setattr("serverd.server.admin.observer.PERIOD", 0.02)
    with plane() as (_, served):
        with served.connect() as one, served.connect() as two:
            for client in (one, two):
                client.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                events(client, 1)
            refused = ask(served, "/events")
            assert (refused.status, refused.header("retry-after")) == (503, "5")
        with served.connect() as again:

            def welcome() -> bool:
                again.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                taken = b"200 OK" in again.until(b"\r\n")
                if not taken:
                    again.until(b"close a page first\n")
                return taken

            wait_until(welcome, "a stream is free")
            assert len(events(again, 2)) == 2


def test_nobody_looks_when_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serverd.server.admin.observer.PERIOD", 0.01)
    monkeypatch.setattr("serverd.server.admin.observer.INTEREST", 0.05)
    with plane() as (world, served):
        assert world.looks == 0
        ask(served, "/readyz")
        assert served.pool is not None
        before = -1
        while world.looks != before:  # until a tenth of a second has passed without a look
            before = world.looks
            served.pool.call(asyncio.sleep(0.1)).result(5)
        assert 1 <= world.looks < 30


class Loads(HTMLParser):
    """Collects everything that a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            (tag, name, value)
            for name, value in attrs
            if name in ("src", "srcset", "style", "action", "data") or name.startswith("on") or tag == "link"
        ]


def test_the_page_brings_everything_with_it() -> None:
    parser = Loads()
    parser.feed(PAGE.decode())
    links = {value for tag, name, value in parser.found if name == "href"}
    assert all(value is not None and value.startswith("data:") for value in links)
    assert {(tag, name) for tag, name, _ in parser.found} <= {("link", "rel"), ("link", "href")}
    assert b"@import" not in PAGE
    assert not re.search(rb"url\(", PAGE)
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacent|eval\(", PAGE), "text is never made markup"


def test_the_policy_names_exactly_the_pages_own_script_and_style() -> None:
    (script,) = re.findall(rb"<script>(.*?)</script>", PAGE, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in POLICY.decode()
    assert "default-src 'none'" in POLICY.decode()
    assert "unsafe" not in POLICY.decode()
    assert policy("<style>a</style><script>b</script>") != policy("<style>a</style><script>c</script>")
