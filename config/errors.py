"""What a bad configuration looks like to the caller: every problem at once, one line each.

A `Problem` names the place (file, line, column, or the environment variable, or the command line), the key,
and what is expected there. `ConfigError` carries all of them. `BadValue` is how a value's own check refuses
it, before anybody knows where the value stood; it never leaves this package.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .escaping import escape_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where.

    `file` is the file as the user named it, or another origin in words ("command line", "environment PORT");
    `line` and `column` count from 1 and are None where there is no text to point at; `key` is dotted
    (`workers.threads`, `listen[1]`) and None when the problem is the file itself.
    """

    message: str
    key: str | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.file and self.line is not None:
            place += f":{self.line}"
            if self.column is not None:
                place += f":{self.column}"
        return escape_text(": ".join(part for part in (place, self.key, self.message) if part))


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds every reason, in the order of the text. Never empty."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: list[Problem] = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class BadValue(ValueError):
    """A value is not what its key takes; `str()` says why. `path` leads to the part at fault inside the value."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class BadItems(ValueError):
    """Several parts of one value (items of a list, entries of a mapping) are at fault; each has its own path."""

    def __init__(self, items: Sequence[BadValue]) -> None:
        super().__init__("; ".join(map(str, items)))
        self.items = tuple(items)
