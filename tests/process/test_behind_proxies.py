"""serverd behind real proxies, and what it knows of the clients then: nginx with its usual headers, over TCP and over a
unix socket; HAProxy with its headers, and with the PROXY protocol in both versions, plain and in front of TLS.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.certificates import Authority
from tests.support.client import RawClient
from tests.support.daemon import PATIENCE, Daemon, free_port, wait_until

# Says whom it was told of; a WebSocket is told in its first message.
WHERE = """
import json
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    host = [value.decode() for name, value in scope["headers"] if name == b"host"]
    told = json.dumps([scope["client"], scope["scheme"], scope["server"], *host])
    await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": told})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(told)).encode())]})
    await send({"type": "http.response.body", "body": told.encode()})

def wsgi(environ, start_response):
    told = json.dumps([environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]]).encode()
    start_response("200 OK", [("Content-Length", str(len(told)))])
    return [told]
"""

# What nginx's documentation and most guides have: Host, the list of addresses, the scheme. A kept connection to serverd
# carries all clients.
NGINX = """
daemon off;
{user}
error_log stderr;
pid {folder}/nginx.pid;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream app {{ server {upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{front};
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""

# What a client may write, and a proxy that does not know of it passes on.
FORGED = (
    "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n"
    "Forwarded: for=6.6.6.6;host=evil\r\n"
)

HEADERS = ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"]

HAPROXY = """
global
    maxconn 200
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def tool(name: str, package: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        pytest.skip(f"needs {name} (Debian: apt-get install {package})")
    return path


@contextlib.contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[Path]:
    """A proxy, from when it accepts connections; its log."""
    log = folder / "proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def accepts() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except ConnectionRefusedError:
            return False
        return True

    try:
        wait_until(accepts, f"{command[0]} accepts")
        yield log
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ask(
    port: int, source: str = "127.0.0.1", headers: str = "", context: ssl.SSLContext | None = None
) -> Any:
    """What a client at ``source`` is known by."""
    client = RawClient(("127.0.0.1", port))
    client.sock.close()
    client.sock = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(source, 0))
    if context is not None:
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
    with client:
        response = client.get(headers=headers + "Connection: close\r\n")
        assert response.status == 200, response
        return json.loads(response.body)


# -- nginx ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interface", "unix"), [("asgi", True), ("wsgi", False)])
def test_nginx_with_its_usual_headers(
    tmp_path: Path, authority: Authority, interface: str, unix: bool
) -> None:
    files = authority.issue("localhost")
    listen = f"unix:{tmp_path}/app.sock" if unix else f"127.0.0.1:{free_port()}"
    front, tls = free_port(), free_port()
    (tmp_path / "nginx.conf").write_text(
        NGINX.format(
            folder=tmp_path, front=front, tls=tls, cert=files.cert, key=files.key,
            upstream=listen, user="user root;" if os.geteuid() == 0 else "",
        )
    )  # fmt: skip
    config: dict[str, Any] = {"listen": [listen], "workers": {"threads": 4}}
    if unix:
        config["proxy"] = {"trusted": ["unix"]}
    if interface == "wsgi":
        config["app"] = "demo:wsgi"
    command = [
        tool("nginx", "nginx-light"),
        "-c",
        str(tmp_path / "nginx.conf"),
        "-p",
        str(tmp_path),
        "-e",
        "stderr",
    ]
    with Daemon(tmp_path, app=WHERE, config=config).wait_ready() as daemon, running(command, tmp_path, front):
        names = [f"127.0.0.{number}" for number in range(2, 22)]

        def check(name: str) -> None:
            for secure in (False, True):
                told = ask(tls if secure else front, name, FORGED, authority.client() if secure else None)
                assert (told[0] if interface == "wsgi" else told[0][0]) == name
                assert told[1] == ("https" if secure else "http")
                assert told[-1] == "test"

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(check, names))
        for name in names:  # one after the other, over the one connection that nginx keeps
            check(name)
        for name in names:
            wait_until(lambda name=name: daemon.count(rf"access .* {re.escape(name)} \"GET / ") == 4)  # type: ignore[misc]
        assert daemon.count(r"6\.6\.6\.6") == 0
        if interface == "asgi":
            with connect(f"wss://localhost:{tls}/", ssl=authority.client()) as websocket:
                assert json.loads(websocket.recv(PATIENCE))[:2] == [["127.0.0.1", 0], "wss"]


# -- HAProxy ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def haproxy(
    folder: Path, mode: str, server: str, *, frontend: str = "", backend: str = "", **config: Any
) -> Iterator[tuple[Daemon, int]]:
    """A daemon behind HAProxy: ``server`` are the options of the server's line."""
    port, front = free_port(), free_port()
    text = (
        f"{HAPROXY}\nfrontend front\n    mode {mode}\n    bind 127.0.0.1:{front}\n    {frontend}\n"
        f"    default_backend app\nbackend app\n    mode {mode}\n    {backend}\n"
        f"    server one 127.0.0.1:{port} {server}\n"
    )
    (folder / "haproxy.cfg").write_text(text)
    command = [tool("haproxy", "haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    settings = {"listen": [f"127.0.0.1:{port}"]} | config
    with Daemon(folder, app=WHERE, config=settings).wait_ready() as daemon, running(command, folder, front):
        wait_until(lambda: _serves(front, "tls" in config, folder), "HAProxy has a server")
        yield daemon, front


def _serves(port: int, tls: bool, folder: Path) -> bool:
    try:
        context = ssl._create_unverified_context() if tls else None
        ask(port, context=context)
    except OSError, EOFError, AssertionError:
        return False
    return True


def test_haproxy_with_headers(tmp_path: Path) -> None:
    backend = "option forwardfor\n    http-request set-header X-Forwarded-Proto https\n    http-reuse always"
    proxy = {"headers": ["forwarded", "x-forwarded-for", "x-forwarded-proto"]}
    with haproxy(tmp_path, "http", "", backend=backend, proxy=proxy) as (daemon, front):
        for number in range(2, 12):
            name = f"127.0.0.{number}"
            told = ask(front, name, "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\n")
            assert told[0:2] == [[name, 0], "https"]
            assert told[-1] == "test"
        refused = httpx.get(
            f"http://127.0.0.1:{front}/", headers={"forwarded": "for=6.6.6.6"}, timeout=PATIENCE
        )
        assert refused.status_code == 400, "HAProxy has passed on what its client has forged"
        assert refused.text == "Forwarded: it names another client than X-Forwarded-For\n"
        daemon.wait_for_line(
            r"a request by the trusted proxy 127\.0\.0\.1:\d+ was answered with 400: Forwarded: "
        )


PROTOCOL = {"proxy": {"protocol": True}}
FAST = "check inter 50ms"


@pytest.mark.parametrize(
    ("version", "mode"),
    [("send-proxy", "sync"), ("send-proxy-v2 proxy-v2-options crc32c,unique-id", "async")],
)
def test_haproxy_with_the_proxy_protocol(tmp_path: Path, version: str, mode: str) -> None:
    unique = "unique-id-format %rt" if "unique" in version else ""
    config: dict[str, Any] = {
        **PROTOCOL,
        "workers": {"mode": mode},
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
    }
    with haproxy(tmp_path, "tcp", f"{version} {FAST}", frontend=unique, **config) as (daemon, front):
        port = int(str(daemon.config_file.read_text().split("listen:\n- 127.0.0.1:")[1].split("\n")[0]))
        kept = []
        for number in range(2, 12):
            name = f"127.0.0.{number}"
            assert ask(front, name)[0][0] == name
            client = RawClient(("127.0.0.1", front))
            client.sock.close()
            client.sock = socket.create_connection(("127.0.0.1", front), PATIENCE, source_address=(name, 0))
            kept.append((client, list(client.sock.getsockname())))
        wait_until(lambda: daemon.count(r"access .* 127\.0\.0\.11 \"GET / ") == 1)
        with connect(f"ws://127.0.0.1:{front}/") as websocket:
            assert json.loads(websocket.recv(PATIENCE))[2] == ["127.0.0.1", front]
        for client, mine in kept:
            assert json.loads(client.get().body)[:3] == [mine, "http", ["127.0.0.1", front]]
        # The idle connections go to the new child, and their clients with them.
        mark = daemon.mark()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line(r"generation 2 ready", after=mark)
        for _ in range(2):
            for client, mine in kept:
                assert json.loads(client.get().body)[0] == mine
        for client, _ in kept:
            client.sock.close()
        # Who speaks HTTP at once is no proxy; health checks have left no line.
        assert daemon.count("PROXY header") == 0
        with RawClient(("127.0.0.1", port)) as stranger:
            stranger.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert stranger.sock.recv(100) == b""
        daemon.wait_for_line(r"a connection of 127\.0\.0\.1:\d+ was closed \(proxy\.protocol\)")
        admin = int(
            re.findall(r"127\.0\.0\.1:(\d+)", daemon.config_file.read_text().partition("admin:")[2])[0]
        )
        assert httpx.get(f"http://127.0.0.1:{admin}/livez", timeout=PATIENCE).status_code == 200


def test_everybody_is_a_proxy_with_a_warning(tmp_path: Path) -> None:
    """As on a platform whose router has no fixed address; a child is warmed up without a header. Everybody who connects
    is one, and not everybody of whom one tells.

    The admin plane believes nobody: it answers to names of this machine only, as a page of a stranger could have a
    browser here ask it.
    """
    port = free_port()
    proxy = {"trusted": ["*"], "protocol": True, "headers": HEADERS}
    config = {"proxy": proxy, "reload": {"warmup": ["/"]}, "admin": {"listen": f"127.0.0.1:{port}"}}
    with Daemon(tmp_path, app=WHERE, config=config).wait_ready() as daemon:
        daemon.wait_for_line(r"warning .*proxy\.trusted has \*: whoever can connect says who the client is")
        with RawClient(("127.0.0.1", daemon.port)) as client:
            client.send(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n")
            told = json.loads(client.get(headers="X-Forwarded-For: 6.6.6.6, 9.9.9.9\r\n").body)
            assert told[0] == ["1.2.3.4", 1]
        mark = daemon.mark()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line(r"generation 2 ready", after=mark)
        assert daemon.count(r"proxy\.trusted has") == 1
        for said, status in (
            ("Host: localhost", 200),
            ("Host: evil.example", 421),
            ("Host: evil.example\r\nX-Forwarded-Host: localhost\r\nForwarded: host=localhost", 421),
            ("Host: localhost\r\nX-Forwarded-For: nonsense\r\nForwarded: for", 200),
        ):
            with RawClient(("127.0.0.1", port)) as client:
                client.send(f"GET /status HTTP/1.1\r\n{said}\r\nConnection: close\r\n\r\n".encode())
                assert client.response().status == status, said


def test_haproxy_in_front_of_tls(tmp_path: Path, authority: Authority) -> None:
    files = authority.issue("localhost")
    tls = {"cert": str(files.cert), "key": str(files.key)}
    with haproxy(tmp_path, "tcp", f"send-proxy-v2 {FAST}", proxy={"protocol": True}, tls=tls) as (
        daemon,
        front,
    ):
        for number in range(2, 7):
            told = ask(front, f"127.0.0.{number}", context=authority.client())
            assert (told[0][0], told[1]) == (f"127.0.0.{number}", "https")
        assert daemon.count("PROXY header|no handshake") == 0
