"""What a patient, a user and a system may write (profiles/fhir/writes.json): scopes are never enough."""

from __future__ import annotations

import copy

import pytest

from gateway.shipped import tables
from gateway.smart.principal import Principal, PrincipalKind
from gateway.smart.write_rules import check_create, check_delete, check_update

PATIENT = Principal(PrincipalKind.PATIENT, "ehr", "app", (), patient="A", fhir_user="Patient/A")
DOCTOR = Principal(PrincipalKind.USER, "ehr", "app", (), patient="A", fhir_user="Practitioner/7")
SYSTEM = Principal(PrincipalKind.SYSTEM, "ehr", "lab", ())
A, B = {"reference": "Patient/A"}, {"reference": "Patient/B"}


def relative(url: str) -> str | None:
    return None


MESSAGE = {"resourceType": "Communication", "status": "in-progress", "subject": A, "sender": A, "payload": [{"contentString": "hello"}]}
APPOINTMENT = {"resourceType": "Appointment", "status": "proposed", "participant": [{"actor": A, "status": "accepted"}]}
TASK = {"resourceType": "Task", "status": "requested", "intent": "order", "for": A, "requester": A}
DRAFT = {"resourceType": "MedicationRequest", "intent": "proposal", "status": "draft", "subject": A, "requester": A}
MEASURED = {"resourceType": "Observation", "status": "final", "subject": A, "performer": [A]}


@pytest.mark.parametrize("resource", [MESSAGE, APPOINTMENT, TASK, DRAFT, MEASURED], ids=lambda r: r["resourceType"])
def test_a_patient_may_ask(resource):
    """A request, a proposal, a message, a measurement of her own."""
    assert check_create(PATIENT, resource, tables(), relative) is None


FORBIDDEN = [
    MESSAGE | {"sender": B},
    MESSAGE | {"sender": {"reference": "Practitioner/7"}},
    MESSAGE | {"status": "completed"},
    MESSAGE | {"meta": {"security": [{"code": "R"}]}},
    APPOINTMENT | {"status": "booked"},
    APPOINTMENT | {"participant": [{"actor": B}]},
    TASK | {"status": "completed"},
    TASK | {"requester": {"reference": "Practitioner/7"}},
    TASK | {"for": B},
    DRAFT | {"intent": "order", "status": "active"},
    DRAFT | {"status": "active"},
    MEASURED | {"performer": [{"reference": "Practitioner/7"}]},
    {k: v for k, v in MEASURED.items() if k != "performer"},
    MEASURED | {"status": ["final", "amended"]},
    {"resourceType": "Condition", "subject": A},
    {"resourceType": "Patient", "id": "A"},
    {"resourceType": "Claim", "patient": A},
]


@pytest.mark.parametrize("resource", FORBIDDEN, ids=lambda r: r["resourceType"])
def test_a_patient_may_not_act_as_the_clinic(resource):
    """patient/MedicationRequest.c must not become an active order, nor a message from someone else."""
    refusal = check_create(PATIENT, resource, tables(), relative)
    assert refusal is not None
    assert refusal.status == 403


def test_staff_and_systems_write_by_scope():
    """The table has one row for each; the never list binds staff too."""
    condition = {"resourceType": "Condition", "subject": A}
    assert check_create(DOCTOR, condition, tables(), relative) is None
    assert check_create(SYSTEM, condition, tables(), relative) is None
    labelled = condition | {"meta": {"security": [{"code": "R"}]}}
    assert check_create(DOCTOR, labelled, tables(), relative).reason == "member-not-writable"
    assert check_create(SYSTEM, labelled, tables(), relative) is None
    assert check_update(
        DOCTOR, {"resourceType": "Patient", "id": "A"}, {"resourceType": "Patient", "id": "A", "link": [{"other": B}]}, tables(), relative
    )


BOOKED = {
    "resourceType": "Appointment",
    "status": "booked",
    "start": "2026-12-01T09:00:00Z",
    "participant": [{"actor": A, "status": "accepted"}, {"actor": B, "status": "accepted"}],
}


def changed(**members):
    return copy.deepcopy(BOOKED) | members


def test_a_patient_cancels_her_own_visit():
    """Status, reason and her own participation change; nothing else does."""
    declined = [{"actor": A, "status": "declined"}, {"actor": B, "status": "accepted"}]
    assert check_update(PATIENT, BOOKED, changed(status="cancelled"), tables(), relative) is None
    assert (
        check_update(PATIENT, BOOKED, changed(status="cancelled", participant=declined, cancelationReason={"text": "x"}), tables(), relative) is None
    )
    assert check_update(PATIENT, BOOKED, changed(status="cancelled", meta={"versionId": "7"}), tables(), relative) is None


@pytest.mark.parametrize(
    "result",
    [
        changed(status="fulfilled"),
        changed(status="booked", start="2027-01-01T09:00:00Z"),
        changed(status="cancelled", start="2027-01-01T09:00:00Z"),
        changed(status="cancelled", participant=[{"actor": A, "status": "declined"}]),
        changed(status="cancelled", participant=[{"actor": A, "status": "accepted"}, {"actor": B, "status": "declined"}]),
        changed(status="cancelled", meta={"tag": [{"code": "x"}]}),
        changed(status="proposed"),
    ],
)
def test_a_cancellation_is_only_that(result):
    """Every other change is refused."""
    assert check_update(PATIENT, BOOKED, result, tables(), relative).reason == "update-not-in-table"


def test_nobody_edits_what_somebody_else_wrote():
    """A message of the clinic in A's record is not A's to change."""
    theirs = MESSAGE | {"sender": {"reference": "Practitioner/7"}}
    assert check_update(PATIENT, theirs, theirs | {"status": "entered-in-error"}, tables(), relative) is not None
    assert check_update(PATIENT, MESSAGE, MESSAGE | {"status": "entered-in-error"}, tables(), relative) is None
    assert check_update(PATIENT, MESSAGE, MESSAGE | {"payload": [{"contentString": "other"}]}, tables(), relative) is not None


FORM = {"resourceType": "QuestionnaireResponse", "status": "in-progress", "subject": A, "author": A}
THROWN_AWAY = [(PATIENT, MESSAGE | {"status": "preparation"}), (PATIENT, FORM), (DOCTOR, MEASURED | {"status": "entered-in-error"}), (DOCTOR, DRAFT)]
KEPT = [
    (PATIENT, MESSAGE),
    (PATIENT, MESSAGE | {"status": "entered-in-error"}),
    (PATIENT, MESSAGE | {"status": "preparation", "sender": {"reference": "Practitioner/7"}}),
    (PATIENT, FORM | {"status": "completed"}),
    (PATIENT, APPOINTMENT),
    (PATIENT, MEASURED),
    (PATIENT, {"resourceType": "Patient", "id": "A"}),
    (DOCTOR, MEASURED),
    (DOCTOR, {"resourceType": "Condition", "subject": A}),
    (DOCTOR, {"resourceType": "Patient", "id": "A"}),
    (SYSTEM, MEASURED | {"status": "entered-in-error"}),
]


@pytest.mark.parametrize(("who", "stored"), THROWN_AWAY, ids=str)
def test_what_was_never_in_force_may_be_deleted(who, stored):
    """A draft of one's own; and, by staff, a draft or what is marked as an error."""
    assert check_delete(who, stored, tables(), relative) is None


@pytest.mark.parametrize(("who", "stored"), KEPT, ids=str)
def test_what_somebody_may_have_acted_on_stays(who, stored):
    """It is marked instead; a type without a status is never deleted, a person's record least of all; a system withdraws by an update."""
    assert check_delete(who, stored, tables(), relative).reason == "delete-not-in-table"
