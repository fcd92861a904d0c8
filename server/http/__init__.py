"""HTTP/1.1 as bytes: heads and bodies in, responses out. Never sees sockets, threads or clocks.

Promises: one way in, ``parse_request``, whichever of the two parsers does the work: ``strict`` takes the common,
well-formed head in one pass; what it does not take goes to ``general`` (own checks, then h11). Refuses: see
docs/http.md, where everything that is accepted and refused is listed with its RFC section. Pure functions of their
arguments, so that every thread may call them at any time.
"""

from __future__ import annotations

from . import general
from .events import HeadLimits, ProtocolError, RequestReceived
from .general import adds_nothing
from .strict import parse_head

__all__ = ["HeadLimits", "ProtocolError", "RequestReceived", "adds_nothing", "parse_request"]


def parse_request(
    buffer: bytes, limits: HeadLimits, *, force_general: bool = False
) -> RequestReceived | None:
    """The request head at the beginning of ``buffer``; None if more bytes are needed.

    Call it again with all bytes so far when more came; what it says does not depend on how they were cut. An
    incomplete head costs some microseconds and a scan of it each time, so call it once for each receive, and ask
    ``adds_nothing`` first.
    force_general: leave the strict parser out (tests, and doubt). Raises ProtocolError: answer its status and close.
    """
    if not force_general:
        request = parse_head(buffer, limits)
        if isinstance(request, RequestReceived):
            return request
    try:
        return general.parse_head(buffer, limits)
    except ProtocolError as fault:
        fault.silent = buffer.startswith((b"HEAD ", b"\r\nHEAD "))
        raise
