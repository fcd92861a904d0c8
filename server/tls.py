"""TLS contexts: what `tls` of the configuration serves, chosen by server name, and loaded anew when its files change.

Promises: what is served is always a whole and working set; files that are broken, half-written or do not belong
together are named in the log, once, and the set of before stays; no connection notices a change. Refuses: to begin with
a broken set (BadCertificate), TLS 1.1 and older, renegotiation, compression.

Threads: `TlsContexts` is for all. A set (`_Served`) is never changed once it is there, and takes the place of the one
before in one assignment; one lock lets a single thread look at the files, and nobody waits for it.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..config import TlsConfig
from ..config.certificates import BadCertificate, load_authorities, load_pair, out_of_order, pairs, read_pair
from .conn_table import MakeConnection
from .connection import Address, Server
from .seldom import SeldomLog
from .tls_connection import TlsConnection
from .tls_groups import restrict_groups
from .tls_names import ignore_odd_names

logger = logging.getLogger("serverd.worker")

# Mozilla's "intermediate" profile 5.7 for TLS 1.2, without its suites of finite-field Diffie-Hellman: they need
# parameters of their own and ten times the work, for clients that know none of these, and it names none. The suites of
# TLS 1.3 are OpenSSL's; all three are in the profile.
CIPHERS: Final = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
# Seconds between two looks at the files: a stat of each costs some microseconds, and a renewal is in no hurry.
LOOK: Final = 1.0
# Seconds between two lines about failed handshakes: on a public address scanners make them all day.
QUIET: Final = 60.0

_Stamp = tuple[tuple[int, int, int] | None, ...]


def new_context(tls: TlsConfig, cert: Path, key: Path) -> tuple[ssl.SSLContext, str]:
    """A context that serves this pair, and its certificate as PEM. Raises BadCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    # Tickets keep a session over reconnects without memory here; a client that renegotiates costs us ten times what it
    # spends (CVE-2011-1473), and no browser does.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_ciphers(tls.ciphers or CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    restrict_groups(context)
    pem = load_pair(context, cert, key)
    if tls.client_ca is not None:
        load_authorities(context, tls.client_ca)
        context.verify_mode = _VERIFY[tls.client_cert]
    return context, pem


class _Served:
    """One set of certificates. `context` is the default one; its callback gives way to another by server name."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._pems: dict[ssl.SSLContext, str] = {}
        self._names: dict[str, ssl.SSLContext] = {}
        self._suites: dict[str, int] | None = None

    def add(self, context: ssl.SSLContext, pem: str, names: tuple[str, ...]) -> None:
        """A certificate, before anybody uses this set. A name that has one already keeps it."""
        self._pems[context] = pem
        for name in names:
            self._names.setdefault(name, context)
        if context is not self.context:
            ignore_odd_names()
            self.context.sni_callback = self._choose

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Called by OpenSSL with the server name of a ClientHello (RFC 6066 3). An unknown one gets the default."""
        if name is None:
            return
        name = name.lower()
        known = self._names
        # A wildcard stands for exactly one label (RFC 9525 6.3).
        context = known.get(name) or known.get(f"*.{name.partition('.')[2]}")
        if context is not None and context is not self.context:
            tls.context = context

    def certificate(self, context: ssl.SSLContext) -> str | None:
        return self._pems.get(context)

    def suites(self) -> Mapping[str, int]:
        # Two threads may make it at once: both make the same.
        if self._suites is None:
            self._suites = {suite["name"]: suite["id"] & 0xFFFF for suite in self.context.get_ciphers()}
        return self._suites


def _load(tls: TlsConfig) -> _Served:
    """All that `tls` names. Raises BadCertificate."""
    served: _Served | None = None
    now = time.time()
    for _, cert, key in pairs(tls):
        seen = read_pair(cert, key)
        if fault := out_of_order(seen, now):
            logger.warning("clients will refuse the certificate in %s: %s", cert, fault)
        context, pem = new_context(tls, cert, key)
        if served is None:
            served = _Served(context)
        served.add(context, pem, seen.names)
    assert served is not None
    return served


class TlsContexts:
    """See the module. `connection` makes connections for a ConnectionQueue."""

    def __init__(self, tls: TlsConfig) -> None:
        self._tls = tls
        self._files = [file for _, cert, key in pairs(tls) for file in (cert, key)]
        if tls.client_ca is not None:
            self._files.append(tls.client_ca)
        self._stamp = self._look_at_files()
        self.current = _load(tls)
        self._looking = threading.Lock()
        self._next_look = 0.0
        self._fault = ""  # what the log has said last about the files
        self.failed = FailureLog()

    def connection(
        self, number: int, family: int, fd: int, peer: Address | None, local: Server | None, now: float
    ) -> TlsConnection:
        """An accepted socket as a connection that will shake hands. Any thread. `now` is monotonic seconds."""
        if now >= self._next_look:
            self._look(now)
        return TlsConnection(number, family, fd, peer, local, now, self)

    def _look(self, now: float) -> None:
        """Load what has changed; for a thread that comes while another does, things are as they were."""
        if not self._looking.acquire(False):
            return
        try:
            self._next_look = now + LOOK
            # Before they are read: what changes after this line is a change that the next look will see.
            stamp = self._look_at_files()
            if stamp != self._stamp:
                self.current = _load(self._tls)
                self._stamp = stamp
                self._fault = ""
                logger.info("tls: the certificates have changed, and are in use from now on")
        except (
            BadCertificate
        ) as error:  # tried again at the next look: the fault may be ours, too many open files
            self._say(f"tls.{error.role}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the client that has just come is served
            self._say(f"tls: the changed files cannot be loaded: {error!r}")
        finally:
            self._looking.release()

    def _say(self, fault: str) -> None:
        """Name what is wrong with the changed files, once."""
        if fault != self._fault:
            self._fault = fault
            logger.warning("%s; what was loaded before stays in use", fault)

    def _look_at_files(self) -> _Stamp:
        return tuple(_stamp_of(file) for file in self._files)


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    """What tells one content of a file from the next. Links are followed, as certbot's `live` folder needs it."""
    try:
        seen = os.stat(file)
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


class FailureLog:
    """Handshakes that failed: each in the log at level debug, and at level info one line a minute at most.

    Any thread.
    """

    def __init__(self) -> None:
        self._say = SeldomLog(logger, logging.INFO, QUIET)

    def __call__(self, peer: Address | None, reason: str) -> None:
        """A handshake with `peer` failed for `reason`."""
        who = "a client" if peer is None else f"{peer[0]}:{peer[1]}"
        logger.debug("tls: no handshake with %s: %s", who, reason)
        self._say("tls: no handshake with %s: %s", who, reason)


class _One:
    """The source of a context that somebody else has made: never loaded anew."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.current = _Served(context)
        self.failed = FailureLog()


def tls_connections(context: ssl.SSLContext) -> MakeConnection:
    """Makes connections with this context, for a ConnectionQueue. The result is for any thread."""
    source = _One(context)

    def make(
        number: int, family: int, fd: int, peer: Address | None, local: Server | None, now: float
    ) -> TlsConnection:
        return TlsConnection(number, family, fd, peer, local, now, source)

    return make
