"""From plain data to a `ServerConfig`, with every fault found in one go. The library cattrs does the walking.

Each section of the model gets a structure hook made by cattrs, with unknown keys forbidden and detailed
validation on; each key is read by its kind. The exception groups that cattrs raises are flattened into
`Fault`s, which know the path inside the data but not the file: loader.py puts the two together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal

from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from .errors import BadItems, BadValue
from .kinds import Raw, show
from .layers import every_key
from .model import ServerConfig
from .source import KeyPath, dotted
from .spec import KeySpec, specs


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at `path`. `kind` says what: a value, a key that is not known, a key that is missing."""

    kind: Literal["value", "unknown", "missing"]
    path: KeyPath
    message: str


def structure(data: dict[str, Raw]) -> ServerConfig | list[Fault]:
    """The configuration that `data` says, or everything that is wrong with it (never an empty list)."""
    try:
        return _converter().structure(data, ServerConfig)
    except ClassValidationError as group:
        return list(_faults(group, ()))


def find(path: KeyPath) -> KeySpec | None:
    """The key of the model at `path`, or the key that holds it (`listen` for `listen[1]`)."""
    section: type[Any] = ServerConfig
    spec = None
    for part in path:
        spec = next((spec for spec in specs(section) if spec.name == part), None)
        if spec is None or spec.section is None:
            break
        section = spec.section
    return spec


@cache
def _converter() -> Converter:
    """Made once; structuring with it is safe from any thread (only generated functions and lookups)."""
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    sections = [spec.section for _, spec in every_key(ServerConfig) if spec.section is not None]
    for cls in [*reversed(sections), ServerConfig]:
        converter.register_structure_hook(cls, _section_hook(converter, cls))
    return converter


def _section_hook(converter: Converter, cls: type[Any]) -> Callable[[Any, Any], Any]:
    readers: dict[str, Any] = {
        spec.name: override(struct_hook=_reader(spec)) for spec in specs(cls) if spec.kind is not None
    }
    if cls is ServerConfig:
        readers["source"] = override(omit=True)
    generated = make_dict_structure_fn(cls, converter, **readers)

    def hook(raw: Any, _: Any) -> Any:
        if not isinstance(raw, dict):
            first = specs(cls)[0]
            raise BadValue(f"expected a group of keys such as {first.name}, got {show(raw)}")
        return generated(raw, cls)

    return hook


def _reader(spec: KeySpec) -> Callable[[Any, Any], Any]:
    kind = spec.kind
    assert kind is not None
    return lambda raw, _: kind.read(raw)


def _faults(group: ClassValidationError, above: KeyPath) -> Iterator[Fault]:
    with_notes, others = group.group_exceptions()
    for error, note in with_notes:
        path = (*above, note.name)
        match error:
            case ClassValidationError():
                yield from _faults(error, path)
            case BadItems():
                yield from (Fault("value", (*path, *item.path), str(item)) for item in error.items)
            case BadValue():
                yield Fault("value", (*path, *error.path), str(error))
            case KeyError():
                yield Fault("missing", path, _missing(path))
            case _:
                raise error  # not the data's fault but a mistake in this program: let it be seen
    for other in others:
        if not isinstance(other, ForbiddenExtraKeysError):
            raise other
        for name in sorted(other.extra_fields):
            yield Fault("unknown", (*above, name), _unknown(name, above))


def _missing(path: KeyPath) -> str:
    spec = find(path)
    assert spec is not None
    assert spec.kind is not None
    return f"missing; expected {spec.kind.expected}, such as {spec.name}: {spec.example}"


def _unknown(name: str, above: KeyPath) -> str:
    """What to say about a key that is not known: the nearest one here, else the same one elsewhere, else the list."""
    here = [str(path[-1]) for path, _ in every_key(ServerConfig) if path[:-1] == above]
    # Backwards, so that of two keys with one name the first in the file wins.
    elsewhere = {str(path[-1]): dotted(path) for path, _ in reversed(every_key(ServerConfig))}
    tidy = name.strip().lower().replace("-", "_")
    if tidy not in here and tidy in elsewhere:
        return f'unknown key here; did you mean "{elsewhere[tidy]}"?'
    if near := get_close_matches(tidy, here, 1):
        return f'unknown key; did you mean "{near[0]}"?'
    if near := get_close_matches(tidy, elsewhere, 1, cutoff=0.8):
        return f'unknown key here; did you mean "{elsewhere[near[0]]}"?'
    return f"unknown key; known here: {', '.join(here)}"
