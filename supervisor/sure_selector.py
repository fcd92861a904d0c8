"""The master's selector: whatever is registered is watched, if not now then a moment later.

epoll_ctl(2) needs memory (ENOMEM) and a watch (ENOSPC) for each descriptor, and both can be short just when a child has
been forked: it would live on, and never be heard nor buried. Promises: `register` and `modify` do not fail for that;
what the kernel could not take is tried again before each wait, which is short as long as something is missing. Refuses
poll(2), which needs none of that: it fails altogether where there are more descriptors than RLIMIT_NOFILE allows, and
that may have been lowered since they were opened.

Owned by the master's only thread.
"""

from __future__ import annotations

import errno
import selectors
from typing import Any, Final

_SHORT: Final = frozenset({errno.ENOMEM, errno.ENOSPC})
# Between two tries, in seconds.
AGAIN: Final = 0.1


class SureSelector(selectors.EpollSelector):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._missing: set[int] = set()  # descriptors that the kernel does not watch yet

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As the base; what cannot be watched now will be."""
        try:
            return super().register(fileobj, events, data)
        except OSError as error:
            if error.errno not in _SHORT:
                raise
        key = selectors._BaseSelectorImpl.register(self, fileobj, events, data)
        self._missing.add(key.fd)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As the base."""
        key = super().unregister(fileobj)
        self._missing.discard(key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As the base; what cannot be watched now will be."""
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the base; nothing, a moment later, while something is not watched."""
        for fd in list(self._missing):
            key = self.get_map()[fd]
            self.unregister(fd)
            self.register(key.fileobj, key.events, key.data)
        if self._missing:
            timeout = AGAIN if timeout is None else min(timeout, AGAIN)
        return super().select(timeout)
