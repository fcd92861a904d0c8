"""AppRunner: exceptions that are themselves broken are answered and logged like all others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.config import ServerConfig, WorkersConfig

from .support.apps import Receive, Send, reply
from .support.daemon import wait_until
from .support.workers import ENGINES, engine, serving

LIVE = ServerConfig(app="test:app", workers=WorkersConfig(async_paths=("/live",)))


@pytest.fixture(params=ENGINES, autouse=True)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with engine(request.param):
        yield


class Unspeakable(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["path"].endswith("/ok"):
        await reply(send, b"ok")
        return
    if scope["path"].endswith("/later"):
        await asyncio.sleep(0)
    if scope["path"].endswith("/answered"):
        await reply(send, b"answered")
    raise Unspeakable


@pytest.mark.parametrize("folder", ["", "/live"])
@pytest.mark.parametrize(("path", "status"), [("/now", 500), ("/later", 500), ("/answered", 200)])
def test_an_exception_without_words_is_answered(
    folder: str, path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(app, config=LIVE, home=True) as served, served.connect() as client:
        assert client.get(folder + path).status == status
        with served.connect() as other:
            assert other.get(f"{folder}/ok").body == b"ok"
        if status == 200:
            assert client.get(f"{folder}/ok").body == b"ok"
        wait_until(served.is_idle)
    assert "Unspeakable" in caplog.text
