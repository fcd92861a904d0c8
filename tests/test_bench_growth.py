"""What the benchmark says of growth: fits that find what a series was made from, and say when they cannot know.

`benchmarks` is no package of ours, so the module is loaded from its file: it imports nothing but the standard library.
"""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "bench" / "growth_fit.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("growth_fit_of_the_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fit = load()
SIZES = (0, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
COUNTS = (1, 2, 4, 8, 16, 32, 64)


@given(st.floats(1, 1000), st.floats(0, 1e-2))
def test_a_line_is_found_in_points_over_seven_powers_of_ten(a: float, b: float) -> None:
    found = fit.line([(n, a + b * n) for n in SIZES])
    assert found.a == pytest.approx(a, rel=1e-6)
    assert found.b == pytest.approx(b, rel=1e-6, abs=1e-12)
    assert found.freedom == 4
    assert found.at(500) == pytest.approx(a + b * 500, rel=1e-6)


def test_small_values_count_as_much_as_large_ones() -> None:
    # With absolute residuals the last point alone would make the line, and 10 µs at the beginning would be lost.
    found = fit.line(
        [(n, (10 + n / 1000) * wobble) for n, wobble in zip(SIZES, (1, 1, 1, 1, 1.1, 0.9), strict=True)]
    )
    assert found.a == pytest.approx(10, rel=0.05)
    assert 0.9 < found.r2 <= 1


def test_a_line_through_two_points_says_that_it_proves_nothing() -> None:
    found = fit.line([(1, 10.0), (2, 30.0)])
    assert (found.a, found.b) == pytest.approx((-10, 20))
    assert (found.r2, found.freedom) == (None, 0)


def test_no_line_through_one_n() -> None:
    assert fit.line([]) is None
    assert fit.line([(4, 1.0), (4, 2.0)]) is None


def test_equal_costs_have_no_r2() -> None:
    found = fit.line([(n, 5.0) for n in COUNTS])
    assert found.b == pytest.approx(0, abs=1e-9)
    assert found.r2 is None


@given(st.floats(10, 1e6), st.floats(0, 0.9), st.floats(0, 0.05))
def test_the_law_is_found_in_points_that_follow_it(rate: float, contention: float, coherence: float) -> None:
    law = fit.Usl(rate, contention, coherence, None, 0)
    found = fit.usl([(n, law.at(n)) for n in COUNTS])
    assert found.rate == pytest.approx(rate, rel=1e-4)
    assert found.contention == pytest.approx(contention, rel=1e-3, abs=1e-4)
    assert found.coherence == pytest.approx(coherence, rel=1e-3, abs=1e-5)
    assert found.freedom == 4


def test_the_peak_of_the_law() -> None:
    law = fit.Usl(1000.0, 0.1, 0.001, None, 0)
    around = [law.at(law.peak + step) for step in (-1, 0, 1)]
    assert law.peak == pytest.approx(math.sqrt(0.9 / 0.001))
    assert max(around) == around[1]
    assert fit.Usl(1000.0, 0.1, 0.0, None, 0).peak == math.inf


def test_the_law_is_never_better_than_perfect() -> None:
    # Two CPUs gave 2.2 times as much, as noise goes: a contention below 0 would promise ever more.
    found = fit.usl([(1, 100.0), (2, 220.0), (4, 410.0)])
    assert found.contention >= 0
    assert found.coherence >= 0


def test_two_points_give_contention_alone_and_no_freedom() -> None:
    found = fit.usl([(1, 100.0), (2, 160.0)])
    assert found.rate == pytest.approx(100)
    assert found.contention == pytest.approx(2 * 100 / 160 - 1)
    assert (found.coherence, found.freedom, found.r2) == (0.0, 0, None)


def test_three_points_are_no_test_of_the_law() -> None:
    found = fit.usl([(1, 100.0), (2, 180.0), (4, 300.0)])
    assert (found.freedom, found.r2) == (0, None)


def test_no_law_through_one_n() -> None:
    assert fit.usl([(1, 100.0)]) is None


def test_a_knee_is_where_a_step_costs_twice_as_much_for_good() -> None:
    costs = [20 + n if n <= 32 else 20 + 32 + 5 * (n - 32) for n in (0, 8, 16, 32, 64, 99)]
    found = fit.knee(list(zip((0, 8, 16, 32, 64, 99), costs, strict=True)), [0.5] * 6)
    assert found.n == 32
    assert found.before == pytest.approx(1)
    assert found.after == pytest.approx(5)


def test_a_straight_line_has_no_knee() -> None:
    assert fit.knee([(n, 20 + n) for n in COUNTS], [0.5] * 7) is None


def test_one_bad_point_is_no_knee() -> None:
    points = [(n, 20.0 + n) for n in COUNTS]
    points[4] = (16, 70.0)
    assert fit.knee(points, [0.5] * 7) is None


def test_what_the_noise_may_have_made_is_no_knee() -> None:
    points = [(0, 20.0), (1, 20.1), (2, 20.0), (3, 20.1), (4, 21.5)]
    assert fit.knee(points, [1.0] * 5) is None
    assert fit.knee(points, [0.1] * 5).n == 3


def test_the_least_n_that_gives_nearly_the_best_throughput_and_the_last() -> None:
    points = [(1, 10.0), (2, 19.0), (4, 30.0), (8, 31.0), (16, 30.0), (32, 20.0)]
    assert fit.peak(points) == (4, 16)
