"""gateway.fhir.response: what an EHR says about a transaction, without its own words."""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamFault
from gateway.fhir.outcome import SENTENCES
from gateway.fhir.response import shown

TALK = {
    "resourceType": "OperationOutcome",
    "text": {"status": "generated", "div": "<div>HAPI</div>"},
    "issue": [
        {
            "severity": "information",
            "code": "informational",
            "diagnostics": "HAPI: took 7ms for Jane Roe",
            "details": {"coding": [{"system": "https://hapifhir.io/fhir/CodeSystem/hapi-fhir-storage-response-code", "code": "SUCCESSFUL_CREATE"}]},
        }
    ],
}
REFUSED = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invariant", "diagnostics": "HAPI: Jane Roe"}]}
RESOURCE = b'{ "resourceType":"Observation","id":"o1","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.10} }'


def _bundle(*entries: bytes, kind: str = "transaction-response") -> bytes:
    return b'{"resourceType":"Bundle","id":"x","link":[{"relation":"self","url":"http://up/fhir"}],"type":"%b","entry":[%b]}' % (
        kind.encode(),
        b",".join(entries),
    )


def test_a_response_is_shown_without_the_ehrs_words() -> None:
    """Status, location, version and the resource's bytes stay; remarks on a success go, and the words of a refusal."""
    talk, refused = json.dumps(TALK).encode(), json.dumps(REFUSED).encode()
    data = _bundle(
        b'{"response":{"status":"201 Created","location":"Observation/o1/_history/1","etag":"1","lastModified":"2026-11-24T10:00:00Z","outcome":%b}}'
        % talk,
        b'{"resource":%b,"response":{"status":"200"}}' % RESOURCE,
        b'{"resource":%b,"response":{"status":"200 OK"}}' % talk,
        b'{"response":{"status":"422","outcome":%b}}' % refused,
    )
    found = shown(data)
    made = json.loads(found.body)
    assert Bundle.model_validate(made)
    assert [entry["response"]["status"] for entry in made["entry"]] == ["201", "200", "200", "422"]
    assert RESOURCE in found.body
    assert made["entry"][0] == {
        "response": {"status": "201", "location": "Observation/o1/_history/1", "etag": "1", "lastModified": "2026-11-24T10:00:00Z"}
    }
    assert made["entry"][2] == {"response": {"status": "200"}}
    assert made["entry"][3]["response"]["outcome"]["issue"] == [
        {"severity": "error", "code": "invariant", "details": {"text": SENTENCES["invariant"]}}
    ]
    assert "HAPI" not in json.dumps(made)
    assert "hapi" not in json.dumps(made)
    assert "http://up" not in json.dumps(made)
    assert "Jane Roe" in found.hidden


def test_an_empty_response_has_no_empty_list() -> None:
    """R4 allows none."""
    assert json.loads(shown(_bundle()).body) == {"resourceType": "Bundle", "type": "transaction-response"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        json.dumps(TALK).encode(),
        _bundle(kind="searchset"),
        _bundle(b"{}"),
        _bundle(b'{"response":{}}'),
        _bundle(b'{"response":{"status":"fine"}}'),
        _bundle(b'{"response":{"status":200}}'),
        _bundle(b'{"resource":[],"response":{"status":"200"}}'),
    ],
)
def test_what_is_no_response_is_the_ehrs_fault(data) -> None:
    """FAULT-U13, U24: whether entries were done cannot be told."""
    with pytest.raises(UpstreamFault):
        shown(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_shown_or_refused(data) -> None:
    """Nothing else is raised."""
    try:
        found = shown(data)
    except UpstreamFault:
        return
    assert json.loads(found.body)["resourceType"] == "Bundle"
