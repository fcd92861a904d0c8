"""What the commands of the control socket do: each request to the master's hands, and its outcome to who asked.

Promises: every request gets exactly one last line; a command that changes something is in the log, with who gave it;
what cannot be done changes nothing. Refuses to do anything that signals cannot do too, but for what needs an answer.

Owned by the master's only thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .board import Board
from .control import Reply
from .control_lines import MOST_CHILDREN, Request
from .orders import Orders
from .roster import Outcome, Roster, Urgency
from .stack_rounds import StackRounds
from .status import status

logger = logging.getLogger("serverd.master")


class Commands:
    """See the module. `facts`: what the master publishes of itself now."""

    def __init__(
        self,
        roster: Roster,
        orders: Orders,
        rounds: StackRounds,
        board: Board,
        facts: Callable[[], dict[str, Any]],
    ) -> None:
        self._roster = roster
        self._orders = orders
        self._rounds = rounds
        self._board = board
        self._facts = facts
        self._end: list[Reply] = []  # who waits for it

    def answer(self, request: Request, reply: Reply) -> None:
        """Do what `request` asks for."""
        match request.do:
            case "status":
                reply.succeed(status=status(self._facts(), self._board))
            case "stacks":
                self._rounds.begin(reply)
            case "stop":
                self._stop(request, reply)
            case _ if self._roster.stopping:
                reply.fail("serverd is stopping")
            case "upgrade":
                self._upgrade(request, reply)
            case _ if (busy := self._orders.busy()) is not None:
                reply.fail(busy)
            case "reload":
                self._reload(request, reply)
            case "scale":
                self._scale(request, reply)

    def close(self) -> None:
        """Nobody is left: tell those who wait for that."""
        for reply in self._end:
            reply.succeed()

    def _stop(self, request: Request, reply: Reply) -> None:
        logger.info("%s", _cause(request, reply))
        if request.fields.get("wait"):
            reply.event("taken")
            self._end.append(reply)
        else:
            reply.succeed()
        self._orders.stop(Urgency.FAST if request.fields.get("fast") else Urgency.GRACEFUL)

    def _reload(self, request: Request, reply: Reply) -> None:
        asked: tuple[Outcome, ...] = ()
        if request.fields.get("wait"):
            reply.event("taken")
            asked = (_teller(reply),)
        else:
            reply.succeed()
        self._roster.ask_reload(_cause(request, reply), newer_code=False, asked=asked)

    def _scale(self, request: Request, reply: Reply) -> None:
        by, now = request.fields.get("by", 0), self._roster.wanted
        if by > 0 and now + by > MOST_CHILDREN:
            reply.fail(
                f"{now} and {by} more would be {now + by} children, and {MOST_CHILDREN} are the most that may be wanted"
            )
            return
        cause = _cause(request, reply)
        if "to" in request.fields:
            wanted = self._orders.scale_to(request.fields["to"], cause)
        else:
            wanted = self._orders.scale(by, cause)
        reply.succeed(wanted=wanted)

    def _upgrade(self, request: Request, reply: Reply) -> None:
        wait = request.fields.get("wait", False)
        problem = self._orders.upgrade(_cause(request, reply), _teller(reply) if wait else None)
        if problem is not None:
            reply.fail(problem)
        elif wait:
            reply.event("taken")
        else:
            reply.succeed()


def _cause(request: Request, reply: Reply) -> str:
    return f"serverd {request.do} ({reply.who})"


def _teller(reply: Reply) -> Outcome:
    def tell(ok: bool, line: str) -> None:
        if ok:
            reply.succeed(line=line)
        else:
            reply.fail(line)

    return tell
