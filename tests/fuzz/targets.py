"""What can be fuzzed: each target makes inputs from random numbers and holds them to its promises.

A new parser of bytes from the network gets a module with ``batch``, ``examine`` and ``examine_every_cut``, and a line
in TARGETS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from serverd.server.http import HeadLimits

from . import checks, frames, proxies, requests
from .mutate import Rnd


class Target(NamedTuple):
    """See the module. plain: an input as what JSON can hold (bytes as Latin-1), and ``build`` back again."""

    batch: Callable[[Rnd], list[Any]]
    examine: Callable[[Any, Rnd], list[str]]
    examine_every_cut: Callable[[Any], list[str]]
    plain: Callable[[Any], dict[str, Any]]
    build: Callable[[dict[str, Any]], Any]
    # Given out before anything random, so that a run of any length has seen them.
    first: tuple[Any, ...] = ()


def _plain_case(case: requests.Case) -> dict[str, Any]:
    limits = case.limits
    return {"data": case.data.decode("latin-1"), "limits": [limits.line, limits.head, limits.headers]}


def _build_case(plain: dict[str, Any]) -> requests.Case:
    return requests.Case(plain["data"].encode("latin-1"), HeadLimits(*plain["limits"]))


TARGETS: Final = {
    "requests": Target(
        requests.batch, checks.examine, checks.examine_every_cut, _plain_case, _build_case, requests.CORPUS
    ),
    "frames": Target(
        frames.batch,
        frames.examine,
        frames.examine_every_cut,
        lambda data: {"data": data.decode("latin-1")},
        lambda plain: plain["data"].encode("latin-1"),
    ),
    "proxies": Target(
        proxies.batch, proxies.examine, proxies.examine_every_cut, proxies.plain, proxies.build
    ),
}
