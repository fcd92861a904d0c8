"""How a cost or a throughput grows with n: lines, the Universal Scalability Law, and knees. Pure functions of points.

Residuals are relative, (fit − seen) / seen: sizes go from nothing to ten megabytes and their costs with them, and with
absolute ones only the largest would count. `freedom` is how many points there are beyond the parameters: a fit with
none goes through every point and says nothing about whether the formula is right. `r2` is 1 − (what the fit leaves of
the squared relative deviations) / (those from the best constant), None where that is no question: no freedom, or all
values equal.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

type Points = Sequence[tuple[float, float]]  # (n, what was seen there); all seen are above 0

PEAK = 0.95  # of the best throughput: what differs by less is not told apart in rounds of a second


@dataclass(frozen=True, slots=True)
class Line:
    """seen = a + b · n."""

    a: float
    b: float
    r2: float | None
    freedom: int

    def at(self, n: float) -> float:
        """The cost that it gives for n."""
        return self.a + self.b * n


@dataclass(frozen=True, slots=True)
class Usl:
    """X(n) = rate · n / (1 + contention · (n − 1) + coherence · n · (n − 1)): σ is contention, κ is coherence.

    N. J. Gunther, Guerrilla Capacity Planning (2007), chapter 4. Neither is below 0 here.
    """

    rate: float
    contention: float
    coherence: float
    r2: float | None
    freedom: int

    def at(self, n: float) -> float:
        """The throughput that it gives for n."""
        return self.rate * n / (1 + self.contention * (n - 1) + self.coherence * n * (n - 1))

    @property
    def peak(self) -> float:
        """The n of the highest throughput; infinite without coherence."""
        if self.coherence <= 0:
            return math.inf
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherence)


@dataclass(frozen=True, slots=True)
class Knee:
    """Where n costs more than before: from `n` on, each step of n costs `after` where it had cost `before`."""

    n: float
    before: float
    after: float


def line(points: Points) -> Line | None:
    """Least squares of relative residuals; None for fewer than two different n."""
    if len({n for n, _ in points}) < 2:
        return None
    found = _least_squares([([1.0, n], seen) for n, seen in points])
    if found is None:
        return None
    a, b = found
    return Line(a, b, _r2(points, lambda n: a + b * n, 2), len(points) - 2)


def usl(points: Points) -> Usl | None:
    """The law through points (n, throughput) with n from 1 on; None for fewer than two different n.

    n / X(n) = (1 + σ (n − 1) + κ n (n − 1)) / λ is linear in 1/λ, σ/λ and κ/λ, and a small relative residual of n / X
    is one of X. `r2` is that of X: below 0 where the points are too far apart for a curve to say more than a constant.
    With two different n there is no κ to be had (0). Where the best σ or κ were below 0, the best with 0 is
    taken: those are all the cases that there are.
    """
    different = len({n for n, _ in points})
    if different < 2:
        return None
    choices = (
        [(True, False), (False, False)] if different == 2 else [(True, True), (True, False), (False, True)]
    )
    best: tuple[float, list[float]] | None = None
    for contention, coherence in [*choices, (False, False)]:
        rows = [([1.0, *[n - 1] * contention, *[n * (n - 1)] * coherence], n / rate) for n, rate in points]
        found = _least_squares(rows)
        if found is None or found[0] <= 0 or min(found[1:], default=0.0) < 0:
            continue
        left = sum(
            ((sum(c * t for c, t in zip(found, terms, strict=True)) - y) / y) ** 2 for terms, y in rows
        )
        rest = iter(found[1:])
        full = [found[0], next(rest) if contention else 0.0, next(rest) if coherence else 0.0]
        if best is None or left < best[0]:
            best = left, full
    if best is None:
        return None
    slowness, sigma, kappa = best[1]
    law = Usl(1 / slowness, sigma / slowness, kappa / slowness, None, len(points) - min(3, different))
    return Usl(law.rate, law.contention, law.coherence, _r2(points, law.at, min(3, different)), law.freedom)


def knee(points: Points, noise: Sequence[float]) -> Knee | None:
    """The first point from which on a step of n costs at least twice what it cost before; None where there is none.

    Before: the slope of the line through all points up to there, three at least. `noise` is how far each seen may be
    off: a rise counts only where what it exceeds the line by is more than that of the points beside it, and where the
    steps behind it, all together, stay as dear (one bad point is no knee).
    """
    ordered = sorted(zip(points, noise, strict=True))
    for index in range(2, len(ordered) - 1):
        here, there = ordered[index], ordered[index + 1]
        before = line([point for point, _ in ordered[: index + 1]])
        if before is None:
            continue
        slope = max(before.b, 0.0)
        (n, seen), (more, dearer) = here[0], there[0]
        off = here[1] + there[1]
        after = (dearer - seen) / (more - n)
        last, dearest = ordered[-1][0]
        if (
            after >= 2 * slope
            and (dearest - seen) / (last - n) >= 2 * slope
            and dearer - seen - slope * (more - n) > off
        ):
            return Knee(n, slope, after)
    return None


def peak(points: Points) -> tuple[float, float]:
    """The least n that gives `PEAK` of the best throughput, and the largest from which on it is no more given."""
    ordered = sorted(points)
    enough = PEAK * max(rate for _, rate in ordered)
    reached = [n for n, rate in ordered if rate >= enough]
    return reached[0], reached[-1]


def _r2(points: Points, fit: Callable[[float], float], parameters: int) -> float | None:
    """See the module."""
    if len(points) <= parameters:
        return None
    # The constant c with the least sum of ((c - y) / y)^2.
    constant = sum(1 / y for _, y in points) / sum(1 / y**2 for _, y in points)
    whole = sum(((constant - y) / y) ** 2 for _, y in points)
    left = sum(((fit(n) - y) / y) ** 2 for n, y in points)
    return None if whole < 1e-12 else 1 - left / whole


def _least_squares(rows: Sequence[tuple[Sequence[float], float]]) -> list[float] | None:
    """The coefficients of the terms that give each y best, in relative residuals; None where they are not determined.

    The normal equations, solved by elimination with pivoting; terms are scaled by their largest, as n may be 10^7.
    """
    count = len(rows[0][0])
    scale = [max(abs(terms[i]) for terms, _ in rows) or 1.0 for i in range(count)]
    scaled = [[term / size / y for term, size in zip(terms, scale, strict=True)] for terms, y in rows]
    table = [
        [*(sum(row[i] * row[j] for row in scaled) for j in range(count)), sum(row[i] for row in scaled)]
        for i in range(count)
    ]
    for i in range(count):
        pivot = max(range(i, count), key=lambda at: abs(table[at][i]))
        table[i], table[pivot] = table[pivot], table[i]
        if abs(table[i][i]) < 1e-12 * max(abs(value) for row in table for value in row[:count]):
            return None
        for other in range(count):
            if other != i:
                factor = table[other][i] / table[i][i]
                table[other] = [a - factor * b for a, b in zip(table[other], table[i], strict=True)]
    return [table[i][count] / table[i][i] / scale[i] for i in range(count)]
