"""Reading the configuration: `load` puts the sources together and either gives a checked `ServerConfig` or
says all that is wrong with it, in one go, each problem with its file, line, column and key.

When some values are bad the rest is still checked as a whole: bad keys are taken out, and what remains is
built and checked too. Pure apart from reading the file and looking at the paths and accounts that it names;
safe from any thread.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .checks import check
from .errors import ConfigError, Problem
from .kinds import Raw
from .layers import COMMAND_LINE, anchor, command_line_layer, default_layer, environment_layer, merge, put
from .model import ServerConfig
from .source import KeyPath, Layer, dotted, read_file
from .structure import Fault, find, structure


def load(
    path: str | os.PathLike[str] | None,
    *,
    app: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str],
) -> ServerConfig:
    """The configuration of the file `path` (None: no file), the environment, and the command line, which
    counts most.

    `overrides` are `key=value` texts as after `--set`; `app` overrides the key of that name. Relative paths
    in the file start at its folder, all others at the current directory. Raises ConfigError with every
    problem there is.
    """
    here = _current_folder()
    file = None if path is None else str(Path(path))
    home = here if path is None else Path(os.path.abspath(path)).parent
    layers = [anchor(default_layer(), home)]
    if path is not None:
        layers.append(anchor(read_file(Path(path), environ), home))
    layers.append(anchor(environment_layer(environ), here))
    layers.append(anchor(command_line_layer(app, overrides), here))
    merged = merge(layers)
    config, problems = _build(merged, file)
    if problems:
        raise ConfigError(_in_order(problems, file))
    return replace(config, source=None if path is None else Path(os.path.abspath(path)))


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # a deployment has removed it since serverd was started there
        raise ConfigError(
            [Problem(message="the current directory is gone; start serverd in a folder that stays")]
        ) from None


def _build(layer: Layer, file: str | None) -> tuple[ServerConfig, list[Problem]]:
    """The configuration (of no use when there are problems) and the problems."""
    faults: list[Fault] = []
    built = structure(layer.data)
    if isinstance(built, list):
        faults = built
        built = structure(_without(layer.data, faults))
        assert isinstance(built, ServerConfig), built
    problems = list(layer.problems)
    for fault in faults:
        if fault.path not in layer.spoiled:
            problems.append(_problem(layer, fault.path, fault.message, file, at_key=fault.kind != "value"))
    # Nothing more is said about a key that is bad already: what stands in for it is not what the user wrote.
    silent = {_key_of(fault.path) for fault in faults}
    for finding in check(built):
        if silent.isdisjoint((_key_of(finding.path), *finding.others)):
            spec = find(finding.path)
            at_key = spec is not None and spec.section is not None
            problems.append(_problem(layer, finding.path, finding.message, file, at_key=at_key))
    return built, problems


def _without(data: dict[str, Raw], faults: Sequence[Fault]) -> dict[str, Raw]:
    """A copy of `data` that can be built: bad and unknown keys are left out, required ones have their example."""
    result = copy.deepcopy(data)
    for fault in faults:
        spec = find(fault.path)
        if spec is not None and spec.required:
            put(result, _key_of(fault.path), spec.example)
        else:
            _delete(result, fault.path if fault.kind == "unknown" else _key_of(fault.path))
    return result


def _delete(data: dict[str, Raw], path: KeyPath) -> None:
    for part in path[:-1]:
        below = data.get(str(part))
        if not isinstance(below, dict):
            return
        data = below
    data.pop(str(path[-1]), None)


def _key_of(path: KeyPath) -> KeyPath:
    """The path of the key that `path` leads into: `listen` for `listen[1]`."""
    for length in range(1, len(path) + 1):
        spec = find(path[:length])
        if spec is not None and spec.kind is not None:
            return path[:length]
    return path


def _problem(layer: Layer, path: KeyPath, message: str, file: str | None, *, at_key: bool) -> Problem:
    marks = layer.keys if at_key else layer.values
    for length in range(len(path), 0, -1):
        if mark := marks.get(path[:length]) or layer.passed.get(path[:length]):
            return mark.problem(message, path)
    return Problem(file=file, key=dotted(path), message=message)


def _in_order(problems: Sequence[Problem], file: str | None) -> list[Problem]:
    """The file's problems in the order of its text, then those of the environment and of the command line."""

    def place(problem: Problem) -> tuple[int, int, int]:
        source = 0 if problem.file == file else 2 if problem.file == COMMAND_LINE else 1
        return source, problem.line or 0, problem.column or 0

    return sorted(problems, key=place)
