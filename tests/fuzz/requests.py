"""Streams of requests as a client might send them: most nearly right, some with a trick, some cut off or mixed up.

Promises: an input follows from the random numbers that it is given (and from tests/corpus); about half of what comes
out is accepted, so that the other half is close to what is accepted. Any thread may call it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from serverd.server.http import HeadLimits

from ..support.corpus import LIMITS, load
from . import pieces as p
from .mutate import Rnd, mutate, pick, splice

BIG: Final = HeadLimits(**LIMITS)
SMALL: Final = HeadLimits(60, 200, 6)
BATCH: Final = 8
# Of the corpus, what is small enough to be changed again and again.
_SMALL_CASE: Final = 1024


class Case(NamedTuple):
    """What is fed, and the limits it is fed under."""

    data: bytes
    limits: HeadLimits


CORPUS: Final = tuple(Case(case.data, case.limits) for kind in ("valid", "invalid") for case in load(kind))
_SEEDS: Final = tuple(case.data for case in CORPUS if len(case.data) <= _SMALL_CASE)


def batch(rnd: Rnd) -> list[Case]:
    """BATCH inputs: a stream, and others that come from it by small changes, which are quicker to make."""
    kind = rnd()
    if kind < 0.004:
        large = [_large(rnd) for _ in range(BATCH)]
        return [Case(mutate(rnd, data) if rnd() < 0.3 else data, BIG) for data in large]
    base = _stream(rnd) if kind < 0.85 else pick(rnd, _SEEDS)
    cases = [Case(base, _limits(rnd, base))]
    while len(cases) < BATCH:
        data = _variant(rnd, base)
        cases.append(Case(data, _limits(rnd, data)))
    return cases


def _variant(rnd: Rnd, base: bytes) -> bytes:
    kind = rnd()
    if kind < 0.3:
        return mutate(rnd, base)
    if kind < 0.5:  # one more field, most of the time a good one
        at = base.find(b"\r\n") + 2
        return base[:at] + _field(rnd, 0.05) + base[at:]
    if kind < 0.65:  # another request line
        return _line(rnd, 0.04, pick(rnd, p.VERSIONS)) + base[base.find(b"\r\n") + 2 :]
    if kind < 0.8:
        return mutate(rnd, pick(rnd, _SEEDS))
    if kind < 0.9:
        return splice(rnd, base, pick(rnd, _SEEDS)) if kind < 0.85 else splice(rnd, pick(rnd, _SEEDS), base)
    return pick(rnd, _SEEDS) + base


def _limits(rnd: Rnd, data: bytes) -> HeadLimits:
    """Mostly the server's; sometimes small ones, or those that the first head just keeps, or just passes."""
    kind = rnd()
    if kind < 0.93:
        return BIG
    end = data.find(b"\r\n\r\n") + 4
    if kind < 0.95 or end < 4:
        return SMALL
    line = data.find(b"\r\n")
    near = (-1, 0, 0, 0, 1)
    return HeadLimits(
        max(line + pick(rnd, near), 1),
        max(end + pick(rnd, near), 1),
        max(data.count(b"\r\n", 0, end) - 2 + pick(rnd, near), 1),
    )


def _stream(rnd: Rnd) -> bytes:
    """One request, or some; ``doubt`` is the share of pieces that are not right."""
    kind = rnd()
    doubt = 0.0 if kind < 0.45 else 0.03 if kind < 0.85 else 0.15
    data = _request(rnd, doubt)
    more = rnd()
    if more < 0.22:
        data += _request(rnd, doubt)
        if more < 0.06:
            data += _request(rnd, doubt) + _request(rnd, doubt)
    tail = rnd()
    if tail < 0.05:
        data = data[: int(rnd() * len(data))]
    elif tail < 0.08:
        data += pick(rnd, p.TOKENS)
    elif tail < 0.1:
        data = b"\r\n" + data
    return data


def _request(rnd: Rnd, doubt: float) -> bytes:
    def one(good: tuple[bytes, ...], bad: tuple[bytes, ...]) -> bytes:
        pool = bad if doubt and rnd() < doubt else good
        return pool[int(rnd() * len(pool))]

    version = one(p.VERSIONS, p.BAD_VERSIONS)
    fields, body = _body(rnd, doubt, version)
    for _ in range(int(rnd() * rnd() * 10)):
        fields.append(_field(rnd, doubt))
    if rnd() > doubt / 2 and (version != b"HTTP/1.0" or rnd() < 0.8):
        name = one(p.HOST_NAMES, p.BAD_NAMES)
        fields.insert(
            int(rnd() * (len(fields) + 1)),
            name + one(p.COLONS, p.BAD_COLONS) + one(p.HOSTS, p.BAD_HOSTS) + one(p.END, p.BAD_ENDS),
        )
    return _line(rnd, doubt, version) + b"".join(fields) + one(p.END, p.BAD_ENDS) + body


def _line(rnd: Rnd, doubt: float, version: bytes) -> bytes:
    """A request line, with its end."""
    target = _target(rnd, doubt)
    if rnd() > doubt * 3:
        return pick(rnd, p.METHODS) + b" " + target + b" " + version + b"\r\n"
    parts = [pick(rnd, p.METHODS), b" ", target, b" ", version, b"\r\n"]
    bad = (p.BAD_METHODS, p.BAD_SPACES, p.BAD_TARGETS, p.BAD_SPACES, p.BAD_VERSIONS, p.BAD_ENDS)
    wrong = int(rnd() * len(parts))
    parts[wrong] = pick(rnd, bad[wrong])
    return b"".join(parts)


def _target(rnd: Rnd, doubt: float) -> bytes:
    kind = rnd()
    if kind < doubt:
        return pick(rnd, p.BAD_TARGETS)
    if kind > 0.91:
        return pick(rnd, p.TARGETS)
    if kind > 0.7:
        return b"/"
    target = b""
    for _ in range(1 + int(rnd() * rnd() * 4)):
        target += b"/" + pick(rnd, p.BAD_SEGMENTS if rnd() < doubt else p.SEGMENTS)
    if kind < 0.3:
        target += b"?" + pick(rnd, p.BAD_QUERIES if rnd() < doubt else p.QUERIES)
    return target


def _field(rnd: Rnd, doubt: float) -> bytes:
    """A field line that is not about Host or the body, or not supposed to be."""
    kind = rnd()
    if kind < 0.75:
        name = pick(rnd, p.PLAIN_NAMES)
        value = pick(rnd, p.VALUES)
        if doubt:
            if rnd() < doubt:
                name = pick(rnd, p.BAD_NAMES)
            if rnd() < doubt:
                value = pick(rnd, p.BAD_VALUES)
    else:
        name, values = pick(rnd, p.BAD_MEANINGS if rnd() < doubt * 2 else p.MEANINGS)
        value = pick(rnd, values)
    if not doubt:
        return name + pick(rnd, p.COLONS) + value + b"\r\n"
    colon = pick(rnd, p.BAD_COLONS if rnd() < doubt else p.COLONS)
    return name + colon + value + pick(rnd, p.BAD_ENDS if rnd() < doubt else p.END)


def _body(rnd: Rnd, doubt: float, version: bytes) -> tuple[list[bytes], bytes]:
    """The fields that frame a body, and the body. Sometimes both kinds of fields, or none for what is there."""
    kind = rnd()
    if kind < 0.5:
        return [], b""
    if kind < 0.74 or (version == b"HTTP/1.0" and rnd() > doubt):
        body = _payload(rnd)
        length = b"%d" % len(body)
        if rnd() < doubt * 2:
            length = (
                pick(rnd, p.BAD_LENGTHS) if rnd() < 0.7 else b"%d" % max(len(body) + pick(rnd, (-1, 1, 5)), 0)
            )
        fields = [pick(rnd, p.LENGTH_NAMES) + pick(rnd, p.COLONS) + length + b"\r\n"]
    else:
        body = chunks(rnd, doubt)
        coding = pick(rnd, p.BAD_CODINGS if rnd() < doubt * 2 else p.CODINGS)
        fields = [pick(rnd, p.CODING_NAMES) + pick(rnd, p.COLONS) + coding + b"\r\n"]
    if rnd() < doubt:
        fields.append(pick(rnd, (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", fields[0])))
    return fields, body


def _payload(rnd: Rnd) -> bytes:
    kind = rnd()
    if kind < 0.3:
        return b""
    if kind < 0.5:
        return pick(rnd, p.TOKENS)
    if kind < 0.6:
        return b"GET /inner HTTP/1.1\r\nHost: inner\r\n\r\n"
    return bytes((int(rnd() * 256),)) * int(rnd() * rnd() * 80)


def chunks(rnd: Rnd, doubt: float) -> bytes:
    """A body in chunks, to its end."""
    wire = b""
    for _ in range(int(rnd() * rnd() * 6)):
        data = _payload(rnd) or b"x"
        size = (b"%x", b"%X", b"0%x", b"%015x")[int(rnd() * rnd() * 4)] % len(data)
        if doubt and rnd() < doubt:
            size = pick(rnd, p.BAD_SIZES) if rnd() < 0.4 else pick(rnd, p.ODD_SIZES) % len(data)
        wire += size + pick(rnd, p.BAD_EXTENSIONS if rnd() < doubt else p.EXTENSIONS)
        wire += b"\r\n" if rnd() >= doubt else pick(rnd, p.BAD_ENDS)
        wire += data + (b"\r\n" if rnd() >= doubt else pick(rnd, p.BAD_ENDS))
    wire += b"000"[: 1 + int(rnd() * rnd() * 3)] + pick(
        rnd, p.BAD_EXTENSIONS if rnd() < doubt else p.EXTENSIONS
    )
    wire += b"\r\n" if rnd() >= doubt else pick(rnd, p.BAD_ENDS)
    wire += pick(rnd, p.BAD_TRAILERS if rnd() < doubt else p.TRAILERS)
    return wire + (b"\r\n" if rnd() >= doubt else pick(rnd, p.BAD_ENDS))


def _large(rnd: Rnd) -> bytes:
    """What comes near one of the server's limits, from below or above."""
    kind = int(rnd() * 6)
    off = int(rnd() * 5) - 2
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    if kind == 0:  # the request line
        return b"GET /" + b"a" * (8192 - 14 + off) + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    if kind == 1:  # the head, in one field or in many
        rest = 32768 - len(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") + off
        count = 1 + int(rnd() * 98)
        each = rest // count
        fields = [b"A: " + b"b" * (each - 5) + b"\r\n"] * (count - 1)
        fields.append(b"A: " + b"b" * (rest - each * (count - 1) - 5) + b"\r\n")
        return b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(fields) + b"\r\n"
    if kind == 2:  # the number of fields
        return b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * (99 + off) + b"\r\n"
    if kind == 3:  # a chunk's line
        return head + b"5;" + b"e" * (1022 + off) + b"\r\nhello\r\n0\r\n\r\n"
    if kind == 4:  # all chunk extensions
        return head + (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * (16 + (off >= 0)) + b"0\r\n\r\n"
    end = pick(
        rnd, (b"\r\n\r\n", b"\r\n\r\n", b"\r\n\n\r\n", b"\r\n\r\r\n", b"\n\r\n", b"\r\nB: c\r\n\r\n", b"\r\n")
    )
    return head + b"0\r\nA: " + b"t" * (8192 - 7 + off) + end  # the trailers
