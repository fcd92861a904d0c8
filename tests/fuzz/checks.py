"""What must hold for every stream of requests; see docs/fuzzing.md for the list in words.

Promises: ``examine`` raises Finding, and nothing else, for bytes that break a promise of serverd.server.http; what it
returns says which way the input went, so that a run can show its mix. Any thread may call it.
"""

from __future__ import annotations

import re
from typing import Final

from serverd.server import http
from serverd.server.http import HeadLimits, ProtocolError, parse_request

from .by_h11 import compare_with_h11
from .mutate import Rnd
from .reading import Finding, Reading, checked, read, read_whole
from .requests import Case

# RFC 9112 2.2, 3, 5 and RFC 9110 5.1, 5.5, 5.6.2 in our strict reading, written down once more and by other means: what
# h11 takes too (control bytes in values) two wrong parsers could agree about.
_HEAD: Final = re.compile(
    rb"(?:\r\n)?[!#-'*+\-.0-9A-Z^-z|~]{1,32} (?:/|(?i:https?)://[^/?]|\*)[!$-;=?-~]* HTTP/1\.[01]\r\n"
    rb"(?:[!#-'*+\-.0-9A-Z^-z|~]++:[\t -~\x80-\xff]*+\r\n)*+\r\n"
)
_BYTE_BY_BYTE: Final = 300


def examine(case: Case, rnd: Rnd) -> list[str]:
    """Hold one stream to everything. What became of it: of its first head, then of the fault behind that, if any."""
    data, limits = case
    whole = read_whole(data, limits)
    _cut_it(case, whole, rnd)
    if whole.requests or whole.open:
        _look_at_heads(data, whole)
        compare_with_h11(data, whole, fresh=rnd() < 1 / 16)
    return _way(whole)


def examine_every_cut(case: Case) -> list[str]:
    """The same for each single place at which the bytes can be cut: for replays, and for short inputs."""
    data, limits = case
    whole = read_whole(data, limits)
    pieces = [[data[:at], data[at:]] for at in range(1, len(data))]
    for cut in ([data[at : at + 1] for at in range(len(data))], *pieces):
        for force in (False, True):
            told = read(cut, limits, force_general=force).told()
            if told != whole.told():
                raise Finding(
                    f"cut into {[len(piece) for piece in cut]} it is {told}, whole it is {whole.told()}"
                )
    if whole.requests or whole.open:
        _look_at_heads(data, whole)
        compare_with_h11(data, whole)
    return _way(whole)


def _way(whole: Reading) -> list[str]:
    if whole.strict:
        first = "accepted by strict" if whole.strict[0] else "accepted by general only"
    else:
        first = f"refused with {whole.error[0]}" if whole.error else "incomplete"
    way = [first]
    for taken in whole.strict[1:]:
        way.append("behind it: by strict" if taken else "behind it: by general only")
    way += ["complete request"] * len(whole.requests)
    if whole.error:
        way.append(f"{whole.error[0]} {whole.error[1]}")
    return way


def _cut_it(case: Case, whole: Reading, rnd: Rnd) -> None:
    """Read the bytes in pieces: the outcome must be the same. Raises Finding."""
    data, limits = case
    size = len(data)
    if size < 2:
        return
    kind = rnd()
    if kind < 0.001 and size <= _BYTE_BY_BYTE:
        _hold_to(whole, [data[at : at + 1] for at in range(size)], limits, force=rnd() < 0.5)
    elif kind < 0.1:
        places = sorted({1 + int(rnd() * (size - 1)) for _ in range(1 + int(rnd() * 7))})
        pieces = [data[start:end] for start, end in zip((0, *places), (*places, size), strict=True)]
        _hold_to(whole, pieces, limits, force=rnd() < 0.5)
    else:
        at = 1 + int(rnd() * (size - 1))
        if kind < 0.6:  # beside a line end, where most of what can go wrong is
            at = min(max(data.find(b"\r", at), 0) + int(rnd() * 4), size - 1) or at
        if at < whole.first or not whole.strict:
            _hold_beginning_to(whole, data[:at], limits)
        else:
            _hold_to(whole, [data[:at], data[at:]], limits, force=False)


def _hold_to(whole: Reading, pieces: list[bytes], limits: HeadLimits, *, force: bool) -> None:
    told = read(pieces, limits, force_general=force).told()
    if told != whole.told():
        sizes = [len(piece) for piece in pieces]
        raise Finding(f"cut into {sizes} ({force=}) it is {told}, whole it is {whole.told()}")


def _hold_beginning_to(whole: Reading, beginning: bytes, limits: HeadLimits) -> None:
    """The same for a cut in the first head, at half the price: when the rest comes, the parser is called with the same
    bytes as it was for the whole. Raises Finding."""
    error = _refusal(whole, beginning, limits)
    if error is None:
        return
    if whole.strict or error != whole.error:
        raise Finding(f"the first {len(beginning)} bytes are {error}, the whole is {whole.told()}")
    last = 1 + len(beginning) % 7
    before = beginning[:-last]
    if (
        before
        and http.adds_nothing(before, beginning[-last:], limits)
        and _refusal(whole, before, limits) != error
    ):
        raise Finding(f"the last {last} of the first {len(beginning)} bytes add something: {error}")


def _refusal(whole: Reading, beginning: bytes, limits: HeadLimits) -> tuple[int, str] | None:
    try:
        if parse_request(beginning, limits) is not None:
            raise Finding(f"the first {len(beginning)} bytes are a head, the whole is not: {whole.told()}")
    except ProtocolError as refusal:
        return checked(refusal)
    return None


def _look_at_heads(data: bytes, whole: Reading) -> None:
    """Each accepted head obeys the grammar and the rules about its fields, whoever took it. Raises Finding."""
    at = 0
    last = [(*whole.open, 0)] if whole.open else []
    for request, _, end in [*whole.requests, *last]:
        if not _HEAD.fullmatch(data, at, at + request.head_size):
            raise Finding(f"accepted, although it is no head: {data[at : at + request.head_size]!r}")
        at = end
        names = [name for name, _ in request.headers]
        framed = names.count(b"content-length") + names.count(b"transfer-encoding")
        if framed > 1 or names.count(b"host") not in ((1,) if request.version == "1.1" else (0, 1)):
            raise Finding(f"accepted, although fields are there too often or not at all: {names}")
