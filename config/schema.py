"""The JSON Schema (draft 2020-12) of server.yaml, for editors: completion, descriptions, and marks at mistakes.

Derived from the model. It is a little more generous than the loader (values with `${VAR}` could become
anything), never stricter: what the loader takes, an editor does not mark.
"""

from typing import Any

from .kinds import Schema
from .model import ServerConfig
from .spec import KeySpec, specs


def json_schema() -> Schema:
    """The schema, as plain data for `json.dumps`."""
    top = _section(ServerConfig)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "serverd configuration (server.yaml)",
        **top,
    }


def _section(cls: type[Any]) -> Schema:
    declared = specs(cls)
    properties = {spec.name: _property(spec) for spec in declared}
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required := [spec.name for spec in declared if spec.required]:
        schema["required"] = required
    return schema


def _property(spec: KeySpec) -> Schema:
    head: Schema = {"description": spec.doc}
    if spec.section is not None:
        # A section with nothing below it is null in YAML, and means the same as no section.
        return head | _section(spec.section) | {"type": ["object", "null"]}
    assert spec.kind is not None
    if not spec.required:
        head["default"] = spec.written if spec.written is not None else spec.kind.write(spec.default)
    return head | spec.kind.schema()
