"""How the model declares a key: its kind, its default, and one sentence for people.

`key` and `section` are used in model.py only, as the right-hand side of a dataclass field. `specs(cls)` gives
the declarations back, and everything else (loading, the schema, `serverd init`, printing the effective
configuration) is derived from them: a key is written down once.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast

from .kinds import Kind, Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """The declaration of one key. Exactly one of `kind` and `section` is set.

    `written` is the default as one writes it in the file, where that is not simply the default value (a path
    that is relative to the file). `example` goes with `required`. `optional` is for sections that may be
    absent.
    """

    name: str
    doc: str
    kind: Kind[Any] | None = None
    section: type[Any] | None = None
    optional: bool = False
    required: bool = False
    default: Any = None
    written: Raw = None
    example: str = ""


def key[T](kind: Kind[T], default: T, doc: str) -> T:
    """A key of this kind."""
    return field(default=default, metadata={"doc": doc, "kind": kind})


def late_key[T](kind: Kind[T], factory: Callable[[], T], written: Raw, doc: str) -> T:
    """A key whose default is made for each configuration; `written` stands for it in a file."""
    return field(default_factory=factory, metadata={"doc": doc, "kind": kind, "written": written})


def required_key[T](kind: Kind[T], doc: str, *, example: str) -> dict[str, Any]:
    """The metadata of a key that has no default, for `field(metadata=...)`: type checkers must see that call.

    `example` is text that the kind takes; it is shown where the key is missing.
    """
    return {"doc": doc, "kind": kind, "example": example}


def section[T](cls: Callable[[], T], doc: str) -> T:
    """A group of keys, each of which has a default."""
    return field(default_factory=cls, metadata={"doc": doc, "section": cls})


def optional_section[T](cls: type[T], doc: str) -> T | None:
    """A group of keys that is off (None) when it is absent."""
    return cast("T | None", field(default=None, metadata={"doc": doc, "section": cls, "optional": True}))


def specs(cls: type[Any]) -> tuple[KeySpec, ...]:
    """The keys of a section of the model, in the order of the file. Fields that are no keys are left out."""
    found = []
    for item in fields(cls):
        if item.metadata:
            required = item.default is MISSING and item.default_factory is MISSING
            made = item.default_factory() if item.default_factory is not MISSING else item.default
            found.append(
                KeySpec(
                    name=item.name, required=required, default=None if required else made, **item.metadata
                )
            )
    return tuple(found)
