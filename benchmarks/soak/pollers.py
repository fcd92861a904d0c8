"""The clients of the mixed load that watch the daemons: the admin plane and the control socket, as monitoring would."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from .clients import Client, get
from .memory import Count
from .wire import Connection, Wrong

_PATHS: Final = ("/livez", "/readyz", "/startupz", "/metrics", "/status", "/")


async def admin_plane(client: Client) -> int:
    """One path of the admin plane after another, each on a connection of its own; they say 200."""
    path = _PATHS[client.turns % len(_PATHS)]
    conn = await client.connected()
    conn.send(b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
    response = await conn.response()
    if response.status != 200:
        raise Wrong(f"{path}: {response.status}: {response.body[:200].decode()}")
    if path == "/metrics" and b"serverd_requests_total" not in response.body:
        raise Wrong("metrics without the one that counts requests")
    if path == "/status":
        json.loads(response.body)
    await client.hang_up()
    return 1


def census(daemon: str, found: list[Count]) -> Callable[[Client], Awaitable[int]]:
    """What a child counts of its own memory, whichever answers; to `found`."""

    async def ask(client: Client) -> int:
        token = client.token()
        conn = await client.connected()
        conn.send(get("/census", token, b"Connection: close"))
        response = await conn.response()
        client.check(response, token, response.body)
        objects, blocks = map(int, response.body.split())
        found.append(Count(time.monotonic(), daemon, int(response.fields[b"x-pid"]), objects, blocks))
        await client.hang_up()
        return 1

    return ask


def control_socket(path: Path, requests: dict[int, int]) -> Callable[[Client], Awaitable[int]]:
    """`serverd status`, each time on a connection of its own; what each child has answered goes to `requests`."""

    async def ask(client: Client) -> int:
        began = time.monotonic()
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
        client.conn = Connection(reader, writer, began)
        writer.write(b'{"v": 1, "do": "status"}\n')
        answer = json.loads(await reader.readuntil(b"\n"))
        if not answer.get("ok"):
            raise Wrong(f"status: {answer}"[:200])
        requests.update({child["pid"]: child["requests"] for child in answer["status"]["children"]})
        await client.hang_up()
        return 1

    return ask
