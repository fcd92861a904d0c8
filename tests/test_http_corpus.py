"""Every request of the corpus, cut in every way and through both parsers, comes to the same end: the one it names."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from serverd.server.http import HeadLimits, RequestReceived
from serverd.server.http.strict import NOT_TAKEN, parse_head

from .support.corpus import Case, Outcome, cuts, load, play

VALID = load("valid")
INVALID = load("invalid")
BY_ID = {case.id: case for case in VALID + INVALID}
TEXT = {"target", "raw_path", "query", "body"}


@functools.cache
def outcomes(case_id: str) -> list[tuple[str, Outcome]]:
    """The case played in every way; the tests only look."""
    case = BY_ID[case_id]
    return [
        (f"{how}, {'general' if force else 'strict first'}", play(pieces, case.limits, force_general=force))
        for how, pieces in cuts(case.data)
        for force in (False, True)
    ]


def seen(wanted: dict[str, Any], request: RequestReceived, body: bytes) -> dict[str, Any]:
    """The attributes that the case names, in the form in which it names them."""
    values = {name: getattr(request, name) for name in RequestReceived.__slots__} | {"body": body}
    values["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers]
    return {name: values[name].decode("latin-1") if name in TEXT else values[name] for name in wanted}


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.id)
def test_valid(case: Case) -> None:
    for how, outcome in outcomes(case.id):
        assert (outcome.status, outcome.message) == (0, ""), how
        assert (len(outcome.requests), outcome.rest) == (len(case.requests), case.rest), how
        for wanted, (request, body) in zip(case.requests, outcome.requests, strict=True):
            assert seen(wanted, request, body) == wanted, how
        plain = play([case.data], case.limits, force_general=True)
        assert outcome.requests == plain.requests, how


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.id)
def test_invalid(case: Case) -> None:
    for how, outcome in outcomes(case.id):
        assert (outcome.status, len(outcome.requests)) == (case.status, case.after), (
            f"{how}: {outcome.message}"
        )
        assert outcome.message.isascii(), how
        assert outcome.message.isprintable(), how


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.id)
def test_one_reason_however_it_was_cut(case: Case) -> None:
    assert len({outcome.message for _, outcome in outcomes(case.id)}) == 1


@pytest.mark.parametrize("case", [case for case in VALID if case.strict], ids=lambda case: case.id)
def test_strict_takes_it(case: Case) -> None:
    assert isinstance(parse_head(case.data, case.limits), RequestReceived)


def test_strict_takes_nothing_invalid() -> None:
    taken = [case.id for case in INVALID if not case.after and whole_head_taken(case)]
    # What is wrong with these is in the body, behind a head that is right.
    assert {name.partition(":")[0] for name in taken} <= {"chunked", "trailers"}


def whole_head_taken(case: Case) -> bool:
    taken = parse_head(case.data, case.limits)
    return taken is not None and taken is not NOT_TAKEN


def test_the_corpus_is_large_and_names_its_sources() -> None:
    cases = VALID + INVALID
    assert len(cases) > 1100
    assert len({case.id for case in cases}) == len(cases)
    assert all(case.rfc for case in cases)
    assert {case.status for case in INVALID} == {400, 413, 414, 417, 431, 501, 505}


def test_a_message_never_repeats_what_the_client_sent() -> None:
    marker = b"zq\x80xw"
    limits = HeadLimits(100, 200, 3)
    for data in (
        b"GET /%s HTTP/1.1\r\n\r\n" % marker,
        b"%s / HTTP/1.1\r\n\r\n" % marker,
        b"GET / %s\r\n\r\n" % marker,
        b"GET / HTTP/1.1\r\n%s\r\n\r\n" % marker,
        b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % marker,
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\n\r\n" % marker,
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %s\r\n\r\n" % marker,
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: %s\r\n\r\n" % marker,
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % marker,
    ):
        outcome = play([data], limits, force_general=False)
        assert outcome.status >= 400
        assert "zq" not in outcome.message
