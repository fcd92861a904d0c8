"""HTTPS as real clients see it, from worker threads and from an event loop: handshakes, bytes, ends, and bad input."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig, TimeoutsConfig, TlsConfig
from serverd.server.connection import SINCE
from serverd.server.deadlines import SETTLED
from serverd.server.phases import Phase
from serverd.server.tls import CIPHERS, TlsContexts, tls_connections
from serverd.server.tls_connection import PIECE
from serverd.server.tls_groups import restrict_groups
from serverd.server.tls_names import distinguished_name

from .support.apps import Receive, Send, echo, hello, read_body, reply
from .support.certificates import Authority, Drip, Files, TlsClient, handshake_fails
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import Workers, serving

CONFIG = ServerConfig(app="test:app")
PLAIN = b"this port speaks HTTPS: use https:// in the address\n"
ANY_CIPHER = "ALL:@SECLEVEL=0"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Files:
    return authority.issue("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def client(authority: Authority) -> ssl.SSLContext:
    return authority.client()


@pytest.fixture(params=["threads", "asyncio"])
def by(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def https(app: Any, tls: TlsConfig | Files, **options: Any) -> Iterator[Workers]:
    config = tls if isinstance(tls, TlsConfig) else TlsConfig(cert=tls.cert, key=tls.key)
    with serving(app, make_connection=TlsContexts(config).connection, **options) as served:
        yield served


# -- requests and responses ------------------------------------------------------------------------------------------


def test_requests_on_one_connection(server: Files, client: ssl.SSLContext, by: str) -> None:
    with https(echo, server, by=by) as served, TlsClient(served.address, client) as conn:
        for size in (0, 1, 100, 16_384, 100_000):
            assert conn.post("/", b"x" * size).body == b"x" * size


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions(server: Files, authority: Authority, version: ssl.TLSVersion, by: str) -> None:
    context = authority.client(maximum_version=version)
    with https(echo, server, by=by) as served, TlsClient(served.address, context) as conn:
        assert conn.sock.version() == ("TLSv1.2" if version == ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
        assert conn.post("/", b"x" * 50_000).body == b"x" * 50_000


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "http"])
def test_a_target_with_its_scheme(server: Files, client: ssl.SSLContext, scheme: str, by: str) -> None:
    with https(hello, server, by=by) as served, TlsClient(served.address, client) as conn:
        assert conn.get(f"{scheme}://a.example/").body == b"hello"


def test_pipelined_requests_in_one_record(server: Files, client: ssl.SSLContext, by: str) -> None:
    with https(hello, server, by=by) as served, TlsClient(served.address, client) as conn:
        conn.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        assert [conn.response().body for _ in range(20)] == [b"hello"] * 20


def test_a_request_that_came_with_the_end_of_the_handshake(
    server: Files, client: ssl.SSLContext, by: str
) -> None:
    """Nothing more comes from the kernel for it: what OpenSSL holds must be looked at."""
    with https(hello, server, by=by) as served, Drip(served.address, client) as drip:
        last = drip.shake_hands()
        drip.sock.sendall(last + drip.sealed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert drip.read().endswith(b"hello")


def test_a_request_in_several_records_at_once(server: Files, client: ssl.SSLContext, by: str) -> None:
    body = os.urandom(100_000)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    with https(echo, server, by=by) as served, Drip(served.address, client) as drip:
        drip.sock.sendall(
            drip.shake_hands() + drip.sealed(head[:20]) + drip.sealed(head[20:]) + drip.sealed(body)
        )
        answer = b""
        while piece := drip.read():
            answer += piece
        assert answer.endswith(body)


def test_every_byte_on_its_own(server: Files, client: ssl.SSLContext, by: str) -> None:
    with https(hello, server, by=by) as served, Drip(served.address, client) as drip:
        drip.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = drip.shake_hands() + drip.sealed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for at in range(len(data)):
            drip.sock.sendall(data[at : at + 1])
        assert drip.read().endswith(b"hello")


def test_a_body_that_is_read_as_it_comes(server: Files, client: ssl.SSLContext, by: str) -> None:
    body = os.urandom(5_000_000)
    sent = hashlib.sha256(body).digest()

    async def digest(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, hashlib.sha256(await read_body(receive)).digest())

    with https(digest, server, by=by) as served, TlsClient(served.address, client) as conn:
        assert conn.post("/", body).body == sent
        assert conn.post("/", body).body == sent


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 20_000_000])
def test_a_large_response_to_a_client_that_begins_to_read_late(
    server: Files, client: ssl.SSLContext, size: int, by: str
) -> None:
    """It is more than the kernel takes; while it waits, the only thread serves others."""
    body = os.urandom(1_000_000) * (size // 1_000_000) or b"x" * size

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, body if scope["path"] == "/large" else b"small")

    with https(app, server, by=by, threads=1) as served:
        with TlsClient(served.address, client, receive_buffer=4096) as slow:
            slow.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with TlsClient(served.address, client) as quick:
                assert quick.get().body == b"small"
            assert hashlib.sha256(slow.response().body).digest() == hashlib.sha256(body).digest()
            assert slow.response().body == b"small"


def test_a_stream_of_pieces(server: Files, client: ssl.SSLContext, by: str) -> None:
    pieces = [os.urandom(size) for size in (1, 70_000, 16_384, 300_000, 5)] * 10

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    with https(app, server, by=by, threads=1) as served:
        with TlsClient(served.address, client, receive_buffer=4096) as conn:
            assert conn.get().body == b"".join(pieces)


def test_a_file(server: Files, client: ssl.SSLContext, by: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = os.urandom(3_000_000)
    file.write_bytes(content)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.pathsend", "path": str(file)})

    with https(app, server, by=by, threads=1) as served:
        with TlsClient(served.address, client, receive_buffer=4096) as conn:
            assert conn.get().body == content
            assert conn.get().body == content


# -- how it ends -----------------------------------------------------------------------------------------------------


def test_the_last_response_is_followed_by_close_notify(
    server: Files, client: ssl.SSLContext, by: str
) -> None:
    with https(hello, server, by=by) as served, TlsClient(served.address, client) as conn:
        assert conn.get(headers="Connection: close\r\n").body == b"hello"
        assert (
            conn.closed()
        )  # a client that was told not to suppress it raises SSLEOFError when there is none


def test_a_response_without_a_length_ends_with_close_notify(
    server: Files, client: ssl.SSLContext, by: str
) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    with https(app, server, by=by) as served, TlsClient(served.address, client) as conn:
        conn.send(b"GET / HTTP/1.0\r\n\r\n")
        assert conn.response().body == b"x" * 3000


def test_a_response_that_is_cut_has_no_close_notify(server: Files, client: ssl.SSLContext, by: str) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("the application fails in the middle")

    with https(app, server, by=by) as served, TlsClient(served.address, client) as conn:
        conn.send(b"GET / HTTP/1.0\r\n\r\n")
        conn.head()
        assert conn.read(4) == b"half"
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            conn.rest()


def test_an_idle_connection_is_closed_with_close_notify(
    server: Files, client: ssl.SSLContext, by: str
) -> None:
    config = replace(CONFIG, timeouts=TimeoutsConfig(keep_alive=0.1))
    with https(hello, server, by=by, config=config) as served, TlsClient(served.address, client) as conn:
        assert conn.get().body == b"hello"
        assert conn.closed()


def test_an_idle_connection_makes_room_with_close_notify_and_a_handshake_stays(
    server: Files, client: ssl.SSLContext, by: str
) -> None:
    config = replace(CONFIG, limits=LimitsConfig(connections=2))
    with https(hello, server, by=by, config=config) as served, contextlib.ExitStack() as stack:
        served.queue.alone = True
        begun = stack.enter_context(RawClient(served.address))
        begun.send(b"\x16\x03\x01")
        idle = stack.enter_context(TlsClient(served.address, client))
        assert idle.get().body == b"hello"
        wait_until(
            lambda: {conn.phase for conn in served.queue.connections()} == {Phase.IDLE, Phase.HANDSHAKE}
        )
        for conn in served.queue.connections():
            conn.numbers[SINCE] -= 5
        assert stack.enter_context(TlsClient(served.address, client)).get().body == b"hello"
        assert idle.closed()
        assert served.queue.seen_off == 1
        assert {conn.phase for conn in served.queue.connections()} >= {Phase.HANDSHAKE}


@pytest.mark.parametrize("notify", [True, False])
@pytest.mark.parametrize("coding", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_truncated_body_is_never_complete(
    server: Files, client: ssl.SSLContext, coding: bytes, notify: bool, by: str
) -> None:
    complete: list[bytes] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        complete.append(await read_body(receive))

    with https(app, server, by=by) as served, TlsClient(served.address, client) as conn:
        conn.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + coding + b"\r\n\r\n" + b"a\r\n0123456789\r\n")
        if notify:
            with contextlib.suppress(OSError):
                conn.sock.unwrap()
        conn.sock.close()
        wait_until(lambda: not served.queue.open, "the connection's end")
    assert not complete


def test_close_notify_right_behind_a_request(server: Files, client: ssl.SSLContext, by: str) -> None:
    """The client wants its answer still, and then the end at once, not after timeouts.keep_alive."""
    with https(hello, server, by=by) as served, Drip(served.address, client) as drip:
        drip.sock.sendall(drip.shake_hands())
        request = drip.sealed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ssl.SSLWantReadError):
            drip.tls.unwrap()
        drip.sock.sendall(request + drip.outgoing.read())
        answer = b""
        while piece := drip.read():
            answer += piece
        assert answer.endswith(b"hello")
        wait_until(lambda: not served.queue.open, "the connection's end")


async def answers_who_says_no_more(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    await reply(send, b"bye")


@pytest.mark.parametrize("app", [hello, answers_who_says_no_more])
def test_close_notify_on_its_own_ends_the_connection_at_once(
    server: Files, client: ssl.SSLContext, app: Any, by: str
) -> None:
    """TCP stays open, so that the kernel knows of no end; the server's own close_notify is the last that comes."""
    with https(app, server, by=by) as served, Drip(served.address, client) as drip:
        drip.sock.settimeout(5)  # less than timeouts.keep_alive
        drip.sock.sendall(drip.shake_hands() + drip.sealed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        answer = drip.read() if app is hello else b""
        with contextlib.suppress(ssl.SSLWantReadError):
            drip.tls.unwrap()
        drip.sock.sendall(drip.outgoing.read())
        while piece := drip.read():  # raises without the server's close_notify
            answer += piece
        assert answer.endswith((b"hello", b"bye"))
        assert drip.sock.recv(100) == b""


def test_part_of_a_request_behind_another_keeps_the_connection_open(
    server: Files, client: ssl.SSLContext, by: str
) -> None:
    """OpenSSL has the bytes, and neither the kernel nor the connection's inbox shows them."""
    with https(hello, server, by=by) as served, Drip(served.address, client) as drip:
        drip.sock.sendall(drip.shake_hands())
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        first, second = drip.sealed(request), drip.sealed(request)
        drip.sock.sendall(first + second[:20])
        assert drip.read().endswith(b"hello")
        wait_until(lambda: all(conn.phase == Phase.IDLE for conn in served.queue.connections()))
        time.sleep(SETTLED * 2)  # what close_idle itself counts
        served.queue.close_idle()
        drip.sock.sendall(second[20:])
        assert drip.read().endswith(b"hello")


# -- the handshake ---------------------------------------------------------------------------------------------------


def test_silent_clients_hold_nobody(server: Files, client: ssl.SSLContext, by: str) -> None:
    """One thread, twenty clients that connect and say nothing, or half a ClientHello."""
    with https(hello, server, by=by, threads=1) as served, contextlib.ExitStack() as stack:
        for number in range(20):
            drip = stack.enter_context(Drip(served.address, client))
            drip.sock.sendall(drip.hello()[: number * 10])
        with TlsClient(served.address, client) as conn:
            assert conn.get().body == b"hello"


def test_a_handshake_has_a_deadline(server: Files, client: ssl.SSLContext, by: str) -> None:
    config = replace(CONFIG, timeouts=TimeoutsConfig(handshake=0.2))
    with https(hello, server, by=by, config=config) as served:
        with RawClient(served.address) as silent, Drip(served.address, client) as half:
            half.sock.sendall(half.hello()[:100])
            assert silent.closed()
            assert half.sock.recv(100) == b""


def test_a_handshake_costs_what_has_come_of_its_first_record(
    server: Files, client: ssl.SSLContext, by: str
) -> None:
    """OpenSSL takes 46 KiB from the first byte on."""
    with https(hello, server, by=by) as served, Drip(served.address, client) as drip:
        first = drip.hello()
        drip.sock.sendall(first[:-1])
        wait_until(lambda: [conn.inbox for conn in served.queue.connections()] == [first[:-1]])
        drip.sock.sendall(first[-1:])
        assert drip.sock.recv(1) == b"\x16"
        assert [conn.inbox for conn in served.queue.connections()] == [b""]


def test_a_trickled_handshake_is_not_renewed(server: Files, client: ssl.SSLContext, by: str) -> None:
    config = replace(CONFIG, timeouts=TimeoutsConfig(handshake=0.3))
    with https(hello, server, by=by, config=config) as served, Drip(served.address, client) as drip:
        drip.sock.settimeout(0.01)
        sent = 0
        for byte in drip.hello():
            drip.sock.sendall(bytes([byte]))
            sent += 1
            if has_ended(drip.sock):
                break
        assert 5 < sent < 100


def has_ended(sock: socket.socket) -> bool:
    """Whether the server has closed, or does so within the timeout of ``sock``."""
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_a_client_that_is_silent_after_its_handshake(server: Files, client: ssl.SSLContext, by: str) -> None:
    config = replace(CONFIG, timeouts=TimeoutsConfig(head=0.2))
    with https(hello, server, by=by, config=config) as served:
        with TlsClient(served.address, client) as conn:
            assert conn.closed()


def test_sessions_are_resumed(server: Files, client: ssl.SSLContext, by: str) -> None:
    with https(hello, server, by=by) as served:
        with TlsClient(served.address, client) as first:
            assert first.get().body == b"hello"
            session = first.sock.session
        with TlsClient(served.address, client, session=session) as second:
            assert second.sock.session_reused
            assert second.get().body == b"hello"


def test_alpn(server: Files, authority: Authority) -> None:
    context = authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with https(hello, server) as served, TlsClient(served.address, context) as conn:
        assert conn.sock.selected_alpn_protocol() == "http/1.1"
        assert conn.get().body == b"hello"


def test_a_worker_with_a_context_of_its_own(server: Files, client: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    with serving(hello, make_connection=tls_connections(context)) as served:
        with TlsClient(served.address, client) as conn:
            assert conn.get().body == b"hello"


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_plain_http_is_told_so(
    server: Files, request_: bytes, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    with https(hello, server, by=by) as served, RawClient(served.address) as conn:
        conn.send(request_)
        response = conn.response()
        assert (response.status, response.body) == (400, PLAIN)
        assert response.header("connection") == "close"
        assert conn.closed()
    assert not caplog.records


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100,
        b"\x16\x03\x01\xff\xff" + b"x" * 100,
        b"\x80\x2e\x01\x00\x02",
        os.urandom(500),
        b"\x16" * 9,
    ],
)
def test_garbage_ends_the_connection_and_nothing_else(
    server: Files, client: ssl.SSLContext, garbage: bytes, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    if garbage[:1].isalpha():
        garbage = b"\0" + garbage
    with https(hello, server, by=by) as served:
        with RawClient(served.address) as conn:
            conn.send(garbage)
            conn.sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                conn.rest()  # an alert, or nothing
        with TlsClient(served.address, client) as other:
            assert other.get().body == b"hello"
    assert all(record.levelno <= logging.INFO for record in caplog.records)


def test_garbage_after_the_handshake(
    server: Files, client: ssl.SSLContext, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    with https(hello, server, by=by) as served, Drip(served.address, client) as drip:
        drip.sock.sendall(drip.shake_hands())
        drip.sock.sendall(b"\x17\x03\x03\x00\x30" + b"x" * 48)
        with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
            drip.read()
    assert all(record.levelno <= logging.INFO for record in caplog.records)


@pytest.mark.parametrize("when", ["before", "in the handshake", "after", "in a request", "in a response"])
def test_a_reset(
    server: Files, client: ssl.SSLContext, when: str, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, b"x" * 30_000_000 if scope["path"] == "/large" else b"hello")

    with https(app, server, by=by) as served:
        with Drip(served.address, client) as drip:
            drip.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if when == "in the handshake":
                drip.sock.sendall(drip.hello())
            elif when != "before":
                drip.sock.sendall(drip.shake_hands())
            if when == "in a request":
                drip.sock.sendall(
                    drip.sealed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")[:-5]
                )
            elif when == "in a response":
                drip.sock.sendall(drip.sealed(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"))
                drip.read()
        wait_until(lambda: not served.queue.open, "the connection's end")
        with TlsClient(served.address, client) as other:
            assert other.get().body == b"hello"
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_are_refused(
    server: Files, authority: Authority, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = ssl.TLSVersion[version]
    context = authority.client(minimum_version=old, maximum_version=old)
    context.set_ciphers(ANY_CIPHER)
    caplog.set_level(logging.DEBUG)
    with https(hello, server) as served:
        assert handshake_fails(served.address, context) == "TLSV1_ALERT_PROTOCOL_VERSION"
        assert handshake_fails(served.address, context) == "TLSV1_ALERT_PROTOCOL_VERSION"
    said = [record for record in caplog.records if "no handshake with 127.0.0.1" in record.message]
    assert [record.levelname for record in said] == ["DEBUG", "INFO", "DEBUG"]
    assert "unsupported protocol" in said[0].message


def test_min_version_1_3(server: Files, authority: Authority) -> None:
    config = TlsConfig(cert=server.cert, key=server.key, min_version="1.3")
    with https(hello, config) as served:
        context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
        assert handshake_fails(served.address, context) == "TLSV1_ALERT_PROTOCOL_VERSION"
        with TlsClient(served.address, authority.client()) as conn:
            assert conn.get().body == b"hello"


def test_ciphers(server: Files, authority: Authority) -> None:
    config = TlsConfig(cert=server.cert, key=server.key, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    with https(hello, config) as served:
        with TlsClient(served.address, context) as conn:
            assert (conn.sock.cipher() or "")[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        assert handshake_fails(served.address, context) in (
            "SSLV3_ALERT_HANDSHAKE_FAILURE",
            "HANDSHAKE_FAILURE",
        )


@pytest.mark.parametrize(
    "weak", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "NULL"]
)
def test_weak_ciphers_are_refused(server: Files, authority: Authority, weak: str) -> None:
    context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{weak}:@SECLEVEL=0")
    with https(hello, server) as served:
        handshake_fails(served.address, context)


def test_the_ciphers_are_all_known_to_this_openssl() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS)
    known = {suite["name"] for suite in context.get_ciphers()}
    assert set(CIPHERS.split(":")) <= known


@pytest.mark.parametrize(("curve", "offered"), [("secp521r1", False), ("X448", False), ("secp384r1", True)])
def test_the_groups_of_key_exchange(server: Files, authority: Authority, curve: str, offered: bool) -> None:
    context = authority.client()
    context.set_ecdh_curve(curve)
    if not restrict_groups(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)):
        pytest.skip("this Python cannot restrict them")
    with https(hello, server) as served:
        if offered:
            with TlsClient(served.address, context) as conn:
                assert conn.get().body == b"hello"
        else:
            assert "HANDSHAKE_FAILURE" in handshake_fails(served.address, context)


# -- certificates of clients -----------------------------------------------------------------------------------------


async def who(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """What the application is told about the connection, on a line each."""
    tls = scope["extensions"]["tls"]
    lines = [scope["scheme"], *(f"{name}={tls[name]!r}" for name in sorted(tls))]
    tls["client_cert_chain"].append("an application may do what it likes with its copy")
    await reply(send, "\n".join(lines).encode())


def told(conn: TlsClient) -> dict[str, Any]:
    scheme, *lines = conn.get().body.decode().split("\n")
    assert scheme == "https"
    pairs = (line.partition("=") for line in lines)
    return {name: ast.literal_eval(value) for name, _, value in pairs}


def test_the_asgi_extension(server: Files, authority: Authority, by: str) -> None:
    context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    with https(who, server, by=by) as served, TlsClient(served.address, context) as conn:
        expected: dict[str, Any] = {
            "server_cert": server.cert.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----",
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": 0x0303,
            "cipher_suite": 0xC02B,  # TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        }
        assert told(conn) == expected
        assert told(conn) == expected
    with https(who, server, by=by) as served, TlsClient(served.address, authority.client()) as conn:
        now = told(conn)
        assert now["tls_version"] == 0x0304
        assert now["cipher_suite"] in (0x1301, 0x1302, 0x1303)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_that_is_required(
    server: Files, authority: Authority, version: ssl.TLSVersion, by: str, tmp_path: Path
) -> None:
    tls = TlsConfig(cert=server.cert, key=server.key, client_ca=authority.ca, client_cert="required")
    ann = authority.issue("ann.example", person="ann")
    context = authority.client(ann, maximum_version=version)
    stranger = Authority(tmp_path).issue("eve.example", person="eve")
    with https(who, tls, by=by) as served:
        with TlsClient(served.address, context) as conn:
            seen = told(conn)
            session = conn.sock.session
        assert seen["client_cert_name"].startswith("CN=ann,")
        assert "O=Shop\\, Inc." in seen["client_cert_name"]
        own = "".join(ann.cert.read_text().split())
        assert "".join(seen["client_cert_chain"][0].split()) in own
        assert len(seen["client_cert_chain"]) == 2  # the authority's own is the last
        with TlsClient(served.address, context, session=session) as again:
            assert again.sock.session_reused
            assert told(again)["client_cert_name"] == seen["client_cert_name"]
        none, wrong = (
            authority.client(maximum_version=version),
            authority.client(stranger, maximum_version=version),
        )
        assert (
            "CERTIFICATE_REQUIRED" in handshake_fails(served.address, none)
            or version == ssl.TLSVersion.TLSv1_2
        )
        assert "UNKNOWN_CA" in handshake_fails(served.address, wrong)


def test_a_certificate_that_is_optional(server: Files, authority: Authority, by: str, tmp_path: Path) -> None:
    tls = TlsConfig(cert=server.cert, key=server.key, client_ca=authority.ca, client_cert="optional")
    ann = authority.issue("ann.example", person="ann")
    stranger = Authority(tmp_path).issue("eve.example", person="eve")
    with https(who, tls, by=by) as served:
        with TlsClient(served.address, authority.client(ann)) as conn:
            assert "CN=ann" in told(conn)["client_cert_name"]
        with TlsClient(served.address, authority.client()) as conn:
            assert told(conn)["client_cert_name"] is None
        assert "UNKNOWN_CA" in handshake_fails(served.address, authority.client(stranger))


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (((("countryName", "DE"),), (("organizationName", "Shop, Inc."),), (("commonName", "ann"),)),
         "CN=ann,O=Shop\\, Inc.,C=DE"),
        (((("commonName", "a"), ("userId", "7")),), "CN=a+UID=7"),
        (((("commonName", "#a+b\\c "),),), "CN=\\#a\\+b\\\\c\\ "),
        (((("commonName", " "),),), "CN=\\ "),
        ((), ""),
    ],
)  # fmt: skip
def test_a_distinguished_name(subject: Any, text: str) -> None:
    assert distinguished_name(subject) == text


# -- the end of a child ----------------------------------------------------------------------------------------------


def test_draining_closes_who_has_not_said_anything(server: Files, client: ssl.SSLContext, by: str) -> None:
    with https(hello, server, by=by) as served, RawClient(served.address) as silent:
        with Drip(served.address, client) as half, TlsClient(served.address, client) as idle:
            half.sock.sendall(half.hello()[:50])
            assert idle.get().body == b"hello"
            wait_until(lambda: served.queue.open == 3, "three connections")

            def closed() -> bool:
                served.queue.close_idle()
                return served.queue.open == 1

            wait_until(closed, "the end of the two that say nothing")
            assert silent.closed()
            assert idle.closed()
