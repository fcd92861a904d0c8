"""The configuration as YAML text: the effective one, complete, and the commented file that `serverd init` writes.

Both are derived from the model. What `to_yaml` writes, `load` reads back as an equal configuration.
"""

import json
from typing import Any, Final

import yaml

from .kinds import Raw
from .model import ServerConfig
from .spec import KeySpec, specs

_HEADER: Final = """\
# The configuration of serverd. "serverd check" validates it, "serverd schema" gives a JSON Schema for your editor.
# Lines that are commented out show the defaults. Relative paths start at the folder of this file.
# A value may hold ${VAR} or ${VAR:-default} from the environment. Durations: 200ms, 30s, 5m; sizes: 8KiB, 10MiB.
"""
_COLUMN: Final = 30  # where the comments begin, if the line leaves room
_SHOWN: Final = frozenset({"app", "listen"})  # written out in a new file; the rest is commented out


class _Dumper(yaml.SafeDumper):
    """YAML in which text with control characters or line separators is in double quotes, where they are escaped;
    PyYAML would write U+0085 as it is, and read it back as a space."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text)


def to_plain(config: ServerConfig) -> dict[str, Any]:
    """Every key, in plain data as one would write it in the file; paths are absolute."""
    return _plain(config, ServerConfig)


def to_yaml(config: ServerConfig) -> str:
    """Every key, as YAML."""
    return yaml.dump(to_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def new_file(app: str) -> str:
    """The text of a new server.yaml that serves `app`."""
    lines = [_HEADER]
    for spec in specs(ServerConfig):
        if spec.section is None:
            lines += _key_lines(spec, app)
        else:
            lines += _section_lines(spec, spec.section)
    return "\n".join(lines) + "\n"


def _plain(value: Any, cls: type[Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for spec in specs(cls):
        part = getattr(value, spec.name)
        if spec.section is not None:
            result[spec.name] = None if part is None else _plain(part, spec.section)
        else:
            assert spec.kind is not None
            result[spec.name] = spec.kind.write(part)
    return result


def _key_lines(spec: KeySpec, app: str) -> list[str]:
    value = _scalar(app) if spec.required else _default(spec)
    return [_line(f"{'' if spec.name in _SHOWN else '# '}{spec.name}: {value}", spec.doc)]


def _section_lines(spec: KeySpec, section: type[Any]) -> list[str]:
    lines = [_line(f"#   {key.name}: {_default(key)}", key.doc) for key in specs(section)]
    return ["", _line(f"# {spec.name}:", spec.doc), *lines]


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COLUMN}}  # {comment}"


def _default(spec: KeySpec) -> str:
    assert spec.kind is not None
    if spec.required:
        return _scalar(spec.example)
    return _scalar(spec.written if spec.written is not None else spec.kind.write(spec.default))


def _scalar(value: Raw) -> str:
    """A value on one line. JSON's lists and mappings are YAML too, and look familiar."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(yaml.safe_dump(value, width=1000)).removesuffix("...\n").strip()
