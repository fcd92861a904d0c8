"""The first bytes of a response, and what is remembered of them.

Promises: what comes out is what the framer gave for just these values and this second (``memo``); a response that was
given before costs no framing. Pure but for the memos, which belong to the worker of the exchange.
"""

from __future__ import annotations

from typing import Any

from .http.events import RequestReceived
from .http.fields import Pairs
from .http.response import ResponseFramer
from .large_body import LARGE, begin_pieces
from .memo import ResponseMemo

# What to send; whether the connection goes on; the framer, where more of the body follows.
First = tuple[list[bytes], bool, ResponseFramer | None]


def first_pieces(
    request: RequestReceived,
    heads: ResponseMemo,
    keep_alive: bool,
    status: int,
    headers: Pairs,
    body: bytes,
    more: bool,
    trailers: bool,
) -> First:
    """The head and the first piece of the body. ``heads`` has ticked. Raises ResponseError.

    For a request that is remembered, ``request.answer`` is set to what ``Exchange.begin`` compares the next one with:
    (Date, (status, size of the body, keep_alive), headers, the head, whether the connection goes on).
    """
    key: tuple[Any, ...] | None = None
    known = None
    if not more and len(body) <= LARGE and type(headers) is list:
        key = (status, request.method, request.version, keep_alive, len(body), *headers)
        try:
            known = heads.get(key)
        except TypeError:  # a header of lists or bytearrays: allowed, and not to be remembered
            key = None
    if known is None:
        framer = ResponseFramer(request.method, request.version, keep_alive)
        pieces = begin_pieces(framer, status, headers, heads.date, body, more, trailers)
        if key is not None:
            known = heads.keep(key, pieces[0], body, framer.keep_alive)
        if known is None:
            return pieces, framer.keep_alive, framer if more else None
    head, stays = known
    if request.scope is not None:
        request.answer = (heads.date, (status, len(body), keep_alive), list(headers), head, stays)
    return [head + body], stays, None
