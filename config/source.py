"""One source of configuration: YAML text turned into plain data that remembers where every key and value stood.

Promises: only plain data comes out (text, None, lists, mappings); no tag makes an object; a key written
twice, a complex key, a tag, an alias that contains itself are problems, each with its mark. Work is bounded:
the file's size, the depth, and the number of values after aliases are expanded (the "billion laughs" document
is refused, not built). `${VAR}`, `${VAR:-default}` and `$$` are expanded in values, with the mark kept.

Values stay text: what a key takes is known by the model (kinds.py), not by YAML 1.1's guesses about `no`, `012` or
`1:30`. Only `null`, `~` and nothing at all are told apart from text, unless they are quoted.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from .errors import ConfigError, Problem
from .kinds import Raw

type KeyPath = tuple[str | int, ...]

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 30
MAX_VALUES: Final = 20_000

_YAML: Final = "tag:yaml.org,2002:"
_PLAIN_TAGS: Final = frozenset(
    _YAML + name
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map")
)
_EXPANSION: Final = re.compile(r"\$\$|\$\{([^}]*)\}|\$\{")
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.ASCII | re.DOTALL)
# What PyYAML says, and what a person has to do about it.
_HINTS: Final = (
    ("'\\t' that cannot start", "indent with spaces, not tabs"),
    ("mapping values are not allowed", 'a value that contains ": " needs quotes'),
    ("expected ',' or '}'", "inside { } put a value such as ${VAR} in quotes"),
    ("expected ',' or ']'", "inside [ ] put a value such as ${VAR} in quotes"),
    ("expected a single document", "keep one document in the file, without ---"),
)


class Mark(NamedTuple):
    """Where something stood: `origin` is the file as the user named it, or words; line and column count from 1."""

    origin: str
    line: int | None = None
    column: int | None = None

    def problem(self, message: str, key: KeyPath = ()) -> Problem:
        """A problem at this place."""
        return Problem(file=self.origin, line=self.line, column=self.column, key=dotted(key), message=message)


@dataclass(slots=True)
class Layer:
    """What one source says. `keys` and `values` have the marks of each key and of each value, by path from the top."""

    data: dict[str, Raw] = field(default_factory=dict)
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    # Groups that a key of this source lies in, without being written there themselves (--set a.b=c: a).
    passed: dict[KeyPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    # Values with a problem of their own, whose content means nothing.
    spoiled: set[KeyPath] = field(default_factory=set)


def dotted(path: KeyPath) -> str | None:
    """`workers.threads`, `listen[1]`; None for the top."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or None


def read_file(path: Path, environ: Mapping[str, str]) -> Layer:
    """The layer of a YAML file. Raises ConfigError when there is no text to speak of: no file, no UTF-8, no YAML."""
    origin = str(path)
    text = _decode(_read_bytes(path), origin)
    layer = read_text(text, origin, environ)
    if layer is None:
        raise ConfigError([Problem(file=origin, message='is empty; write one with "serverd init"')])
    return layer


def read_text(text: str, origin: str, environ: Mapping[str, str] | None) -> Layer | None:
    """The layer of YAML text whose top is a mapping; None when there is nothing in it. Raises ConfigError."""
    node = compose(text, origin)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        return None
    mark = _mark(node, origin)
    if not isinstance(node, yaml.MappingNode):
        what = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ConfigError([mark.problem(f"expected keys such as app: main:app at the top level, got {what}")])
    layer = Layer()
    layer.data = _Reader(origin, environ, layer).mapping(node, ())
    return layer


def read_value(text: str, origin: str, path: KeyPath, layer: Layer) -> Raw:
    """A value from the command line or the environment, its marks and problems put into `layer` under `path`.

    Flow collections and quoted text are YAML; anything else is taken as it stands, so that `#fff`, `*` and
    `[::1]:80` need no quotes.
    """
    layer.values[path] = Mark(origin)
    if text in ("", "null", "~"):
        return None
    if text[0] not in "[{\"'":
        return text
    try:
        node = compose(text, origin)
    except ConfigError:
        return text
    return None if node is None else _Reader(origin, None, layer, with_lines=False).value(node, path)


def compose(text: str, origin: str) -> yaml.Node | None:
    """YAML's tree of nodes for `text`; raises ConfigError with the place of a syntax error."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(origin, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise ConfigError(
            [mark.problem(f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed")]
        ) from None
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.problem, error.context) if part)
        hint = next((f" ({hint})" for sign, hint in _HINTS if sign in said), "")
        at = error.problem_mark or error.context_mark
        mark = Mark(origin, at.line + 1, at.column + 1) if at else Mark(origin)
        raise ConfigError([mark.problem(f"not valid YAML: {said}{hint}")]) from None
    except RecursionError:
        raise ConfigError([Problem(file=origin, message=f"nested deeper than {MAX_DEPTH} levels")]) from None


def _read_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        message = 'no such file; name one with -c FILE, or write one with "serverd init"'
    except IsADirectoryError:
        message = "is a directory; name the file in it"
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the name
        message = "is no name of a file"
    else:
        if len(content) <= MAX_BYTES:
            return content
        message = f"is larger than {MAX_BYTES // 1024} KiB; is this the configuration?"
    raise ConfigError([Problem(file=str(path), message=message)])


def _decode(content: bytes, origin: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        mark = Mark(origin, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise ConfigError([mark.problem(f"not UTF-8 text: byte 0x{content[error.start]:02x}")]) from None


def _mark(node: yaml.Node, origin: str) -> Mark:
    return Mark(origin, node.start_mark.line + 1, node.start_mark.column + 1)


class _Reader:
    """Walks one tree of nodes and fills a layer. Used by one call, then dropped."""

    def __init__(
        self, origin: str, environ: Mapping[str, str] | None, layer: Layer, *, with_lines: bool = True
    ) -> None:
        self.origin = origin
        self.environ = environ
        self.layer = layer
        self.with_lines = with_lines
        self.count = 0
        self.open: set[int] = set()  # nodes we are inside of, by id: an alias to one of them would never end

    def value(self, node: yaml.Node, path: KeyPath) -> Raw:
        """The plain data of `node`, which stands at `path`."""
        self.layer.values[path] = mark = self.mark(node)
        self.count += 1
        if self.count > MAX_VALUES:
            raise ConfigError([Problem(file=self.origin, message=f"holds more than {MAX_VALUES} values")])
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace(_YAML, "!!")
            self.spoil(mark, path, f"the tag {tag} is not supported; write the plain value")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            self.spoil(mark, path, "this value contains itself through an alias")
            return None
        if len(path) >= MAX_DEPTH:
            self.spoil(mark, path, f"nested deeper than {MAX_DEPTH} levels")
            return None
        if isinstance(node, yaml.MappingNode):
            return dict(self.mapping(node, path))
        assert isinstance(node, yaml.SequenceNode)
        self.open.add(id(node))
        items = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        self.open.discard(id(node))
        return items

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Raw]:
        """The plain data of a mapping. Keys merged in by `<<` are overridden by those written out."""
        self.open.add(id(node))
        merged: dict[str, Raw] = {}
        found: dict[str, Raw] = {}
        for key, value in node.value:
            if key.tag == _YAML + "merge" and key.style is None:
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    for name, part in self.merge(source, path).items():
                        merged.setdefault(name, part)
        for key, value in node.value:
            if key.tag == _YAML + "merge" and key.style is None:
                continue
            mark = self.mark(key)
            if not isinstance(key, yaml.ScalarNode):
                self.layer.problems.append(mark.problem("expected a name as the key", path))
                continue
            here = (*path, key.value)
            if key.value in found:
                first = self.layer.keys[here].line
                message = "written twice" if first is None else f"written twice (first in line {first})"
                self.layer.problems.append(mark.problem(message, here))
                continue
            self.layer.keys[here] = mark
            found[key.value] = self.value(value, here)
        self.open.discard(id(node))
        return merged | found

    def merge(self, node: yaml.Node, path: KeyPath) -> dict[str, Raw]:
        """What `<<: *alias` brings into the mapping at `path`."""
        if not isinstance(node, yaml.MappingNode) or id(node) in self.open or len(self.open) > MAX_DEPTH:
            self.layer.problems.append(
                self.mark(node).problem("<< expects an alias of a group of keys", path)
            )
            return {}
        return self.mapping(node, path)

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> str | None:
        text = node.value
        if self.environ is not None and "$" in text:
            try:
                text = expand(text, self.environ)
            except ValueError as error:
                self.spoil(self.mark(node), path, str(error))
                return None
        plain = node.style is None
        return None if plain and text in ("", "~", "null", "Null", "NULL") else text

    def spoil(self, mark: Mark, path: KeyPath, message: str) -> None:
        """Note a value that cannot be used at all; nothing more is said about it."""
        self.layer.problems.append(mark.problem(message, path))
        self.layer.spoiled.add(path)

    def mark(self, node: yaml.Node) -> Mark:
        return _mark(node, self.origin) if self.with_lines else Mark(self.origin)


def expand(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` with `${VAR}`, `${VAR:-default}` (for a variable that is not set, or empty) and `$$` replaced.

    What was put in is not looked at again. Raises ValueError, in words, for a variable that is not set and
    for `${` that is not closed; a dollar sign in front of anything else stays.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        parts = _VARIABLE.fullmatch(match[1]) if match[1] is not None else None
        if parts is None:
            raise ValueError(
                f"expected ${{NAME}} or ${{NAME:-default}}, got {match[0]} (a plain $ is written $$)"
            )
        name, default = parts[1], parts[2]
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ValueError(
                f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-...}}"
            )
        return value

    return _EXPANSION.sub(replace, text)
