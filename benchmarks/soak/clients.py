"""The clients of the mixed load that mean well: each kind is one function, one turn of which is an exchange or a few.

Promises: each answer is compared byte by byte with what the application makes of the token of this request; a turn that
ends otherwise raises. Paces are rates, not floods: a client waits between its turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from . import wire
from .tally import Tally
from .wire import Connection, Response, Wrong

_PATIENCE: Final = 60.0
_BIG: Final = 1 << 20
_FILE: Final = 300_000


class Client:
    """One client of `kind`, which has turns every `period` seconds, half or one and a half."""

    def __init__(
        self,
        tally: Tally,
        daemon: str,
        port: int,
        tls: ssl.SSLContext | None,
        kind: str,
        period: float,
        turn: Callable[[Client], Awaitable[int]],
    ) -> None:
        self.port = port
        self.tls = tls
        self.conn: Connection | None = None
        self.turns = 0
        self._tally = tally
        self._daemon = daemon
        self._kind = kind
        self._period = period
        self._turn = turn
        self._number = 0

    async def run(self) -> None:
        """Until the load is over."""
        await asyncio.sleep(random.random() * self._period)
        while not self._tally.over:
            began = time.monotonic()
            try:
                async with asyncio.timeout(_PATIENCE):
                    number = await self._turn(self)
            except (OSError, EOFError, Wrong, ValueError) as error:
                conn = self.conn
                pid, proven = (None, began) if conn is None else (conn.pid, conn.proven)
                why = str(error) if isinstance(error, Wrong) else repr(error)
                self._tally.bad(self._daemon, self._kind, why, pid, proven)
                self.drop()
                await asyncio.sleep(0.05)
            else:
                self._tally.good(self._daemon, self._kind, number, time.monotonic() - began)
            self.turns += 1
            await asyncio.sleep(self._period * (0.5 + random.random()))
        if self.conn is not None:
            await self.conn.close()

    def token(self) -> bytes:
        """One that nobody else has."""
        self._number += 1
        return b"%x-%x-%08x" % (id(self), self._number, random.getrandbits(32))

    async def connected(self, *, narrow: bool = False) -> Connection:
        """The connection, opened if there is none."""
        if self.conn is None:
            self.conn = await Connection.open(self.port, self.tls, narrow=narrow)
        return self.conn

    async def hang_up(self) -> None:
        """The next turn has a new connection."""
        conn, self.conn = self.conn, None
        if conn is not None:
            await conn.close()

    def drop(self) -> None:
        """The same, without a word."""
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.reset()

    def check(self, response: Response, token: bytes, body: bytes) -> None:
        """Whether it is the answer to `token`. Raises Wrong."""
        self._tally.by_status[self._daemon, response.status] += 1
        if response.status != 200:
            raise Wrong(f"status {response.status}: {response.body[:200]!r}")
        if response.fields.get(b"x-token") != token:
            raise Wrong(f"the answer to {response.fields.get(b'x-token')!r}, not to {token!r}")
        if response.body != body:
            raise Wrong(f"{len(response.body)} bytes of body that are not the {len(body)} right ones")

    async def exchange(self, request: bytes, token: bytes, body: bytes) -> None:
        """One request on the connection, and its answer."""
        conn = await self.connected()
        conn.send(request)
        response = await conn.response()
        self.check(response, token, body)
        if response.closes:
            await self.hang_up()


def get(path: str, token: bytes, *fields: bytes) -> bytes:
    """The head of a GET."""
    more = b"".join(field + b"\r\n" for field in fields)
    return b"GET %s?%s HTTP/1.1\r\nHost: soak\r\n%s\r\n" % (path.encode(), token, more)


async def keep_alive(client: Client) -> int:
    """A small request on a connection that stays."""
    token = client.token()
    await client.exchange(get("/small", token), token, token)
    return 1


async def browser(client: Client) -> int:
    """The same, with the fields that a browser sends, some of them new each time."""
    token = client.token()
    fields = (
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
        b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        b"Accept-Language: en-US,en;q=0.5",
        b"Cookie: session=%s; theme=dark" % token,
    )
    await client.exchange(get("/small", token, *fields), token, token)
    return 1


async def short(client: Client) -> int:
    """A connection for one request."""
    token = client.token()
    await client.exchange(get("/small", token, b"Connection: close"), token, token)
    return 1


async def pipelined(client: Client) -> int:
    """Eight requests in one piece."""
    conn = await client.connected()
    tokens = [client.token() for _ in range(8)]
    conn.send(b"".join(get("/small", token) for token in tokens))
    answered = 0
    for token in tokens:
        response = await conn.response()
        client.check(response, token, token)
        answered += 1
        if (
            response.closes
        ):  # the others were not taken (RFC 9112 9.3.2), and the client would send them again
            await client.hang_up()
            break
    return answered


async def waits(client: Client) -> int:
    """A request that waits in an event loop, then one that holds its thread."""
    for path in ("/waits", "/blocks"):
        token = client.token()
        await client.exchange(get(path, token), token, token)
    return 2


async def blocks(client: Client) -> int:
    """A request that holds its thread."""
    token = client.token()
    await client.exchange(get("/blocks", token), token, token)
    return 1


async def posts(client: Client) -> int:
    """A body with a length: small, up to what is buffered, beyond it."""
    size = (0, 100, 20_000, 60_000, 300_000)[client.turns % 5]
    return await _post(client, b"Content-Length: %d" % size, random.randbytes(size))


async def posts_chunked(client: Client) -> int:
    """A body in chunks, some of which come later; every third time with `Expect: 100-continue`."""
    body = random.randbytes((50, 40_000, 200_000)[client.turns % 3])
    expects = (b"Expect: 100-continue",) if client.turns % 3 == 2 else ()
    return await _post(client, b"Transfer-Encoding: chunked", body, *expects)


async def _post(client: Client, framing: bytes, body: bytes, *fields: bytes) -> int:
    token = client.token()
    conn = await client.connected()
    head = b"\r\n".join((b"POST /digest?%s HTTP/1.1" % token, b"Host: soak", framing, *fields, b"", b""))
    conn.send(head)
    for at in range(0, len(body), 17_000):
        piece = body[at : at + 17_000]
        conn.send(b"%x\r\n%s\r\n" % (len(piece), piece) if b"chunked" in framing else piece)
        await conn.writer.drain()
        await asyncio.sleep(0.01)
    if b"chunked" in framing:
        conn.send(b"0\r\n\r\n")
    response = await conn.response()
    client.check(response, token, b"%d %s" % (len(body), hashlib.sha256(body).hexdigest().encode()))
    if response.closes:
        await client.hang_up()
    return 1


async def streamed(client: Client) -> int:
    """A response in many pieces."""
    token = client.token()
    body = b"".join(b"%s %d\n" % (token, number) for number in range(16))
    await client.exchange(get("/streamed", token), token, body)
    return 1


async def slow_reader(client: Client) -> int:
    """A MiB that is read in three seconds."""
    token = client.token()
    conn = await client.connected(narrow=True)
    conn.send(get("/big", token))
    response = await conn.response(pause=0.045)
    client.check(response, token, (token * (_BIG // len(token) + 1))[:_BIG])
    await client.hang_up()  # the server may have sent it all long ago, and its keep-alive be over
    return 1


def file_content() -> bytes:
    """Of the file that the applications serve."""
    return random.Random("soak").randbytes(_FILE)


_CONTENT: Final = file_content()


async def file(client: Client) -> int:
    """A file."""
    token = client.token()
    await client.exchange(get("/file", token), token, _CONTENT)
    return 1


async def event_stream(client: Client) -> int:
    """An event stream to its end: the number of events, and one more for the response."""
    token = client.token()
    conn = await client.connected()
    conn.send(get("/events", token, b"Accept: text/event-stream"))
    response = await conn.response()
    expected = [b"data: %s %d" % (token, number) for number in range(20)]
    got = response.body.split(b"\n\n")[:-1]
    client.check(response, token, response.body)
    if got != expected[: len(got)]:
        raise Wrong(f"events that are not the right ones: {got[:3]!r}")
    await client.hang_up()  # a child that leaves completes its streams, and closes behind them
    if len(got) < len(expected):
        raise Wrong(f"completed early: {len(got)} events of {len(expected)}")
    return 1 + len(got)


async def web_socket(client: Client) -> int:
    """A message and its echo, each time another size; a new WebSocket every hundredth turn."""
    conn = client.conn
    if conn is None:
        conn = await client.connected()
        await conn.shake_hands("/small")
    text = client.token() * (1, 3, 50, 1000)[client.turns % 4]
    conn.send(wire.frame(wire.TEXT, text))
    while True:
        opcode, payload = await conn.frame()
        if opcode == wire.PING:
            conn.send(wire.frame(wire.PONG, payload))
        elif opcode == wire.CLOSE:
            code = int.from_bytes(payload[:2])
            conn.send(wire.frame(wire.CLOSE, payload))
            with contextlib.suppress(OSError):
                await conn.end()
            raise Wrong(f"{code}: the server closed the WebSocket")
        elif opcode != wire.TEXT or payload != text:
            raise Wrong(f"not the echo of {text[:60]!r}: opcode {opcode}, {payload[:60]!r}")
        else:
            break
    if client.turns % 100 == 99:
        conn.send(wire.frame(wire.CLOSE, (1000).to_bytes(2)))
        if (await conn.frame())[0] != wire.CLOSE or await conn.end():
            raise Wrong("the closing handshake of a WebSocket went wrong")
        await client.hang_up()
    return 1


def write_file(folder: Path) -> None:
    """The file that the applications serve."""
    (folder / "soak.bin").write_bytes(_CONTENT)
