"""docs/configuration.md says what the model says: every key, its default, and examples that load."""

import re
from pathlib import Path

import pytest
import yaml

from serverd.config import ServerConfig, load
from serverd.config.layers import every_key
from serverd.config.source import KeyPath
from serverd.config.spec import KeySpec

TEXT = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")


def rows() -> dict[KeyPath, tuple[str, str]]:
    """The default and the meaning of each key in the tables, by path."""
    found: dict[KeyPath, tuple[str, str]] = {}
    section: KeyPath = ()
    for line in TEXT.partition("## The keys")[2].partition("## The commands")[0].splitlines():
        if heading := re.fullmatch(r"### ([a-z]+)", line):
            section = (heading[1],)
        elif row := re.fullmatch(r"\| `([a-z_]+)` \| (.+?) \| (.+) \|", line):
            found[*section, row[1]] = (row[2], row[3])
    return found


KEYS = list(every_key(ServerConfig))


@pytest.mark.parametrize(("path", "spec"), KEYS, ids=[".".join(map(str, path)) for path, _ in KEYS])
def test_a_key_is_described_with_its_default(path: KeyPath, spec: KeySpec) -> None:
    if spec.section is not None and not spec.optional:
        assert any(other[:-1] == path for other in rows())
        return
    default, _ = rows()[path]
    if spec.kind is not None and not spec.required:
        written = spec.written if spec.written is not None else spec.kind.write(spec.default)
        assert yaml.safe_load(default.strip("`")) == yaml.safe_load(yaml.safe_dump(written))


def test_nothing_is_described_that_is_not_there() -> None:
    assert set(rows()) <= {path for path, _ in every_key(ServerConfig)}


def test_examples_in_the_tables_are_values_of_their_keys(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    file = tmp_path / "server.yaml"
    tried = 0
    for path, (_, meaning) in rows().items():
        example = re.search(r"Example: `(.+?)`", meaning)
        if example is None or path == ("process", "user"):
            continue
        *above, name = map(str, path)
        text = f"{name}: {example[1]}\n"
        if above:
            text = f"{above[0]}:\n  {text}"
        file.write_text(text if path == ("app",) else f"app: main:app\n{text}")
        load(file, environ={})
        tried += 1
    assert tried >= 10


def test_the_first_example_loads(tmp_path: Path) -> None:
    block = re.search(r"(?:^    .*\n)+", TEXT, flags=re.MULTILINE)
    assert block is not None
    file = tmp_path / "server.yaml"
    file.write_text(re.sub(r"^    ", "", block[0], flags=re.MULTILINE))
    assert load(file, environ={}).workers.threads == 8


def test_the_examples_of_this_repository_load() -> None:
    files = sorted((Path(__file__).parent.parent / "examples").glob("*/server.yaml"))
    assert files
    for file in files:
        assert load(file, environ={}).source == file
