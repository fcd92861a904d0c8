"""What a child has before its application starts: its place on the scoreboard, its queue of connections, its log.

Each function makes one thing out of the configuration, and is called once, by the child's main thread.
"""

from __future__ import annotations

import logging
import sys

from ..config import ServerConfig
from ..config.logs import resolve_format
from .access_log import AccessLog
from .arena import Papers
from .conn_queue import ConnectionQueue
from .conn_table import MakeConnection
from .connection import Connection
from .loop_queue import LoopQueue
from .per_address import PerAddress
from .process import places, standard_output
from .proxy.opening import expecting
from .slots import Scores, inherited
from .tls import TlsContexts

logger = logging.getLogger("serverd.worker")


def scores_of(papers: Papers) -> Scores:
    """What this child writes into; a child that cannot map it serves all the same, and nobody sees how."""
    try:
        return inherited(papers)
    except OSError as exc:
        logger.warning("no scoreboard: %s", exc.strerror)
        return Scores()


def queue_of(config: ServerConfig, scores: Scores) -> ConnectionQueue:
    """Where connections wait, without any listener yet. Raises BadCertificate."""
    make = LoopQueue if config.workers.mode == "async" else ConnectionQueue
    queue = make(
        config.timeouts,
        max_connections=places(config.limits.connections),
        make_connection=_connections(config),
        addresses=PerAddress.of(config, scores.refused),
    )
    queue.alone = config.workers.process_count() == 1
    return queue


def _connections(config: ServerConfig) -> MakeConnection:
    """What makes an accepted socket a connection. Raises BadCertificate."""
    make: MakeConnection = Connection if config.tls is None else TlsContexts(config.tls).connection
    return expecting(make) if config.proxy.protocol else make


def access_log_of(config: ServerConfig, index: int, generation: int) -> AccessLog | None:
    """The access log, which has begun; None if there shall be none, or nobody could read it."""
    if not config.logging.access or sys.stdout is None:
        return None
    form = resolve_format(config.logging.format, sys.stdout)
    log = AccessLog(form, f"worker {index} g{generation}", standard_output(), query=config.logging.query)
    log.start()
    return log
