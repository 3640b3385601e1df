"""What an EHR may hand on with a launch: every shape that SMART 2.2 allows, and those that it does not."""

from __future__ import annotations

import pytest

from gateway.smart.server.authorization.fhir_context import problem_of_items, problem_of_style, problem_of_text


@pytest.mark.parametrize(
    "item",
    [
        {"reference": "ImagingStudy/123"},
        {"reference": "ImagingStudy/123", "type": "ImagingStudy", "role": "launch"},
        {"canonical": "http://example.org/Questionnaire/phq9|2.1", "type": "Questionnaire"},
        {"identifier": {"system": "https://example.org/mrn", "value": "7"}, "type": "DiagnosticReport", "role": "https://example.org/role/x"},
        {"reference": "Patient/mother", "role": "https://example.org/role/mother"},
        {"reference": "Encounter/e2", "role": "urn:example:earlier"},
    ],
)
def test_contexts_of_the_specification_pass(item):
    """HL7@168-177: a reference, a canonical or an identifier, with type and role as one wants."""
    assert problem_of_items((item,)) == ""


@pytest.mark.parametrize(
    "items",
    [
        "Patient/1",
        {"reference": "ImagingStudy/1"},
        ("ImagingStudy/1",),
        ({},),
        ({"type": "ImagingStudy"},),
        ({"reference": "https://ehr.test/fhir/ImagingStudy/1"},),
        ({"reference": "ImagingStudy/1/.."},),
        ({"reference": "Nonsense/1"},),
        ({"reference": "#contained"},),
        ({"reference": ""},),
        ({"reference": 7},),
        ({"reference": "ImagingStudy/1", "type": "Observation"},),
        ({"reference": "ImagingStudy/1", "type": "Nonsense"},),
        ({"reference": "ImagingStudy/1", "role": ""},),
        ({"reference": "ImagingStudy/1", "role": "mother"},),
        ({"reference": "ImagingStudy/1", "access_token": "x"},),
        ({"canonical": "Questionnaire/1"},),
        ({"canonical": "http://example.org/q|"},),
        ({"canonical": "javascript:alert(1)"},),
        ({"identifier": "7"},),
        ({"identifier": {}},),
        ({"identifier": {"value": ""}},),
        ({"identifier": {"value": "7", "more": 1}},),
        ({"identifier": {"value": "7", "period": {"start": float("nan")}}},),
        ({"reference": "Patient/1"},),
        ({"reference": "Encounter/1", "role": "launch"},),
        ({"identifier": {"value": "7"}, "type": "Patient"},),
        ({"reference": "ImagingStudy/1"},) * 21,
    ],
)
def test_other_contexts_are_refused(items):
    """HL7@177: Patient and Encounter never with role "launch", which is also that of none. HL7@188: other roles are absolute URIs.

    Nothing that is not of SMART gets into an answer.
    """
    assert problem_of_items(items)


def test_texts_and_the_address_of_a_style():
    """HL7@194: an intent is a word, of which the gateway thinks nothing. A style can be fetched without credentials."""
    assert problem_of_text("reconcile-medications") == problem_of_style("https://ehr.test/style.json") == problem_of_style("") == ""
    assert problem_of_style("http://localhost:9/style.json") == ""
    for url in (
        "http://ehr.test/x",
        "https://u@ehr.test/x",
        "https://ehr.test/#x",
        "/style.json",
        "javascript:x",
        "https://ehr.test:x/",
        "https:///x",
    ):
        assert problem_of_style(url)
    for text in ("a\nb", " x", "x" * 256):
        assert problem_of_text(text)
