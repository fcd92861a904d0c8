"""The benchmark's load at a fixed rate: what a server holds up is in its percentiles, and wrong answers are errors.

Compiled from `benchmarks/bench/rate_load.c` once for this file; without a C compiler there is nothing to test.
"""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "benchmarks" / "bench" / "rate_load.c"
REQUEST = b"GET /######## HTTP/1.1\r\nHost: a\r\n\r\n"
RIGHT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("rate_load") / "rate_load"
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", path, SOURCE], check=True, timeout=60
    )
    return path


@contextmanager
def server(answer: Callable[[int, bytes], bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Answers one connection after the other, one request after the other, and closes where the answer is empty; the
    port, and what was asked."""
    asked: list[bytes] = []

    def talk(client: socket.socket) -> None:
        data = bytearray()
        while part := client.recv(1 << 20):
            data += part
            while (end := data.find(b"\r\n\r\n")) >= 0:
                asked.append(bytes(data[:end]))
                del data[: end + 4]
                said = answer(len(asked), asked[-1])
                if not said:
                    return
                client.sendall(said)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                talk(client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def run(program: Path, folder: Path, port: int, rate: float, seconds: float, request: bytes = REQUEST) -> Any:
    (folder / "request").write_bytes(request)
    (folder / "answer").write_bytes(b"hello")
    command = [str(program), str(port), "1", str(rate), str(seconds)]
    command += [str(folder / "request"), str(folder / "answer")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.removeprefix("RESULT "))


def test_every_request_that_was_due_is_asked_once_with_a_number_of_its_own(
    program: Path, tmp_path: Path
) -> None:
    with server(lambda _, __: RIGHT) as (port, asked):
        said = run(program, tmp_path, port, 100, 0.5)
    assert (said["due"], said["requests"], said["unanswered"]) == (50, 50, 0)
    assert len(set(asked)) == 50
    assert all(head.startswith(b"GET /0") and b"#" not in head for head in asked)
    assert said["bytes"] == 50 * len(RIGHT)


def test_what_was_due_while_the_server_stood_still_has_waited(program: Path, tmp_path: Path) -> None:
    def stall(number: int, _: bytes) -> bytes:
        time.sleep(0.4 if number == 20 else 0)
        return RIGHT

    with server(stall) as (port, _):
        said = run(program, tmp_path, port, 100, 1)
    # 40 of 100 were due in these 0.4 s. In a closed loop it would be one.
    assert said["requests"] == 100
    assert said["p99_us"] > 350_000
    assert said["max_us"] >= said["p999_us"] >= said["p99_us"] >= said["p50_us"]


def test_what_is_never_answered_counts_with_the_time_it_has_waited(program: Path, tmp_path: Path) -> None:
    def stop(number: int, _: bytes) -> bytes:
        time.sleep(2.8 if number == 3 else 0)
        return RIGHT

    with server(stop) as (port, _):
        said = run(program, tmp_path, port, 20, 0.3)
    assert (said["due"], said["requests"], said["unanswered"]) == (6, 2, 4)
    assert said["p99_us"] > 2_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellO",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        RIGHT + RIGHT,
    ],
)
def test_another_answer_is_an_error(program: Path, tmp_path: Path, wrong: bytes) -> None:
    with server(lambda number, _: wrong if number == 5 else RIGHT) as (port, _):
        said = run(program, tmp_path, port, 100, 0.2)
    assert said["status"] == 1
    assert said["requests"] == 4


def test_a_connection_that_ends_is_an_error(program: Path, tmp_path: Path) -> None:
    with server(lambda number, _: RIGHT if number < 5 else b"") as (port, _):
        said = run(program, tmp_path, port, 100, 0.2)
    assert (said["requests"], said["read"], said["status"]) == (4, 1, 0)


def test_the_closed_loop_sends_the_next_request_when_it_has_its_answer(program: Path, tmp_path: Path) -> None:
    def slowly(_: int, __: bytes) -> bytes:
        time.sleep(0.02)
        return RIGHT

    with server(slowly) as (port, asked):
        said = run(program, tmp_path, port, 0, 0.5)
    assert 5 <= said["requests"] <= 25
    assert len(asked) <= said["requests"] + 1
    assert said["p50_us"] >= 20_000


def test_a_request_larger_than_the_kernel_takes_at_once(program: Path, tmp_path: Path) -> None:
    request = b"POST /######## HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000_000 + b"\r\n\r\n"
    with server(lambda _, __: RIGHT) as (port, asked):
        said = run(program, tmp_path, port, 2, 1, request)
    assert (said["requests"], said["status"], said["read"], said["write"]) == (2, 0, 0, 0)
    assert [len(head) for head in asked] == [len(request) - 4] * 2
