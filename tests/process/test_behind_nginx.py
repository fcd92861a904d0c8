"""serverd behind nginx, the reverse proxy of most people: connections that are kept, WebSockets and events that pass,
and reloads under load.

nginx sends a POST again to nobody: a request that a reload lost would be a 502 here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.support.daemon import PATIENCE, Daemon, free_port, wait_until

NOTES = Path(__file__).resolve().parents[2] / "examples" / "notes"

# What nginx's own documentation says about upstreams that are kept and about WebSockets; below /old/ its defaults:
# HTTP/1.0 and a connection for each request.
CONFIG = """
daemon off;
{user}
error_log stderr;
pid {folder}/nginx.pid;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream app {{ server 127.0.0.1:{port}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $http_host;
        }}
        location /old/ {{ proxy_pass http://app/; }}
    }}
}}
"""


class Front:
    """nginx before a daemon that serves the example."""

    def __init__(self, folder: Path, daemon: Daemon, port: int) -> None:
        self.daemon = daemon
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = folder / "nginx.conf"
        user = (
            "user root;" if os.geteuid() == 0 else ""
        )  # else it becomes nobody, who may not write to our folder
        config.write_text(CONFIG.format(folder=folder, port=port, front=self.port, user=user))
        command = [_nginx(), "-c", str(config), "-p", str(folder), "-e", "stderr"]
        self.log = folder / "nginx.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_until(self._answers, "nginx answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/api/status", timeout=PATIENCE).status_code == 200
        except httpx.ConnectError:
            return False


def _nginx() -> str:
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if path is None:
        pytest.skip("needs nginx (Debian: apt-get install nginx-light)")
    return path


@pytest.fixture(scope="module", params=["sync", "async"])
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    settings = [
        f'listen=["127.0.0.1:{port}"]',
        f"workers.mode={request.param}",
        "workers.processes=1",
        f"control={folder}/control",
    ]
    argv = [sys.executable, "-m", "serverd", "-c", str(NOTES / "server.yaml")]
    argv += [word for setting in settings for word in ("--set", setting)]
    with Daemon(folder, argv=argv, env={"DATABASE": str(folder / "notes.db")}) as daemon:
        daemon.wait_ready()
        front = Front(folder, daemon, port)
        try:
            yield front
        finally:
            front.process.terminate()
            front.process.wait(PATIENCE)


@pytest.mark.parametrize("prefix", ["", "/old"])
def test_requests_and_files_pass(front: Front, prefix: str) -> None:
    content = bytes(range(256)) * 20_000
    with httpx.Client(base_url=front.url + prefix, timeout=PATIENCE) as client:
        created = client.post("/api/notes", json={"title": "through nginx"})
        assert created.status_code == 201
        assert client.get(created.headers["location"]).json()["title"] == "through nginx"
        assert client.post("/files", files={"file": ("a.bin", content)}).status_code == 303
        page = client.get("/files").text
        where = page.rpartition('href="files/')[2].partition('"')[0]
        assert client.get(f"/files/{where}").content == content
        assert client.get("/nothing").status_code == 404
        assert client.head("/").status_code == 200


def test_events_and_messages_pass_at_once(front: Front) -> None:
    with httpx.Client(base_url=front.url, timeout=PATIENCE) as client:
        last = client.post("/api/notes", json={"title": "before"}).json()["id"]
        headers = {"accept": "text/event-stream"}
        with client.stream("GET", f"/events?after={last}", headers=headers) as stream:
            lines = (line for line in stream.iter_lines() if line.startswith("id: "))
            for _ in range(3):
                written = client.post("/api/notes", json={"title": "now"}).json()["id"]
                assert next(lines) == f"id: {written}"
    with connect(f"ws://127.0.0.1:{front.port}/ws/chat", origin=Origin(front.url)) as socket:
        socket.send('{"name": "Ada", "text": "hello"}')
        assert json.loads(socket.recv(PATIENCE))["text"] == "hello"


def test_no_request_is_lost_when_new_code_takes_over(front: Front) -> None:
    answers: list[int] = []
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=front.url, timeout=PATIENCE) as client:
            while not over.is_set():
                answers.append(client.post("/api/notes", json={"title": "under load"}).status_code)
                answers.append(client.get("/api/notes", params={"limit": 1}).status_code)

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask) for _ in range(6)]
        try:
            for _ in range(3):
                mark, seen = front.daemon.mark(), len(answers)
                front.daemon.signal(signal.SIGHUP)
                front.daemon.wait_for_line(r"generation \d+ ready", after=mark)
                wait_until(lambda seen=seen: len(answers) > seen + 200, "answers go on")  # type: ignore[misc]
        finally:
            over.set()
        for each in asking:
            each.result(PATIENCE)
    wrong = [status for status in answers if status not in (200, 201)]
    assert wrong == [], front.log.read_text()
