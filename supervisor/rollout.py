"""How one generation follows another: begun, promoted, given up, or refused before it began.

Promises: whatever goes wrong in a reload leaves what serves as it was; whoever asked for it hears how it ended;
a listening socket whose address stays in the configuration stays open. Refuses to decide when (policy.py).

Owned by the master's only thread.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence

import setproctitle

from ..config import ConfigError, ServerConfig
from ..config.logs import setup_logging
from ..config.machine import shortfalls
from . import fd_store, policy, reports
from .actions import AskToDrain
from .admin import Admin
from .control import Control
from .crew import Crew
from .listeners import Access, Listener, ListenError, Listeners
from .notify import Notifier
from .outside import Outside, admin_addresses
from .privileges import Identity, PrivilegeError, resolve
from .roster import Generation, Outcome, Roster
from .watching import Watching

logger = logging.getLogger("serverd.master")


class Rollout:
    """See the module. `config` is what the master goes by: that of the generation that serves, else of the first.

    `reload_config` reads the configuration again and raises ConfigError. `last` is how the last reload ended, with
    the time on the wall's clock.
    """

    def __init__(
        self,
        config: ServerConfig,
        reload_config: Callable[[], ServerConfig],
        roster: Roster,
        listeners: Listeners,
        crew: Crew,
        watching: Watching,
        notifier: Notifier,
        control: Control,
        outside: Outside,
        admin: Admin,
    ) -> None:
        self.config = config
        self.succeeded = 0
        self.failed = 0
        self.last: tuple[bool, str, float] | None = None
        self._asked: list[Outcome] = []  # who waits for the generation that boots
        self._reload_config = reload_config
        self._roster = roster
        self._listeners = listeners
        self._crew = crew
        self._watching = watching
        self._notifier = notifier
        self._control = control
        self._outside = outside
        self._admin = admin
        self._warned: set[str] = set()  # what the machine does not allow

    def start(self, identity: Identity | None, asked: Sequence[Outcome] = ()) -> None:
        """The first generation."""
        self._asked += asked
        self._notifier.starting("booting", self.config.timeouts.boot)
        self._roster.begin(self.config, identity, "start", time.monotonic())
        self._watching.configure(self.config, identity)
        self._admin.configure(self.config, identity)

    def promote(self) -> None:
        """The booting generation is ready: it serves from now on, and the others drain."""
        before = self._roster.current
        generation = self._roster.promote()
        self.config = generation.config
        if "*" in self.config.proxy.trusted and (before is None or "*" not in before.config.proxy.trusted):
            logger.warning("%s", reports.TRUSTS_EVERYBODY)
        for name in self._listeners.keep_only(generation.config.listen):
            logger.info("no longer listening on %s", name)
        self._admin.configure(generation.config, generation.identity)
        if before is not None:
            self._follow(before.config, generation)
        for action in policy.decide(self._roster, time.monotonic()).actions:
            if isinstance(action, AskToDrain):  # the old children hear of it before anybody else does
                self._crew.drain(action)
        line = reports.is_ready(generation, self._crew.threads, time.monotonic() - generation.began)
        logger.info("%s", line)
        self._notifier.ready(line)
        fd_store.keep(self._listeners, self._notifier)
        self._ended(True, line, self._waiting(), reload=before is not None)

    def give_up(self) -> int | None:
        """The booting generation has failed. The exit status of the daemon, if nothing else serves."""
        failed = self._roster.give_up()
        assert failed.failure is not None
        if self._roster.current is None:
            logger.error("nothing to serve: generation %d cannot boot", failed.number)
            self._ended(False, failed.failure.error, self._waiting(), reload=False)
            return failed.failure.status
        self._keep_sockets()
        self._failed((), failed.failure.error, asked=self._waiting())
        return None

    def begin(self) -> None:
        """Answer the request for a new generation."""
        request, self._roster.request = self._roster.request, None
        assert request is not None
        began = time.monotonic()
        logger.info("reload: %s", request.cause)
        if self._roster.current is not None:
            self._notifier.reloading(f"reload: {request.cause}", self.config.timeouts.boot)
        try:
            config = self._reload_config()
            identity = resolve(config.process)
            self._control.open(config)
            opened = self._open(config, identity)
        except (ConfigError, ListenError, PrivilegeError) as error:
            self._failed(str(error).splitlines(), asked=request.asked)
            return
        except Exception as error:  # noqa: BLE001 - whatever a file can do to its reader: what serves is not touched
            self._failed([f"the configuration cannot be read: {error!r}"], asked=request.asked)
            return
        self._asked += request.asked
        for listener in opened:
            logger.info("%s", reports.is_listening(listener, config))
        self.warn(config)
        self._roster.begin(config, identity, request.cause, began)
        self._keep_sockets()

    def warn(self, config: ServerConfig) -> None:
        """Say what the machine does not allow of `config`, if that is news."""
        found = set(shortfalls(config))
        for line in sorted(found - self._warned):
            logger.warning("%s", line)
        self._warned = found

    def _open(self, config: ServerConfig, identity: Identity | None) -> list[Listener]:
        """The sockets that `config` asks for and that were not open. Raises ListenError, with none of them open."""
        access = Access.of(config.process.umask, identity)
        opened = self._listeners.open(config.listen, config.limits.backlog, access)
        try:
            self._outside.open_admin(config, access)
        except ListenError:
            self._keep_sockets()
            raise
        return opened

    def _keep_sockets(self) -> None:
        """Close those that no generation asks for which serves or boots."""
        configs = [generation.config for generation in self._roster.generations()]
        self._listeners.keep_only(address for config in configs for address in config.listen)
        configs.append(self.config)  # the admin process goes by it
        self._outside.admin.keep_only(address for config in configs for address in admin_addresses(config))

    def abandon(self, line: str) -> None:
        """The server stops: nobody needs to wait any more."""
        request, self._roster.request = self._roster.request, None
        for outcome in [*self._waiting(), *(request.asked if request is not None else ())]:
            outcome(False, line)

    def _follow(self, before: ServerConfig, generation: Generation) -> None:
        """What of the configuration the master itself goes by, now that `generation` serves."""
        config = generation.config
        self._control.follow(config)
        setup_logging(config.logging, process="master", stream=sys.stderr)
        setproctitle.setproctitle(reports.master_title(config))
        self._watching.configure(config, generation.identity)
        if before.process.pidfile != config.process.pidfile:
            logger.warning("process.pidfile has changed, and counts from the next start on")

    def _failed(self, problems: Sequence[str], reason: str = "", *, asked: Sequence[Outcome]) -> None:
        """Say so. `problems`: lines that were not logged yet; `reason`: what was; `asked`: who hears of it."""
        self._control.keep_only(self.config)
        for problem in problems:
            logger.error("%s", problem)
        line = "reload failed"
        if self._roster.current is not None:
            serves = "still serving" if self._roster.ready(self._roster.current) else "no child serves of"
            line += f": {serves} generation {self._roster.current.number}"
        logger.error("%s", line)
        if self._roster.current is not None:
            self._notifier.ready(line)
        self._ended(False, "; ".join(problems) or reason or line, asked, reload=True)

    def _waiting(self) -> list[Outcome]:
        """Who waits for the generation that boots, to be told once."""
        asked, self._asked = self._asked, []
        return asked

    def upgraded(self, ok: bool, line: str) -> None:
        """An upgrade was tried: one that failed is, for who watches, as a reload that did."""
        if not ok:
            self.last = (False, line, time.time())
            self.failed += 1

    def _ended(self, ok: bool, line: str, asked: Sequence[Outcome], *, reload: bool) -> None:
        if reload:
            self.last = (ok, line, time.time())
            self.succeeded += ok
            self.failed += not ok
        for outcome in asked:
            outcome(ok, line)
