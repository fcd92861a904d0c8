"""Certificates for tests, made by an authority of our own that no machine trusts, and clients that use them.

Every client here notices a connection that ends without close_notify, as it is told not to pass over it.
"""

from __future__ import annotations

import datetime
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from .client import PATIENCE, RawClient

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Files(NamedTuple):
    """A certificate with its chain, and its key."""

    cert: Path
    key: Path

    def config(self) -> dict[str, str]:
        """As it is written in server.yaml."""
        return {"cert": str(self.cert), "key": str(self.key)}


class Authority:
    """Signs certificates into ``folder``. ``ca`` is its own, as a file."""

    def __init__(self, folder: Path, *, rsa: bool = False) -> None:
        self._kind = trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA
        self._authority = trustme.CA(key_type=self._kind)
        self._folder = folder
        self._made = 0
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(
        self,
        *names: str,
        person: str | None = None,
        until: datetime.datetime | None = None,
        to: Files | None = None,
    ) -> Files:
        """A new pair for these names, in new files or instead of those of ``to``."""
        made = self._authority.issue_cert(
            *names,
            common_name=person,
            organization_name="Shop, Inc." if person else None,
            key_type=self._kind,
            not_before=LONG_AGO if until is not None else None,
            not_after=until,
        )
        self._made += 1
        files = to or Files(self._folder / f"{self._made}.pem", self._folder / f"{self._made}.key")
        replace(files.cert, b"".join(blob.bytes() for blob in made.cert_chain_pems))
        replace(files.key, made.private_key_pem.bytes())
        return files

    def client(self, own: Files | None = None, **options: Any) -> ssl.SSLContext:
        """A client's context that trusts this authority. ``options`` are attributes of it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        if own is not None:
            context.load_cert_chain(own.cert, own.key)
        for name, value in options.items():
            setattr(context, name, value)
        return context


def replace(path: Path, data: bytes) -> None:
    """New content in one step."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.replace(path)


class TlsClient(RawClient):
    """A RawClient that speaks TLS. ``session``: resume this one."""

    sock: ssl.SSLSocket

    def __init__(
        self,
        address: tuple[str, int] | str,
        context: ssl.SSLContext,
        name: str | None = "localhost",
        *,
        session: ssl.SSLSession | None = None,
        **options: Any,
    ) -> None:
        super().__init__(address, **options)
        plain: socket.socket = self.sock
        try:
            self.sock = context.wrap_socket(
                plain, server_hostname=name, suppress_ragged_eofs=False, session=session
            )
        except BaseException:
            plain.close()
            raise

    def names(self) -> list[str]:
        """The DNS names of the certificate that the server has shown."""
        shown: Any = self.sock.getpeercert()
        return [value for kind, value in shown["subjectAltName"] if kind == "DNS"]


def handshake_fails(address: tuple[str, int], context: ssl.SSLContext, name: str = "localhost") -> str:
    """Why: the reason that this client gives. In TLS 1.3 a server refuses after the client's handshake is done."""
    try:
        with TlsClient(address, context, name) as client:
            client.get()
    except ssl.SSLError as error:
        return error.reason or str(error)
    raise AssertionError("the handshake did not fail")


class Drip:
    """A client end over memory buffers whose bytes the test sends as it likes: in pieces, late, changed."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, name: str = "localhost") -> None:
        self.sock = socket.create_connection(address, PATIENCE)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def __enter__(self) -> Drip:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def hello(self) -> bytes:
        """The ClientHello, not sent yet."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return self.outgoing.read()
        raise AssertionError("a handshake without a server")

    def shake_hands(self) -> bytes:
        """All of the handshake but its last flight, which is returned and not sent yet."""
        self.sock.sendall(self.hello())
        while True:
            self.incoming.write(self.sock.recv(65536))
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                if self.outgoing.pending:  # TLS 1.2: the server has the last word
                    return self.outgoing.read()
            else:
                return self.outgoing.read()

    def sealed(self, data: bytes) -> bytes:
        """``data`` as the records that carry it."""
        self.tls.write(data)
        return self.outgoing.read()

    def read(self) -> bytes:
        """What the server has sent next; b"" after its close_notify. Raises ssl.SSLEOFError if it left without."""
        while True:
            try:
                return self.tls.read()
            except ssl.SSLWantReadError:
                if data := self.sock.recv(65536):
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            except ssl.SSLZeroReturnError:
                return b""
