"""The quick way in: takes the well-formed head that nearly every client sends, in one pass over its bytes.

Promises: whatever ``parse_head`` takes obeys RFC 9112 in its strictest reading, and ``general.parse_head`` and h11
read the same thing from it; nothing it takes depends on how TCP cut the request. Refuses: to judge. It raises nothing;
what is rare, doubtful or wrong is NOT_TAKEN and left to ``general``, which finds the words for it. Taken are: a request
line of token, origin-form target and HTTP/1.0 or 1.1; field lines with a known or valid name; one valid Host (none is
enough for 1.0); one plain Content-Length or exactly ``Transfer-Encoding: chunked``, never both; exactly
``Expect: 100-continue``.

How it is quick: a few calls that each go over all bytes in C (find, split, translate), then one partition, one
look-up and one strip per field. No regular expression, no loop over bytes, no cache; every table that threads share
is immortal (see ``names``).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from .events import Headers, HeadLimits, RequestReceived
from .framing import MAX_LENGTH_DIGITS, intentions, takes_trailers
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


def parse_head(buffer: bytes, limits: HeadLimits) -> RequestReceived | None | NotTaken:  # noqa: C901 - one pass
    """The head at the beginning of ``buffer``; None if it is not complete; NOT_TAKEN if it needs a closer look."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end]
    lines = head.split(b"\r\n")
    fields = len(lines) - 1
    # All control bytes of the head are those of its line ends: no bare CR, no bare LF, no NUL.
    if len(head.translate(None, CONTROL)) != end - fields - fields or fields > limits.headers:
        return NOT_TAKEN
    size = end + 4
    request_line = lines[0]
    if size > limits.within and (size > limits.head or len(request_line) > limits.line):
        return NOT_TAKEN
    try:
        verb, target, protocol = request_line.split(b" ")
    except ValueError:
        return NOT_TAKEN
    method = "GET" if verb == b"GET" else _method(verb)
    modern = protocol == b"HTTP/1.1"
    if not method or not (modern or protocol == b"HTTP/1.0") or not target.startswith(b"/"):
        return NOT_TAKEN
    path, _, query = target.partition(b"?")
    if target.translate(None, URI) and bad_target(path, query):
        return NOT_TAKEN
    headers: Headers = []
    special: Headers = []
    host = b""
    # Locals: a shared global is read once instead of for each field, and calling a method of an imported name is slow,
    # because the compiler takes that for a function of a module.
    plain, names = PLAIN, SPECIAL
    del lines[0]
    for line in lines:
        name, colon, value = line.partition(b":")
        # Of all white space only SP and HTAB can be there: the control bytes are checked.
        value = value.strip()
        lower = plain.get(name)
        if lower is None:
            lower = names.get(name)
            if lower is None:
                if not is_token(name):
                    return NOT_TAKEN
                lower = name.lower()
            if lower == b"host":
                if host or not valid_host(value):
                    return NOT_TAKEN
                host = value
            elif lower in names:
                special.append((lower, value))
        if not colon:
            return NOT_TAKEN
        headers.append((lower, value))
    if modern and not host:
        return NOT_TAKEN
    version = "1.1" if modern else "1.0"
    request = RequestReceived(
        method, target, path, query, version, headers, 0, False, modern, False, False, size
    )
    return NOT_TAKEN if special and not _meaning(request, special) else request


def _method(verb: bytes) -> str:
    """The method as text, "" if it is not taken."""
    if known := _METHODS.get(verb):
        return known
    if verb == b"CONNECT" or len(verb) > MAX_METHOD or not is_token(verb):
        return ""
    return verb.decode("ascii")


def _meaning(request: RequestReceived, special: Headers) -> bool:  # noqa: C901 - one branch for each field
    """Fill in what the fields of ``special`` say; False if one of them, or all of them together, are not taken."""
    length = b""
    options: list[bytes] = []
    upgrade = False
    for name, value in special:
        if name == b"connection":
            if value != b"keep-alive" or request.version == "1.0":  # in HTTP/1.1 it says what holds anyway
                options.append(value)
        elif name == b"content-length":
            if length or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                return False
            length = value
            request.content_length = int(value)
        elif name == b"transfer-encoding":
            if request.chunked or value != b"chunked":
                return False
            request.chunked = True
        elif name == b"expect":
            if value != b"100-continue":
                return False
            request.expect_continue = True
        elif name == b"te":
            request.trailers = request.trailers or takes_trailers(request.version, [value])
        elif name == b"upgrade":
            upgrade = True
        else:  # see ``names``: the others are those of proxies
            request.forwarded = True
    if request.chunked and (length or request.version == "1.0"):
        return False
    if options or request.expect_continue:
        intentions(request, options, upgrade)
    return True
