"""The control protocol: what is asked and what is answered, as bytes. One JSON object on a line, version 1.

    {"v": 1, "do": "reload", "wait": true}
    {"v": 1, "event": "taken"}
    {"v": 1, "ok": true, "line": "generation 2 ready in 0.31 s: 1 process × 4 threads"}

Promises: every line gives a `Request` with the fields of its command, each of the type that the table names, or a
`Refusal` whose one line says what is wrong; a line that is too long is refused once, however it goes on. An answer
is any number of events and one last line with "ok". Refuses to know sockets, clocks and what a command does.

Owned by whoever reads: the master's only thread, or a client.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

VERSION: Final = 1
# The longest request has fewer than 100 bytes; this is for what comes later, and bounds what a client makes us keep.
LONGEST_LINE: Final = 64 * 1024
# As many children as the configuration can ask for.
MOST_CHILDREN: Final = 1024

# Each command with its fields and their types; all fields may be left out.
COMMANDS: Final[Mapping[str, Mapping[str, type]]] = MappingProxyType(
    {
        "status": {},
        "reload": {"wait": bool},
        "scale": {"by": int, "to": int},
        "stop": {"fast": bool, "wait": bool},
        "stacks": {},
        "upgrade": {"wait": bool},
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """`do` is a key of COMMANDS; `fields` has those that were given."""

    do: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was sent is no request; `error` is one line about it. `final`: nothing after it can be understood."""

    error: str
    final: bool = False


class Lines:
    """Bytes in, requests out, for one connection."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._over = False

    @property
    def partial(self) -> bool:
        """Whether a request has begun and not ended, or has ended and was not taken."""
        return bool(self._rest)

    def feed(self, data: bytes) -> None:
        """What was received. Nothing is kept once the end has been said."""
        if not self._over:
            self._rest += data

    def take(self) -> Request | Refusal | None:
        """The next one, or None if none is complete."""
        while not self._over:
            end = self._rest.find(b"\n", 0, LONGEST_LINE + 1)
            if end < 0:
                if len(self._rest) <= LONGEST_LINE:
                    return None
                self._over = True
                self._rest.clear()
                return Refusal(f"a request may have {LONGEST_LINE} bytes, and this one has more", final=True)
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            if line.strip():
                return parse(line)
        return None


def parse(line: bytes) -> Request | Refusal:
    """The request that `line` is."""
    try:
        raw = json.loads(line)
    except ValueError, RecursionError:
        return Refusal(f"expected a JSON object on one line, got {_shown(line)}")
    if not isinstance(raw, dict):
        return Refusal(f"expected a JSON object, got {_shown(line)}")
    version, name = raw.pop("v", None), raw.pop("do", None)
    if type(version) is not int or version != VERSION:
        remedy = "use the serverd command of the version that runs"
        return Refusal(f'expected "v": {VERSION}, got {_json(version)}; {remedy}')
    if not isinstance(name, str) or name not in COMMANDS:
        return Refusal(f'"do": expected one of {", ".join(COMMANDS)}, got {_json(name)}')
    return _problem(name, raw) or Request(name, MappingProxyType(raw))


def _problem(name: str, raw: dict[str, Any]) -> Refusal | None:
    fields = COMMANDS[name]
    for key, value in raw.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            return Refusal(f"{name}: no field {_json(key)} (there are: {known})")
        if type(value) is not fields[key]:
            return Refusal(f'{name}: "{key}": expected {_type_name(fields[key])}, got {_json(value)}')
    if name == "scale":
        return _scale_problem(raw)
    return None


def _scale_problem(raw: dict[str, Any]) -> Refusal | None:
    if len(raw) != 1:
        return Refusal('scale: expected either "by" or "to"')
    if "to" in raw and not 1 <= raw["to"] <= MOST_CHILDREN:
        return Refusal(
            f'scale: "to": expected a whole number from 1 to {MOST_CHILDREN}, got {_json(raw["to"])}'
        )
    if "by" in raw and not 1 <= abs(raw["by"]) <= MOST_CHILDREN:
        return Refusal(f'scale: "by": expected a whole number up to ±{MOST_CHILDREN}, got {_json(raw["by"])}')
    return None


def request(do: str, **fields: object) -> bytes:
    """The line that asks for `do`."""
    return _line({"v": VERSION, "do": do, **fields})


def event(name: str, **fields: object) -> bytes:
    """A line before the last one of an answer."""
    return _line({"v": VERSION, "event": name, **fields})


def success(**fields: object) -> bytes:
    """The last line of an answer: it was done."""
    return _line({"v": VERSION, "ok": True, **fields})


def failure(error: str) -> bytes:
    """The last line of an answer: it was not done, and why."""
    return _line({"v": VERSION, "ok": False, "error": error})


def answers(chunks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """For clients: the objects of an answer, up to and with the one that has "ok". Raises ValueError for what is none.

    Ends early when `chunks` does.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            raw = json.loads(line)
            if not isinstance(raw, dict) or raw.get("v") != VERSION:
                raise ValueError(f"not an answer of version {VERSION}: {_shown(line)}")
            yield raw
            if "ok" in raw:
                return


def _line(fields: dict[str, object]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _type_name(kind: type) -> str:
    return "true or false" if kind is bool else "a whole number"


def _json(value: object) -> str:
    if isinstance(value, dict | list):  # it may be deep
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _shown(line: bytes) -> str:
    text = ascii(line[:60].decode("utf-8", "replace"))
    return f"{text}…" if len(line) > 60 else text
