"""A client connection that speaks TLS (RFC 8446, RFC 5246), with the standard library's ssl between two memory buffers.

Promises: no step of it waits: a handshake goes on when the client has sent more, as reading and writing do, and holds
no thread in between. ``recv`` gives all plaintext that the received bytes hold, so that none hides in OpenSSL's buffers
where epoll does not see it. ``goodbye`` sends close_notify, and it is called only where a response is complete, or no
request has come: a response that was cut has none, so the client knows (RFC 8446 6.1). A request's end of stream needs
no such care, as the framing of its body decides whether it is complete. Refuses: plain HTTP, with an answer in plain
HTTP (ProtocolError, status 400).

Threads: as for every ``Connection``: its owner's. The SSLObject and its buffers are part of it; the SSLContext is
shared, and has a lock of its own in CPython.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from .connection import SINCE, Address, Connection, Server
from .http.events import ProtocolError
from .phases import Phase
from .tls_names import distinguished_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

logger = logging.getLogger("serverd.worker")

# The largest plaintext of a record (RFC 8446 5.1). One SSL_read gives what is left of one record, so that a read of
# this size leaves nothing of it behind.
RECORD: Final = 16 * 1024
# What a received piece has beside its plaintext: 22 bytes for each record of TLS 1.3, 29 for TLS 1.2 with AES-GCM.
_OVERHEAD: Final = 512
# So much is encrypted at a time; the rest waits as it is. A memory BIO keeps the size that it once had, so a response
# of 50 MB that was encrypted at once would cost its connection 50 MB for as long as it lives.
PIECE: Final = 128 * 1024
# What may wait for a client that sends but does not read, beside responses: it can ask for key updates without end.
_UNREAD: Final = 64 * 1024
# What a handshake takes from the kernel at a time: a ClientHello has 0.3 to 2 KiB, a client's certificates a few more.
_FLIGHT: Final = 16 * 1024

_HANDSHAKE_RECORD: Final = 0x16  # RFC 8446 5.1
_RECORD_BEGIN: Final = b"\x16\x03"
_PLAIN: Final = "this port speaks HTTPS: use https:// in the address"

_receive = socket.socket.recv


class Served(Protocol):
    """What connections are made with at one moment."""

    context: ssl.SSLContext

    def certificate(self, context: ssl.SSLContext) -> str | None:
        """The certificate that this context serves, as PEM, if it is known. Any thread."""

    def suites(self) -> Mapping[str, int]:
        """The numbers of the cipher suites by OpenSSL's names. Any thread."""


class Source(Protocol):
    """Where a connection that begins its handshake finds what it needs. All of it for any thread."""

    @property
    def current(self) -> Served:
        """What is served now."""

    def failed(self, peer: Address | None, reason: str) -> None:
        """A handshake failed: log it, if that does not flood the log."""


class TlsConnection(Connection):
    """See the module."""

    __slots__ = (
        "_agreed",
        "_extension",
        "_incoming",
        "_outgoing",
        "_read",
        "_served",
        "_source",
        "_tls",
        "_write",
        "partial",
    )

    def __init__(
        self,
        number: int,
        family: int,
        fd: int,
        peer: Address | None,
        local: Server | None,
        now: float,
        source: Source,
    ) -> None:
        super().__init__(number, family, fd, peer, local, now)
        self.secure = True
        self.phase = Phase.HANDSHAKE
        self._source = source
        self._tls: ssl.SSLObject | None = None  # from the first record on; until then it is in `inbox`
        self._agreed = False  # the handshake is done
        self.partial = False  # bytes of the client are with OpenSSL, and are no plaintext yet
        self._extension: dict[str, Any] | None = None

    # -- the handshake -----------------------------------------------------------------------------------------------

    def shake_hands(self) -> bool:
        """One step of the handshake: True when it is done and the phase is HEAD; what came behind is for ``recv``.

        Raises ProtocolError for a client that speaks plain HTTP, EOFError when it left, ssl.SSLError (an OSError) when
        there will be no connection and the client has been told so, OSError.
        """
        if not self.flush():
            return False
        if not self._agreed:
            try:
                data = _receive(self, _FLIGHT)
            except BlockingIOError:
                return False
            if not data:
                raise EOFError
            if self._tls is None:
                # OpenSSL takes 46 KiB for a handshake from its first byte on, this takes what has come.
                data = self.inbox + data
                if _is_part_of_a_record(data):
                    self.inbox = data
                    return False
                self.inbox = b""
                self._begin(data[0])
            self._incoming.write(data)
            if not self._step():
                return False
            if self.out is not None:  # the end of our part, session tickets, is not sent yet
                return False
        self.move(Phase.HEAD)
        self.numbers[SINCE] = 0.0
        return True

    def _begin(self, first: int) -> None:
        if first != _HANDSHAKE_RECORD and chr(first).isalpha():
            raise ProtocolError(400, _PLAIN)
        served = self._source.current
        self._served = served
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.partial = True
        self._tls = tls = served.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._read = tls.read
        self._write = tls.write

    def _step(self) -> bool:
        """Let OpenSSL go on with what has come. True when the handshake is done on our side."""
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._push()
            return False
        except ssl.SSLError as error:
            self._source.failed(self.peer, _reason(error))
            self._push_last()
            raise
        self._agreed = True
        self.partial = False
        self._push()
        return True

    # -- bytes -------------------------------------------------------------------------------------------------------

    def recv(self, size: int = RECORD, flags: int = 0) -> bytes:
        """All plaintext that is there, perhaps more than ``size``; b"" when the client sends no more.

        Raises BlockingIOError when there is none now, ssl.SSLError (an OSError) for what is no TLS, OSError.
        """
        if self._tls is None:
            return _receive(self, size, flags)
        plain = self._decrypt(size)
        if not plain and self.phase in (Phase.IDLE, Phase.HEAD):
            self.goodbye()  # between two requests it is the end of the connection (RFC 8446 6.1)
        return plain

    def _decrypt(self, size: int) -> bytes:
        """See ``recv``."""
        incoming = self._incoming
        if not incoming.pending:
            data = _receive(self, size + _OVERHEAD)
            if not data:
                return b""
            self.rearm = self.rearm or len(data) >= size  # there may be more
            incoming.write(data)
        self.partial = False
        try:
            plain = self._read(RECORD)
            if incoming.pending or not plain:
                plain = self._read_on(plain)
        except ssl.SSLZeroReturnError:  # as b"", where our own close_notify is sent
            plain = self._read_on(b"")
        except ssl.SSLWantReadError:
            self.partial = True
            if self._outgoing.pending:
                self._push()
            raise BlockingIOError(errno.EAGAIN, "no whole record is here yet") from None
        except ssl.SSLError:
            self._push_last()
            raise
        if self._outgoing.pending:
            self._push()
        return plain

    def _read_on(self, plain: bytes) -> bytes:
        """``plain`` and what further records hold, perhaps the client's close_notify: then ``plain`` may be b""."""
        pieces = [plain]
        while pieces[-1] and self._incoming.pending:
            try:
                piece = self._read(RECORD)
            except ssl.SSLWantReadError:
                self.partial = True
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            pieces.append(piece)
        if not pieces[-1]:
            # What the kernel says about the socket has to be "the end" from now on, too: the client may leave TCP open,
            # and nobody would look at it again.
            try:
                self.shutdown(socket.SHUT_RD)
            except OSError:
                pass
        return b"".join(pieces)

    def transmit(self, data: bytes) -> bool:
        """Encrypt and send ``data`` behind what already waits. True if the kernel took everything. Raises OSError."""
        if self._tls is None:
            return super().transmit(data)
        if self.out is not None:
            # Behind what is encrypted already; its own turn comes in `_send_later`.
            if self.later is None:
                self.later = deque()
            self.later.extend(_pieces(data))
            return False
        if len(data) > PIECE:
            return self.transmit_all([data])
        done = self._write(data)
        while done < len(data):  # one record each
            done += self._write(memoryview(data)[done:])
        return super().transmit(self._outgoing.read())

    def transmit_all(self, pieces: Iterable[bytes]) -> bool:
        """As the base's, in pieces that are encrypted at once."""
        return super().transmit_all(part for piece in pieces for part in _pieces(piece))

    def has_data(self) -> bool:
        """Whether the client has sent something that is not a request yet."""
        if self.partial or (self._tls is not None and self._incoming.pending):
            return True
        try:
            return bool(_receive(self, 1, socket.MSG_PEEK))
        except OSError:
            return False

    # -- what OpenSSL has to say by itself ---------------------------------------------------------------------------

    def _push(self) -> None:
        """Send what OpenSSL wants to send: its part of the handshake, or a key update. Raises OSError."""
        data = self._outgoing.read()
        if self.out is not None:
            self.out = memoryview(bytes(self.out) + data)
            if len(self.out) > _UNREAD + PIECE:
                raise OSError(errno.ENOBUFS, "the client does not read")
        elif data:
            super().transmit(data)

    def _push_last(self) -> None:
        """Send an alert, if that is possible at once: the connection is closed next."""
        if self.out is None and self._outgoing.pending:
            try:
                self.send(self._outgoing.read())
            except OSError:
                pass

    def goodbye(self) -> None:
        """Send close_notify, if everything before it has been sent. Raises nothing."""
        tls = self._tls
        if tls is None or self.out is not None:
            return
        try:
            tls.unwrap()
        except (
            OSError
        ):  # SSLWantReadError: the client's own has not come, and nobody waits for it (RFC 8446 6.1)
            pass
        self._push_last()

    # -- what applications are told ----------------------------------------------------------------------------------

    def tls_extension(self) -> dict[str, Any]:
        """The ASGI extension "tls" (ASGI TLS extension 0.2): the caller's own copy. After the handshake."""
        if self._extension is None:
            self._extension = self._describe()
        known = self._extension
        return known | {"client_cert_chain": list(known["client_cert_chain"])}

    def _describe(self) -> dict[str, Any]:
        tls = self._tls
        assert tls is not None
        peer: Any = tls.getpeercert()
        chain: list[bytes] = []
        if peer:
            # A resumed session keeps the certificate, and not the chain by which it was verified.
            chain = tls.get_verified_chain() or [tls.getpeercert(True) or b""]
        cipher = tls.cipher()
        return {
            "server_cert": self._served.certificate(tls.context),
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der) for der in chain],
            "client_cert_name": distinguished_name(peer["subject"]) if peer else None,
            # A certificate that cannot be verified ends the handshake: no application ever sees one.
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(tls.version() or ""),
            "cipher_suite": None if cipher is None else self._served.suites().get(cipher[0]),
        }


def _is_part_of_a_record(data: bytes) -> bool:
    """Whether ``data`` may become a record of a handshake (RFC 8446 5.1: type, 3, 3, length), and is none."""
    if len(data) < 5:
        return data[0] == _HANDSHAKE_RECORD
    length = int.from_bytes(data[3:5])
    return data[:2] == _RECORD_BEGIN and len(data) < 5 + length <= 5 + RECORD


def _pieces(data: bytes) -> list[bytes]:
    """``data`` in pieces that are encrypted at once, not copied."""
    if len(data) <= PIECE:
        return [data]
    view = memoryview(data)
    return [cast("bytes", view[at : at + PIECE]) for at in range(0, len(data), PIECE)]


_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
