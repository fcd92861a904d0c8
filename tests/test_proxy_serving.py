"""Requests by proxies and by the PROXY protocol, through real workers and event loops, over raw sockets."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serverd.config import LimitsConfig, ProxyConfig, ServerConfig, TimeoutsConfig, TlsConfig
from serverd.server.app_loader import no_asgi
from serverd.server.connection import Connection
from serverd.server.phases import Phase
from serverd.server.proxy import headers as proxy_headers
from serverd.server.proxy import opening
from serverd.server.proxy.opening import expecting
from serverd.server.seldom import SeldomLog
from serverd.server.sync_app import RawRequest, RawResponse
from serverd.server.tls import TlsContexts

from .support.apps import Receive, Send, read_body, reply
from .support.certificates import Authority, TlsClient
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import ENGINES, Workers, serving
from .test_handover import Heir, departure, parked

ALL = ("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port")
V1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 4711 443\r\n"
GET = b"GET / HTTP/1.1\r\nHost: site\r\n\r\n"


@pytest.fixture(params=ENGINES)
def by(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


@pytest.fixture(autouse=True)
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a log that has not said anything yet."""
    logger = logging.getLogger("serverd.worker")
    for module in (proxy_headers, opening):
        monkeypatch.setattr(module, "_say", SeldomLog(logger))


def configured(**proxy: Any) -> ServerConfig:
    return ServerConfig(app="test:app", proxy=ProxyConfig(**({"headers": ALL} | proxy)))


async def where(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """An application that says whom it was told of; a WebSocket's handshake is answered with it too."""
    if scope["type"] == "websocket":
        await receive()
    else:
        await read_body(receive)
    host = [value.decode() for name, value in scope["headers"] if name == b"host"]
    told = [scope["client"], scope["scheme"], scope["server"], *host]
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept", "headers": [(b"x-told", json.dumps(told).encode())]})
        await send({"type": "websocket.close"})
    else:
        await reply(send, json.dumps(told).encode())


def environ_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    names = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "SERVER_NAME", "SERVER_PORT", "HTTP_HOST", "HTTPS",
             "HTTP_X_FORWARDED_FOR")  # fmt: skip
    environ["wsgi.input"].read()
    body = json.dumps({name: environ.get(name) for name in names}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def asked(client: RawClient, headers: str = "", target: str = "/") -> Any:
    response = client.get(target, headers=headers)
    assert response.status == 200, response
    return json.loads(response.body)


# -- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trusted", "status"), [(("127.0.0.1",), 200), (("127.0.0.2",), 421)])
def test_an_https_target_without_tls_has_to_come_from_a_trusted_proxy(
    by: str, trusted: tuple[str, ...], status: int
) -> None:
    with serving(where, config=configured(trusted=trusted), by=by) as served, served.connect() as client:
        assert client.get("https://a.example/").status == status
        if status == 421:
            assert client.closed()
        else:
            assert client.get("/").status == 200


def test_an_application_is_told_what_the_proxy_says(by: str) -> None:
    with serving(where, config=configured(), by=by) as served, served.connect() as client:
        mine, port = list(client.sock.getsockname()), list(served.address)
        assert asked(client) == [mine, "http", port, "test"]
        assert asked(client, "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n") == [
            ["1.2.3.4", 0], "https", port, "test"]  # fmt: skip
        assert asked(client) == [mine, "http", port, "test"], (
            "what one request was told is not the next one's"
        )
        assert asked(client, 'Forwarded: for="[2001:db8::1]:7";host=a.example;proto=https\r\n') == [
            ["2001:db8::1", 7], "https", ["a.example", 443], "a.example"]  # fmt: skip
        assert asked(client, "Forwarded: for=unknown\r\n") == [None, "http", port, "test"]
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nX-Forwarded-Host: b:81\r\n\r\n")
        assert json.loads(client.response().body) == [mine, "http", ["b", 81], "b:81"]
        # What only the general parser takes; an absolute target; a body that comes later.
        client.send(b"\r\nGET http://c/ HTTP/1.1\r\nHost: x\r\nx-Forwarded-FOR: 1.2.3.4\r\n\r\n")
        assert json.loads(client.response().body) == [["1.2.3.4", 0], "http", port, "c"]
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Length: 2\r\n\r\n")
        client.send(b"ab")
        assert json.loads(client.response().body) == [["1.2.3.4", 0], "http", port, "x"]


def test_the_word_of_a_stranger_changes_nothing(by: str) -> None:
    said = ("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
            "X-Forwarded-Port: 0\r\nForwarded: for=\r\n")  # fmt: skip
    with serving(where, config=configured(trusted=("10.0.0.1", "unix")), by=by) as served:
        for _ in range(2):
            with served.connect() as client:
                for headers in (said, "", said):
                    assert asked(client, headers) == [
                        list(client.sock.getsockname()), "http", list(served.address), "test"]  # fmt: skip


def test_nonsense_is_answered_and_named_in_the_log(by: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(where, config=configured(), by=by) as served:
        for _ in range(3):
            with served.connect() as client:
                port = client.sock.getsockname()[1]
                response = client.get(headers="X-Forwarded-For: <script>alert(1)</script>\r\n")
                assert response.status == 400
                assert response.body == b"X-Forwarded-For: an element is no IP address\n"
                assert client.rest() == b""
        with served.connect() as client:
            client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: gopher\r\n\r\n")
            assert client.response("HEAD").status == 400
            assert client.rest() == b""
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("a request by the trusted proxy 127.0.0.1:")
    assert lines[0].endswith("was answered with 400: X-Forwarded-For: an element is no IP address")
    assert port > 0


def test_a_body_is_not_waited_for_when_its_head_makes_no_sense(by: str) -> None:
    with serving(where, config=configured(), by=by) as served, served.connect() as client:
        head = "POST / HTTP/1.1\r\nHost: x\r\nForwarded: for\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        client.send(head.encode())
        assert client.response().status == 400


def test_twenty_clients_on_one_connection(by: str) -> None:
    """Repeated heads are remembered; what they mean is each one's own, in any order, pipelined too."""
    heads = [
        (
            [[f"1.2.3.{number}", 0], "https" if number % 2 else "http", None, f"h{number % 3}"],
            f"GET / HTTP/1.1\r\nHost: h{number % 3}\r\nX-Forwarded-For: 1.2.3.{number}\r\n"
            f"X-Forwarded-Proto: {'https' if number % 2 else 'http'}\r\n\r\n".encode(),
        )
        for number in range(20)
    ]
    with serving(where, config=configured(), by=by) as served, served.connect() as client:
        mine = [list(client.sock.getsockname()), "http", list(served.address), "site"]
        for (told, head), _ in zip(heads * 5, range(100), strict=True):
            told[2] = list(served.address)
            client.send(head)
            assert json.loads(client.response().body) == told
            client.send(GET)
            assert json.loads(client.response().body) == mine
        for _ in range(3):
            client.send(b"".join(head + GET for _, head in heads))
            for told, _ in heads:
                assert json.loads(client.response().body) == told
                assert json.loads(client.response().body) == mine


@pytest.mark.parametrize("wsgi", [False, True])
def test_many_threads_and_connections_never_mix_clients(wsgi: bool) -> None:
    def ask(number: int) -> None:
        with served.connect() as client:
            for turn in range(60):
                name = f"1.{number}.{turn % 7}.{(turn * number) % 3}"
                answer = asked(client, f"X-Forwarded-For: {name}\r\n" if turn % 5 else "")
                told = answer["REMOTE_ADDR"] if wsgi else answer[0][0]
                assert told == (name if turn % 5 else "127.0.0.1")

    options: dict[str, Any] = {"wsgi_app": environ_app} if wsgi else {}
    with serving(no_asgi if wsgi else where, config=configured(), threads=4, **options) as served:
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(ask, number) for number in range(8)]:
                done.result(30)


def test_the_same_bytes_of_another_peer_mean_something_else(by: str) -> None:
    """One is trusted, the other is not: what the one may say is not remembered for the other."""
    said = "X-Forwarded-For: 1.2.3.4\r\n"
    with serving(where, config=configured(trusted=("127.0.0.2",)), threads=1, by=by) as served:
        for _ in range(3):
            for source, told in (("127.0.0.2", "1.2.3.4"), ("127.0.0.1", "127.0.0.1")):
                with RawClient(served.address) as client:
                    client.sock.close()
                    client.sock = socket.create_connection(served.address, 20, source_address=(source, 0))
                    assert [asked(client, said)[0][0] for _ in range(3)] == [told] * 3
                    assert asked(client, "X-Forwarded-Proto: https\r\n")[0] == list(client.sock.getsockname())


def test_wsgi_is_told_too_and_underscores_forge_nothing() -> None:
    with serving(no_asgi, wsgi_app=environ_app, config=configured()) as served, served.connect() as client:
        port = client.sock.getsockname()[1]
        here = {"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": str(port), "wsgi.url_scheme": "http",
                "SERVER_NAME": "127.0.0.1", "SERVER_PORT": str(served.address[1]), "HTTP_HOST": "test",
                "HTTPS": None, "HTTP_X_FORWARDED_FOR": None}  # fmt: skip
        told = here | {"REMOTE_ADDR": "1.2.3.4", "REMOTE_PORT": "", "HTTP_X_FORWARDED_FOR": "1.2.3.4"}
        for _ in range(3):
            assert asked(client) == here
            assert asked(client, "X-Forwarded-For: 1.2.3.4\r\n") == told
            assert asked(client, "X_Forwarded_For: 6.6.6.6\r\nX_Forwarded-For: 6.6.6.6\r\n") == here
            assert asked(client, "X-Forwarded_For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4\r\n") == told
            assert asked(client, "X-Forwarded-Proto: https\r\nX-Forwarded-Host: a:99\r\n") == here | {
                "wsgi.url_scheme": "https", "HTTPS": "on", "SERVER_NAME": "a", "SERVER_PORT": "99",
                "HTTP_HOST": "a:99"}  # fmt: skip


def test_an_application_with_handle_sync_is_told_too() -> None:
    class App:
        def handle_sync(self, request: RawRequest) -> RawResponse:
            told = [request.client, request.server, [v.decode() for n, v in request.headers if n == b"host"]]
            return RawResponse(200, (), json.dumps(told).encode())

    with serving(no_asgi, sync_app=App(), config=configured()) as served, served.connect() as client:
        assert asked(client, "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: a\r\n") == [
            ["1.2.3.4", 0], ["a", 80], ["a"]]  # fmt: skip
        assert asked(client)[0] == list(client.sock.getsockname())


def handshake(extra: str) -> bytes:
    return (
        "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    ).encode()


@pytest.mark.parametrize(("extra", "scheme"), [("", "ws"), ("https", "wss"), ("wss", "wss"), ("ws", "ws")])
def test_a_websocket_is_told_too(extra: str, scheme: str, by: str) -> None:
    extra = (
        f"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: {extra}\r\n"
        if extra
        else "X-Forwarded-For: 1.2.3.4\r\n"
    )
    with serving(where, config=configured(), home=True, by=by) as served, served.connect() as client:
        client.send(handshake(extra))
        assert json.loads(client.head().header("x-told") or "") == [
            ["1.2.3.4", 0], scheme, list(served.address), "test"]  # fmt: skip


# -- the PROXY protocol -----------------------------------------------------------------------------------------------


def version_2(client: str = "1.2.3.4", *, command: int = 0x21, extra: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    body = socket.inet_pton(family, client) + socket.inet_pton(family, "::1" if ":" in client else "5.6.7.8")
    body += struct.pack(">HH", 4711, 443) + extra
    kind = 0x21 if ":" in client else 0x11
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack(">BBH", command, kind, len(body)) + body


@contextlib.contextmanager
def behind(
    by: str = "threads",
    *,
    app: Any = where,
    tls: TlsConfig | None = None,
    config: ServerConfig | None = None,
    **options: Any,
) -> Iterator[Workers]:
    make = Connection if tls is None else TlsContexts(tls).connection
    with serving(
        app, config=config or configured(), make_connection=expecting(make), by=by, home=True, **options
    ) as served:
        yield served


NAMED = [["1.2.3.4", 4711], "http", ["5.6.7.8", 443], "site"]
HEADERS = [
    (V1, NAMED),
    (version_2(), NAMED),
    (version_2(extra=b"\x04\x00\x02ab"), NAMED),
    (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", [["2001:db8::1", 1], "http", ["::1", 2], "site"]),
    (version_2("2001:db8::1"), [["2001:db8::1", 4711], "http", ["::1", 443], "site"]),
]


@pytest.mark.parametrize(("header", "told"), HEADERS)
def test_the_client_is_whom_the_header_names(header: bytes, told: list[Any], by: str) -> None:
    with behind(by) as served:
        with served.connect() as client:
            client.send(header + GET + GET)
            for _ in range(2):
                assert json.loads(client.response().body) == told
            for _ in range(3):
                client.send(GET)
                assert json.loads(client.response().body) == told
        with served.connect() as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in header:
                client.send(bytes((byte,)))
                wait_until(lambda: eaten(served))
            client.send(GET[:10])
            client.send(GET[10:])
            assert json.loads(client.response().body) == told


def eaten(served: Workers) -> bool:
    """Whether nothing that a client has sent waits, and no thread is at work."""
    return all(not conn.has_data() and not conn.owned.locked() for conn in served.queue.connections())


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b c\r\n", version_2(command=0x20)]
)
def test_a_header_that_names_nobody_leaves_the_addresses(header: bytes, by: str) -> None:
    with behind(by) as served, served.connect() as client:
        client.send(header + GET)
        mine = list(client.sock.getsockname())
        assert json.loads(client.response().body) == [mine, "http", list(served.address), "site"]
        # Whoever names nobody has passed on what somebody has sent.
        fields = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
        assert asked(client, fields)[:2] == [mine, "http"]


BAD = [
    (GET, "what it sent does not begin with a PROXY header"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01", "what it sent does not begin with a PROXY header"),
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n" + GET, "a port in the header is no number from 0 to 65535"),
    (b"PROXY " + b"x" * 200, "the header of version 1 is longer than 107 bytes"),
    (version_2(extra=b"\x00") + GET, "an extension of the header is cut off"),
    (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", "the header is larger than 2048 bytes"),
]


@pytest.mark.parametrize(("data", "reason"), BAD)
def test_what_is_no_header_is_closed_without_an_answer(
    data: bytes, reason: str, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    with behind(by) as served:
        for _ in range(3):
            with served.connect() as client:
                client.send(data)
                assert ended(client)
        wait_until(lambda: not served.queue.open)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("a connection of 127.0.0.1:")
    assert lines[0].endswith(f"was closed (proxy.protocol): {reason}")


def ended(client: RawClient) -> bool:
    """Whether the server closes, and says nothing."""
    try:
        return client.sock.recv(100) == b""
    except ConnectionResetError:  # it had not read everything
        return True


def test_a_peer_that_is_not_trusted_is_closed_at_once(by: str, caplog: pytest.LogCaptureFixture) -> None:
    with behind(by, config=configured(trusted=("10.0.0.0/8", "unix"))) as served, served.connect() as client:
        assert ended(client)
    assert [record.getMessage().partition("(proxy.protocol): ")[2] for record in caplog.records] == [
        "this peer is not in proxy.trusted"
    ]


def test_health_checks_leave_no_line(by: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is closed again, and one that the proxy makes for itself."""
    with behind(by) as served:
        for _ in range(20):
            served.connect().sock.close()
            with served.connect() as client:
                client.send(version_2(command=0x20))
        reset = served.connect()
        reset.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.sock.close()
        with served.connect() as client:
            client.send(V1 + GET)
            assert json.loads(client.response().body) == NAMED
        wait_until(lambda: not served.queue.open)
        assert not caplog.records
        with served.connect() as client:
            client.send(V1[:20])
            client.sock.shutdown(socket.SHUT_WR)
            assert ended(client)
    assert [record.getMessage().partition("(proxy.protocol): ")[2] for record in caplog.records] == [
        "it ended in the middle of the header"
    ]


def test_it_has_the_time_of_a_head_in_all(by: str, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(configured(), timeouts=replace(TimeoutsConfig(), head=0.3))
    with behind(by, config=config) as served, served.connect() as silent, served.connect() as slow:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in V1:
                slow.send(bytes((byte,)))
                if not served.queue.open:
                    break
                time.sleep(0.03)  # a client that drips: no condition to wait for
        assert ended(silent)
        assert ended(slow)
        assert time.monotonic() - began < 5
    assert [record.getMessage().partition("(proxy.protocol): ")[2] for record in caplog.records] == [
        "the rest of it did not arrive in time (timeouts.head)"
    ]


def test_no_thread_waits_for_a_header() -> None:
    with behind(threads=1) as served, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(served.connect()) for _ in range(20)]
        for number, client in enumerate(slow):
            client.send(V1[: number % 10])
        with served.connect() as client:
            client.send(V1 + GET)
            assert json.loads(client.response().body) == NAMED
        phases = [conn.phase for conn in parked(served, 20)]
        assert phases == [Phase.PREFACE] * 20
        for number, client in enumerate(slow):
            client.send(V1[number % 10 :] + GET)
            assert json.loads(client.response().body) == NAMED


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


class Prefaced(TlsClient):
    """A TLS client behind a proxy that begins with ``header``."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, pieces: Sequence[bytes]) -> None:
        plain = socket.create_connection(address, 20)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            plain.sendall(piece)
        self.sock = context.wrap_socket(plain, server_hostname="localhost")
        self._data = b""


def test_tls_begins_behind_the_header(
    authority: Authority, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("localhost", "127.0.0.1")
    tls = TlsConfig(cert=files.cert, key=files.key)
    told = [["1.2.3.4", 4711], "https", ["5.6.7.8", 443], "test"]
    with behind(by, tls=tls) as served:
        for header in (V1, version_2()):
            for pieces in ([header], [bytes((byte,)) for byte in header]):
                with Prefaced(served.address, authority.client(), pieces) as client:
                    for _ in range(3):
                        assert asked(client) == told
                    assert asked(client, "X-Forwarded-For: 6.6.6.6\r\n") == told, "1.2.3.4 is not trusted"
        # In one segment with the ClientHello.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        bio = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            bio.do_handshake()
        with served.connect() as raw:
            raw.send(version_2() + outgoing.read())
            incoming.write(raw.sock.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                bio.do_handshake()
            assert bio.version() is not None
        with served.connect() as raw:
            raw.send(b"\x16\x03\x01\x02\x00\x01\x00")
            assert ended(raw)
    assert len(caplog.records) == 1


def test_whom_the_header_names_is_the_peer_whose_headers_count(by: str) -> None:
    with (
        behind(by, config=configured(trusted=("127.0.0.1", "1.2.3.0/24"))) as served,
        served.connect() as client,
    ):
        client.send(V1)
        assert asked(client, "X-Forwarded-For: 9.9.9.9\r\n")[0] == ["9.9.9.9", 0]
        assert asked(client)[0] == ["1.2.3.4", 4711]
    for trusted in ("127.0.0.1", "*"):  # every peer, and nobody of whom one tells
        with behind(by, config=configured(trusted=(trusted,))) as served, served.connect() as client:
            client.send(V1)
            fields = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n"
            assert asked(client, fields)[:2] == [["1.2.3.4", 4711], "http"]


@pytest.mark.parametrize("protocol", [False, True])
def test_a_proxy_on_a_unix_socket(by: str, protocol: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    make = expecting(Connection) if protocol else Connection
    with serving(where, config=configured(trusted=("unix",)), make_connection=make, by=by) as served:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        served.queue.add_listener(listener)
        with RawClient(path) as client:
            if protocol:
                client.send(V1)
                assert asked(client, "X-Forwarded-For: 6.6.6.6\r\n") == [*NAMED[:3], "test"], (
                    "1.2.3.4 is not trusted"
                )
            else:
                assert asked(client, "X-Forwarded-For: 1.2.3.4\r\n") == [
                    ["1.2.3.4", 0],
                    "http",
                    [path, None],
                    "test",
                ]
            assert asked(client)[0] == (NAMED[0] if protocol else None)
        with RawClient(served.address) as stranger:  # of the other listener, whose peers are not trusted
            if protocol:
                assert ended(stranger)
            else:
                assert asked(stranger, "X-Forwarded-For: 6.6.6.6\r\n")[0] == list(stranger.sock.getsockname())


def test_a_client_that_came_by_a_unix_socket_has_no_address(by: str) -> None:
    header = b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack(">BBH", 0x21, 0x31, 216) + bytes(216)
    with behind(by) as served, served.connect() as client:
        client.send(header)
        assert asked(client, "X-Forwarded-For: 6.6.6.6\r\n") == [None, "http", list(served.address), "test"]


def test_websockets_files_and_bodies_pass_behind_it(by: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 4000)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or scope["path"] != "/file":
            await where(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-length", b"%d" % file.stat().st_size)]})  # fmt: skip
        await send({"type": "http.response.pathsend", "path": str(file)})

    with behind(by, app=app) as served:
        with served.connect() as client:
            client.send(V1 + b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.response().body == file.read_bytes()
            answer = client.post("/", b"x" * 3_000_000)
            assert json.loads(answer.body)[0] == ["1.2.3.4", 4711]
            assert asked(client, "Accept: text/event-stream\r\n")[0] == ["1.2.3.4", 4711]
        with served.connect() as client:
            client.send(V1 + handshake(""))
            assert json.loads(client.head().header("x-told") or "")[:2] == [["1.2.3.4", 4711], "ws"]


@pytest.mark.parametrize("old", ["threads", "asyncio"])
def test_the_client_travels_with_a_connection_that_changes_hands(old: str) -> None:
    with behind(old) as left, behind("asyncio" if old == "threads" else "threads") as stays:
        with Heir(stays, [left.address]) as heir, left.connect() as client, left.connect() as waiting:
            client.send(V1 + GET)
            assert json.loads(client.response().body) == NAMED
            with left.connect() as begun, left.connect() as silent:
                waiting.send(V1)
                begun.send(V1[:9])
                wait_until(lambda: sorted(conn.phase for conn in left.queue.connections())
                           == [Phase.IDLE, Phase.HEAD, Phase.PREFACE, Phase.PREFACE] and eaten(left))  # fmt: skip
                leaving = departure(left, heir.way())
                leaving.hand_over()
                assert (leaving.gone, left.queue.open) == (2, 2), "a header that is still to come stays"
                for one in (client, waiting):
                    assert asked(one, "X-Forwarded-For: 6.6.6.6\r\n")[0] == NAMED[0]
                    one.send(GET)
                    assert json.loads(one.response().body) == NAMED
                assert stays.queue.open == 2
                begun.send(V1[9:] + GET)
                silent.send(V1 + GET)
                for one in (begun, silent):
                    assert json.loads(one.response().body) == NAMED
                leaving.end()


def test_a_named_client_has_its_own_place_among_the_connections(by: str) -> None:
    """`limits.connections_per_address` is about clients, not about their proxy."""
    config = replace(configured(), limits=replace(LimitsConfig(), connections_per_address=1))
    with behind(by, config=config) as served:
        with served.connect() as one, served.connect() as other, served.connect() as second:
            for client, address in ((one, "1.2.3.4"), (other, "1.2.3.5")):
                client.send(version_2(address) + GET)
                assert json.loads(client.response().body)[0] == [address, 4711]
            second.send(version_2("1.2.3.4") + GET)
            assert ended(second)
            one.send(GET)
            assert one.response().status == 200


def test_threads_race_for_many_headers() -> None:
    def ask(number: int) -> None:
        for turn in range(20):
            address = f"9.{number}.{turn}.1"
            with served.connect() as client:
                header = version_2(address)
                cut = (number * turn) % len(header)
                client.send(header[:cut])
                client.send(header[cut:] + GET)
                assert json.loads(client.response().body)[0] == [address, 4711]

    with behind(threads=4) as served, ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(ask, number) for number in range(6)]:
            done.result(30)
    assert threading.active_count() < 50
