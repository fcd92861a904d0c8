"""The other sources, the command line and the environment, and how all of them become one.

Precedence: command line > environment (`SERVERD_*`, then `PORT` and `WEB_CONCURRENCY`) > file > defaults.
Groups of keys are merged key by key; lists and single values are replaced whole. Relative paths start at the
folder of the file they stand in, and those of the command line and the environment at the current directory.
Everything here is pure.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .compound import Variables
from .errors import Problem
from .kinds import Raw, show
from .model import ServerConfig
from .source import KeyPath, Layer, Mark, read_value
from .spec import KeySpec, specs

COMMAND_LINE: Final = "command line"
_PREFIX: Final = "SERVERD_"
# Kubernetes puts these into every pod beside a service that is called serverd; they are not meant for us.
_KUBERNETES: Final = re.compile(r"SERVERD_(SERVICE_(HOST|PORT(_.*)?)|PORT(_.*)?)")


def default_layer() -> Layer:
    """The defaults that depend on where the configuration is: relative paths."""
    layer = Layer()
    for path, spec in every_key(ServerConfig):
        if spec.written is not None:
            put(layer.data, path, spec.written)
    return layer


def command_line_layer(app: str | None, overrides: Sequence[str]) -> Layer:
    """`app`, and `--set key=value` in the order given: the last one counts."""
    layer = Layer()
    for text in overrides:
        key, equals, value = text.partition("=")
        path = split_key(key.strip())
        if not equals or not all(path):
            message = f"expected --set KEY=VALUE such as workers.threads=8, got {show(text)}"
            layer.problems.append(Problem(file=COMMAND_LINE, message=message))
        else:
            _assign(layer, path, value.strip(), COMMAND_LINE)
    if app is not None:
        layer.values["app",] = layer.keys["app",] = Mark(COMMAND_LINE)
        layer.data["app"] = app
    return layer


def absolute(overrides: Sequence[str], base: Path) -> list[str]:
    """`overrides` (all valid) with relative paths taken from `base`, so that they mean the same elsewhere."""
    result = []
    for text in overrides:
        key = text.partition("=")[0].strip()
        value: Raw = anchor(command_line_layer(None, [text]), base).data
        for part in split_key(key):
            assert isinstance(value, dict)
            value = value[part]
        result.append(f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return result


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """`PORT`, `WEB_CONCURRENCY` and `SERVERD_WORKERS__THREADS` and the like. An empty variable counts as not set."""
    layer = Layer()
    if port := environ.get("PORT"):
        # The convention of hosting platforms: their router reaches us from outside, at this port of any address.
        _assign(layer, ("listen",), f"0.0.0.0:{port}", "environment PORT")
    if count := environ.get("WEB_CONCURRENCY"):
        _assign(layer, ("workers", "processes"), count, "environment WEB_CONCURRENCY")
    for name in sorted(environ):
        if name.startswith(_PREFIX) and environ[name] and not _KUBERNETES.fullmatch(name):
            path = _variable_path(name.removeprefix(_PREFIX))
            _assign(layer, path, environ[name], f"environment {name}")
    return layer


def merge(layers: Sequence[Layer]) -> Layer:
    """One layer from several; later ones override."""
    result = Layer()
    for layer in layers:
        result.data = _merge(result.data, layer.data, ServerConfig)
        result.keys |= layer.keys
        result.values |= layer.values
        result.passed |= layer.passed
        result.problems += layer.problems
        result.spoiled = (result.spoiled - layer.values.keys()) | layer.spoiled
    return result


def anchor(layer: Layer, base: Path) -> Layer:
    """`layer` with its relative paths taken from the folder `base`."""
    layer.data = _anchor(layer.data, base, ServerConfig)
    return layer


def split_key(text: str) -> tuple[str, ...]:
    """`workers.threads` in parts; below `env` the rest is one name, whatever is in it."""
    first, dot, rest = text.partition(".")
    if dot and _holds_variables(first):
        return (first, rest)
    return tuple(text.split("."))


def every_key(cls: type[Any], above: KeyPath = ()) -> list[tuple[KeyPath, KeySpec]]:
    """Every key and section of the model, with its path, in the order of the file."""
    found: list[tuple[KeyPath, KeySpec]] = []
    for spec in specs(cls):
        path = (*above, spec.name)
        found.append((path, spec))
        if spec.section is not None:
            found += every_key(spec.section, path)
    return found


def put(data: dict[str, Raw], path: KeyPath, value: Raw) -> None:
    """Set the value at `path`, making the groups on the way."""
    for part in path[:-1]:
        below = data.setdefault(str(part), {})
        if not isinstance(below, dict):
            data[str(part)] = below = {}
        data = below
    data[str(path[-1])] = value


def _assign(layer: Layer, path: tuple[str, ...], text: str, origin: str) -> None:
    for length in range(1, len(path)):
        layer.passed[path[:length]] = Mark(origin)
    layer.keys[path] = layer.values[path] = Mark(origin)
    one: dict[str, Raw] = {}
    put(one, path, read_value(text, origin, path, layer))
    layer.data = _merge(layer.data, one, ServerConfig)


def _variable_path(name: str) -> tuple[str, ...]:
    """`WORKERS__THREADS` as a path; names of the application's own variables (`ENV__Home`) keep their case."""
    first, _, rest = name.partition("__")
    if rest and _holds_variables(first.lower()):
        return (first.lower(), rest)
    return tuple(name.lower().split("__"))


def _holds_variables(key: str) -> bool:
    return any(spec.name == key and isinstance(spec.kind, Variables) for spec in specs(ServerConfig))


def _merge(lower: dict[str, Raw], upper: dict[str, Raw], cls: type[Any] | None) -> dict[str, Raw]:
    """`upper` over `lower`. `cls` is the section of the model that both describe, if there is one."""
    sections = {spec.name: spec for spec in specs(cls) if spec.section} if cls else {}
    result = dict(lower)
    for key, value in upper.items():
        below, spec = result.get(key), sections.get(key)
        if value is None and spec is not None and not spec.optional:
            result.setdefault(key, {})  # `workers:` with nothing below it says nothing
        elif isinstance(value, dict) and isinstance(below, dict):
            result[key] = _merge(below, value, spec.section if spec else None)
        elif isinstance(value, dict) and below is not None and spec is not None:
            pass  # `workers: 5` in the file is refused there, not covered up by --set workers.threads=8
        else:
            result[key] = value
    return result


def _anchor(data: dict[str, Raw], base: Path, cls: type[Any]) -> dict[str, Raw]:
    result = dict(data)
    for spec in specs(cls):
        value = result.get(spec.name)
        if spec.section is not None and isinstance(value, dict):
            result[spec.name] = _anchor(value, base, spec.section)
        elif spec.kind is not None and spec.name in result:
            result[spec.name] = spec.kind.anchor(value, base)
    return result
