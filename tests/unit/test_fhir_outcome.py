"""gateway.fhir.outcome: our errors as OperationOutcomes, and what may be shown of an EHR's."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime

import pytest
from fhir.resources.R4B.operationoutcome import OperationOutcome
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.errors import (
    BadRequest,
    Conflict,
    FhirError,
    Forbidden,
    NotFound,
    PreconditionFailed,
    Throttled,
    Unavailable,
    Unprocessable,
    UpstreamFault,
)
from gateway.fhir.outcome import SENTENCES, SEVERITIES, from_upstream, outcome, pause

SECRET = "Jane Roe, MRN 12345, at http://10.0.0.7:8080/fhir (java.lang.NullPointerException)"
UPSTREAM = {
    "resourceType": "OperationOutcome",
    "text": {"status": "generated", "div": f"<div>{SECRET}</div>"},
    "issue": [
        {
            "severity": "error",
            "code": "code-invalid",
            "details": {
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/operation-outcome", "code": "MSG_BAD_FORMAT", "display": "Bad"}],
                "text": SECRET,
            },
            "diagnostics": SECRET,
            "expression": ["Observation.status", f"Patient.where(name='{SECRET}')"],
            "location": ["Line[1] Col[2]", "/f:Observation/f:status", "http://10.0.0.7:8080/fhir/Patient/1"],
        },
        {"severity": "warning", "code": "made-up", "diagnostics": SECRET},
    ],
}


def _all_errors() -> list[type[FhirError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FhirError)]


@pytest.mark.parametrize("kind", _all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_becomes_a_valid_outcome(kind) -> None:
    """G3: one sentence, a code of the required value set, the request id in diagnostics."""
    made = json.loads(outcome(kind(), "r1"))
    assert OperationOutcome.model_validate(made)
    assert made["issue"][0]["code"] in SENTENCES
    assert made["issue"][0]["diagnostics"] == "request r1"
    assert made["issue"][0]["details"]["text"] == kind().message


def test_an_error_says_where() -> None:
    """The expression of a refusal is the outcome's."""
    made = json.loads(outcome(BadRequest("No.", expression="Observation.status", code="value"), "r1"))
    assert made["issue"] == [
        {"severity": "error", "code": "value", "details": {"text": "No."}, "expression": ["Observation.status"], "diagnostics": "request r1"}
    ]


def test_an_unknown_code_becomes_a_known_one() -> None:
    """The binding is required."""
    assert json.loads(outcome(BadRequest(code="whatever"), "r1"))["issue"][0]["code"] == "processing"


def test_what_an_ehr_says_is_translated() -> None:
    """Severity, code, places and codings stay; its own words go to the event log (promise 1)."""
    translated = from_upstream(json.dumps(UPSTREAM).encode(), 422)
    error = translated.error()
    text = outcome(error, "r1").decode()
    made = json.loads(text)
    assert isinstance(error, Unprocessable)
    assert OperationOutcome.model_validate(made)
    assert made["issue"][0] == {
        "severity": "error",
        "code": "code-invalid",
        "details": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/operation-outcome", "code": "MSG_BAD_FORMAT", "display": "Bad"}],
            "text": SENTENCES["code-invalid"],
        },
        "location": ["Line[1] Col[2]", "/f:Observation/f:status"],
        "expression": ["Observation.status"],
        "diagnostics": "request r1",
    }
    assert (made["issue"][1]["severity"], made["issue"][1]["code"]) == ("warning", "processing")
    assert not any(word in text for word in ("Jane", "MRN", "10.0.0.7", "java"))
    assert SECRET in translated.hidden


def test_codings_that_name_the_software_or_the_host_are_left_out() -> None:
    """The EHR's software and host never show; the display of an unpublished system is the EHR's own word."""
    codings = [
        {"system": "https://hapifhir.io/fhir/CodeSystem/hapi-fhir-storage-response-code", "code": "SUCCESSFUL_CREATE"},
        {"system": "http://10.0.0.7:8080/fhir/CodeSystem/x", "code": "a"},
        {"system": "urn:oid:1.2.3", "code": "b", "display": SECRET},
        {"system": "urn:oid:1.2.3"},
        {"code": " "},
        "x",
    ]
    body = json.dumps(
        {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid", "details": {"coding": codings}}]}
    ).encode()
    shown = from_upstream(body, 400, bases=("http://other:1/fhir", "http://10.0.0.7:8080/fhir")).issues[0]["details"]["coding"]
    assert shown == [{"system": "urn:oid:1.2.3", "code": "b"}]


STATUSES = [
    (400, BadRequest, 400),
    (401, UpstreamFault, 502),
    (403, Forbidden, 403),
    (404, NotFound, 404),
    (405, errors.MethodNotAllowed, 405),
    (406, UpstreamFault, 502),
    (409, Conflict, 409),
    (410, NotFound, 404),
    (412, PreconditionFailed, 412),
    (413, errors.TooLarge, 413),
    (415, UpstreamFault, 502),
    (418, BadRequest, 400),
    (422, Unprocessable, 422),
    (429, Throttled, 429),
    (500, UpstreamFault, 502),
    (501, errors.NotSupported, 501),
    (502, UpstreamFault, 502),
    (503, Unavailable, 503),
    (504, errors.UpstreamTimeout, 504),
    (302, UpstreamFault, 502),
    (200, UpstreamFault, 502),
]


@pytest.mark.parametrize(("status", "kind", "ours"), STATUSES)
@pytest.mark.parametrize("body", [b"", json.dumps(UPSTREAM).encode(), b"<html>login</html>"])
def test_each_status_has_its_error(status, kind, ours, body) -> None:
    """FAULT-U4, U5, U15, U18, U21 to U23."""
    error = from_upstream(body, status).error()
    assert (type(error), error.status, error.reason) == (kind, ours, f"ehr-{status}")
    made = json.loads(outcome(error, "r"))
    assert OperationOutcome.model_validate(made)
    assert any(issue["severity"] in ("error", "fatal") for issue in made["issue"])


def test_absent_deleted_and_foreign_look_alike() -> None:
    """ATK-F1: nothing of what the EHR says about an absent or a deleted resource passes."""
    gone = from_upstream(json.dumps(UPSTREAM).encode(), 410).error()
    absent = from_upstream(b"", 404).error()
    assert outcome(gone, "r") == outcome(absent, "r") == outcome(NotFound(), "r")


def test_a_code_that_says_nothing_is_made_clear_by_the_status() -> None:
    """HAPI says `processing` for everything; a stale version is a conflict all the same."""
    body = b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"processing","diagnostics":"HAPI-0989"}]}'
    made = json.loads(outcome(from_upstream(body, 412).error(), "r"))
    assert made["issue"] == [{"severity": "error", "code": "conflict", "details": {"text": PreconditionFailed().message}, "diagnostics": "request r"}]
    assert from_upstream(body, 400).error().issue_code == "processing"


def test_an_outcome_without_an_error_still_is_one() -> None:
    """An EHR that refuses with a remark only."""
    body = b'{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational"}]}'
    assert from_upstream(body, 400).issues[0]["severity"] == "error"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("100000", 300),
        ("9" * 5000, 300),
        ("Tue, 24 Nov 2026 10:00:30 GMT", 30),
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0),
        ("Tue, 24 Nov 2036 09:00:00 GMT", 300),
        ("soon", None),
        ("-5", None),
        ("\u0667", None),
        ("", None),
    ],
)
def test_pauses_are_passed_on_within_bounds(header, seconds) -> None:
    """FAULT-U5, U6: seconds or a date, at most 300 s."""
    assert pause(header, now=datetime(2026, 11, 24, 10, tzinfo=UTC)) == seconds


def test_a_pause_is_always_said_where_one_is_asked_for() -> None:
    """429 and 503 carry Retry-After even when the EHR's did not."""
    assert from_upstream(b"", 429).error(retry_after="20").retry_after == 20
    assert from_upstream(b"", 503).error().retry_after == 1
    assert from_upstream(b"", 500).error(retry_after="20").retry_after == 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(["error", "invalid", "http://x", "Patient.name"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["severity", "code", "details", "coding", "system", "text", "diagnostics", "location", "expression"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@given(JSON, st.integers(100, 599))
def test_any_outcome_is_translated_into_a_valid_one(issues, status) -> None:
    """Whatever an EHR sends as issues, the answer holds only codes of the required value sets and is a valid resource."""
    translated = from_upstream(json.dumps({"resourceType": "OperationOutcome", "issue": issues}).encode(), status)
    made = json.loads(outcome(translated.error(), "r"))
    assert OperationOutcome.model_validate(made)
    assert all(issue["severity"] in SEVERITIES and issue["code"] in SENTENCES for issue in made["issue"])


@given(st.binary(max_size=300), st.integers(100, 599))
def test_any_body_is_translated(body, status) -> None:
    """And its bytes never reach the answer."""
    translated = from_upstream(body, status)
    assert json.loads(outcome(translated.error(), "r"))["resourceType"] == "OperationOutcome"
    assert len(translated.hidden) <= 8000
