"""Each of the 256 bytes in each place of a request, through both parsers, whole and byte by byte."""

from __future__ import annotations

from typing import Any

import pytest

from serverd.server.http import RequestReceived

from .support.corpus import play
from .support.corpus_bytes import PLACES, Place, byte_cases


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.title)
def test_every_byte(place: Place) -> None:
    for byte, case in enumerate(byte_cases(place)):
        single = [case.data[at : at + 1] for at in range(len(case.data))]
        # What is not complete goes to the general parser in any case.
        outcomes = [
            play([case.data], case.limits, force_general=False),
            play([case.data], case.limits, force_general=True),
            play(single, case.limits, force_general=False),
        ]
        assert {outcome.status for outcome in outcomes} == {case.status}, (case.id, outcomes[0])
        assert len({outcome.message for outcome in outcomes}) == 1, case.id
        assert all(outcome.requests == outcomes[0].requests for outcome in outcomes), case.id
        assert len(outcomes[0].requests) == (case.status == 0), case.id
        assert {outcome.rest for outcome in outcomes} == {b""}, case.id
        if byte in place.good and place.sees is not None:
            wanted = place.sees(bytes([byte]))
            assert seen(wanted, *outcomes[0].requests[0]) == wanted, case.id


def seen(wanted: dict[str, Any], request: RequestReceived, body: bytes) -> dict[str, Any]:
    return {name: body if name == "body" else getattr(request, name) for name in wanted}


def test_the_table_is_whole() -> None:
    assert len({place.title for place in PLACES}) == len(PLACES)
    assert len(PLACES) * 256 > 10_000
    for place in PLACES:
        assert place.data(b"@").count(b"@") == 1, place.title
