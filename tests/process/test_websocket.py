"""WebSockets of a whole daemon: many clients, reloads and the end under load, clients that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ..support.client import RawClient
from ..support.daemon import Daemon, wait_until
from ..support.websocket import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    RawWebSocket,
    close_frame,
    cut,
    frame,
    handshake,
)

# Answers each message with the number of its process; says on standard output how each connection ended.
ECHO = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{os.getpid()} {message.get('text')}"})
    print(f"ended with {message['code']}", flush=True)
"""

both_modes = pytest.mark.parametrize("mode", ["sync", "async"])


def daemon_of(folder: Path, mode: str, **config: object) -> Daemon:
    workers = {"processes": 1, "threads": 2, "mode": mode}
    return Daemon(folder, app=ECHO, config={"workers": workers, **config}).wait_ready()


async def talk_until_closed(client: ClientConnection, answers: list[int]) -> int:
    """Send and receive until the server closes; the code of its close frame. Each answer's process goes to answers."""
    try:
        while True:
            await client.send("tick")
            pid, _, text = str(await client.recv()).partition(" ")
            assert text == "tick"
            answers.append(int(pid))
    except ConnectionClosed:
        return client.close_code or 0  # 1006 when there was no close frame


@both_modes
def test_200_clients_at_once(tmp_path: Path, mode: str) -> None:
    async def talk(uri: str, number: int) -> None:
        async with connect(uri, compression=None if number % 4 else "deflate") as client:
            for step in range(20):
                await client.send(f"{number}.{step}")
                assert str(await client.recv()).endswith(f" {number}.{step}")

    async def everybody(uri: str) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(talk(uri, number))

    with daemon_of(tmp_path, mode) as daemon:
        asyncio.run(everybody(f"ws://127.0.0.1:{daemon.port}/"))
        wait_until(lambda: daemon.count("ended with 1000") == 200)
        # Size and time of the whole connection, once for each.
        wait_until(lambda: daemon.count(r'"GET / HTTP/1.1" 101 \d{3,} [\d.]+ms') == 200)
        assert daemon.count("Traceback") == 0


@both_modes
def test_a_reload_asks_every_client_to_connect_again(tmp_path: Path, mode: str) -> None:
    async def stay(uri: str, codes: list[int], pids: list[int]) -> None:
        """Talk, and connect again when told to, until the new process answers."""
        for turn in range(2):
            async with connect(uri) as client:
                await client.send("first")
                pids.append(int(str(await client.recv()).split()[0]))
                if turn == 1:
                    return
                codes.append(await talk_until_closed(client, []))

    async def everybody(daemon: Daemon) -> tuple[list[int], set[int]]:
        codes: list[int] = []
        pids: list[int] = []
        uri = f"ws://127.0.0.1:{daemon.port}/"
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(stay(uri, codes, pids))
            await asyncio.to_thread(wait_until, lambda: len(pids) == 50)
            daemon.signal(signal.SIGHUP)
        return codes, set(pids)

    with daemon_of(tmp_path, mode) as daemon:
        codes, pids = asyncio.run(everybody(daemon))
        assert codes == [1012] * 50
        assert len(pids) == 2
        wait_until(lambda: daemon.count("ended with 1012") == 50)
        # The old child leaves at once: nothing holds it for timeouts.graceful.
        wait_until(lambda: len(daemon.workers()) == 1, timeout=8)
        assert daemon.count("Traceback|cut off") == 0


@both_modes
def test_the_end_of_the_daemon_under_load(tmp_path: Path, mode: str) -> None:
    async def everybody(daemon: Daemon) -> list[int]:
        answers: list[int] = []
        async with contextlib.AsyncExitStack() as stack:
            uri = f"ws://127.0.0.1:{daemon.port}/"
            clients = [await stack.enter_async_context(connect(uri)) for _ in range(100)]
            talks = [asyncio.create_task(talk_until_closed(client, answers)) for client in clients]
            await asyncio.to_thread(wait_until, lambda: len(answers) > 500)
            daemon.signal(signal.SIGTERM)
            return await asyncio.gather(*talks)

    with daemon_of(tmp_path, mode) as daemon:
        assert asyncio.run(everybody(daemon)) == [1012] * 100
        assert daemon.wait_exit() == 0
        assert daemon.count("ended with 1012") == 100
        assert daemon.count("Traceback|cut off") == 0


def test_a_client_that_ignores_the_drain_holds_it_for_the_deadline_of_closing_only(tmp_path: Path) -> None:
    with daemon_of(tmp_path, "sync", timeouts={"graceful": "60s"}) as daemon:
        with RawWebSocket(("127.0.0.1", daemon.port)) as ws:
            ws.text("x")
            ws.receive()
            daemon.signal(signal.SIGTERM)
            got = ws.receive()
            assert (got.opcode, got.code, got.reason) == (CLOSE, 1012, "service restart")
            assert daemon.wait_exit(15) == 0


KILLED = """
import os, signal, sys
from websockets.sync.client import connect
clients = [connect(sys.argv[1]) for _ in range(20)]
for client in clients:
    client.send("x")
    client.recv()
os.kill(os.getpid(), signal.SIGKILL)
"""


@both_modes
def test_clients_that_are_killed_leave_nothing_behind(tmp_path: Path, mode: str) -> None:
    with daemon_of(tmp_path, mode) as daemon:
        (worker,) = daemon.workers()
        before = len(os.listdir(f"/proc/{worker}/fd"))
        done = subprocess.run([sys.executable, "-c", KILLED, f"ws://127.0.0.1:{daemon.port}/"])
        assert done.returncode == -signal.SIGKILL
        wait_until(lambda: daemon.count("ended with 1006") == 20)
        wait_until(lambda: len(os.listdir(f"/proc/{worker}/fd")) <= before)
        assert daemon.count("Traceback") == 0


def noise(chance: random.Random) -> bytes:
    """A handshake, perhaps not all of it, and frames that may be wrong in any way."""
    offer = chance.choice(["permessage-deflate", "x"])
    data = handshake(sec_websocket_extensions=offer)
    if chance.random() < 0.1:
        return data[: chance.randrange(len(data))]
    for _ in range(chance.randrange(12)):
        opcode = chance.choice([CONT, TEXT, TEXT, BINARY, CLOSE, PING, PONG, chance.randrange(16)])
        flags = chance.choice([FIN, FIN, FIN, 0, FIN | RSV1, chance.randrange(16) << 4])
        size = chance.choice([0, 1, 5, 125, 126, 3000, 6000])
        payload = chance.choice([chance.randbytes(size), b"text" * (size // 4)])
        data += frame(opcode, payload, flags=flags, mask=chance.choice([b"abcd", b"abcd", b"abcd", None]))
    return data


@both_modes
def test_clients_that_send_anything_and_leave_in_any_way(tmp_path: Path, mode: str) -> None:
    chance = random.Random(6455)
    options = {"max_message": "5000B", "ping_interval": "50ms", "ping_timeout": "200ms"}
    with daemon_of(tmp_path, mode, websocket=options, timeouts={"write": "500ms"}) as daemon:
        (worker,) = daemon.workers()
        before = len(os.listdir(f"/proc/{worker}/fd"))
        for _ in range(200):
            with RawClient(("127.0.0.1", daemon.port)) as client, contextlib.suppress(OSError):
                for piece in cut(noise(chance), [chance.choice([1, 7, 100, 5000, 100_000])]):
                    client.send(piece)
                if chance.random() < 0.3:
                    client.sock.shutdown(socket.SHUT_WR)
                if chance.random() < 0.3:
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with RawWebSocket(("127.0.0.1", daemon.port)) as ws:
            ws.text("still there?")
            while (got := ws.receive()).opcode == PING:
                pass
            assert got.payload.endswith(b"still there?")
        wait_until(lambda: len(os.listdir(f"/proc/{worker}/fd")) <= before)
        assert daemon.workers() == [worker]
        assert daemon.count("Traceback| error ") == 0


@both_modes
def test_requests_and_websockets_side_by_side(tmp_path: Path, mode: str) -> None:
    with daemon_of(tmp_path, mode) as daemon:
        address = ("127.0.0.1", daemon.port)
        sockets = [RawWebSocket(address) for _ in range(10)]
        for ws in sockets:  # more than there are threads
            with RawClient(address) as client:
                assert client.get("/").body == b"hello"
                # The same connection goes on to a WebSocket after a request.
                client.send(handshake())
                assert client.head().status == 101
                client.send(close_frame(1001))
                assert client.read(4) == b"\x88\x02\x03\xe9"
                assert client.closed()
            ws.text("still here")
            assert ws.receive_text().endswith("still here")
        for ws in sockets:
            ws.close()
            ws.sock.close()
        wait_until(lambda: daemon.count("ended with 1000") == 10)
