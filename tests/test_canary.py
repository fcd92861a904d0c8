"""canary: what is worse, and what is chance."""

from __future__ import annotations

import random

import pytest

from serverd.server.scoreboard import BOUNDS, Totals
from serverd.supervisor.canary import Sample, complaint, hangs, verdict

BUCKETS = len(BOUNDS) + 1


def sample(responses: int, errors: int = 0, **at: int) -> Sample:
    """`b3=10`: ten responses in the third bucket; without any all are in the first."""
    latency = [0] * BUCKETS
    for name, count in at.items():
        latency[int(name[1:])] += count
    if not at:
        latency[0] = responses
    return Sample(responses, errors, tuple(latency))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (sample(1000), sample(1000), ""),
        (sample(1000), sample(0), ""),
        (sample(1000, 5), sample(1000, 9), ""),
        (sample(1000, 1), sample(10, 2), ""),
        (sample(1000), sample(100, 12), "12 % of 100 requests failed, 0 % of 1000 before"),
        (sample(10_000, 10), sample(1000, 20), "2 % of 1000 requests failed, 0.1 % of 10000 before"),
        (sample(1000, 500), sample(1000, 510), ""),
        (sample(0), sample(10, 4), ""),
        (sample(0), sample(10, 5), "50 % of 10 requests failed"),
        (sample(10, 10), sample(10, 10), ""),
        (sample(100, b3=100), sample(100, b4=100), ""),
        (
            sample(100, b3=100),
            sample(100, b3=40, b5=60),
            "60 % of 100 requests took longer than 10 ms, 0 % of 100 before",
        ),
        (sample(100, b1=85, b6=15), sample(100, b2=100), ""),
        (sample(100, b3=100), sample(19, b9=19), ""),
        (sample(100, **{f"b{BUCKETS - 1}": 100}), sample(100, **{f"b{BUCKETS - 1}": 100}), ""),
    ],
)
def test_complaints(old: Sample, new: Sample, words: str) -> None:
    assert complaint(old, new) == words


def test_chance_alone_is_hardly_ever_blamed() -> None:
    chance = random.Random(11)
    blamed = 0
    for _ in range(1000):
        both = [sum(chance.random() < 0.02 for _ in range(200)) for _ in range(2)]
        blamed += complaint(sample(200, both[0]), sample(200, both[1])) != ""
    assert blamed <= 5


def test_a_sample_is_the_difference_of_two_readings() -> None:
    def totals(ok: int, failed: int, cut: int) -> Totals:
        rows = [[0] * BUCKETS for _ in range(6)]
        rows[2][0], rows[5][4], rows[0][1] = ok, failed, cut
        return Totals(rows=tuple(map(tuple, rows)))

    found = Sample.between(totals(10, 2, 1), totals(15, 5, 9))
    assert (found.responses, found.errors) == (16, 11)
    assert found.latency[:5] == (5, 8, 0, 0, 3)


def test_what_is_said_of_one_that_passed() -> None:
    assert verdict(sample(500, 1)) == "canary: 500 requests, 1 of them failed"
    assert verdict(sample(3)) == "canary: 3 requests, 0 of them failed, too few to compare"


def test_one_that_answers_nothing() -> None:
    assert hangs(8.0, 0.1, 10.0) == "a request has waited 8.0 s for its answer, 0.1 s before"
    assert hangs(4.9, 0.1, 10.0) == "", "it may yet come"
    assert hangs(9.0, 9.5, 10.0) == "", "the old ones have such requests too"
