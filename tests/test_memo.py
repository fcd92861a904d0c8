"""Remembered heads: what comes out is what the parser and the framer gave, and nothing leaks from one request to
the next."""

from __future__ import annotations

from typing import Any

import pytest

from serverd.server.http import HeadLimits, RequestReceived, parse_request
from serverd.server.memo import LONGEST, LONGEST_REQUEST, MOST, RequestMemo, ResponseMemo

from .support.apps import Receive, Send, read_body, reply
from .support.workers import serving

LIMITS = HeadLimits(8192, 32768, 100)


def parsed(head: bytes) -> RequestReceived:
    request = parse_request(head, LIMITS)
    assert request is not None
    return request


def test_an_application_that_changes_its_scope_changes_no_later_request() -> None:
    seen: list[Any] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append(list(scope["headers"]))
        scope["headers"].append((b"x-mine", b"1"))
        scope["path"] = "/mine"
        await reply(send, scope["raw_path"])

    with serving(app, threads=1) as served, served.connect() as client:
        assert [client.get("/same").body for _ in range(4)] == [b"/same"] * 4
    assert seen == [[(b"host", b"test")]] * 4


def test_the_same_head_with_another_body_gets_that_body() -> None:
    bodies = iter([b"aa", b"bb", b"c", b"aa"])

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body = next(bodies)
        await reply(send, body + await read_body(receive))

    with serving(app, threads=1) as served, served.connect() as client:
        answers = [client.get() for _ in range(4)]
    assert [answer.body for answer in answers] == [b"aa", b"bb", b"c", b"aa"]
    assert [answer.header("content-length") for answer in answers] == ["2", "2", "1", "2"]


@pytest.mark.parametrize(
    "headers",
    [
        [[b"x-a", b"1"]],
        [(b"x-a", bytearray(b"1"))],
        ((b"x-a", b"1"),),
        [(b"x-a", b"1"), (b"x-a2", b"2")],
        [(b"x-a", b"1"), (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")],
        [(b"x-a", b"1"), (b"connection", b"x-a")],
    ],
)
def test_headers_of_any_shape_come_out_alike_every_time(headers: Any) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    with serving(app, threads=1) as served, served.connect() as client:
        answers = [client.get() for _ in range(3)]
    for answer in answers:
        assert answer.header("x-a") == "1"
        assert [pair for pair in answer.headers if pair[0] != "date"] == [
            pair for pair in answers[0].headers if pair[0] != "date"
        ]


def test_methods_versions_and_closing_are_told_apart() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, b"abc", headers=[(b"x", b"y")])

    with serving(app, threads=1) as served:
        for _ in range(2):
            with served.connect() as client:
                assert client.get().body == b"abc"
                assert client.get(method="HEAD").header("content-length") == "3"
                assert client.get().header("connection") is None
                assert client.get(headers="Connection: close\r\n").header("connection") == "close"
                assert client.closed()
            with served.connect() as client:
                client.send(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
                assert client.response().body == b"abc"
                assert client.closed()


def test_requests_are_bounded_in_number_and_size() -> None:
    known = RequestMemo()
    for number in range(3 * MOST):
        head = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number
        known.keep(head, (parsed(head), b""))
        assert len(known) <= MOST
    long = b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * LONGEST_REQUEST + b"\r\n\r\n"
    known.keep(long, (parsed(long), b""))
    assert long not in known


def test_long_heads_are_remembered_and_bounded_in_their_bytes() -> None:
    known = RequestMemo()
    for number in range(3 * MOST):
        head = b"GET /%d HTTP/1.1\r\nHost: x\r\nCookie: " % number + b"c" * 4000 + b"\r\n\r\n"
        known.keep(head, (parsed(head), b""))
        assert head in known
        assert sum(map(len, known)) <= MOST * LONGEST


def test_responses_are_bounded_and_forgotten_when_the_second_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.9
    monkeypatch.setattr("serverd.server.memo.time", lambda: now)
    known = ResponseMemo()
    assert known.tick() == b"Tue, 14 Nov 2023 22:13:20 GMT"
    for number in range(3 * MOST):
        known.keep(number, b"HTTP/1.1 200 OK\r\n\r\nbody", b"body", True)
    assert len(known) == MOST
    assert known[0] == (b"HTTP/1.1 200 OK\r\n\r\n", True)
    now += 0.2
    assert known.tick() == b"Tue, 14 Nov 2023 22:13:21 GMT"
    assert not known


def test_a_response_whose_body_is_framed_is_not_remembered() -> None:
    known = ResponseMemo()
    known.keep("chunked", b"HTTP/1.1 200 OK\r\n\r\n4\r\nbody\r\n0\r\n\r\n", b"body", True)
    known.keep("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body", True)
    assert not known
