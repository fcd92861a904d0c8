"""Whether a new generation does worse than the one it is to replace, from what both answered side by side.

Promises: pure functions over counts; nobody is blamed for chance: a share of errors counts when it is larger by more
than chance explains (a one-sided test of two proportions), latency when half of the new answers take twice as long as
nine tenths of the old ones. Refuses to judge from a handful of responses: too few pass, with that said.

Any thread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from ..server.scoreboard import BOUNDS, Totals

# Standard deviations by which the share of errors must exceed the old one: 3 is one false alarm in 740 looks at noise.
_SIGMA: Final = 3.0
# So many errors, and responses, before anybody is blamed: one failing request out of three proves little.
_LEAST_ERRORS: Final = 3
_LEAST: Final = 20
# Latency: nine tenths of the old answers stay below some bound of the histogram, and half of the new ones should stay
# below the next one, which is 2 to 2.5 times as far: else 4.9 ms against 5.1 would be a reason to roll back.
_MOST_OLD: Final = 0.9
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """What was answered in a span of time: requests that have ended, those of them that failed (5xx, or the client
    left before the answer was complete), and how many took how long (for each of BOUNDS, then the rest)."""

    responses: int
    errors: int
    latency: tuple[int, ...]

    @classmethod
    def between(cls, before: Totals, after: Totals) -> Sample:
        """The difference of two readings of the same counters. They only grow, unless a child has written nonsense."""
        mine, theirs = after.by_class, before.by_class
        grown = {name: max(0, mine[name] - theirs[name]) for name in mine}
        return cls(
            responses=sum(grown.values()),
            errors=grown["5xx"] + grown["cut"],
            latency=tuple(max(0, new - old) for new, old in zip(after.latency, before.latency, strict=True)),
        )


def complaint(old: Sample, new: Sample) -> str:
    """What is worse about `new`, in words; empty when nothing is, as far as can be told."""
    return _more_errors(old, new) or _slower(old, new)


def hangs(held: float, held_before: float, seconds: float) -> str:
    """What is worse about a child whose oldest request is `held` seconds old at the end of a trial of `seconds`, where
    that of the old children is `held_before` old. One that answers nothing has no answers to compare."""
    if held <= seconds / 2 or held_before > seconds / 2:
        return ""
    return f"a request has waited {held:.1f} s for its answer, {held_before:.1f} s before"


def verdict(new: Sample) -> str:
    """What to say of one that has passed."""
    few = "" if new.responses >= _LEAST else ", too few to compare"
    return f"canary: {new.responses} requests, {new.errors} of them failed{few}"


def _more_errors(old: Sample, new: Sample) -> str:
    if new.errors < _LEAST_ERRORS or not new.responses:
        return ""
    share = new.errors / new.responses
    if not old.responses:
        # Nothing to compare with: half of all failing needs no comparison.
        return f"{_percent(share)} of {new.responses} requests failed" if share >= _HALF else ""
    old_share = old.errors / old.responses
    together = (old.errors + new.errors) / (old.responses + new.responses)
    spread = math.sqrt(together * (1 - together) * (1 / old.responses + 1 / new.responses))
    if share - old_share <= _SIGMA * spread:
        return ""
    return f"{_percent(share)} of {new.responses} requests failed, {_percent(old_share)} of {old.responses} before"


def _slower(old: Sample, new: Sample) -> str:
    seen, mine = sum(old.latency), sum(new.latency)
    if seen < _LEAST or mine < _LEAST:
        return ""
    # The bucket that holds the slowest of the fast nine tenths: its upper bound is what they stay below.
    place = next(at for at, count in enumerate(accumulate(old.latency)) if count >= _MOST_OLD * seen)
    slow = sum(new.latency[place + 2 :]) / mine
    if place + 1 >= len(BOUNDS) or slow <= _HALF:
        return ""
    bound = f"{BOUNDS[place + 1] * 1000:g} ms"
    old_slow = sum(old.latency[place + 2 :]) / seen
    return (
        f"{_percent(slow)} of {mine} requests took longer than {bound}, {_percent(old_slow)} of {seen} before"
    )


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
