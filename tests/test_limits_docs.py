"""docs/limits.md names every limit with its default, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from serverd.config import ServerConfig
from serverd.config.layers import every_key
from serverd.config.spec import KeySpec

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = {
    row[1]: (row[2], row[3])
    for row in re.finditer(r"^\| `([a-z]+\.[a-z_]+)` \| `(.+?)` \| .+ \| (.+?) \|$", TEXT, flags=re.MULTILINE)
}
LIMITS = {
    ".".join(map(str, path)): spec
    for path, spec in every_key(ServerConfig)
    if (path[0] in ("limits", "timeouts") and len(path) == 2) or path == ("websocket", "max_message")
}


def test_every_limit_is_there_and_nothing_else() -> None:
    assert set(ROWS) == set(LIMITS)


@pytest.mark.parametrize(("name", "spec"), LIMITS.items(), ids=LIMITS)
def test_a_limit_has_its_default_and_a_test(name: str, spec: KeySpec) -> None:
    default, test = ROWS[name]
    assert spec.kind is not None
    assert yaml.safe_load(default) == yaml.safe_load(yaml.safe_dump(spec.kind.write(spec.default)))
    named = re.fullmatch(r"`(tests/[a-z_/]+\.py)::(test_\w+)`", test)
    assert named is not None, test
    assert f"def {named[2]}(" in (ROOT / named[1]).read_text(encoding="utf-8")


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:tests|docs)/[a-z_/.]+)`", TEXT):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([a-z]+\.md)\)", TEXT):
        assert (ROOT / "docs" / name).exists(), name
