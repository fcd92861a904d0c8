"""Clients that people use, against a real daemon, in both modes, plain and over TLS: httpx, `websockets`, curl, Node.

What each of them does with a connection by itself (keep-alive, `Expect: 100-continue`, attempts to upgrade,
compression, reconnecting) is what is looked at; single bytes and bad input have tests of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import httpx
import pytest
import websockets.asyncio.client as websockets_asyncio
import websockets.sync.client as websockets_sync
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.typing import Subprotocol

from tests.support.daemon import PATIENCE, Daemon, wait_until
from tests.support.self_signed import self_signed

from .asgi_apps import STEPWISE as APP

CONTENT = random.Random(7).randbytes(3_000_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module", params=["sync", "async"])
def workers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"mode": request.param, "async_paths": ["/text", "/events"]}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, workers: dict[str, Any]) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "content.bin").write_bytes(CONTENT)
    config = {"workers": workers}
    with Daemon(folder, app=APP, config=config, env={"FILE": str(folder / "content.bin")}) as daemon:
        yield daemon.wait_ready()


@pytest.fixture
def url(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.port}"


@pytest.fixture
def echo(daemon: Daemon) -> str:
    return f"ws://127.0.0.1:{daemon.port}/echo"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key in one file; it signs itself, so it is also what clients have to trust."""
    return self_signed(tmp_path_factory.mktemp("tls") / "localhost.pem")


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificate: Path, workers: dict[str, Any]
) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("secure")
    (folder / "content.bin").write_bytes(CONTENT)
    tls = {"cert": str(certificate), "key": str(certificate)}
    config = {"workers": workers, "tls": tls}
    with Daemon(folder, app=APP, config=config, env={"FILE": str(folder / "content.bin")}) as daemon:
        yield daemon.wait_ready()


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    return path


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A client that has to succeed."""
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}"
    return done


# httpx


def test_httpx_keeps_one_connection_for_many_requests(url: str) -> None:
    with httpx.Client(base_url=url, timeout=20) as client:
        ports = {client.get("/").json()["from"][1] for _ in range(100)}
        sent = [client.post("/digest", content=CONTENT[:size]).json()["size"] for size in (0, 1, 70_000)]
        ports |= {client.get("/").json()["from"][1]}
        missing = client.get("/nothing")
        ports |= {client.get("/").json()["from"][1]}
    assert len(ports) == 1
    assert sent == [0, 1, 70_000]
    assert missing.status_code == 404


def test_httpx_reads_a_stream_while_it_is_made(url: str) -> None:
    with httpx.Client(base_url=url, timeout=20) as client, client.stream("GET", "/text/httpx") as response:
        assert response.headers["transfer-encoding"] == "chunked"
        lines = response.iter_lines()
        assert next(lines) == "begin"
        for number in range(5):
            client.post("/step/httpx", params={"say": f"step {number}"})
            assert next(lines) == f"step {number}"
        client.post("/step/httpx", params={"say": "end"})
        assert list(lines) == []


def test_httpx_async_uploads_and_downloads_many_at_once(url: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(CONTENT), 65_537):
            yield CONTENT[start : start + 65_537]

    async def both(client: httpx.AsyncClient) -> tuple[str, str]:
        up = (await client.put("/digest", content=body())).json()  # chunked: of unknown length
        down = (await client.get("/file")).content
        return up["sha256"], hashlib.sha256(down).hexdigest()

    async def all_of_them() -> list[tuple[str, str]]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await asyncio.gather(*(both(client) for _ in range(12)))

    assert set(asyncio.run(all_of_them())) == {(SHA256, SHA256)}


# websockets


def test_websockets_sync_talks_and_closes(echo: str) -> None:
    with websockets_sync.connect(
        f"{echo}?x=1", subprotocols=[Subprotocol("chat"), Subprotocol("other")]
    ) as socket:
        assert socket.subprotocol == "chat"
        assert [type(extension) for extension in socket.protocol.extensions] == [PerMessageDeflate]
        for message in ("", "Grüße 🗒", b"", b"\x00\xff", "x" * 200_000, CONTENT[:1_000_000]):
            socket.send(message)
            assert socket.recv(PATIENCE) == message
        socket.send(["frag", "men", "ted"])
        assert socket.recv(PATIENCE) == "fragmented"
        assert socket.ping().wait(PATIENCE)
        socket.send("please close")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(PATIENCE)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


def test_websockets_asyncio_talks_over_many_connections_at_once(echo: str) -> None:
    async def talk(number: int) -> list[bool]:
        compression = "deflate" if number % 2 else None
        async with websockets_asyncio.connect(echo, compression=compression) as socket:
            same = []
            for turn in range(20):
                message = f"{number}.{turn} " * (1 + turn * 50)
                await socket.send(message)
                same.append(await socket.recv() == message)
            return same

    async def everybody() -> list[list[bool]]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(talk(number) for number in range(100)))

    assert asyncio.run(everybody()) == [[True] * 20] * 100


def test_a_websocket_is_one_line_of_the_access_log_however_it_ends(daemon: Daemon, echo: str) -> None:
    with websockets_sync.connect(f"{echo}?ends=cleanly") as socket:
        socket.send("please close")
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE)
    with websockets_sync.connect(f"{echo}?ends=broken") as socket:
        socket.socket.shutdown(SHUT_RDWR)
    with websockets_sync.connect(f"{echo}?ends=last") as socket:
        pass
    daemon.wait_for_line("ends=last")  # lines are written in order
    daemon.wait_for_line("ends=broken")
    assert daemon.count(r'"GET /echo\?ends=cleanly HTTP/1.1" 101') == 1
    assert daemon.count(r'"GET /echo\?ends=broken HTTP/1.1" 101') == 1


def test_websockets_reconnects_to_new_code(tmp_path: Path) -> None:
    """The library's own loop over `connect` takes 1012 for what it is, and connects again."""

    async def watch(daemon: Daemon, seen: list[str], closed: list[int]) -> None:
        url = f"ws://127.0.0.1:{daemon.port}/echo?version"
        async for socket in websockets_asyncio.connect(url):
            seen.append(str(await socket.recv()))
            if len(seen) == 2:
                return
            await asyncio.to_thread(daemon.write_app, APP.replace("v1", "v2"))
            daemon.signal(signal.SIGHUP)
            with pytest.raises(ConnectionClosed) as error:
                await socket.recv()
            assert error.value.rcvd is not None
            closed.append(error.value.rcvd.code)

    async def limited(*what: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            await watch(*what)

    seen: list[str] = []
    closed: list[int] = []
    with Daemon(tmp_path, app=APP) as daemon:
        (old,) = daemon.wait_ready().workers()
        asyncio.run(limited(daemon, seen, closed))
        wait_until(lambda: old not in daemon.workers(), "the old child has left")
        assert daemon.count("Traceback") == 0
    assert (seen, closed) == (["v1", "v2"], [1012])


# curl


def test_curl_shows_events_as_they_come(url: str) -> None:
    curl = subprocess.Popen(
        [tool("curl"), "-sSN", f"{url}/events/curl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert curl.stdout is not None
        assert [curl.stdout.readline() for _ in range(2)] == ["retry: 1\n", "\n"]
        for number in range(3):
            httpx.post(f"{url}/step/curl", params={"say": str(number)}, timeout=20)
            assert [curl.stdout.readline() for _ in range(2)] == [f"data: {number}\n", "\n"]
        httpx.post(f"{url}/step/curl", params={"say": "end"}, timeout=20)
        assert curl.stdout.read() == ""
        assert curl.wait(PATIENCE) == 0
    finally:
        curl.kill()
        curl.communicate()


def test_an_event_stream_whose_application_only_waits_holds_no_old_child(tmp_path: Path) -> None:
    """Starlette hears that a client has left when it sends; this one waits for what never comes."""
    with Daemon(tmp_path, app=APP, config={"timeouts": {"graceful": "60s"}}) as daemon:
        (old,) = daemon.wait_ready().workers()
        url, accept = f"http://127.0.0.1:{daemon.port}/events/waits", {"accept": "text/event-stream"}
        with httpx.Client(timeout=20) as client, client.stream("GET", url, headers=accept) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 1"
            daemon.signal(signal.SIGHUP)
            assert list(lines) == [""]
        wait_until(lambda: old not in daemon.workers(), "the old child has left")
        assert daemon.count("cut off|Traceback|raised an exception") == 0


def test_curl_gets_a_file_and_parts_of_it(url: str, tmp_path: Path) -> None:
    curl, target = tool("curl"), tmp_path / "file"
    run(curl, "-fsSo", str(target), f"{url}/file")
    assert target.read_bytes() == CONTENT
    target.write_bytes(CONTENT[:1_234_567])
    run(curl, "-fsS", "-C", "-", "-o", str(target), f"{url}/file")  # goes on where it ended
    assert target.read_bytes() == CONTENT
    assert run(curl, "-fsS", "-r", "100-199", f"{url}/file").stdout == CONTENT[100:200]
    head = run(curl, "-fsSI", f"{url}/file").stdout.decode().lower()
    assert f"content-length: {len(CONTENT)}" in head


@pytest.mark.parametrize(
    ("way", "interim"),
    [
        (["--data-binary", "@-"], True),
        (["-T", "-"], True),  # PUT, chunked, as its length is not known
        (["--http2", "--data-binary", "@-"], True),  # offers to upgrade to h2c, which nobody has to take
        (["--http1.0", "--data-binary", "@-"], False),
    ],
    ids=["length", "chunked", "h2c", "1.0"],
)
def test_curl_uploads_after_it_was_told_to_go_on(url: str, way: list[str], interim: bool) -> None:
    """Before a large body curl waits for `100 Continue`, here for longer than the test may take."""
    done = run(tool("curl"), "-fsSv", "--expect100-timeout", "90", *way, f"{url}/digest", input=CONTENT)
    assert json.loads(done.stdout) == {"sha256": SHA256, "size": len(CONTENT)}
    said = done.stderr.decode()
    assert ("< HTTP/1.1 100 Continue" in said) is interim
    assert "101 Switching" not in said


def test_slow_curls_hold_nobody_up(url: str) -> None:
    """Six that take a kilobyte each second, of three megabytes, and six that send as slowly; there are two threads."""
    slow = [tool("curl"), "-sS", "--limit-rate", "1k", "-o", os.devnull]
    commands = [[*slow, f"{url}/file"], [*slow, "-T", "-", f"{url}/digest"]] * 6
    curls = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
    try:
        for curl in curls:
            assert curl.stdin is not None
            curl.stdin.write(b"x" * 10_000)
            curl.stdin.flush()
        with httpx.Client(base_url=url, timeout=20) as client:
            for _ in range(100):
                assert client.get("/").status_code == 200
            assert client.post("/digest", content=CONTENT).json()["sha256"] == SHA256
        assert [curl.poll() for curl in curls] == [None] * 12
    finally:
        for curl in curls:
            curl.kill()
            curl.communicate()


def test_curl_uses_one_connection_for_several_urls(url: str) -> None:
    done = run(tool("curl"), "-fsS", *[f"{url}/"] * 10)
    ports = [part.split("]")[0] for part in done.stdout.decode().split('"127.0.0.1",')[1:]]
    assert len(ports) == 10
    assert len(set(ports)) == 1


# Node


@pytest.fixture(scope="module")
def node() -> list[str]:
    """Node with a WebSocket that is undici's, as is its fetch: its own, or the one that Debian packages beside it."""
    node = tool("node")
    asked = "[typeof WebSocket, process.allowedNodeEnvironmentFlags.has('--experimental-websocket')].join()"
    kind, has_flag = run(node, "-p", asked).stdout.decode().strip().split(",")
    if kind == "undefined" and has_flag == "true":
        return [node, "--no-warnings", "--experimental-websocket"]
    if kind == "undefined":
        run(
            node,
            "-e",
            "process.exit(require('undici').WebSocket ? 0 : 1)",
            env={"NODE_PATH": "/usr/share/nodejs"},
        )
    return [node, "--no-warnings"]


def script(node: list[str], source: str, *arguments: str, **env: str) -> Any:
    """What an asynchronous script returns."""
    whole = f"""
    const WebSocket = globalThis.WebSocket ?? require("undici").WebSocket;
    (async (...args) => {{ {source} }})(...process.argv.slice(1))
        .then((value) => {{ console.log(JSON.stringify(value)); process.exit(0); }})
        .catch((error) => {{ console.error(error); process.exit(1); }});
    """
    done = run(*node, "-e", whole, *arguments, env={"NODE_PATH": "/usr/share/nodejs", **env})
    return json.loads(done.stdout)


def test_node_fetch_keeps_connections_and_streams_both_ways(url: str, node: list[str]) -> None:
    outcome = script(
        node,
        """
        const [url] = args;
        const ports = new Set();
        for (let i = 0; i < 50; i++) ports.add((await (await fetch(url)).json()).from[1]);
        const whole = Buffer.from(await (await fetch(`${url}/file`)).arrayBuffer());
        const up = await fetch(`${url}/digest`, {
          method: "POST", duplex: "half",
          body: new ReadableStream({
            start(controller) {
              for (let at = 0; at < whole.length; at += 65537) controller.enqueue(whole.subarray(at, at + 65537));
              controller.close();
            },
          }),
        });
        const stream = (await fetch(`${url}/text/node`)).body.pipeThrough(new TextDecoderStream()).getReader();
        const seen = [(await stream.read()).value];
        for (const say of ["one", "two"]) {
          await fetch(`${url}/step/node?say=${say}`, { method: "POST" });
          seen.push((await stream.read()).value);
        }
        await fetch(`${url}/step/node?say=end`, { method: "POST" });
        seen.push((await stream.read()).done);
        const parallel = await Promise.all([...Array(40)].map(async () => (await fetch(url)).status));
        return { ports: ports.size, up: await up.json(), seen, parallel: [...new Set(parallel)] };
        """,
        url,
    )
    # undici opens another connection when the last response's has not come back to its pool within the same turn.
    assert outcome.pop("ports") < 5
    assert outcome == {
        "up": {"sha256": SHA256, "size": len(CONTENT)},
        "seen": ["begin\n", "one\n", "two\n", True],
        "parallel": [200],
    }


def test_node_http_agent_keeps_its_connection(url: str, node: list[str]) -> None:
    """Node's older client, which most of its libraries stand on."""
    outcome = script(
        node,
        """
        const http = require("node:http");
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
        const get = () => new Promise((resolve, reject) => {
          http.get(args[0], { agent }, (response) => {
            let body = "";
            response.on("data", (data) => { body += data; });
            response.on("end", () => resolve(JSON.parse(body).from[1]));
          }).on("error", reject);
        });
        const ports = await Promise.all([...Array(50)].map(get));
        return [ports.length, new Set(ports).size];
        """,
        url,
    )
    assert outcome == [50, 1]


def test_node_websocket_talks_and_closes(echo: str, node: list[str]) -> None:
    outcome = script(
        node,
        """
        const socket = new WebSocket(args[0], ["chat"]);
        socket.binaryType = "arraybuffer";
        const next = (kind) => new Promise((resolve) => socket.addEventListener(kind, resolve, { once: true }));
        await next("open");
        const seen = [socket.protocol];
        for (const message of ["Grüße 🗒", "x".repeat(200000), new Uint8Array([0, 255])]) {
          const answer = next("message");
          socket.send(message);
          const { data } = await answer;
          seen.push(typeof data === "string" ? data === message : [...new Uint8Array(data)]);
        }
        const closed = next("close");
        socket.send("please close");
        const { code, reason, wasClean } = await closed;
        return [...seen, code, reason, wasClean];
        """,
        echo,
    )
    assert outcome == ["chat", True, True, [0, 255], 4001, "as you wish", True]


# TLS


def test_httpx_over_tls(secure: Daemon, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=certificate)
    with httpx.Client(base_url=f"https://127.0.0.1:{secure.port}", timeout=20, verify=trust) as client:
        ports = {client.get("/").json()["from"][1] for _ in range(50)}
        assert client.post("/digest", content=CONTENT).json()["sha256"] == SHA256
        assert client.get("/file").content == CONTENT
        with client.stream("GET", "/text/tls") as response:
            lines = response.iter_lines()
            assert next(lines) == "begin"
            client.post("/step/tls", params={"say": "one"})
            assert next(lines) == "one"
            client.post("/step/tls", params={"say": "end"})
            assert list(lines) == []
    assert len(ports) == 1


def test_websockets_over_tls(secure: Daemon, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=certificate)
    with websockets_sync.connect(f"wss://127.0.0.1:{secure.port}/echo", ssl=trust) as socket:
        for message in ("Grüße", b"\x00\xff", "x" * 200_000, CONTENT[:1_000_000]):
            socket.send(message)
            assert socket.recv(PATIENCE) == message
        socket.send("please close")
        with pytest.raises(ConnectionClosed, match="4001"):
            socket.recv(PATIENCE)


def test_curl_over_tls(secure: Daemon, certificate: Path) -> None:
    curl, url = tool("curl"), f"https://127.0.0.1:{secure.port}"
    done = run(curl, "-fsSv", "--cacert", str(certificate), f"{url}/file", f"{url}/file")
    assert done.stdout == CONTENT * 2
    said = done.stderr.decode()
    assert "SSL certificate verify ok" in said
    assert "TLSv1.3" in said
    assert "Re-using existing" in said
    up = run(curl, "-fsS", "--cacert", str(certificate), "-T", "-", f"{url}/digest", input=CONTENT)
    assert json.loads(up.stdout)["sha256"] == SHA256
    old = run(curl, "-fsSv", "--cacert", str(certificate), "--tls-max", "1.2", f"{url}/file")
    assert old.stdout == CONTENT
    assert "TLSv1.2" in old.stderr.decode()


def test_node_over_tls(secure: Daemon, certificate: Path, node: list[str]) -> None:
    outcome = script(
        node,
        """
        const [host] = args;
        const whole = Buffer.from(await (await fetch(`https://${host}/file`)).arrayBuffer());
        const up = await (await fetch(`https://${host}/digest`, { method: "POST", body: whole })).json();
        const socket = new WebSocket(`wss://${host}/echo`);
        const next = (kind) => new Promise((resolve) => socket.addEventListener(kind, resolve, { once: true }));
        await next("open");
        socket.send("over TLS");
        return [up.sha256, (await next("message")).data];
        """,
        f"127.0.0.1:{secure.port}",
        NODE_EXTRA_CA_CERTS=str(certificate),
    )
    assert outcome == [SHA256, "over TLS"]
