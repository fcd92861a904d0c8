"""The work that a client can cause is in proportion to what it sends, however it cuts it: nothing here is quadratic.

Counted in lines of Python that run, which no other process on the machine can change; what runs in C is bounded by the
limits, and its time is looked at once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType

import pytest

from serverd.server.http import HeadLimits, ProtocolError, parse_request
from serverd.server.http.framing import MAX_CHUNK_LINE, MAX_TRAILER, ChunkedDecoder

from .fuzz.reading import read
from .support.corpus import LIMITS

SERVERS = HeadLimits(**LIMITS)
TOOL = 4  # of sys.monitoring; profilers and debuggers have 0 to 2
HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n"


@contextmanager
def counted() -> Iterator[list[int]]:
    """A list whose one number grows with each line that this thread runs."""
    count = [0]
    me = threading.get_ident()

    def line(code: CodeType, number: int) -> None:
        count[0] += threading.get_ident() == me

    sys.monitoring.use_tool_id(TOOL, "serverd's tests")
    try:
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.LINE, line)
        sys.monitoring.set_events(TOOL, sys.monitoring.events.LINE)
        yield count
    finally:
        sys.monitoring.set_events(TOOL, 0)
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.LINE, None)
        sys.monitoring.free_tool_id(TOOL)


def lines(*calls: Callable[[], object]) -> list[int]:
    """How many lines each of them runs."""
    counts = []
    with counted() as count:
        for call in calls:
            count[0] = 0
            call()
            counts.append(count[0])
    return counts


HEADS = {
    "many fields": b"".join(b"X-%d: %s\r\n" % (number, b"v" * 310) for number in range(98)),
    "one long field": b"X: " + b"v" * 31_000,
    "many short fields": b"A: b\r\n" * 98,
    "hosts and lengths": b"Content-Length: 5\r\nHost: h\r\n" * 49,
}


@pytest.mark.parametrize("fields", HEADS)
@pytest.mark.parametrize("force_general", [False, True], ids=["strict first", "general"])
def test_an_incomplete_head_costs_the_same_however_much_of_it_is_there(
    fields: str, force_general: bool
) -> None:
    """A client that sends its head byte by byte causes one such look for each byte."""
    whole = HEAD + HEADS[fields]
    places = range(len(HEAD) + 3, len(whole), 97)
    counts = lines(
        *(partial(parse_request, whole[:at], SERVERS, force_general=force_general) for at in places)
    )
    assert max(counts) <= 60
    assert max(counts) - min(counts) <= 6


def test_an_incomplete_head_is_looked_at_quickly() -> None:
    """The scan of 32 KiB in C: some microseconds; the bound is for a machine that is busy with other things."""
    slowest = 0.0
    for fields in HEADS.values():
        data = (HEAD + fields)[: LIMITS["head"] - 1]
        times = []
        for _ in range(20):
            begin = time.thread_time()
            parse_request(data, SERVERS)
            times.append(time.thread_time() - begin)
        slowest = max(slowest, min(times))
    assert slowest < 0.001


@pytest.mark.parametrize(
    "wire",
    [
        b"5;" + b"e" * (MAX_CHUNK_LINE - 10),
        b"5" + b";a=b" * 200,
        b'5;a="' + b"\\\\" * 400,
        b"0\r\nX: " + b"t" * (MAX_TRAILER - 10),
        b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER // 6 - 2),
        b"1\r\nx\r\n" * 1000,
        b"fffff\r\n" + b"d" * 5000,
        b"0" * 15,
    ],
    ids=lambda wire: repr(wire[:12]),
)
def test_a_body_by_byte_costs_the_same_for_each_byte(wire: bytes) -> None:
    decoder = ChunkedDecoder()
    assert max(lines(*(partial(decoder.feed, wire[at : at + 1]) for at in range(len(wire))))) <= 40


def test_tiny_chunks_cost_in_proportion_to_their_number() -> None:
    few, many = lines(*(partial(ChunkedDecoder().feed, b"1;a\r\nx\r\n" * n) for n in (200, 2000)))
    assert many < few * 10.5


def test_requests_in_one_piece_cost_in_proportion_to_their_number() -> None:
    data = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    few, many = lines(*(partial(read, [data * n], SERVERS, force_general=False) for n in (50, 500)))
    assert many < few * 10.5


REFUSED = {
    "half line ends": HEAD + b"X: " + b"v\n" * 15_000 + b"\r\n\r\n",
    "too many fields": HEAD + b"A: b\r\n" * 5_000 + b"\r\n",
    "escapes": b"GET /" + b"%41" * 2_700 + b"% HTTP/1.1\r\nHost: h\r\n\r\n",
    "an address": b"GET / HTTP/1.1\r\nHost: [" + b"1:" * 15_000 + b"]\r\n\r\n",
    "a port": b"GET / HTTP/1.1\r\nHost: h:" + b"1" * 31_000 + b"\r\n\r\n",
    "a length": HEAD + b"Content-Length: " + b"1" * 31_000 + b"\r\n\r\n",
    "codings": HEAD + b"Transfer-Encoding: " + b"," * 31_000 + b"\r\n\r\n",
    "options": HEAD + b"Connection: " + b"a," * 15_000 + b"\r\nExpect: x\r\n\r\n",
    "an authority": b"GET http://" + b"a" * 8_000 + b"@ HTTP/1.1\r\nHost: h\r\n\r\n",
    "empty lines": b"\r\n" * 16_000,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_costs_no_more_than_a_head(kind: str) -> None:
    """The refusals that look at a value, with values as long as the limits allow."""

    def refuse() -> None:
        with pytest.raises(ProtocolError):
            parse_request(REFUSED[kind], SERVERS)

    assert lines(refuse)[0] < 3000
    begin = time.thread_time()
    refuse()
    assert time.thread_time() - begin < 0.1
