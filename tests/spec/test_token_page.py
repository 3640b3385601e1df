"""docs/what-a-token-can-do.md says the truth: each row of its table is asked of a gateway."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.sandbox.double import Double, served
from tests.support.whole_in_process import Whole, whole

PAGE = (Path(__file__).parents[2] / "docs" / "what-a-token-can-do.md").read_text("utf-8")
ROW = re.compile(r"^\| `([^`]+)` \| `([A-Z]+) ([^`]+)` \| (\d{3})( empty)? \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    double = Double()
    for who in ("hers", "other"):
        category = [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}]
        subject = {"subject": {"reference": f"Patient/{who}"}}
        double.seed(
            {"resourceType": "Patient", "id": who},
            {"resourceType": "Observation", "id": who, "status": "final", "code": {"text": "x"}, "category": category, **subject},
        )
    with served(double) as url:
        async with whole(url, tmp_path_factory.mktemp("gateway"), deliver=False) as running:
            yield running


def test_the_page_has_a_table():
    """HL7@139: it says what `Patient.link` does, too."""
    assert len(ROWS) > 20
    assert "`Patient.link` never opens another record" in PAGE


@pytest.mark.parametrize(("scope", "method", "path", "status", "empty"), ROWS, ids=[f"{row[0]} {row[1]} {row[2]}" for row in ROWS])
async def test_a_row(gateway: Whole, scope: str, method: str, path: str, status: str, empty: str):
    """The answer is the one that the page names."""
    who = {"patient": {"patient": "hers"}, "user": {"fhir_user": "Practitioner/p", "listed": ("hers",)}, "system": {}}
    level = scope.partition("/")[0]
    token = await gateway.token(scope, **who.get(level, {"patient": "hers"}))
    answer = await gateway.fhir(token, method, path)
    assert answer.status_code == int(status), answer.text
    if empty:
        assert "entry" not in answer.json()
    elif status == "200" and path == "Observation":
        assert [entry["resource"]["id"] for entry in answer.json()["entry"]] == ["hers"]
