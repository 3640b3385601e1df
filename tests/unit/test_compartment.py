"""Whose is this resource? ATK-F25, and the decisions of profiles/fhir/compartment-decisions.json."""

from __future__ import annotations

import pytest

from gateway.fhir.compartment import Inside, NeedsOwners, Outside, Shared, at, local, matches, membership, patients_of
from gateway.shipped import tables

EHR = "http://ehr.test/fhir"
A, B = {"reference": "Patient/A"}, {"reference": "Patient/B"}


def relative(url: str) -> str | None:
    return url.removeprefix(EHR + "/") if url.startswith(EHR + "/") else None


def whose(resource: dict, *patients: str):
    return membership(resource, frozenset(patients), tables().compartment[resource["resourceType"]], relative)


INSIDE = [
    {"resourceType": "Patient", "id": "A"},
    {"resourceType": "Observation", "subject": A},
    {"resourceType": "Observation", "subject": {"reference": f"{EHR}/Patient/A"}},
    {"resourceType": "Observation", "subject": {"reference": "Patient/A/_history/3"}},
    {"resourceType": "Observation", "performer": [A]},
    {"resourceType": "Observation", "subject": {"reference": "Group/g"}, "performer": [A]},
    {"resourceType": "Appointment", "participant": [{"actor": B}, {"actor": A}]},
    {"resourceType": "Task", "for": A, "owner": {"reference": "Organization/o"}},
    {"resourceType": "Device", "patient": A},
    {"resourceType": "Coverage", "beneficiary": A, "policyHolder": B},
    {"resourceType": "Communication", "subject": A, "sender": B},
    {"resourceType": "RelatedPerson", "patient": A},
]


@pytest.mark.parametrize("resource", INSIDE, ids=lambda r: r["resourceType"])
def test_own_resources_are_inside(resource):
    """A resource that is A's passes whole, whatever else it names."""
    assert whose(resource, "A") == Inside(frozenset({"A"}))


OUTSIDE = [
    {"resourceType": "Patient", "id": "B", "link": [{"other": A}]},
    {"resourceType": "Observation", "subject": B, "performer": [A]},
    {"resourceType": "Observation", "subject": B, "focus": [A]},
    {"resourceType": "Observation", "focus": [A]},
    {"resourceType": "Condition", "subject": B, "asserter": A},
    {"resourceType": "Observation", "subject": {"reference": "http://other.test/fhir/Patient/A"}, "performer": [A]},
    {"resourceType": "Observation", "subject": {"reference": f"{EHR}-other/Patient/A"}},
    {"resourceType": "Observation", "subject": {"identifier": {"value": "A"}}, "performer": [A]},
    {"resourceType": "Observation", "subject": {"reference": "#A"}, "performer": [A], "contained": [{"resourceType": "Patient", "id": "A"}]},
    {"resourceType": "Observation", "subject": "Patient/A"},
    {"resourceType": "Observation", "subject": [A, B]},
    {"resourceType": "Observation", "subject": {"reference": "Patient/A/../B"}},
    {"resourceType": "Observation", "subject": {"reference": "Patient/a"}},
    {"resourceType": "Task", "for": B, "requester": A},
    {"resourceType": "Device"},
    {"resourceType": "Coverage", "beneficiary": B, "payor": [A]},
    {"resourceType": "Communication", "subject": B, "recipient": [A]},
    {"resourceType": "Group", "member": [{"entity": A}]},
    {"resourceType": "List", "subject": A},
    {"resourceType": "Person", "link": [{"target": A}]},
    {"resourceType": "Slot"},
    {"resourceType": "Binary", "id": "b"},
    {"resourceType": "AuditEvent", "entity": [{"what": A}]},
]


@pytest.mark.parametrize("resource", OUTSIDE, ids=lambda r: r["resourceType"])
def test_what_only_names_her_is_outside(resource):
    """ATK-F25: naming A elsewhere does not make B's resource hers; what cannot be read as a reference is nobody's."""
    assert whose(resource, "A") == Outside()


def test_joint_resources_belong_to_each_that_is_within_reach():
    """A joint Appointment is each participant's, and only those asked about are named."""
    joint = {"resourceType": "Appointment", "participant": [{"actor": A}, {"actor": B}]}
    assert whose(joint, "A", "B", "C") == Inside(frozenset({"A", "B"}))
    assert whose(joint, "C") == Outside()


def test_provenance_asks_for_all_its_targets():
    """It may be seen when every target may; a target that cannot be judged closes it."""
    row = {"resourceType": "Provenance", "target": [{"reference": "Observation/o1"}, A]}
    assert whose(row, "A") == NeedsOwners(("Observation/o1", "Patient/A"))
    assert whose({**row, "target": [{"reference": "http://other.test/Observation/o1"}]}, "A") == Outside()
    assert whose({"resourceType": "Provenance"}, "A") == Outside()


def test_shared_types_are_everyones():
    """Practitioner, Organization, Location, Medication: readable with the type's scope."""
    assert whose({"resourceType": "Practitioner", "id": "p"}, "A") == Shared()


def test_patients_of_finds_everyone_a_write_concerns():
    """Cache generations end for each patient that the elements name."""
    row = tables().compartment["Appointment"]
    assert patients_of({"resourceType": "Appointment", "participant": [{"actor": A}, {"actor": B}]}, row, relative) == {"A", "B"}
    assert patients_of({"resourceType": "Patient", "id": "A"}, tables().compartment["Patient"], relative) == {"A"}


def test_paths_flatten_arrays():
    """FHIR JSON repeats by arrays at any depth."""
    assert list(at({"a": [{"b": [1, 2]}, {"b": 3}, {}]}, "a.b")) == [1, 2, 3]
    assert list(at({}, "a.b")) == []


def test_local_references_only():
    """Relative or below the EHR's base; never contained, logical or foreign."""
    assert local({"reference": "Patient/A"}, relative) == ("Patient", "A")
    assert local({"reference": "urn:uuid:1"}, relative) is None
    assert local({"reference": "patient/A"}, relative) is None
    assert local({"reference": "Patient/A?x=1"}, relative) is None
    assert local(None, relative) is None


LAB = "http://terminology.hl7.org/CodeSystem/observation-category"


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("category", f"{LAB}|laboratory"), True),
        (("category", "laboratory"), True),
        (("category", f"{LAB}|"), True),
        (("category", f"x|laboratory,{LAB}|laboratory"), True),
        (("category", "|laboratory"), False),
        (("category", f"{LAB}|vital-signs"), False),
        (("category", "Laboratory"), False),
        (("status", "final"), True),
        (("status", "http://hl7.org/fhir/observation-status|final"), True),
        (("category:in", "x"), None),
        (("subject", "Patient/A"), None),
        (("nonsense", "x"), None),
    ],
)
def test_granular_conditions(pair, expected):
    """`?category=system|code` is judged on the resource itself; what cannot be judged is never taken for true (peers' fault 7)."""
    resource = {"resourceType": "Observation", "status": "final", "category": [{"coding": [{"system": LAB, "code": "laboratory"}]}]}
    assert matches(resource, (pair,), tables()) is expected
