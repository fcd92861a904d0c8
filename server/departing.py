"""What a queue knows of who hands its idle connections to other children: the protocol, ``handover`` has the thing."""

from __future__ import annotations

from typing import Protocol

from .connection import Connection


class Departing(Protocol):
    """Hands idle connections to other children while this one drains (``handover``). For any thread."""

    def wants(self, conn: Connection) -> bool:
        """Whether ``conn`` shall leave as soon as it is idle, so that its response need not say that it closes."""

    def takes(self, conn: Connection) -> bool:
        """Take over ``conn`` from its owner, who is about to park it, if it may leave now."""
