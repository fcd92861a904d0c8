"""What came of the mixed load, as tables a person can read; and the verdict.

Judged: failures that no event explains, lines of the log that none does, what was left behind, and growth. A process
that lived through the whole steady part may grow by `MOST` percent in it, a master that lived through everything by as
much over everything; children are compared with earlier children after the same number of requests.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from .faults import unexpected
from .memory import Count, Sample, at_age, at_requests, growth, series
from .tally import LEAVING, Failure, Tally

MOST: Final = 2.0  # percent
# So many requests a child has answered when it is compared with others.
SEASONED: Final = 500
_GROWN_UP: Final = 10.0  # seconds
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run."""

    name: str
    began: float
    ended: float


@dataclass(slots=True)
class Record:
    """What was seen beside the clients. `requests`: of each child, by its number, as the control socket said last."""

    samples: list[Sample] = field(default_factory=list)
    requests: dict[int, int] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=dict)
    counts: list[Count] = field(default_factory=list)


def report(
    tally: Tally, record: Record, logs: dict[str, list[tuple[float, str]]], problems: list[str]
) -> int:
    """Print it; the exit status: 0 nothing was unexpected, 1 something was."""
    found = list(problems)
    _print_traffic(tally)
    excused, left = tally.verdicts()
    _print_faults(record, excused)
    found += _told(left, _begin(record))
    for name, lines in logs.items():
        events = [event for event in tally.events if event.daemon == name]
        found += [
            f"{name}, in the log: {line.strip()[:600]}"
            for at, line in lines
            if unexpected(at, line, events, LEAVING)
        ]
    found += _print_steady(record)
    found += _print_life(record)
    print(f"\nunexpected: {len(found)}")
    alike = Counter(re.sub(r"0x[0-9a-f]+", "0x…", line) for line in found)
    for line, count in list(alike.items())[:_SHOWN]:
        print(f"  {line}" + (f"  ({count} times)" if count > 1 else ""))
    if len(alike) > _SHOWN:
        print(f"  and {len(alike) - _SHOWN} more")
    return 1 if found else 0


def _begin(record: Record) -> float:
    return record.parts[0].began if record.parts else 0.0


def _told(left: list[Failure], began: float) -> list[str]:
    """Failures that are alike, in one line with when the first of them was."""
    alike: dict[tuple[str, str, str], list[Failure]] = defaultdict(list)
    for failure in left:
        alike[failure.daemon, failure.kind, failure.why.split(":")[0]].append(failure)
    return [
        f"{len(them)} × {one.daemon}, {one.kind}: {one.why[:300]}; the first after {one.at - began:.1f} s "
        f"(child {one.pid}, {one.at - one.proven:.1f} s)"
        for them in alike.values()
        for one in them[:1]
    ]


def _print_traffic(tally: Tally) -> None:
    print(f"\n{sum(tally.answered.values())} exchanges were as they should be")
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for (daemon, kind), number in tally.answered.items():
        kinds[kind][daemon] = f"{number} ({tally.slowest[daemon, kind]:.1f} s)"
    daemons = sorted({daemon for daemon, _ in tally.answered})
    _table(
        ["kind (slowest turn)", *daemons],
        [[kind, *(by.get(name, "") for name in daemons)] for kind, by in kinds.items()],
    )


def _print_faults(record: Record, excused: Counter[str]) -> None:
    if record.took:
        print()
        rows = [
            [
                what,
                str(len(times)),
                f"{statistics.median(times):.2f}",
                f"{max(times):.2f}",
                str(excused[what]),
            ]
            for what, times in sorted(record.took.items())
        ]
        _table(["event", "times", "median s", "longest s", "failures it explains"], rows)
    if excused["late"]:
        print(
            f"\nthe load itself was late, which explains {excused['late']} failures: the machine is too busy"
        )


def _print_steady(record: Record) -> Iterator[str]:
    """Every process that was there through the whole steady part: before nothing was done to it, nothing shall grow."""
    part = next((part for part in record.parts if part.name == "steady"), None)
    if part is None:
        return
    rows = []
    for who, samples in _by_process(record.samples):
        inside = [one for one in samples if part.began <= one.at <= part.ended]
        if len(inside) < 8 or inside[-1].at < part.ended - 30:
            continue
        rows.append(_row(who, inside))
        yield from _judged(who, inside, "in the steady part")
    if rows:
        print("\nthe steady part, first quarter to last")
        _table(_GROWTH, rows)
    _print_counts(record, part)


def _print_counts(record: Record, part: Part) -> None:
    """What the children of the steady part hold, in Python's own words: whether memory that grows is held by objects,
    or by the allocator."""
    rows = []
    for daemon, pid in sorted({(one.daemon, one.pid) for one in record.counts}):
        counts = [one for one in record.counts if one.pid == pid and part.began <= one.at <= part.ended]
        if len(counts) >= 4:
            objects = series([one.objects for one in counts], 8)
            blocks = series([one.blocks for one in counts], 8)
            rows.append(
                [
                    f"{daemon} worker {pid}",
                    *(" ".join(f"{n:.0f}" for n in them) for them in (objects, blocks)),
                ]
            )
    if rows:
        print("\nwhat their interpreters counted in the steady part")
        _table(["process", "objects", "blocks of memory"], rows)


def _print_life(record: Record) -> Iterator[str]:
    """Masters and admin processes from the steady part to the end; and children, old and new, at the same age."""
    began = next((part.began for part in record.parts if part.name == "steady"), None)
    if began is None or not record.samples:
        return
    rows, end = [], record.samples[-1].at
    for who, samples in _by_process(record.samples):
        inside = [one for one in samples if one.at >= began]
        if len(inside) >= 8 and inside[0].at < began + 30 and inside[-1].at > end - 30 and who[1] != "worker":
            rows.append(_row(who, inside))
            yield from _judged(who, inside, "from beginning to end")
    if rows:
        print("\nprocesses that lived to the end, first quarter to last")
        _table(_GROWTH, rows)
    rows = []
    for daemon in sorted({one.daemon for one in record.samples}):
        children = at_requests((one for one in record.samples if one.daemon == daemon), SEASONED)
        if len(children) < 8:
            continue
        found = growth([(one.at, float(one.rss)) for one in children])
        shown = " ".join(f"{value / 1024:.1f}" for value in series([one.rss for one in children], 8))
        rows.append([daemon, str(len(children)), f"{found.percent:+.1f} %", shown])
        if found.percent > MOST:
            yield f"{daemon}: later children hold {found.percent:.1f} % more after {SEASONED} requests"
    if rows:
        print(f"\nchildren after {SEASONED} requests, the first quarter of them to the last")
        _table(["daemon", "children", "RSS", "MiB, as they came"], rows)
    yield from _print_masters(record)


def _print_masters(record: Record) -> Iterator[str]:
    """The masters that have followed each other in upgrades, each at the same age."""
    rows = []
    for daemon in sorted({one.daemon for one in record.samples}):
        masters = at_age((one for one in record.samples if one.daemon == daemon), _GROWN_UP)
        if len(masters) < 4:
            continue
        sizes = growth([(one.at, float(one.rss)) for one in masters])
        shown = " ".join(f"{one.rss / 1024:.1f}" for one in masters)
        fds = " ".join(str(one.fds) for one in masters)
        rows.append([daemon, str(len(masters)), f"{sizes.percent:+.1f} %", shown, fds])
        if sizes.percent > MOST:
            yield f"{daemon}: later masters hold {sizes.percent:.1f} % more"
        if masters[-1].fds > masters[0].fds + 4:
            yield f"{daemon}: later masters have more descriptors: {fds}"
    if rows:
        print(
            f"\nmasters that followed each other, each {_GROWN_UP:g} s old, the first quarter of them to the last"
        )
        _table(["daemon", "masters", "RSS", "MiB", "descriptors"], rows)


_GROWTH: Final = ["process", "RSS", "MiB", "private", "a trend of MiB/h", "descriptors", "threads"]


def _row(who: tuple[str, str, int], samples: list[Sample]) -> list[str]:
    sizes = growth([(one.at, float(one.rss)) for one in samples])
    private = growth([(one.at, float(one.private)) for one in samples])
    return [
        f"{who[0]} {who[1]} {who[2]}",
        f"{sizes.percent:+.1f} %",
        " ".join(f"{value / 1024:.1f}" for value in series([one.rss for one in samples], 8)),
        f"{private.percent:+.1f} %",
        f"{sizes.hourly / 1024:+.2f}",
        " ".join(f"{value:.0f}" for value in series([one.fds for one in samples], 4)),
        " ".join(f"{value:.0f}" for value in series([one.threads for one in samples], 4)),
    ]


def _judged(who: tuple[str, str, int], samples: list[Sample], when: str) -> Iterator[str]:
    name = " ".join(map(str, who))
    sizes = growth([(one.at, float(one.rss)) for one in samples])
    if sizes.percent > MOST:
        yield f"{name} grew by {sizes.percent:.1f} % {when}: {sizes.first / 1024:.1f} to {sizes.last / 1024:.1f} MiB"
    for what in ("fds", "threads"):
        numbers = growth([(one.at, float(getattr(one, what))) for one in samples])
        if numbers.last > numbers.first * 1.1 + 2:
            yield f"{name} had {numbers.first:.0f} {what} and has {numbers.last:.0f}, {when}"


def _by_process(samples: Iterable[Sample]) -> list[tuple[tuple[str, str, int], list[Sample]]]:
    found: dict[tuple[str, str, int], list[Sample]] = defaultdict(list)
    for one in samples:
        found[one.daemon, one.role, one.pid].append(one)
    return sorted(found.items())


def _table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
