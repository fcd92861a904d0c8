"""SECURITY.md names tests and commands: they exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("SECURITY.md", "docs/hardening.md", "docs/faults.md", "docs/fuzzing.md", "docs/limits.md")


def test_every_test_that_is_named_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = set(re.findall(r"`(?:tests/(?:process/)?)?(test_\w+\.py)`", text))
    assert len(named) > 15
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert named - there == set()


def test_every_command_that_is_named_is_one_of_makes() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for page in PAGES:
        # As code, and in blocks: prose may say "make sure".
        named = set(re.findall(r"(?:`|^    )make (\w+)", (ROOT / page).read_text(), re.MULTILINE))
        assert named - targets == set(), page


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in (*PAGES, "README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        place = ROOT / page
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", place.read_text()):
            assert (place.parent / link).exists(), f"{page}: {link}"
