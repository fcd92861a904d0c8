"""What the files of `tls` hold: reading certificate pairs, and saying in one line what is wrong with them.

Promises: a pair that `read_pair` returns can be served: it was loaded, and a TLS handshake was made with it, in memory,
which is also how its names and dates are read (the standard library gives them of a peer's certificate only). A pair
that cannot be served raises BadCertificate, which names the file and the remedy; an encrypted key is one of them, never
a prompt. Refuses: to judge whom clients will trust; that is theirs.

Nothing here keeps state; safe from any thread. Used by `checks` when a configuration is loaded, and by the server when
it loads certificates, also those that have changed.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from .model import TlsConfig

Role = Literal["cert", "key", "client_ca"]

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+?-----END CERTIFICATE-----")
_KEY: Final = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_END: Final = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
# X509_V_FLAG_NO_CHECK_TIME (x509_vfy.h, OpenSSL 1.1.0 on): an expired certificate is read all the same.
_NO_CHECK_TIME: Final = 0x200000
# How often each side of a handshake has its turn: TLS 1.2 needs two, and one more costs nothing.
_FLIGHTS: Final = 3
# More than any chain needs; a path to something else (a device, a log) is not read whole.
_LARGEST: Final = 1024 * 1024


class BadCertificate(Exception):
    """`str()` is one line for a person; `role` says which of the files it is about."""

    def __init__(self, role: Role, message: str) -> None:
        super().__init__(message)
        self.role: Role = role


class Certificate(NamedTuple):
    """What a pair turned out to be. `names` are the DNS names it is for, lower-case, wildcards as they stand; the
    dates are seconds since 1970; `refused` is why a client that trusts it would refuse it all the same, or empty."""

    pem: str
    names: tuple[str, ...]
    not_before: float
    not_after: float
    refused: str


def read_text(role: Role, file: Path) -> str:
    """The text of a PEM file. Raises BadCertificate when it cannot be read."""
    try:
        with open(file, encoding="ascii", errors="replace") as stream:
            return stream.read(_LARGEST)
    except FileNotFoundError:
        raise BadCertificate(role, f"no such file: {file}") from None
    except PermissionError:
        raise BadCertificate(role, f"may not be read by {_whoever()}: {file}") from None
    except OSError as error:
        raise BadCertificate(role, f"cannot be read: {file}: {error.strerror}") from None


def _whoever() -> str:
    """The user of this process: with process.user it is not who looks at the file in a shell."""
    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user {os.geteuid()}"


def load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> str:
    """Load the pair into `context`; the certificate itself, as PEM. Raises BadCertificate.

    A context for which this failed must not be used any more.
    """
    text = read_text("cert", cert)
    found = _CERTIFICATE.findall(text)
    if len(found) < text.count(_BEGIN):
        raise BadCertificate("cert", f"the certificate is cut short: {cert}")
    if not found:
        raise BadCertificate("cert", f"holds no certificate in PEM form: {cert}")
    _look_at_key(key)

    def never_asked() -> str:
        raise BadCertificate(
            "key", f"the key is encrypted: {key}; decrypt it: openssl pkey -in {key.name} -out NEW"
        )

    try:
        context.load_cert_chain(cert, key, never_asked)
    except ssl.SSLError as error:
        raise _explained(error, cert, key) from None
    except OSError as error:  # between our look at it and OpenSSL's it has gone
        raise BadCertificate("cert", f"cannot be read: {cert}: {error.strerror}") from None
    return str(found[0])


def _look_at_key(key: Path) -> None:
    text = read_text("key", key)
    if not _KEY.search(text):
        raise BadCertificate("key", f"holds no private key in PEM form: {key}")
    if not _KEY_END.search(text):
        raise BadCertificate("key", f"the private key is cut short: {key}")


def _explained(error: ssl.SSLError, cert: Path, key: Path) -> BadCertificate:
    reason = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        return BadCertificate("key", f"{key} is not the key of the certificate in {cert}")
    if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
        why = reason.replace("_", " ").lower()
        return BadCertificate("cert", f"{cert} is too weak for this machine's OpenSSL: {why}")
    try:  # "PEM lib" says nothing about which of the two it is
        for block in _CERTIFICATE.findall(read_text("cert", cert)):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=ssl.PEM_cert_to_DER_cert(block)
            )
    except ssl.SSLError, ValueError:
        return BadCertificate("cert", f"is damaged or not complete: {cert}")
    return BadCertificate("key", f"is damaged or of a kind that OpenSSL does not know: {key}")


def read_pair(cert: Path, key: Path) -> Certificate:
    """Load a pair and look at its certificate. Raises BadCertificate. About 3 ms."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = load_pair(context, cert, key)
    refused = ""
    try:
        known = _seen_by_a_client(context, pem)
    except ssl.SSLCertVerificationError as error:
        known, refused = {}, error.verify_message
    except ssl.SSLError as error:
        raise BadCertificate("cert", f"no handshake is possible with {cert}: {error.reason}") from None
    names = tuple(value.lower() for kind, value in known.get("subjectAltName", ()) if kind == "DNS")
    return Certificate(
        pem,
        names,
        _seconds(known.get("notBefore", ""), float("-inf")),
        _seconds(known.get("notAfter", ""), float("inf")),
        refused,
    )


def _seen_by_a_client(server: ssl.SSLContext, pem: str) -> dict[str, Any]:
    """What a client that trusts exactly this certificate learns about it in a handshake."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    client.load_verify_locations(cadata=ssl.PEM_cert_to_DER_cert(pem))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(_FLIGHTS):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return theirs.getpeercert() or {}


def _seconds(text: str, otherwise: float) -> float:
    try:
        return ssl.cert_time_to_seconds(text)
    except ValueError:
        return otherwise


def pairs(tls: TlsConfig) -> Iterator[tuple[tuple[str | int, ...], Path, Path]]:
    """Every pair of files with the path of its keys below `tls`, the default first."""
    yield (), tls.cert, tls.key
    for index, pair in enumerate(tls.certificates):
        yield ("certificates", index), pair.cert, pair.key


def problems(tls: TlsConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """All that makes `tls` unusable: the path of the key below it, and a line about it."""
    for path, cert, key in pairs(tls):
        try:
            read_pair(cert, key)
        except BadCertificate as error:
            yield (*path, error.role), str(error)
            if error.role == "cert":  # then nobody has looked at the key
                yield from _problem_of_key((*path, "key"), key)
    if tls.client_ca is not None:
        if tls.client_cert == "none":
            message = "is not used while tls.client_cert is none; set that to optional or required"
            yield ("client_ca",), message
        try:
            load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls.client_ca)
        except BadCertificate as error:
            yield ("client_ca",), str(error)
    elif tls.client_cert != "none":
        yield ("client_cert",), "needs tls.client_ca, the certificates that clients' are signed by"
    if tls.ciphers is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(tls.ciphers)
        except ssl.SSLError:
            yield ("ciphers",), "OpenSSL finds no cipher in this list; try: openssl ciphers -v 'LIST'"


def _problem_of_key(path: tuple[str | int, ...], key: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    try:
        _look_at_key(key)
    except BadCertificate as error:
        yield path, str(error)


def load_authorities(context: ssl.SSLContext, file: Path) -> None:
    """Trust the certificates in `file` to sign those of clients. Raises BadCertificate."""
    if not _CERTIFICATE.search(read_text("client_ca", file)):
        raise BadCertificate("client_ca", f"holds no certificate in PEM form: {file}")
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise BadCertificate("client_ca", f"is damaged or not complete: {file}") from None
    except OSError as error:
        why = os.strerror(error.errno or errno.EIO)
        raise BadCertificate("client_ca", f"cannot be read: {file}: {why}") from None


def warnings(tls: TlsConfig, now: float | None = None) -> list[str]:
    """What clients will refuse although it can be served: certificates out of their time, or for another purpose.

    Pairs that cannot be read are passed over: `problems` tells of them.
    """
    now = time.time() if now is None else now
    found = []
    for _, cert, key in pairs(tls):
        try:
            seen = read_pair(cert, key)
        except BadCertificate:
            continue
        if fault := out_of_order(seen, now):
            found.append(f"clients will refuse the certificate in {cert}: {fault}")
    return found


def out_of_order(certificate: Certificate, now: float) -> str:
    """Why clients will refuse this certificate, or nothing."""
    if certificate.refused:
        return certificate.refused
    if certificate.not_after < now:
        return f"it expired on {_day(certificate.not_after)}; renew it"
    if certificate.not_before > now:
        return f"it is not valid before {_day(certificate.not_before)}; is the clock right?"
    return ""


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
