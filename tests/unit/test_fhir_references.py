"""gateway.fhir.references: every Reference of a resource, and nothing that only looks like one."""

from __future__ import annotations

import pytest

from gateway.fhir.references import Ref, relative_reference, split, walk

BASE = "http://up/fhir"


def relative(url: str) -> str | None:
    return url.removeprefix(BASE + "/") if url.startswith(BASE + "/") else None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Patient/A", ("", "Patient", "A", "")),
        ("Patient/A/_history/2", ("", "Patient", "A", "2")),
        (f"{BASE}/Patient/A", (BASE, "Patient", "A", "")),
        (f"{BASE}/Patient/A/_history/2", (BASE, "Patient", "A", "2")),
        ("http://x/Patient/fhir/Patient/A", ("http://x/Patient/fhir", "Patient", "A", "")),
    ],
)
def test_literal_references_are_taken_apart(text, parts) -> None:
    """references.html#literal."""
    assert split(text) == parts


NOT_LITERAL = {
    "ATK-F12 path": "Patient/A/../B",
    "ATK-F12 dots": "Patient/..",
    "ATK-F12 query": "Patient?identifier=B",
    "ATK-F12 query after an id": "Patient/A?x=B",
    "ATK-F12 fragment": "Patient/A#b",
    "ATK-F12 encoded": "Patient%2FB",
    "ATK-F12 leading slash": "/Patient/B",
    "ATK-F12 space": " Patient/B",
    "ATK-F12 line feed": "Patient/B\n",
    "ATK-F12 version without number": "Patient/B/_history/",
    "ATK-F12 deeper": "Patient/B/Observation/1",
    "contained": "#p",
    "urn": "urn:uuid:0",
    "unknown type": "Person2/1",
    "lower case": "patient/A",
    "letters beyond ASCII": "Patient/\u0391",
    "too long": "Patient/" + "a" * 65,
    "empty": "",
}


@pytest.mark.parametrize("text", NOT_LITERAL.values(), ids=NOT_LITERAL)
def test_everything_else_names_nobody(text) -> None:
    """What is not a plain reference cannot make a resource somebody's."""
    assert split(text) is None
    assert relative_reference(text, relative) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Patient/A", ("Patient", "A")),
        (f"{BASE}/Patient/A/_history/3", ("Patient", "A")),
        ("http://other/fhir/Patient/A", None),
        (f"{BASE}-other/Patient/A", None),
        (f"{BASE}/http://x/Patient/A", None),
    ],
)
def test_only_references_to_this_ehr_count(text, found) -> None:
    """ATK-F12, ATK-F13: a foreign host's Patient/A is not A."""
    assert relative_reference(text, relative) == found


def test_references_are_found_wherever_they_stand() -> None:
    """In backbone elements, lists, extensions, contained resources and the entries of a Bundle, with their places and in order."""
    resource = {
        "resourceType": "Observation",
        "subject": {"reference": "Patient/A", "type": "Patient"},
        "performer": [{"reference": "#p"}, {"reference": f"{BASE}/Practitioner/7/_history/2"}],
        "extension": [{"url": "x", "valueReference": {"reference": "Group/g"}}],
        "contained": [{"resourceType": "Practitioner", "id": "p", "extension": [{"url": "y", "valueReference": {"reference": "urn:uuid:1"}}]}],
    }
    found = list(walk({"resourceType": "Bundle", "entry": [{"fullUrl": f"{BASE}/Patient/Z", "resource": resource}]}))
    assert found == [
        Ref("Bundle.entry[0].resource.subject", "Patient/A", "Patient", "A", declared="Patient"),
        Ref("Bundle.entry[0].resource.performer[0]", "#p"),
        Ref("Bundle.entry[0].resource.performer[1]", f"{BASE}/Practitioner/7/_history/2", "Practitioner", "7", "2", BASE),
        Ref("Bundle.entry[0].resource.extension[0].valueReference", "Group/g", "Group", "g"),
        Ref("Bundle.entry[0].resource.contained[0].extension[0].valueReference", "urn:uuid:1"),
    ]
    assert [ref.contained for ref in found] == [False, True, False, False, False]


def test_logical_references_are_told() -> None:
    """ATK-F12: identifier only. An element that merely has an identifier is none."""
    found = list(
        walk({"resourceType": "Observation", "subject": {"identifier": {"value": "B"}, "type": "Patient"}, "x": {"identifier": {}, "value": 1}})
    )
    assert found == [Ref("Observation.subject", "", declared="Patient")]


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "DetectedIssue", "reference": "http://x/Patient/B"},
        {"resourceType": "Immunization", "education": [{"reference": "Patient/B"}]},
        {"resourceType": "PlanDefinition", "x": {"valueExpression": {"reference": "Patient/B"}}},
        {"resourceType": "Questionnaire", "url": "http://up/fhir/Patient/B", "derivedFrom": ["Patient/B"]},
        {"resourceType": "Patient", "identifier": [{"system": "http://up/fhir/Patient/B"}]},
        {"resourceType": "Claim", "related": [{"reference": {"value": "Patient/B"}}]},
        {"resourceType": "Observation", "valueString": "Patient/B"},
    ],
)
def test_canonicals_uris_and_systems_are_no_references(resource) -> None:
    """They name definitions, never records."""
    assert list(walk(resource)) == []


@pytest.mark.parametrize("said", ["Basic", "DetectedIssue", "Reference", "", 1])
def test_a_reference_that_calls_itself_a_resource_is_one_all_the_same(said) -> None:
    """ATK-F12, F24: HAPI reads over a `resourceType` within a Reference. Unseen here, it told which ids exist, and tied B to what A writes."""
    found = list(walk({"resourceType": "Communication", "recipient": [{"reference": "Patient/B", "resourceType": said, "id": "x"}]}))
    assert [(ref.path, ref.type, ref.id) for ref in found] == [("Communication.recipient[0]", "Patient", "B")]


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [1, [2]], {"reference": {"reference": 1}}])
def test_any_value_can_be_walked(value) -> None:
    """Values that are no resources have no references."""
    assert list(walk(value)) == []


def test_depth_costs_no_recursion() -> None:
    """An EHR's answer may be deep: walking it never ends in a RecursionError."""
    value: object = {"reference": "Patient/B"}
    for _ in range(5000):
        value = {"a": [value]}
    assert [ref.id for ref in walk({"resourceType": "Basic", "x": value})] == ["B"]
