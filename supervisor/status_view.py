"""What `serverd status` prints for people, and `top` again and again: pure, from the answer's `status` to lines.

Promises: what is missing in the answer of another version is left out, and never fails; nothing that came from a
client or an application can move the cursor. At 80 columns nothing wraps that has a column of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from ..config.logs import escape_text

Status = Mapping[str, Any]

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_HEADINGS: Final = ("child", "pid", "state", "age", "busy", "requests", "memory", "oldest request")
_RIGHT: Final = frozenset({"pid", "age", "busy", "requests", "memory"})
_MOST_REASONS: Final = 6


def lines(status: Status, width: int = 10_000) -> list[str]:
    """All of it, cut at `width` columns."""
    found = [*head(status), "", *table(status)]
    return [escape_text(line)[:width] for line in found]


def _missing(status: Status) -> str:
    """What of the generation that serves is not there; empty when all is well, and while the server stops."""
    wanted, generation = status.get("wanted") or 0, status.get("generation")
    if generation is None or status.get("state") not in ("serving", "reloading"):
        return ""
    ready = sum(
        child.get("state") == "ready" and str(child.get("name")).endswith(f" g{generation}")
        for child in status.get("children", ())
    )
    if ready >= wanted > 0:
        return ""
    return f"{ready} of {wanted} children, the log says why" if ready else "NO CHILD SERVES, the log says why"


def head(status: Status) -> Iterator[str]:
    """The daemon as a whole."""
    where = f", {status['config']}" if status.get("config") else ""
    yield f"serverd {status.get('version', '?')}: {status.get('app', '?')}{where}"
    up = age(status.get("at", 0) - status.get("started", 0))
    booting = f", generation {status['booting']} boots" if status.get("booting") is not None else ""
    generation = status.get("generation")
    serves = f"generation {generation}" if generation is not None else "no generation serves yet"
    if missing := _missing(status):
        serves += f" ({missing})"
    kind = f"Python {status.get('python', '?')}, mode {status.get('mode', '?')}"
    yield f"{status.get('state', '?')}, {serves}{booting}; up {up}, pid {status.get('pid', '?')}, {kind}"
    if status.get("listeners"):
        yield f"listening on {', '.join(status['listeners'])}"
    yield f"reloads: {_reloads(status)}"
    if restarts := _named(status.get("restarts", {})):
        yield f"children replaced: {restarts}"
    if status.get("lost_threads"):
        yield f"threads that never came back: {status['lost_threads']}"
    if template := status.get("resident", {}).get("template"):
        yield f"children are forked from a template of {memory(template)}"
    totals = status.get("totals", {})
    yield f"requests: {_requests(totals)}"
    if totals.get("refused"):
        yield f"connections beyond limits.connections_per_address: {totals['refused']:,} closed at once"
    if totals.get("seen_off"):
        yield f"connections at limits.connections: {totals['seen_off']:,} idle ones closed for new ones"


def table(status: Status) -> list[str]:
    """A line for each child, under headings."""
    rows = [_row(child) for child in status.get("children", ())]
    return columns(_HEADINGS, rows, _RIGHT)


def columns(headings: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[str]) -> list[str]:
    """Aligned text; the last column is as wide as it wants to be."""
    every = [tuple(headings), *map(tuple, rows)]
    widths = [max(len(row[place]) for row in every) for place in range(len(headings))]
    found = []
    for row in every:
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        found.append("  ".join(cells).rstrip())
    return found


def under_way(child: Status) -> list[tuple[float, str]]:
    """The requests that a child has in hand, the oldest first: (seconds, what it is)."""
    held = [
        (float(thread.get("seconds", 0)), f"{thread.get('method')} {thread.get('path')}")
        for thread in child.get("threads", ())
        if "seconds" in thread
    ]
    waiting = [
        (float(item.get("seconds", 0)), f"{item.get('method')} {item.get('path')}{_kind(item)}")
        for item in child.get("waiting", ())
    ]
    return sorted([*held, *waiting], key=lambda item: -item[0])


def age(seconds: float) -> str:
    """`3.2 s`, `4 min`, `2 d 5 h`: two units at most, as a person says it."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    rest = int(seconds)
    parts: list[str] = []
    for unit, name in _UNITS:
        number, rest = divmod(rest, unit)
        if number or parts:
            parts.append(f"{number} {name}")
        if len(parts) == 2 or (parts and name == "min"):
            break
    return " ".join(part for part in parts if not part.startswith("0 "))


def memory(size: int) -> str:
    """`53 MiB`."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 10 * (1 << 30) else f"{size >> 20} MiB"


def quantile(part: float, counts: Sequence[int], bounds: Sequence[float]) -> str:
    """A bound below which `part` of a histogram's values are: `≤ 5 ms`; empty when there are none."""
    total = sum(counts)
    if not total:
        return ""
    for bound, so_far in zip(bounds, accumulate(counts), strict=False):
        if so_far >= part * total:
            return f"≤ {bound * 1000:g} ms" if bound < 1 else f"≤ {bound:g} s"
    return f"> {bounds[-1]:g} s"


def _kind(item: Mapping[str, Any]) -> str:
    return "" if item.get("kind") == "request" else f" ({item.get('kind')})"


def _row(child: Status) -> tuple[str, ...]:
    oldest = under_way(child)
    longest = f"{age(oldest[0][0])} {oldest[0][1]}" if oldest else "-"
    more = f" (and {len(oldest) - 1} more)" if len(oldest) > 1 else ""
    return (
        escape_text(str(child.get("name", "?"))),
        str(child.get("pid", "?")),
        str(child.get("state", "?")),
        age(child.get("seconds", 0)),
        busy(child),
        f"{child.get('requests', 0):,}",
        memory(child.get("resident", 0)),
        longest + more,
    )


def busy(child: Status) -> str:
    """`3/8` threads; `loop` when there are none."""
    states = child.get("states", {})
    total = sum(states.values())
    return f"{total - states.get('idle', 0)}/{total}" if total else "-"


def _reloads(status: Status) -> str:
    done = status.get("reloads", {})
    last = status.get("last_reload")
    if last is None:
        return "none yet"
    how = "done" if last.get("ok") else "failed"
    ago = age(status.get("at", 0) - last.get("at", 0))
    numbers = f"{done.get('succeeded', 0)} done, {done.get('failed', 0)} failed"
    return f"{numbers}; the last {how} {ago} ago: {last.get('reason', '')}"


def _requests(totals: Mapping[str, Any]) -> str:
    by_status = _named(totals.get("by_status", {}))
    latency, bounds = totals.get("latency", {}), totals.get("bounds", ())
    found = f"{totals.get('requests', 0):,}" + (f" ({by_status})" if by_status else "")
    if bounds and (half := quantile(0.5, latency.get("counts", ()), bounds)):
        found += f"; half took {half}, 99 % {quantile(0.99, latency['counts'], bounds)}"
    return found


def _named(numbers: Mapping[str, int]) -> str:
    """Those that are not 0."""
    found = [f"{name} {number:,}" for name, number in numbers.items() if number]
    more = [f"and {len(found) - _MOST_REASONS} more"] if len(found) > _MOST_REASONS else []
    return ", ".join([*found[:_MOST_REASONS], *more])
