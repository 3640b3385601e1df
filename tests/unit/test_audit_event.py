"""gateway.audit.to_fhir: what one patient may read of a record that may be about several."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest

from gateway.audit import AuditRecord, to_fhir


def searched(type_: str, query: str, *patients: str) -> AuditRecord:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return AuditRecord("0" * 32, moment, "r", "ehr", "search-type", "0", 200, principal="user", type=type_, query=query, patients=patients)


def told(record: AuditRecord, patient: str = "A") -> tuple[str, list[str]]:
    """The search that the event tells, and the types that it names."""
    entities = to_fhir(record, patient, observer="us")["entity"]
    queries = [base64.b64decode(one["query"]).decode() for one in entities if "query" in one]
    return "".join(queries), [one["what"]["type"] for one in entities if "type" in one.get("what", {})]


@pytest.mark.parametrize(
    ("type_", "query"),
    [("Observation", "code=1&patient=Patient/A"), ("Provenance", "patient=Patient/A"), ("Patient", "_id=A"), ("Patient", "_id=A&name=Ann")],
)
def test_a_search_in_her_record_alone_is_told(type_, query) -> None:
    """She sees what was looked for."""
    assert told(searched(type_, query, "A")) == (f"{type_}?{query}", [])


@pytest.mark.parametrize(
    ("type_", "query", "patients"),
    [
        ("Observation", "code=1&patient=Patient/A,Patient/B", ("A", "B")),
        ("Patient", "_id=A,B&name=Ann", ("A", "B")),
        ("Patient", "_id=A,B&name=Ann", ("A",)),
        ("Observation", "patient=Patient/A,Patient/B", ("A",)),
        ("Observation", "patient=A,B", ("A",)),
        ("Observation", "patient=Patient/A&performer=Patient/B", ("A",)),
        ("Patient", "identifier=urn:mrn|B,urn:mrn|A", ("A",)),
        ("Patient", "birthdate=1980-02-02", ("A",)),
    ],
)
def test_a_search_that_was_about_others_too_is_not(type_, query, patients) -> None:
    """Promise 1: her record of accesses says that her data of this type were searched, and nothing of whom else they looked for."""
    record = searched(type_, query, *patients)
    assert told(record) == ("", [type_])
    assert "B" not in json.dumps(to_fhir(record, "A", observer="us"))
