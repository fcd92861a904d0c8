"""The JSON Schema and the written configuration agree with the loader: what loads is valid, what is written loads."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serverd.config import ConfigError, ServerConfig, load
from serverd.config.layers import every_key
from serverd.config.render import new_file, to_plain, to_yaml
from serverd.config.schema import json_schema

from .test_config_load import EVERYTHING
from .test_config_problems import VALUES

SCHEMA = json_schema()
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether `value` is valid. Knows the keywords that our schema uses, and fails on any other."""
    return all(KEYWORDS[name](value, argument, schema) for name, argument in schema.items())


def is_type(value: Any, names: str | list[str]) -> bool:
    wanted = [names] if isinstance(names, str) else names
    return any(
        isinstance(value, TYPES[one]) and (one == "boolean" or not isinstance(value, bool)) for one in wanted
    )


def others_are(value: dict[str, Any], argument: Any, schema: dict[str, Any]) -> bool:
    others = [value[key] for key in value.keys() - schema.get("properties", {})]
    return not others if argument is False else all(valid(other, argument) for other in others)


def only[T](kind: type[T], test: Callable[[T, Any], bool]) -> Callable[[Any, Any, Any], bool]:
    """A keyword that says something about values of one type, and nothing about others."""
    return lambda value, argument, _: not isinstance(value, kind) or test(value, argument)


def number_is(test: Callable[[float, Any], bool]) -> Callable[[Any, Any, Any], bool]:
    return lambda value, argument, _: not is_type(value, "number") or test(value, argument)


KEYWORDS: dict[str, Callable[[Any, Any, Any], bool]] = {
    **dict.fromkeys(["$schema", "title", "description", "default"], lambda *_: True),
    "type": lambda value, argument, _: is_type(value, argument),
    "anyOf": lambda value, argument, _: any(valid(value, one) for one in argument),
    "enum": lambda value, argument, _: any(value == one and type(value) is type(one) for one in argument),
    "const": lambda value, argument, _: bool(value == argument),
    "pattern": only(str, lambda value, argument: re.search(argument, value) is not None),
    "minLength": only(str, lambda value, argument: len(value) >= argument),
    "minimum": number_is(lambda value, argument: value >= argument),
    "maximum": number_is(lambda value, argument: value <= argument),
    "minItems": only(list, lambda value, argument: len(value) >= argument),
    "items": only(list, lambda value, argument: all(valid(item, argument) for item in value)),
    "required": only(dict, lambda value, argument: all(key in value for key in argument)),
    "properties": only(
        dict, lambda value, argument: all(valid(value[key], argument[key]) for key in argument.keys() & value)
    ),
    "additionalProperties": lambda value, argument, schema: (
        not isinstance(value, dict) or others_are(value, argument, schema)
    ),
}


def test_the_schema_is_json_and_describes_every_key() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["required"] == ["app"]
    for path, spec in every_key(ServerConfig):
        here = SCHEMA
        for part in path:
            here = here["properties"][part]
        assert here["description"] == spec.doc


def test_patterns_are_plain_enough_for_every_editor() -> None:
    text = json.dumps(SCHEMA)
    assert "(?" not in text.replace("(?:", "")
    assert "\\\\w" not in text


def test_what_loads_is_valid() -> None:
    assert valid(yaml.safe_load(EVERYTHING.replace("2026-01-31", "text")), SCHEMA)
    assert valid(yaml.safe_load(new_file("main:app")), SCHEMA)
    assert valid(to_plain(ServerConfig(app="main:app")), SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "workers: {threads: '${T}', processes: \"4\"}",
        "workers: {threads: {min: 1, max: 4}}",
        "timeouts: {head: 1h30m, body: 1.5, write: '30'}",
        "limits: {body: 1.5GiB, line: 4096, head: '32 KiB'}",
        "reload: {enabled: 'Yes', dirs: src}",
        "logging: {access: 0}",
        "process: {umask: '0o27', user: 1000, title: 5}",
        "listen: 'systemd:http'",
        "listen: ['fd://3', '${WHERE}', 'unix:x.sock', '[fe80::1]:80', 'a.example:0']",
        "env: {A: 1, B: null, C: true, D: text}",
        "tls:",
        "tls: {cert: a.pem, key: a.key, certificates: [{cert: b.pem, key: b.key}], min_version: 1.3, ciphers: HIGH}",
        "tls: {cert: a.pem, key: a.key, client_ca: ca.pem, client_cert: required, min_version: '1.2', ciphers: null}",
        "workers:",
    ],
)
def test_the_schema_takes_what_the_loader_takes(text: str) -> None:
    assert valid({"app": "main:app"} | yaml.safe_load(text), SCHEMA)


# Faults that only the loader can see: in the file system, between keys, in YAML itself, or beyond a pattern.
ONLY_THE_LOADER = re.compile(
    r"no such|already|at most|written twice|<<|tag|alias|a name as the key|variable|with a port from|environment"
    r"|got \"2d\"|got \"5m\"|expected text|min to be|expects|\$\$|an octal number|a whole number of bytes"
    r"|needs start_method|an address without|would take no connection"
)


@pytest.mark.parametrize("text", [text for text, said in VALUES if not ONLY_THE_LOADER.search(said)])
def test_the_schema_refuses_what_the_loader_refuses(text: str) -> None:
    document = yaml.safe_load(text)
    assert not valid({"app": "main:app"} | document, SCHEMA)


def test_the_effective_configuration_loads_again_as_the_same(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    text = EVERYTHING.replace("DATABASE: notes.db", 'DATABASE: "a$$b${X:-y} ü: #"').replace(
        "umask: 022", "umask: 0177"
    )
    file = tmp_path / "server.yaml"
    file.write_text(text)
    config = load(file, environ={})
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load(again, environ={}) == type(config)(
        **{name: getattr(config, name) for name in config.__dataclass_fields__ if name != "source"},
        source=again,
    )


@given(
    st.dictionaries(
        st.from_regex(r"\A[A-Z_]{1,8}\Z"), st.text(st.characters(exclude_characters="\0")), max_size=3
    )
)
def test_any_text_of_env_is_written_so_that_it_loads(
    tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "effective.yaml"
    file.write_text(to_yaml(ServerConfig(app="main:app", env=env)), encoding="utf-8")
    assert load(file, environ={}).env == env


def test_a_new_file_loads_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(new_file("notes.main:create()"))
    assert load(file, environ={}) == load(file, app="notes.main:create()", environ={})
    assert to_plain(load(file, environ={})) == to_plain(load(None, app="notes.main:create()", environ={})) | {
        "app_dir": str(tmp_path)
    } | {"reload": to_plain(load(file, environ={}))["reload"]}


def test_what_a_new_file_has_commented_out_are_the_defaults(tmp_path: Path) -> None:
    plain, all_on = tmp_path / "plain.yaml", tmp_path / "all_on.yaml"
    plain.write_text(new_file("main:app"))
    header, _, keys = new_file("main:app").partition("\n\n")
    # A section that is off when it is absent stays off.
    optional = [spec.name for _, spec in every_key(ServerConfig) if spec.optional]
    there = re.sub(rf"^# ({'|'.join(optional)}):.*\n(#   .*\n)+", "", keys, flags=re.MULTILINE)
    all_on.write_text(re.sub(r"^# ", "", there, flags=re.MULTILINE))
    assert to_yaml(load(all_on, environ={})) == to_yaml(load(plain, environ={}))
    assert all(line.startswith("# ") for line in header.splitlines())
    shown = set(re.findall(r"^#?\s*(\w+):", keys, flags=re.MULTILINE))
    assert {str(path[-1]) for path, _ in every_key(ServerConfig)} <= shown


def test_a_new_file_for_something_that_is_no_application_does_not_load(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(new_file("not: an app"))
    with pytest.raises(ConfigError, match="app: expected module:attribute"):
        load(file, environ={})
