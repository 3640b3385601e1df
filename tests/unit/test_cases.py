"""docs/cases.md says what each attack, fault and requirement is that comments and tests name."""

from __future__ import annotations

import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from tests import run
from tests.support.cases import named

ROOT = Path(__file__).parents[2]


def test_every_case_that_is_named_is_on_the_page():
    """Whoever meets one in a comment can look it up. The published checks (A1.1, ...) are on the page of the conformance suite."""
    listed = _cases((ROOT / "docs" / "cases.md").read_text("utf-8"))
    files = [path for folder in ("gateway", "tests", "profiles", "scripts", "bench") for path in (ROOT / folder).rglob("*") if path.is_file()]
    found = {case for path in files if path.suffix in (".py", ".json", ".toml", ".html", "") for case in _cases(path.read_text("utf-8"))}
    assert len(found) > 200
    assert found - listed == set()


@pytest.mark.parametrize(
    ("found", "code", "lines"),
    [
        ({"one": {"t": "passed"}, "two": {"t": "passed", "u": "passed"}}, 0, ["2 cases, 0 without a test that passes"]),
        ({"one": {"t": "passed"}}, 1, ["two NO TEST 0 second", "2 cases, 1 without a test that passes"]),
        ({"one": {"t": "passed"}, "two": {"t": "skipped"}}, 1, ["two NO TEST 1 second", "2 cases, 1 without a test that passes"]),
        (
            {"one": {"t": "passed", "u": "skipped"}, "two": {"t": "passed", "u": "failed"}},
            1,
            ["two FAILED 2 second", "failed u", "2 cases, 1 without a test that passes"],
        ),
    ],
)
def test_a_case_without_a_test_that_passes_fails_the_whole_run(tmp_path, capsys, monkeypatch, found, code, lines):
    """`scripts/test` ends with this: only what is lacking is shown."""
    loader = SourceFileLoader("scripts_cases", str(ROOT / "scripts" / "cases"))
    spec = spec_from_loader("scripts_cases", loader)
    assert spec is not None
    script = module_from_spec(spec)
    loader.exec_module(script)
    last = tmp_path / "cases.json"
    last.write_text(json.dumps(found))
    monkeypatch.setattr(script, "LAST", last)
    monkeypatch.setattr(script, "listed", lambda: {"one": "first", "two": "second"})
    assert script.main(["--short"]) == code
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == lines


def test_the_whole_run_ends_with_it(monkeypatch):
    """Where all was run and nothing left out; a selection says nothing of the rest."""
    asked = list[bool]()
    monkeypatch.setattr(run, "start", lambda name, _: name)
    monkeypatch.setattr(run, "run", lambda *_: 0)
    monkeypatch.setattr(run, "traced", lambda: asked.append(True) or 1)
    codes = []
    for arguments in ([], ["-k", "x"], ["--without", "hapi"]):
        monkeypatch.setattr(sys, "argv", ["test", *arguments])
        codes.append(run.main())
    assert (codes, asked) == ([1, 0, 0], [True])


def _cases(text: str) -> set[str]:
    return {case for case in named(text) if not case.startswith("A") or "-" in case}


def test_lists_and_ranges_are_understood():
    """What a docstring says in short counts for each."""
    text = "ATK-O5, O7 and F1 (HL7@348-350, 77), A2.14. FAULT-U1; AUTHLIB-E2, A9.51 and A12.69-71, HL7@15."
    expected = "ATK-O5 ATK-O7 ATK-F1 HL7@348 HL7@349 HL7@350 HL7@77 A2.14 FAULT-U1 AUTHLIB-E2 A9.51 A12.69 A12.70 A12.71 HL7@15"
    assert named(text) == set(expected.split())
