"""Which bytes HTTP/1.1 allows where: byte classes, and the checks that both parsers share.

Promises: pure functions over bytes; a False or a message, never an exception; nothing here depends on how the bytes
came. Refuses: leniency. Sources: RFC 9110 5.5, 5.6.2 and 7.2 (values, tokens, Host), RFC 9112 3 (request line), RFC
3986 3 (URI), and the WHATWG URL standard for the few bytes that browsers send although RFC 3986 has no place for them.

The classes are written out as literals on purpose: constants of a code object are immortal on a free-threaded CPython,
so that all threads can use them without touching a shared reference count. They are meant for
``data.translate(None, CLASS)``, which gives the bytes of ``data`` that are not in the class.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

# Every control byte but HTAB. A field value or request line holds none of them (RFC 9110 5.5); CR and LF are among
# them, so in a whole head exactly the CRs and LFs of its line ends may be found.
CONTROL: Final = (
    b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\n\x0b\x0c\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18"
    b"\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f"
)
# RFC 9110 5.6.2: tchar.
TOKEN: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&'*+-.^_`|~"
# RFC 3986 3.3 and 3.4: pchar, "/" and "?", but without "%", which needs a closer look.
URI: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~!$&'()*+,;=:@/?"
# Not in RFC 3986, but sent raw by browsers: the WHATWG URL serializer does not escape them in a path ...
PATH_EXTRA: Final = b"[]^|"
# ... and these in a query. `"`, `<`, `>` and `#` no browser sends; they are refused.
QUERY_EXTRA: Final = b"[]^|\\`{}%"
# RFC 3986 3.2.2: the unreserved characters, of which nearly every host name is made.
HOST: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~"
# The rest of reg-name: sub-delims without ",", which is how two merged Host fields would look.
HOST_EXTRA: Final = b"!$&'()*+;="
DIGIT: Final = b"0123456789"
HEXDIG: Final = b"0123456789ABCDEFabcdef"

# RFC 9112 3: a method longer than any that the server knows is 501. The longest registered one has 17 characters.
MAX_METHOD: Final = 32

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_MAX_PORT: Final = 65535


def is_token(value: bytes) -> bool:
    """RFC 9110 5.6.2: one or more tchar."""
    return value != b"" and not value.translate(None, TOKEN)


def bad_target(path: bytes, query: bytes) -> str:
    """Why this origin-form path and query are refused (RFC 9112 3.2.1), or "" if they are not."""
    if path.translate(None, URI + PATH_EXTRA + b"%"):
        return "the path of the request target has a character that must be percent-encoded"
    if query.translate(None, URI + QUERY_EXTRA):
        return "the query of the request target has a character that must be percent-encoded"
    if _BAD_ESCAPE.search(path):
        return "the path of the request target has a % that two hexadecimal digits do not follow"
    return ""


def valid_host(value: bytes) -> bool:
    """Whether this is ``uri-host [":" port]`` with a host that is not empty (RFC 9110 7.2, 4.2.1; RFC 3986 3.2.2).

    Userinfo is refused (RFC 9110 4.2.4), and so are IPvFuture, an IPv6 zone, and a port above 65535. An empty port
    after the colon is grammatical and taken.
    """
    rest = value.translate(None, HOST)
    if not rest:
        return value != b""
    if (
        rest == b":"
    ):  # just one, so that what stands before the digits at the end is "host:", or it is not valid
        stem = value.rstrip(DIGIT)
        digits = len(value) - len(stem)
        if stem.endswith(b":") and digits < 5:
            return len(stem) > 1
    return _valid_rare_host(value)


def _valid_rare_host(value: bytes) -> bool:
    if value.startswith(b"["):
        literal, bracket, port = value[1:].partition(b"]")
        return (
            bracket != b""
            and _valid_ipv6(literal)
            and (not port or (port[:1] == b":" and _valid_port(port[1:])))
        )
    host, _, port = value.partition(b":")
    if not host or host.translate(None, HOST + HOST_EXTRA + b"%") or _BAD_ESCAPE.search(host):
        return False
    return _valid_port(port)


def _valid_port(port: bytes) -> bool:
    return not port or (port.isdigit() and (len(port) < 5 or (len(port) == 5 and int(port) <= _MAX_PORT)))


def _valid_ipv6(literal: bytes) -> bool:
    if literal.translate(None, HEXDIG + b":."):
        return False
    try:
        ipaddress.IPv6Address(literal.decode("ascii"))
    except ValueError:
        return False
    return True
