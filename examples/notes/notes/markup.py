"""HTML from template strings (PEP 750), escaped by default.

`html(t"<p>{text}</p>")` escapes every value on its way in; what is itself `Markup` is taken as it is, and a
list of `Markup` is joined. There is no other way to make `Markup` here, so a page cannot hold unescaped input
by mistake. Attribute values must stand in double quotes in the template. Pure functions: any thread may call
them.
"""

from collections.abc import Sequence
from html import escape
from string.templatelib import Interpolation, Template, convert
from typing import Any


class Markup(str):
    """Text that is HTML already; made by `html` only."""

    __slots__ = ()


def html(template: Template) -> Markup:
    """Render a template string; raises TypeError for a value that is neither text, number nor markup."""
    parts: list[str] = []
    for part in template:
        parts.append(_value(part) if isinstance(part, Interpolation) else part)
    return Markup("".join(parts))


def _value(part: Interpolation[Any]) -> str:
    value = convert(part.value, part.conversion)
    if isinstance(value, Markup):
        return value
    if isinstance(value, (str, int, float)):
        return escape(format(value, part.format_spec), quote=True)
    if isinstance(value, Sequence) and all(isinstance(item, Markup) for item in value):
        return "".join(value)
    raise TypeError(f"{{{part.expression}}} is {type(value).__name__}: not text, a number or markup")
