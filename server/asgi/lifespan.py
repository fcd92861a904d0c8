"""The ASGI lifespan of an application (ASGI lifespan spec 2.0), run once in each child, on its home loop.

Promises: ``startup`` returns when the application said it is complete, with the state it left; an application without
lifespan (it raises on the scope, as the specification asks) is served without one. Refuses: to serve an application
that said ``lifespan.startup.failed``, or that failed after it took part in the protocol (``LifespanFailed``).

Belongs to the home loop. ``state`` is read by the workers after startup, each request copying it; the objects in it are
shared by all threads, and their safety is the application's.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..app_loader import ASGIApp

logger = logging.getLogger("serverd.worker")


class LifespanFailed(Exception):
    """The application could not start. ``text`` is its traceback, or its message to ``lifespan.startup.failed``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.text = text


class Lifespan:
    """See the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self.supported = False
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Run the application's startup. Raises LifespanFailed."""
        loop = asyncio.get_running_loop()
        self._started = loop.create_future()
        self._stopped = loop.create_future()
        self._task = loop.create_task(self._run(), name="lifespan")
        await self._to_app.put({"type": "lifespan.startup"})
        await self._started

    async def shutdown(self) -> None:
        """Run the application's shutdown; its failure is logged."""
        if not self.supported or self._task is None or self._stopped is None or self._task.done():
            return
        await self._to_app.put({"type": "lifespan.shutdown"})
        await self._stopped

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        assert self._started is not None
        assert self._stopped is not None
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as exc:
            if self._started.done():
                if self.supported:
                    logger.exception("the application's lifespan ended with an exception")
            elif self._to_app.empty():
                # It took lifespan.startup, so it knows the protocol: its failure is one.
                text = traceback.format_exc()
                self._started.set_exception(LifespanFailed(f"{type(exc).__name__}: {exc}", text))
            else:
                logger.debug("the application has no lifespan: %r", exc)
        if not self._started.done():
            self._started.set_result(None)
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def _receive(self) -> dict[str, Any]:
        return await self._to_app.get()

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._started is not None
        assert self._stopped is not None
        kind = message["type"]
        text = message.get("message", "")
        if kind == "lifespan.startup.complete" and not self._started.done():
            self.supported = True
            self._started.set_result(None)
        elif kind == "lifespan.startup.failed" and not self._started.done():
            reason = text.strip().splitlines()[-1] if text.strip() else "lifespan.startup.failed"
            self._started.set_exception(LifespanFailed(reason, text))
        elif kind == "lifespan.shutdown.complete" and not self._stopped.done():
            self._stopped.set_result(None)
        elif kind == "lifespan.shutdown.failed" and not self._stopped.done():
            logger.error("the application's shutdown failed: %s", text or "no message given")
            self._stopped.set_result(None)
        else:
            raise RuntimeError(f"unexpected ASGI message type {kind!r} in the lifespan")
