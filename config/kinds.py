"""The kinds of value that a key can take: how to read one from text, how to write it back, how to describe it
to an editor.

A value arrives as it stands in the source: text, None (nothing, or `null`), a list, or a mapping. Its meaning
is given by the kind of its key alone, never guessed from its looks: `title: 2026` is a title, `umask: 022` is
octal, `app: no:app` is a module called "no". So quoting never changes a value, and text from an environment
variable or from `--set` means the same as text in the file.

A kind is immutable and its methods are pure; every reader raises BadValue (or BadItems for several faults at
once) with a message in the form `expected ..., got ...`.
"""

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, override

from .errors import BadValue
from .units import format_duration, format_size, parse_duration, parse_size

type Raw = str | None | list[Raw] | dict[str, Raw]
type Schema = dict[str, Any]

# Text that holds ${...} can become anything: an editor must let it pass.
EXPANSION: Final = r"\$\{"
_WHOLE: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_LONGEST_ECHO: Final = 60
_FLAGS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def show(raw: Raw) -> str:
    """`raw` as an error message quotes it: short, on one line, without control characters."""
    match raw:
        case None:
            return "nothing"
        case str() if _WHOLE.fullmatch(raw):
            return raw
        case str():
            text = json.dumps(raw[: _LONGEST_ECHO + 1], ensure_ascii=not raw.isprintable())
            return text if len(raw) <= _LONGEST_ECHO else text[:_LONGEST_ECHO] + '..."'
        case list():
            return "a list"
        case dict():
            return "a group of keys"


def refuse(expected: str, raw: Raw) -> BadValue:
    """The refusal of `raw` where `expected` belongs."""
    return BadValue(f"expected {expected}, got {show(raw)}")


class Kind[T](ABC):
    """What a key takes. `expected` says it in words, for error messages and for the documentation."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What belongs here, in words that follow "expected"."""

    @abstractmethod
    def read(self, raw: Raw) -> T:
        """The value that `raw` stands for; raises BadValue or BadItems."""

    @abstractmethod
    def write(self, value: T) -> Any:
        """`value` as plain data (text, numbers, booleans, lists, mappings) that `read` understands once it is text."""

    @abstractmethod
    def schema(self) -> Schema:
        """The JSON Schema of what may be written in the file."""

    def anchor(self, raw: Raw, base: Path) -> Raw:
        """`raw` with relative paths in it taken from the folder `base`; most kinds hold no path."""
        return raw


class Scalar[T](Kind[T]):
    """A kind that is read from one piece of text. Subclasses give `parse`, which may raise any ValueError."""

    @abstractmethod
    def parse(self, text: str) -> T:
        """The value of `text`; raises BadValue with words of its own, or a bare ValueError."""

    @override
    def read(self, raw: Raw) -> T:
        if not isinstance(raw, str):
            raise refuse(self.expected, raw)
        try:
            return self.parse(raw)
        except BadValue as error:
            raise BadValue(f"{error}, got {show(raw)}") from None
        except ValueError:
            raise refuse(self.expected, raw) from None


@dataclass(frozen=True, slots=True)
class Text(Scalar[str]):
    """Text that matches `pattern` whole; `what` names it in messages.

    `editor` is the pattern for the schema where that cannot be the same: ECMAScript's \\w knows ASCII only.
    """

    what: str = "text"
    pattern: str = r"[^\x00-\x1f\x7f]+"
    editor: str = ""

    @property
    @override
    def expected(self) -> str:
        return self.what

    @override
    def parse(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text

    @override
    def write(self, value: str) -> str:
        return value.replace("$", "$$")

    @override
    def schema(self) -> Schema:
        return {"type": ["string", "number"], "pattern": f"^(?:{self.editor or self.pattern})$|{EXPANSION}"}


@dataclass(frozen=True, slots=True)
class Flag(Scalar[bool]):
    """true or false; the other usual spellings are understood, as `SERVERD_RELOAD__ENABLED=1` is what people write."""

    @property
    @override
    def expected(self) -> str:
        return "true or false"

    @override
    def parse(self, text: str) -> bool:
        try:
            return _FLAGS[text.lower()]
        except KeyError:
            raise ValueError from None

    @override
    def write(self, value: bool) -> bool:
        return value

    @override
    def schema(self) -> Schema:
        words = "|".join("".join(f"[{c.upper()}{c}]" if c.isalpha() else c for c in word) for word in _FLAGS)
        numbers: Schema = {"enum": [0, 1]}
        return {
            "anyOf": [{"type": "boolean"}, numbers, {"type": "string", "pattern": f"^({words})$|{EXPANSION}"}]
        }


@dataclass(frozen=True, slots=True)
class Choice[T: str](Scalar[T]):
    """One of a few words."""

    words: tuple[T, ...]

    @property
    @override
    def expected(self) -> str:
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    @override
    def parse(self, text: str) -> T:
        return self.words[self.words.index(cast("T", text))]

    @override
    def write(self, value: T) -> str:
        return value

    @override
    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.words)}, {"type": "string", "pattern": EXPANSION}]}


@dataclass(frozen=True, slots=True)
class Version[T: str](Choice[T]):
    """One of a few version numbers; without quotes an editor takes them for numbers."""

    @override
    def schema(self) -> Schema:
        written = [*self.words, *map(float, self.words)]
        return {"anyOf": [{"enum": written}, {"type": "string", "pattern": EXPANSION}]}


@dataclass(frozen=True, slots=True)
class Whole(Scalar[int]):
    """A whole number within bounds."""

    least: int = 0
    most: int | None = None

    @property
    @override
    def expected(self) -> str:
        if self.most is not None:
            return f"a whole number from {self.least} to {self.most}"
        return f"a whole number of at least {self.least}"

    @override
    def parse(self, text: str) -> int:
        if (
            not _WHOLE.fullmatch(text)
            or int(text) < self.least
            or (self.most is not None and int(text) > self.most)
        ):
            raise ValueError
        return int(text)

    @override
    def write(self, value: int) -> int:
        return value

    @override
    def schema(self) -> Schema:
        number: Schema = {"type": "integer", "minimum": self.least}
        if self.most is not None:
            number["maximum"] = self.most
        return {"anyOf": [number, {"type": "string", "pattern": rf"^[0-9]+$|{EXPANSION}"}]}


@dataclass(frozen=True, slots=True)
class WholeOrAuto(Scalar[int | Literal["auto"]]):
    """A whole number within bounds, or the word auto."""

    number: Whole

    @property
    @override
    def expected(self) -> str:
        return f'{self.number.expected} or "auto"'

    @override
    def parse(self, text: str) -> int | Literal["auto"]:
        return "auto" if text == "auto" else self.number.parse(text)

    @override
    def write(self, value: int | Literal["auto"]) -> int | str:
        return value

    @override
    def schema(self) -> Schema:
        return {"anyOf": [{"const": "auto"}, *self.number.schema()["anyOf"]]}


@dataclass(frozen=True, slots=True)
class Duration(Scalar[float]):
    """A length of time in seconds; `most` keeps it within what the kernel's timers take."""

    most: float
    zero: str = ""  # what 0 means, for the documentation

    @property
    @override
    def expected(self) -> str:
        return f"a duration from 0 to {format_duration(self.most)}"

    @override
    def parse(self, text: str) -> float:
        seconds = parse_duration(text)
        if seconds > self.most:
            raise ValueError
        return seconds

    @override
    def write(self, value: float) -> str | int:
        return format_duration(value) if value else 0

    @override
    def schema(self) -> Schema:
        text = rf"^ *([0-9]+(\.[0-9]+)? *(ms|s|m|h|d)? *)+$|{EXPANSION}"
        return {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": self.most},
                {"type": "string", "pattern": text},
            ]
        }


@dataclass(frozen=True, slots=True)
class Size(Scalar[int]):
    """A number of bytes, at least `least`."""

    least: int = 0

    @property
    @override
    def expected(self) -> str:
        return f"a size of at least {format_size(self.least)}"

    @override
    def parse(self, text: str) -> int:
        size = parse_size(text)
        if size < self.least:
            raise ValueError
        return size

    @override
    def write(self, value: int) -> str | int:
        return format_size(value) if value else 0

    @override
    def schema(self) -> Schema:
        text = rf"^ *[0-9]+(\.[0-9]+)? *(([kKmMgGtT][iI]?)?[bB])? *$|{EXPANSION}"
        return {"anyOf": [{"type": "integer", "minimum": self.least}, {"type": "string", "pattern": text}]}


@dataclass(frozen=True, slots=True)
class Octal(Scalar[int]):
    """File mode bits in octal, as `umask` prints them: 022, 0o22."""

    @property
    @override
    def expected(self) -> str:
        return "an octal number from 000 to 777, such as 022"

    @override
    def parse(self, text: str) -> int:
        # A leading zero is asked for because 22 is read as a decimal number by people and by other YAML readers.
        if not re.fullmatch(r"0o?[0-7]{1,4}", text) or int(text.replace("o", ""), 8) > 0o777:
            raise ValueError
        return int(text.replace("o", ""), 8)

    @override
    def write(self, value: int) -> str:
        return f"0{value:02o}" if value < 0o100 else f"0{value:03o}"

    @override
    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 0o777},
                {"type": "string", "pattern": rf"^0o?[0-7]{{1,4}}$|{EXPANSION}"},
            ]
        }
