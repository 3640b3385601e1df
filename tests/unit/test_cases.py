"""docs/cases.md says what each attack, fault and requirement is that comments and tests name."""

from __future__ import annotations

from pathlib import Path

from tests.support.cases import named

ROOT = Path(__file__).parents[2]


def test_every_case_that_is_named_is_on_the_page():
    """Whoever meets one in a comment can look it up. The published checks (A1.1, ...) are on the page of the conformance suite."""
    listed = _cases((ROOT / "docs" / "cases.md").read_text("utf-8"))
    files = [path for folder in ("gateway", "tests", "profiles", "scripts", "bench") for path in (ROOT / folder).rglob("*") if path.is_file()]
    found = {case for path in files if path.suffix in (".py", ".json", ".toml", ".html", "") for case in _cases(path.read_text("utf-8"))}
    assert len(found) > 200
    assert found - listed == set()


def _cases(text: str) -> set[str]:
    return {case for case in named(text) if not case.startswith("A") or "-" in case}


def test_lists_and_ranges_are_understood():
    """What a docstring says in short counts for each."""
    text = "ATK-O5, O7 and F1 (HL7@348-350, 77), A2.14. FAULT-U1; AUTHLIB-E2, A9.51 and A12.69-71, HL7@15."
    expected = "ATK-O5 ATK-O7 ATK-F1 HL7@348 HL7@349 HL7@350 HL7@77 A2.14 FAULT-U1 AUTHLIB-E2 A9.51 A12.69 A12.70 A12.71 HL7@15"
    assert named(text) == set(expected.split())
