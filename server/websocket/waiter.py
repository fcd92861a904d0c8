"""A future that an event loop's callback can finish and that lets its task go on in that same call.

asyncio wakes a task through the loop: ``set_result`` schedules a callback, which runs in the next turn, after another
look at the selector. For a message that arrives while its application waits in ``receive`` that turn is a good part
of the whole work (figures in docs/design-notes.md). Promises: ``wake`` runs the waiting task at once, in its own
context, up to its next wait; ``set_result`` and ``cancel`` work as ever. Refuses: more than one task waiting for one of
them; to be woken from inside a running task, where asyncio allows no second one to be entered: that is what
``set_result`` is for.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any


class Waiter(asyncio.Future[None]):
    """See the module."""

    _go_on: Callable[[asyncio.Future[None]], object] | None = None
    _in: Context | None = None

    def add_done_callback(  # type: ignore[override]  # typeshed has it take the subclass
        self, callback: Callable[[asyncio.Future[None]], object], /, *, context: Context | None = None
    ) -> None:
        """As asyncio's; the first one, which is the waiting task's, is kept for ``wake``."""
        if self._go_on is None and context is not None and not self.done():
            self._go_on, self._in = callback, context
        else:
            super().add_done_callback(callback, context=context)

    def wake(self) -> None:
        """Finish, and let the task go on now. Only from a callback of the loop."""
        if self.done():
            return
        go_on, context = self._go_on, self._in
        self._go_on = None
        super().set_result(None)
        if go_on is not None and context is not None:
            context.run(go_on, self)

    def set_result(self, result: None) -> None:
        """As asyncio's: the task goes on in the loop's next turn."""
        self._hand_back()
        super().set_result(result)

    def set_exception(self, exception: type | BaseException) -> None:
        """As asyncio's."""
        self._hand_back()
        super().set_exception(exception)

    def cancel(self, msg: Any = None) -> bool:
        """As asyncio's."""
        self._hand_back()
        return super().cancel(msg)

    def _hand_back(self) -> None:
        """Let asyncio have the task's callback after all."""
        go_on, self._go_on = self._go_on, None
        if go_on is not None and not self.done():
            super().add_done_callback(go_on, context=self._in)
