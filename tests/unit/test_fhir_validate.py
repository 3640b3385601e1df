"""gateway.fhir.validate: what callers write is refused only where it is surely wrong."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Unprocessable
from gateway.fhir.codes import CODES
from gateway.fhir.names import RESOURCE_TYPES
from gateway.fhir.outcome import SENTENCES
from gateway.fhir.validate import MAX_ISSUES, Issue, check, require

GOOD = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "_effectiveDateTime": {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]},
    "code": {"text": "x\ty\nz"},
    "subject": {"reference": "Patient/A"},
    "performer": [{"reference": "urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"}, {"reference": "http://x/fhir/Practitioner/1"}, {"reference": "#p"}],
    "focus": [{"reference": "Patient?identifier=x"}, {"identifier": {"value": "1"}}],
    "contained": [{"resourceType": "Practitioner", "id": "p", "name": [{"given": ["A", None], "_given": [None, {"id": "g"}]}]}],
}


def test_a_good_resource_has_no_issues() -> None:
    """Extensions in place of values, nulls that keep a place, and every form of reference that R4 has."""
    before = copy.deepcopy(GOOD)
    assert check(GOOD) == []
    require(GOOD)
    assert before == GOOD


WRONG = {
    "empty string": ({"issued": ""}, "structure", "Observation.issued"),
    "empty list": ({"note": []}, "structure", "Observation.note"),
    "empty object": ({"valueQuantity": {}}, "structure", "Observation.valueQuantity"),
    "null": ({"note": None}, "structure", "Observation.note"),
    "null in a list": ({"note": [None]}, "structure", "Observation.note[0]"),
    "list in a list": ({"note": [[{"text": "x"}]]}, "structure", "Observation.note[0]"),
    "deep inside": ({"component": [{"code": {"coding": [{"code": ""}]}}]}, "structure", "Observation.component[0].code.coding[0].code"),
    "a control character": ({"valueString": "a\x00b"}, "value", "Observation.valueString"),
    "a wrong code": ({"status": "bogus"}, "code-invalid", "Observation.status"),
    "a code that is a number": ({"status": 1}, "code-invalid", "Observation.status"),
    "a code in the wrong case": ({"status": "Final"}, "code-invalid", "Observation.status"),
    "a bad id": ({"id": "a_b"}, "value", "Observation.id"),
    "an id that is a number": ({"id": 1}, "value", "Observation.id"),
    "ATK-F12 dots": ({"subject": {"reference": "Patient/A/../B"}}, "value", "Observation.subject.reference"),
    "ATK-F12 dots in a URL": ({"subject": {"reference": "http://x/fhir/Patient/A/../B"}}, "value", "Observation.subject.reference"),
    "ATK-F12 backslash": ({"subject": {"reference": "Patient/A\\..\\B"}}, "value", "Observation.subject.reference"),
    "ATK-F12 space": ({"subject": {"reference": "Patient/A B"}}, "value", "Observation.subject.reference"),
    "ATK-F12 compartment": ({"subject": {"reference": "Patient/A/Observation/1"}}, "value", "Observation.subject.reference"),
    "a reference that is none": ({"subject": {"reference": "nonsense"}}, "value", "Observation.subject.reference"),
    "an unknown type inside": ({"contained": [{"resourceType": "X"}]}, "structure", "Observation.contained[0].resourceType"),
    "dom-2": (
        {"contained": [{"resourceType": "Group", "contained": [{"resourceType": "Basic"}]}]},
        "invariant",
        "Observation.contained[0].contained",
    ),
}


@pytest.mark.parametrize(("change", "code", "place"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found(change, code, place) -> None:
    """With its place and a code of the required value set, and never with the value."""
    found = check({**GOOD, **change})
    assert (code, place) in [(issue.code, issue.expression) for issue in found]
    assert all(issue.code in SENTENCES and issue.message.endswith(".") for issue in found)


def test_a_code_that_decides_the_meaning_must_be_there() -> None:
    """Status and intent; other required elements are the EHR's to ask for (seen: HAPI takes them absent)."""
    assert [issue.expression for issue in check({"resourceType": "MedicationRequest"})] == ["MedicationRequest.intent", "MedicationRequest.status"]
    assert check({"resourceType": "Appointment", "status": "booked", "participant": [{"actor": {"reference": "Patient/A"}}]}) == []
    assert check({"resourceType": "Observation", "_status": {"extension": [{"url": "x", "valueCode": "unknown"}]}}) == []


def test_codes_are_looked_at_wherever_the_definition_has_them() -> None:
    """In lists and inside backbone elements."""
    appointment = {"resourceType": "Appointment", "status": "booked", "participant": [{"status": "accepted"}, {"status": "maybe"}]}
    assert check(appointment) == [Issue("code-invalid", "Appointment.participant[1].status", "status is none of the codes that R4 has for it.")]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": {"resourceType": "Task", "status": "x", "intent": "order"}}]}
    assert [issue.expression for issue in check(bundle)] == ["Bundle.entry[0].resource.status"]


def test_a_refusal_holds_all_issues() -> None:
    """422, each issue an element for the outcome."""
    with pytest.raises(Unprocessable) as caught:
        require({**GOOD, "status": "bogus", "note": []})
    assert [issue["expression"] for issue in caught.value.issues] == [["Observation.status"], ["Observation.note"]]
    assert caught.value.issue_code == "code-invalid"


def test_there_is_an_end_to_the_list() -> None:
    """A resource with a thousand faults gets the first few."""
    assert len(check({**GOOD, "note": [None] * 1000})) == MAX_ISSUES


@pytest.mark.parametrize("resource", [{}, {"resourceType": "X"}, {"resourceType": 1}, {"resourceType": None}])
def test_what_says_no_type_is_no_resource(resource) -> None:
    """Nothing else can be said about it."""
    assert [issue.code for issue in check(resource)] == ["structure"]


def test_the_code_table_speaks_of_r4_types() -> None:
    """And of Observation.status just as R4 has it."""
    assert CODES.keys() <= RESOURCE_TYPES
    assert CODES["Observation"]["status!"].split() == [
        *("registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown")
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["final", "Patient/A", "Observation"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["status", "reference", "contained", "resourceType", "id", "participant", "x", "_x"]), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(
    st.sampled_from(sorted(RESOURCE_TYPES)),
    st.dictionaries(st.sampled_from(["status", "contained", "participant", "subject", "id"]), VALUES, max_size=4),
)
def test_any_resource_can_be_checked(kind, members) -> None:
    """Whatever the shape, the answer is a list of issues."""
    assert all(isinstance(issue, Issue) for issue in check({"resourceType": kind, **members}))
