"""Names in TLS: those that clients ask for (SNI), and those in their certificates.

Pure functions, but for `ignore_odd_names`, which changes the process once.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

_once = threading.Lock()


def ignore_odd_names() -> None:
    """See that a server name that is not ASCII is a failed handshake, and no traceback on standard error.

    CPython decodes the name before it calls `sni_callback`; it tells sys.unraisablehook when it cannot, and OpenSSL
    that the handshake is over. Anybody may send such a name. Once for a process; any thread.
    """
    if not _once.acquire(False):
        return
    before = sys.unraisablehook

    def hook(event: Any) -> None:
        odd_name = event.exc_type is UnicodeDecodeError and "servername callback" in (event.err_msg or "")
        if not odd_name:
            before(event)

    sys.unraisablehook = hook


# The short names of RFC 4514 section 3; others are written as OpenSSL calls them.
_ATTRIBUTES: Final = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}


def distinguished_name(subject: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """A subject, as ``SSLObject.getpeercert`` gives it, in the form of RFC 4514: "CN=ann,O=Shop"."""
    parts = [
        "+".join(f"{_ATTRIBUTES.get(name, name)}={_escaped(value)}" for name, value in part)
        for part in subject
    ]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    """RFC 4514 2.4."""
    text = "".join(f"\\{char}" if char in '"+,;<>\\' else char for char in value).replace("\0", "\\00")
    if text.startswith((" ", "#")):
        text = f"\\{text}"
    if text.endswith(" ") and len(value) > 1:
        text = f"{text[:-1]}\\ "
    return text
