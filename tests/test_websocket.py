"""WebSockets served by a real home loop, on both event loops: raw frames, real clients, and applications that err."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from serverd.config import ServerConfig, TimeoutsConfig, WebsocketConfig
from serverd.server.lifecycle import (
    ClientDisconnected,
    ConnectionCompleted,
    LifecycleEvent,
    RequestStarted,
    ResponseCompleted,
)
from serverd.server.websocket.keepalive import KeepAlive

from .support.client import RawClient
from .support.daemon import wait_until
from .support.websocket import (
    BINARY,
    CLOSE,
    FIN,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    close_frame,
    frame,
    handshake,
)
from .support.workers import Workers, serving

Message = dict[str, Any]


@pytest.fixture(params=["threads", "asyncio", "uvloop"])
def by(request: pytest.FixtureRequest) -> str:
    """What serves: worker threads with a home loop beside them, or the home loop alone."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


@contextlib.contextmanager
def served(app: Any, by: str = "threads", **options: Any) -> Iterator[Workers]:
    """``options``: of the section websocket; ``timeouts``, ``collector``."""
    collector = options.pop("collector", None)
    timeouts = TimeoutsConfig(**options.pop("timeouts", {}))
    config = ServerConfig(app="test:app", websocket=WebsocketConfig(**options), timeouts=timeouts)
    with serving(app, config=config, home=True, by=by, threads=2, collector=collector) as workers:
        yield workers


class Recorder:
    """An application that echoes, and keeps what it was told. ``scopes`` and ``messages`` grow in the home loop."""

    def __init__(self, accept: Message | None = None) -> None:
        self.scopes: list[Message] = []
        self.messages: list[Message] = []
        self.accept = accept or {}

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        while True:
            message = await receive()
            self.messages.append(message)
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept", **self.accept})
            elif message["type"] == "websocket.disconnect":
                return
            else:
                await send({**message, "type": "websocket.send"})

    def end(self) -> Message:
        """The websocket.disconnect, once it is there."""
        wait_until(
            lambda: self.messages and self.messages[-1]["type"] == "websocket.disconnect", "the disconnect"
        )
        return self.messages[-1]


def test_an_echo(by: str) -> None:
    app = Recorder()
    with served(app, by) as workers, RawWebSocket(workers.address, "/a%20b?x=1", origin="http://here") as ws:
        ws.text("Grüße")
        assert ws.receive_text() == "Grüße"
        ws.send(frame(BINARY, b"\0\xff"), frame(TEXT, b""), frame(PING, b"?"))
        assert [(f.opcode, f.payload) for f in (ws.receive(), ws.receive(), ws.receive())] in (
            [(BINARY, b"\0\xff"), (TEXT, b""), (PONG, b"?")],
            [(PONG, b"?"), (BINARY, b"\0\xff"), (TEXT, b"")],
        )
        ws.close()
        assert app.end() == {"type": "websocket.disconnect", "code": 1000, "reason": ""}
    assert [m["type"] for m in app.messages] == [
        "websocket.connect",
        *["websocket.receive"] * 3,
        "websocket.disconnect",
    ]
    assert app.messages[1] == {"type": "websocket.receive", "text": "Grüße"}
    assert app.messages[2] == {"type": "websocket.receive", "bytes": b"\0\xff"}
    scope = app.scopes[0]
    assert scope["type"] == "websocket"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert (scope["scheme"], scope["http_version"]) == ("ws", "1.1")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"x=1")
    assert (b"origin", b"http://here") in scope["headers"]
    assert scope["subprotocols"] == []
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert scope["client"][0] == "127.0.0.1"
    assert "method" not in scope


def test_what_is_sent_with_the_handshake_is_not_lost(by: str) -> None:
    with served(Recorder(), by) as workers:
        with RawWebSocket(workers.address, behind=frame(TEXT, b"early")[:5]) as ws:
            ws.send(frame(TEXT, b"early")[5:])
            assert ws.receive_text() == "early"
        with RawWebSocket(workers.address, behind=frame(TEXT, b"early") + close_frame(1001)) as ws:
            frames = [ws.receive()]
            if frames[0].opcode != CLOSE:  # whichever the application was quicker for
                frames.append(ws.receive())
            assert frames[-1].code == 1001


def test_real_clients(by: str) -> None:
    messages: list[str | bytes] = ["hi", "", b"", "x" * 126, b"y" * 65536, "z" * 1_000_000, "Grüße 🎉" * 1000]

    async def talk(uri: str) -> None:
        async with connect_async(uri, max_size=None, ping_interval=0.05) as client:
            for message in messages:
                await client.send(message)
                assert await client.recv() == message

    with served(Recorder(), by, ping_interval=0.05) as workers:
        uri = "ws://{}:{}/".format(*workers.address)
        asyncio.run(talk(uri))
        for compression in (None, "deflate"):
            with connect(uri, max_size=None, compression=compression) as client:
                assert bool(client.protocol.extensions) == (compression is not None)
                client.send(iter(["in ", "pieces"]))
                assert client.recv() == "in pieces"
                for message in messages:
                    client.send(message)
                for message in messages:
                    assert client.recv() == message
            assert client.close_code == 1000


def test_subprotocol_and_headers() -> None:
    app = Recorder({"subprotocol": "wamp", "headers": [(b"x-app", b"1"), (b"set-cookie", b"a=b")]})
    with served(app) as workers, RawWebSocket(workers.address, sec_websocket_protocol="soap, wamp") as ws:
        assert app.scopes[0]["subprotocols"] == ["soap", "wamp"]
        assert ws.response.header("sec-websocket-protocol") == "wamp"
        assert ws.response.header("x-app") == "1"
        assert ws.response.header("set-cookie") == "a=b"
        assert ws.response.header("date")


def test_compression_may_be_switched_off() -> None:
    with served(Recorder(), compression=False) as workers:
        with connect("ws://{}:{}/".format(*workers.address)) as client:
            assert not client.protocol.extensions


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (405, {"method": "PUT"}),
        (400, {"without": "upgrade"}),
        (400, {"without": "sec-websocket-key"}),
        (400, {"content_length": "2"}),
        (426, {"sec_websocket_version": "7"}),
    ],
)
def test_a_wrong_handshake_is_answered_without_the_application(
    by: str, status: int, change: dict[str, str]
) -> None:
    app = Recorder()
    with served(app, by) as workers, workers.connect() as client:
        client.send(handshake(**change) + (b"xx" if "content_length" in change else b""))
        response = client.response()
        assert response.status == status
        assert response.header("connection") == "close"
        assert (response.header("sec-websocket-version") == "13") == (status == 426)
        assert (response.header("allow") == "GET") == (status == 405)
        assert client.closed()
    assert not app.scopes


def test_a_client_that_errs_before_it_has_the_answer(by: str, caplog: pytest.LogCaptureFixture) -> None:
    with served(Recorder(), by) as workers:
        for early in (
            frame(3) + b"more",
            close_frame() + b"more",
            frame(TEXT, b"x") + close_frame() + b"more",
        ):
            with RawWebSocket(workers.address, behind=early) as ws:
                while ws.receive().opcode != CLOSE:
                    pass
                assert ws.client.closed()
            wait_until(workers.is_idle)
    assert not caplog.records


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "heard"), [(1000, 1000), (1001, 1001), (4000, 4000), (None, 1005)])
def test_the_client_closes(by: str, sent: int | None, heard: int) -> None:
    app = Recorder()
    with served(app, by) as workers, RawWebSocket(workers.address) as ws:
        ws.close(sent)
        assert app.end()["code"] == heard


def test_the_client_vanishes(by: str) -> None:
    app = Recorder()
    with served(app, by) as workers:
        for reset in (False, True):
            ws = RawWebSocket(workers.address)
            if reset:
                ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ws.sock.close()
            assert app.end()["code"] == 1006
            app.messages.clear()


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        (1002, frame(TEXT, b"x", mask=None)),
        (1002, frame(5)),
        (1007, frame(TEXT, b"\xff")),
        (1009, frame(TEXT, b"x" * 1001)),
        (1009, frame(TEXT, b"x" * 100_000)[:14]),
    ],
)
def test_a_client_that_errs_is_told(by: str, code: int, bad: bytes) -> None:
    app = Recorder()
    with served(app, by, max_message=1000) as workers, RawWebSocket(workers.address) as ws:
        ws.send(frame(TEXT, b"first"), bad, b"and more that is never read" * 1000)
        assert ws.receive_text() == "first"
        ws.ended(code)
        assert app.end()["code"] == code


async def closes(scope: Message, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
    with pytest.raises(RuntimeError, match="CLOSING"):
        await send({"type": "websocket.send", "text": "x"})
    assert (await receive())["type"] == "websocket.disconnect"


def test_the_application_closes(by: str) -> None:
    with served(closes, by) as workers, RawWebSocket(workers.address) as ws:
        ws.text("x")
        got = ws.receive()
        assert (got.opcode, got.code, got.reason) == (CLOSE, 4001, "enough")
        ws.send(frame(TEXT, b"too late"), close_frame(4001))
        assert ws.client.closed()


def test_a_client_that_does_not_answer_the_close_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serverd.server.websocket.cycle.CLOSE_TIMEOUT", 0.1)
    with served(closes) as workers, RawWebSocket(workers.address) as ws:
        ws.text("x")
        assert ws.receive().code == 4001
        ws.text("not a close frame")
        assert ws.client.closed()


def test_a_slow_reader_gets_all_that_was_sent_before_the_close(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client cannot answer a close frame that it has not had."""
    monkeypatch.setattr("serverd.server.websocket.cycle.CLOSE_TIMEOUT", 0.2)
    sent = threading.Event()
    count = 0

    async def fills(scope: Message, receive: Any, send: Any) -> None:
        nonlocal count
        await receive()
        await send({"type": "websocket.accept"})
        while not receive.__self__.conn.pending_out:  # what the kernel has is the kernel's to deliver
            await send({"type": "websocket.send", "bytes": bytes(30_000)})
            count += 1
        await send({"type": "websocket.close", "code": 3000})
        sent.set()

    with served(fills, by, compression=False) as workers:
        with RawWebSocket(workers.address, receive_buffer=32768) as ws:
            assert sent.wait(10)
            time.sleep(0.6)  # a client that reads nothing for three times as long
            for _ in range(count):
                assert len(ws.receive().payload) == 30_000
            ws.close(3000)
        with RawWebSocket(workers.address, receive_buffer=32768) as ws:  # one that reads, and does not answer
            while ws.receive().opcode != CLOSE:
                pass
            assert ws.client.closed()


@pytest.mark.parametrize("before", [True, False])
def test_the_application_returns_or_raises(by: str, before: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def returns(scope: Message, receive: Any, send: Any) -> None:
        if not before:
            await receive()
            await send({"type": "websocket.accept"})
        if scope["path"] == "/raise":
            raise LookupError("its own fault")

    with served(returns, by) as workers:
        for target, code in (("/", 1000), ("/raise", 1011)):
            if before:
                with workers.connect() as client:
                    client.send(handshake(target))
                    assert client.response().status == 500
            else:
                with RawWebSocket(workers.address, target) as ws:
                    assert ws.receive().code == code
                    ws.send(close_frame(code))
                    assert ws.client.closed()
    texts = [record.getMessage() for record in caplog.records if record.name == "serverd.error"]
    assert texts[-1] == "GET /raise: the application raised an exception"
    assert len(texts) == 1 + before


def test_denials(by: str) -> None:
    async def denies(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/close":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"text/plain"), (b"x-why", b"payment")]
        await send({"type": "websocket.http.response.start", "status": 402, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"pay ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"first"})
        with pytest.raises(RuntimeError, match="CLOSING"):
            await send({"type": "websocket.accept"})

    with served(denies, by) as workers:
        with workers.connect() as client:
            client.send(handshake("/close"))
            assert client.response().status == 403
            assert client.closed()
        with workers.connect() as client:
            client.send(handshake())
            response = client.response()
            assert (response.status, response.header("x-why"), response.body) == (
                402,
                "payment",
                b"pay first",
            )
            assert client.closed()
        with pytest.raises(InvalidStatus) as caught:
            connect("ws://{}:{}/".format(*workers.address))
        assert caught.value.response.body == b"pay first"


@pytest.mark.parametrize(
    ("then", "complaint"), [("raise", "raised"), ("return", "returned"), ("text", "must be bytes")]
)
def test_a_denial_that_fails_before_its_body(
    by: str, then: str, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it was sent: the client gets a 500, as for any response."""

    async def errs(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 402, "headers": []})
        if then == "raise":
            raise ValueError
        if then == "text":
            await send({"type": "websocket.http.response.body", "body": "text"})

    with served(errs, by) as workers, workers.connect() as client:
        client.send(handshake())
        assert client.response().status == 500
        assert client.closed()
        wait_until(lambda: complaint in caplog.text)


def test_messages_out_of_order_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []

    async def confused(scope: Message, receive: Any, send: Any) -> None:
        for wrong in (
            {"type": "websocket.send", "text": "before accept"},
            {"type": "websocket.http.response.body", "body": b""},
            {"type": "http.response.start", "status": 200},
            {"type": "websocket.accept", "subprotocol": "never offered"},
            {"type": "websocket.accept", "headers": [(b"sec-websocket-protocol", b"x")]},
        ):
            with pytest.raises((RuntimeError, ValueError, Exception)) as caught:
                await send(wrong)
            tried.append(str(caught.value))
        await send({"type": "websocket.accept"})
        for wrong in (
            {"type": "websocket.accept"},
            {"type": "websocket.send"},
            {"type": "websocket.send", "bytes": 1},
            {"type": "websocket.send", "text": b"bytes"},
            {"type": "websocket.close", "code": 1006},
            {"type": "websocket.close", "reason": "x" * 200},
        ):
            with pytest.raises((RuntimeError, ValueError, Exception)) as caught:
                await send(wrong)
            tried.append(str(caught.value))
        await send({"type": "websocket.send", "text": "still fine"})

    with served(confused) as workers, RawWebSocket(workers.address) as ws:
        assert ws.receive_text() == "still fine"
        assert ws.receive().code == 1000
    assert len(tried) == 11
    assert "'websocket.send' while the WebSocket is CONNECTING" in tried[0]
    assert "never offered" in tried[3]
    assert tried[6:9] == [
        "websocket.send has no text, and its bytes are NoneType",
        "websocket.send has no text, and its bytes are int",
        "the text of websocket.send is bytes, it must be str",
    ]
    assert not caplog.records


def test_a_client_that_left_is_no_fault_of_the_application(by: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def talks(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await asyncio.sleep(0)
            try:
                await send({"type": "websocket.send", "text": "x" * 10_000})
            except OSError:
                seen.append((await receive())["type"])
                raise

    with served(talks, by) as workers:
        for clean in (True, False):
            with RawWebSocket(workers.address) as ws:
                ws.receive()
                if clean:
                    ws.send(close_frame(1001))
            wait_until(workers.is_idle)
    assert seen == ["websocket.disconnect"] * 2
    assert not caplog.records


async def greets(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(f"hello, {await websocket.receive_text()}")


async def asks(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=websocket.scope["subprotocols"][0])
    with contextlib.suppress(WebSocketDisconnect):
        async for item in websocket.iter_json():
            await websocket.send_json({"you": item})


async def forbids(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("no", status_code=401))


def test_starlette(by: str, caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette(
        routes=[
            WebSocketRoute("/greet", greets),
            WebSocketRoute("/ask", asks),
            WebSocketRoute("/forbid", forbids),
        ]
    )
    with served(app, by) as workers:
        uri = "ws://{}:{}".format(*workers.address)
        with connect(f"{uri}/greet") as client:
            client.send("you")
            assert client.recv() == "hello, you"
        with connect(f"{uri}/ask", subprotocols=["json"]) as client:  # type: ignore[list-item]
            client.send('{"a": 1}')
            assert client.recv() == '{"you":{"a":1}}'
            assert client.subprotocol == "json"
        with pytest.raises(InvalidStatus, match="401"):
            connect(f"{uri}/forbid")
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"{uri}/nowhere")
        wait_until(workers.is_idle)
    # An application that does not catch WebSocketDisconnect has done nothing wrong.
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


# -- holding back ------------------------------------------------------------------------------------------------------


def test_a_slow_reader_holds_back_the_application_and_nobody_else(by: str) -> None:
    sent: list[int] = []
    waiting = threading.Event()

    async def floods(scope: Message, receive: Any, send: Any) -> None:
        if scope["path"] != "/flood":
            await Recorder()(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(400):
            await send({"type": "websocket.send", "bytes": bytes(50_000)})
            sent.append(number)

    with served(floods, by) as workers, RawWebSocket(workers.address, "/flood", receive_buffer=4096) as slow:
        with RawWebSocket(workers.address) as quick:
            for number in range(20):
                quick.text(str(number))
                assert quick.receive_text() == str(number)
            before = -1
            while before != len(sent):  # until it stands still over 20 turns of the others
                before = len(sent)
                for _ in range(20):
                    quick.text("tick")
                    quick.receive()
            assert len(sent) < 390, "20 MB went nowhere"
        for _ in range(400):
            assert slow.receive().payload == bytes(50_000)
        assert slow.receive().code == 1000
    assert not waiting.is_set()


def test_a_client_that_does_not_read_at_all_is_cut_off() -> None:
    ended: list[str] = []

    async def floods(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(50_000)})
        except OSError as exc:
            ended.append(str(exc))
            message = await receive()
            ended.append(message["code"])

    with served(floods, timeouts={"write": 0.3}) as workers:
        with RawWebSocket(workers.address, receive_buffer=4096):
            wait_until(lambda: len(ended) == 2)
    assert "timeouts.write" in ended[0]
    assert ended[1] == 1006  # type: ignore[comparison-overlap]


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_an_application_that_does_not_take_holds_back_the_client(by: str) -> None:
    go_on = asyncio.Event()
    taken: list[int] = []

    async def ponders(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await go_on.wait()
        while (message := await receive())["type"] == "websocket.receive":
            taken.append(len(message["bytes"]))

    with served(ponders, by) as workers, RawWebSocket(workers.address) as ws:
        ws.sock.setblocking(False)
        data = frame(BINARY, bytes(20_000)) * 4000
        at = 0
        full = time.monotonic() + 20
        while at < len(data):
            try:
                at += ws.sock.send(data[at : at + 1_000_000])
            except BlockingIOError:
                break  # 80 MB are not taken by anybody's buffer
            assert time.monotonic() < full
        assert at < len(data)
        ws.sock.settimeout(20)
        assert workers.pool is not None
        workers.pool.call(_set(go_on)).result(10)
        ws.send(data[at:], close_frame())
        wait_until(lambda: len(taken) == 4000)
        ws.client.rest()
    assert set(taken) == {20_000}


def test_pings_are_answered_while_the_application_works(by: str) -> None:
    done = asyncio.Event()

    async def works(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await done.wait()

    with served(works, by) as workers, RawWebSocket(workers.address) as ws:
        ws.send(frame(BINARY, bytes(200_000)))
        for number in range(3):
            ws.send(frame(PING, b"%d" % number))
            assert ws.receive().payload == b"%d" % number
        assert workers.pool is not None
        workers.pool.call(_set(done)).result(10)
        assert ws.receive().code == 1000


def test_a_flood_of_pings_leaves_the_others_their_turns(by: str) -> None:
    many = 10_000
    with served(Recorder(), by) as workers, RawWebSocket(workers.address) as good:

        def overtaken() -> bool:
            with RawWebSocket(workers.address) as flood:
                flood.send(frame(PING, b"") * many)
                good.send(frame(PING, b"me"))
                assert good.receive().payload == b"me"
                received = 0
                flood.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    received += len(flood.sock.recv(1 << 20))
                flood.sock.settimeout(20)
                between = 0 < received < 2 * many
                while received < 2 * many:  # and all of them are answered
                    received += len(flood.sock.recv(1 << 20))
                assert received == 2 * many
                return between

        wait_until(overtaken, "a ping is answered between 10,000 that came earlier")


# -- keep-alive --------------------------------------------------------------------------------------------------------


def test_a_client_that_answers_pings_stays(by: str) -> None:
    with (
        served(Recorder(), by, ping_interval=0.05, ping_timeout=5.0) as workers,
        RawWebSocket(workers.address) as ws,
    ):
        for _ in range(3):
            got = ws.receive()
            assert got.opcode == PING
            ws.send(frame(PONG, got.payload))
        ws.text("still here")
        while (got := ws.receive()).opcode == PING:
            ws.send(frame(PONG, got.payload))
        assert got.payload == b"still here"


def test_a_client_that_answers_no_ping_is_let_go_of(by: str) -> None:
    app = Recorder()
    with (
        served(app, by, ping_interval=0.05, ping_timeout=0.1) as workers,
        RawWebSocket(workers.address) as ws,
    ):
        assert ws.receive().opcode == PING
        ws.ended(1011)
        assert app.end() == {
            "type": "websocket.disconnect",
            "code": 1006,
            "reason": "the client did not answer a ping in time",
        }


def test_whoever_talks_is_not_pinged_and_zero_switches_it_off() -> None:
    with served(Recorder(), ping_interval=0.2) as workers, RawWebSocket(workers.address) as ws:
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            said = time.monotonic()
            ws.text("talk")
            while ws.receive().opcode == PING:  # on a machine that stands still for so long
                assert time.monotonic() - said >= 0.2
    with served(Recorder(), ping_interval=0.0) as workers, RawWebSocket(workers.address) as ws:
        ws.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            ws.receive()
    with (
        served(Recorder(), ping_interval=0.05, ping_timeout=0.0) as workers,
        RawWebSocket(workers.address) as ws,
    ):
        assert [ws.receive().opcode for _ in range(4)] == [PING] * 4


# -- draining, log and events ------------------------------------------------------------------------------------------


def test_a_drain_asks_every_client_to_come_again(by: str) -> None:
    app = Recorder()
    with served(app, by) as workers, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawWebSocket(workers.address)) for _ in range(20)]
        for ws in clients:
            ws.text("x")
            ws.receive()
        late = stack.enter_context(workers.connect())  # its handshake comes after the drain has begun
        workers.drain()
        for ws in clients:
            got = ws.receive()
            assert (got.code, got.reason) == (1012, "service restart")
            ws.send(close_frame(1012))
            assert ws.client.closed()
        late.send(handshake())
        assert late.head().status == 101
        assert late.read(4) == b"\x88\x11\x03\xf4"
        late.sock.close()
        wait_until(workers.is_idle)
    codes = [m["code"] for m in app.messages if m["type"] == "websocket.disconnect"]
    assert codes == [1012] * 21


def test_a_drain_waits_for_the_answer_that_is_being_made(by: str) -> None:
    ready = asyncio.Event()

    async def works(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await ready.wait()
            await send({**message, "type": "websocket.send"})

    with served(works, by) as workers, RawWebSocket(workers.address) as ws:
        ws.send(frame(TEXT, b"one"), frame(TEXT, b"two"), frame(PING, b"both are here"))
        assert ws.receive().opcode == PONG
        workers.drain()
        assert workers.pool is not None
        workers.pool.call(_set(ready)).result(10)
        assert [ws.receive_text(), ws.receive_text(), ws.receive().code] == ["one", "two", 1012]


def test_a_drain_does_not_wait_for_an_application_that_never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serverd.server.websocket.cycle.QUIET", 0.1)
    ended: list[str] = []

    async def feeds(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "news"})
                await asyncio.sleep(0.01)
        except OSError as exc:
            ended.append(str(exc))
            raise

    with served(feeds) as workers, RawWebSocket(workers.address) as ws:
        assert ws.receive_text() == "news"
        workers.drain()
        while (got := ws.receive()).opcode == TEXT:
            pass
        assert got.code == 1012
        wait_until(lambda: ended)


def test_log_and_events(by: str) -> None:
    events: list[LifecycleEvent] = []
    with served(Recorder(), by, collector=_Collector(events)) as workers:
        with RawWebSocket(workers.address) as ws:
            ws.text("hello")
            ws.receive()
            ws.close()
        with RawWebSocket(workers.address):
            pass
        wait_until(lambda: sum(isinstance(event, ConnectionCompleted) for event in events) == 2)
    kinds = [type(event) for event in events if not isinstance(event, ConnectionCompleted)][1:]
    assert [kind for kind in kinds if kind in (RequestStarted, ResponseCompleted, ClientDisconnected)] == [
        RequestStarted,
        ResponseCompleted,
        RequestStarted,
        ClientDisconnected,
    ]
    completed = next(event for event in events if isinstance(event, ResponseCompleted))
    assert completed.status == 101
    assert completed.body_bytes > 7


@dataclasses.dataclass
class _Collector:
    events: list[LifecycleEvent]

    def record(self, event: LifecycleEvent) -> None:
        self.events.append(event)


def test_many_clients_at_once(by: str) -> None:
    async def talk(uri: str, number: int) -> None:
        async with connect_async(uri, compression=None if number % 2 else "deflate") as client:
            for step in range(10):
                await client.send(f"{number}.{step}")
                assert await client.recv() == f"{number}.{step}"

    async def everybody(uri: str) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(talk(uri, number))

    with served(Recorder(), by) as workers:
        asyncio.run(everybody("ws://{}:{}/".format(*workers.address)))


def test_two_tasks_may_receive_and_send() -> None:
    async def shares(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def one() -> None:
            while (message := await receive())["type"] == "websocket.receive":
                await send({**message, "type": "websocket.send"})

        await asyncio.gather(one(), one(), one())

    with served(shares) as workers, RawWebSocket(workers.address) as ws:
        for number in range(50):
            ws.text(str(number))
        assert sorted(int(ws.receive_text()) for _ in range(50)) == list(range(50))
        ws.close()


def test_a_waiting_receive_may_be_cancelled() -> None:
    async def impatient(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.02)
        await send({"type": "websocket.send", "text": "go"})
        message = await asyncio.wait_for(receive(), 10)
        await send({**message, "type": "websocket.send"})

    with served(impatient) as workers, RawWebSocket(workers.address) as ws:
        assert ws.receive_text() == "go"
        ws.text("on")
        assert ws.receive_text() == "on"


def test_the_client_leaves_before_it_is_accepted() -> None:
    heard: list[Message] = []

    async def slow(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        heard.append(await receive())
        with pytest.raises(OSError, match="disconnected"):
            await send({"type": "websocket.accept"})
        heard.append({})

    with served(slow) as workers:
        client = RawClient(workers.address)
        client.send(handshake() + frame(TEXT, b"early") + bytes(100))
        client.sock.close()
        wait_until(lambda: len(heard) == 2)
    assert heard[0] == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


@pytest.mark.parametrize(
    "behind", [close_frame(1001), frame(TEXT, b"\xff"), frame(TEXT, b"x") * 300 + close_frame(1000)]
)
def test_an_end_that_came_with_the_handshake_leaves_no_timer(by: str, behind: bytes) -> None:
    with served(Recorder(), by) as workers:
        for _ in range(3):
            client = RawClient(workers.address)
            client.send(handshake() + behind)
            assert client.head().status == 101
            client.rest()
            client.sock.close()
        wait_until(lambda: workers.queue.open == 0 and workers.is_idle())
        wait_until(lambda: not gc.collect() and not any(type(o) is KeepAlive for o in gc.get_objects()))


def test_a_client_that_is_still_sending_can_read_why_it_was_failed() -> None:
    """A connection that is closed with bytes unread is reset, and the client may lose what was sent before."""
    with served(Recorder(), max_message=1000) as workers, RawWebSocket(workers.address) as ws:
        ws.send(frame(BINARY, bytes(500_000)))
        ws.ended(1009)


def test_flags_of_a_frame_are_checked() -> None:
    """The client of these tests is as strict as it has to be: it would see a server that masks or marks its frames."""
    with served(Recorder()) as workers, RawWebSocket(workers.address) as ws:
        ws.text("x")
        assert ws.receive().flags == FIN
    with served(closes) as workers, connect("ws://{}:{}/".format(*workers.address)) as client:
        client.send("x")
        with pytest.raises(ConnectionClosed):
            client.recv()
