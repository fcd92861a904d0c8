"""The JSON Schema (draft 2020-12) of server.yaml, for editors: completion, descriptions, and marks at mistakes.

Derived from the model. It is a little more generous than the loader (values with `${VAR}` could become
anything), never stricter: what the loader takes, an editor does not mark.
"""

from typing import Any

from .checks import NOT_YET
from .kinds import Schema
from .model import ServerConfig
from .source import KeyPath
from .spec import KeySpec, specs


def json_schema() -> Schema:
    """The schema, as plain data for `json.dumps`."""
    top = _section(ServerConfig, ())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "serverd configuration (server.yaml)",
        **top,
    }


def describe(spec: KeySpec, path: KeyPath) -> str:
    """The key's sentence, with what of it does not exist yet."""
    row = next((row for row in NOT_YET if row.path == path), None)
    if row is None:
        return spec.doc
    return f"{spec.doc} (not yet supported{f': {row.part}' if row.part else ''})"


def _section(cls: type[Any], above: KeyPath) -> Schema:
    declared = specs(cls)
    properties = {spec.name: _property(spec, (*above, spec.name)) for spec in declared}
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required := [spec.name for spec in declared if spec.required]:
        schema["required"] = required
    return schema


def _property(spec: KeySpec, path: KeyPath) -> Schema:
    head: Schema = {"description": describe(spec, path)}
    if spec.section is not None:
        # A section with nothing below it is null in YAML, and means the same as no section.
        return head | _section(spec.section, path) | {"type": ["object", "null"]}
    assert spec.kind is not None
    if not spec.required:
        head["default"] = spec.written if spec.written is not None else spec.kind.write(spec.default)
    return head | spec.kind.schema()
