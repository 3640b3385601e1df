"""docs/cases.md says what each attack and fault is that comments and tests name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASE = re.compile(r"\b(?:ATK|FAULT|AUTHLIB)-[A-Z]\d+\b")


def test_every_case_that_is_named_is_on_the_page():
    """Whoever meets one in a comment can look it up."""
    listed = set(CASE.findall((ROOT / "docs" / "cases.md").read_text("utf-8")))
    files = [path for folder in ("gateway", "tests", "profiles", "scripts", "bench") for path in (ROOT / folder).rglob("*") if path.is_file()]
    named = {case for path in files if path.suffix in (".py", ".json", ".toml", ".html", "") for case in CASE.findall(path.read_text("utf-8"))}
    assert len(named) > 100
    assert named - listed == set()
