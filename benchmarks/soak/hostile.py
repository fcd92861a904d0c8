"""The clients of the mixed load that mean harm, or do not care: broken requests, slow ones, resets, silence.

Promises: each knows which refusal it is due, and anything else raises. Whoever can expect no answer is still there for
what it leaves behind in the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from . import wire
from .clients import Client, get
from .wire import Connection, Wrong

_H: Final = b"Host: soak\r\n"
# Of `timeouts.head`, 10 s: a client that took longer, as the machine did not let it run, is rightly refused.
IN_TIME: Final = 9.0
_HELLO: Final = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + b"\x20" + bytes(160)
# (what is sent, the status that it is due); the limits are those of `daemons`.
BROKEN: Final[list[tuple[bytes, int]]] = [
    (bytes(range(20)), 400),
    (_HELLO, 400),
    (b"GET / HTTP/1.1\nHost: soak\n\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET  / HTTP/1.1\r\n" + _H + b"\r\n", 400),
    (b"CONNECT soak:80 HTTP/1.1\r\n" + _H + b"\r\n", 501),
    (b"GET /small?\xff HTTP/1.1\r\n" + _H + b"\r\n", 400),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + _H + b"\r\n", 414),
    (b"GET / HTTP/1.1\r\n" + _H + b"".join(b"x%d: y\r\n" % n for n in range(100)) + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + _H + b"cookie: " + b"c" * 40_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + _H + b"x : y\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + _H + b"x: y\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + _H + b"x: \0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + _H + _H + b"\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: +5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (b"POST /digest HTTP/1.1\r\n" + _H + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"POST /digest HTTP/1.1\r\n" + _H + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: 5\r\nExpect: the-moon\r\n\r\nhello", 417),
    (b"POST /digest HTTP/1.1\r\n" + _H + b"Content-Length: 99999999\r\n\r\n", 413),
]


async def _refused(conn: Connection, status: int, what: str) -> None:
    """The refusal, and the end of the connection behind it."""
    response = await conn.response()
    if response.status != status or not response.closes:
        raise Wrong(f"{what}: {response.status} and not {status}: {response.body[:200]!r}")
    if rest := await conn.end():
        raise Wrong(f"{what}: {len(rest)} bytes behind the refusal")


async def broken(client: Client) -> int:
    """One of the broken requests, sometimes behind one that is right, sometimes in two pieces."""
    request, status = BROKEN[client.turns % len(BROKEN)]
    conn = await client.connected()
    if random.random() < 0.3:
        token = client.token()
        await client.exchange(get("/small", token), token, token)
        if client.conn is None:  # the child leaves
            conn = await client.connected()
    cut = random.randrange(len(request)) if random.random() < 0.3 else 0
    conn.send(request[:cut])
    await asyncio.sleep(0.02 if cut else 0)
    conn.send(request[cut:])
    await _refused(conn, status, repr(request[:60]))
    await client.hang_up()
    return 1


async def drips(client: Client) -> int:
    """A head that comes slowly but in time, and is answered."""
    token = client.token()
    conn = await client.connected()
    head = get("/small", token)
    began = time.monotonic()
    for at in range(0, len(head), 8):
        conn.send(head[at : at + 8])
        await asyncio.sleep(0.15)
    took = time.monotonic() - began
    response = await conn.response()
    if response.status != 408 or took < IN_TIME:
        client.check(response, token, token)
    await client.hang_up()
    return 1


async def starves(client: Client) -> int:
    """A head, or a body, of which a byte comes now and then, until the server has had enough: 408."""
    conn = await client.connected()
    if client.turns % 2:
        conn.send(b"POST /digest HTTP/1.1\r\n" + _H + b"Content-Length: 100\r\n\r\n")
    else:
        conn.send(b"GET /small HTTP/1.1\r\n")

    async def on_and_on() -> None:
        while True:
            conn.send(b"x")
            await asyncio.sleep(0.25)

    dripping = asyncio.create_task(on_and_on())
    try:
        response = await conn.response()
    finally:
        dripping.cancel()
    if response.status != 408:
        raise Wrong(f"{response.status} and not 408: {response.body[:200]!r}")
    await client.hang_up()
    return 1


async def resets(client: Client) -> int:
    """A request that is cut off somewhere, or its response, by a reset or an end."""
    conn = await client.connected(narrow=client.turns % 2 == 1)
    token = client.token()
    path = random.choice(("/small", "/big", "/streamed", "/file", "/blocks"))
    request = random.choice(
        (
            get(path, token),
            b"POST /digest?%s HTTP/1.1\r\nHost: soak\r\nContent-Length: 300000\r\n\r\n" % token
            + bytes(200_000),
            b"POST /digest?%s HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n" % token
            + b"4000\r\n"
            + bytes(16384)
            + b"\r\n4000\r\n",
            get("/events", token, b"Accept: text/event-stream"),
        )
    )
    conn.send(request[: random.choice((len(request), random.randrange(1, len(request))))])
    if random.random() < 0.7:
        await asyncio.sleep(random.random() * 0.1)
        try:
            async with asyncio.timeout(0.2):
                await conn.reader.read(random.choice((1, 1000, 50_000)))
        except TimeoutError:
            pass
    if random.random() < 0.7:
        client.drop()
    else:
        await client.hang_up()
    return 1


async def says_nothing(client: Client) -> int:
    """A connection that is only open, until the server closes it."""
    conn = await client.connected()
    if data := await conn.end():
        raise Wrong(f"{data[:60]!r} for a client that has said nothing")
    await client.hang_up()
    return 1


async def half_closes(client: Client) -> int:
    """A request with the end behind it: it is answered, and nothing comes after."""
    token = client.token()
    conn = await client.connected()
    conn.send(get("/small", token))
    conn.writer.write_eof()
    client.check(await conn.response(), token, token)
    if await conn.end():
        raise Wrong("something came behind the answer")
    await client.hang_up()
    return 1


async def bad_frames(client: Client) -> int:
    """A WebSocket client that errs, and is told how: 1002, 1007, 1009."""
    data, code = (
        (wire.frame(wire.TEXT, b"hello", masked=False), 1002),
        (wire.frame(wire.TEXT, b"\xff\xfe"), 1007),
        (b"\x82\xff" + (1 << 30).to_bytes(8) + bytes(4), 1009),
        (b"\x8b\x80" + bytes(4), 1002),
        (b"\xf1\x80" + bytes(4), 1002),
    )[client.turns % 5]
    conn = await client.connected()
    await conn.shake_hands("/small")
    conn.send(data)
    opcode, payload = await conn.frame()
    got = int.from_bytes(payload[:2])
    if opcode == wire.CLOSE and got == 1012:
        raise Wrong("1012: the server closed the WebSocket")
    if opcode != wire.CLOSE or got != code:
        raise Wrong(f"opcode {opcode}, code {got} and not {code}")
    client.drop()
    return 1


async def half_a_handshake(client: Client) -> int:
    """To a port that speaks TLS: plain HTTP (400), rubbish, or a handshake that does not go on."""
    conn = client.conn = await Connection.open(client.port, None)
    case = client.turns % 4
    if case == 0:
        conn.send(get("/small", client.token()))
        await _refused(conn, 400, "HTTP to HTTPS")
    else:
        conn.send((b"", random.randbytes(200), _HELLO[:60], _HELLO[:5])[case])
        if case > 1 and random.random() < 0.5:
            await asyncio.sleep(0.05)
            client.drop()
            return 1
        try:
            await conn.end()  # an alert, or nothing: what counts is that it ends
        except ConnectionResetError:
            pass
    await client.hang_up()
    return 1
