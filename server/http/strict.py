"""The quick way in: takes the well-formed head that nearly every client sends, in one pass over its bytes.

Promises: whatever ``parse_head`` takes obeys RFC 9112 in its strictest reading, and ``general.parse_head`` and h11 read
the same thing from it; nothing it takes depends on how TCP cut the request. Refuses: to judge. It raises nothing; what
is rare, doubtful or wrong is NOT_TAKEN and left to ``general``, which finds the words for it. Taken are: one request
line of token, origin-form target and HTTP/1.0 or 1.1; field lines with a known or valid name; one valid Host (at most one
for 1.0); one plain Content-Length or exactly ``Transfer-Encoding: chunked``, never both; exactly ``Expect: 100-continue``.

How it is quick: a few calls that each go over all bytes in C (find, split, translate), then one partition, one
look-up and one strip per field. No regular expression, no loop over bytes, no cache; every table that threads share
is immortal (see ``names``).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from .events import HeadLimits, RequestReceived
from .framing import MAX_LENGTH_DIGITS, intentions
from .grammar import CONTROL, MAX_METHOD, URI, bad_target, is_token, valid_host
from .names import PLAIN, SPECIAL


class NotTaken(Enum):
    """The type of NOT_TAKEN."""

    NOT_TAKEN = "left to the general parser"


NOT_TAKEN: Final = NotTaken.NOT_TAKEN

# CONNECT is not among them: it is refused by the general parser.
_METHODS: Final[dict[bytes, str]] = {
    b"GET": "GET",
    b"HEAD": "HEAD",
    b"POST": "POST",
    b"PUT": "PUT",
    b"PATCH": "PATCH",
    b"DELETE": "DELETE",
    b"OPTIONS": "OPTIONS",
}


def parse_head(buffer: bytes, limits: HeadLimits) -> RequestReceived | None | NotTaken:
    """The head at the beginning of ``buffer``; None if it is not complete; NOT_TAKEN if it needs a closer look."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end]
    lines = head.split(b"\r\n")
    fields = len(lines) - 1
    # All control bytes of the head are those of its line ends: no bare CR, no bare LF, no NUL.
    if len(head.translate(None, CONTROL)) != end - 2 * fields:
        return NOT_TAKEN
    request_line = lines.pop(0)
    max_line, max_head, max_fields = limits
    if len(request_line) > max_line > 0 or end + 4 > max_head > 0 or fields > max_fields > 0:
        return NOT_TAKEN
    try:
        verb, target, protocol = request_line.split(b" ")
    except ValueError:
        return NOT_TAKEN
    method = "GET" if verb == b"GET" else _method(verb)
    version = "1.1" if protocol == b"HTTP/1.1" else "1.0" if protocol == b"HTTP/1.0" else ""
    if not method or not version or not target.startswith(b"/"):
        return NOT_TAKEN
    path, _, query = target.partition(b"?")
    if target.translate(None, URI) and bad_target(path, query):
        return NOT_TAKEN
    request = RequestReceived(method, target, path, query, version, [], 0, False, version == "1.1", False, False, end + 4)
    return request if _fields(request, lines) else NOT_TAKEN


def _method(verb: bytes) -> str:
    """The method as text, "" if it is not taken."""
    if known := _METHODS.get(verb):
        return known
    if verb == b"CONNECT" or len(verb) > MAX_METHOD or not is_token(verb):
        return ""
    return verb.decode("ascii")


def _fields(request: RequestReceived, lines: list[bytes]) -> bool:
    """Fill in what the field lines say; False if one of them, or all together, are not taken."""
    headers = request.headers
    host = length = b""
    options: list[bytes] = []
    upgrade = False
    plain, special = PLAIN, SPECIAL  # locals: one read of a shared global each, instead of one per field
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip()  # of all white space only SP and HTAB can be there: the control bytes are checked
        lower = plain.get(name)
        if lower is None:
            lower = special.get(name)
            if lower is None:
                if not is_token(name):
                    return False
                lower = name.lower()
            if lower == b"host":
                if host or not valid_host(value):
                    return False
                host = value
            elif lower == b"connection":
                options.append(value)
            elif lower == b"content-length":
                if length or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                    return False
                length = value
                request.content_length = int(value)
            elif lower == b"transfer-encoding":
                if request.chunked or value != b"chunked":
                    return False
                request.chunked = True
            elif lower == b"expect":
                if value != b"100-continue":
                    return False
                request.expect_continue = True
            elif lower == b"upgrade":
                upgrade = True
        if not colon:
            return False
        headers.append((lower, value))
    if request.chunked and (length or request.version == "1.0") or (not host and request.version == "1.1"):
        return False
    if options or request.expect_continue: 
        intentions(request, options, upgrade)
    return True
