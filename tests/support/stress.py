"""Applications and clients that find out whether one request is ever taken for another.

Promises: each request carries a token of its own in its target, a header and its body; the application compares all
three, its context variable and its copy of the lifespan's state, before and after it has waited, and what it finds
wrong stands in its answer. The client compares what comes back. The application's module forces switches of threads:
with the GIL by a switch interval of 1 us, without it by giving up the processor at random lines of serverd's own code
(sys.monitoring), as there the interval means nothing.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from .client import RawClient
from .websocket import CLOSE, TEXT, close_frame, frame, handshake

_SWITCH: Final = """
import asyncio, contextvars, os, random, sys, tempfile, threading
sys.setswitchinterval(1e-6)
if not sys._is_gil_enabled():
    def line(code, number, random=random.random, give_way=os.sched_yield, off=sys.monitoring.DISABLE):
        if "serverd" not in code.co_filename:
            return off
        if random() < 0.01:
            give_way()
    sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, "stress")
    sys.monitoring.register_callback(sys.monitoring.DEBUGGER_ID, sys.monitoring.events.LINE, line)
    sys.monitoring.set_events(sys.monitoring.DEBUGGER_ID, sys.monitoring.events.LINE)
TOKEN = contextvars.ContextVar("token", default="")
FILE = os.path.join(tempfile.mkdtemp(), "file")
with open(FILE, "wb") as file:
    file.write(b"f" * 70000)
"""

ASGI: Final = (
    _SWITCH
    + """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        scope["state"]["shared"] = "shared"
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": scope["path"] + message["text"]})
        return
    kind, token = scope["path"].strip("/").split("/")
    wrong = []
    if TOKEN.get() or "mine" in scope["state"]:
        wrong.append(f"began with {TOKEN.get()!r} {scope['state'].get('mine')!r}")
    TOKEN.set(token)
    scope["state"]["mine"] = token
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if kind == "thread":
        seen = await asyncio.to_thread(TOKEN.get)
        if seen != token:
            wrong.append(f"a thread saw {seen!r}")
    elif kind == "wait":
        await asyncio.sleep(random.random() / 500)
    sent = dict(scope["headers"])[b"x-token"].decode()
    if not (sent == token == TOKEN.get() == scope["state"]["mine"]) or body not in (b"", token.encode() * 100):
        wrong.append(f"{sent!r} {TOKEN.get()!r} {body[:40]!r}")
    headers = [(b"x-token", token.encode())]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    answer = (token + " " + "; ".join(wrong)).encode()
    if kind == "file":
        await send(start | {"headers": [*headers, (b"content-length", b"70000")]})
        await send({"type": "http.response.pathsend", "path": FILE})
    elif kind == "stream":
        await send(start)
        for index in range(len(answer)):
            await send({"type": "http.response.body", "body": answer[index : index + 1], "more_body": True})
            if index % 7 == 0:
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})
    else:
        await send(start | {"headers": [*headers, (b"content-length", str(len(answer)).encode())]})
        await send({"type": "http.response.body", "body": answer})
"""
)

WSGI: Final = (
    _SWITCH
    + """
HERE = threading.local()

def app(environ, start_response):
    kind, token = environ["PATH_INFO"].strip("/").split("/")
    wrong = []
    if TOKEN.get() or getattr(HERE, "token", ""):
        wrong.append(f"began with {TOKEN.get()!r} {HERE.token!r}")
    TOKEN.set(token)
    HERE.token = token
    body = environ["wsgi.input"].read()
    sent = environ["HTTP_X_TOKEN"]
    answer = token + " "
    if not (sent == token == TOKEN.get() == HERE.token) or body not in (b"", token.encode() * 100):
        wrong.append(f"{sent!r} {TOKEN.get()!r} {HERE.token!r} {body[:40]!r}")
    HERE.token = ""
    start_response("200 OK", [("x-token", token)])
    if kind == "file":
        return environ["wsgi.file_wrapper"](open(FILE, "rb"))
    answer = (token + " " + "; ".join(wrong)).encode()
    if kind == "stream":
        return (answer[index : index + 1] for index in range(len(answer)))
    return [answer]
"""
)

KINDS: Final = ("plain", "thread", "wait", "stream", "file", "events", "post", "pipeline", "websocket")
_numbers = itertools.count(1)

Connect = Callable[[], RawClient]


def request(kind: str, token: str, *, body: bool = False, more: str = "") -> bytes:
    """One request that says its token three times."""
    data = token.encode() * 100 if body else b""
    length = f"Content-Length: {len(data)}\r\n" if body else ""
    method = "POST" if body else "GET"
    head = f"{method} /{kind}/{token} HTTP/1.1\r\nHost: test\r\nX-Token: {token}\r\n{length}{more}\r\n"
    return head.encode() + data


class Crowd:
    """Clients in threads of their own, until it is over. `wrong` is what they found; list.append is atomic."""

    def __init__(self, connect: Connect, clients: int, kinds: tuple[str, ...] = KINDS) -> None:
        self.wrong: list[str] = []
        self.answered = [0] * clients
        self._connect = connect
        self._kinds = kinds
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        """That long, or until the first mistake."""
        self._over.wait(seconds)

    def run(self, seconds: float) -> int:
        """As `wait`, and then it is over; how many exchanges were right."""
        self.wait(seconds)
        self._over.set()
        for thread in self._threads:
            thread.join()
        return sum(self.answered)

    def _client(self, number: int) -> None:
        chance = random.Random(number)
        kind, turn = "", 0
        while not self._over.is_set():
            try:
                with self._connect() as client:
                    turn, goes_on = 0, True
                    while goes_on and not self._over.is_set():
                        kind, turn = chance.choice(self._kinds), turn + 1
                        goes_on = self._exchange(client, kind)
                        self.answered[number] += 1
            except Exception as error:  # noqa: BLE001 - whatever a client meets is what the test wants to see
                when = time.strftime("%H:%M:%S")
                self.wrong.append(
                    f"{when}: {kind}, the {turn}. on its connection: {type(error).__name__}: {error}"
                )
                self._over.set()

    def _exchange(self, client: RawClient, kind: str) -> bool:
        """One exchange, or some pipelined; whether the connection goes on."""
        if kind == "websocket":
            self._talk()
            return True
        tokens = [f"t{next(_numbers)}" for _ in range(3 if kind == "pipeline" else 1)]
        more = "Accept: text/event-stream\r\n" if kind == "events" else ""
        name = {"events": "stream", "post": "plain", "pipeline": "wait"}.get(kind, kind)
        client.send(b"".join(request(name, token, body=kind == "post", more=more) for token in tokens))
        for index, token in enumerate(tokens):
            try:
                response = client.response()
            except EOFError as error:
                raise EOFError(f"answer {index + 1} of {len(tokens)}: {error}") from error
            right = b"f" * 70000 if kind == "file" else f"{token} ".encode()
            ended = kind == "events" and right.startswith(response.body)  # by a drain, which is allowed
            if (
                response.status != 200
                or response.header("x-token") != token
                or (response.body != right and not ended)
            ):
                self.wrong.append(
                    f"{kind} {token}: {response.status} {response.headers} {response.body[:200]!r}"
                )
                self._over.set()
            if response.header("connection") == "close":
                return False
        return (
            kind != "events"
        )  # a drain that ends a stream closes its connection, although the head said nothing of it

    def _talk(self) -> None:
        """A WebSocket of its own, unless a drain ends it."""
        token = f"t{next(_numbers)}"
        with self._connect() as client:
            client.send(handshake(f"/ws/{token}"))
            assert client.head().status == 101
            for number in range(3):
                client.send(frame(TEXT, f"{token}-{number}".encode()))
                first, size = client.read(2)
                payload = client.read(size)
                if first & 0x0F == CLOSE:
                    return
                if payload != f"/ws/{token}{token}-{number}".encode():
                    self.wrong.append(f"websocket {token}: {payload!r}")
                    self._over.set()
            client.send(close_frame())
            client.rest()
